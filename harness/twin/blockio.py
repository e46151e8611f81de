"""What a process does to a block device: O_DIRECT and page-cache I/O, flush, discard, zero-out.

Kernel: block/fops.c, block/ioctl.c, block/blk-lib.c.  Each call is one system call of a process
that waits for it to finish.  A direct request becomes one bio.  The page cache
(`harness.twin.page_cache`) exists for one step only: the step starts with an empty one and ends
with its dirty blocks written back.  What outlives a step is a write-back error that no fsync has
reported.
"""

import errno
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from harness.twin.bio import READ, WRITE, Bio, BlockDevice, Op
from harness.twin.clock import Clock
from harness.twin.extent import move_extent
from harness.twin.page_cache import PageCache
from harness.twin.plug import Plug
from harness.twin.profile import Profile, errno_of
from harness.units import SECTOR_SHIFT

ZEROOUT_SECTORS_MAX: Final = 2048
"""Longest bio of zero pages (``BIO_MAX_VECS`` pages)."""
IOCBS_UNPLUGGED_MAX: Final = 2
"""io_submit(2) plugs when it has more requests than this (fs/aio.c, ``AIO_PLUG_THRESHOLD``)."""


class BlockIO:
    """System calls on block devices of one world."""

    def __init__(self, clock: Clock, profile: Profile) -> None:
        self._clock = clock
        self._profile = profile
        self._unseen: dict[BlockDevice, int] = {}

    def _plugged(self) -> AbstractContextManager[None]:
        """What is submitted inside is sent at its end."""
        return self._clock.plugged(Plug(self._clock, reverses=self._profile.plug_reverses))

    def _submit(
        self, device: BlockDevice, bios: list[Bio], *, plugged: bool = False, sleeps: bool = False
    ) -> int:
        """Submit all, wait for all; the errno of the last one that failed.

        ``plugged`` says that they are submitted with a plug; ``sleeps``, that the process waits for
        them before it finishes the plug (``blkdev_issue_zeroout``, ``blkdev_issue_discard``).
        """
        if len(bios) == 1 and move_extent(device, bios[0]):
            return 0
        with self._plugged() if plugged else nullcontext():
            for bio in bios:
                device.submit(bio)
                if bio is not bios[-1]:
                    self._clock.may_preempt()
            if sleeps and self._clock.plug is not None:
                self._clock.plug.sleep()
        self._wait(bios)
        self._clock.run_until_idle()
        return next((bio.error for bio in reversed(bios) if bio.error), 0)

    def _wait(self, bios: list[Bio]) -> None:
        """Sleep until all have ended; each is looked at until it has, and not again."""
        left = bios[::-1]

        def ended() -> bool:
            while left and left[-1].context is _ENDED:
                left.pop()
            return not left

        self._clock.wait_until(ended)

    def parallel(
        self,
        ios: Sequence[tuple[BlockDevice, bool, int, memoryview]],
        then: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Direct requests (device, writes, sector, buffer), all in flight at once; their errnos.

        ``then`` is called when all have been submitted.

        One that crosses the end of its device does the part inside, and counts as refused: a
        write gets ENOSPC, a read EINVAL, since it was short.
        """
        bios: list[Bio | None] = []
        errors: list[int] = []
        with self._plugged() if len(ios) > IOCBS_UNPLUGGED_MAX else nullcontext():
            self._submit_parallel(ios, bios, errors)
        then()
        self._wait([bio for bio in bios if bio is not None])
        self._clock.run_until_idle()
        return [
            bio.error if bio is not None and bio.error else error
            for bio, error in zip(bios, errors, strict=True)
        ]

    def _submit_parallel(
        self,
        ios: Sequence[tuple[BlockDevice, bool, int, memoryview]],
        bios: list[Bio | None],
        errors: list[int],
    ) -> None:
        """Add a bio, or None, and an errno for each request."""
        for device, writes, sector, data in ios:
            sectors = len(data) >> SECTOR_SHIFT
            inside = max(0, min(sectors, device.sectors - sector))
            beyond = errno.ENOSPC if writes else errno.EINVAL
            bio: Bio | None = None
            error = 0 if inside == sectors else beyond
            if writes and device.read_only:
                error = errno.EPERM
            elif inside and (sector % device.block_sectors or inside % device.block_sectors):
                error = errno.EINVAL
            elif inside:
                bio = Bio(
                    WRITE if writes else READ, sector, inside, data[: inside << SECTOR_SHIFT], _end
                )
                device.submit(bio)
                self._clock.may_preempt()
            bios.append(bio)
            errors.append(error)

    def write_direct(self, device: BlockDevice, sector: int, data: memoryview) -> int:
        """``pwrite`` with O_DIRECT until it is all written or refused; the errno."""
        if device.read_only:
            return errno.EPERM
        if sector >= device.sectors:
            return errno.ENOSPC
        sectors = len(data) >> SECTOR_SHIFT
        inside = min(sectors, device.sectors - sector)
        if sector % device.block_sectors or inside % device.block_sectors:
            return errno.EINVAL
        bio = Bio(WRITE, sector, inside, data[: inside << SECTOR_SHIFT], _end)
        error = self._submit(device, [bio])
        if not error and inside < sectors:
            error = errno.ENOSPC
        return error

    def read_direct(self, device: BlockDevice, sector: int, sectors: int) -> tuple[bytearray, int]:
        """``pread`` with O_DIRECT: bytes (fewer at the end of the device) and the errno."""
        inside = max(0, min(sectors, device.sectors - sector))
        if not inside:
            return bytearray(), 0
        if sector % device.block_sectors or inside % device.block_sectors:
            return bytearray(), errno.EINVAL
        data = bytearray(inside << SECTOR_SHIFT)
        error = self._submit(device, [Bio(READ, sector, inside, memoryview(data), _end)])
        return (bytearray(), error) if error else (data, 0)

    def write_buffered(self, device: BlockDevice, sector: int, pieces: Sequence[memoryview]) -> int:
        """``pwrite`` of pieces that follow each other, until all is written; then ``fsync``."""
        if device.read_only:
            return errno.EPERM
        cache = self.page_cache(device)
        error = 0
        for piece in pieces:
            left = piece
            while left and not error:
                taken, error = cache.write(sector, left)
                sector += taken
                left = left[taken << SECTOR_SHIFT :]
        # The device keeps an error of write-back for the next fsync (``errseq_set``).
        lost = cache.write_back()
        if lost:
            self._unseen[device] = lost
        # A refused write never gets to the fsync, which would report the others.
        return error or self.flush(device)

    def _seen(self, device: BlockDevice) -> int:
        """The write-back error that an fsync reports (``file_check_and_advance_wb_err``)."""
        return self._unseen.pop(device, 0)

    def page_cache(self, device: BlockDevice) -> PageCache:
        """An empty page cache, for consecutive requests of one step."""
        return PageCache(device, self._submit, _end, asks_again=self._profile.write_asks_again)

    def flush(self, device: BlockDevice) -> int:
        """``fsync``: without a volatile cache anywhere below, the queue drops the flush."""
        error = self._seen(device)
        if error:
            return error
        if device.limits.write_cache:
            return self._submit(device, [Bio(Op.FLUSH, 0, 0, None, _end)])
        return 0

    def discard(self, device: BlockDevice, sector: int, sectors: int) -> int:
        """``BLKDISCARD``; the errno."""
        limits = device.limits
        if not limits.discard_sectors_max:
            return errno.EOPNOTSUPP
        beyond = sector + sectors > device.sectors
        if device.read_only:
            return errno_of(self._profile.read_only_discard) if beyond else errno.EPERM
        if beyond or sector % device.block_sectors or sectors % device.block_sectors:
            return errno.EINVAL
        end = sector + sectors
        bios = []
        while sector < end:
            count = limits.first_discard(sector, end - sector)
            bios.append(Bio(Op.DISCARD, sector, count, None, _end))
            sector += count
        error = self._submit(device, bios, plugged=True, sleeps=True)
        return 0 if error == errno.EOPNOTSUPP else error

    def zeroout(self, device: BlockDevice, sector: int, sectors: int) -> int:
        """``BLKZEROOUT``, by writing zero pages; the errno."""
        end = sector + sectors
        if sector % device.block_sectors or sectors % device.block_sectors or end > device.sectors:
            return errno.EINVAL
        if device.read_only:
            return errno.EPERM
        zeros = memoryview(bytes(min(ZEROOUT_SECTORS_MAX, sectors) << SECTOR_SHIFT))
        bios = []
        for start in range(sector, end, ZEROOUT_SECTORS_MAX):
            count = min(ZEROOUT_SECTORS_MAX, end - start)
            bios.append(Bio(WRITE, start, count, zeros[: count << SECTOR_SHIFT], _end))
        return self._submit(device, bios, plugged=True, sleeps=True)


_ENDED: Final = object()


def _end(bio: Bio) -> None:
    bio.context = _ENDED
