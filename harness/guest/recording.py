"""Where a run leaves the files of its guests, and the journals there: what each kernel answered.

They stay until the next run has a result of its own (`Earlier`).
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.files import OURS, is_ours, mark_ours, ours_or_empty, remove_ours
from harness.guest.process import GUEST_PREFIX, JOURNAL_NAME
from harness.trace.observations import Observation
from harness.wire.journal import Begin, End, JournalReader, Observed, Ready

GUESTS_DIRECTORY: Final = "guests"
"""Below the report: journals and consoles of the guests, by kernel."""
NOT_STARTED: Final = "not-started"
"""Beside the guests' files of a report: those of the last run that came to nothing."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9.+-]+|^\.+")
_NAME_CHARACTERS_MAX: Final = 100
_DIGEST_CHARACTERS: Final = 12


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

    The name of a kernel of one's own is its path: it must not lead out of ``directory``.  Two names
    have two directories: one that had to be changed gets a digest of the whole.
    """
    name = _NOT_IN_A_NAME.sub("_", kernel)[-_NAME_CHARACTERS_MAX:]
    if name != kernel or not name:
        digest = hashlib.sha256(os.fsencode(kernel)).hexdigest()[:_DIGEST_CHARACTERS]
        name = f"{name}-{digest}"
    return directory / name


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


class Earlier:
    """What an earlier run left below some directories, while a new one writes beside it.

    A guest cannot be moved while it runs, and its numbers are any that are free.  So what is there
    at the start is remembered, and goes when the new run has come to something; if it never does,
    what is new goes.

    Args:
        places: one directory for each kernel; they need not be there.
        keep: those of them of which nothing goes.

    Raises:
        ProvisioningError: what stands in one of these places is not of an earlier run.
    """

    def __init__(self, places: Iterable[Path], keep: Iterable[Path] = ()) -> None:
        self._was = {place: _entries(place) for place in places}
        self._keep = set(keep)
        self._forgotten = False

    def first_number(self, place: Path) -> int:
        """Number of the first new guest: where old ones stay, the new ones come after them."""
        return next_number(self._was[place]) if place in self._keep else 1

    def forget(self) -> None:
        """The new run has a result: what was there goes, once."""
        if self._forgotten:
            return
        self._forgotten = True
        for place, entries in self._was.items():
            if place not in self._keep:
                for entry in entries:
                    _remove(entry)

    def bring_back(self, aside: Path) -> None:
        """The new run is over.  If it came to nothing, what it made replaces what is in ``aside``.

        Raises:
            OSError: it cannot be moved.
            ProvisioningError: something that dmsnap did not make stands in its place.
        """
        if self._forgotten:
            return
        remove_ours(aside)
        for place, entries in self._was.items():
            for entry in sorted(_entries(place) - entries):
                mark_ours(aside)
                target = aside / place.name / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                entry.rename(target)
            if not entries and is_ours(place):
                with suppress(OSError):  # somebody else uses it
                    (place / OURS).unlink()
                    place.rmdir()

    def as_left(self, text: str, aside: Path) -> str:
        """A message with the places where `bring_back` puts what it names."""
        if not self._forgotten:
            for place in self._was:
                text = text.replace(str(place.absolute()), str(aside.absolute() / place.name))
        return text


def next_number(guests: Iterable[Path]) -> int:
    """A number behind those of ``guests``, which are directories; what else is there is none."""
    return 1 + max(
        (
            int(number)
            for guest in guests
            if (number := guest.name.removeprefix(GUEST_PREFIX)).isdecimal()
        ),
        default=0,
    )


def _entries(place: Path) -> set[Path]:
    """What an earlier run left in its directory, but for its mark."""
    return (
        {entry for entry in place.iterdir() if entry.name != OURS}
        if ours_or_empty(place)
        else set()
    )


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with suppress(OSError):
            entry.unlink()
