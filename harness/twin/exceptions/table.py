"""The table of completed exceptions (kernel: ``dm_exception_table`` in dm-snap.c).

The table gives the same answers as the kernel's lists (`harness.twin.exceptions.lists`), in a time
that does not depend on the number of exceptions.

Where new chunks are handed out in ascending order and no chunk is mapped twice, order within a slot
decides little.  A run can only be continued by the exception that comes right after its last one,
and wherever that run stands, the kernel's scan gets to it: it is at the head, or everything before
it is smaller.  So runs need no lists: they are kept by *group* (old chunk without its low 8 bits),
which no run leaves; a group holds at most 256.  What is left of the order is each run's *epoch*.
With `Order.head_scan_to_head` a run that is larger than all in its slot goes to the head, and from
then on all smaller ones are put before it: it begins an epoch of its slot, whose runs are sorted,
and stand before those of older epochs.  The other rules keep a slot sorted: it has one epoch.

A crafted store may break these conditions, and so does an exception that is made after some were
merged away.  Then the runs are laid out as the kernel's lists, and stay so.

A run is one integer (`harness.twin.exceptions.packing`).  The value of a group is its run, or a
sorted list of its runs.  What a store was loaded with is in arrays
(`harness.twin.exceptions.loaded_runs`), which never change: a group that is to be changed is copied
first, and from then on no longer looked up there.
"""

from array import array
from bisect import bisect_left, insort
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.twin.exceptions.lists import ExceptionLists, Order
from harness.twin.exceptions.loaded_runs import LoadedRuns
from harness.twin.exceptions.packing import (
    CHUNK_MASK,
    CONSECUTIVE_BITS,
    EXTRA_SHIFT,
    LOW_MASK,
    LOW_SHIFT,
    NEW_SHIFT,
    ONE_MORE,
    WITHOUT_FIRST,
    WORD_NEW_BITS,
    pack,
    unpack,
)

__all__ = ["ExceptionTable", "Order", "table_slots"]

SLOTS_MIN: Final = 64
SLOTS_MAX: Final = 2 * 1024 * 1024 // 16
"""2 MiB of list heads (kernel: ``calc_max_buckets``)."""

_OLD_BITS: Final = 63
"""Old chunks up to this one fit a signed word; beyond, the lists take over."""
_ANY: Final = 1 << 64
"""Greater than every new chunk: whatever follows is not in ascending order."""
_FEW: Final = 32
"""Fewer exceptions than this are inserted faster one by one than sorted."""

Pairs = npt.NDArray[np.uint64]
"""Exceptions as stores hold them, shape (n, 2): old chunk, new chunk."""
_Signed = npt.NDArray[np.int64]


def table_slots(cow_sectors: int, chunk_sectors: int) -> int:
    """Number of slots: chunks of the COW device, bounded, as a power of two.

    Kernel: ``init_hash_tables``; ``chunk_sectors`` is what the table line named, because the
    header on disk is read later (0, for "default", counts as the device's size in sectors).
    """
    size = min(cow_sectors // chunk_sectors if chunk_sectors else cow_sectors, SLOTS_MAX)
    size = max(size, SLOTS_MIN)
    return 1 << (size.bit_length() - 1)


class ExceptionTable:
    """Old chunk → new chunk, with runs."""

    __slots__ = (
        "_epochs",
        "_groups",
        "_largest",
        "_last_old",
        "_lists",
        "_loaded",
        "_newest",
        "_order",
        "_slots",
    )

    def __init__(self, slots: int, order: Order = Order.head_scan_to_head) -> None:
        assert slots > 0, slots
        assert slots & (slots - 1) == 0, slots
        self._slots = slots
        self._order = order
        self._lists: ExceptionLists | None = None
        self._groups: dict[int, int | list[int]] = {}
        self._loaded: LoadedRuns | None = None
        # The exception inserted last: the only one that may be continued.
        self._last_old = -2
        self._newest = -1
        # By slot, with head_scan_to_head: first old chunk of the largest run, and the epoch that
        # it began.
        self._largest = array("q")
        self._epochs = array("I")

    def lookup(self, old: int) -> int:
        """The new chunk of ``old``, or -1 (kernel: ``dm_lookup_exception``)."""
        run = self._groups.get(old >> CONSECUTIVE_BITS)
        if run is None:
            if self._loaded is not None:
                return self._loaded.lookup(old)
            return -1 if self._lists is None else self._lists.lookup(old)
        low = old & LOW_MASK
        if isinstance(run, list):
            index = bisect_left(run, low + 1 << LOW_SHIFT)
            if not index:
                return -1
            run = run[index - 1]
        offset = low - (run >> LOW_SHIFT)
        if 0 <= offset <= run >> EXTRA_SHIFT & LOW_MASK:
            return (run >> NEW_SHIFT & CHUNK_MASK) + offset
        return -1

    def is_free(self, first: int, count: int) -> bool:
        """Whether none of ``count`` chunks from ``first`` on has an exception."""
        if self._lists is not None:
            return all(self.lookup(old) < 0 for old in range(first, first + count))
        end = first + count
        for group in range(first >> CONSECUTIVE_BITS, (end - 1 >> CONSECUTIVE_BITS) + 1):
            start = group << CONSECUTIVE_BITS
            for run in self._runs_of(group):
                old = start + (run >> LOW_SHIFT)
                if old < end and first <= old + (run >> EXTRA_SHIFT & LOW_MASK):
                    return False
        return True

    def _runs_of(self, group: int) -> list[int]:
        """The runs of one group, ascending."""
        value = self._groups.get(group)
        if value is None:
            return [] if self._loaded is None else [pack(run) for run in self._loaded.of(group)]
        return value if isinstance(value, list) else [value]

    def _take_over(self, group: int) -> None:
        """Make sure that a group can be changed."""
        if self._loaded is not None and group not in self._groups:
            runs = self._runs_of(group)
            if runs:
                self._groups[group] = runs

    # -- insertion --

    def insert(self, old: int, new: int) -> None:
        """Add one exception, joining a run where it continues one (``dm_insert_exception``).

        The top byte of ``new`` is read as a count, as the kernel does with a crafted store.
        """
        if self._lists is not None:
            self._lists.insert(old, new)
            return
        if old == self._last_old + 1 and new == self._newest + 1 and self._extend(old, new, 1):
            return
        if new <= self._newest or new > CHUNK_MASK or old >> _OLD_BITS or self.lookup(old) >= 0:
            self._become_lists().insert(old, new)
            return
        group = old >> CONSECUTIVE_BITS
        run = (old & LOW_MASK) << LOW_SHIFT | new << NEW_SHIFT | self._epoch_of(old)
        self._take_over(group)
        beside = self._groups.get(group)
        if beside is None:
            self._groups[group] = run
        elif isinstance(beside, list):
            insort(beside, run)
        else:
            self._groups[group] = [beside, run] if beside < run else [run, beside]
        self._last_old = old
        self._newest = new

    def insert_run(self, old: int, new: int, count: int) -> None:
        """Add ``count`` exceptions, consecutive on both sides, in ascending order."""
        end = old + count
        while old < end:
            self.insert(old, new)
            old += 1
            new += 1
            more = min(end - old, -old & LOW_MASK)
            if more and self._lists is None and self._extend(old, new, more):
                old += more
                new += more

    def _extend(self, old: int, new: int, more: int) -> bool:
        """Extend the run of the last exception by ``more`` chunks; False if that is not possible.

        The caller knows that ``old`` and ``new`` continue it.
        """
        low = old & LOW_MASK
        if not low or new + more > CHUNK_MASK + 1:
            return False
        group = old >> CONSECUTIVE_BITS
        self._take_over(group)
        run = self._groups[group]
        if isinstance(run, list):
            index = bisect_left(run, low << LOW_SHIFT)
            if index < len(run) and run[index] >> LOW_SHIFT < low + more:
                return False
            run[index - 1] += more * ONE_MORE
        else:
            self._groups[group] = run + more * ONE_MORE
        self._last_old = old + more - 1
        self._newest = new + more - 1
        return True

    def _epoch_of(self, old: int) -> int:
        """The epoch of a new run; see the module docstring."""
        if self._order is not Order.head_scan_to_head:
            return 0
        if not self._largest:
            self._largest = array("q", (-1,)) * self._slots
            self._epochs = array("I", (0,)) * self._slots
        slot = old >> CONSECUTIVE_BITS & self._slots - 1
        if old > self._largest[slot]:
            self._largest[slot] = old
            self._epochs[slot] += 1
        return self._epochs[slot]

    # -- many at once --

    def load(self, pairs: Pairs) -> None:
        """Add exceptions in the order in which a store lists them: `insert` for each."""
        if len(pairs) < _FEW or self._newest >= 0 or not self._sort(pairs):
            for old, new in pairs.tolist():
                self.insert(old, new)

    def _sort(self, pairs: Pairs) -> bool:
        """Fill the empty table from ``pairs``; False, and nothing done, if order matters."""
        new = pairs[:, 1]
        if (
            int(new[-1]) >> WORD_NEW_BITS
            or int(pairs[:, 0].max()) >> _OLD_BITS
            or not (new[1:] > new[:-1]).all()
        ):
            return False
        old = pairs[:, 0].astype(np.int64)
        # A run ends where either number jumps, and where a group ends.
        first = np.flatnonzero(
            np.concatenate(
                (
                    [True],
                    (old[1:] - old[:-1] != 1)
                    | (new[1:] - new[:-1] != 1)
                    | (old[1:] & LOW_MASK == 0),
                )
            )
        )
        extra = np.diff(np.append(first, len(old))) - 1
        start = old[first]
        ascending = _order_of(start)
        sorted_start = start[ascending]
        if not (sorted_start[1:] > sorted_start[:-1] + extra[ascending][:-1]).all():
            return False
        self._loaded = LoadedRuns(
            sorted_start,
            new[first][ascending].astype(np.int64),
            extra[ascending],
            self._epochs_of(start, ascending)[ascending],
        )
        self._last_old, self._newest = (int(number) for number in pairs[-1])
        return True

    def _epochs_of(self, start: _Signed, ascending: _Signed) -> _Signed:
        """`_epoch_of` for each run of an empty table: ``start`` in order of insertion.

        ``ascending`` sorts ``start``.
        """
        if self._order is not Order.head_scan_to_head:
            return np.zeros(len(start), np.int64)
        rank = np.empty_like(ascending)
        rank[ascending] = np.arange(len(start))
        slot = start >> CONSECUTIVE_BITS & self._slots - 1
        by_slot = _order_of(slot)
        slot = slot[by_slot]
        # Slot above rank: the greatest so far is the greatest of its slot.
        key = slot << 40 | rank[by_slot]
        largest = np.maximum.accumulate(key)
        # Counted over all slots: within one, they still ascend.
        begun = np.cumsum(key == largest)
        epochs = np.empty_like(begun)
        epochs[by_slot] = begun
        last = np.flatnonzero(np.append(slot[1:] != slot[:-1], True))
        all_largest = np.full(self._slots, -1, np.int64)
        all_largest[slot[last]] = start[ascending[largest[last] & (1 << 40) - 1]]
        all_epochs = np.zeros(self._slots, np.uint32)
        all_epochs[slot[last]] = begun[last]
        self._largest = array("q", all_largest.tobytes())
        self._epochs = array("I", all_epochs.tobytes())
        return epochs

    # -- removal --

    def remove(self, old: int) -> str | None:
        """Forget one chunk from an end of its run; None, or what the kernel calls corruption.

        Kernel: ``__remove_single_exception_chunk``.
        """
        if self._lists is not None:
            return self._lists.remove(old)
        group = old >> CONSECUTIVE_BITS
        low = old & LOW_MASK
        runs = self._runs_of(group)
        index = bisect_left(runs, low + 1 << LOW_SHIFT) - 1
        run = runs[index] if index >= 0 else 0
        start = run >> LOW_SHIFT
        extra = run >> EXTRA_SHIFT & LOW_MASK
        if index < 0 or low > start + extra:
            return f"Corruption detected: exception for block {old} is on disk but not in memory"
        if start < low < start + extra:
            first = old - low + start
            return (
                f"Attempt to merge block {old} from the middle of a chunk range "
                f"[{first} - {first + extra}]"
            )
        if extra:
            runs[index] += WITHOUT_FIRST if low == start else -ONE_MORE
        else:
            del runs[index]
        # Also an empty one, so that what was loaded does not come back.
        self._groups[group] = runs
        # Later insertions may join or pass runs in ways that epochs cannot express.
        self._newest = _ANY
        return None

    # -- order --

    def runs(self) -> list[tuple[int, int, int]]:
        """Every run as (old chunk, new chunk, length), by new chunk; for pictures."""
        runs = self._in_list_order() if self._lists is None else list(self._lists.runs())
        return sorted(((old, new, extra + 1) for old, new, extra in runs), key=lambda run: run[1])

    def _in_list_order(self) -> list[tuple[int, int, int]]:
        """Every run as (old, new, extra), slot by slot as the kernel's lists hold them."""
        mask = self._slots - 1
        runs = [(group, unpack(run)) for group in self._groups for run in self._runs_of(group)]
        runs += [(group, run) for group, run in self._loaded or () if group not in self._groups]
        in_order = sorted(
            (group & mask, -run.epoch, group << CONSECUTIVE_BITS | run.low, run.new, run.extra)
            for group, run in runs
        )
        return [run[2:] for run in in_order]

    def _become_lists(self) -> ExceptionLists:
        """From now on, use the kernel's lists."""
        self._lists = ExceptionLists(self._slots, self._order)
        self._lists.append_runs(self._in_list_order())
        self._groups = {}
        self._loaded = None
        return self._lists


def _order_of(keys: _Signed) -> _Signed:
    """Indices that sort the non-negative ``keys``, stably.

    16 bits at a time, which numpy does in linear time: sorting a large table costs little more per
    key than a small one.
    """
    order: _Signed = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(16, int(keys.max()).bit_length(), 16):
        digit = (keys >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order
