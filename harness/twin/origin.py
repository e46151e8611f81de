"""The snapshot-origin target, and what a write to an origin does (kernel: dm-snap.c).

Every write to a chunk that some snapshot has not copied yet waits until all of them have.  Only
the chunk of a bio's *first* sector is looked at, so writes must arrive cut at the smallest chunk
size of all snapshots; that boundary is taken when the origin is resumed and kept until its next
resume.
"""

import errno
from functools import partial
from typing import TYPE_CHECKING, Final

from harness.errors import KernelCrash
from harness.twin.arguments import CtrError
from harness.twin.bio import Bio, BlockDevice, Op
from harness.twin.target import Target

if TYPE_CHECKING:
    from harness.twin.snapshot import PendingException, Snapshot


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
            boundary = (self.world.registry.minimum_chunk_sectors(self.device) or boundary
                        or _NO_BOUNDARY)
        if not boundary:
            # 32 bits, as in the kernel: there is nothing left before sector 0.
            left = -sector & 0xFFFFFFFF
            if not left:
                raise KernelCrash(f"an origin without snapshots splits a write at sector {sector} "
                                  "after 0 sectors: the kernel stops in bio_split")
            return min(left, sectors)
        left = boundary - (sector & (boundary - 1))
        return left if left < sectors else sectors

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``origin_map``."""
        if bio.op is not Op.WRITE:
            return self.device
        for snapshot in self.world.registry.snapshots(self.device):
            if snapshot.throttle.holds_back():
                snapshot.throttle.wait(partial(self._admitted, bio))
                return None
        return None if self.world.origin_write(self.device, bio.sector, bio) else self.device

    def _admitted(self, bio: Bio) -> None:
        """One snapshot has room for ``bio``; the others must have, too."""
        for snapshot in self.world.registry.snapshots(self.device):
            if snapshot.throttle.full():
                snapshot.throttle.wait(partial(self._admitted, bio))
                return
        if not self.world.origin_write(self.device, bio.sector, bio):
            self.device.submit(bio)

    def flush_device(self, number: int) -> BlockDevice:
        """To the origin device only."""
        del number
        return self.device

    def takes_discards(self) -> bool:
        """An origin cannot tell its snapshots about them."""
        return False

    def resume(self) -> None:
        """Take the split boundary from the snapshots of now (kernel: ``origin_resume``)."""
        minimum = self.world.registry.minimum_chunk_sectors(self.device)
        self.split_boundary = minimum or self.world.profile.origin_default_boundary_sectors
        self.world.registry.add_origin(self)

    def postsuspend(self) -> None:
        """Kernel: ``origin_postsuspend``."""
        self.world.registry.remove_origin(self)

    def table_line(self) -> str:
        """The device."""
        return f"{{{self.device.name}}}"

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """As far as the target reaches."""
        return [(self.device, 0, self.sectors)]


def write_to_snapshots(snapshots: "list[Snapshot]", sector: int, bio: Bio | None) -> bool:
    """Make the exceptions that a write at ``sector`` needs (kernel: ``__origin_write``).

    Returns True if something must be waited for; ``bio`` is then queued on the first such
    exception and comes back here when that is complete.  A snapshot that cannot make its exception
    becomes invalid and is not waited for: the origin's write never fails for its sake.
    """
    must_wait = False
    start_last: PendingException | None = None
    for snapshot in snapshots:
        if snapshot.is_merge or not snapshot.valid or not snapshot.active:
            continue
        if sector >= snapshot.table.sectors:
            continue
        chunk = sector // snapshot.store.chunk_sectors
        if snapshot.complete.lookup(chunk) >= 0:
            continue
        pending = snapshot.pending.get(chunk) or snapshot.new_pending(chunk)
        if pending is None:
            snapshot.invalidate(errno.ENOMEM, lambda: None)
            continue
        must_wait = True
        if bio is not None:
            pending.origin_bios.append(bio)
            bio = None
            if not pending.started:
                pending.started = True
                start_last = pending
        if not pending.started:
            pending.started = True
            snapshot.start_copy(pending)
    # The exception that holds the bio goes last, to give the others a head start.
    if start_last is not None:
        start_last.snapshot.start_copy(start_last)
    return must_wait
