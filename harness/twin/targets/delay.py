"""The delay target: bios arrive later (kernel: dm-delay.c).

``delay <device> <offset> <ms>``, with a second group of three for writes and a third for flushes.
One millisecond is a thousand ticks.  Delayed bios leave in the order of their expiry; a suspend
releases all of them at once.

Bios that expire together leave in their order, too, or the first ones leave last: the worker looks
at one after the other, and the time may come meanwhile (kernel: ``flush_delayed_bios``).
"""

import errno
from dataclasses import dataclass

from harness.twin.arguments import CtrError, scan_unsigned
from harness.twin.bio import READ, Bio, BlockDevice
from harness.twin.clock import TICKS_PER_MS
from harness.twin.table import OpenDevice
from harness.twin.target import Target


@dataclass(slots=True)
class _Group:
    """Where bios of one kind go, and how much later."""

    opened: OpenDevice
    offset: int
    delay_ms: int
    waiting: int = 0

    def line(self) -> str:
        return f"{{{self.opened.device.name}}} {self.offset} {self.delay_ms}"


class Delay(Target):
    """Reads, writes and flushes, each with its own device, offset and delay."""

    type_name = "delay"

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``delay_ctr``."""
        self._groups: list[_Group] = []
        self._waiting: dict[Bio, _Group] = {}
        self._due: dict[int, list[Bio]] = {}
        self._may_delay = True
        if len(argv) not in (3, 6, 9):
            raise CtrError("Requires exactly 3, 6 or 9 arguments", errno.EINVAL)
        try:
            for first in range(0, len(argv), 3):
                self._groups.append(self._group(*argv[first : first + 3]))
        except CtrError:
            self.destroy()
            raise

    def _group(self, path: str, offset_word: str, delay_word: str) -> _Group:
        """Kernel: ``delay_class_ctr``."""
        profile = self.table.world.profile
        offset = scan_unsigned(offset_word, 64, profile)
        if offset is None:
            raise CtrError("Invalid device sector", errno.EINVAL)
        delay_ms = scan_unsigned(delay_word, 32, profile)
        if delay_ms is None:
            raise CtrError("Invalid delay", errno.EINVAL)
        try:
            return _Group(self.table.get_device(path), offset, delay_ms)
        except OSError as fault:
            raise CtrError("Device lookup failed", fault.errno or errno.EIO) from None

    def destroy(self) -> None:
        """Kernel: ``delay_dtr``."""
        for group in self._groups:
            self.table.put_device(group.opened)

    def _group_of(self, kind: int) -> _Group:
        """0 for reads, 1 for writes, 2 for flushes; a missing one is the same as the one before."""
        return self._groups[min(kind, len(self._groups) - 1)]

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``delay_map``."""
        group = self._group_of(0 if bio.op is READ else 1)
        bio.sector = group.offset + bio.sector - self.start
        if not group.delay_ms or not self._may_delay:
            return group.opened.device
        group.waiting += 1
        self._waiting[bio] = group
        clock, ticks = self.table.world.clock, group.delay_ms * TICKS_PER_MS
        due = clock.now + ticks
        if due not in self._due:
            self._due[due] = []
            clock.after(ticks, self._flush_due, due)
        self._due[due].append(bio)
        return None

    def _flush_due(self, due: int) -> None:
        """Kernel: ``flush_delayed_bios``, ``flush_bios``."""
        clock = self.table.world.clock
        bios = [bio for bio in self._due.pop(due) if bio in self._waiting]
        if len(bios) > 1:
            missed = clock.up_to(len(bios) - 1)
            bios = bios[missed:] + bios[:missed]
        for bio in bios:
            self._expired(bio)

    def _expired(self, bio: Bio) -> None:
        group = self._waiting.pop(bio, None)
        if group is not None:  # otherwise a suspend has released it
            group.waiting -= 1
            group.opened.device.submit(bio)

    def flush_device(self, number: int) -> BlockDevice:
        """Flushes are not held back here: only time could tell."""
        del number
        return self._group_of(2).opened.device

    def presuspend(self) -> None:
        """Nothing waits for a suspended device (kernel: ``delay_presuspend``)."""
        self._may_delay = False
        for bio in list(self._waiting):
            self._expired(bio)

    def resume(self) -> None:
        """Kernel: ``delay_resume``."""
        self._may_delay = True

    def status(self) -> str:
        """Waiting bios: reads, writes and flushes."""
        return f"{self._groups[0].waiting} {self._group_of(1).waiting} 0"

    def table_line(self) -> str:
        """The groups, as given."""
        return " ".join(group.line() for group in self._groups)

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """Kernel: ``delay_iterate_devices``."""
        return [(group.opened.device, group.offset, self.sectors) for group in self._groups]
