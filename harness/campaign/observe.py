"""The one primitive: work and a side that carries it out give outcomes, one for each piece.

*Work* is pieces with names: how many steps each has, how a guest is told of some of them, and what
the twin foretells of them.  `Scenarios` is the one kind; the boots of `harness.lvm.enact` are
another.  A *side* is a place where a real kernel carries them out: guests (`Guests`), or the
machine that this is (`Here`).

Whatever becomes of a guest is in the outcome, and who cannot go on without a whole one asks
`answered`.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from harness.errors import BadScenario, GuestLost, ProvisioningError, Unsupported
from harness.guest.catalogue import VAGRANT, Kernel
from harness.guest.events import Event, Outcome, ScenarioEnded
from harness.guest.host_root import AGENT
from harness.guest.process import Launcher
from harness.guest.supervise import BOOT_LIMIT_S, STEP_LIMIT_S, Supervisor
from harness.trace.backend import Backend, carry_out, fault_of, put_away
from harness.trace.files import Trace
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep, encode
from harness.twin.profile import FAITHFUL
from harness.verdict import foresight
from harness.wire.job import Job, JobScenario
from harness.wire.journal import Ready

Hear = Callable[[Event], None]


class Work(Protocol):
    """Pieces of work with names."""

    def names(self) -> Sequence[str]:
        """Of the pieces, in order; each once."""

    def steps(self) -> Mapping[str, int]:
        """How many observations each piece gives."""

    def job(self, kernel: Kernel, names: Sequence[str]) -> bytes:
        """What a guest of a kernel is told that is to do those pieces, in that order."""

    def hangs_in(self, name: str, ready: Ready) -> int | None:
        """The step of which it is foretold that it never returns."""

    def dies_in(self, name: str, ready: Ready, step: int) -> bool:
        """Whether it is foretold that a kernel may die in that step."""


W_contra = TypeVar("W_contra", bound=Work, contravariant=True)


class Side(Protocol[W_contra]):
    """A place where a real kernel carries work out."""

    def carry_out(self, work: W_contra, hear: Hear) -> dict[str, Outcome]:
        """Do every piece once; see `observe`."""


W = TypeVar("W", bound=Work)


def observe(work: W, side: Side[W], hear: Hear = lambda _event: None) -> dict[str, Outcome]:
    """Have each piece of ``work`` done once by ``side``; outcomes in the order of the pieces.

    ``hear`` is told what happens meanwhile, and of each outcome as soon as it is there.

    Raises:
        ProvisioningError: the side cannot be had, or cannot go on.
        BadScenario: two pieces have one name.
    """
    return side.carry_out(work, hear)


class Scenarios:
    """Traces as work.

    Args:
        traces: what to do; names are unique.
        driver: ``ioctl`` or ``dmsetup``.
        defects: how the twin is that foretells where one hangs, or may die.
        functions: of the module, to be counted by scenario.
    """

    def __init__(
        self,
        traces: Iterable[Trace],
        *,
        driver: str = "ioctl",
        defects: str = FAITHFUL,
        functions: tuple[str, ...] = (),
    ) -> None:
        self._traces = list(traces)
        self._by_name = {trace.header.scenario: trace for trace in self._traces}
        self._driver = driver
        self._defects = defects
        self._functions = functions

    def names(self) -> list[str]:
        """Of the scenarios."""
        return [trace.header.scenario for trace in self._traces]

    def steps(self) -> dict[str, int]:
        """How many there are in each."""
        return {name: len(trace.steps) for name, trace in self._by_name.items()}

    def trace(self, name: str) -> Trace:
        """The scenario of that name."""
        return self._by_name[name]

    def job(self, kernel: Kernel, names: Sequence[str]) -> bytes:
        """See `harness.wire.job`."""
        traces = [self._by_name[name] for name in names]
        return encode(
            Job(
                modules=str(kernel.modules),
                driver=self._driver,
                functions=self._functions,
                # The provisioning of that machine has marked it as disposable.
                here=kernel.guest == VAGRANT,
                scenarios=tuple(
                    JobScenario(trace.header.scenario, trace.steps, trace.header.seed)
                    for trace in traces
                ),
            )
        )

    def hangs_in(self, name: str, ready: Ready) -> int | None:
        """By the twin."""
        return foresight.hangs_in(self._by_name[name], ready.probe, self._defects)

    def dies_in(self, name: str, ready: Ready, step: int) -> bool:
        """By the twin."""
        return foresight.dies_in(self._by_name[name], ready.probe, step, self._defects) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """Guests of one kernel, so many at a time; for any work.

    Attributes:
        results: directory for one subdirectory a guest (job, journal, console).
        argv: what Python runs in the guest.
        launcher: starts them; None for what the kernel is made for.
        first_number: they are numbered from it on.
    """

    kernel: Kernel
    results: Path
    count: int = 1
    argv: Sequence[str] = AGENT
    launcher: Launcher | None = None
    step_limit_s: float = STEP_LIMIT_S
    boot_limit_s: float = BOOT_LIMIT_S
    first_number: int = 1

    def carry_out(self, work: Work, hear: Hear) -> dict[str, Outcome]:
        """In guests; one that is lost is replaced (`harness.guest.supervise`)."""
        supervisor = Supervisor(
            self.kernel,
            guests=self.count,
            results=self.results,
            python=Path(sys.executable),
            job=lambda names: work.job(self.kernel, names),
            steps=work.steps(),
            hangs_in=work.hangs_in,
            dies_in=work.dies_in,
            argv=self.argv,
            launcher=self.launcher,
            step_limit_s=self.step_limit_s,
            boot_limit_s=self.boot_limit_s,
            first_number=self.first_number,
        )
        return supervisor.run(work.names(), hear)


class Disposable(Backend, Protocol):
    """The kernel side in a machine of its own; ``spoilt`` once something would not go away."""

    spoilt: bool


@dataclass(frozen=True, slots=True)
class Here:
    """The machine that this is, by its kernel side and what that says of itself; for scenarios."""

    backend: Disposable
    ready: Ready

    def carry_out(self, work: Scenarios, hear: Hear) -> dict[str, Outcome]:
        """One after another.

        Raises:
            ProvisioningError: one of them has left something behind, and another is to come.
        """
        found: dict[str, Outcome] = {}
        for name in work.names():
            if self.backend.spoilt:
                raise ProvisioningError(
                    "devices of a scenario would not go away, so no other one "
                    "can be run: boot this machine anew"
                )
            found[name] = self._outcome(work.trace(name))
            hear(ScenarioEnded(found[name]))
        return found

    def _outcome(self, trace: Trace) -> Outcome:
        started = time.monotonic()
        seen: list[Observation] = []
        fault, lacks = "", False
        at: int | None = None

        def note(index: int, _step: AnyStep) -> None:
            nonlocal at
            at = index

        try:
            for observation in carry_out(self.backend, trace.steps, trace.header.seed, note):
                seen.append(observation)  # noqa: PERF402 - what is there stays if the next fails
            at = None
        except Exception as error:  # noqa: BLE001 - the devices must go, whatever it was
            fault, lacks = fault_of(error), isinstance(error, Unsupported)
        left, fault = put_away(self.backend, fault)
        return Outcome(
            scenario=trace.header.scenario,
            seed=trace.header.seed,
            attempts=1,
            observations=tuple(seen),
            ready=self.ready,
            fault=fault,
            unsupported=lacks,
            step=at,
            leftovers=left,
            elapsed_s=time.monotonic() - started,
        )


def answered(
    outcome: Outcome, place: Callable[[int], str] = "step {}".format, *, kept: bool = True
) -> Ready:
    """What the guest of a piece that came to its end said of itself.

    Args:
        outcome: of the piece.
        place: says in words where a step is.
        kept: whether the guest's files are still there.

    Raises:
        GuestLost: there is no end: the guest was lost.
        Unsupported: its kernel lacks something.
        BadScenario: a step could not be carried out.
    """
    at, loss = outcome.step, outcome.lost
    if loss is not None:
        where = "" if loss.step is None else f" in {place(loss.step)}"
        console = f"; its console: {loss.log}" if kept else ""
        raise GuestLost(
            f"{outcome.scenario}: the guest was lost{where} ({loss.reason}: {loss.detail}){console}"
        )
    if outcome.fault:
        where = "" if at is None else f"{place(at)}: "
        kind = Unsupported if outcome.unsupported else BadScenario
        fault = kind(f"{outcome.scenario}: {where}{outcome.fault}")
        fault.step = at
        raise fault
    if outcome.ready is None:
        raise ProvisioningError(f"{outcome.scenario}: no guest came up")
    return outcome.ready
