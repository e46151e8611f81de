"""A plug: requests that a task gathers and sends together (kernel: block/blk-mq.c).

A task that is about to submit several requests says so (``blk_start_plug``): io_submit(2) with more
than two, write-back of the page cache, kcopyd's worker.  What it submits until it is done
(``blk_finish_plug``) is gathered and then sent; or earlier, if the plug is full or the task goes to
sleep.  This only concerns disks that take requests one by one (`harness.twin.fallible`): a ram disk
takes bios.  A flush, and a write with a flush, is sent at once.

The order in which they are sent depends on the kernel.  Since bc490f81731e (block: change plugging
to use a singly linked list, 5.16) a plug is a stack, and the last request goes first; since
e70c301faece (block: don't reorder requests in blk_add_rq_to_plug, 6.13 and stable kernels before
it) it is a queue again.  The probe finds out which (``plug_reverses``).  But a stack does not
always reverse the order: if it has requests for several disks, or if the task sleeps, they are
reversed once more on their way (``blk_mq_dispatch_plug_list``).  Whether a task has slept with
requests in its plug is a race, and a choice point.
"""

from collections.abc import Callable, Sequence
from typing import Final

from harness.twin.clock import Clock

PLUGGED_MAX: Final = 32
"""A plug with so many requests is emptied before the next (``BLK_MAX_REQUEST_COUNT``); twice as
many if they are for several disks."""

Send = Callable[[], None]


class Plug:
    """What one task gathers.

    Args:
        clock: that of the world.
        reverses: the last request goes first.
    """

    __slots__ = ("_clock", "_last", "_requests", "_reverses", "_several")

    def __init__(self, clock: Clock, *, reverses: bool) -> None:
        self._clock = clock
        self._reverses = reverses
        self._requests: list[Send] = []
        self._last = ""
        self._several = False

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, disk: str, send: Send) -> None:
        """Gather a request for a disk (kernel: ``blk_add_rq_to_plug``)."""
        if len(self._requests) >= PLUGGED_MAX * (1 + self._several):
            self._flush()
        self._several |= bool(self._requests) and disk != self._last
        self._requests.append(send)
        self._last = disk

    def finish(self) -> None:
        """Send what is there (kernel: ``blk_finish_plug``)."""
        self._flush()
        self._several = False

    def _flush(self) -> None:
        """Kernel: ``blk_mq_flush_plug_list``."""
        requests = self._take()
        if self._reverses and not self._several and len(requests) > 1 and not self._clock.either():
            requests.reverse()
        self._send(requests)

    def sleep(self) -> None:
        """The task sleeps: a task of the block layer sends what is there (``kblockd``)."""
        requests = self._take()
        if not requests:
            return
        # It may come late: after what the task waits for.
        if self._clock.either():
            self._clock.soon(self._send, requests)
        else:
            self._send(requests)

    def _take(self) -> list[Send]:
        requests, self._requests = self._requests, []
        return requests

    def _send(self, requests: Sequence[Send]) -> None:
        """Send one after the other; between two of them others may run."""
        for number, send in enumerate(requests, 1):
            send()
            if number == len(requests):
                return
            if self._clock.stops():
                self._clock.soon(self._send, requests[number:])
                return
            self._clock.may_preempt()
