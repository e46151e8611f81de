"""The one primitive: work and a side that carries it out give outcomes, one for each piece.

*Work* is pieces with names: how many steps each has, the job of a guest for some of them, and what
the twin foretells of them.  `Scenarios` is one kind; the boots of `harness.lvm.enact` are
another.  A *side* is a place where a real kernel carries them out: guests (`Guests`), or this
machine (`Here`).

Whatever happens to a guest is in the outcome; callers that need a complete one use `answered`.
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
    """Named pieces of work."""

    def names(self) -> Sequence[str]:
        """Names of the pieces, in order; each once."""

    def steps(self) -> Mapping[str, int]:
        """How many observations each piece gives."""

    def job(self, kernel: Kernel, names: Sequence[str]) -> bytes:
        """The job of a guest of a kernel for those pieces, in that order."""

    def hangs_in(self, name: str, ready: Ready) -> int | None:
        """The step that is foretold never to return."""

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

    ``hear`` gets events meanwhile, and each outcome as soon as it is there.

    Raises:
        ProvisioningError: the side is not available, or cannot continue.
        BadScenario: two pieces have the same name.
    """
    return side.carry_out(work, hear)


class Scenarios:
    """Traces as work.

    Args:
        traces: the scenarios; names are unique.
        driver: ``ioctl`` or ``dmsetup``.
        defects: how the twin treats defects when it foretells hangs and deaths.
        functions: module functions to count by scenario.
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
        """Names of the scenarios."""
        return [trace.header.scenario for trace in self._traces]

    def steps(self) -> dict[str, int]:
        """Number of steps of each."""
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
                # That machine's provisioning marked it as disposable.
                here=kernel.guest == VAGRANT,
                scenarios=tuple(
                    JobScenario(trace.header.scenario, trace.steps, trace.header.seed)
                    for trace in traces
                ),
            )
        )

    def hangs_in(self, name: str, ready: Ready) -> int | None:
        """Foretold by the twin."""
        return foresight.hangs_in(self._by_name[name], ready.probe, self._defects)

    def dies_in(self, name: str, ready: Ready, step: int) -> bool:
        """Foretold by the twin."""
        return foresight.dies_in(self._by_name[name], ready.probe, step, self._defects) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """Guests of one kernel, a number at a time; for any work.

    Attributes:
        results: directory with one subdirectory per guest (job, journal, console).
        argv: what Python runs in the guest.
        launcher: starts them; None for the kind the kernel needs.
        first_number: guests are numbered from here on.
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
        """Do the work in guests; a lost one is replaced (`harness.guest.supervise`)."""
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
    """The kernel side in a machine of its own; ``spoilt`` once something could not be removed."""

    spoilt: bool


@dataclass(frozen=True, slots=True)
class Here:
    """This machine: its kernel side and its self-description; for scenarios."""

    backend: Disposable
    ready: Ready

    def carry_out(self, work: Scenarios, hear: Hear) -> dict[str, Outcome]:
        """Do the scenarios one after another.

        Raises:
            ProvisioningError: one of them left something behind, and another follows.
        """
        found: dict[str, Outcome] = {}
        for name in work.names():
            if self.backend.spoilt:
                raise ProvisioningError(
                    "devices of a scenario could not be removed, so no other "
                    "scenario can run; reboot this machine"
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
                seen.append(observation)  # noqa: PERF402 - earlier ones are kept if the next fails
            at = None
        except Exception as error:  # noqa: BLE001 - the devices must be removed, whatever it was
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
    """What the guest of a finished piece reported of itself.

    Args:
        outcome: the piece's outcome.
        place: describes where a step is.
        kept: whether the guest's files are still there.

    Raises:
        GuestLost: the guest was lost before the end.
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
