"""What a supervisor reports while guests work, and the outcome of each scenario."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.trace.observations import Observation
from harness.wire.journal import Ready

Reason = Literal["panic", "hang", "vanished", "rubbish", "never ready"]
"""How a guest was lost: its kernel panicked; its journal stood still for too long; its process
ended or was killed, or its journal is gone; its journal contains what no guest may write; it never
reported `Ready`."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A guest that was lost.

    Attributes:
        reason: how it was lost.
        detail: one more sentence.
        step: index of the step in progress; None if no step had been started.
        guest: number of the guest, from 1.
        console: the last part of its output.
        log: file with its console output, bounded.
    """

    reason: Reason
    detail: str
    step: int | None
    guest: int
    console: str
    log: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one scenario.

    Observations and fault come from a single attempt that ended.  A lost scenario has none, unless
    a hang or a possible death was foretold at that step; then it has those before.

    Attributes:
        scenario: its name.
        seed: as the guest used it; 0 if no attempt ended.
        attempts: guests that tried, 1 or more.
        observations: of the attempt that ended, in step order.
        ready: what the guest of that attempt (or of the last one lost) reported of itself; None if
            it was lost before that.
        lost: why there is no result: the loss of the last attempt; else None.
        losses: every guest that was lost over it, even if a later attempt ended.
        fault: why the scenario could not be carried out (`End.fault`), empty if it was.
        unsupported: whether that is because the kernel lacks something.
        step: index of the step that could not be carried out; None if there is none.
        leftovers: devices that could not be removed.
        elapsed_s: seconds from beginning to end, as seen by the host.
    """

    scenario: str
    seed: int
    attempts: int
    observations: tuple[Observation, ...]
    ready: Ready | None
    lost: Loss | None = None
    losses: tuple[Loss, ...] = ()
    fault: str = ""
    unsupported: bool = False
    step: int | None = None
    leftovers: tuple[str, ...] = ()
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GuestStarted:
    """A guest was started with ``scenarios`` to do; its files are in ``results``."""

    guest: int
    scenarios: tuple[str, ...]
    results: Path


@dataclass(frozen=True, slots=True)
class GuestReady:
    """A guest is up, ``boot_s`` seconds after its start."""

    guest: int
    ready: Ready
    boot_s: float


@dataclass(frozen=True, slots=True)
class ScenarioBegun:
    """A guest begins a scenario; ``attempt`` counts from 1."""

    guest: int
    scenario: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StepObserved:
    """A step ran.  It counts only if its scenario ends: see `ScenarioEnded`."""

    guest: int
    scenario: str
    observation: Observation


@dataclass(frozen=True, slots=True)
class GuestWasLost:
    """A guest was lost; ``scenario`` (None before `Ready`) is tried again if ``again``."""

    loss: Loss
    scenario: str | None
    again: bool


@dataclass(frozen=True, slots=True)
class ScenarioEnded:
    """A scenario has its outcome; reported once for each."""

    outcome: Outcome


Event = GuestStarted | GuestReady | ScenarioBegun | StepObserved | GuestWasLost | ScenarioEnded
