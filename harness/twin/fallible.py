"""A disk that can fail: a linear mapping onto a disk with a write cache and a plan of faults.

It stands for what the kernel side serves as a network block device (drivers/block/nbd.c), and for
what the block layer does in front of one: requests arrive uncut, one for each bio, and are answered
in the order of their arrival, each before the next.  A request that the plan strikes moves no data
and gives EIO.  Every request is written down as it arrives.

A write that asks for a flush first becomes two requests, the write after the flush has ended: by
the linear mapping (kernel: dm.c, ``__send_empty_flush``), which may forget what became of the
flush, or by the block layer below it (block/blk-flush.c), which does not.
"""

import errno
from typing import Final

from harness.faults import FaultPlan, request_line
from harness.faults import Op as RequestOp
from harness.steps import REQUEST_SECTORS_MAX
from harness.twin.bio import FUA, PREFLUSH, Bio, Op
from harness.twin.clock import Clock
from harness.twin.disk import Disk
from harness.twin.limits import Limits
from harness.twin.profile import Profile
from harness.units import SECTOR_SHIFT

_WORDS: Final[dict[Op, RequestOp]] = {
    Op.READ: "read", Op.WRITE: "write", Op.FLUSH: "flush", Op.DISCARD: "discard"}
_DISCARD_SECTORS_MAX: Final = 0xFFFFFFFF >> SECTOR_SHIFT
"""nbd takes discards of any length (``blk_queue_max_discard_sectors(UINT_MAX)``)."""


class FallibleDisk(Disk):
    """A disk whose requests are counted; bios end when the world has gone on."""

    def __init__(self, name: str, sectors: int, clock: Clock, profile: Profile) -> None:
        super().__init__(name, sectors, Limits(), REQUEST_SECTORS_MAX)
        self.discard = True
        self.write_cache = True
        self.plan = FaultPlan()
        self._clock = clock
        self._flush_counts = profile.preflush_passed or profile.preflush_reported
        self._requests: list[str] = []

    def take_requests(self) -> tuple[str, ...]:
        """The requests since the last call, in the order of their arrival."""
        lines, self._requests = self._requests, []
        return tuple(lines)

    def submit(self, bio: Bio) -> None:
        """Take a bio; what lies beyond the end never becomes a request (``bio_check_eod``)."""
        if bio.sector + bio.sectors > self.sectors:
            bio.end(errno.EIO)
        elif bio.flags & PREFLUSH and bio.sectors:
            self._clock.soon(self._flushed, bio, self._strikes(Op.FLUSH, 0, 0, fua=False))
        else:
            self._request(bio)

    def _flushed(self, bio: Bio, failed: bool) -> None:
        """The write follows, perhaps whatever became of the flush."""
        if failed and self._flush_counts:
            bio.end(errno.EIO)
            return
        bio.flags &= ~PREFLUSH
        self._request(bio)

    def _request(self, bio: Bio) -> None:
        error = 0
        done = 0
        # A bio longer than the queue takes is cut (``__bio_split_to_limits``).
        longest = _DISCARD_SECTORS_MAX if bio.op is Op.DISCARD else self.max_sectors
        while True:
            count = min(bio.sectors - done, longest)
            if self._strikes(bio.op, bio.sector + done, count, fua=bool(bio.flags & FUA)):
                error = errno.EIO
            else:
                self._move(bio, done, count)
            done += count
            if done == bio.sectors:
                break
        self._clock.soon(bio.end, error)

    def _strikes(self, op: Op, sector: int, sectors: int, *, fua: bool) -> bool:
        word = _WORDS[op]
        failed = self.plan.strikes(word, sector, sectors)
        self._requests.append(request_line(word, sector, sectors, fua=fua, failed=failed))
        return failed

    def _move(self, bio: Bio, done: int, count: int) -> None:
        first = bio.sector + done
        if bio.op is Op.DISCARD:
            self.view(first, count)[:] = bytes(count << SECTOR_SHIFT)
        elif bio.op is not Op.FLUSH:
            assert bio.data is not None
            piece = bio.data[done << SECTOR_SHIFT : done + count << SECTOR_SHIFT]
            if bio.op is Op.WRITE:
                self.view(first, count)[:] = piece
            else:
                piece[:] = self.content(first, count)
