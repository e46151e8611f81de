"""Queue limits against a reference that looks at each sector, or follows the kernel's formulas.

Kernel: block/blk-lib.c (``bio_discard_limit``), block/blk-merge.c (``bio_split_discard``),
block/blk-settings.c (``blk_stack_limits``).
"""

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from harness.twin.limits import STACKING, Limits, stack

POWERS = st.sampled_from((512, 1024, 2048, 4096, 8192, 65536))
GRANULARITIES = st.sampled_from((0, 8, 256, 512, 1024, 4096, 8192, 1 << 18))


@st.composite
def devices(draw, *, discards: bool = True) -> Limits:
    logical = draw(st.sampled_from((512, 512, 4096)))
    physical = max(logical, draw(POWERS))
    granularity = max(512, draw(GRANULARITIES)) if discards else 0
    io_min = max(physical, draw(POWERS))
    return Limits(
        logical,
        physical,
        io_min,
        draw(st.integers(0, 200)) * 512 % io_min,
        io_opt=draw(st.sampled_from((0, 0, 131072, 3 * 4096, 1536))),
        chunk_sectors=draw(st.sampled_from((0, 0, 8, 24, 128))),
        max_sectors=draw(st.integers(8, 4096)),
        discard_granularity=granularity,
        discard_alignment=draw(st.integers(0, 200)) * 512 % granularity if granularity else 0,
        discard_sectors_max=draw(st.integers(1, 5000)) if discards else 0,
        write_cache=draw(st.booleans()),
    )


def first_reference(limits: Limits, sector: int, sectors: int) -> int:
    """One sector after the other, until one is where a granule begins."""
    granule = limits.discard_granularity // 512
    if granule and sector % granule:
        count = 1
        while count < sectors and (sector + count) % granule:
            count += 1
        return count
    return sectors  # no test is as long as 4 GiB


def cut_reference(limits: Limits, sector: int, sectors: int) -> int:
    """The longest piece behind which a granule begins; if there is none, as long as may be."""
    granule = max(1, limits.discard_granularity // 512)
    longest = limits.discard_sectors_max // granule * granule
    if not longest or sectors <= longest:
        return sectors
    shift = limits.discard_alignment // 512
    for count in range(longest, 0, -1):
        if (sector + count - shift) % granule == 0:
            return count
    return longest


@given(devices(), st.integers(0, 5000), st.integers(1, 20000), GRANULARITIES)
def test_each_cut_is_the_reference_s(limits, sector, sectors, granularity):
    limits = replace(limits, discard_granularity=granularity)
    assert limits.first_discard(sector, sectors) == first_reference(limits, sector, sectors)
    assert limits.cut_discard(sector, sectors) == cut_reference(limits, sector, sectors)


@given(devices(), st.integers(0, 5000), st.integers(1, 20000))
def test_pieces_tile_a_discard_at_the_granules(limits, sector, sectors):
    granule = max(1, limits.discard_granularity // 512)
    shift = limits.discard_alignment // 512
    at, end = sector, sector + sectors
    while at < end:
        count = limits.cut_discard(at, end - at)
        assert 0 < count <= end - at
        at += count
        if at < end:
            assert count <= limits.discard_sectors_max
            # Less than a granule to the next boundary is all that a piece can miss it by.
            assert (at - shift) % granule == 0
    assert at == end


@given(devices(), st.integers(0, 500))
def test_a_granule_above_begins_where_one_below_does(below, start):
    above, _ = stack(STACKING, below, start)
    granule = below.discard_granularity // 512
    assert above.discard_granularity == below.discard_granularity
    assert above.discard_sectors_max == below.discard_sectors_max
    for sector in range(2 * granule if granule <= 64 else 0):
        assert ((sector - above.discard_alignment // 512) % granule == 0) == (
            (sector + start - below.discard_alignment // 512) % granule == 0
        )


@given(devices(), st.integers(0, 500))
def test_a_block_above_begins_where_one_below_does(below, start):
    above, _ = stack(STACKING, below, start)
    block = max(below.physical_block, below.io_min)
    for byte in range(0, min(2 * block, 1 << 15), 512):
        assert ((byte - above.alignment_offset) % block == 0) == (
            (byte + 512 * start - below.alignment_offset) % block == 0
        )


def stack_reference(top: Limits, below: Limits) -> tuple[dict[str, int], bool]:
    """What of it is not about alignment or discards."""

    def not_zero(combine, one, other):
        return combine(one, other) if one and other else one or other

    def multiple(one, other):
        found = one
        while found % other:
            found += one
        return found

    fits = True
    logical = max(top.logical_block, below.logical_block)
    physical = max(top.physical_block, below.physical_block, logical)
    io_min = max(top.io_min, below.io_min)
    if io_min % physical:
        io_min, fits = physical, False
    io_opt = not_zero(multiple, top.io_opt, below.io_opt)
    if io_opt % physical:
        io_opt, fits = 0, False
    chunk = next(
        (
            size
            for size in range(max(top.chunk_sectors, below.chunk_sectors), 0, -1)
            if top.chunk_sectors % size == 0 and below.chunk_sectors % size == 0
        ),
        0,
    )
    if chunk * 512 % physical:
        chunk, fits = 0, False
    longest = min(top.max_sectors, below.max_sectors)
    return {
        "logical_block": logical,
        "physical_block": physical,
        "io_min": io_min,
        "io_opt": io_opt,
        "chunk_sectors": chunk,
        "max_sectors": max(8, longest // (logical // 512) * (logical // 512)),
        "write_cache": top.write_cache or below.write_cache,
    }, fits


@given(devices(), devices())
def test_stacked_at_their_beginnings(one, other):
    one, other = (replace(each, alignment_offset=0) for each in (one, other))
    top, _ = stack(STACKING, one, 0)
    stacked, fits = stack(top, other, 0)
    wanted, fits_wanted = stack_reference(top, other)
    assert {name: getattr(stacked, name) for name in wanted} == wanted
    # At the same offset, blocks of which each is a multiple of the other line up.
    assert fits == fits_wanted
    assert stacked.alignment_offset == 0


@given(devices(), devices(discards=False), st.integers(0, 100))
def test_discards_of_one_that_has_none(one, other, start):
    assume(one.discard_granularity)
    top, _ = stack(STACKING, one, start)
    both, _ = stack(top, other, start)
    assert (both.discard_granularity, both.discard_alignment, both.discard_sectors_max) == (
        top.discard_granularity,
        top.discard_alignment,
        top.discard_sectors_max,
    )
