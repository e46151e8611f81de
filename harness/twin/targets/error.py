"""The error target: fails everything (kernel: dm-target.c)."""

import errno

from harness.twin.arguments import CtrError, scan_unsigned
from harness.twin.bio import Bio, BlockDevice
from harness.twin.limits import Limits
from harness.twin.profile import ACCEPTED
from harness.twin.table import OpenDevice
from harness.twin.target import Target, any_discard


class Error(Target):
    """``error``: fails everything; two arguments may name a device whose limits it takes."""

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
        return [] if self._opened is None else [(self._opened.device, self._offset, self.sectors)]

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``io_err_map``."""
        bio.end(errno.EIO)
        return None

    def takes_discards(self) -> bool:
        """Discards fail like any other bio, if its devices are available."""
        return self.tells_devices()

    def discards_need_devices(self) -> bool:
        """It fails discards by itself."""
        return False

    def io_hints(self, limits: Limits) -> Limits:
        """Kernel: ``io_err_io_hints``."""
        return any_discard(limits) if self.takes_discards() else limits

    def tells_devices(self) -> bool:
        """Available in versions that read the arguments."""
        return self.table.world.profile.error_args != ACCEPTED
