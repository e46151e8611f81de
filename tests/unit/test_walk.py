"""The walk of one write through the twin (docs/ARCHITECTURE.md) is the one that a write takes."""

import re
import sys
from pathlib import Path
from types import FrameType

from harness.measure.traceability import resolve
from harness.trace.steps import AnyStep, Create, Disk, Load, Resume, TargetLine, Write
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

PAGE = Path(__file__).parents[2] / "docs" / "ARCHITECTURE.md"
WORLD: tuple[AnyStep, ...] = (
    Disk(name="base", sectors=256),
    Disk(name="cow", sectors=256),
    *(
        step
        for name, kind, args in (
            ("org", "snapshot-origin", "{base}"),
            ("snap", "snapshot", "{base} {cow} P 8"),
        )
        for step in (
            Create(name=name),
            Load(name=name, table=(TargetLine(0, 256, kind, args),)),
            Resume(name=name),
        )
    ),
)


def walk() -> list[str]:
    """The functions that the page names, in its order."""
    section = PAGE.read_text().partition("### One write to an origin")[2].partition("\n#")[0]
    return re.findall(r"`([a-z_.]+\.(?:[A-Z]\w+\.)?\w+)`", section.partition("Down, in")[2])


def name_of(function: str) -> str:
    """``module.Class.name`` of what the page names so; it has to exist."""
    found = re.fullmatch(r"([a-z_.]+?)\.((?:[A-Z]\w+\.)?\w+)", function)
    assert found
    module, name = found.groups()
    resolve(f"{module}:{name}")
    return f"harness.twin.{module}.{name}"


def called(backend: TwinBackend, step: AnyStep) -> list[str]:
    """Every call of a function of the twin while ``step`` is done, in order."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        seen = backend.execute(99, step)
    finally:
        sys.setprofile(before)
    assert seen.error is None
    return calls


def test_one_write_takes_the_walk_of_the_page() -> None:
    backend = TwinBackend(Profile())
    backend.begin(1)
    for index, step in enumerate(WORLD):
        assert backend.execute(index, step).error is None
    calls = iter(called(backend, Write(device="org", sector=8, sectors=8, generation=1)))
    named = [name_of(function) for function in walk()]
    assert len(named) > 20
    for function in named:
        assert function in calls, f"{function} is not called, or not in this order"
