"""The ioctls of device-mapper, and the target types that it knows (kernel: dm-ioctl.c).

An ioctl returns an errno, 0 for success.
"""

import errno
from typing import Final

from harness.trace.steps import TargetLine
from harness.twin.arguments import split_args
from harness.twin.clock import Choices
from harness.twin.mapped_device import MappedDevice
from harness.twin.merge import SnapshotMerge
from harness.twin.origin import Origin
from harness.twin.profile import Profile, errno_of
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
from harness.twin.world import World

TARGET_TYPES: Final[dict[str, type[Target]]] = {
    kind.type_name: kind
    for kind in (Linear, Error, Zero, Striped, Delay, Dust, Flakey, Snapshot, SnapshotMerge, Origin)
}


class DeviceMapper(World):
    """A world with device-mapper in it: what users can do with mapped devices.

    Attributes:
        target_types: by name, those that a table may use (kernel: ``dm_register_target``).
    """

    def __init__(self, profile: Profile, choices: Choices | None = None) -> None:
        super().__init__(profile, choices)
        self.target_types = TARGET_TYPES

    @property
    def mapped(self) -> dict[str, MappedDevice]:
        """The mapped devices, by name."""
        return {name: md for name, md in self.devices.items() if isinstance(md, MappedDevice)}

    def _mapped(self, name: str) -> MappedDevice | None:
        """The mapped device of that name (kernel: ``find_device``)."""
        md = self.devices.get(name)
        return md if isinstance(md, MappedDevice) else None

    def create(self, name: str) -> int:
        """DM_DEV_CREATE."""
        if self.device(name) is not None:
            return errno.EBUSY
        md = self.devices[name] = MappedDevice(self, name)
        self.uevent(md, "add")
        return 0

    def load(self, name: str, lines: tuple[TargetLine, ...], read_only: bool) -> int:
        """DM_TABLE_LOAD."""
        md = self._mapped(name)
        if md is None:
            return errno.ENXIO
        try:
            table = Table(md, lines, read_only, self.target_types)
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
                self.uevent(md, "add")
        old, md.inactive = md.inactive, table
        if old is not None:
            old.destroy()
        return 0

    def clear(self, name: str) -> int:
        """DM_TABLE_CLEAR."""
        md = self._mapped(name)
        if md is None:
            return errno.ENXIO
        old, md.inactive = md.inactive, None
        if old is not None:
            old.destroy()
        return 0

    def suspend(self, name: str) -> int:
        """DM_DEV_SUSPEND with DM_SUSPEND_FLAG."""
        md = self._mapped(name)
        if md is None:
            return errno.ENXIO
        if not md.suspended:
            md.suspend()
        return 0

    def resume(self, name: str) -> int:
        """DM_DEV_SUSPEND without the flag (kernel: ``do_resume``)."""
        md = self._mapped(name)
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
                self.uevent(md, "change", DISK_RO=str(int(read_only)))
        error = 0
        if md.suspended:
            error = md.resume()
            if not error:
                self.uevent(md, "change", **properties)
        if old is not None:
            old.destroy()
        return error

    def remove(self, name: str) -> int:
        """DM_DEV_REMOVE."""
        md = self._mapped(name)
        if md is None:
            return errno.ENXIO
        if md.openers:
            return errno.EBUSY
        if md.inactive is not None:
            md.inactive.destroy()
            md.inactive = None
        # Once from the ioctl, once when the disk goes away.
        self.uevent(md, "remove")
        if md.live is not None:
            if not md.suspended:
                md.suspend()
            md.live.destroy()
            md.live = None
        self.uevent(md, "remove")
        del self.devices[name]
        return 0

    def rename(self, name: str, to: str) -> int:
        """DM_DEV_RENAME."""
        if self.device(to) is not None:
            self.log(
                f"ioctl: Unable to change name on mapped device {name} to one that already "
                f"exists: {to}"
            )
            return errno.EBUSY
        md = self._mapped(name)
        if md is None:
            self.log(f"ioctl: Unable to rename non-existent device, {name} to {to}")
            return errno.ENXIO
        del self.devices[name]
        md.name = to
        self.devices[to] = md
        if md.live is not None:
            md.raise_event()
        self.uevent(md, "change")
        return 0

    def message(self, name: str, sector: int, text: str) -> tuple[int, str]:
        """DM_TARGET_MSG: errno and answer."""
        md = self._mapped(name)
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
