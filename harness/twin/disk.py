"""A plain disk: memory that bios read and write, without latency or faults.

The memory is an anonymous mapping, so a disk of many GiB costs only what is written to it; which
parts were ever written is remembered, so that the rest need not be looked at.  A disk completes a
bio before `submit` returns, as the kernel's ram disk does.
"""

import errno
import mmap
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np

from harness.errors import BadScenario
from harness.trace.bounds import WRITTEN_SECTORS_MAX
from harness.twin.bio import Bio, BlockDevice, Op
from harness.twin.limits import Limits
from harness.units import SECTOR_BYTES, SECTOR_SHIFT, bytes_of_sectors

PAGE_SECTORS: Final = 8
_REGION_SHIFT: Final = 11
_REGION_SECTORS: Final = 1 << _REGION_SHIFT
# Private, for large pages; without a reserve, or a disk of TiB would be refused.  Python
# has a name for the last flag since 3.13; this is its number on x86, Arm, RISC-V and s390.
_FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | int(getattr(mmap, "MAP_NORESERVE", 0x4000))
_LONG_SECTORS: Final = 1024
_LARGE_PAGE: Final = 2 << 20


class Memory:
    """How much the disks of a world may hold; a first write to a place of a disk takes from it."""

    __slots__ = ("_left",)

    def __init__(self, sectors: int = WRITTEN_SECTORS_MAX) -> None:
        self._left = sectors

    def take(self, sectors: int) -> None:
        """Take so much.

        Raises:
            BadScenario: not enough is left.
        """
        self._left -= sectors
        if self._left < 0:
            raise BadScenario(
                f"what is written to the disks takes more than "
                f"{bytes_of_sectors(WRITTEN_SECTORS_MAX) >> 20} MiB: write less"
            )


class Disk:
    """``sectors`` sectors of zeros, with the queue limits of a real disk."""

    def __init__(
        self, name: str, sectors: int, limits: Limits, memory: Memory | None = None
    ) -> None:
        self.name = name
        self.sectors = sectors
        self.limits = limits
        self.block_sectors = limits.logical_block // SECTOR_BYTES
        self.read_only = False
        self.openers = 0
        self.suspended = False
        self.announced = True
        self.opened_block_sectors = 0
        self._room = memory or Memory()
        self.readahead_pages = limits.readahead_pages
        self._written = bytearray((sectors >> _REGION_SHIFT) + 1)
        self._map = mmap.mmap(-1, (sectors << SECTOR_SHIFT) + _LARGE_PAGE, flags=_FLAGS)
        # Large pages begin at multiples of their size.
        self._start = -int(np.frombuffer(self._map, np.uint8).ctypes.data) % _LARGE_PAGE
        self._memory = memoryview(self._map)[self._start :][: sectors << SECTOR_SHIFT]

    def submit(self, bio: Bio) -> None:
        """Do the I/O at once; beyond the end it fails (kernel: ``bio_check_eod``)."""
        op = bio.op
        first = bio.sector
        end = first + bio.sectors
        if end > self.sectors:
            bio.end(errno.EIO)
        elif op == Op.WRITE:
            assert bio.data is not None
            self.view(first, bio.sectors)[:] = bio.data
            bio.end()
        elif op == Op.READ:
            assert bio.data is not None
            bio.data[:] = self._memory[first << SECTOR_SHIFT : end << SECTOR_SHIFT]
            bio.end()
        elif op == Op.FLUSH:
            bio.end()
        elif op == Op.DISCARD and not self.limits.discard_sectors_max:
            bio.end(errno.EOPNOTSUPP)
        else:
            # A ram disk frees the pages that lie wholly inside, and leaves the rest as it is.
            first += -first % PAGE_SECTORS
            end -= end % PAGE_SECTORS
            self._forget(first, end)
            bio.end()

    def _forget(self, first: int, end: int) -> None:
        """Zeros instead of what was written to a range."""
        while first < end:
            region = first >> _REGION_SHIFT
            cut = min(end, region + 1 << _REGION_SHIFT)
            if self._written[region]:
                self._memory[first << SECTOR_SHIFT : cut << SECTOR_SHIFT] = bytes(
                    cut - first << SECTOR_SHIFT
                )
            first = cut

    def below(self) -> list[BlockDevice]:
        """A disk has no devices below."""
        return []

    def view(self, sector: int, sectors: int) -> memoryview:
        """The bytes of a range, to be written."""
        first, last = sector >> _REGION_SHIFT, sector + sectors - 1 >> _REGION_SHIFT
        if last == first:
            if not self._written[first]:
                self._room.take(_REGION_SECTORS)
                self._written[first] = 1
        elif fresh := self._written.count(0, first, last + 1):
            self._room.take(fresh * _REGION_SECTORS)
            self._written[first : last + 1] = b"\1" * (last + 1 - first)
        return self._memory[sector << SECTOR_SHIFT : (sector + sectors) << SECTOR_SHIFT]

    def expect(self, sector: int, sectors: int) -> None:
        """A range is about to be written: a long one may use large pages, which is faster."""
        if sectors >= _LONG_SECTORS:
            first = (sector << SECTOR_SHIFT) // _LARGE_PAGE
            end = -(-(sector + sectors << SECTOR_SHIFT) // _LARGE_PAGE)
            # A machine without them refuses, which does no harm.
            with suppress(OSError):
                self._map.madvise(
                    mmap.MADV_HUGEPAGE,
                    self._start + first * _LARGE_PAGE,
                    (end - first) * _LARGE_PAGE,
                )

    def content(self, sector: int, sectors: int) -> memoryview:
        """The bytes of a range, to be read."""
        return self._memory[sector << SECTOR_SHIFT : (sector + sectors) << SECTOR_SHIFT]

    def regions(self) -> Iterator[tuple[int, memoryview | None]]:
        """The whole disk in pieces: length in sectors, and bytes, None if never written."""
        for region in range(0, self.sectors, _REGION_SECTORS):
            end = min(region + _REGION_SECTORS, self.sectors)
            written = self._written[region >> _REGION_SHIFT]
            yield (
                end - region,
                (self._memory[region << SECTOR_SHIFT : end << SECTOR_SHIFT] if written else None),
            )
