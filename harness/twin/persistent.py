"""The persistent exception store (kernel: dm-snap-persistent.c).

In memory there is one metadata area, kept as the bytes that go to disk: what lies behind the end
marker is written back untouched, as in the kernel.  Exceptions are committed in the order in which
they were allocated; the area is written when the last pending one is in it, or when it is full.
Before a full area is written, the next one is zeroed, so a reader always finds the end.

For the layout of the COW device see `harness.store.layout`.
"""

import errno
from collections.abc import Callable
from typing import Final

import numpy as np

from harness.errors import KernelCrash
from harness.store.layout import (
    ENTRY,
    HEADER_CHUNK,
    SNAP_MAGIC,
    SNAPSHOT_DISK_VERSION,
    DiskHeader,
    area_chunk,
    entries_per_area,
)
from harness.twin.arguments import CtrError
from harness.twin.bio import FUA, PREFLUSH, READ, WRITE, Bio, BlockDevice, Op
from harness.twin.exception_store import Committed, ExceptionStore, Extent, Then
from harness.twin.exceptions.table import Pairs
from harness.twin.world import World
from harness.units import SECTOR_SHIFT

DEFAULT_CHUNK_SECTORS = 32
"""Chunk size when the table says 0 (kernel: ``DM_CHUNK_SIZE_DEFAULT_SECTORS``)."""
PREFETCH_AREAS = 12
"""How many areas are read ahead when a store is loaded (kernel: ``DM_PREFETCH_CHUNKS``)."""
_U64 = (1 << 64) - 1


_SLAB_SECTORS_MAX: Final = 8192
"""dm-bufio has longer blocks from vmalloc."""


class PersistentStore(ExceptionStore):
    """Store type P, or PO if it may overflow without being invalidated."""

    type_letter = "P"
    can_merge = True

    def __init__(self, world: World, cow: BlockDevice, origin: BlockDevice) -> None:
        super().__init__(world, cow, origin)
        self.valid = True
        self.version = SNAPSHOT_DISK_VERSION
        self.next_free = 2
        self.area = 0
        self.committed = 0
        self._stepped_back = False  # a merge could not read the area that it went on to
        self.pending = 0
        self.entries = 0
        self._area_bytes = bytearray()
        self._callbacks: list[Committed] = []

    def parse_options(self, options: str) -> None:
        """``O`` lets the snapshot overflow; what follows the O is ignored."""
        if not options:
            return
        if options[0].upper() != "O":
            self._log(f"Unsupported persistent store option: {options}")
            raise CtrError("Exception store type constructor failed", errno.EINVAL)
        self.overflow_supported = True

    def _log(self, text: str) -> None:
        self.world.log(f"persistent snapshot: {text}")

    # -- chunk I/O --

    def _chunk_io(
        self,
        op: Op,
        chunk: int,
        data: bytearray | bytes,
        then: Callable[[int], None],
        flags: int = 0,
    ) -> None:
        """Read or write one whole chunk; ``then(errno)``.

        The caller waits while a worker of the store does it (kernel: ``do_metadata``).
        """
        sectors = self.chunk_sectors
        bio = Bio(op, chunk * sectors, sectors, memoryview(data), lambda bio: then(bio.error))
        bio.flags = flags
        if self.world.clock.plug is None:
            self.cow.submit(bio)
        else:
            with self.world.clock.another_task():
                self.cow.submit(bio)

    def _chunk_io_sync(self, op: Op, chunk: int, data: bytearray | bytes) -> int:
        """The same, waiting; for a constructor. Returns the errno."""
        errors: list[int] = []
        self._chunk_io(op, chunk, data, errors.append)
        self.world.clock.wait_until(lambda: bool(errors))
        return errors[0]

    def _chunk_bytes(self) -> int:
        return self.chunk_sectors << SECTOR_SHIFT

    def _header(self) -> bytes:
        """Chunk 0: 16 bytes, the rest zero."""
        header = DiskHeader(SNAP_MAGIC, int(self.valid), self.version, self.chunk_sectors)
        return header.pack().ljust(self._chunk_bytes(), b"\0")

    # -- loading --

    def read_metadata(self, add: Callable[[Pairs], None]) -> bool:
        """Read the header and every area, or make a new store (``persistent_read_metadata``)."""
        if self._read_header():
            if self._chunk_io_sync(WRITE, HEADER_CHUNK, self._header()):
                self._log("write_header failed")
                raise OSError(errno.EIO, "header")
            self._area_bytes = bytearray(self._chunk_bytes())
            if self._chunk_io_sync(WRITE, area_chunk(0, self.entries), self._area_bytes):
                self._log("zero_disk_area(0) failed")
                raise OSError(errno.EIO, "area 0")
            return True
        if self.version != SNAPSHOT_DISK_VERSION:
            self._log(f"unable to handle snapshot disk version {self.version}")
            raise OSError(errno.EINVAL, "version")
        if not self.valid:
            return False
        if self.chunk_sectors > _SLAB_SECTORS_MAX:
            self.world.defect("bufio-vmalloc-warning")
        self._read_areas(add)
        return True

    def _read_header(self) -> bool:
        """True if there is no store yet (kernel: ``read_header``)."""
        from_table = self.chunk_sectors
        if not from_table:
            self.chunk_sectors = max(DEFAULT_CHUNK_SECTORS, self.cow.block_sectors)
        data = bytearray(self._chunk_bytes())
        if self._chunk_io_sync(READ, HEADER_CHUNK, data):
            raise OSError(errno.EIO, "header")
        header = DiskHeader.unpack(data)
        if header.magic == 0:
            self.entries = entries_per_area(self.chunk_sectors)
            return True
        if header.magic != SNAP_MAGIC:
            self._log("Invalid or corrupt snapshot")
            raise OSError(errno.ENXIO, "magic")
        self.valid = header.valid != 0
        self.version = header.version
        if header.chunk_sectors != self.chunk_sectors:
            if from_table:
                self._log(
                    f"chunk size {header.chunk_sectors} in device metadata overrides table "
                    f"chunk size of {from_table}."
                )
            fault = self.set_chunk_sectors(header.chunk_sectors)
            if fault is not None:
                self._log(f"invalid on-disk chunk size {header.chunk_sectors}: {fault}.")
                raise OSError(errno.EINVAL, "chunk size")
        self.entries = entries_per_area(self.chunk_sectors)
        return False

    def _read_areas(self, add: Callable[[Pairs], None]) -> None:
        """Area after area, until one is not full (kernel: ``read_exceptions``)."""
        self.area = 0
        full: list[Pairs] = []
        reader = _AreaReader(self)
        while True:
            data = reader.read(self.area)
            if data is None:
                raise OSError(errno.EIO, f"area {self.area}")
            pairs = np.frombuffer(data, dtype="<u8").reshape(-1, 2)
            end = np.flatnonzero(pairs[:, 1] == 0)
            if len(end):
                self.committed = int(end[0])
                self._area_bytes = data
                full.append(pairs[: self.committed])
                break
            full.append(pairs)
            self.area += 1
        if self.world.profile.fixed and any(self._rotten(pairs) for pairs in full):
            raise OSError(errno.EINVAL, "an entry leads nowhere")
        for pairs in full:
            self._count_as_used(pairs[:, 1])
        self._skip_metadata()
        add(np.concatenate(full))

    def _rotten(self, pairs: Pairs) -> bool:
        """Whether an entry leads to no data chunk of the COW device; the kernel does not check."""
        new = pairs[:, 1]
        chunks = self.cow.sectors // self.chunk_sectors
        return bool((new >= chunks).any() or (new % np.uint64(self.entries + 1) == 1).any())

    def _count_as_used(self, new: Pairs) -> None:
        """Let the next free chunk be behind all of ``new`` (kernel: ``insert_exceptions``)."""
        if not len(new):
            return
        greatest = int(new.max())
        if greatest == _U64:
            # It wraps around; from then on it depends on what follows.
            for chunk in new.tolist():
                if self.next_free <= chunk:
                    self.next_free = chunk + 1 & _U64
        elif self.next_free <= greatest:
            self.next_free = greatest + 1

    # -- allocation and commit --

    def _skip_metadata(self) -> None:
        if self.next_free % (self.entries + 1) == 1:
            self.next_free += 1

    def prepare_exception(self) -> int:
        """Kernel: ``persistent_prepare_exception``."""
        new = self.next_free
        if self.cow.sectors < (new + 1) * self.chunk_sectors & _U64:
            return -1
        if new == HEADER_CHUNK:
            self.world.defect("store-overwrites-header")
        self.next_free = new + 1
        self._skip_metadata()
        self.pending += 1
        return new

    def commit_exception(
        self, old: int, new: int, copied: bool, acknowledge: Committed, then: Then
    ) -> None:
        """Kernel: ``persistent_commit_exception``."""
        if not copied:
            self.valid = False
        if self.committed == self.entries:
            # A merge failed when it had just started with this area.
            if not self.world.profile.fixed:
                raise KernelCrash(
                    "an exception is committed behind the end of its area: the "
                    "kernel stops (BUG_ON in get_exception)",
                    "write-after-failed-merge",
                )
            self._next_area()
        if self._stepped_back:
            # Over the first entry of an area that is full on the disk.
            self.world.defect("merge-skips-area")
        if self.committed and not self._entry(self.committed - 1)[1]:
            # Whoever reads the store again ends before it.
            self.world.defect("merge-header-over-origin")
        ENTRY.pack_into(self._area_bytes, self.committed * ENTRY.size, old, new)
        self.committed += 1
        self._callbacks.append(acknowledge)
        self.pending -= 1
        full = self.committed == self.entries
        if self.pending and not full:
            then()
        elif full:
            zeros = bytes(self._chunk_bytes())
            end = area_chunk(self.area + 1, self.entries) + 1
            if self.overflow_supported and end * self.chunk_sectors > self.cow.sectors:
                self.world.defect("overflow-becomes-invalid")
            self._chunk_io(
                WRITE,
                area_chunk(self.area + 1, self.entries),
                zeros,
                lambda error: self._write_area(error, then),
            )
        else:
            self._write_area(0, then)

    def _next_area(self) -> None:
        """Continue after a full area, in an empty one."""
        self.committed = 0
        self.area += 1
        self._area_bytes = bytearray(self._chunk_bytes())

    def _write_area(self, error: int, then: Then) -> None:
        if error:
            self.valid = False
        if self.valid:
            self._chunk_io(
                WRITE,
                area_chunk(self.area, self.entries),
                self._area_bytes,
                lambda error: self._area_written(error, then),
                PREFLUSH | FUA,
            )
        else:
            self._area_written(0, then)

    def _area_written(self, error: int, then: Then) -> None:
        if error:
            self.valid = False
        if self.committed == self.entries:
            self._next_area()
        if self.world.clock.stops():
            self.world.clock.soon(self._acknowledge, then)
        else:
            self._acknowledge(then)

    def _acknowledge(self, then: Then) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for acknowledge in callbacks:
            acknowledge(self.valid)
        then()

    # -- extents --

    def has_room(self, count: int) -> bool:
        """See `ExceptionStore.has_room`: on the disk, with the areas between and one ahead."""
        if not self.valid or self.pending or self.committed == self.entries:
            return False
        chunks = self.cow.sectors // self.chunk_sectors
        areas = (self.committed + count) // self.entries
        return (
            self.next_free + count + count // self.entries + 2 <= chunks
            and area_chunk(self.area + areas, self.entries) < chunks
        )

    def prepare_extent(self, count: int) -> list[tuple[int, int]]:
        """Ranges between areas; see `prepare_exception`."""
        ranges = []
        stride = self.entries + 1
        while count:
            new = self.next_free
            length = min(count, (area_chunk(0, self.entries) - new) % stride or stride)
            ranges.append((new, length))
            self.next_free = new + length
            self._skip_metadata()
            self.pending += length
            count -= length
        return ranges

    def commit_extents(self, extents: list[Extent]) -> None:
        """The last entry of each area, and the very last, is committed normally, and writes it."""
        for old, new, count in extents:
            done = 0
            while done < count:
                last = min(count, done + self.entries - self.committed) - 1
                start, end = self.committed, self.committed + last - done
                entries = np.frombuffer(self._area_bytes, dtype="<u8").reshape(-1, 2)
                entries[start:end, 0] = np.arange(old + done, old + last)
                entries[start:end, 1] = np.arange(new + done, new + last)
                self.committed = end
                self.pending -= last - done
                self.commit_exception(old + last, new + last, True, _nothing, _nothing)
                done = last + 1

    # -- merge --

    def prepare_merge(self, then: Callable[[int, int, int], None]) -> None:
        """Kernel: ``persistent_prepare_merge``."""
        if self.committed:
            self._find_run(then)
            return
        if self._stepped_back:
            self.world.defect("merge-skips-area" if self.area else "merge-silent-stop")
        if not self.area:
            then(0, 0, 0)
            return
        self.area -= 1

        def read(error: int) -> None:
            if error:
                # The area stays stepped back: the next attempt skips the one that failed.
                if self.world.profile.fixed:
                    self.area += 1
                    self._area_bytes = bytearray(self._chunk_bytes())
                else:
                    self._stepped_back = True
                then(-1, 0, 0)
                return
            self.committed = self.entries
            self._stepped_back = False
            self._find_run(then)

        self._chunk_io(READ, area_chunk(self.area, self.entries), self._area_bytes, read)

    def _entry(self, index: int) -> tuple[int, int]:
        old, new = ENTRY.unpack_from(self._area_bytes, index * ENTRY.size)
        return old, new

    def _find_run(self, then: Callable[[int, int, int], None]) -> None:
        """The longest run that ends with the last entry, within this area."""
        last = self.committed - 1
        last_old, last_new = self._entry(last)
        if last_new == HEADER_CHUNK:
            self.world.defect("merge-header-over-origin")
        chunks = 1
        while chunks <= last and self._entry(last - chunks) == (
            last_old - chunks,
            last_new - chunks,
        ):
            chunks += 1
        then(chunks, last_old, last_new)

    def commit_merge(self, chunks: int, then: Callable[[int], None]) -> None:
        """Kernel: ``persistent_commit_merge``."""
        end = self.committed * ENTRY.size
        start = (self.committed - chunks) * ENTRY.size
        entries = self._area_bytes[start:end]
        self._area_bytes[start:end] = bytes(end - start)

        def written(error: int) -> None:
            if error:
                # The entries stay zeroed, and counted: the next attempt merges zeros.
                if self.world.profile.fixed:
                    self._area_bytes[start:end] = entries
            else:
                self.committed -= chunks
                self.next_free = area_chunk(self.area, self.entries) + self.committed + 1
            then(error)

        self._chunk_io(
            WRITE, area_chunk(self.area, self.entries), self._area_bytes, written, PREFLUSH | FUA
        )

    def drop(self, then: Then) -> None:
        """Write the header with valid = 0 (kernel: ``persistent_drop_snapshot``)."""
        self.valid = False

        def written(error: int) -> None:
            if error:
                self._log("write header failed")
                self.world.defect("invalid-comes-back")
            then()

        self._chunk_io(WRITE, HEADER_CHUNK, self._header(), written)

    def all_merged(self) -> bool:
        """Whether a merge has come to its end."""
        return not self.area and not self.committed and not self._stepped_back

    def usage(self) -> tuple[int, int, int]:
        """Kernel: ``persistent_usage``."""
        sectors = self.chunk_sectors
        return (self.next_free * sectors & _U64, self.cow.sectors, (self.area + 2) * sectors)

    def table_line(self) -> str:
        """``P <chunk size>`` or ``PO <chunk size>``."""
        return f"{'PO' if self.overflow_supported else 'P'} {self.chunk_sectors}"


class _AreaReader:
    """Reads areas in order, and some ahead of them, as the kernel does with dm-bufio.

    An area is read once; an error in one that was read ahead counts when its turn comes.
    """

    def __init__(self, store: PersistentStore) -> None:
        self._store = store
        self._ahead = 0
        self._read: dict[int, tuple[bytearray, list[int]]] = {}

    def read(self, area: int) -> bytearray | None:
        """The bytes of ``area``; None if they cannot be read."""
        store = self._store
        chunks = store.cow.sectors // store.chunk_sectors
        while self._ahead <= area + PREFETCH_AREAS and (
            area_chunk(self._ahead, store.entries) < chunks
        ):
            self._submit(self._ahead)
            self._ahead += 1
        if area not in self._read:
            self._submit(area)
        data, errors = self._read.pop(area)
        store.world.clock.wait_until(lambda: bool(errors))
        return None if errors[0] else data

    def _submit(self, area: int) -> None:
        data = bytearray(self._store.chunk_sectors << SECTOR_SHIFT)
        errors: list[int] = []
        self._read[area] = data, errors
        self._store._chunk_io(READ, area_chunk(area, self._store.entries), data, errors.append)


def _nothing(success: bool = True) -> None:
    """Nobody waits."""
    del success
