"""A step that has no meaning is refused by both sides, in the same words."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from harness.errors import BadScenario
from harness.kernel import backend as kernel_side
from harness.kernel.disks.disks import Disks
from harness.kernel.drivers.driver import Info, Line
from harness.trace.backend import Backend
from harness.trace.steps import (
    REQUEST_SECTORS_MAX,
    AnyStep,
    Clear,
    Create,
    Discard,
    Disk,
    Fault,
    Flush,
    Heal,
    Image,
    Load,
    Message,
    Parallel,
    Parameter,
    Poke,
    Read,
    Remove,
    Rename,
    Resume,
    Status,
    Suspend,
    Table,
    TargetLine,
    Wait,
    Write,
    Zeroout,
)
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

WORLD: tuple[AnyStep, ...] = (
    Disk(name="base", sectors=64),
    Disk(name="frail", sectors=64, can_fail=True),
    Create(name="up"),
    Load(name="up", table=(TargetLine(0, 64, "zero", ""),)),
    Resume(name="up"),
    Create(name="down"),
    Load(name="down", table=(TargetLine(0, 64, "zero", ""),)),
    Suspend(name="down"),
)
LINES = (TargetLine(0, 64, "zero", ""),)
COMMAND = "base is a disk; device-mapper commands need a mapped device"
NOBODY = "there is no device named nobody; create it before it is used"
RESERVED = "a device cannot be called control; choose another name"
NO_FAULTS = "{} is not a disk that can fail; create it with can_fail"
NO_DISK = "there is no disk named {}; an image needs a disk"
TAKEN = "there is already a device named {}; choose another name"
POKE = "a poke of {} bytes, which is not a whole number of sectors"
RESUMES = "a parallel step resumes {}, which {}; suspend it before, and load nothing"
READ = Read(device="up", sector=0, sectors=8)

REFUSED: tuple[tuple[AnyStep, str], ...] = (
    *(
        (step, COMMAND)
        for step in (
            Create(name="base"),
            Load(name="base", table=LINES),
            Clear(name="base"),
            Resume(name="base"),
            Suspend(name="base"),
            Remove(name="base"),
            Load(name="base", table=(TargetLine(0, 64, "linear", "/dev/null 0"),)),
            Rename(name="base", to="other"),
            Message(name="base", text="hello"),
            Status(name="base"),
            Table(name="base"),
            Wait(name="base", event=0),
        )
    ),
    *(
        (step, NOBODY)
        for step in (
            Write(device="nobody", sector=0, sectors=8),
            Poke(device="nobody", sector=0, data=b"x"),
            Read(device="nobody", sector=0, sectors=8),
            Flush(device="nobody"),
            Discard(device="nobody", sector=0, sectors=8),
            Zeroout(device="nobody", sector=0, sectors=8),
            Parallel(ios=(Read(device="nobody", sector=0, sectors=8),)),
        )
    ),
    (Create(name="control"), RESERVED),
    (Rename(name="up", to="control"), RESERVED),
    (Rename(name="base", to="control"), COMMAND),
    (Disk(name="control", sectors=64), RESERVED),
    *((Disk(name=name, sectors=64), TAKEN.format(name)) for name in ("base", "frail", "up")),
    (
        Disk(name="odd", sectors=12, block_size=4096),
        "disk odd: 12 sectors are not a multiple of a block of 4096 bytes",
    ),
    (Disk(name="up", sectors=12, block_size=4096), TAKEN.format("up")),
    (
        Disk(name="big", sectors=64, block_size=4096, can_fail=True),
        "disk big can fail, so its blocks have 512 bytes",
    ),
    (
        Disk(name="far", sectors=64, linked=True),
        "disk far is linked, so it must have can_fail",
    ),
    *((Fault(device=name, op="read"), NO_FAULTS.format(name)) for name in ("base", "up", "nobody")),
    *((Heal(device=name), NO_FAULTS.format(name)) for name in ("base", "up", "nobody")),
    (
        Fault(device="frail", op="read", how="dies"),
        "disk frail has no link to take down; create it with linked",
    ),
    *((Image(device=name), NO_DISK.format(name)) for name in ("up", "nobody")),
    (Poke(device="base", sector=0, data=b""), POKE.format(0)),
    (Poke(device="base", sector=0, data=bytes(700)), POKE.format(700)),
    (Poke(device="down", sector=0, data=bytes(700)), POKE.format(700)),
    (Parameter(name="../passwd", value="1"), "'../passwd' is not a name of a module parameter"),
    (
        Parallel(ios=(READ, READ)),
        "a parallel step reads a device once, as contents are kept by device",
    ),
    (
        Parallel(ios=(Read(device="up", sector=0, sectors=1 << 20),)),
        f"an I/O of a parallel step is direct and at most {REQUEST_SECTORS_MAX} sectors long",
    ),
    (Parallel(ios=(READ,), resume=("up",)), RESUMES.format("up", "is not suspended")),
    (Parallel(ios=(READ,), resume=("nobody",)), RESUMES.format("nobody", "is not suspended")),
    (Parallel(ios=(READ,), resume=("down",)), RESUMES.format("down", "has a table loaded")),
)


class StrawDriver:
    """Remembers names, and which are suspended or have a table loaded."""

    label = "straw"

    def __init__(self) -> None:
        self._suspended: dict[str, bool] = {}
        self._loaded: set[str] = set()

    def create(self, name: str, _uuid: str) -> None:
        self._suspended[name] = False

    def load(self, name: str, _lines: Sequence[Line], *, read_only: bool = False) -> None:
        del read_only
        self._loaded.add(name)

    def resume(self, name: str) -> None:
        self._loaded.discard(name)
        self._suspended[name] = False

    def suspend(self, name: str, **_how: bool) -> None:
        self._suspended[name] = True

    def survey(self, names: Sequence[str]) -> Mapping[str, Info]:
        known = list(self._suspended)
        return {
            name: Info(
                name,
                "",
                f"254:{known.index(name)}",
                0,
                0,
                self._suspended[name],
                False,
                None,
                None,
                "0 64 zero " if name in self._loaded else None,
            )
            for name in names
            if name in known
        }

    def dependencies(self, _name: str) -> tuple[str, ...]:
        return ()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def reached(*_: object, **__: object) -> None:
            raise AssertionError(f"what is refused has come to the driver: {name}")

        return reached


class Silent:
    """A log, events and a server that have nothing to tell."""

    linked = False

    def __getattr__(self, _name: str) -> Callable[..., tuple[()]]:
        return lambda *_args: ()


def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """The kernel side, on devices of straw."""
    monkeypatch.setattr(Disks, "_load", lambda disks: setattr(disks, "_pristine", True))
    monkeypatch.setattr(Disks, "_serve", lambda *_: (Silent(), 0))
    monkeypatch.setattr(kernel_side.KernelBackend, "_check_queue", lambda *_: None)
    return kernel_side.KernelBackend(StrawDriver(), tmp_path, log=Silent(), events=Silent())  # type: ignore[arg-type]


def twin(*_: object) -> Backend:
    """The twin."""
    return TwinBackend(Profile())


@pytest.mark.parametrize("side", [twin, kernel])
@pytest.mark.parametrize(
    ("step", "said"),
    REFUSED,
    ids=[f"{type(step).__name__}{number}" for number, (step, _) in enumerate(REFUSED)],
)
def test_both_sides_refuse_in_the_same_words(
    side: Callable[..., Backend],
    step: AnyStep,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = side(tmp_path, monkeypatch)
    backend.begin(1)
    for index, each in enumerate(WORLD):
        assert backend.execute(index, each).error is None
    with pytest.raises(BadScenario) as refused:
        backend.execute(len(WORLD), step)
    assert str(refused.value).endswith(said)
    assert str(refused.value).removesuffix(said) in ("", f"step {len(WORLD)}: "), refused.value
