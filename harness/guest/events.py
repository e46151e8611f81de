"""What a supervisor tells while guests work, and what it has of each scenario in the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.trace.observations import Observation
from harness.wire.journal import Ready

Reason = Literal["panic", "hang", "vanished", "rubbish", "never ready"]
"""How a guest was lost: its kernel panicked; its journal stood still for too long; its process
ended or was killed, or its journal is gone; its journal holds what no guest may write; it never
said `Ready`."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A guest that was lost.

    Attributes:
        reason: how.
        detail: one sentence more.
        step: index of the step in progress; None where no step had been started.
        guest: number of the guest, from 1.
        console: the last that it printed.
        log: file with its console, bounded.
    """

    reason: Reason
    detail: str
    step: int | None
    guest: int
    console: str
    log: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that there is of one scenario.

    Observations and fault come from one attempt, and from one that ended; a lost scenario has
    none, unless it was foretold that it would hang, or may die, there: then it has those before.

    Attributes:
        scenario: its name.
        seed: as the guest used it; 0 where no attempt ended.
        attempts: guests that tried, 1 or more.
        observations: of the attempt that ended, in step order.
        ready: what the guest of that attempt (or of the last one lost) said of itself; None
            where it was lost before that.
        lost: why there is no result: the loss of the last attempt; else None.
        losses: every guest that was lost over it, also when a later attempt ended.
        fault: why the scenario could not be carried out (`End.fault`), empty if it was.
        unsupported: whether that is for something that the kernel lacks.
        step: index of the step that could not be carried out; None if it was none.
        leftovers: devices that would not go away.
        elapsed_s: seconds from its beginning to its end as the host saw them.
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
    """A scenario has its outcome; told once for each."""

    outcome: Outcome


Event = GuestStarted | GuestReady | ScenarioBegun | StepObserved | GuestWasLost | ScenarioEnded
