"""kcopyd: copies between devices in the background (kernel: dm-kcopyd.c).

One client has one worker, represented by a work item of the clock.  The worker first hands
finished jobs to their callbacks, then issues I/O: a read into the job's pages, then a write from
them.  A job longer than the sub-job size is cut, and eight of its pieces are in flight at once
(`split_job`).  After an error no more pieces are started; what was copied stays, also by
pieces already started.

A callback may need I/O before the worker may go on (a commit of metadata sleeps in the kernel): it
calls `block`, and `unblock` when it is done.  What it does after that counts as the worker's
(`Kcopyd.in_worker`): its requests are in one plug with those of the same run.

Deliberately left out: the page pool and the throttle by percentage of time; they change no result.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from harness.twin.bio import READ, WRITE, Bio, BlockDevice
from harness.twin.clock import Clock
from harness.twin.plug import Plug
from harness.units import SECTOR_SHIFT

CopyDone = Callable[[Any, bool, bool], None]
"""``callback(context, read_error, write_error)``."""


SPLIT_COUNT: Final = 8


class _Job:
    """A job, a piece of one, or one that was cut, ``progress`` sectors of which became pieces."""

    __slots__ = (
        "callback",
        "context",
        "pages",
        "pieces",
        "progress",
        "read_error",
        "sectors",
        "source",
        "source_sector",
        "target",
        "target_sector",
        "write_error",
        "writing",
        "zero",
    )

    def __init__(
        self,
        source: BlockDevice,
        source_sector: int,
        target: BlockDevice,
        target_sector: int,
        sectors: int,
        callback: CopyDone,
        context: object,
    ) -> None:
        self.source = source
        self.source_sector = source_sector
        self.target = target
        self.target_sector = target_sector
        self.sectors = sectors
        self.progress = 0
        self.pieces = SPLIT_COUNT
        self.pages: memoryview | None = None
        self.writing = False
        self.zero = False
        self.read_error = False
        self.write_error = False
        self.callback = callback
        self.context = context


class Kcopyd:
    """One client: a queue of copies and the worker that serves it."""

    __slots__ = (
        "_awake",
        "_blocked",
        "_clock",
        "_complete",
        "_io",
        "_plug",
        "_subjob_sectors",
        "jobs",
        "jobs_peak",
    )

    def __init__(self, clock: Clock, subjob_sectors: int, plug: Plug) -> None:
        self._clock = clock
        self._subjob_sectors = subjob_sectors
        self._plug = plug
        self._complete: deque[tuple[CopyDone, Any, bool, bool]] = deque()
        self._io: deque[_Job] = deque()
        self._awake = False
        self._blocked = False
        self.jobs = 0
        self.jobs_peak = 0

    def copy(
        self,
        source: BlockDevice,
        source_sector: int,
        target: BlockDevice,
        target_sector: int,
        sectors: int,
        callback: CopyDone,
        context: object,
    ) -> None:
        """Copy ``sectors`` sectors (kernel: ``dm_kcopyd_copy``)."""
        self._count_job()
        self._start(_Job(source, source_sector, target, target_sector, sectors, callback, context))

    def zero(
        self,
        target: BlockDevice,
        target_sector: int,
        sectors: int,
        callback: CopyDone,
        context: object,
    ) -> None:
        """Write zeros (kernel: ``dm_kcopyd_zero``), cut as a copy is."""
        self._count_job()
        job = _Job(target, 0, target, target_sector, sectors, callback, context)
        job.zero = True
        self._start(job)

    def prepare_callback(self) -> None:
        """Account for a job whose I/O the caller does (``dm_kcopyd_prepare_callback``)."""
        self._count_job()

    def do_callback(self, callback: CopyDone, context: object, write_error: bool) -> None:
        """Let the worker finish a prepared job (kernel: ``dm_kcopyd_do_callback``)."""
        self._complete.append((callback, context, False, write_error))
        self._wake()

    def passed(self, jobs: int) -> None:
        """So many jobs existed together and have ended; nobody had to wait for them."""
        self.jobs_peak = max(self.jobs_peak, self.jobs + jobs)

    def block(self) -> None:
        """The worker sleeps inside a callback."""
        self._blocked = True

    def unblock(self) -> None:
        """The worker goes on."""
        self._blocked = False
        if self._complete or self._io:
            self._wake()

    def in_worker(self, work: Callable[..., None], *args: object) -> None:
        """Do what the worker does after it has slept inside a callback."""
        clock = self._clock
        plug, clock.plug = clock.plug, self._plug
        work(*args)
        clock.plug = plug
        if self._plug and plug is not self._plug:
            self._wake()

    def _start(self, job: _Job) -> None:
        if job.sectors <= self._subjob_sectors:
            self._io.append(job)
            self._wake()
            return
        for _ in range(SPLIT_COUNT):
            self._next_piece(job)
            # A worker that runs now may meet an error before the next piece is started.
            self._clock.may_preempt()

    def _next_piece(self, job: _Job) -> None:
        """Start another piece of a cut job, or finish it (kernel: ``segment_complete``)."""
        sectors = 0
        if not (job.read_error or job.write_error):
            sectors = min(job.sectors - job.progress, self._subjob_sectors)
        if sectors:
            piece = _Job(
                job.source,
                job.source_sector + job.progress,
                job.target,
                job.target_sector + job.progress,
                sectors,
                self._piece_done,
                job,
            )
            piece.zero = job.zero
            job.progress += sectors
            self._io.append(piece)
            self._wake()
            return
        job.pieces -= 1
        if not job.pieces:
            self._finish(job)

    def _piece_done(self, job: _Job, read_error: bool, write_error: bool) -> None:
        job.read_error |= read_error
        job.write_error |= write_error
        self._next_piece(job)

    def _finish(self, job: _Job) -> None:
        self._complete.append((job.callback, job.context, job.read_error, job.write_error))
        self._wake()

    def _count_job(self) -> None:
        self.jobs += 1
        if self.jobs > self.jobs_peak:
            self.jobs_peak = self.jobs

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._clock.soon(self._work)

    def _work(self) -> None:
        """One run of the worker (kernel: ``do_work``)."""
        self._awake = False
        self._clock.plug = self._plug
        through = self._run_jobs()
        self._clock.plug = None
        # A worker that is stopped in the middle of its work keeps its plug.
        if through and self._plug:
            self._plug.finish()

    def _run_jobs(self) -> bool:
        """Do what can be done now; False if the worker was stopped in the middle of it."""
        complete = self._complete
        while complete and not self._blocked:
            callback, context, read_error, write_error = complete.popleft()
            if type(context) is not _Job:  # a piece is not counted
                self.jobs -= 1
            callback(context, read_error, write_error)
            if self._clock.stops():
                self._wake()
                return False
        io = self._io
        while io and not self._blocked:
            self._issue(io.popleft())
        return True

    def _issue(self, job: _Job) -> None:
        """Read into the pages of a job, or write from them (kernel: ``run_io_job``)."""
        if not job.sectors:  # dm-io skips regions without length
            self._finish(job)
            return
        if job.pages is None:
            job.pages = memoryview(bytearray(job.sectors << SECTOR_SHIFT))
            job.writing = job.zero
        device, sector = (
            (job.target, job.target_sector) if job.writing else (job.source, job.source_sector)
        )
        device.submit(
            Bio(WRITE if job.writing else READ, sector, job.sectors, job.pages, self._end_io, job)
        )

    def _end_io(self, bio: Bio) -> None:
        """Kernel: ``complete_io``."""
        job = bio.context
        assert isinstance(job, _Job)
        if bio.error and job.writing:
            job.write_error = True
        elif bio.error:
            job.read_error = True
        elif not job.writing:
            job.writing = True
            self._io.append(job)
            self._wake()
            return
        self._finish(job)
