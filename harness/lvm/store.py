"""What LVM leaves on its disk, read without the kernel: does the store explain the snapshot?

The store on the COW volume is parsed and checked by `harness.store`; then every chunk of the
snapshot must be what store and origin say it is.  After a power cut in the middle of a merge, only
the image of the disk is left.  The kernel merges from the end of the store and clears
entries only once the copies are on the disk (dm-snap-persistent.c ``persistent_commit_merge``), so
what is missing from the end must be on the origin, and nothing else may have changed.
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness import store
from harness.errors import BadScenario, MalformedStore
from harness.promises.witness import unexplained
from harness.trace import pattern
from harness.units import SECTOR_BYTES, bytes_of_sectors, sector_of_byte

DAMAGED: Final = "the store is malformed"
_PIECE: Final = re.compile(r"\d{1,15} (\d{1,15}) linear \{(\S+)\} (\d{1,15})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Volumes:
    """Contents at one moment: COW volume, origin, and what the snapshot shows."""

    cow: bytes
    origin: bytes
    shown: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What was read, in words, and what is wrong with it."""

    words: str
    faults: tuple[str, ...] = ()


def check(volumes: Volumes, status: str) -> Report:
    """Check that the store on ``volumes.cow`` explains the snapshot and its status line."""
    try:
        found = store.parse(volumes.cow)
    except MalformedStore as fault:
        return Report(DAMAGED, (str(fault),))
    words = status.split()[3:]
    if found.state is store.State.INVALID:
        said = (
            ()
            if words == ["Invalid"]
            else (f"the header says invalid, the kernel {' '.join(words)}",)
        )
        return Report("invalid", said)
    origin_sectors, cow_sectors = map(sector_of_byte, (len(volumes.origin), len(volumes.cow)))
    faults = [
        finding.message
        for finding in store.check(found, origin_sectors=origin_sectors)
        if finding.damage
    ]
    read = [f"{found.allocated_sectors}/{cow_sectors}", str(found.metadata_sectors)]
    if words != read:
        faults.append(f"the store says {' '.join(read)}, the kernel {' '.join(words)}")
    wrong = unexplained(
        0,
        found,
        **{  # nothing here carries stamps, and the seed says nothing
            name: pattern.encode(0, getattr(volumes, name)) for name in ("cow", "origin", "shown")
        },
    )
    if wrong:
        sector, promised, shown = wrong
        faults.append(
            f"sector {sector} of the snapshot is not what the store says: {shown}, not {promised}"
        )
    return Report(f"{found.count} exceptions", tuple(faults))


def check_cut(before: Volumes, cow: bytes, origin: bytes) -> Report:
    """Check that everything a merge had recorded as done was done when power was lost."""
    try:
        old, new = store.parse(before.cow), store.parse(cow)
    except MalformedStore as fault:
        return Report(DAMAGED, (str(fault),))
    entries, left = _entries(old), _entries(new)
    words = f"power lost with {len(left)} of {len(entries)} exceptions left to merge"
    faults = [] if 0 < len(left) < len(entries) else ["the merge was not interrupted"]
    if not np.array_equal(entries[: len(left)], left):
        faults.append("what is left of the store is not its beginning")
    size = bytes_of_sectors(new.chunk_sectors)
    pending = {int(chunk) for chunk in left["old"]}
    expected = {int(chunk) for chunk in entries["old"]} - pending
    for chunk in range(-(-len(origin) // size)):
        place = slice(chunk * size, (chunk + 1) * size)
        now, was, shown = origin[place], before.origin[place], before.shown[place]
        if chunk in expected and now != shown:
            faults.append(f"chunk {chunk} is gone from the store and not on the origin")
        elif chunk in pending and not _from_either(now, was, shown):
            faults.append(f"chunk {chunk} is neither as it was nor merged")
        elif chunk not in expected | pending and now != was:
            faults.append(f"chunk {chunk} changed, and the snapshot never had it")
    return Report(words, tuple(faults))


def cut_out(table: str, disk: bytes, below: str) -> bytes:
    """The contents of a volume whose ``table`` is linear on ``below``, from the disk's image.

    Raises:
        BadScenario: the table is something else.
    """
    parts = []
    for line in table.splitlines():
        match = _PIECE.fullmatch(line)
        if match is None or match[2] != below:
            raise BadScenario(f"{line}: not a linear piece of {below}")
        sectors, _, start = match.groups()
        at = bytes_of_sectors(int(start))
        parts.append(disk[at : at + bytes_of_sectors(int(sectors))])
    return b"".join(parts)


def _entries(found: store.Store) -> store.Entries:
    return np.concatenate([np.empty(0, store.ENTRY_DTYPE), *found.exceptions()])


def _from_either(now: bytes, one: bytes, other: bytes) -> bool:
    """Whether each sector is one of two: a copy in flight may have reached the disk in part."""
    return all(
        now[at : at + SECTOR_BYTES] in (one[at : at + SECTOR_BYTES], other[at : at + SECTOR_BYTES])
        for at in range(0, len(now), SECTOR_BYTES)
    )
