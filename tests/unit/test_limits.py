"""Queue limits: stacked and cut as the kernel's formulas say, on cases worked out by hand."""

from dataclasses import replace

import pytest

from harness.twin.limits import (
    STACKING,
    UNLIMITED_SECTORS,
    Limits,
    at_least_a_block,
    divides_by_zero,
    stack,
    without_discards,
)

RAM = Limits(
    physical_block=4096,
    io_min=4096,
    max_sectors=255,
    discard_granularity=4096,
    discard_sectors_max=1 << 32,
)
NBD = Limits(
    io_opt=131072,
    max_sectors=2048,
    discard_granularity=512,
    discard_sectors_max=(1 << 23) - 1,
    write_cache=True,
)
LOOP = Limits(
    4096,
    4096,
    4096,
    max_sectors=2560,
    discard_granularity=4096,
    discard_sectors_max=8388607,
    write_cache=True,
)


def pieces(cut, sector: int, sectors: int) -> list[tuple[int, int]]:
    found = []
    while sectors:
        count = cut(sector, sectors)
        found.append((sector, count))
        sector, sectors = sector + count, sectors - count
    return found


# -- stack ----------------------------------------------------------------------------------------


def test_an_empty_top_takes_what_is_below() -> None:
    assert stack(STACKING, RAM, 0) == (RAM, True)
    assert stack(STACKING, LOOP, 0) == (LOOP, True)


@pytest.mark.parametrize(("start", "offset"), [(0, 0), (8, 0), (1, 3584), (3, 2560), (7, 512)])
def test_a_start_off_the_blocks_is_an_offset(start: int, offset: int) -> None:
    """What starts within a block has its first whole one so many bytes on; that is no fault."""
    stacked, fits = stack(STACKING, RAM, start)
    assert (stacked.alignment_offset, stacked.discard_alignment, fits) == (offset, offset, True)


def test_offsets_that_do_not_agree_do_not_fit() -> None:
    shifted, _ = stack(STACKING, RAM, 1)
    assert not stack(shifted, RAM, 0)[1]
    assert stack(shifted, RAM, 1) == (shifted, True)


def test_of_two_devices_the_coarser_block_and_the_shorter_request() -> None:
    both, fits = stack(stack(STACKING, NBD, 0)[0], RAM, 0)
    assert fits
    assert (both.logical_block, both.physical_block, both.io_min) == (512, 4096, 4096)
    assert (both.max_sectors, both.io_opt, both.write_cache) == (255, 131072, True)
    assert (both.discard_granularity, both.discard_sectors_max) == (4096, (1 << 23) - 1)


def test_the_best_length_is_one_of_whole_blocks() -> None:
    odd = replace(NBD, io_opt=3 * 512)
    assert stack(STACKING, odd, 0)[0].io_opt == 3 * 512
    stacked, fits = stack(stack(STACKING, RAM, 0)[0], odd, 0)
    assert (stacked.io_opt, fits) == (0, False)
    assert stack(stack(STACKING, NBD, 0)[0], odd, 0)[0].io_opt == 3 * 131072


def test_requests_are_whole_blocks_and_at_least_a_page() -> None:
    assert stack(stack(STACKING, LOOP, 0)[0], RAM, 0)[0].max_sectors == 248
    assert stack(STACKING, replace(RAM, max_sectors=3), 0)[0].max_sectors == 8


def test_a_device_without_discards_has_no_say_in_them() -> None:
    assert stack(NBD, without_discards(RAM), 0)[0].discard_granularity == 512
    none = without_discards(RAM)
    assert (none.discard_granularity, none.discard_alignment, none.discard_sectors_max) == (0, 0, 0)


def test_a_chunk_is_a_common_divisor_of_whole_blocks() -> None:
    top = replace(STACKING, chunk_sectors=24)
    assert stack(top, replace(NBD, chunk_sectors=16), 0)[0].chunk_sectors == 8
    stacked, fits = stack(top, replace(RAM, chunk_sectors=20), 0)
    assert (stacked.chunk_sectors, fits) == (0, False)


def test_a_granularity_of_less_than_a_sector() -> None:
    """Kernels that look only whether there are discards divide by it."""
    hinted = replace(RAM, discard_granularity=8)
    assert divides_by_zero(hinted, RAM)
    assert not divides_by_zero(hinted, without_discards(RAM))
    assert not divides_by_zero(RAM, RAM)
    assert not divides_by_zero(replace(RAM, discard_granularity=0), RAM)


# -- at_least_a_block, readahead ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granularity", "wanted"), [(8, 4096), (512, 4096), (4096, 4096), (8192, 8192)]
)
def test_at_least_a_block(granularity: int, wanted: int) -> None:
    limits = replace(RAM, discard_granularity=granularity, discard_alignment=512)
    assert at_least_a_block(limits) == replace(limits, discard_granularity=wanted)


def test_at_least_a_block_of_nothing() -> None:
    limits = replace(RAM, discard_sectors_max=0, discard_alignment=512)
    assert at_least_a_block(limits) == without_discards(RAM)


@pytest.mark.parametrize(
    ("io_opt", "pages"),
    [(0, 32), (512, 32), (65536, 32), (65536 + 2048, 33), (131072, 64), (1 << 20, 512)],
)
def test_pages_that_are_asked_for_at_once(io_opt: int, pages: int) -> None:
    assert Limits(io_opt=io_opt).readahead_pages == pages


# -- cuts -----------------------------------------------------------------------------------------


def test_the_first_piece_ends_at_the_granularity() -> None:
    assert pieces(RAM.first_discard, 5, 20) == [(5, 3), (8, 17)]
    assert pieces(RAM.first_discard, 5, 2) == [(5, 2)]
    assert pieces(RAM.first_discard, 8, 3) == [(8, 3)]
    # The alignment has no say in it.
    shifted = replace(RAM, discard_alignment=512)
    assert pieces(shifted.first_discard, 5, 20) == [(5, 3), (8, 17)]


def test_a_bio_counts_its_bytes_in_32_bits() -> None:
    assert pieces(RAM.first_discard, 0, 1 << 23) == [(0, (1 << 23) - 8), ((1 << 23) - 8, 8)]
    assert pieces(NBD.first_discard, 0, 1 << 23) == [(0, (1 << 23) - 1), ((1 << 23) - 1, 1)]


@pytest.mark.parametrize("granularity", [8, 256, 511])
def test_less_than_a_sector_cuts_nothing(granularity: int) -> None:
    limits = replace(RAM, discard_granularity=granularity, discard_sectors_max=1 << 20)
    assert pieces(limits.first_discard, 5, 700) == [(5, 700)]
    assert pieces(limits.cut_discard, 5, 700) == [(5, 700)]


def test_the_device_cuts_at_the_longest_that_it_takes() -> None:
    limits = replace(RAM, discard_sectors_max=20)
    assert pieces(limits.cut_discard, 0, 40) == [(0, 16), (16, 16), (32, 8)]
    # The next piece starts where a granule does.
    assert pieces(limits.cut_discard, 5, 40) == [(5, 11), (16, 16), (32, 13)]
    assert pieces(replace(limits, discard_alignment=3 * 512).cut_discard, 5, 40) == [
        (5, 14),
        (19, 16),
        (35, 10),
    ]
    assert pieces(limits.cut_discard, 5, 16) == [(5, 16)]


def test_a_device_that_takes_less_than_its_granularity_cuts_nothing() -> None:
    assert pieces(replace(RAM, discard_sectors_max=7).cut_discard, 3, 100) == [(3, 100)]


def test_without_limits_there_is_no_cut() -> None:
    assert STACKING.max_sectors == UNLIMITED_SECTORS
    assert pieces(STACKING.first_discard, 3, 100) == [(3, 100)]
