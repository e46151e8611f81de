"""Exceptions in the order of the origin's chunks, and which numbers come twice, in little memory.

A store lists exceptions as they were committed.  Who goes through the origin wants them by old
chunk; sorting all of a large store would take more memory than there may be.  So they are taken in
parts, each small enough to sort, with one more reading of the areas for each part.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from harness.store.parse import Entries, Store

PART_ENTRIES: Final = 1 << 22
"""Exceptions that are sorted at once: 64 MiB, and as much again while they are."""
_BUCKET_BITS: Final = 12
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)

Numbers = npt.NDArray[np.uint64]
Field = Literal["old", "new"]
Which = Literal["first", "last"]

RUN_DTYPE: Final = np.dtype([("old", "<u8"), ("new", "<u8"), ("count", "<u8")])
Runs = npt.NDArray[Any]
"""Structured array of `RUN_DTYPE`: chunks that follow each other on both sides."""


def in_chunk_order(
    store: Store, which: Which = "last", *, part_entries: int = PART_ENTRIES
) -> Iterator[Entries]:
    """The exceptions of ``store``, ascending by old chunk, each old chunk once, block by block.

    Args:
        store: the store.
        which: where an old chunk comes more than once, the exception that counts.
        part_entries: how many are sorted at once.

    Raises:
        MalformedStore, OSError: as `Store.exceptions`.
    """
    if _ascends(store, "old"):
        yield from store.exceptions()
    elif store.count <= part_entries:
        yield _sorted(list(store.exceptions()), which)
    else:
        for low, high in _parts(store, 0, (1 << 64) - 1, part_entries):
            taken: list[Entries] = []
            size = 0
            for block in store.exceptions():
                old = block["old"]
                inside = block[(old >= np.uint64(low)) & (old <= np.uint64(high))]
                if len(inside):
                    taken.append(inside)
                    size += len(inside)
                if size > 2 * part_entries:  # one chunk, mapped again and again
                    taken = [_sorted(taken, which)]
                    size = len(taken[0])
            if taken:
                yield _sorted(taken, which)


def _sorted(blocks: list[Entries], which: Which) -> Entries:
    """Blocks as one, sorted, each old chunk once; the order of the blocks is that of commits."""
    entries = np.concatenate(blocks)
    entries = entries[np.argsort(entries["old"], kind="stable")]
    other = entries["old"][1:] != entries["old"][:-1]
    edge = np.array([True])
    keep = np.concatenate((edge, other) if which == "first" else (other, edge))
    chosen: Entries = entries[keep[: len(entries)]]
    return chosen


def _parts(store: Store, low: int, high: int, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of old chunks, both ends included, with about ``limit`` exceptions each."""
    shift = max(0, (high - low + 1).bit_length() - 1 - _BUCKET_BITS)
    counts = np.zeros((high - low >> shift) + 1, np.int64)
    for block in store.exceptions():
        old = block["old"]
        old = old[(old >= np.uint64(low)) & (old <= np.uint64(high))]
        number = ((old - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
        counts += np.bincount(number, minlength=len(counts))
    start, size = low, 0
    buckets: list[int] = np.flatnonzero(counts).tolist()
    for bucket in buckets:
        first = low + (bucket << shift)
        end = min(high, first + (1 << shift) - 1)
        if size and size + int(counts[bucket]) > limit:
            yield start, first - 1
            start, size = first, 0
        if counts[bucket] > limit and shift:
            yield from _parts(store, first, end, limit)
            start, size = end + 1, 0
        else:
            size += int(counts[bucket])
    if size:
        yield start, high


def runs(blocks: Iterator[Entries]) -> Iterator[Runs]:
    """Exceptions as runs: as long as each is followed by the next chunk on both sides."""
    held: Runs | None = None
    for block in blocks:
        if not len(block):
            continue
        follows = (block["old"][1:] == block["old"][:-1] + np.uint64(1)) & (
            block["new"][1:] == block["new"][:-1] + np.uint64(1)
        )
        first = np.concatenate(([0], np.flatnonzero(~follows) + 1))
        out = np.empty(len(first), RUN_DTYPE)
        out["old"], out["new"] = block["old"][first], block["new"][first]
        out["count"] = np.diff(np.append(first, len(block)))
        if held is not None:
            if out["old"][0] == held["old"][0] + held["count"][0] and (
                out["new"][0] == held["new"][0] + held["count"][0]
            ):
                out["old"][0], out["new"][0] = held["old"][0], held["new"][0]
                out["count"][0] += held["count"][0]
            else:
                yield held
        held = out[-1:].copy()
        if len(out) > 1:
            yield out[:-1]
    if held is not None:
        yield held


def tally(
    store: Store,
    field: Field,
    sound: Callable[[Numbers], npt.NDArray[np.bool_]] | None = None,
    *,
    part_entries: int = PART_ENTRIES,
) -> tuple[int, list[int], int]:
    """How often numbers of one field come again.

    Args:
        store: the store.
        field: ``old`` or ``new``.
        sound: which numbers are looked at; all by default.
        part_entries: how many are sorted at once.

    Returns:
        numbers that are different from each other, the first places (indexes of exceptions, in
        the order of commits, at most 16) where one comes again, and how many such places there are.
    """
    if sound is None and _ascends(store, field):
        return store.count, [], 0
    parts = store.count // part_entries + 1
    distinct = again = 0
    places: list[int] = []
    for part in range(parts):
        values = np.empty(0, np.uint64)
        repeated = np.empty(0, np.uint64)
        taken: list[Numbers] = []
        size = looked_at = 0
        for numbers, _ in _numbers(store, field, part, parts, sound):
            taken.append(numbers)
            size += len(numbers)
            looked_at += len(numbers)
            if size > 2 * part_entries:
                values, repeated = _different(values, repeated, taken)
                taken, size = [], 0
        values, repeated = _different(values, repeated, taken)
        distinct += len(values)
        again += looked_at - len(values)
        if len(repeated):
            places += _first_places(store, field, part, parts, sound, repeated)
    return distinct, sorted(places)[:16], again


def _numbers(
    store: Store,
    field: Field,
    part: int,
    parts: int,
    sound: Callable[[Numbers], npt.NDArray[np.bool_]] | None,
) -> Iterator[tuple[Numbers, npt.NDArray[np.intp]]]:
    """Numbers of a part, block by block, each with its index among all exceptions."""
    start = 0
    for block in store.exceptions():
        numbers: Numbers = block[field]
        keep = np.ones(len(numbers), bool) if sound is None else sound(numbers)
        if parts > 1:
            keep &= (numbers * _MIX >> np.uint64(40)) % np.uint64(parts) == np.uint64(part)
        where = np.flatnonzero(keep)
        yield numbers[where], where + start
        start += len(block)


def _different(values: Numbers, repeated: Numbers, taken: list[Numbers]) -> tuple[Numbers, Numbers]:
    """Numbers that are there, ascending, and those of them that came again."""
    ranked = np.concatenate([values, *taken])
    ranked.sort()
    if len(ranked) < 2:
        return ranked, repeated
    same = ranked[1:] == ranked[:-1]
    again = ranked[1:][same]
    if len(again):
        repeated = np.unique(np.concatenate((repeated, again)))
    return ranked[np.concatenate((np.array([True]), ~same))], repeated


def _first_places(
    store: Store,
    field: Field,
    part: int,
    parts: int,
    sound: Callable[[Numbers], npt.NDArray[np.bool_]] | None,
    repeated: Numbers,
) -> list[int]:
    seen = np.zeros(len(repeated), bool)
    places: list[int] = []
    for numbers, index in _numbers(store, field, part, parts, sound):
        rank = np.minimum(np.searchsorted(repeated, numbers), len(repeated) - 1)
        for hit in np.flatnonzero(repeated[rank] == numbers).tolist():
            if seen[rank[hit]]:
                places.append(int(index[hit]))
                if len(places) == 16:
                    return places
            seen[rank[hit]] = True
    return places


def _ascends(store: Store, field: Field) -> bool:
    """Whether each number of a field is greater than the one before it."""
    before = -1
    for block in store.exceptions():
        numbers = block[field]
        if not len(numbers):
            continue
        if int(numbers[0]) <= before or not (numbers[1:] > numbers[:-1]).all():
            return False
        before = int(numbers[-1])
    return True
