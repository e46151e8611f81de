"""What a target type offers to device-mapper.

Kernel: ``struct target_type`` in include/linux/device-mapper.h.  A target's ``map`` gets a bio
whose sector is absolute on the mapped device; it returns the device that the bio goes to, after
changing ``bio.sector``, or None if it has taken care of the bio itself (queued or ended it).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from harness.twin.bio import Bio, BlockDevice
from harness.twin.limits import UNLIMITED_SECTORS, Limits
from harness.units import SECTOR_BYTES

if TYPE_CHECKING:
    from harness.twin.table import Table


class Target:
    """One line of a table.

    Attributes:
        start, sectors: its place on the mapped device.
        max_io_sectors: longest bio it takes, and the boundary at which bios are cut; 0 for none
            (kernel: ``ti->max_io_len``).
        flushes, discards: how many bios each becomes (``num_flush_bios``,
            ``num_discard_bios``).
    """

    type_name: ClassVar[str]
    takes_messages: ClassVar[bool] = False
    flush_bypasses_map: ClassVar[bool] = False
    """A flush may go straight to its device."""

    def __init__(self, table: "Table", start: int, sectors: int) -> None:
        self.table = table
        self.start = start
        self.sectors = sectors
        self.max_io_sectors = 0
        self.flushes = 1
        self.discards = 1

    def construct(self, argv: list[str]) -> None:
        """Parse the arguments, open devices (kernel: ``ctr``).

        Raises:
            CtrError: with the kernel's text and errno.
        """

    def destroy(self) -> None:
        """Release everything (kernel: ``dtr``); the table closes the devices."""

    def io_sectors(self, bio: Bio, sector: int, sectors: int) -> int:
        """How many of ``sectors`` from ``sector`` on one bio may cover (``max_io_len``)."""
        del bio
        boundary = self.max_io_sectors
        if not boundary:
            return sectors
        left = boundary - (sector - self.start) % boundary
        if left < sectors:
            sectors = left
        limit = self.table.md.max_sectors
        return limit if limit < sectors else sectors

    def map(self, bio: Bio) -> BlockDevice | None:
        """Send a bio on its way."""
        raise NotImplementedError

    def flush_device(self, number: int) -> BlockDevice:
        """Where empty flush ``number`` goes."""
        raise NotImplementedError

    def map_flush(self, bio: Bio, number: int) -> BlockDevice | None:
        """Send empty flush ``number`` on its way."""
        del bio
        return self.flush_device(number)

    def message(self, words: list[str]) -> str:
        """Obey a message; returns its answer, if any (kernel: ``message``).

        Raises:
            OSError: with the errno of a refusal.
        """
        raise NotImplementedError

    def end_io(self, bio: Bio) -> None:
        """A bio that ``map`` marked (``bio.chunk``) has ended."""

    def takes_discards(self) -> bool:
        """Whether a discard may be sent to this target (kernel: ``num_discard_bios``)."""
        return True

    def discards_need_devices(self) -> bool:
        """Whether its devices must take discards too (kernel: not ``discards_supported``)."""
        return True

    def tells_devices(self) -> bool:
        """Whether `devices` is available (kernel: there is an ``iterate_devices``)."""
        return True

    def discard_sectors(self, sector: int, sectors: int) -> int:
        """How much of a discard this target takes at once, whatever the limits say."""
        del sector
        return sectors

    def io_hints(self, limits: Limits) -> Limits:
        """The target's changes to the stacked limits of its devices (kernel: ``io_hints``)."""
        return limits

    def presuspend(self) -> None:
        """Before the device stops taking bios."""

    def postsuspend(self) -> None:
        """After the last bio in flight has ended."""

    def preresume(self) -> int:
        """0, or the errno that keeps the device suspended."""
        return 0

    def resume(self) -> None:
        """The device is about to accept bios again."""

    def status(self) -> str:
        """The INFO string."""
        return ""

    def table_line(self) -> str:
        """The TABLE string."""
        return ""

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """Areas that the table checks: device, first sector, sectors (``iterate_devices``)."""
        return []


def any_discard(limits: Limits) -> Limits:
    """The limits of what takes discards of any place and length."""
    return replace(limits, discard_granularity=SECTOR_BYTES, discard_sectors_max=UNLIMITED_SECTORS)
