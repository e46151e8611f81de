"""The page cache of a block device, for a series of system calls.

Kernel: fs/buffer.c, fs/mpage.c, mm/readahead.c, mm/filemap.c, as block/fops.c uses them.  The cache
is made of blocks.  A write reads the parts of its first and last block that it does not write, page
by page, and stops before the page where that fails; kernels that write by iomap (fs/iomap) retry
once if they came there from another page.  A read requests all its pages at once; if
that fails, it goes on page by page, block by block.  Write-back writes the dirty blocks,
one bio for each, in ascending order.

Left out: pages larger than 4096 bytes, and large folios, which kernels with transparent huge pages
use for block devices since 6.15.
"""

import errno
from typing import Final, Protocol

from harness.twin.bio import RAHEAD, READ, WRITE, Bio, BlockDevice, EndIo, Op
from harness.twin.disk import PAGE_SECTORS
from harness.units import SECTOR_SHIFT

_BIO_PAGES_MAX: Final = 256


class Submit(Protocol):
    """Submits all, with or without a plug, and waits for all; an errno if one has failed."""

    def __call__(self, device: BlockDevice, bios: list[Bio], /, *, plugged: bool = False) -> int:
        """The errno of the last one that failed, or 0."""


def cache_block_sectors(device: BlockDevice) -> int:
    """Block size of the page cache of a device that is opened now (``set_init_blocksize``)."""
    block = device.block_sectors
    while block < PAGE_SECTORS and not device.sectors & block:
        block <<= 1
    return block


class PageCache:
    """What is cached of ``device``, empty at first."""

    def __init__(
        self, device: BlockDevice, submit: Submit, end_io: EndIo, *, asks_again: bool
    ) -> None:
        self._device = device
        self._asks_again = asks_again
        self._submit = submit
        self._end_io = end_io
        # While a device stays open it keeps the block size from when it was opened.
        self._block = device.opened_block_sectors or cache_block_sectors(device)
        self._blocks: dict[int, bytearray] = {}
        self._dirty: set[int] = set()
        self._asked_end = 0

    def _bio(self, op: Op, sector: int, sectors: int, data: memoryview) -> Bio:
        """A bio, cut at the end of the device (kernel: ``guard_bio_eod``)."""
        inside = min(sectors, self._device.sectors - sector)
        return Bio(op, sector, inside, data[: inside << SECTOR_SHIFT], self._end_io)

    def _read_blocks(self, starts: list[int]) -> bool:
        """Read blocks that are not cached yet; False if one cannot be read."""
        fresh = {
            start: bytearray(self._block << SECTOR_SHIFT)
            for start in starts
            if start not in self._blocks
        }
        bios = [
            self._bio(READ, start, self._block, memoryview(content))
            for start, content in fresh.items()
        ]
        if bios:
            self._submit(self._device, bios)
        self._blocks |= {bio.sector: fresh[bio.sector] for bio in bios if not bio.error}
        return not any(bio.error for bio in bios)

    # -- writes --

    def write(self, sector: int, data: memoryview) -> tuple[int, int]:
        """One ``pwrite``: sectors that were accepted, and the errno if there were none."""
        wanted = len(data) >> SECTOR_SHIFT
        end = min(sector + wanted, self._device.sectors)
        at = began = sector
        if at >= end:
            return 0, errno.ENOSPC
        while at < end:
            stop = min(end, at - at % PAGE_SECTORS + PAGE_SECTORS)
            if not self._write_page(
                at, stop, data[at - sector << SECTOR_SHIFT : stop - sector << SECTOR_SHIFT]
            ):
                if not self._asks_again or at == began:
                    break
                began = at
                continue
            at = stop
        return at - sector, 0 if at > sector else errno.EIO

    def _write_page(self, first: int, end: int, data: memoryview) -> bool:
        """A part of one page (``__block_write_begin_int``); False if that cannot be read."""
        block = self._block
        starts = range(first - first % block, end, block)
        if not self._read_blocks(
            [start for start in starts if start < first or start + block > end]
        ):
            return False
        for start in starts:
            content = self._blocks.setdefault(start, bytearray(block << SECTOR_SHIFT))
            low, high = max(start, first), min(start + block, end)
            content[low - start << SECTOR_SHIFT : high - start << SECTOR_SHIFT] = data[
                low - first << SECTOR_SHIFT : high - first << SECTOR_SHIFT
            ]
            self._dirty.add(start)
        return True

    def write_back(self) -> int:
        """Write the dirty blocks (``block_write_full_folio``); the errno of one that failed."""
        bios = [
            self._bio(WRITE, start, self._block, memoryview(self._blocks[start]))
            for start in sorted(self._dirty)
        ]
        self._dirty.clear()
        return self._submit(self._device, bios, plugged=True) if bios else 0

    # -- reads --

    def read(self, sector: int, sectors: int) -> tuple[bytearray, int]:
        """One ``pread``: bytes, fewer at the end of the device or where an error is; the errno."""
        end = min(sector + sectors, self._device.sectors)
        data = bytearray()
        at = sector
        while at < end:
            page = at - at % PAGE_SECTORS
            stop = min(page + PAGE_SECTORS, self._device.sectors)
            blocks = range(page, stop, self._block)
            if page >= self._asked_end and not self._is_there(page):
                self._read_ahead(page, end)
            # If that failed, block by block (``block_read_full_folio``).
            if not self._read_blocks(list(blocks)):
                return data, 0 if data else errno.EIO
            content = b"".join(self._blocks[start] for start in blocks)
            stop = min(stop, end)
            data += content[at - page << SECTOR_SHIFT : stop - page << SECTOR_SHIFT]
            at = stop
        return data, 0

    def _is_there(self, page: int) -> bool:
        """Whether a page is cached, if only some blocks of it."""
        return any(start in self._blocks for start in range(page, page + PAGE_SECTORS, self._block))

    def _read_ahead(self, page: int, end: int) -> None:
        """Request the pages up to ``end`` that are not cached.

        Kernel: ``force_page_cache_ra``, ``mpage_readahead``.
        """
        device = self._device
        pages_max = max(device.limits.max_sectors // PAGE_SECTORS, device.readahead_pages)
        end = min(end, page + pages_max * PAGE_SECTORS)
        end += -end % PAGE_SECTORS
        self._asked_end = end
        bios = []
        while page < min(end, device.sectors):
            if self._is_there(page):
                page += PAGE_SECTORS
                continue
            stop = min(end, page + _BIO_PAGES_MAX * PAGE_SECTORS)
            sectors = (
                next(
                    (there for there in range(page, stop, PAGE_SECTORS) if self._is_there(there)),
                    stop,
                )
                - page
            )
            bio = self._bio(READ, page, sectors, memoryview(bytearray(sectors << SECTOR_SHIFT)))
            bio.flags = RAHEAD
            bios.append(bio)
            page += sectors
        self._submit(device, bios, plugged=True)
        size = self._block << SECTOR_SHIFT
        for bio in bios:
            if not bio.error:
                assert bio.data is not None
                for offset in range(0, bio.sectors, self._block):
                    found = bytes(bio.data[offset << SECTOR_SHIFT :][:size])
                    self._blocks[bio.sector + offset] = bytearray(found.ljust(size, b"\0"))
