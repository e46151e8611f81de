"""Runs that a store was loaded with: many of them, found with few memory accesses, never changed.

A random lookup in a large table costs the memory accesses that it waits for: a dictionary of
ten million entries makes it wait four times (its index, the entry, the key, the value), an array
of the same numbers once.  So the runs lie in arrays of numbers, which numpy puts on large pages:

- a *bucket* is what the low bits of a group choose (old chunk without its low 8 bits); ``_begins``
  says at which run each begins;
- ``_words`` has one word for each run (`harness.twin.exceptions.packing`), sorted by bucket and old
  chunk.

Unless groups are sparse, there are more buckets than groups, so a bucket is a group; the next run
in it is found in ``_keys``, one byte for each run.  Otherwise ``_keys`` also has the rest of the
group's number, and a bucket may hold several groups.
"""

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.twin.exceptions.packing import (
    CONSECUTIVE_BITS,
    LOW_MASK,
    WORD_LOW_SHIFT,
    WORD_NEW_MASK,
    GroupRun,
    run_of_word,
    words,
)

Numbers = npt.NDArray[np.int64]


class LoadedRuns:
    """Runs by old chunk.

    Args:
        old, new, extra, epoch: of each run, sorted by old chunk; none overlaps another or leaves
            its group, and no new chunk is beyond
            `harness.twin.exceptions.packing.WORD_NEW_BITS`.
    """

    __slots__ = ("_begins", "_bits", "_epochs", "_keys", "_mask", "_single", "_words")

    def __init__(self, old: Numbers, new: Numbers, extra: Numbers, epoch: Numbers) -> None:
        group = old >> CONSECUTIVE_BITS
        # At most four times as many buckets as runs.
        self._bits = min(int(group[-1]).bit_length(), len(old).bit_length() + 1)
        self._mask = (1 << self._bits) - 1
        self._single = int(group[-1]) <= self._mask
        bucket = group & self._mask
        key = group >> self._bits << CONSECUTIVE_BITS | old & LOW_MASK
        word = words(old, new, extra)
        if self._single:
            key = key.astype(np.uint8)
        else:
            by_bucket = np.argsort(bucket, kind="stable")
            key, word, epoch = key[by_bucket], word[by_bucket], epoch[by_bucket]
        begins = np.zeros(self._mask + 2, np.uint32)
        np.cumsum(np.bincount(bucket, minlength=self._mask + 1), out=begins[1:])
        self._begins = begins.data
        self._keys = key.data
        self._words = word.data
        self._epochs = epoch.astype(np.uint32).data

    def lookup(self, old: int) -> int:
        """The new chunk of ``old``, or -1."""
        group = old >> CONSECUTIVE_BITS
        bucket = group & self._mask
        at = self._begins[bucket]
        end = self._begins[bucket + 1]
        low = old & LOW_MASK
        if self._single:
            if bucket != group:
                return -1
            if end - at != 1:
                found = bisect_right(self._keys, low, at, end) - 1
                if found < at:
                    return -1
                at = found
        else:
            key = group >> self._bits << CONSECUTIVE_BITS | low
            found = bisect_right(self._keys, key, at, end) - 1
            if found < at or self._keys[found] >> CONSECUTIVE_BITS != key >> CONSECUTIVE_BITS:
                return -1
            at = found
        word = self._words[at]
        offset = low - (word >> WORD_LOW_SHIFT)
        if 0 <= offset <= word & LOW_MASK:
            return (word >> CONSECUTIVE_BITS & WORD_NEW_MASK) + offset
        return -1

    def _range(self, group: int) -> tuple[int, int]:
        """The runs of one group: first, and one past the last."""
        bucket = group & self._mask
        at, end = self._begins[bucket], self._begins[bucket + 1]
        if self._single:
            return (at, end) if group <= self._mask else (0, 0)
        key = group >> self._bits << CONSECUTIVE_BITS
        return (
            bisect_right(self._keys, key - 1, at, end),
            bisect_right(self._keys, key | LOW_MASK, at, end),
        )

    def of(self, group: int) -> list[GroupRun]:
        """The runs of one group, ascending."""
        return [self._run(at) for at in range(*self._range(group))]

    def __iter__(self) -> Iterator[tuple[int, GroupRun]]:
        """Every run with its group."""
        for bucket in range(self._mask + 1):
            for at in range(self._begins[bucket], self._begins[bucket + 1]):
                rest = self._keys[at] >> CONSECUTIVE_BITS
                yield rest << self._bits | bucket, self._run(at)

    def _run(self, at: int) -> GroupRun:
        return run_of_word(self._words[at], self._epochs[at])
