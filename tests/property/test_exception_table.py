"""The quick table of exceptions against the kernel's lists: no one can tell them apart."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import KernelCrash
from harness.twin.exceptions.lists import ExceptionLists
from harness.twin.exceptions.table import ExceptionTable, Order
from tests import tables

ORDERS = st.sampled_from(Order)
SLOTS = st.sampled_from((64, 128))
# Few slots, each with several groups, and ends of groups: runs meet.
OLDS = st.builds(
    lambda group, low: group << 8 | low,
    st.sampled_from((0, 1, 64, 65, 128, 192, 256, 320, 1 << 32)),
    st.one_of(st.integers(0, 20), st.integers(245, 255), st.integers(0, 255)),
)
HOSTILE = st.one_of(OLDS, st.integers(0, (1 << 64) - 1))


@st.composite
def stores(draw: st.DrawFn) -> list[tuple[int, int]]:
    """What a kernel writes: distinct old chunks, new chunks ascending, most of them in runs."""
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    new = draw(st.sampled_from((2, 1 << 24, (1 << 56) - 200)))
    for old, count in draw(st.lists(st.tuples(OLDS, st.integers(1, 12)), max_size=20)):
        for chunk in range(old, old + count):
            if chunk not in taken:
                taken.add(chunk)
                pairs.append((chunk, new))
                new += draw(st.sampled_from((1, 1, 1, 2)))
    return [pair for pair in pairs if pair[1] < 1 << 56]


@st.composite
def rotten(draw: st.DrawFn) -> list[tuple[int, int]]:
    """The same with some entries that no kernel writes."""
    pairs = draw(stores())
    for _ in range(draw(st.integers(1, 3))):
        entry = draw(
            st.one_of(
                st.tuples(HOSTILE, st.integers(1, 40)),
                st.tuples(HOSTILE, st.integers(0, 300).map(lambda n: n << 56 & (1 << 64) - 1 | 7)),
                st.sampled_from(pairs) if pairs else st.just((1, 2)),
            )
        )
        pairs.insert(draw(st.integers(0, len(pairs))), entry)
    return pairs


@st.composite
def ascending(draw: st.DrawFn) -> list[tuple[int, int]]:
    """New chunks as a kernel hands them out, old chunks as they like, some of them twice."""
    olds = draw(st.lists(st.one_of(HOSTILE, st.integers(0, 30)), max_size=30))
    new = draw(st.sampled_from((2, (1 << 56) - 20)))
    return [(old, new + number) for number, old in enumerate(olds)]


def crashes(change: Callable[[int, int], None], old: int, new: int) -> bool:
    """Whether an insertion is one that the kernel does not survive."""
    try:
        change(old, new)
    except KernelCrash:
        return True
    return False


ANY = st.one_of(stores(), rotten(), ascending())


def assert_same(table: ExceptionTable, lists: ExceptionLists, olds: list[int]) -> None:
    assert tables.records(table) == tables.records(lists)
    for old in olds:
        # The last two are as far away as a number of groups that is a power of two.
        far = 1 << 8 + len(olds).bit_length()
        for chunk in (old - 1, old, old + 1, old + far, old ^ 1 << 20):
            if chunk >= 0:
                assert table.lookup(chunk) == lists.lookup(chunk)


@given(ANY, ORDERS, SLOTS)
@example([(5, (1 << 56) - 2), (6, (1 << 56) - 1), (7, 1 << 56)], Order.head_scan, 64)
def test_inserted_one_by_one(pairs: list[tuple[int, int]], order: Order, slots: int) -> None:
    table, lists = ExceptionTable(slots, order), ExceptionLists(slots, order)
    for old, new in pairs:
        dead = crashes(lists.insert, old, new)
        assert crashes(table.insert, old, new) == dead
        if dead:
            return
    assert_same(table, lists, [old for old, _ in pairs])


@pytest.mark.parametrize("few", [1, 32])
@given(data=st.data(), order=ORDERS, slots=SLOTS)
def test_loaded_and_then_inserted_into(
    few: int, data: st.DataObject, order: Order, slots: int
) -> None:
    pairs = data.draw(ANY)
    cut = data.draw(st.integers(0, len(pairs)))
    table, lists = ExceptionTable(slots, order), ExceptionLists(slots, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.twin.exceptions.table._FEW", few)
        loaded = np.array(pairs[:cut], dtype=np.uint64).reshape(-1, 2)
        dead = any(crashes(lists.insert, old, new) for old, new in pairs[:cut])
        assert crashes(lambda *_: table.load(loaded), 0, 0) == dead
        if dead:
            return
    assert_same(table, lists, [old for old, _ in pairs[:cut]])
    for old, new in pairs[cut:]:
        dead = crashes(lists.insert, old, new)
        assert crashes(table.insert, old, new) == dead
        if dead:
            return
    assert_same(table, lists, [old for old, _ in pairs])


@given(stores(), ORDERS, SLOTS)
def test_what_a_kernel_writes_needs_no_lists(
    pairs: list[tuple[int, int]], order: Order, slots: int
) -> None:
    table = ExceptionTable(slots, order)
    table.load(np.array(pairs, dtype=np.uint64).reshape(-1, 2))
    assert table._lists is None


@given(st.lists(st.tuples(OLDS, st.integers(1, 700), st.integers(0, 3)), max_size=8), ORDERS, SLOTS)
def test_whole_runs(extents: list[tuple[int, int, int]], order: Order, slots: int) -> None:
    """As one by one, and `is_free` knows what is there."""
    table, lists = ExceptionTable(slots, order), ExceptionLists(slots, order)
    new = 2
    for old, count, gap in extents:
        free = all(lists.lookup(chunk) < 0 for chunk in range(old, old + count))
        assert table.is_free(old, count) == free
        table.insert_run(old, new, count)
        for offset in range(count):
            lists.insert(old + offset, new + offset)
        new += count + gap
    assert_same(
        table,
        lists,
        [old + offset for old, count, _ in extents for offset in (0, count // 2, count - 1)],
    )


@given(ANY, ORDERS, SLOTS, st.data())
def test_insertions_and_removals_in_any_order(
    pairs: list[tuple[int, int]], order: Order, slots: int, data: st.DataObject
) -> None:
    table, lists = ExceptionTable(slots, order), ExceptionLists(slots, order)
    olds = [old for old, _ in pairs]
    merging = data.draw(st.booleans())
    for old, new in pairs:
        dead = crashes(lists.insert, old, new)
        assert crashes(table.insert, old, new) == dead
        if dead:
            return
        for _ in range(data.draw(st.integers(0, 2)) if not merging else 0):
            gone = data.draw(st.sampled_from(olds))
            assert table.remove(gone) == lists.remove(gone)
            assert tables.records(table) == tables.records(lists)
    for old in reversed(olds):
        assert table.remove(old) == lists.remove(old)
        assert_same(table, lists, olds)
