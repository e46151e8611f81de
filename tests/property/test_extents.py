"""Extents against a plain dict of sectors."""

from hypothesis import given
from hypothesis import strategies as st

from harness.promises.extents import UNKNOWN, ZERO, Content, Extents, Stamp, moved

SPAN = 24
WHAT = st.sampled_from([UNKNOWN, ZERO, Stamp("a", 0, 0), Stamp("b", 1, 5)])
PUT = st.tuples(st.integers(0, SPAN), st.integers(0, 8), WHAT)


def by_sector(extents: Extents, start: int, end: int) -> list[Content]:
    found: list[Content] = []
    at = start
    for extent in extents.between(start, end):
        assert extent.start == at < extent.end
        found += [extent.content] * extent.sectors
        at = extent.end
    assert at == max(start, end)
    return found


@given(st.lists(PUT, max_size=12), st.integers(0, SPAN), st.integers(0, SPAN), st.integers(0, 9))
def test_extents_are_a_dict_of_sectors(
    puts: list[tuple[int, int, Content]], one: int, other: int, by: int
) -> None:
    extents, plain = Extents(), dict[int, Content]()
    for start, count, what in puts:
        extents.put(start, start + count, what)
        plain.update(dict.fromkeys(range(start, start + count), what))
    low, high = sorted((one, other))
    wanted = [plain.get(sector) for sector in range(low, high)]
    assert by_sector(extents, low, high) == wanted
    bound = Extents(low, high)
    for extent in extents.between(low, high):
        bound.add(extent)
    assert by_sector(bound.within(low, high), low, high) == wanted
    assert by_sector(bound.shifted(by), low + by, high + by) == [moved(w, by) for w in wanted]
    assert by_sector(bound.unknown(), low, high) == [None] * (high - low)
    differing = extents.differing(Extents(), SPAN)
    assert sum(extent.sectors for extent in differing) == SPAN
    assert all(
        w is UNKNOWN
        for extent in extents.differing(extents, SPAN)
        for w in by_sector(extents, extent.start, extent.end)
    )
