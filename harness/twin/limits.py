"""Queue limits, as far as they decide what a table may be (kernel: block/blk-settings.c).

Stacking devices whose blocks do not line up is allowed, and logged; a table whose length does not
fit the logical block size is refused.
"""

from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import Final

from harness.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one queue, in bytes but for the last one."""

    logical_block: int = SECTOR_BYTES
    physical_block: int = SECTOR_BYTES
    io_min: int = SECTOR_BYTES
    alignment_offset: int = 0
    io_opt: int = 0
    chunk_sectors: int = 0


STACKING: Final = Limits()
"""What stacking starts from (kernel: ``blk_set_stacking_limits``)."""


def _alignment(bottom: Limits, start_sectors: int) -> int:
    """Kernel: ``queue_limit_alignment_offset``."""
    granularity = max(bottom.physical_block, bottom.io_min)
    misplaced = start_sectors * SECTOR_BYTES % granularity
    return (granularity + bottom.alignment_offset - misplaced) % granularity


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
    return replace(top, logical_block=logical, physical_block=physical, io_min=io_min,
                   alignment_offset=offset, io_opt=io_opt, chunk_sectors=chunk_sectors), fits


def _lcm_not_zero(one: int, other: int) -> int:
    """Where one is zero, the other counts."""
    return lcm(one, other) if one and other else one or other
