"""The snapshot target (kernel: dm-snap.c, ``snapshot_target``).

A chunk that has a completed exception lives on the COW device; any other is read from the origin.
The first write to a chunk, by the snapshot or by the origin, makes a *pending* exception: a chunk
is allocated, the origin's data is copied there by kcopyd, the store commits, and only then do the
writes that waited go on.  A write of exactly one chunk needs no copy and goes straight to the
allocated chunk.  Exceptions complete in the order of their allocation, whatever the order of
copies.

A snapshot that cannot keep what it must becomes *invalid*; one that allows it *overflows* instead
when its own write finds no space: from then on it can be read, but not written.
"""

import errno
from dataclasses import replace
from functools import partial
from typing import Protocol

from harness.errors import FreedMemory
from harness.twin import store_types
from harness.twin.arguments import CtrError, scan_unsigned
from harness.twin.bio import READ, Bio, BlockDevice, Op
from harness.twin.exception_store import Extent, Then
from harness.twin.exceptions.table import ExceptionTable, table_slots
from harness.twin.kcopyd import Kcopyd
from harness.twin.limits import Limits
from harness.twin.origins import Origins, OriginTarget
from harness.twin.pending import PendingException
from harness.twin.table import MODE_READ, Table
from harness.twin.target import Target
from harness.twin.throttle import Throttle
from harness.units import SECTOR_BYTES

_FEATURES_MAX = 2
_DISCARD_ZEROES = "discard_zeroes_cow"
_DISCARD_PASSDOWN = "discard_passdown_origin"


class _OriginTarget(OriginTarget, Protocol):
    """A snapshot-origin target, and the table it is in."""

    table: Table


class Snapshot(Target):
    """``snapshot <origin> <cow> <P|PO|N> <chunk size> [<features>]``."""

    type_name = "snapshot"
    is_merge = False

    def __init__(self, table: Table, start: int, sectors: int) -> None:
        super().__init__(table, start, sectors)
        self.world = table.world
        self.origins: Origins[Snapshot, _OriginTarget] = self.world.origins
        self.valid = True
        self.overflowed = False
        self.active = False
        self.merge_failed = False
        self.discard_zeroes_cow = False
        self.discard_passdown_origin = False
        self.pending: dict[int, PendingException] = {}
        self._start_sequence = 0
        self._complete_sequence = 0
        self._copied_out_of_order: dict[int, PendingException] = {}
        self._committing = False
        self._parked = False
        self._drop_waiters: list[Then] | None = None
        self._tracked: dict[int, int] = {}
        self._untracked_waiters: dict[int, list[Then]] = {}

    # -- construction and destruction --

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``snapshot_ctr``; a fresh store is written here, not at resume."""
        self._parse_arguments(argv)
        try:
            self._opened_origin = self.table.get_device(argv[0], self._origin_mode())
        except OSError as fault:
            raise CtrError("Cannot get origin device", fault.errno or errno.EIO) from None
        try:
            self._construct_on_origin(argv)
        except CtrError:
            self.table.put_device(self._opened_origin)
            raise

    def _parse_arguments(self, argv: list[str]) -> None:
        profile = self.world.profile
        if not profile.features:
            if len(argv) != 4:
                raise CtrError("requires exactly 4 arguments", errno.EINVAL)
            return
        if len(argv) < 4:
            raise CtrError("requires 4 or more arguments", errno.EINVAL)
        self._parse_features(argv[4:])

    def _parse_features(self, words: list[str]) -> None:
        """Kernel: ``parse_snapshot_features``."""
        if not words:
            return
        count = scan_unsigned(words[0], 32, self.world.profile)
        if count is None or count > _FEATURES_MAX or count > len(words) - 1:
            raise CtrError("Invalid number of feature arguments", errno.EINVAL)
        unknown = False
        for word in words[1 : count + 1]:
            if word.lower() == _DISCARD_ZEROES:
                self.discard_zeroes_cow = True
            elif word.lower() == _DISCARD_PASSDOWN:
                self.discard_passdown_origin = True
                self.discards = 2
            else:
                unknown = True
                break
        if self.discard_passdown_origin and not self.discard_zeroes_cow:
            raise CtrError(
                f"{_DISCARD_PASSDOWN} feature depends on {_DISCARD_ZEROES}", errno.EINVAL
            )
        if unknown:
            raise CtrError("Unrecognised feature requested", errno.EINVAL)

    def _origin_mode(self) -> int:
        return MODE_READ

    def _construct_on_origin(self, argv: list[str]) -> None:
        same = CtrError("COW device cannot be the same as origin device", errno.EINVAL)
        origin = self._opened_origin.device
        profile = self.world.profile
        check_before_open = profile.fixed or not profile.same_device_checked_after_open
        if check_before_open and self.table.look_up(argv[1]) is origin:
            raise same
        try:
            self._opened_cow = self.table.get_device(argv[1])
        except OSError as fault:
            raise CtrError("Cannot get COW device", fault.errno or errno.EIO) from None
        try:
            if self._opened_cow.device is origin:
                self.world.defect("same-device-stale-reference")
                raise same
            self._construct_store(argv, origin, self._opened_cow.device)
        except CtrError:
            self.table.put_device(self._opened_cow)
            raise

    def _construct_store(self, argv: list[str], origin: BlockDevice, cow: BlockDevice) -> None:
        self.origin = origin
        self.cow = cow
        try:
            self.store = store_types.create(self.world, argv[2:4], cow, origin)
        except CtrError:
            raise CtrError("Couldn't create exception store", errno.EINVAL) from None
        profile = self.world.profile
        if self.is_merge and profile.n_merge_refused and not self.store.can_merge:
            raise CtrError(
                "Snapshot exception store does not support snapshot-merge.", errno.EINVAL
            )
        slots = table_slots(cow.sectors, self.store.chunk_sectors)
        self.complete = ExceptionTable(slots, profile.exception_order)
        self.throttle = Throttle(self.world)
        self.kcopyd = Kcopyd(self.world.clock, profile.kcopyd_subjob_sectors, self.world.plug())
        if self.origins.register(self):
            # Only one table at a time may load the metadata; the other gets it at the handover.
            self.store.chunk_sectors = 0
            return
        try:
            if not self.store.read_metadata(self.complete.load):
                self.valid = False
                self.world.log("snapshots: Snapshot is marked invalid.")
            if not self.store.chunk_sectors:
                if not self.world.profile.zero_chunk_refused:
                    raise FreedMemory(
                        "the constructor frees the snapshot and reports success: the "
                        "kernel goes on with freed memory"
                    )
                raise CtrError("Chunk size not set", errno.EINVAL)
        except OSError as fault:
            self.origins.unregister(self)
            raise CtrError("Failed to read snapshot metadata", fault.errno or errno.EIO) from None
        except CtrError:
            self.origins.unregister(self)
            raise
        self.max_io_sectors = self.store.chunk_sectors

    def destroy(self) -> None:
        """Kernel: ``snapshot_dtr``."""
        found = self.origins.sharing_cow(self)
        if found.source is self and found.destination is not None:
            found.destination.valid = False
            self.world.log("snapshots: Cancelling snapshot handover.")
        self._stop()
        self.origins.unregister(self)
        self.world.clock.wait_until(lambda: not self.pending)
        self.table.put_device(self._opened_cow)
        self.table.put_device(self._opened_origin)

    def _stop(self) -> None:
        """What must come to rest before the destructor continues."""

    # -- mapping --

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``snapshot_map``."""
        if self._drop_waiters is not None:
            # The snapshot is locked while its header is written.
            self._drop_waiters.append(partial(self._map_again, bio))
            return None
        reading = bio.op is READ
        if not reading and self.throttle.holds_back():
            self.throttle.wait(partial(self._map_again, bio))
            return None
        return self._map(bio, reading)

    def _map(self, bio: Bio, reading: bool) -> BlockDevice | None:
        if not self.valid or (self.overflowed and not reading):
            bio.end(errno.EIO)
            return None
        sector = bio.sector
        chunk_sectors = self.store.chunk_sectors
        chunk = sector // chunk_sectors
        if sector % chunk_sectors + bio.sectors > chunk_sectors and bio.op is not Op.DISCARD:
            # A target counts chunks from the start of the device, and cuts from its own start.
            self.world.defect("misaligned-start")
        if bio.op is Op.DISCARD:
            return self._discard(bio, chunk)
        new = self.complete.lookup(chunk)
        if new >= 0:
            bio.sector = new * chunk_sectors + sector % chunk_sectors
            return self.cow
        if reading:
            self._track(bio, chunk)
            return self.origin
        pending = self.pending.get(chunk) or self.new_pending(chunk)
        if pending is None:
            if self.store.overflow_supported:
                self.overflowed = True
                self.world.log("snapshots: Snapshot overflowed: Unable to allocate exception.")
                bio.end(errno.EIO)
            else:
                self.invalidate(errno.ENOMEM, partial(bio.end, errno.EIO))
            return None
        bio.sector = pending.new * chunk_sectors + sector % chunk_sectors
        if pending.started:
            pending.snapshot_bios.append(bio)
        elif bio.sectors == chunk_sectors:
            pending.started = True
            self._start_full_bio(pending, bio)
        else:
            pending.snapshot_bios.append(bio)
            pending.started = True
            self.start_copy(pending)
        return None

    def _map_again(self, bio: Bio) -> None:
        device = self._map(bio, bio.op is READ)
        if device is not None:
            device.submit(bio)

    def _discard(self, bio: Bio, chunk: int) -> BlockDevice | None:
        """A discard makes no exception; one of a chunk's length zeroes the chunk it is mapped to.

        It does so from the discard's first sector on, aligned or not, and so may run into the
        next chunk on the COW device, as in the kernel (``zero_exception``).
        """
        if bio.number:
            self._track(bio, chunk)
            return self.origin
        chunk_sectors = self.store.chunk_sectors
        new = self.complete.lookup(chunk)
        if new < 0:
            bio.end()
            return None
        offset = bio.sector % chunk_sectors
        bio.sector = new * chunk_sectors + offset
        if self.world.profile.fixed and offset + bio.sectors > chunk_sectors:
            # The next chunk does not belong to this exception.
            self.kcopyd.zero(self.cow, bio.sector, chunk_sectors - offset, _zeroed, bio)
            return None
        if bio.sectors != chunk_sectors:
            return self.cow
        if offset:
            self.world.defect("discard-zeroes-neighbour")
        self.kcopyd.zero(self.cow, bio.sector, chunk_sectors, _zeroed, bio)
        return None

    def discard_sectors_max(self) -> int:
        """One chunk; a handover destination takes its source's (``snapshot_io_hints``)."""
        found = self.origins.sharing_cow(self)
        both = found.source is not None and found.destination is not None
        return (found.source if both and found.source else self).store.chunk_sectors

    def discard_sectors(self, sector: int, sectors: int) -> int:
        """With the granularity of a chunk, the block layer would cut at chunks."""
        chunk_sectors = self.store.chunk_sectors
        left = min(sectors, chunk_sectors - sector % chunk_sectors)
        if not self.world.profile.fixed:
            if left < min(sectors, chunk_sectors):
                self.world.defect("discard-granularity")
            return sectors
        return left

    def io_hints(self, limits: Limits) -> Limits:
        """Kernel: ``snapshot_io_hints``, which mistakes the sectors of a chunk for bytes."""
        if not self.discard_zeroes_cow:
            return limits
        chunk_sectors = self.discard_sectors_max()
        granularity = chunk_sectors * SECTOR_BYTES if self.world.profile.fixed else chunk_sectors
        return replace(limits, discard_granularity=granularity, discard_sectors_max=chunk_sectors)

    def flush_device(self, number: int) -> BlockDevice:
        """A flush goes to the COW device, whatever the state of the snapshot."""
        del number
        return self.cow

    def takes_discards(self) -> bool:
        """Only if the table requested it."""
        return self.discard_zeroes_cow

    # -- tracked chunks --

    def _track(self, bio: Bio, chunk: int) -> None:
        """Remember a bio in flight to the origin (kernel: ``track_chunk``)."""
        bio.chunk = chunk
        self._tracked[chunk] = self._tracked.get(chunk, 0) + 1

    def end_io(self, bio: Bio) -> None:
        """Kernel: ``snapshot_end_io``."""
        chunk = bio.chunk
        left = self._tracked[chunk] - 1
        if left:
            self._tracked[chunk] = left
            return
        del self._tracked[chunk]
        for then in self._untracked_waiters.pop(chunk, ()):
            then()

    def when_untracked(self, chunk: int, then: Then) -> None:
        """Go on once no tracked bio is in ``chunk`` (``__check_for_conflicting_io``)."""
        if chunk in self._tracked:
            self._untracked_waiters.setdefault(chunk, []).append(then)
        else:
            then()

    # -- exceptions --

    def new_pending(self, chunk: int) -> PendingException | None:
        """Allocate; None if the store is full (kernel: ``__find_pending_exception``)."""
        new = self.store.prepare_exception()
        if new < 0:
            return None
        pending = PendingException(chunk, new, self._start_sequence)
        self._start_sequence += 1
        self.pending[chunk] = pending
        return pending

    def exception_for_origin(self, sector: int) -> PendingException | None:
        """The exception that a write to the origin at ``sector`` has to wait for.

        None if this snapshot needs no copy there.  One that cannot make its exception becomes
        invalid and is not waited for: the origin's write never fails because of it.  Kernel:
        ``__origin_write``, for one snapshot.
        """
        if self.is_merge or not self.valid or not self.active or sector >= self.table.sectors:
            return None
        chunk = sector // self.store.chunk_sectors
        if self.complete.lookup(chunk) >= 0:
            return None
        pending = self.pending.get(chunk) or self.new_pending(chunk)
        if pending is None:
            self.invalidate(errno.ENOMEM, lambda: None)
        return pending

    def start_copy(self, pending: PendingException) -> None:
        """Copy the chunk from the origin, up to the origin's end (kernel: ``start_copy``)."""
        chunk_sectors = self.store.chunk_sectors
        first = pending.old * chunk_sectors
        left = self.origin.sectors - first
        # An origin that shrank leaves a length that wraps around in the kernel, and a read that
        # fails; if it ends right there, nothing is left to copy.
        sectors = min(chunk_sectors, left) if left >= 0 else chunk_sectors
        self.throttle.start(
            lambda: self.kcopyd.copy(
                self.origin,
                first,
                self.cow,
                pending.new * chunk_sectors,
                sectors,
                self._copied,
                pending,
            )
        )

    def _start_full_bio(self, pending: PendingException, bio: Bio) -> None:
        """The bio overwrites the whole chunk: no copy is needed (``start_full_bio``)."""
        pending.full_bio = bio
        pending.full_bio_end_io = bio.end_io
        bio.context = pending
        bio.end_io = self._end_full_bio
        self.throttle.start(partial(self._submit_full_bio, bio))

    def _submit_full_bio(self, bio: Bio) -> None:
        self.kcopyd.prepare_callback()
        self.cow.submit(bio)

    def _end_full_bio(self, bio: Bio) -> None:
        """Kernel: ``full_bio_end_io``."""
        self.kcopyd.do_callback(self._copied, bio.context, bool(bio.error))

    def _copied(self, pending: PendingException, read_error: bool, write_error: bool) -> None:
        """A copy is finished; commit it once all earlier ones are (kernel: ``copy_callback``)."""
        pending.copy_error = read_error or write_error
        self._copied_out_of_order[pending.sequence] = pending
        self._commit_in_order()
        self.throttle.end()

    def _commit_in_order(self) -> None:
        ready = self._copied_out_of_order
        while not self._committing:
            pending = ready.pop(self._complete_sequence, None)
            if pending is None:
                return
            self._complete_sequence += 1
            self._committing = True
            self.store.commit_exception(
                pending.old,
                pending.new,
                not pending.copy_error,
                partial(self.kcopyd.in_worker, self._pending_complete, pending),
                self._commit_returned,
            )
        # The commit waits for the COW device, and kcopyd's worker with it.
        self._parked = True
        self.kcopyd.block()

    def _commit_returned(self) -> None:
        self._committing = False
        if self._parked:
            self._parked = False
            self.kcopyd.unblock()
            self._commit_in_order()

    def _pending_complete(self, pending: PendingException, success: bool) -> None:
        """The store has this exception, or never will (kernel: ``pending_complete``)."""
        finish = partial(self.kcopyd.in_worker, self._finish, pending)
        if not success or self._drop_waiters is not None:
            self.invalidate(errno.EIO, partial(finish, True))
        elif not self.valid:
            self._finish(pending, True)
        else:
            self.complete.insert(pending.old, pending.new)
            # A read that still goes to the origin must not see the data of a later origin write.
            self.when_untracked(pending.old, partial(finish, False))

    def _finish(self, pending: PendingException, failed: bool) -> None:
        """Release the waiting bios."""
        del self.pending[pending.old]
        self.world.exception_done()
        if pending.full_bio is not None:
            assert pending.full_bio_end_io is not None
            pending.full_bio.end_io = pending.full_bio_end_io
            pending.full_bio.end(errno.EIO if failed else 0)
        for bio in pending.snapshot_bios:
            if failed:
                bio.end(errno.EIO)
            else:
                self.cow.submit(bio)
        for bio in pending.origin_bios:
            if not self.origins.write(self.origin, bio.sector, bio):
                self.origin.submit(bio)

    def invalidate(self, reason: int, then: Then) -> None:
        """Invalidate this snapshot, once (kernel: ``__invalidate_snapshot``)."""
        if not self.valid:
            then()
            return
        if self._drop_waiters is not None:
            self._drop_waiters.append(then)
            return
        text = "Error reading/writing" if reason == errno.EIO else "Unable to allocate exception"
        self.world.log(f"snapshots: Invalidating snapshot: {text}.")
        self._drop_waiters = [then]
        self.store.drop(self._dropped)

    def _dropped(self) -> None:
        self.valid = False
        self.table.raise_event()
        waiters, self._drop_waiters = self._drop_waiters or [], None
        for then in waiters:
            then()

    # -- extents (harness.twin.extent) --

    def at_rest(self) -> bool:
        """Whether none of its I/O is in flight or waiting."""
        return not (
            self.pending
            or self._tracked
            or self._committing
            or self.kcopyd.jobs
            or self._drop_waiters is not None
        )

    def takes_extent(self, count: int) -> bool:
        """Whether ``count`` exceptions can be made at once; the COW device is a plain disk."""
        return (
            self.valid
            and not self.overflowed
            and self.at_rest()
            and count <= self.throttle.room()
            and self.store.has_room(count)
        )

    def make_exceptions(self, ranges: list[tuple[int, int]]) -> list[Extent]:
        """Completed exceptions for ranges (first chunk, count), ascending; the caller moves data.

        As if a pending exception had been made, copied and committed for each chunk.
        """
        extents: list[Extent] = []
        for first, count in ranges:
            old = first
            for new, length in self.store.prepare_extent(count):
                extents.append((old, new, length))
                old += length
        self.store.commit_extents(extents)
        for extent in extents:
            self.complete.insert_run(*extent)
        made = sum(count for _, count in ranges)
        self._start_sequence += made
        self._complete_sequence += made
        self.kcopyd.passed(made)
        self.throttle.passed(made)
        return extents

    # -- resume and handover --

    def preresume(self) -> int:
        """Kernel: ``snapshot_preresume``."""
        found = self.origins.sharing_cow(self)
        if found.source is None or found.destination is None:
            return 0
        if found.source is self:
            self.world.log("snapshots: Unable to resume snapshot source until handover completes.")
            return errno.EINVAL
        if not found.source.table.md.suspended:
            self.world.log(
                "snapshots: Unable to perform snapshot handover until source is suspended."
            )
            return errno.EINVAL
        return 0

    def resume(self) -> None:
        """Take over the exceptions, if this table is for that (``snapshot_resume``)."""
        neighbour = self.origins.origin_target(self.origin)
        merging = None
        md = neighbour.table.md if neighbour else None
        if md is None:
            merging = self.origins.sharing_cow(self).merging
            md = merging.table.md if merging else None
        if md is self.table.md:
            md = None
        restart = False
        if md is not None:
            md.internal_suspend()
            restart = merging is not None and merging.stop_running_merge()
        found = self.origins.sharing_cow(self)
        if found.source is not None and found.destination is not None:
            _hand_over(found.source, found.destination)
        if md is not None:
            if restart and merging is not None:
                merging.start_merge()
            md.internal_resume()
        self.origins.reregister(self)
        self.active = True

    def stop_running_merge(self) -> bool:
        """Stop a merge in progress; True if there was one.  Only snapshot-merge has one."""
        return False

    def start_merge(self) -> None:
        """Only snapshot-merge has one."""

    # -- what device-mapper says about it --

    def status(self) -> str:
        """Kernel: ``snapshot_status``, STATUSTYPE_INFO."""
        if not self.valid:
            return "Invalid"
        if self.merge_failed:
            return "Merge failed"
        if self.overflowed:
            return "Overflow"
        allocated, total, metadata = self.store.usage()
        return f"{allocated}/{total} {metadata}"

    def table_line(self) -> str:
        """Kernel: ``snapshot_status``, STATUSTYPE_TABLE."""
        words = [f"{{{self.origin.name}}} {{{self.cow.name}}} {self.store.table_line()}"]
        features = [
            name
            for name, chosen in (
                (_DISCARD_ZEROES, self.discard_zeroes_cow),
                (_DISCARD_PASSDOWN, self.discard_passdown_origin),
            )
            if chosen
        ]
        if features:
            words += [str(len(features)), *features]
        return " ".join(words)

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """The origin up to the target's length, and the whole COW device."""
        return [(self.origin, 0, self.sectors), (self.cow, 0, self.cow.sectors)]


def _zeroed(bio: Bio, read_error: bool, write_error: bool) -> None:
    """Kernel: ``zero_callback``."""
    bio.end(errno.EIO if read_error or write_error else 0)


def _hand_over(source: Snapshot, destination: Snapshot) -> None:
    """Swap the exceptions of the two (kernel: ``__handover_exceptions``)."""
    source.complete, destination.complete = destination.complete, source.complete
    overflow_supported = destination.store.overflow_supported
    source.store, destination.store = destination.store, source.store
    destination.store.overflow_supported = overflow_supported
    destination.max_io_sectors = destination.store.chunk_sectors
    destination.valid = source.valid
    destination.overflowed = source.overflowed
    source.valid = False
