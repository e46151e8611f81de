"""The exception store as a value: read it as the kernel does, write it back byte for byte.

`parse` follows ``persistent_read_metadata`` and ``read_exceptions`` of dm-snap-persistent.c: which
fields are looked at, in which order, and what is *not* looked at.  Entries are taken as they are;
`harness.store.check` is what doubts them.

Areas are kept raw, with whatever follows the end marker: the kernel writes those bytes back
too, and a stale entry becomes live again once the marker before it is overwritten.  There is no
checksum, so an area of which only some sectors reached the disk looks like a complete one.

Memory: 16 bytes for each entry of the areas that are on the device, plus about a megabyte.  What
a header merely claims is never allocated.  `survey` gives a store that keeps its last area alone,
and reads the others again whenever they are asked for; `iter_exceptions` holds one block at a time.

Not modelled: the three buffers that the kernel allocates (a chunk size of 1 GiB needs 3 GiB there),
and the chunk size of the table, with which the kernel first reads chunk 0.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from harness.errors import MalformedStore
from harness.store.device import SCAN_BYTES, Device, Source, opened, read_range, trimmed
from harness.store.layout import (
    ENTRY,
    HEADER,
    HEADER_FIELDS,
    SNAP_MAGIC,
    SNAPSHOT_DISK_VERSION,
    DiskHeader,
    area_chunk,
    chunk_size_fault,
    entries_per_area,
)
from harness.units import SECTOR_BYTES, Bytes, Chunk, Sector, bytes_of_sectors, sector_of_chunk

ENTRY_DTYPE: Final = np.dtype([("old", "<u8"), ("new", "<u8")])
Entries = npt.NDArray[Any]
"""Structured array of `ENTRY_DTYPE`: fields ``old`` and ``new``."""

FIRST_FREE_CHUNK: Final = Chunk(2)
_WRAP: Final = (1 << 64) - 1


def _no_entries() -> Entries:
    return np.empty(0, ENTRY_DTYPE)


class State(Enum):
    """What the kernel makes of the header."""

    NEW = "new"
    """Magic 0: a load writes a fresh header and a zeroed area; nothing else is looked at."""
    VALID = "valid"
    INVALID = "invalid"
    """Valid 0: the table loads, the snapshot is Invalid, no exception is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """An exception store, independent of the device that it was read from.

    Attributes:
        state: new, valid or invalid; only a valid store has areas.
        header: the 16 bytes of the header, whatever they contain.
        header_chunk: chunk 0 without its trailing zeros (of a new store: its first sector).
        size_bytes: size of the COW device.
        blocks: raw areas, in order, as read-only arrays of shape (areas, entries); in memory, or
            read anew by each that goes through them.
        area_count: areas in them: all full ones and the one that is not.
        last: the last of them; empty where there is none.
        committed: entries used in the last area (kernel: ``current_committed``).
        next_free: the chunk to be handed out next (kernel: ``next_free``).
    """

    state: State
    header: DiskHeader
    header_chunk: bytes
    size_bytes: Bytes
    blocks: Iterable[Entries] = field(default=(), repr=False)
    area_count: int = 0
    last: Entries = field(default_factory=_no_entries, repr=False)
    committed: int = 0
    next_free: Chunk = FIRST_FREE_CHUNK

    @property
    def chunk_sectors(self) -> Sector:
        """Chunk size; 0 if the store is new, since its header then means nothing."""
        return Sector(0 if self.state is State.NEW else self.header.chunk_sectors)

    @property
    def entries_per_area(self) -> int:
        """Entries in one area."""
        return entries_per_area(self.chunk_sectors)

    @property
    def last_area(self) -> int:
        """Index of the area that the next exception goes to (kernel: ``current_area``)."""
        return max(0, self.area_count - 1)

    @property
    def count(self) -> int:
        """Exceptions in the store."""
        return self.last_area * self.entries_per_area + self.committed

    @property
    def allocated_sectors(self) -> Sector:
        """The first number of the status line (kernel: ``persistent_usage``), of 64 bits."""
        return Sector(sector_of_chunk(self.next_free, self.chunk_sectors) & _WRAP)

    @property
    def metadata_sectors(self) -> Sector:
        """The third number of the status line: the header and every area up to the last."""
        return sector_of_chunk(self.last_area + 2, self.chunk_sectors)

    def area(self, index: int) -> Entries:
        """All entries of area ``index``, including those behind the end marker.

        Raises:
            IndexError: the store has no such area.
        """
        if index >= 0:
            for block in self.blocks:
                if index < len(block):
                    row: Entries = block[index]
                    return row
                index -= len(block)
        raise IndexError(f"the store has {self.area_count} areas")

    def exceptions(self) -> Iterator[Entries]:
        """The entries before the end marker, in the order of their commits, block by block.

        Raises:
            MalformedStore: the blocks are read anew, and the store has become another.
            OSError: they cannot be read any more.
        """
        left = self.count
        for block in self.blocks:
            flat = block.reshape(-1)[:left]
            left -= len(flat)
            yield flat
        if left:
            raise _changed()

    def stale(self) -> Entries:
        """The last area from its end marker on; all zero in a fresh store."""
        rest: Entries = self.last[self.committed :]
        return rest


def parse(device: Device) -> Store:
    """Read the store on ``device``, as far as the kernel would.

    Args:
        device: bytes, a map, a memoryview, or a seekable file opened in binary mode.

    Raises:
        MalformedStore: the kernel would refuse the table; says where and with which errno.
        OSError: the device cannot be read.
    """
    blocks: list[Entries] = []
    return _read(device, blocks.append, blocks)


def survey(device: Device, tell: Callable[[int], None] = lambda _entries: None) -> Store:
    """The same in little memory: the areas of the store are read anew whenever they are asked for.

    Args:
        device: as for `parse`; it has to stay open, and as it is.
        tell: is told how many entries each block had, when it has been read.

    Raises:
        MalformedStore, OSError: as `parse`.
    """
    return _read(device, lambda block: tell(block.size), _Anew(device))


class _Anew:
    """The areas of a store that was read before, block by block, as often as one likes."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __iter__(self) -> Iterator[Entries]:
        with opened(self._device) as source:
            state, header = _read_header(source)
            if state is State.VALID:
                for block, _ in _read_areas(source, header.chunk_sectors):
                    yield block


def _read(device: Device, take: Callable[[Entries], None], blocks: Iterable[Entries]) -> Store:
    """`parse`, with each block handed to ``take``; ``blocks`` is what the store keeps."""
    with opened(device) as source:
        state, header = _read_header(source)
        if state is not State.VALID:
            length = SECTOR_BYTES if state is State.NEW else bytes_of_sectors(header.chunk_sectors)
            return Store(
                state,
                header,
                trimmed(source, min(length, source.size_bytes)),
                Bytes(source.size_bytes),
            )
        next_free: int = FIRST_FREE_CHUNK
        area_count = committed = 0
        last = _no_entries()
        for block, used in _read_areas(source, header.chunk_sectors):
            block.flags.writeable = False
            next_free = _advance(next_free, block.reshape(-1)[:used])
            area_count += len(block)
            committed = used - (len(block) - 1) * block.shape[1]
            last = block[-1]
            take(block)
        return Store(
            state,
            header,
            trimmed(source, bytes_of_sectors(header.chunk_sectors)),
            Bytes(source.size_bytes),
            blocks,
            area_count,
            last,
            committed,
            _skip_metadata(next_free, header.chunk_sectors),
        )


def _changed() -> MalformedStore:
    return MalformedStore(
        "the store became another one while it was read: is a snapshot active on it?",
        offset=0,
        field="areas",
        errno="EIO",
    )


def iter_exceptions(device: Device) -> Iterator[Entries]:
    """The exceptions on ``device``, block by block, no more than one block in memory.

    A fault behind the first blocks is raised after those have been handed out.

    Raises:
        MalformedStore: as `parse`.
        OSError: the device cannot be read.
    """
    with opened(device) as source:
        state, header = _read_header(source)
        if state is State.VALID:
            for block, used in _read_areas(source, header.chunk_sectors):
                yield block.reshape(-1)[:used]


def serialise(store: Store, device: BinaryIO | bytearray | memoryview) -> None:
    """Write header and areas of ``store`` to their places; data chunks are left alone.

    ``device`` is writable and at least as large as the one that the store was read from.

    Raises:
        ValueError: ``device`` is too small.
        OSError: the device cannot be written.
    """
    target = (
        _FileSink(device) if hasattr(device, "write") else _MemorySink(memoryview(device).cast("B"))
    )
    if target.size_bytes < store.size_bytes:
        raise ValueError(
            f"a device of {target.size_bytes} bytes is too small for a store "
            f"made for {store.size_bytes} bytes"
        )
    end = min(
        store.size_bytes,
        SECTOR_BYTES if store.state is State.NEW else bytes_of_sectors(store.chunk_sectors),
    )
    target.write(0, store.header_chunk)
    for start in range(len(store.header_chunk), end, SCAN_BYTES):
        target.write(start, bytes(min(SCAN_BYTES, end - start)))
    chunk_bytes = bytes_of_sectors(store.chunk_sectors)
    index = 0
    for block in store.blocks:
        for area in block:
            target.write(
                area_chunk(index, store.entries_per_area) * chunk_bytes,
                memoryview(area.view(np.uint8)),
            )
            index += 1


class _MemorySink:
    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.size_bytes = len(view)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._view[offset : offset + len(data)] = data


class _FileSink:
    def __init__(self, file: Any) -> None:
        self._file = file
        self.size_bytes = file.seek(0, 2)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._file.seek(offset)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _read_header(source: Source) -> tuple[State, DiskHeader]:
    """The checks of ``read_header`` and ``persistent_read_metadata``, in their order."""
    if source.size_bytes < SECTOR_BYTES:
        raise MalformedStore(
            f"the device has {source.size_bytes} bytes, not even one sector; the kernel cannot "
            "read the header (EIO). Is this the COW device?",
            offset=source.size_bytes,
            field="header",
            errno="EIO",
        )
    header = DiskHeader.unpack(read_range(source, 0, HEADER.size).tobytes())
    if header.magic == 0:
        return State.NEW, header
    if header.magic != SNAP_MAGIC:
        raise _header_fault(
            "magic",
            "ENXIO",
            f"{header.magic:#010x} is not {SNAP_MAGIC:#010x}: not an exception "
            "store. The kernel says 'Invalid or corrupt snapshot' (ENXIO); zero the first sector "
            "to start a new one",
        )
    # The kernel skips this check where table and disk agree; the table was checked then.
    if reason := chunk_size_fault(header.chunk_sectors, 1):
        raise _header_fault(
            "chunk_size",
            "EINVAL",
            f"invalid on-disk chunk size {header.chunk_sectors}: {reason} (EINVAL)",
        )
    if header.version != SNAPSHOT_DISK_VERSION:
        raise _header_fault(
            "version",
            "EINVAL",
            f"unable to handle snapshot disk version {header.version}, only "
            f"{SNAPSHOT_DISK_VERSION} (EINVAL)",
        )
    return (State.VALID if header.valid else State.INVALID), header


def _header_fault(name: str, errno: str, message: str) -> MalformedStore:
    return MalformedStore(message, offset=4 * HEADER_FIELDS.index(name), field=name, errno=errno)


def _read_areas(source: Source, chunk_sectors: int) -> Iterator[tuple[Entries, int]]:
    """Areas in blocks (areas, entries), each with the number of its used entries.

    Only the last block is partly used.  The first has one area and each further one twice as
    many, up to a megabyte: most stores are small, and for the others this reads ahead.
    """
    entries = entries_per_area(chunk_sectors)
    area_bytes = bytes_of_sectors(chunk_sectors)
    stride = (entries + 1) * area_bytes
    index = 0
    count = 1
    while True:
        offset = area_chunk(index, entries) * area_bytes
        room = (source.size_bytes - offset - area_bytes) // stride + 1
        if room <= 0:
            raise _missing_area(source, index, offset, area_bytes)
        raw = np.empty((min(count, room), area_bytes), dtype=np.uint8)
        rows = source.rows(offset, stride, raw)
        block = raw[:rows].view(ENTRY_DTYPE)
        # A minimum needs no array of its own, unlike a comparison.
        marked = np.flatnonzero(block["new"].min(axis=1) == 0)
        if len(marked):
            last = int(marked[0])
            # Give back what was read ahead in vain.
            block = block[: last + 1] if last + 1 == len(raw) else block[: last + 1].copy()
            yield block, last * entries + _first_zero(block[last]["new"])
            return
        yield block, block.size
        index += rows
        count = max(1, min(2 * count, SCAN_BYTES // area_bytes))


def _missing_area(source: Source, index: int, offset: int, area_bytes: int) -> MalformedStore:
    why = f"area {index - 1} is full and " if index else ""
    where = (
        "lies beyond the device"
        if offset >= source.size_bytes
        else f"is torn: only {source.size_bytes - offset} of its {area_bytes} bytes are on "
        "the device"
    )
    return MalformedStore(
        f"{why}area {index} {where}, which ends at byte {source.size_bytes}; the kernel says "
        "'Failed to read snapshot metadata' (EIO). Is the COW device complete?",
        offset=offset,
        field=f"area {index}",
        errno="EIO",
    )


def _first_zero(new: npt.NDArray[np.uint64]) -> int:
    """Index of the first zero in ``new``, which has one; scanned in pieces to save memory."""
    piece = SCAN_BYTES // ENTRY.size
    for start in range(0, len(new), piece):
        found = np.flatnonzero(new[start : start + piece] == 0)
        if len(found):
            return start + int(found[0])
    raise AssertionError("the caller has seen a zero")


def _advance(next_free: int, entries: Entries) -> int:
    """``next_free`` after ``insert_exceptions`` saw ``entries``.

    The kernel sets it to new_chunk + 1 whenever it is not greater than new_chunk, in 64 bits: a
    new_chunk of all ones always does that, and leaves 0.
    """
    piece = SCAN_BYTES // ENTRY.size
    for start in range(0, len(entries), piece):
        new = entries["new"][start : start + piece]
        greatest = int(new.max())
        if greatest == _WRAP:
            new = new[int(np.flatnonzero(new == greatest)[-1]) + 1 :]
            next_free = 0
            greatest = int(new.max()) if len(new) else -1
        next_free = max(next_free, greatest + 1)
    return next_free


def _skip_metadata(next_free: int, chunk_sectors: int) -> Chunk:
    stride = entries_per_area(chunk_sectors) + 1
    return Chunk(next_free + 1 if next_free % stride == 1 else next_free)
