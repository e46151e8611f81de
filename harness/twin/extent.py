"""Long reads and writes that move whole extents, with the same result as bio by bio.

A long write to fresh chunks of a snapshot, or to an origin whose snapshots have to copy first, is
cut into one bio for each chunk, and each goes through the same steps.  If nothing can happen
between them, the result is known beforehand: chunks are allocated in ascending order, all data is
moved, all exceptions are committed, area by area.  So a few copies move the data.  A long
read of a snapshot is cut in the same way, and each chunk comes from where it lies.

`move_extent` does that only where nobody could see the difference:

- it is the only bio in flight in its world, and nothing else is pending: no worker, no delayed
  bio, no merge, no handover, no write that the limit on copies holds back;
- it stays inside one target, and all devices below are plain disks, which answer at once and do
  not fail; every sector that would be touched exists;
- all exceptions have room, in the store, in the limit on copies and on the disk, including the
  area that is zeroed ahead: what overflows does so bio by bio;
- for a read, nothing of its snapshot is in flight, and it meets no choice point: nobody waits;
- no part of a write overtakes a copy of the chunk that it lies in;
- every choice point on the way has the answer of the first order.  The points are counted all the
  same, so that exploring meets them, and then goes bio by bio.

Everything is checked before anything changes.
"""

from collections.abc import Iterator
from typing import Final

from harness.twin.bio import READ, WRITE, Bio, BlockDevice
from harness.twin.disk import Disk
from harness.twin.exception_store import Extent
from harness.twin.exceptions.table import ExceptionTable
from harness.twin.mapped_device import MappedDevice
from harness.twin.origin import Origin
from harness.twin.snapshot import Snapshot
from harness.units import SECTOR_SHIFT

PIECES_MIN = 16
"""Writes of fewer pieces than this go bio by bio."""

_LONG: Final = 1 << 40

Chunks = list[tuple[int, int]]
"""Ranges of chunks: first, count."""


def move_extent(device: BlockDevice, bio: Bio) -> bool:
    """Do a bio at once, if a process waits for it and it is alone in the world.

    Returns False, with nothing changed, if it has to go bio by bio; ``bio`` is not ended.
    """
    reads = bio.op is READ
    if (
        (not reads and bio.op is not WRITE)
        or bio.sectors < PIECES_MIN
        or (type(device) is not MappedDevice)
    ):
        return False
    assert device.live is not None, "without a table there are no sectors to ask for"
    target = device.live.find(bio.sector)
    if bio.sector + bio.sectors > target.start + target.sectors:
        return False
    if not device.world.at_rest():
        return False
    if type(target) is Snapshot:
        return _read_snapshot(target, bio) if reads else _write_snapshot(target, bio)
    if type(target) is Origin and not reads:
        return _write_origin(target, bio)
    return False


def _read_snapshot(snapshot: Snapshot, bio: Bio) -> bool:
    """Chunks with an exception from the COW device, the others from the origin."""
    if not snapshot.valid:
        return False
    origin, cow = snapshot.origin, snapshot.cow
    size = snapshot.store.chunk_sectors
    end = bio.sector + bio.sectors
    first, behind = bio.sector // size, (end - 1) // size + 1
    if (
        type(origin) is not Disk
        or type(cow) is not Disk
        or end > origin.sectors
        or behind - first < PIECES_MIN
        or not snapshot.at_rest()
        or snapshot.io_sectors(bio, snapshot.start, _LONG) != size
        or snapshot.start % size
    ):
        return False
    found = list(map(snapshot.complete.lookup, range(first, behind)))
    if max(found) * size + size > cow.sectors:
        return False
    data = bio.data
    assert data is not None
    data[:] = origin.content(bio.sector, bio.sectors)
    for chunk, new in enumerate(found, first):
        if new >= 0:
            start, stop = max(bio.sector, chunk * size), min(end, chunk * size + size)
            data[start - bio.sector << SECTOR_SHIFT : stop - bio.sector << SECTOR_SHIFT] = (
                cow.content(new * size + start - chunk * size, stop - start)
            )
    return True


def _write_snapshot(snapshot: Snapshot, bio: Bio) -> bool:
    """Whole fresh chunks of a snapshot: they need no copy."""
    cow = snapshot.cow
    size = snapshot.store.chunk_sectors
    if (
        type(cow) is not Disk
        or snapshot.io_sectors(bio, snapshot.start, _LONG) != size
        or snapshot.start % size
        or bio.sector % size
        or bio.sectors % size
    ):
        return False
    first, count = bio.sector // size, bio.sectors // size
    if (
        count < PIECES_MIN
        or not snapshot.complete.is_free(first, count)
        or not snapshot.takes_extent(count)
        or not snapshot.world.clock.pass_points(count - 1)
    ):
        return False
    data = bio.data
    assert data is not None
    for old, new, length in _make_exceptions(snapshot, cow, [(first, count)]):
        start = old * size - bio.sector << SECTOR_SHIFT
        cow.view(new * size, length * size)[:] = data[
            start : start + (length * size << SECTOR_SHIFT)
        ]
    return True


def _write_origin(target: Origin, bio: Bio) -> bool:
    """An origin: every snapshot copies what it lacks, then the data goes to the origin."""
    origin = target.device
    sector = bio.sector
    end = sector + bio.sectors
    if not target.split_boundary:
        return False
    boundary = target.io_sectors(bio, 0, _LONG)
    pieces = (end - 1) // boundary - sector // boundary + 1
    if type(origin) is not Disk or pieces < PIECES_MIN or end > origin.sectors:
        return False
    copies: list[tuple[Snapshot, Chunks]] = []
    cows: list[BlockDevice] = [origin]
    waits_from = end
    for snapshot in target.origins.snapshots(origin):
        if snapshot.is_merge or not snapshot.at_rest():
            return False
        if not snapshot.valid or not snapshot.active or sector >= snapshot.table.sectors:
            continue
        size = snapshot.store.chunk_sectors
        if end > snapshot.table.sectors and snapshot.table.sectors % size:
            # What lies beyond the snapshot waits for no copy, and may be in the last chunk.
            return False
        lacks = list(
            _lacking(
                snapshot.complete,
                sector // size,
                (min(end, snapshot.table.sectors) - 1) // size + 1,
            )
        )
        if not lacks:
            continue
        if (
            boundary > size
            or type(snapshot.cow) is not Disk
            or snapshot.cow in cows
            or not snapshot.takes_extent(sum(count for _, count in lacks))
        ):
            return False
        copies.append((snapshot, lacks))
        cows.append(snapshot.cow)
        waits_from = min(waits_from, max(sector, lacks[0][0] * size))
    # Once the first piece waits, there are workers that may overtake.
    if not target.world.clock.pass_points(
        max(0, pieces - 1 - (waits_from // boundary - sector // boundary))
    ):
        return False
    for snapshot, lacks in copies:
        _copy(snapshot, lacks, origin)
    assert bio.data is not None
    origin.expect(sector, bio.sectors)
    origin.view(sector, bio.sectors)[:] = bio.data
    return True


def _copy(snapshot: Snapshot, lacks: Chunks, origin: Disk) -> None:
    size = snapshot.store.chunk_sectors
    cow = snapshot.cow
    assert isinstance(cow, Disk)
    for old, new, length in _make_exceptions(snapshot, cow, lacks):
        # The last chunk is copied up to the end of the origin.
        sectors = min(length * size, origin.sectors - old * size)
        cow.view(new * size, sectors)[:] = origin.content(old * size, sectors)


def _make_exceptions(snapshot: Snapshot, cow: Disk, ranges: Chunks) -> list[Extent]:
    chunks = sum(count for _, count in ranges)
    # The data, the areas between, each with 32 entries or more, and the area that is zeroed ahead.
    cow.expect(
        snapshot.store.usage()[0], (chunks + chunks // 32 + 2) * snapshot.store.chunk_sectors
    )
    return snapshot.make_exceptions(ranges)


def _lacking(table: ExceptionTable, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges of chunks without an exception."""
    if table.is_free(first, end - first):
        yield first, end - first
        return
    start = first
    for chunk in range(first, end):
        if table.lookup(chunk) >= 0:
            if start < chunk:
                yield start, chunk - start
            start = chunk + 1
    if start < end:
        yield start, end - start
