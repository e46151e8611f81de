"""Where a run leaves the files of its guests, and the journals there: what each kernel answered."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.guest.process import JOURNAL_NAME
from harness.trace.observations import Observation
from harness.wire.journal import Begin, End, JournalReader, Observed, Ready

GUESTS_DIRECTORY: Final = "guests"
"""Below the report: journals and consoles of the guests, by kernel."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9.+-]+|^\.+")
_NAME_CHARACTERS_MAX: Final = 100


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


def files_of(directory: Path, kernel: str) -> Path:
    """Where a run keeps the files of a kernel's guests.

    The name of a kernel of one's own is its path: it must not lead out of ``directory``.
    """
    return directory / _NOT_IN_A_NAME.sub("_", kernel)[-_NAME_CHARACTERS_MAX:]


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
