"""The snapshot-merge target: a snapshot flows back into its origin (kernel: dm-snap.c).

The target shows the snapshot from the start: a chunk that has an exception is read from the COW
device, any other from the origin, where writes go like those of a snapshot-origin.  Meanwhile runs
of chunks are copied back, the last committed exception first.  Before a run is copied, every other
snapshot of the origin gets what it is about to lose; while it is copied, writes to it wait.  When
the copy is on the origin, the store forgets the run, and so does the table of exceptions.

The merge runs from resume to suspend.  According to the status, a failure ends it for good, yet the
next resume tries again; what the kernel then does wrong is done here too.
"""

import errno
from functools import partial

from harness.errors import KernelCrash
from harness.twin.bio import READ, Bio, BlockDevice, Op
from harness.twin.origins import write_to_snapshots
from harness.twin.snapshot import Snapshot
from harness.twin.table import MODE_WRITE, Table


class SnapshotMerge(Snapshot):
    """``snapshot-merge``, with the arguments of a snapshot."""

    type_name = "snapshot-merge"
    is_merge = True

    def __init__(self, table: Table, start: int, sectors: int) -> None:
        super().__init__(table, start, sectors)
        self.flushes = 2
        self._running = False
        self._preparing = False
        self._shutdown = False
        self._first = 0
        self._count = 0
        self._queued: list[Bio] = []

    def _origin_mode(self) -> int:
        return MODE_WRITE

    # -- mapping --

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``snapshot_merge_map``."""
        if bio.op is Op.DISCARD:
            bio.end()
            return None
        sector = bio.sector
        chunk_sectors = self.store.chunk_sectors
        if self.valid:
            chunk = sector // chunk_sectors
            new = self.complete.lookup(chunk)
            if new >= 0:
                if bio.op is not READ:
                    if self._first <= chunk < self._first + self._count:
                        self._queued.append(bio)
                        return None
                    self._track(bio, chunk)
                bio.sector = new * chunk_sectors + sector % chunk_sectors
                return self.cow
        if bio.op is not READ and self.origins.write(self.origin, sector, bio):
            return None
        return self.origin

    def flush_device(self, number: int) -> BlockDevice:
        """Both devices."""
        return self.cow if number else self.origin

    def io_sectors(self, bio: Bio, sector: int, sectors: int) -> int:
        """The boundary is that of the last resume, unless defects are fixed."""
        if self.world.profile.fixed:
            self.max_io_sectors = self._minimum_chunk_sectors()
        elif self._minimum_chunk_sectors() < min(self.max_io_sectors, sectors):
            self.world.defect("merge-new-snapshot")
        return super().io_sectors(bio, sector, sectors)

    def _minimum_chunk_sectors(self) -> int:
        """Kernel: ``get_origin_minimum_chunksize``."""
        return (
            self.origins.minimum_chunk_sectors(self.origin)
            or self.world.profile.origin_default_boundary_sectors
        )

    def status(self) -> str:
        """Kernel: ``snapshot_status``."""
        if self.valid and (self.merge_failed or self.overflowed) and self.store.all_merged():
            # The numbers that tell the end of a merge are never shown.
            self.world.defect("merge-end-hidden")
        return super().status()

    # -- start and stop --

    def resume(self) -> None:
        """Kernel: ``snapshot_merge_resume``."""
        super().resume()
        self.max_io_sectors = self._minimum_chunk_sectors()
        self.start_merge()

    def presuspend(self) -> None:
        """Kernel: ``snapshot_merge_presuspend``."""
        self._stop()

    def start_merge(self) -> None:
        """Kernel: ``start_merge``.  The calling process prepares the first run itself."""
        if not self._running:
            self._running = self._preparing = True
            self._next_chunks()
            self.world.clock.wait_until(lambda: not self._preparing)

    def stop_running_merge(self) -> bool:
        """Stop; True if it ran."""
        ran = self._running
        if ran:
            self._stop()
        return ran

    def _stop(self) -> None:
        """Wait until the run in progress is committed (kernel: ``stop_merge``)."""
        self._shutdown = True
        self.world.clock.wait_until(lambda: not self._running)
        self._shutdown = False

    # -- one run of chunks --

    def _next_chunks(self) -> None:
        """Kernel: ``snapshot_merge_next_chunks``."""
        if self._shutdown:
            self._rest()
        elif not self.valid:
            self.world.log("snapshots: Snapshot is invalid: can't merge")
            self._rest()
        elif not self.store.can_merge:
            raise KernelCrash(
                "snapshot-merge calls prepare_merge of a store that has none: the "
                "kernel follows a null pointer",
                "merge-transient-crash",
            )
        else:
            self.store.prepare_merge(self._prepared)

    def _prepared(self, count: int, last_old: int, last_new: int) -> None:
        if count < 0:
            self.world.log("snapshots: Read error in exception store: shutting down merge")
            self.merge_failed = True
        if count <= 0:
            self._rest()
            return
        self._copy_out(last_old + 1 - count, last_new + 1 - count, count)

    def _rest(self) -> None:
        self._running = self._preparing = False

    def _run_sectors(self, count: int) -> int:
        """Length of a run; the kernel multiplies in 32 bits, and loses what exceeds 2 TiB."""
        sectors = count * self.store.chunk_sectors
        if self.world.profile.fixed or sectors <= 0xFFFFFFFF:
            return sectors
        self.world.defect("merge-run-over-2-tib")
        return sectors & 0xFFFFFFFF

    def _copy_out(self, old: int, new: int, count: int) -> None:
        """Let every other snapshot make its copy first (kernel: ``origin_write_extent``)."""
        first = old * self.store.chunk_sectors
        must_wait, done_before = False, self.world.exceptions_done
        for offset in range(0, self._run_sectors(count), self.max_io_sectors):
            if self._minimum_chunk_sectors() < min(self.max_io_sectors, self._run_sectors(count)):
                self.world.defect("merge-new-snapshot")
            # The list may change while copies are made, so it is looked up each time.
            snapshots = self.origins.snapshots(self.origin)
            if write_to_snapshots(snapshots, first + offset, None):
                must_wait = True
                # The first run is prepared by the process that resumes: copies may overtake it.
                self.world.clock.may_preempt()
        if must_wait:
            self.world.when_exception_done(done_before, partial(self._copy_out, old, new, count))
            return
        self._first, self._count = old, count
        self._wait_for_writes(old, new, count, 0)

    def _wait_for_writes(self, old: int, new: int, count: int, done: int) -> None:
        """Wait for earlier writes to the COW device: they must be in what is copied."""
        while done < count:
            if old + done in self._tracked:
                self.when_untracked(
                    old + done, partial(self._wait_for_writes, old, new, count, done + 1)
                )
                return
            done += 1
        chunk_sectors = self.store.chunk_sectors
        first = old * chunk_sectors
        left = self.origin.sectors - first
        length = self._run_sectors(count)
        sectors = min(length, left) if left >= 0 else length
        self.kcopyd.copy(
            self.cow, new * chunk_sectors, self.origin, first, sectors, self._merged, None
        )
        self._preparing = False

    def _merged(self, _context: object, read_error: bool, write_error: bool) -> None:
        """Kernel: ``merge_callback``."""
        if read_error or write_error:
            what = "Read" if read_error else "Write"
            self._fail(f"{what} error: shutting down merge.")
        elif self.world.profile.merge_flush and self.origin.limits.write_cache:
            self.origin.submit(Bio(Op.FLUSH, 0, 0, None, self._flushed))
        else:
            self._commit()

    def _flushed(self, bio: Bio) -> None:
        if bio.error:
            self._fail("Flush after merge failed: shutting down merge")
        else:
            self._commit()

    def _commit(self) -> None:
        self.store.commit_merge(self._count, partial(self.kcopyd.in_worker, self._committed))

    def _committed(self, error: int) -> None:
        if error:
            self._fail("Write error in exception store: shutting down merge")
            return
        for chunk in range(self._first + self._count - 1, self._first - 1, -1):
            fault = self.complete.remove(chunk)
            if fault is not None:
                self._fail(fault)
                return
        for bio in self._release():
            self.origin.submit(bio)
        self._next_chunks()

    def _release(self) -> list[Bio]:
        """Kernel: ``__release_queued_bios_after_merge``."""
        self._first = self._count = 0
        bios, self._queued = self._queued, []
        return bios

    def _fail(self, text: str) -> None:
        self.world.log(f"snapshots: {text}")
        self.merge_failed = True
        for bio in self._release():
            bio.end(errno.EIO)
        self._rest()
