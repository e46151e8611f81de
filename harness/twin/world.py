"""The world of one scenario: its time, its devices by name, and its kernel's messages.

Everything below an ioctl knows the world, but the world knows none of it: a device is what bios go
to (`harness.twin.bio.BlockDevice`), a snapshot is what `harness.twin.origins` needs.  What the
kernel would log, and the uevents it would send, are kept in order until they are fetched; every
line starts with ``device-mapper: ``.
"""

from collections.abc import Callable
from typing import Any

from harness.errors import KernelCrash
from harness.trace.observations import UEvent
from harness.twin.bio import BlockDevice
from harness.twin.clock import Choices, Clock
from harness.twin.disk import Disk, Memory
from harness.twin.fallible import FallibleDisk
from harness.twin.limits import Limits
from harness.twin.origins import Origins
from harness.twin.plug import Plug
from harness.twin.profile import Profile
from harness.units import SECTOR_BYTES, SECTOR_SHIFT


class World:
    """One kernel's devices, and what they share.

    Attributes:
        profile: what this kernel does differently from others.
        clock: its time, and pending events.
        devices: disks and mapped devices by name, in the order of their creation.
        origins: which snapshots each origin has.
        cow_threshold: the module parameter ``snapshot_cow_threshold``.
        exceptions_done: how many pending exceptions, of any snapshots, are over.
    """

    def __init__(self, profile: Profile, choices: Choices | None = None) -> None:
        self.profile = profile
        self.clock = Clock(choices)
        self._memory = Memory()
        self.devices: dict[str, BlockDevice] = {}
        # The callers define the types of snapshots and targets; the world does not know them.
        self.origins: Origins[Any, Any] = Origins()
        self.cow_threshold = profile.cow_threshold
        self._log: list[str] = []
        self._crashes: list[KernelCrash] = []
        self._defects: dict[str, None] = {}
        self._uevents: list[UEvent] = []
        self.exceptions_done = 0
        self._exception_waiters: list[Callable[[], None]] = []

    def plug(self) -> Plug:
        """A plug for a task."""
        return Plug(self.clock, reverses=self.profile.plug_reverses)

    # -- logs and uevents --

    def log(self, text: str) -> None:
        """One line of the kernel log."""
        self._log.append(f"device-mapper: {text}")

    def take_log(self) -> tuple[str, ...]:
        """The lines since the last call."""
        lines, self._log = self._log, []
        return tuple(lines)

    def uevent(self, device: BlockDevice, action: str, **properties: str) -> None:
        """Send a uevent, if the device has been announced."""
        if device.announced:
            self._uevents.append(UEvent(action, device.name, properties))

    def take_uevents(self) -> tuple[UEvent, ...]:
        """The uevents since the last call."""
        events, self._uevents = self._uevents, []
        return tuple(events)

    def may_die(self, crash: KernelCrash) -> None:
        """Announce a place where this kernel may or may not die: no harmless probe can tell."""
        self._crashes.append(crash)

    def take_crashes(self) -> tuple[KernelCrash, ...]:
        """What was announced since the last call."""
        crashes, self._crashes = self._crashes, []
        return tuple(crashes)

    def defect(self, name: str) -> None:
        """A known defect strikes here (docs/KERNEL-DEFECTS.md): the twin does as kernels do."""
        self._defects[name] = None

    def take_defects(self) -> tuple[str, ...]:
        """Those that struck since the last call, each once."""
        names, self._defects = tuple(self._defects), {}
        return names

    # -- devices --

    def device(self, name: str) -> BlockDevice | None:
        """The disk or mapped device of that name."""
        return self.devices.get(name)

    @property
    def disks(self) -> dict[str, Disk]:
        """The disks, by name."""
        return {name: disk for name, disk in self.devices.items() if isinstance(disk, Disk)}

    def fallible_disks(self) -> dict[str, FallibleDisk]:
        """The disks that take faults, by name."""
        return {name: disk for name, disk in self.devices.items() if isinstance(disk, FallibleDisk)}

    def add_fallible_disk(self, name: str, sectors: int, *, linked: bool = False) -> Disk:
        """A new disk of zeros that takes faults; one that is ``linked`` may stop."""
        disk = self.devices[name] = FallibleDisk(
            name, sectors, self.clock, self.profile, self._memory, linked=linked
        )
        return disk

    def add_disk(self, name: str, sectors: int, block_sectors: int) -> Disk:
        """A new disk of zeros."""
        profile = self.profile
        block = block_sectors * SECTOR_BYTES
        if block_sectors == 1:
            max_sectors, discard_bytes, granularity = (
                profile.max_sectors,
                profile.discard,
                profile.discard_granularity,
            )
        else:
            max_sectors, discard_bytes, granularity = (
                profile.max_sectors_4k,
                profile.discard_4k,
                profile.discard_granularity_4k,
            )
        disk = self.devices[name] = Disk(
            name,
            sectors,
            Limits(
                block,
                max(block, profile.physical_block),
                max(block, profile.io_min),
                max_sectors=max_sectors,
                discard_granularity=granularity if discard_bytes else 0,
                discard_sectors_max=discard_bytes >> SECTOR_SHIFT,
                write_cache=profile.write_cache_4k and block_sectors > 1,
            ),
            self._memory,
        )
        return disk

    # -- what snapshots share --

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
        """Whether no event is pending, and nothing waits for an exception."""
        return self.clock.idle() and not self._exception_waiters
