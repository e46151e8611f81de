"""The linear target (kernel: dm-linear.c)."""

import errno

from harness.twin.arguments import CtrError, scan_unsigned
from harness.twin.bio import Bio, BlockDevice
from harness.twin.target import Target


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
