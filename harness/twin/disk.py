"""A plain disk: memory that bios read and write, without latency or faults of its own.

The memory is an anonymous mapping, so a disk of many GiB costs what is written to it; which parts
were ever written is remembered, so that nobody has to look at the rest.  A disk completes a bio
before `submit` returns, as the kernel's ram disk does.
"""

import errno
import mmap
from collections.abc import Iterator
from typing import Final

from harness.twin.bio import Bio, BlockDevice, Op
from harness.twin.limits import Limits
from harness.units import SECTOR_BYTES, SECTOR_SHIFT

PAGE_SECTORS: Final = 8
_REGION_SHIFT: Final = 11
_REGION_SECTORS: Final = 1 << _REGION_SHIFT


class Disk:
    """``sectors`` sectors of zeros, with the queue limits of a real disk."""

    def __init__(self, name: str, sectors: int, limits: Limits, max_sectors: int) -> None:
        self.name = name
        self.sectors = sectors
        self.limits = limits
        self.block_sectors = limits.logical_block // SECTOR_BYTES
        self.max_sectors = max_sectors
        self.read_only = False
        self.openers = 0
        self.suspended = False
        self.announced = True
        self.discard = False
        self.write_cache = False
        self._written = bytearray((sectors >> _REGION_SHIFT) + 1)
        self._memory = memoryview(mmap.mmap(-1, sectors << SECTOR_SHIFT))

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
        elif op == Op.DISCARD and not self.discard:
            bio.end(errno.EOPNOTSUPP)
        else:
            # A ram disk frees the pages that lie wholly inside, and leaves the rest as it is.
            first += -first % PAGE_SECTORS
            end -= end % PAGE_SECTORS
            if first < end:
                self._memory[first << SECTOR_SHIFT : end << SECTOR_SHIFT] = bytes(
                    end - first << SECTOR_SHIFT)
            bio.end()

    def below(self) -> list[BlockDevice]:
        """A disk stands on nothing."""
        return []

    def view(self, sector: int, sectors: int) -> memoryview:
        """The bytes of a range, to be written."""
        first, last = sector >> _REGION_SHIFT, sector + sectors - 1 >> _REGION_SHIFT
        self._written[first] = 1
        if last != first:
            self._written[first : last + 1] = bytes(b"\1" * (last + 1 - first))
        return self._memory[sector << SECTOR_SHIFT : (sector + sectors) << SECTOR_SHIFT]

    def content(self, sector: int, sectors: int) -> memoryview:
        """The bytes of a range, to be read."""
        return self._memory[sector << SECTOR_SHIFT : (sector + sectors) << SECTOR_SHIFT]

    def regions(self) -> Iterator[tuple[int, memoryview | None]]:
        """The whole disk in pieces: length in sectors, and bytes, None if never written."""
        for region in range(0, self.sectors, _REGION_SECTORS):
            end = min(region + _REGION_SECTORS, self.sectors)
            written = self._written[region >> _REGION_SHIFT]
            yield end - region, (self._memory[region << SECTOR_SHIFT : end << SECTOR_SHIFT]
                                 if written else None)
