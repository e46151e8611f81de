"""A disk that can fail: a linear mapping onto a disk with a write cache and a plan of faults.

It models what the kernel side serves as a network block device (drivers/block/nbd.c), and what the
block layer does in front of one: requests arrive uncut, one for each bio, and are answered in the
order of their arrival, each before the next.  A task that gathers them (`harness.twin.plug`)
sends them later, perhaps in another order.  Every request is recorded as it arrives.

A request that the plan hits (`harness.trace.faults`) moves no data and gets EIO; or the disk stops
at it. One that stalls goes on after a while: the answer is late, and what has arrived since is
served after it, in order.  One that dies no longer answers: the driver ends whatever it has with
EIO, and no request reaches the disk until it is healed.

The driver's queue takes `QUEUE_DEPTH` requests at once.  A task that gathers more sleeps until some
are answered, and another one sends what is in its plug, so both send at the same time.  That race
is not modelled.

A write that asks for a flush first becomes two requests, the write after the flush has ended: by
the linear mapping (kernel: dm.c, ``__send_empty_flush``), which may ignore the result of
the flush, or by the block layer below it (block/blk-flush.c), which does not.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from harness.trace.faults import OUTAGE_MS, FaultPlan, request_line
from harness.trace.faults import Op as RequestOp
from harness.trace.steps import REQUEST_SECTORS_MAX
from harness.twin.bio import FUA, PREFLUSH, Bio, Op
from harness.twin.clock import TICKS_PER_MS, Clock
from harness.twin.disk import Disk, Memory
from harness.twin.limits import Limits
from harness.twin.profile import Profile
from harness.units import SECTOR_BYTES, SECTOR_SHIFT

QUEUE_DEPTH: Final = 128
"""Requests that an nbd has at once (drivers/block/nbd.c, ``nbd_dev_add``)."""
_WORDS: Final[dict[Op, RequestOp]] = {
    Op.READ: "read",
    Op.WRITE: "write",
    Op.FLUSH: "flush",
    Op.DISCARD: "discard",
}
_LIMITS: Final = Limits(
    max_sectors=REQUEST_SECTORS_MAX,
    discard_granularity=SECTOR_BYTES,
    discard_sectors_max=0xFFFFFFFF >> SECTOR_SHIFT,
    write_cache=True,
)
"""What the kernel side sets up, and what nbd says about discards: any place, any length."""


class _Whole:
    """A bio whose requests are in flight: it ends with the last of them."""

    __slots__ = ("bio", "error", "left", "requests")

    def __init__(self, bio: Bio) -> None:
        self.bio = bio
        self.requests = 0
        self.left = bio.sectors
        self.error = 0


class FallibleDisk(Disk):
    """A disk whose requests are counted; bios end when the world has gone on.

    Attributes:
        plugged_peak: the most requests it had at once while a task was gathering more.
    """

    def __init__(
        self,
        name: str,
        sectors: int,
        clock: Clock,
        profile: Profile,
        memory: Memory | None = None,
        *,
        linked: bool = False,
    ) -> None:
        super().__init__(name, sectors, replace(_LIMITS, io_opt=profile.nbd_io_opt), memory)
        self.linked = linked
        self.plan = FaultPlan()
        self._clock = clock
        self._flush_counts = profile.preflush_passed or profile.preflush_reported
        self._requests: list[str] = []
        self._in_flight = 0
        self.plugged_peak = 0
        self._stalled = False
        self._dead = False
        self._flushing = False
        self._to_flush: list[Callable[[int], None]] = []
        self._late: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._arrived: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def heal(self) -> None:
        """No more faults; a disk that died is back, with its data."""
        self.plan.heal()
        self._dead = False

    def take_requests(self) -> tuple[str, ...]:
        """The requests since the last call, in the order of their arrival."""
        lines, self._requests = self._requests, []
        return tuple(lines)

    def submit(self, bio: Bio) -> None:
        """Accept a bio; what lies beyond the end never becomes a request (``bio_check_eod``)."""
        if bio.sector + bio.sectors > self.sectors:
            bio.end(errno.EIO)
        elif bio.op is Op.FLUSH:
            self._arrive(self._flush, bio.end)
        elif bio.flags & PREFLUSH and bio.sectors:
            self._arrive(self._flush, partial(self._flushed, bio))
        elif self._clock.plug is None or bio.flags & FUA:
            for send in self._cut(bio):
                send()
        else:
            for send in self._cut(bio):
                self._clock.plug.add(self.name, send)
            self.plugged_peak = max(self.plugged_peak, self._in_flight)

    def _arrive(self, serve: Callable[..., None], *args: Any) -> None:
        """Serve something now, or after what a stalled disk has yet to serve."""
        if self._stalled:
            self._arrived.append((serve, args))
        else:
            serve(*args)

    def _answer(self, told: Callable[..., None], *args: Any) -> None:
        """Report the result of something as soon as the disk answers."""
        if self._stalled:
            self._late.append((told, args))
        else:
            self._clock.soon(told, *args)

    def _recover(self) -> None:
        """The disk resumes: with its late answers, then with what has arrived."""
        self._stalled = False
        late, self._late = self._late, []
        for told, args in late:
            self._clock.soon(told, *args)
        while self._arrived and not self._stalled:
            serve, args = self._arrived.popleft()
            serve(*args)

    def _flush(self, then: Callable[[int], None]) -> None:
        """Flush, or wait for a flush that starts later (kernel: ``blk_kick_flush``).

        There is one at a time; requests that arrive meanwhile share the next.
        """
        self._to_flush.append(then)
        if not self._flushing:
            self._start_flush()

    def _start_flush(self) -> None:
        waiting, self._to_flush = self._to_flush, []
        self._flushing = True
        self._answer(self._end_flush, waiting, self._take(Op.FLUSH, 0, 0, fua=False))

    def _end_flush(self, waiting: list[Callable[[int], None]], error: int) -> None:
        """Kernel: ``flush_end_io``."""
        self._flushing = False
        for then in waiting:
            then(error)
        if self._to_flush and not self._flushing:
            self._arrive(self._start_flush)

    def _flushed(self, bio: Bio, failed: int) -> None:
        """The write follows, on some kernels whatever the result of the flush."""
        if failed and self._flush_counts:
            bio.end(errno.EIO)
            return
        bio.flags &= ~PREFLUSH
        for send in self._cut(bio):
            send()

    def _cut(self, bio: Bio) -> Iterator[Callable[[], None]]:
        """The requests of a bio, which is cut at the limits of the queue.

        Kernel: ``__bio_split_to_limits``.
        """
        whole = _Whole(bio)
        done = 0
        while done < bio.sectors:
            left = bio.sectors - done
            count = (
                self.limits.cut_discard(bio.sector + done, left)
                if bio.op is Op.DISCARD
                else min(left, self.limits.max_sectors)
            )
            whole.requests += 1
            self._in_flight += 1
            yield partial(self._arrive, self._request, whole, done, count)
            done += count

    def _request(self, whole: "_Whole", done: int, count: int) -> None:
        """Serve ``count`` sectors of a bio from its sector ``done`` on."""
        bio = whole.bio
        failed = self._take(bio.op, bio.sector + done, count, fua=bool(bio.flags & FUA))
        if not failed:
            self._move(bio, done, count)
        whole.error |= failed
        whole.left -= count
        if not whole.left:
            self._answer(self._end_bio, whole)

    def _end_bio(self, whole: _Whole) -> None:
        self._in_flight -= whole.requests
        whole.bio.end(whole.error)

    def _take(self, op: Op, sector: int, sectors: int, *, fua: bool) -> int:
        """A request reaches the disk, unless the disk is dead; returns its error."""
        if self._dead:
            return errno.EIO
        word = _WORDS[op]
        self._clock.requested()
        struck = self.plan.strikes(word, sector, sectors)
        self._requests.append(request_line(word, sector, sectors, fua=fua, struck=struck))
        if struck == "stalls":
            self._stalled = True
            self._clock.after(OUTAGE_MS * TICKS_PER_MS, self._recover)
            return 0
        self._dead = struck == "dies"
        return errno.EIO if struck else 0

    def _move(self, bio: Bio, done: int, count: int) -> None:
        first = bio.sector + done
        if bio.op is Op.DISCARD:
            self._forget(first, first + count)
        elif bio.op is not Op.FLUSH:
            assert bio.data is not None
            piece = bio.data[done << SECTOR_SHIFT : done + count << SECTOR_SHIFT]
            if bio.op is Op.WRITE:
                self.view(first, count)[:] = piece
            else:
                piece[:] = self.content(first, count)
