"""The journals that a run left behind: what each kernel answered, to be looked at later."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.guest.process import JOURNAL_NAME
from harness.journal import Begin, End, JournalReader, Observed, Ready
from harness.steps import Observation


@dataclass(frozen=True, slots=True)
class Recorded:
    """One scenario as a guest went through it.

    Attributes:
        scenario, seed: which.
        ready: what the guest said of itself.
        observations: one for each step.
    """

    scenario: str
    seed: int
    ready: Ready
    observations: tuple[Observation, ...]


def recorded(guests: Path) -> Iterator[Recorded]:
    """The scenarios that came to their end, of all guests below ``guests``, oldest guest first."""
    for path in sorted(guests.glob(f"*/{JOURNAL_NAME}")):
        ready: Ready | None = None
        begin: Begin | None = None
        seen: list[Observation] = []
        for record in JournalReader(path).new():
            match record:
                case Ready():
                    ready = record
                case Begin():
                    begin, seen = record, []
                case Observed(observation=observation):
                    seen.append(observation)
                case End(fault="") if begin and ready:
                    yield Recorded(begin.scenario, begin.seed, ready, tuple(seen))
