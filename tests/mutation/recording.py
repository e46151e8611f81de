"""What real kernels answered: the journals that runs leave below ``report/guests``.

Coverage and mutants both replay the twin's side of these recordings, so that what they count is
what the catalogue can see.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.trace.files import Trace
from harness.trace.observations import Observation
from harness.wire.journal import Begin, End, JournalReader, Observed, Ready

if TYPE_CHECKING:
    from harness.twin.profile import Profile

GUESTS = Path("report/guests")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One scenario, as a kernel did it."""

    kernel: str
    trace: Trace
    seen: tuple[Observation, ...]
    ready: Ready
    orders: int = 1
    """Which of the twin's orders this is, once that was asked."""

    @property
    def name(self) -> str:
        """Scenario and kernel."""
        return f"{self.trace.header.scenario} on {self.kernel}"

    @property
    def probe(self) -> Mapping[str, bool | int | str]:
        """Facts of the guest that did it."""
        return self.ready.probe


def kernels(paths: Sequence[Path] = ()) -> list[Path]:
    """Directories of guests, one for each kernel.

    Raises:
        SystemExit: there are none.
    """
    found = list(paths) or sorted(path for path in GUESTS.glob("*") if path.is_dir())
    if not found:
        raise SystemExit(
            "nothing is recorded: type  make run ARGS='--kernel uml-6.1 --kernel uml-7.2'  first"
        )
    return found


def recorded(paths: Sequence[Path]) -> Iterator[Recorded]:
    """Every scenario of the catalogue that a guest finished, kernel by kernel."""
    from harness.scenarios.registry import catalogue

    entries = catalogue()
    for kernel in paths:
        for path in sorted(kernel.glob("*/journal.jsonl")):
            yield from _of_guest(kernel.name, path, entries)


def _of_guest(kernel: str, path: Path, entries: Mapping[str, object]) -> Iterator[Recorded]:
    ready: Ready | None = None
    begin: Begin | None = None
    seen: list[Observation] = []
    for entry in JournalReader(path).new():
        match entry:
            case Ready():
                ready = entry
            case Begin():
                begin, seen = entry, []
            case Observed():
                seen.append(entry.observation)
            case End() if begin and ready and not entry.fault and begin.scenario in entries:
                trace = entries[begin.scenario].trace(begin.seed)  # type: ignore[attr-defined]
                if len(seen) == len(trace.steps):
                    yield Recorded(kernel, trace, tuple(seen), ready)


def permitted(trace: Trace, seen: Sequence[Observation], profile: "Profile") -> int:
    """Which of the twin's orders is the kernel's, looked for as a run does; 0 for none."""
    # Here: a mutant of the twin has taken its place.
    from harness.compare.diff import compare, requests_alike
    from harness.twin.explore import Orders

    orders = Orders(trace.steps, trace.header.seed, profile)
    for _, twin in orders:
        comparison = compare(trace, seen, twin)
        if comparison.same:
            return orders.tried
        step = comparison.divergences[0].step
        agreed = requests_alike(seen[step], twin[step]) if step < min(len(seen), len(twin)) else 0
        orders.differs_in(step, agreed)
    return 0


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """No more than so much processor time for what is inside; a machine that is busy ends nothing.

    Raises:
        TimeoutError: it took longer.
    """

    def too_long(*_: object) -> None:
        raise TimeoutError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
