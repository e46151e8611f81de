"""The striped target: chunks dealt in turn to several devices (kernel: dm-stripe.c).

``striped <stripes> <chunk sectors> [<device> <offset>]…``.  A bio is cut at chunks; a discard, or a
write of zeroes, goes to every stripe, which takes its own part of it.

A device that fails is marked ``D`` in the status line, and each of its first errors raises an
event.  A worker does that (``trigger_event``): errors during submission raise one together; those
that a disk answers later raise one each, if the worker runs between two answers; it may also run
after several.
"""

import errno
from dataclasses import dataclass, replace
from typing import Final

from harness.twin.arguments import CtrError, parse_unsigned, scan_unsigned
from harness.twin.bio import RAHEAD, Bio, BlockDevice, Op
from harness.twin.limits import Limits
from harness.twin.table import OpenDevice
from harness.twin.target import Target
from harness.units import SECTOR_SHIFT

_ERRORS_TOLD_MAX: Final = 15
"""After so many errors of a device there are no more events (``DM_IO_ERROR_THRESHOLD``)."""
_U32: Final = (1 << 32) - 1


@dataclass(slots=True)
class _Stripe:
    """A device, its start sector, and how often it failed."""

    opened: OpenDevice
    start: int
    errors: int = 0


class Striped(Target):
    """Chunks of equal size, dealt to the stripes in turn."""

    type_name = "striped"
    flush_bypasses_map = True

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``stripe_ctr``."""
        if len(argv) < 2:
            raise CtrError("Not enough arguments", errno.EINVAL)
        count = parse_unsigned(argv[0], 32)
        if not count:
            raise CtrError("Invalid stripe count", errno.EINVAL)
        chunk = parse_unsigned(argv[1], 32)
        if not chunk:
            raise CtrError("Invalid chunk_size", errno.EINVAL)
        if self.sectors % count:
            raise CtrError("Target length not divisible by number of stripes", errno.EINVAL)
        self._width = self.sectors // count
        if self._width % chunk:
            raise CtrError("Target length not divisible by chunk size", errno.EINVAL)
        # The kernel counts in 32 bits, and so needs memory for two thousand million stripes.
        if len(argv) != (2 + 2 * count) & _U32:
            raise CtrError("Not enough destinations specified", errno.EINVAL)
        if len(argv) != 2 + 2 * count:
            raise CtrError("Memory allocation for striped context failed", errno.ENOMEM)
        self._chunk = self.max_io_sectors = chunk
        self.flushes = self.discards = count
        self._stripes: list[_Stripe] = []
        self._submitting = 0
        self._event_pending = False
        for at in range(2, len(argv), 2):
            try:
                self._stripes.append(self._stripe(*argv[at : at + 2]))
            except OSError as fault:
                self.destroy()
                raise CtrError(
                    "Couldn't parse stripe destination", fault.errno or errno.EIO
                ) from None

    def _stripe(self, path: str, start: str) -> _Stripe:
        """Kernel: ``get_stripe``."""
        sector = scan_unsigned(start, 64, self.table.world.profile)
        if sector is None:
            raise OSError(errno.EINVAL, "no number")
        return _Stripe(self.table.get_device(path), sector)

    def destroy(self) -> None:
        """Kernel: ``stripe_dtr``."""
        for stripe in self._stripes:
            self.table.put_device(stripe.opened)

    # -- mapping --

    def _where(self, sector: int) -> tuple[int, int]:
        """Stripe, and sector on it, of a sector of the device (``stripe_map_sector``)."""
        chunk, offset = divmod(sector - self.start, self._chunk)
        row, stripe = divmod(chunk, len(self._stripes))
        return stripe, row * self._chunk + offset

    def _edge(self, sector: int, number: int) -> int:
        """Where a range that begins or ends at ``sector`` does so on stripe ``number``.

        Kernel: ``stripe_map_range_sector``.
        """
        stripe, at = self._where(sector)
        if stripe == number:
            return at
        at -= at % self._chunk
        return at + self._chunk if number < stripe else at

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``stripe_map``."""
        if bio.op in (Op.DISCARD, Op.WRITE_ZEROES):
            number = bio.number
            first = self._edge(bio.sector, number)
            end = self._edge(bio.sector + bio.sectors, number)
            if first >= end:
                bio.end()
                return None
            at, bio.sectors = first, end - first
        else:
            number, at = self._where(bio.sector)
        bio.sector = self._stripes[number].start + at
        self._send(bio, number)
        return None

    def map_flush(self, bio: Bio, number: int) -> BlockDevice | None:
        """Kernel: ``stripe_map``."""
        self._send(bio, number)
        return None

    def flush_device(self, number: int) -> BlockDevice:
        """One flush for each stripe."""
        return self._stripes[number].opened.device

    def _send(self, bio: Bio, number: int) -> None:
        bio.chunk = number  # so that `end_io` is called
        device = self._stripes[number].opened.device
        block = device.block_sectors
        self._submitting += 1
        if self.table.world.profile.unaligned_refused and (
            bio.sector % block or bio.sectors % block
        ):
            # A chunk may be smaller than a block below: nothing checks that earlier.
            bio.end(errno.EIO)
        else:
            device.submit(bio)
        self._submitting -= 1

    def end_io(self, bio: Bio) -> None:
        """Kernel: ``stripe_end_io``."""
        if bio.error in (0, errno.EOPNOTSUPP) or bio.flags & RAHEAD:
            return
        device = self._stripes[bio.chunk].opened.device
        told = False
        for stripe in self._stripes:
            if stripe.opened.device is device:
                stripe.errors += 1
                told |= stripe.errors < _ERRORS_TOLD_MAX
        if told and not self._event_pending:
            self._event_pending = True
            # A disk may have several answers ready before the worker runs.
            if self._submitting or self.table.world.clock.either():
                self.table.world.clock.soon(self._event)
            else:
                self._event()

    def _event(self) -> None:
        self._event_pending = False
        self.table.raise_event()

    # -- what device-mapper says about it --

    def io_hints(self, limits: Limits) -> Limits:
        """Kernel: ``stripe_io_hints``."""
        profile = self.table.world.profile
        if profile.striped_discards_more and limits.discard_sectors_max >= self._chunk:
            row = self._chunk * len(self._stripes)
            longest = limits.discard_sectors_max * len(self._stripes)
            limits = replace(
                limits,
                discard_sectors_max=longest - longest % row
                if longest <= _U32
                else _U32 >> SECTOR_SHIFT,
            )
        io_min = self._chunk << SECTOR_SHIFT
        io_opt = io_min * len(self._stripes)
        if profile.striped_chunk_sectors:
            limits = replace(limits, chunk_sectors=self._chunk)
        if profile.striped_io_min_kept:
            return limits if io_opt > _U32 else replace(limits, io_min=io_min, io_opt=io_opt)
        # blk_limits_io_min
        return replace(
            limits, io_min=max(io_min & _U32, limits.physical_block), io_opt=io_opt & _U32
        )

    def status(self) -> str:
        """Kernel: ``stripe_status``, STATUSTYPE_INFO."""
        names = " ".join(f"{{{stripe.opened.device.name}}}" for stripe in self._stripes)
        letters = "".join("D" if stripe.errors else "A" for stripe in self._stripes)
        return f"{len(self._stripes)} {names} 1 {letters}"

    def table_line(self) -> str:
        """Kernel: ``stripe_status``, STATUSTYPE_TABLE."""
        return " ".join(
            [
                f"{len(self._stripes)} {self._chunk}",
                *(f"{{{stripe.opened.device.name}}} {stripe.start}" for stripe in self._stripes),
            ]
        )

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """The range that each stripe has (``stripe_iterate_devices``)."""
        return [(stripe.opened.device, stripe.start, self._width) for stripe in self._stripes]
