"""Queue limits: what a device tells those above it (kernel: block/blk-settings.c, blk-merge.c).

A mapped device stacks the limits of its devices, and its targets may then change them.  They decide
which tables are valid: devices whose blocks do not line up are allowed, and logged; a table whose
length does not fit the logical block size is refused.  They also decide where a long bio and a
discard are cut: a discard first by its submitter, at the granularity, then by the device, at the
longest one.
"""

from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import Final

from harness.units import SECTOR_BYTES, SECTOR_SHIFT

UNLIMITED_SECTORS: Final = (1 << 32) - 1
_BIO_BYTES_MAX: Final = (1 << 32) - 1
_PAGE_SECTORS: Final = 8
_PAGE_BYTES: Final = _PAGE_SECTORS * SECTOR_BYTES
_READAHEAD_PAGES_MIN: Final = 32
"""``VM_READAHEAD_PAGES``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one queue, in bytes, or in sectors where the name says so.

    ``discard_sectors_max`` is 0 for a device that takes no discards (kernel:
    ``max_hw_discard_sectors``, which nobody lowers here); ``write_cache`` means that it may lose
    what was not flushed.
    """

    logical_block: int = SECTOR_BYTES
    physical_block: int = SECTOR_BYTES
    io_min: int = SECTOR_BYTES
    alignment_offset: int = 0
    io_opt: int = 0
    chunk_sectors: int = 0
    max_sectors: int = UNLIMITED_SECTORS
    discard_granularity: int = 0
    discard_alignment: int = 0
    discard_sectors_max: int = 0
    write_cache: bool = False

    @property
    def readahead_pages(self) -> int:
        """Pages that are read ahead at once, unless the device's longest request is longer.

        Twice the optimal size, so that one half can be in flight while the other is used (kernel:
        ``blk_apply_bdi_limits``, ``disk_update_readahead``).
        """
        return max(2 * self.io_opt // _PAGE_BYTES, _READAHEAD_PAGES_MIN)

    def first_discard(self, sector: int, sectors: int) -> int:
        """How many of ``sectors`` the first bio of a discard covers (``bio_discard_limit``).

        A granularity of less than a sector cuts nothing; kernels get one for a snapshot, whose
        chunk size they take for bytes.
        """
        granularity = self.discard_granularity >> SECTOR_SHIFT
        if granularity and sector % granularity:
            return min(sectors, granularity - sector % granularity)
        longest = _BIO_BYTES_MAX - _BIO_BYTES_MAX % max(1, self.discard_granularity)
        return min(sectors, longest >> SECTOR_SHIFT)

    def cut_discard(self, sector: int, sectors: int) -> int:
        """Where the device cuts a discard that is longer than its limit (``bio_split_discard``).

        A device whose limit is less than its granularity cuts nothing.
        """
        granularity = max(1, self.discard_granularity >> SECTOR_SHIFT)
        longest = min(
            self.discard_sectors_max,
            (_BIO_BYTES_MAX - _BIO_BYTES_MAX % self.logical_block) >> SECTOR_SHIFT,
        )
        longest -= longest % granularity
        if not longest or sectors <= longest:
            return sectors
        # The next piece is to start at the granularity.
        beyond = (
            sector + longest - (self.discard_alignment >> SECTOR_SHIFT) % granularity
        ) % granularity
        return longest - beyond if beyond < longest else longest


STACKING: Final = Limits()
"""What stacking starts from (kernel: ``blk_set_stacking_limits``)."""


def without_discards(limits: Limits) -> Limits:
    """The limits of a table that takes no discards."""
    return replace(limits, discard_granularity=0, discard_alignment=0, discard_sectors_max=0)


def at_least_a_block(limits: Limits) -> Limits:
    """The discard granularity is at least a physical block (kernel: ``blk_validate_limits``)."""
    if not limits.discard_sectors_max:
        return without_discards(limits)
    return replace(
        limits, discard_granularity=max(limits.discard_granularity, limits.physical_block)
    )


def _alignment(bottom: Limits, start_sectors: int) -> int:
    """Kernel: ``queue_limit_alignment_offset``."""
    granularity = max(bottom.physical_block, bottom.io_min)
    misplaced = start_sectors * SECTOR_BYTES % granularity
    return (granularity + bottom.alignment_offset - misplaced) % granularity


def _discard_alignment(bottom: Limits, start_sectors: int) -> int:
    """Kernel: ``queue_limit_discard_alignment``."""
    granularity = bottom.discard_granularity >> SECTOR_SHIFT
    if not bottom.discard_sectors_max or not granularity:
        return 0
    alignment = bottom.discard_alignment >> SECTOR_SHIFT
    offset = (granularity + alignment - start_sectors % granularity) % granularity
    return offset << SECTOR_SHIFT


def divides_by_zero(hinted: Limits, devices: Limits) -> bool:
    """Whether some kernels divide by zero when they stack the limits that a target changed.

    Newer ones do not check whether the granularity is less than a sector, if there are discards
    at all (kernel: ``queue_limit_discard_alignment``).
    """
    return bool(0 < hinted.discard_granularity < SECTOR_BYTES and devices.discard_sectors_max)


def _lcm_not_zero(one: int, other: int) -> int:
    """The least common multiple; if one is zero, the other."""
    return lcm(one, other) if one and other else one or other


def _min_not_zero(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


def _whole_blocks(sectors: int, logical_block: int) -> int:
    """Kernel: ``blk_round_down_sectors``."""
    return max(sectors - sectors % (logical_block >> SECTOR_SHIFT), _PAGE_SECTORS)


def stack(top: Limits, bottom: Limits, start_sectors: int) -> tuple[Limits, bool]:
    """``top`` over ``bottom`` from ``start_sectors`` on, and whether their blocks line up.

    Kernel: ``blk_stack_limits``.
    """
    fits = True
    alignment = _alignment(bottom, start_sectors)
    if top.alignment_offset != alignment:
        above = max(top.physical_block, top.io_min) + top.alignment_offset
        below = max(bottom.physical_block, bottom.io_min) + alignment
        fits = not max(above, below) % min(above, below)
    logical = max(top.logical_block, bottom.logical_block)
    physical = max(top.physical_block, bottom.physical_block, logical)
    io_min = max(top.io_min, bottom.io_min)
    if io_min % physical:
        io_min = physical
        fits = False
    io_opt = _lcm_not_zero(top.io_opt, bottom.io_opt)
    if io_opt % physical:
        io_opt = 0
        fits = False
    chunk_sectors = gcd(top.chunk_sectors, bottom.chunk_sectors)
    if chunk_sectors * SECTOR_BYTES % physical:
        chunk_sectors = 0
        fits = False
    offset = _lcm_not_zero(top.alignment_offset, alignment) % max(physical, io_min)
    if offset % logical:
        fits = False
    stacked = replace(
        top,
        logical_block=logical,
        physical_block=physical,
        io_min=io_min,
        io_opt=io_opt,
        chunk_sectors=chunk_sectors,
        alignment_offset=offset,
        write_cache=top.write_cache or bottom.write_cache,
        max_sectors=_whole_blocks(min(top.max_sectors, bottom.max_sectors), logical),
    )
    return _stack_discards(stacked, bottom, start_sectors), fits


def _stack_discards(top: Limits, bottom: Limits, start_sectors: int) -> Limits:
    if not bottom.discard_granularity:
        return top
    granularity = max(top.discard_granularity, bottom.discard_granularity)
    alignment = _lcm_not_zero(top.discard_alignment, _discard_alignment(bottom, start_sectors))
    return replace(
        top,
        discard_granularity=granularity,
        discard_alignment=alignment % granularity,
        discard_sectors_max=_min_not_zero(top.discard_sectors_max, bottom.discard_sectors_max),
    )
