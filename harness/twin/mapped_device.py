"""A mapped device: what dm-core does between a bio and the targets (kernel: dm.c).

Bios are cut so that each piece stays inside one target and inside what the target takes; each
piece is a clone that ends into its parent.  While the device is suspended, bios wait in order.
"""

import errno

from harness.twin.bio import FUA, PREFLUSH, RAHEAD, Bio, BlockDevice, EndIo, Op
from harness.twin.limits import STACKING, UNLIMITED_SECTORS
from harness.twin.page_cache import cache_block_sectors
from harness.twin.table import Table
from harness.twin.target import Target
from harness.twin.world import World
from harness.units import SECTOR_BYTES, SECTOR_SHIFT


class _Io:
    """The pieces of one bio (kernel: ``struct dm_io``): the bio ends with the last of them.

    The pieces of a ``preflush`` are empty flushes, and the bio follows them.
    """

    __slots__ = ("bio", "error", "pieces", "preflush")

    def __init__(self, bio: Bio) -> None:
        self.bio = bio
        self.pieces = 1
        self.error = 0
        self.preflush = False


class MappedDevice:
    """A device with a live and an inactive table.

    ``suspended`` is set by a user; ``internally_suspended`` counts how often a handover has
    quiesced its neighbour (kernel: ``dm_internal_suspend_fast``).
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.live: Table | None = None
        self.inactive: Table | None = None
        self.suspended = False
        self.internally_suspended = 0
        self.read_only = False
        self.sectors = 0
        self.block_sectors = 1
        self.limits = STACKING
        self.max_sectors = UNLIMITED_SECTORS
        self.event = 0
        self.openers = 0
        self.opened_block_sectors = 0
        self.readahead_pages = STACKING.readahead_pages
        self.announced = world.profile.uevent_add_at == "create"
        self.limits_known = False
        self._held: dict[tuple[BlockDevice, int], int] = {}
        self._deferred: list[Bio] = []
        self._in_flight = 0

    # -- devices opened by the tables --

    def hold(self, device: BlockDevice, mode: int) -> None:
        """Open ``device`` once for each mode (kernel: ``dm_get_table_device``)."""
        key = (device, mode)
        if key not in self._held:
            self._held[key] = 0
            if not device.openers:
                device.opened_block_sectors = cache_block_sectors(device)
            device.openers += 1
        self._held[key] += 1

    def release(self, device: BlockDevice, mode: int) -> None:
        """Kernel: ``dm_put_table_device``."""
        key = (device, mode)
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
            device.openers -= 1
            if not device.openers:
                device.opened_block_sectors = 0

    def below(self) -> list[BlockDevice]:
        """Devices of the live table."""
        return self.live.devices() if self.live else []

    # -- bios --

    @property
    def held(self) -> tuple[Bio, ...]:
        """Bios that wait until the device is resumed."""
        return tuple(self._deferred)

    def submit(self, bio: Bio) -> None:
        """Accept a bio (kernel: ``dm_submit_bio``)."""
        if self.suspended or self.internally_suspended:
            if bio.flags & RAHEAD:
                bio.end(errno.EIO)
                return
            self._deferred.append(bio)
            return
        self._in_flight += 1
        if self.live is None or bio.sector + bio.sectors > self.sectors:
            self._end(bio, errno.EIO)
            return
        if bio.op is Op.DISCARD and not self.limits.discard_sectors_max:
            self._end(bio, errno.EOPNOTSUPP)
            return
        io = _Io(bio)
        if not self.limits.write_cache:
            bio.flags &= ~(PREFLUSH | FUA)
        io.preflush = bool(bio.flags & PREFLUSH) and not self._passes_preflush(self.live)
        if bio.op == Op.FLUSH or io.preflush:
            self._flush(io, self.live)
        elif bio.op is Op.DISCARD:
            self._split_discard(io, self.live)
        else:
            self._split(io, self.live)
        self._end_piece(io, 0)

    def _split(self, io: _Io, table: Table) -> None:
        bio = io.bio
        sector = bio.sector
        left = bio.sectors
        data = bio.data
        while True:
            target = table.find(sector)
            sectors = min(left, target.start + target.sectors - sector)
            sectors = target.io_sectors(bio, sector, sectors)
            piece = data
            if data is not None and sectors != left:
                piece = data[: sectors << SECTOR_SHIFT]
                data = data[sectors << SECTOR_SHIFT :]
            self._map(io, target, sector, sectors, piece)
            left -= sectors
            if not left:
                return
            sector += sectors
            self.world.clock.may_preempt()

    def _map(
        self,
        io: _Io,
        target: Target,
        sector: int,
        sectors: int,
        data: memoryview | None,
        number: int = 0,
    ) -> None:
        """Send one clone on its way (kernel: ``__map_bio``)."""
        io.pieces += 1
        clone = _Clone(io.bio.op, sector, sectors, data, self._end_clone, io, target)
        clone.flags = io.bio.flags
        clone.number = number
        device = target.map(clone)
        if device is not None:
            device.submit(clone)

    def _split_discard(self, io: _Io, table: Table) -> None:
        """Cut a discard at the queue's limits, and each piece at targets, until nothing is left.

        Kernel: ``dm_split_and_process_bio``, ``__process_abnormal_io``.
        """
        waiting = [(io.bio.sector, io.bio.sector + io.bio.sectors)]
        while waiting:
            sector, end = waiting.pop()
            target = table.find(sector)
            cut = sector + self.limits.cut_discard(sector, end - sector)
            if cut < end:
                waiting.append((cut, end))
            boundary = min(cut, target.start + target.sectors)
            boundary = sector + target.discard_sectors(sector, boundary - sector)
            if boundary < cut:
                waiting.append((boundary, cut))
                cut = boundary
            for number in range(target.discards):
                self._map(io, target, sector, cut - sector, None, number)
            if waiting:
                self.world.clock.may_preempt()

    def _flush(self, io: _Io, table: Table) -> None:
        """Send empty flushes to everything below (kernel: ``__send_empty_flush``)."""
        if self.world.profile.flush_bypasses_map and table.flush_bypasses_map:
            for device in table.devices():
                device.submit(self._flush_clone(io, table.targets[0]))
            return
        for target in table.targets:
            for number in range(target.flushes):
                if io.pieces > 1:
                    # A flush that has ended by now is not shared with the next one.
                    self.world.clock.may_preempt()
                clone = self._flush_clone(io, target)
                to = target.map_flush(clone, number)
                if to is not None:
                    to.submit(clone)

    def _flush_clone(self, io: _Io, target: Target) -> "_Clone":
        io.pieces += 1
        return _Clone(Op.FLUSH, 0, 0, None, self._end_clone, io, target)

    def _passes_preflush(self, table: Table) -> bool:
        """A write with a preflush is passed on as it is (``dm_split_and_process_bio``)."""
        return (
            self.world.profile.preflush_passed
            and table.flush_bypasses_map
            and len(table.devices()) == 1
        )

    def _end_clone(self, clone: Bio) -> None:
        assert isinstance(clone, _Clone)
        if clone.chunk >= 0:
            clone.target.end_io(clone)
        self._end_piece(clone.io, clone.error)

    def _end_piece(self, io: _Io, error: int) -> None:
        if error:
            io.error = error
        io.pieces -= 1
        if io.pieces:
            return
        if io.preflush and not (io.error and self.world.profile.preflush_reported):
            # The data follows, whatever became of the flush (kernel: ``__dm_io_complete``).
            if io.error:
                self.world.defect("flush-error-ignored")
            self._in_flight -= 1
            io.bio.flags &= ~PREFLUSH
            self.world.clock.soon(self.submit, io.bio)
            return
        self._end(io.bio, io.error)

    def _end(self, bio: Bio, error: int) -> None:
        self._in_flight -= 1
        bio.end(error)

    # -- suspend and resume --

    def suspend(self) -> None:
        """Stop taking bios and wait for those in flight (kernel: ``dm_suspend``)."""
        table = self.live
        if table:
            for target in table.targets:
                target.presuspend()
        self.suspended = True
        self.world.clock.wait_until(lambda: not self._in_flight)
        if table:
            for target in table.targets:
                target.postsuspend()

    def resume(self) -> int:
        """Accept bios again; 0 or the errno that keeps the device suspended (``dm_resume``)."""
        table = self.live
        if table is None:
            return errno.EINVAL
        for target in table.targets:
            error = target.preresume()
            if error:
                self.world.log(
                    f"table: {{{self.name}}}: {target.type_name}: preresume failed, "
                    f"error = -{error}"
                )
                return error
        for target in table.targets:
            target.resume()
        self.suspended = False
        self._submit_deferred()
        return 0

    def internal_suspend(self) -> None:
        """Quiesce for a moment, without telling the targets (``dm_internal_suspend_fast``)."""
        self.internally_suspended += 1
        if not self.suspended:
            self.world.clock.wait_until(lambda: not self._in_flight)

    def internal_resume(self) -> None:
        """Kernel: ``dm_internal_resume_fast``."""
        self.internally_suspended -= 1
        if not self.suspended and not self.internally_suspended:
            self._submit_deferred()

    def _submit_deferred(self) -> None:
        bios, self._deferred = self._deferred, []
        for bio in bios:
            self.submit(bio)

    # -- tables --

    def set_limits(self, table: Table) -> None:
        """Take the queue limits from ``table`` (``dm_swap_table``, ``dm_table_set_restrictions``).

        A table without devices below leaves the limits of the live one unchanged.

        Raises:
            LoadError: they cannot be computed; nothing has changed.
        """
        if self.live is not None and table.has_no_data_devices():
            return
        self.limits = table.calculate_limits()
        self.limits_known = True
        kept = self.readahead_pages if self.world.profile.readahead_kept else 0
        self.readahead_pages = max(kept, self.limits.readahead_pages)
        self.block_sectors = self.limits.logical_block // SECTOR_BYTES
        self.max_sectors = (
            self.limits.max_sectors if self.world.profile.max_sectors_cut else UNLIMITED_SECTORS
        )

    def bind(self, table: Table) -> Table | None:
        """Make ``table`` live; returns the one it replaces (kernel: ``__bind``)."""
        old, self.live = self.live, table
        self.sectors = table.sectors
        return old

    def raise_event(self) -> None:
        """Kernel: ``dm_table_event``; wakes who waits for the next event number."""
        self.event += 1


class _Clone(Bio):
    """A piece of a bio, on its way through one target."""

    __slots__ = ("io", "target")

    def __init__(
        self,
        op: Op,
        sector: int,
        sectors: int,
        data: memoryview | None,
        end_io: EndIo,
        io: _Io,
        target: Target,
    ) -> None:
        super().__init__(op, sector, sectors, data, end_io)
        self.io = io
        self.target = target
