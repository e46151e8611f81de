"""A table: targets side by side, the devices they opened, and the checks on both.

Kernel: dm-table.c.  A table opens a device once, with the widest mode that any of its targets
requested; the mapped device shares an opened device between its live and its inactive table when
the modes are equal.  The open count of a device shows this.
"""

import errno
import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.errors import FreedMemory, KernelCrash, Unsupported, errno_name
from harness.trace.steps import NO_TARGET, REFERENCE, TargetLine
from harness.twin.arguments import CtrError, split_args
from harness.twin.bio import BlockDevice
from harness.twin.limits import (
    STACKING,
    Limits,
    at_least_a_block,
    divides_by_zero,
    stack,
    without_discards,
)
from harness.twin.profile import ACCEPTED, errno_of
from harness.twin.target import Target
from harness.twin.world import World
from harness.units import SECTOR_BYTES

if TYPE_CHECKING:
    from harness.twin.mapped_device import MappedDevice

MODE_READ = 1
MODE_WRITE = 2
_SECTORS_MAX = (1 << 63) - 1 >> 9
"""Longest table: file offsets do not reach further."""
_NUMBERS = re.compile(r"(\d+):(\d+)")
_THREE_NUMBERS = re.compile(r"\d+:\d+:\d+(:|[^\d:].*)?", re.DOTALL)
_HEX_NUMBER = re.compile(r"(?:0[xX])?([0-9a-fA-F]+)")
_U32 = (1 << 32) - 1
_MAJOR_MAX = (1 << 12) - 1
_MINOR_MAX = (1 << 20) - 1


class OpenDevice:
    """A device that a table opened (kernel: ``struct dm_dev``); compared by identity."""

    __slots__ = ("device", "mode")

    def __init__(self, device: BlockDevice, mode: int) -> None:
        self.device = device
        self.mode = mode


class _Used:
    """How often a table uses an opened device (kernel: ``struct dm_dev_internal``)."""

    __slots__ = ("count", "opened")

    def __init__(self, opened: OpenDevice) -> None:
        self.opened = opened
        self.count = 1


class LoadError(Exception):
    """A table was refused; ``code`` is the errno, the log lines are already written."""

    def __init__(self, code: int) -> None:
        super().__init__(errno_name(code))
        self.code = code


class Table:
    """The targets of one mapped device, constructed one by one.

    ``types`` are those that a line may use (kernel: ``dm_get_target_type``).

    Raises:
        LoadError: a target was refused; those before it are destroyed again.
    """

    def __init__(
        self,
        md: "MappedDevice",
        lines: tuple[TargetLine, ...],
        read_only: bool,
        types: Mapping[str, type[Target]],
    ) -> None:
        self.md = md
        self.world: World = md.world
        self._types = types
        self.mode = MODE_READ if read_only else MODE_READ | MODE_WRITE
        self.targets: list[Target] = []
        self._starts: list[int] = []
        self._devices: list[_Used] = []
        self._stale: list[OpenDevice] = []
        try:
            if not lines:
                self.world.log("ioctl: populate_table: no targets specified")
                raise LoadError(errno.EINVAL)
            for line in lines:
                self._add_target(line)
        except LoadError:
            self.destroy()
            raise

    @property
    def writable(self) -> bool:
        """Loaded without DM_READONLY_FLAG."""
        return bool(self.mode & MODE_WRITE)

    @property
    def sectors(self) -> int:
        """Length of the table."""
        last = self.targets[-1]
        return last.start + last.sectors

    def _add_target(self, line: TargetLine) -> None:
        """Kernel: ``dm_table_add_target``."""
        log = self.world.log
        prefix = f"table: {{{self.md.name}}}:"
        fault: CtrError | None = None
        if not line.length:
            log(f"{prefix} zero-length target")
        elif line.start + line.length > _SECTORS_MAX and self.world.profile.too_long != ACCEPTED:
            log(f"{prefix} too large device")
        elif (kind := self._types.get(line.type)) is None:
            check_known(line.type)
            log(f"{prefix} {line.type}: unknown target type")
        elif line.start != (self.sectors if self.targets else 0):
            fault = CtrError("Gap in table", errno.EINVAL)
        else:
            target = kind(self, line.start, line.length)
            try:
                target.construct(split_args(line.args))
            except CtrError as refused:
                fault = refused
            else:
                self.targets.append(target)
                self._starts.append(line.start)
                return
        if fault is not None:
            suffix = (
                f" (-{errno_name(fault.code)})" if (self.world.profile.log_errno_suffix) else ""
            )
            log(f"{prefix} {line.type}: {fault.text}{suffix}")
        log("ioctl: error adding target to table")
        raise LoadError(fault.code if fault is not None else errno.EINVAL)

    def find(self, sector: int) -> Target:
        """The target that ``sector`` falls into."""
        targets = self.targets
        if len(targets) == 1:
            return targets[0]
        return targets[bisect_right(self._starts, sector) - 1]

    def get_device(self, path: str, mode: int | None = None) -> OpenDevice:
        """Open a device for this table (kernel: ``dm_get_device``).

        The second opener of a device in one table shares what the first one opened.  If it needs a
        wider mode, the device is reopened and the first one's reference is stale from then on, as
        in ``upgrade_mode``; `put_device` shows it.

        Raises:
            OSError: with the errno of the lookup or of the open.
        """
        device = self._look_up(path)
        wanted = self.mode if mode is None else mode
        refused = self._refused(device)
        if refused:
            raise OSError(refused, "refused before it is opened")
        used = next((used for used in self._devices if used.opened.device is device), None)
        if used is None:
            used = _Used(OpenDevice(device, wanted))
            self.md.hold(device, wanted)
            self._devices.append(used)
            return used.opened
        held = used.opened.mode
        if held | wanted != held:
            self.md.hold(device, held | wanted)
            self.md.release(device, held)
            if self.world.profile.fixed:
                used.opened.mode |= wanted
            else:
                self._stale.append(used.opened)
                used.opened = OpenDevice(device, held | wanted)
        used.count += 1
        return used.opened

    def _refused(self, device: BlockDevice) -> int:
        """The errno that naming ``device`` gets, 0 if none."""
        profile = self.world.profile
        if device is self.md and profile.self_reference == "EINVAL":
            return errno.EINVAL
        # A mapped device that has not been announced yet cannot be opened.
        return 0 if device.announced else errno_of(profile.unloaded_device)

    def look_up(self, path: str) -> BlockDevice | None:
        """The device that ``path`` leads to, without opening it (``dm_get_dev_t``)."""
        try:
            return self._look_up(path)
        except OSError:
            return None

    def _look_up(self, path: str) -> BlockDevice:
        reference = REFERENCE.fullmatch(path)
        if reference:
            device = self.world.device(reference[1])
            if device is not None:
                return device
        elif numbers := _NUMBERS.fullmatch(path):
            major, minor = (int(number) & _U32 for number in numbers.groups())
            if major > _MAJOR_MAX or minor > _MINOR_MAX:
                raise OSError(errno.EOVERFLOW, "no possible device number")
            raise OSError(errno.ENXIO, "no such device number")
        elif self.world.profile.early_device_names and _is_early_name(path):
            raise OSError(errno.ENXIO, "no such device number")
        raise OSError(self.world.profile.missing_path_errno, "no such path")

    def put_device(self, opened: OpenDevice) -> None:
        """Close what `get_device` returned (kernel: ``dm_put_device``)."""
        used = next((used for used in self._devices if used.opened is opened), None)
        if used is None:
            self._stale.remove(opened)
            # The kernel prints the name from memory that the upgrade has freed.
            self.world.log(f"table: {{{self.md.name}}}: device {{freed}} not in table devices list")
            return
        used.count -= 1
        if not used.count:
            self._devices.remove(used)
            self.md.release(opened.device, opened.mode)

    @property
    def flush_bypasses_map(self) -> bool:
        """Whether flushes bypass the targets (kernel: ``t->flush_bypasses_map``)."""
        return all(target.flush_bypasses_map for target in self.targets)

    def devices(self) -> list[BlockDevice]:
        """Devices that this table holds open."""
        return [used.opened.device for used in self._devices]

    def raise_event(self) -> None:
        """Raise an event of the mapped device, if this table is live (``dm_table_event``)."""
        if self.md.live is self:
            self.md.raise_event()

    def destroy(self) -> None:
        """Destroy the targets in order, then close the devices (``dm_table_destroy``)."""
        for target in self.targets:
            target.destroy()
        self.targets = []
        for used in self._devices:
            device = used.opened.device
            self.world.log(
                f"table: {{{self.md.name}}}: dm_table_destroy: "
                f"dm_put_device call missing for {{{device.name}}}"
            )
            self.md.release(device, used.opened.mode)
        self._devices = []

    def calculate_limits(self) -> Limits:
        """Stack the limits of all devices; log what does not line up (dm_calculate_queue_limits).

        Raises:
            LoadError: a device area, or the table itself, does not fit; that is logged too.
        """
        name = f"table: {{{self.md.name}}}:"
        limits = STACKING
        if self._stale:
            self.world.may_die(
                FreedMemory(
                    "a target uses a device whose reference was freed when "
                    "another one opened it for writing",
                    "stale-reference-in-use",
                )
            )
        for target in self.targets:
            below = self._device_limits(target)
            own = target.io_hints(below)
            fault = _area_fault(target, own)
            if fault is not None:
                self.world.log(f"{name} {fault}")
                raise LoadError(errno.EINVAL)
            if divides_by_zero(own, below):
                self.world.may_die(
                    KernelCrash(
                        "a discard granularity of less than one sector: the "
                        "kernel divides by zero in blk_stack_limits",
                        "discard-divide-error",
                    )
                )
            limits, fits = stack(limits, own, 0)
            if not fits:
                self.world.log(
                    f"{name} adding target device (start sect {target.start} len "
                    f"{target.sectors}) caused an alignment inconsistency"
                )
        self._check_alignment(limits)
        return self._restrict(limits)

    def _restrict(self, limits: Limits) -> Limits:
        """Kernel: ``dm_table_set_restrictions``."""
        if not self.supports_discards():
            return without_discards(limits)
        return at_least_a_block(limits) if self.world.profile.discard_of_blocks else limits

    def _device_limits(self, target: Target) -> Limits:
        """Limits of one target's devices (kernel: ``dm_set_device_limits``)."""
        limits = STACKING
        for device, start, _ in target.devices():
            below = device.limits
            limits, fits = stack(limits, below, start)
            if not fits:
                self.world.log(
                    f"table: {{{self.md.name}}}: adding target device {{{device.name}}} caused an "
                    f"alignment inconsistency: physical_block_size={below.physical_block}, "
                    f"logical_block_size={below.logical_block}, "
                    f"alignment_offset={below.alignment_offset}, start={start * SECTOR_BYTES}"
                )
        return limits

    def _check_alignment(self, limits: Limits) -> None:
        """Kernel: ``validate_hardware_logical_block_alignment``."""
        block = limits.logical_block // SECTOR_BYTES
        next_start = remaining = number = 0
        for number, target in enumerate(self.targets, 1):
            own = self._device_limits(target).logical_block // SECTOR_BYTES
            if remaining < target.sectors and remaining % own:
                number -= 1  # noqa: PLW2901 -- the loop ends here
                break
            next_start = (next_start + target.sectors) % block
            remaining = block - next_start if next_start else 0
        if remaining:
            self.world.log(
                f"table: {{{self.md.name}}}: table line {number} (start sect "
                f"{target.start} len {target.sectors}) not aligned to h/w logical "
                f"block size {limits.logical_block}"
            )
            raise LoadError(errno.EINVAL)

    def has_no_data_devices(self) -> bool:
        """Whether all targets can list their devices, and have none."""
        return all(target.tells_devices() and not target.devices() for target in self.targets)

    def supports_discards(self) -> bool:
        """Every target takes discards, and so do its devices (``dm_table_supports_discards``)."""
        return all(
            target.takes_discards()
            and (
                not target.discards_need_devices()
                or all(device.limits.discard_sectors_max for device, _, _ in target.devices())
            )
            for target in self.targets
        )


def _area_fault(target: Target, limits: Limits) -> str | None:
    """What is wrong with the areas of a target's devices (kernel: ``device_area_is_invalid``)."""
    block = limits.logical_block // SECTOR_BYTES
    for device, start, sectors in target.devices():
        size = device.sectors
        if size and (start >= size or start + sectors > size):
            return (
                f"{{{device.name}}} too small for target: start={start}, len={sectors}, "
                f"dev_size={size}"
            )
        for label, value in (("start", start), ("len", sectors)):
            if size and value % block:
                return (
                    f"{label}={value} not aligned to h/w logical block size "
                    f"{limits.logical_block} of {{{device.name}}}"
                )
    return None


def _is_early_name(path: str) -> bool:
    """Whether ``path`` is a device number in the form of the kernel command line.

    Kernel: ``name_to_dev_t``, which did not accept device 0.
    """
    if _THREE_NUMBERS.fullmatch(path):
        return True
    number = _HEX_NUMBER.fullmatch(path)
    return number is not None and int(number[1], 16) & _U32 != 0


def check_known(kind: str) -> None:
    """Refuse to predict what a kernel does with a target that is not modelled.

    Raises:
        Unsupported: ``kind`` may be a target of some kernel.
    """
    if not kind.startswith(NO_TARGET):
        raise Unsupported(f"target {kind} is not known to the twin")
