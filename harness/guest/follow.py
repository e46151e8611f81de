"""Following one guest's journal: what its records mean, and which are not allowed.

A pure state machine.  A guest gone wrong may write records that are well-formed and make no sense;
taken at their word they would give one scenario the results of another.  So the order that an
agent keeps is checked here:

    Ready, then for each scenario of the job in its order
    Begin, (Started, Observed)…, End, and when all have ended Done.

Steps are numbered from 0 without a gap.  A scenario with a step that was started but not observed,
or with missing steps, may end only with a fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.trace.observations import Observation
from harness.wire.journal import Begin, Done, End, Observed, Ready, Record, Started


class Rubbish(Exception):
    """A record that is not allowed here; the text says which and why."""


@dataclass(slots=True)
class Attempt:
    """A scenario in progress.

    Attributes:
        step: the step started last; None before the first one.
        observed: whether that step was observed.
    """

    begin: Begin
    begun_at: float
    step: int | None = None
    observed: bool = True
    observations: list[Observation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finished:
    """A scenario whose attempt is complete."""

    attempt: Attempt
    end: End


class Follower:
    """What one guest has reported so far.

    Attributes:
        ready: its first record, None before.
        remaining: scenarios without an end, in the order of the job.
        attempt: the one in progress, which is the first of ``remaining``.
        done: the guest has said `Done`.
        spoilt: a scenario left devices behind; nothing this guest reports counts any more.
    """

    def __init__(self, scenarios: list[str], steps: Mapping[str, int]) -> None:
        self._steps = steps
        self.ready: Ready | None = None
        self.remaining = list(scenarios)
        self.attempt: Attempt | None = None
        self.done = False
        self.spoilt = False

    @property
    def over(self) -> bool:
        """Nothing more is expected of this guest."""
        return self.done or self.spoilt

    def feed(self, record: Record, now_s: float) -> Finished | None:
        """Take the next record; returns the scenario that it completes, if any.

        Raises:
            Rubbish: the record is not allowed here.
        """
        if self.spoilt:
            return None
        if self.done:
            raise Rubbish(f"{_name(record)} after done")
        if (self.ready is None) != isinstance(record, Ready):
            raise Rubbish("a second ready" if self.ready else f"{_name(record)} before ready")
        match record:
            case Ready():
                self.ready = record
            case Begin():
                self._begin(record, now_s)
            case Started(step=step):
                attempt = self._attempt(record)
                if step != len(attempt.observations) or not attempt.observed:
                    raise Rubbish(
                        f"step {step} started after step {attempt.step}"
                        + ("" if attempt.observed else ", which was not observed")
                    )
                if step >= self._steps.get(attempt.begin.scenario, step + 1):
                    raise Rubbish(f"step {step} started, which {attempt.begin.scenario} has not")
                attempt.step, attempt.observed = step, False
            case Observed(observation=observation):
                attempt = self._attempt(record)
                if attempt.observed or observation.step != attempt.step:
                    raise Rubbish(f"step {observation.step} observed and not started")
                attempt.observed = True
                attempt.observations.append(observation)
            case End():
                return self._end(record)
            case Done():
                if self.remaining:
                    raise Rubbish(f"done with {len(self.remaining)} scenarios missing")
                self.done = True
        return None

    def _attempt(self, record: Record) -> Attempt:
        if self.attempt is None:
            raise Rubbish(f"{_name(record)} outside of a scenario")
        return self.attempt

    def _begin(self, record: Begin, now_s: float) -> None:
        if self.attempt is not None:
            raise Rubbish(f"{record.scenario} begun within {self.attempt.begin.scenario}")
        if self.remaining[:1] != [record.scenario]:
            raise Rubbish(
                f"{record.scenario} begun where {(self.remaining or ['no scenario'])[0]} was next"
            )
        self.attempt = Attempt(record, now_s)

    def _end(self, record: End) -> Finished:
        attempt = self._attempt(record)
        if record.scenario != attempt.begin.scenario:
            raise Rubbish(f"{record.scenario} ended within {attempt.begin.scenario}")
        if not attempt.observed and not record.fault:
            raise Rubbish(f"{record.scenario} ended, and its step {attempt.step} was not observed")
        seen = len(attempt.observations)
        if not record.fault and seen != self._steps.get(record.scenario, seen):
            raise Rubbish(
                f"{record.scenario} ended after {seen} of its {self._steps[record.scenario]} steps"
            )
        self.attempt = None
        del self.remaining[0]
        self.spoilt = bool(record.leftovers)
        return Finished(attempt, record)


def _name(record: Record) -> str:
    return type(record).__name__.lower()
