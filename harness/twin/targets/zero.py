"""The zero target: reads zeros, forgets writes (kernel: dm-zero.c)."""

import errno

from harness.twin.arguments import CtrError
from harness.twin.bio import RAHEAD, Bio, BlockDevice, Op
from harness.twin.limits import Limits
from harness.twin.profile import ACCEPTED
from harness.twin.target import Target, any_discard


class Zero(Target):
    """``zero``: reads zeros, forgets writes."""

    type_name = "zero"

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``zero_ctr``."""
        self.flushes = 0
        if argv:
            raise CtrError("No arguments required", errno.EINVAL)

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``zero_map``; readahead of zeros would only waste the page cache."""
        if bio.flags & RAHEAD:
            bio.end(errno.EIO)
            return None
        if bio.op == Op.READ:
            assert bio.data is not None
            bio.data[:] = bytes(len(bio.data))
        bio.end()
        return None

    def takes_discards(self) -> bool:
        """Some kernels let it accept and ignore discards as well."""
        return self.table.world.profile.zero_discard == ACCEPTED

    def discards_need_devices(self) -> bool:
        """It has no devices."""
        return False

    def io_hints(self, limits: Limits) -> Limits:
        """Kernel: ``zero_io_hints``."""
        return any_discard(limits)

    def tells_devices(self) -> bool:
        """Kernel: ``zero_target`` has no ``iterate_devices``."""
        return False
