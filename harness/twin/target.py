"""What a target type offers to device-mapper, and the simple targets (dm-linear, -zero, -error).

Kernel: ``struct target_type`` in include/linux/device-mapper.h.  A target's ``map`` gets a bio
whose sector is absolute on the mapped device; it returns the device that the bio goes to, after
changing ``bio.sector``, or None when it has taken care of the bio itself (queued it, ended it).
"""

import errno
from typing import TYPE_CHECKING, ClassVar

from harness.twin.bio import Bio, BlockDevice, Op
from harness.twin.profile import ACCEPTED, SATURATES, Profile

if TYPE_CHECKING:
    from harness.twin.table import OpenDevice, Table


class CtrError(Exception):
    """A constructor refused: ``ti->error`` and the errno it returned."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class Target:
    """One line of a table.

    Attributes:
        start, sectors: its place on the mapped device.
        max_io_sectors: longest bio it takes, and the boundary bios are cut at; 0 for none
            (kernel: ``ti->max_io_len``).
        flushes, discards: how many bios each of them becomes (``num_flush_bios``,
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
        """Give everything back (kernel: ``dtr``); the table closes the devices."""

    def io_sectors(self, bio: Bio, sector: int, sectors: int) -> int:
        """How much of ``sectors`` from ``sector`` on one bio may cover (``max_io_len``)."""
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
        """Obey a message; its answer, if any (kernel: ``message``).

        Raises:
            OSError: with the errno of a refusal.
        """
        raise NotImplementedError

    def end_io(self, bio: Bio) -> None:
        """A bio that ``map`` marked (``bio.chunk``) has ended."""

    def takes_discards(self) -> bool:
        """Whether a discard may be sent to this target, if its devices take discards.

        Kernel: ``num_discard_bios``, and ``discards_supported`` where there are no devices.
        """
        return True

    def tells_devices(self) -> bool:
        """Whether `devices` can be asked for (kernel: there is an ``iterate_devices``)."""
        return True

    def discard_sectors_max(self) -> int:
        """Longest discard that this target wants to see; 0 for any (``io_hints``)."""
        return 0

    def presuspend(self) -> None:
        """Before the device stops taking bios."""

    def postsuspend(self) -> None:
        """After the last bio in flight has ended."""

    def preresume(self) -> int:
        """0, or the errno that keeps the device suspended."""
        return 0

    def resume(self) -> None:
        """The device is about to take bios again."""

    def status(self) -> str:
        """The INFO string."""
        return ""

    def table_line(self) -> str:
        """The TABLE string."""
        return ""

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """Areas that the table checks: device, first sector, sectors (``iterate_devices``)."""
        return []


class Linear(Target):
    """``linear <device> <offset>``."""

    type_name = "linear"
    flush_bypasses_map = True

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``linear_ctr``."""
        if len(argv) != 2:
            raise CtrError("Invalid argument count", errno.EINVAL)
        offset = scan_unsigned(argv[1], 64, self.table.world.profile)
        if offset is None:
            raise CtrError("Invalid device sector", errno.EINVAL)
        self.offset = offset
        try:
            self._opened = self.table.get_device(argv[0])
        except OSError as fault:
            raise CtrError("Device lookup failed", fault.errno or errno.EIO) from None
        self.device = self._opened.device

    def destroy(self) -> None:
        """Kernel: ``linear_dtr``."""
        self.table.put_device(self._opened)

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``linear_map``."""
        bio.sector = self.offset + bio.sector - self.start
        return self.device

    def flush_device(self, number: int) -> BlockDevice:
        """Flushes go to the device."""
        del number
        return self.device

    def table_line(self) -> str:
        """``<device> <offset>``."""
        return f"{{{self.device.name}}} {self.offset}"

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """The range that is mapped."""
        return [(self.device, self.offset, self.sectors)]


class Zero(Target):
    """``zero``: reads zeros, forgets writes."""

    type_name = "zero"

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``zero_ctr``."""
        self.flushes = 0
        if argv:
            raise CtrError("No arguments required", errno.EINVAL)

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``zero_map``."""
        if bio.op == Op.READ:
            assert bio.data is not None
            bio.data[:] = bytes(len(bio.data))
        bio.end()
        return None

    def takes_discards(self) -> bool:
        """Some kernels let it forget discards as well."""
        return self.table.world.profile.zero_discard == ACCEPTED

    def tells_devices(self) -> bool:
        """Kernel: ``zero_target`` has no ``iterate_devices``."""
        return False


class Error(Target):
    """``error``: fails everything; two arguments may name a device to take limits from."""

    type_name = "error"

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``io_err_ctr``."""
        self.flushes = 0
        self._opened: OpenDevice | None = None
        self._offset = 0
        if len(argv) != 2 or not self.tells_devices():
            return
        offset = scan_unsigned(argv[1], 64, self.table.world.profile)
        if offset is None:
            raise CtrError("Invalid device sector", errno.EINVAL)
        self._offset = offset
        try:
            self._opened = self.table.get_device(argv[0])
        except OSError as fault:
            raise CtrError("Device lookup failed", fault.errno or errno.EIO) from None

    def destroy(self) -> None:
        """Kernel: ``io_err_dtr``."""
        if self._opened is not None:
            self.table.put_device(self._opened)

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """The named device, if any (kernel: ``io_err_iterate_devices``)."""
        return [] if self._opened is None else [
            (self._opened.device, self._offset, self.sectors)]

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``io_err_map``."""
        bio.end(errno.EIO)
        return None

    def takes_discards(self) -> bool:
        """They fail like any other bio, where their devices can be asked for."""
        return self.tells_devices()

    def tells_devices(self) -> bool:
        """Since it looks at its arguments, it has something to tell."""
        return self.table.world.profile.error_args != ACCEPTED


def parse_unsigned(text: str, bits: int) -> int | None:
    """A decimal number below ``2**bits``, with or without a plus sign, or None (``kstrtouint``)."""
    digits = text.removeprefix("+")
    if not digits.isascii() or not digits.isdigit():
        return None
    number = int(digits)
    return number if number < 1 << bits else None


def scan_unsigned(text: str, bits: int, profile: Profile) -> int | None:
    """A decimal number without a sign, or None (kernel: ``sscanf`` with ``%u%c``, ``%llu%c``).

    Bits beyond fall away: those above 64 or, in some kernels, a number that has such is the
    greatest one.
    """
    if not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    if profile.number_overflow == SATURATES:
        number = min(number, (1 << 64) - 1)
    return number & (1 << bits) - 1
