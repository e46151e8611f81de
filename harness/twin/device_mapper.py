"""The world of one scenario: disks, mapped devices, and the ioctls on them (kernel: dm-ioctl.c).

An ioctl returns an errno, 0 for success.  What the kernel would log, and the uevents it would
send, are kept in order until somebody takes them; ``device-mapper: `` stands before every line.
"""

import errno
from collections.abc import Callable
from typing import Final

from harness.trace.observations import UEvent
from harness.trace.steps import TargetLine
from harness.twin.arguments import split_args
from harness.twin.bio import Bio, BlockDevice
from harness.twin.clock import Choices, Clock
from harness.twin.disk import Disk
from harness.twin.fallible import FallibleDisk
from harness.twin.limits import Limits
from harness.twin.mapped_device import MappedDevice
from harness.twin.merge import SnapshotMerge
from harness.twin.origin import Origin, write_to_snapshots
from harness.twin.plug import Plug
from harness.twin.profile import Profile, errno_of
from harness.twin.registry import Registry
from harness.twin.snapshot import Snapshot
from harness.twin.table import LoadError, Table
from harness.twin.target import Target
from harness.twin.targets.delay import Delay
from harness.twin.targets.dust import Dust
from harness.twin.targets.error import Error
from harness.twin.targets.flakey import Flakey
from harness.twin.targets.linear import Linear
from harness.twin.targets.striped import Striped
from harness.twin.targets.zero import Zero
from harness.twin.throttle import DEFAULT_COW_THRESHOLD
from harness.units import SECTOR_BYTES, SECTOR_SHIFT

TARGET_TYPES: Final[dict[str, type[Target]]] = {
    kind.type_name: kind for kind in (Linear, Error, Zero, Striped, Delay, Dust, Flakey,
                                      Snapshot, SnapshotMerge, Origin)
}


class DeviceMapper:
    """All devices of one world, by name."""

    def __init__(self, profile: Profile, choices: Choices | None = None) -> None:
        self.profile = profile
        self.target_types = TARGET_TYPES
        self.cow_threshold = DEFAULT_COW_THRESHOLD
        self.clock = Clock(choices)
        self.registry = Registry()
        self.disks: dict[str, Disk] = {}
        self.mapped: dict[str, MappedDevice] = {}
        self._log: list[str] = []
        self._uevents: list[UEvent] = []
        self.exceptions_done = 0
        self._exception_waiters: list[Callable[[], None]] = []

    def plug(self) -> Plug:
        """A plug for a task."""
        return Plug(self.clock, reverses=self.profile.plug_reverses)

    # -- what the world tells --

    def log(self, text: str) -> None:
        """One line of the kernel log."""
        self._log.append(f"device-mapper: {text}")

    def take_log(self) -> tuple[str, ...]:
        """The lines since the last call."""
        lines, self._log = self._log, []
        return tuple(lines)

    def take_uevents(self) -> tuple[UEvent, ...]:
        """The uevents since the last call."""
        events, self._uevents = self._uevents, []
        return tuple(events)

    def _uevent(self, md: MappedDevice, action: str, **properties: str) -> None:
        """A uevent, if the device has been announced."""
        if md.announced:
            self._uevents.append(UEvent(action, md.name, properties))

    # -- devices --

    def device(self, name: str) -> BlockDevice | None:
        """The disk or mapped device of that name."""
        return self.disks.get(name) or self.mapped.get(name)

    def add_fallible_disk(self, name: str, sectors: int, *, linked: bool = False) -> Disk:
        """A new disk of zeros that takes faults; one that is ``linked`` may stop."""
        disk = self.disks[name] = FallibleDisk(name, sectors, self.clock, self.profile,
                                               linked=linked)
        return disk

    def fallible_disks(self) -> dict[str, FallibleDisk]:
        """The disks that take faults, by name."""
        return {name: disk for name, disk in self.disks.items() if isinstance(disk, FallibleDisk)}

    def add_disk(self, name: str, sectors: int, block_sectors: int) -> Disk:
        """A new disk of zeros."""
        profile = self.profile
        block = block_sectors * SECTOR_BYTES
        if block_sectors == 1:
            max_sectors, discard_bytes, granularity = (
                profile.max_sectors, profile.discard, profile.discard_granularity)
        else:
            max_sectors, discard_bytes, granularity = (
                profile.max_sectors_4k, profile.discard_4k, profile.discard_granularity_4k)
        disk = Disk(name, sectors, Limits(
            block, max(block, profile.physical_block), max(block, profile.io_min),
            max_sectors=max_sectors, discard_granularity=granularity if discard_bytes else 0,
            discard_sectors_max=discard_bytes >> SECTOR_SHIFT,
            write_cache=profile.write_cache_4k and block_sectors > 1))
        self.disks[name] = disk
        return disk

    # -- what snapshots share --

    def origin_write(self, origin: BlockDevice, sector: int, bio: Bio | None) -> bool:
        """A write to ``origin`` (kernel: ``do_origin``); True if ``bio`` has to wait."""
        snapshots = self.registry.snapshots(origin)
        return bool(snapshots) and write_to_snapshots(snapshots, sector, bio)

    def exception_done(self) -> None:
        """Some pending exception is over (``increment_pending_exceptions_done_count``)."""
        self.exceptions_done += 1
        waiters, self._exception_waiters = self._exception_waiters, []
        for waiter in waiters:
            self.clock.soon(waiter)

    def when_exception_done(self, before: int, then: Callable[[], None]) -> None:
        """Call ``then`` when more exceptions, of any snapshots, are over than ``before``."""
        if self.exceptions_done == before:
            self._exception_waiters.append(then)
        else:
            self.clock.soon(then)

    def at_rest(self) -> bool:
        """Whether nothing is going to happen by itself, and nothing waits for an exception."""
        return self.clock.idle() and not self._exception_waiters

    # -- ioctls --

    def create(self, name: str) -> int:
        """DM_DEV_CREATE."""
        if self.device(name) is not None:
            return errno.EBUSY
        md = self.mapped[name] = MappedDevice(self, name)
        self._uevent(md, "add")
        return 0

    def load(self, name: str, lines: tuple[TargetLine, ...], read_only: bool) -> int:
        """DM_TABLE_LOAD."""
        md = self.mapped.get(name)
        if md is None:
            return errno.ENXIO
        try:
            table = Table(md, lines, read_only)
        except LoadError as refused:
            return refused.code
        if not md.limits_known:
            try:
                md.set_limits(table)
            except LoadError as refused:
                md.limits_known = self.profile.refused_decides
                self.log("core: Cannot calculate initial queue limits")
                self.log("ioctl: unable to set up device queue for new table.")
                table.destroy()
                return refused.code
            if not md.announced:
                md.announced = True
                self._uevent(md, "add")
        old, md.inactive = md.inactive, table
        if old is not None:
            old.destroy()
        return 0

    def clear(self, name: str) -> int:
        """DM_TABLE_CLEAR."""
        md = self.mapped.get(name)
        if md is None:
            return errno.ENXIO
        old, md.inactive = md.inactive, None
        if old is not None:
            old.destroy()
        return 0

    def suspend(self, name: str) -> int:
        """DM_DEV_SUSPEND with DM_SUSPEND_FLAG."""
        md = self.mapped.get(name)
        if md is None:
            return errno.ENXIO
        if not md.suspended:
            md.suspend()
        return 0

    def resume(self, name: str) -> int:
        """DM_DEV_SUSPEND without the flag (kernel: ``do_resume``)."""
        md = self.mapped.get(name)
        if md is None:
            return errno.ENXIO
        old: Table | None = None
        properties: dict[str, str] = {}
        if md.inactive is not None:
            table, md.inactive = md.inactive, None
            if not md.suspended:
                md.suspend()
            try:
                md.set_limits(table)
            except LoadError as refused:
                table.destroy()
                return refused.code
            old_sectors = md.sectors
            old = md.bind(table)
            if old_sectors and old_sectors != md.sectors and self.profile.resize_uevent:
                properties["RESIZE"] = "1"
            read_only = not table.writable
            if read_only != md.read_only:
                md.read_only = read_only
                self._uevent(md, "change", DISK_RO=str(int(read_only)))
        error = 0
        if md.suspended:
            error = md.resume()
            if not error:
                self._uevent(md, "change", **properties)
        if old is not None:
            old.destroy()
        return error

    def remove(self, name: str) -> int:
        """DM_DEV_REMOVE."""
        md = self.mapped.get(name)
        if md is None:
            return errno.ENXIO
        if md.openers:
            return errno.EBUSY
        if md.inactive is not None:
            md.inactive.destroy()
            md.inactive = None
        # Once from the ioctl, once when the disk goes away.
        self._uevent(md, "remove")
        if md.live is not None:
            if not md.suspended:
                md.suspend()
            md.live.destroy()
            md.live = None
        self._uevent(md, "remove")
        del self.mapped[name]
        return 0

    def rename(self, name: str, to: str) -> int:
        """DM_DEV_RENAME."""
        if self.device(to) is not None:
            self.log(f"ioctl: Unable to change name on mapped device {name} to one that already "
                     f"exists: {to}")
            return errno.EBUSY
        md = self.mapped.pop(name, None)
        if md is None:
            self.log(f"ioctl: Unable to rename non-existent device, {name} to {to}")
            return errno.ENXIO
        md.name = to
        self.mapped[to] = md
        if md.live is not None:
            md.raise_event()
        self._uevent(md, "change")
        return 0

    def message(self, name: str, sector: int, text: str) -> tuple[int, str]:
        """DM_TARGET_MSG: errno and answer."""
        md = self.mapped.get(name)
        if md is None:
            return errno.ENXIO, ""
        words = split_args(text)
        if not words:
            self.log("ioctl: Empty message received.")
            return errno.EINVAL, ""
        if md.live is None:
            error = errno_of(self.profile.message_no_table)
            if error:
                self.log("ioctl: The device has no table.")
            return error, ""
        if sector >= md.sectors:
            self.log("ioctl: Target message sector outside device.")
            return errno.EINVAL, ""
        target = md.live.find(sector)
        if not target.takes_messages:
            self.log("ioctl: Target type does not support messages")
            return errno.EINVAL, ""
        try:
            return 0, target.message(words)
        except OSError as fault:
            return fault.errno or errno.EINVAL, ""
