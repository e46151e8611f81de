"""The snapshot-origin target (kernel: dm-snap.c).

What a write does is up to the snapshots (`harness.twin.origins`).  Only the chunk of a
bio's *first* sector is looked at, so writes must arrive cut at the smallest chunk size of all
snapshots; that boundary is taken when the origin is resumed and kept until its next resume.
"""

import errno
from functools import partial
from typing import Final

from harness.errors import KernelCrash
from harness.twin.arguments import CtrError
from harness.twin.bio import Bio, BlockDevice, Op
from harness.twin.origins import Origins
from harness.twin.snapshot import Snapshot
from harness.twin.target import Target

_NO_BOUNDARY: Final = 1 << 31


class Origin(Target):
    """``snapshot-origin <device>``."""

    type_name = "snapshot-origin"

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``origin_ctr``."""
        if len(argv) != 1:
            raise CtrError("origin: incorrect number of arguments", errno.EINVAL)
        try:
            self._opened = self.table.get_device(argv[0])
        except OSError as fault:
            raise CtrError("Cannot get target device", fault.errno or errno.EIO) from None
        self.device = self._opened.device
        self.world = self.table.world
        self.origins: Origins[Snapshot, Origin] = self.world.origins
        self.split_boundary = self.world.profile.origin_default_boundary_sectors

    def destroy(self) -> None:
        """Kernel: ``origin_dtr``."""
        self.table.put_device(self._opened)

    def io_sectors(self, bio: Bio, sector: int, sectors: int) -> int:
        """Writes are cut at the split boundary, counted from sector 0 of the device."""
        if bio.op is not Op.WRITE:
            return sectors
        boundary = self.split_boundary
        if self.world.profile.fixed:
            boundary = self.origins.minimum_chunk_sectors(self.device) or boundary or _NO_BOUNDARY
        if not boundary:
            # 32 bits, as in the kernel: nothing is left before sector 0.
            left = -sector & 0xFFFFFFFF
            minimum = self.origins.minimum_chunk_sectors(self.device)
            if minimum and minimum - (sector & (minimum - 1)) < sectors:
                self.world.defect("origin-not-resumed")
            if not left:
                raise KernelCrash(
                    f"an origin without snapshots splits a write at sector {sector} "
                    "after 0 sectors: the kernel stops in bio_split"
                )
            return min(left, sectors)
        left = boundary - (sector & (boundary - 1))
        minimum = self.origins.minimum_chunk_sectors(self.device)
        if minimum and minimum - (sector & (minimum - 1)) < min(left, sectors):
            self.world.defect("origin-not-resumed")
        return left if left < sectors else sectors

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``origin_map``."""
        if bio.op is not Op.WRITE:
            return self.device
        for snapshot in self.origins.snapshots(self.device):
            if snapshot.throttle.holds_back():
                snapshot.throttle.wait(partial(self._admitted, bio))
                return None
        return None if self.origins.write(self.device, bio.sector, bio) else self.device

    def _admitted(self, bio: Bio) -> None:
        """One snapshot has room for ``bio``; the others must have room too."""
        for snapshot in self.origins.snapshots(self.device):
            if snapshot.throttle.full():
                snapshot.throttle.wait(partial(self._admitted, bio))
                return
        if not self.origins.write(self.device, bio.sector, bio):
            self.device.submit(bio)

    def flush_device(self, number: int) -> BlockDevice:
        """To the origin device only."""
        del number
        return self.device

    def takes_discards(self) -> bool:
        """Not supported: an origin cannot tell its snapshots about discards."""
        return False

    def resume(self) -> None:
        """Take the split boundary from the current snapshots (kernel: ``origin_resume``)."""
        minimum = self.origins.minimum_chunk_sectors(self.device)
        self.split_boundary = minimum or self.world.profile.origin_default_boundary_sectors
        self.origins.add_origin(self)

    def postsuspend(self) -> None:
        """Kernel: ``origin_postsuspend``."""
        self.origins.remove_origin(self)

    def table_line(self) -> str:
        """The device."""
        return f"{{{self.device.name}}}"

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """As far as the target reaches."""
        return [(self.device, 0, self.sectors)]
