"""Where a run leaves its guests' files, and the journals there: what each kernel answered.

Beside the guests of a kernel lies what the twin saw where it was not plainly the same.  All of it
stays until the next run has a result of its own (`Earlier`).
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

import msgspec

from harness.errors import NotAFile
from harness.files import OURS, is_ours, mark_ours, ours_or_empty, read_stranger, remove_ours
from harness.guest.process import GUEST_PREFIX, JOB_NAME, JOURNAL_NAME
from harness.trace.files import Observations, ObservationsHeader
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep, encode
from harness.wire.job import decode_job
from harness.wire.journal import JOURNAL_BYTES_MAX, Begin, End, JournalReader, Observed, Ready

GUESTS_DIRECTORY: Final = "guests"
"""Below the report: journals and consoles of the guests, by kernel."""
NOT_STARTED: Final = "not-started"
"""Beside the guests' files of a report: those of the last run that came to nothing."""
TWIN_NAME: Final = "twin.jsonl"
"""Beside the guests of a kernel: what the twin saw, a scenario a line."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9.+-]+|^\.+")
_NAME_CHARACTERS_MAX: Final = 100
_DIGEST_CHARACTERS: Final = 12


@dataclass(frozen=True, slots=True)
class Recorded:
    """One scenario as a guest went through it.

    Attributes:
        scenario, seed: of the scenario.
        ready: what the guest reported of itself.
        observations: one for each step.
        whole: it came to its end; otherwise the guest was lost, or could not carry it out.
    """

    scenario: str
    seed: int
    ready: Ready
    observations: tuple[Observation, ...]
    whole: bool = True


def files_of(directory: Path, kernel: str) -> Path:
    """Where a run keeps the files of a kernel's guests.

    A kernel that a user built is named by its path, which must not lead out of ``directory``.  Two
    names have two directories: a name that had to be changed gets a digest of the original.
    """
    name = _NOT_IN_A_NAME.sub("_", kernel)[-_NAME_CHARACTERS_MAX:]
    if name != kernel or not name:
        digest = hashlib.sha256(os.fsencode(kernel)).hexdigest()[:_DIGEST_CHARACTERS]
        name = f"{name}-{digest}"
    return directory / name


def recorded(guests: Path, *, cut_short: bool = False) -> Iterator[Recorded]:
    """The scenarios that came to their end, of all guests below ``guests``, oldest guest first.

    With ``cut_short``, those that did not as well, as far as they came.
    """
    paths = guests.glob(f"*/{JOURNAL_NAME}")
    for path in sorted(paths, key=lambda path: (next_number([path.parent]), path)):
        ready: Ready | None = None
        begin: Begin | None = None
        seen: list[Observation] = []
        for record in (*JournalReader(path).new(), None):
            match record:
                case Ready():
                    ready = record
                case Observed(observation=observation):
                    seen.append(observation)
                case Begin() | End() | None:
                    if begin and ready:
                        whole = isinstance(record, End) and not record.fault
                        if whole or cut_short:
                            yield Recorded(begin.scenario, begin.seed, ready, tuple(seen), whole)
                    begin, seen = record if isinstance(record, Begin) else None, []


def jobs(guests: Path) -> dict[str, tuple[AnyStep, ...]]:
    """The steps that guests below ``guests`` were told to do, by scenario; what is no job is not.

    A guest could have changed them since: they are good for being looked at.
    """
    found: dict[str, tuple[AnyStep, ...]] = {}
    for path in sorted(guests.glob(f"*/{JOB_NAME}")):
        with suppress(OSError, NotAFile, msgspec.MsgspecError, UnicodeError, RecursionError):
            job = decode_job(read_stranger(path, JOURNAL_BYTES_MAX, below=guests))
            found |= {each.name: each.steps for each in job.scenarios}
    return found


def kernel_observations(
    kernel: str, scenario: str, seed: int, ready: Ready, observations: tuple[Observation, ...]
) -> Observations:
    """What a kernel was seen to do, in the form of an observations file.

    Args:
        kernel: its name.
        scenario: its name.
        seed: it ran with that.
        ready: what the guest reported of itself.
        observations: one for each step.
    """
    return Observations(
        ObservationsHeader(
            scenario=scenario,
            seed=seed,
            side="kernel",
            kernel=kernel,
            release=ready.release,
            version=ready.version,
            driver=ready.driver,
            targets=ready.targets,
            profile=ready.probe,
        ),
        observations,
    )


def keep_twin(guests: Path, seen: Observations) -> None:
    """Write down what the twin saw of one scenario; it is read again with `kept_twins`.

    A disk that is full costs a page its second side, and the run nothing.
    """
    with suppress(OSError), (guests / TWIN_NAME).open("ab") as file:
        file.write(encode(seen) + b"\n")


def kept_twins(guests: Path) -> dict[str, Observations]:
    """What `keep_twin` has written, by scenario; of several of one, the last."""
    found: dict[str, Observations] = {}
    with suppress(OSError, NotAFile):
        for line in read_stranger(guests / TWIN_NAME, JOURNAL_BYTES_MAX).splitlines():
            with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
                seen = _decode_twin(line)
                found[seen.header.scenario] = seen
    return found


_decode_twin = msgspec.json.Decoder(Observations).decode


class Earlier:
    """What an earlier run left in some directories, while a new one writes into them.

    A guest's directory cannot be moved while it runs, and its number is any free one.  So what
    exists at the start is remembered, and removed once the new run has a result; if it never has
    one, what is new is moved away.

    Args:
        places: one directory for each kernel; they need not exist.
        keep: those of them from which nothing is removed.

    Raises:
        ProvisioningError: one of these places has something that is not from an earlier run.
    """

    def __init__(self, places: Iterable[Path], keep: Iterable[Path] = ()) -> None:
        self._was = {place: _entries(place) for place in places}
        self._keep = set(keep)
        self._forgotten = False

    def first_number(self, place: Path) -> int:
        """Number of the first new guest; if old ones stay, new ones follow them."""
        return next_number(self._was[place]) if place in self._keep else 1

    def forget(self) -> None:
        """The new run has a result; remove what was there, once."""
        if self._forgotten:
            return
        self._forgotten = True
        for place, entries in self._was.items():
            if place not in self._keep:
                for entry in entries:
                    _remove(entry)

    def bring_back(self, aside: Path) -> None:
        """The new run is over.  If it has no result, its files replace those in ``aside``.

        Raises:
            OSError: it cannot be moved.
            ProvisioningError: something that dmsnap did not make is in its place.
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
                with suppress(OSError):  # another process uses it
                    (place / OURS).unlink()
                    place.rmdir()

    def as_left(self, text: str, aside: Path) -> str:
        """A message with its paths changed to where `bring_back` puts the files."""
        if not self._forgotten:
            for place in self._was:
                text = text.replace(str(place.absolute()), str(aside.absolute() / place.name))
        return text


def next_number(guests: Iterable[Path]) -> int:
    """A number after those of ``guests``, counting directories only."""
    return 1 + max(
        (
            int(number)
            for guest in guests
            if (number := guest.name.removeprefix(GUEST_PREFIX)).isdecimal()
        ),
        default=0,
    )


def _entries(place: Path) -> set[Path]:
    """What an earlier run left in its directory, except its mark."""
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
