"""Exceptions in the kernel's own shape: hash slots with lists of runs (dm-snap.c).

*Runs* are consecutive old chunks that went to consecutive new chunks; one record holds them.  The
low 8 bits of a chunk number do not enter the hash, so a run never leaves its slot.

Order within a slot decides which record wins when a crafted store maps one chunk twice, and it
changed over the years; `Order` names the three rules that kernels have followed.

A slot is searched as the kernel does it, record by record.  `harness.twin.exceptions.table` answers
sooner where order cannot be seen, and comes here where it can; the tests hold one against the
other.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

from harness.errors import KernelCrash
from harness.twin.exceptions.packing import (
    CHUNK_MASK,
    CHUNK_NUMBER_BITS,
    CONSECUTIVE_BITS,
    LOW_MASK,
)

_EXTRA_MAX: Final = LOW_MASK


class Order(Enum):
    """Where a record goes that does not join another.

    ``tail_scan``: the seed; scan from the tail, insert behind the first smaller one.
    ``head_scan``: 5.2 on; scan from the head, insert before the first larger one, else at the
    tail.  ``head_scan_to_head``: the same, else at the head (8581b19eb2c5, 6.19).
    """

    tail_scan = "tail_scan"
    head_scan = "head_scan"
    head_scan_to_head = "head_scan_to_head"


class ChunkRun:
    """Chunks old … old + extra went to new … new + extra (kernel: ``struct dm_exception``)."""

    __slots__ = ("extra", "new", "old")

    def __init__(self, old: int, new: int, extra: int) -> None:
        self.old = old
        self.new = new
        self.extra = extra

    def one_more(self) -> None:
        """Kernel: ``dm_consecutive_chunk_count_inc``."""
        if self.extra == _EXTRA_MAX:
            raise KernelCrash(
                f"a run of more than {_EXTRA_MAX + 1} chunks, which a sound store "
                "cannot have: the kernel stops (BUG_ON)",
                "store-kills-kernel",
            )
        self.extra += 1


class ExceptionLists:
    """Old chunk → new chunk, with runs."""

    __slots__ = ("_mask", "_order", "_slots")

    def __init__(self, slots: int, order: Order = Order.head_scan_to_head) -> None:
        assert slots > 0, slots
        assert slots & (slots - 1) == 0, slots
        self._mask = slots - 1
        self._order = order
        self._slots: dict[int, list[ChunkRun]] = {}

    def append_runs(self, runs: Iterable[tuple[int, int, int]]) -> None:
        """Append (old, new, extra) to their slots, without looking for neighbours."""
        for old, new, extra in runs:
            key = old >> CONSECUTIVE_BITS & self._mask
            self._slots.setdefault(key, []).append(ChunkRun(old, new, extra))

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Every run as (old, new, extra), slot by slot."""
        return ((run.old, run.new, run.extra) for slot in self._slots.values() for run in slot)

    def lookup(self, old: int) -> int:
        """The new chunk of ``old``, or -1 (kernel: ``dm_lookup_exception``)."""
        slot = self._slots.get(old >> CONSECUTIVE_BITS & self._mask)
        if slot is not None:
            for run in slot:
                offset = old - run.old
                if 0 <= offset <= run.extra:
                    return run.new + offset
        return -1

    def insert(self, old: int, new: int) -> None:
        """Add one exception, joining a run where it continues one (``dm_insert_exception``).

        The top byte of ``new`` is read as a count, as the kernel does with a crafted store.

        Raises:
            KernelCrash: such a count would overflow.
        """
        extra = new >> CHUNK_NUMBER_BITS
        new &= CHUNK_MASK
        slot = self._slots.setdefault(old >> CONSECUTIVE_BITS & self._mask, [])
        backwards = self._order is Order.tail_scan
        position = -1
        for index in range(len(slot) - 1, -1, -1) if backwards else range(len(slot)):
            run = slot[index]
            if old == run.old + run.extra + 1 and new == run.new + run.extra + 1:
                run.one_more()
                return
            if old == run.old - 1 and new == run.new - 1:
                run.one_more()
                run.old -= 1
                run.new -= 1
                return
            if backwards and old > run.old:
                position = index + 1
                break
            if not backwards and old < run.old:
                position = index
                break
        if position < 0:
            position = len(slot) if self._order is Order.head_scan else 0
        slot.insert(position, ChunkRun(old, new, extra))

    def remove(self, old: int) -> str | None:
        """Forget one chunk from an end of its run; None, or what the kernel calls corruption.

        Kernel: ``__remove_single_exception_chunk``.
        """
        key = old >> CONSECUTIVE_BITS & self._mask
        slot = self._slots.get(key, [])
        for run in slot:
            if not 0 <= old - run.old <= run.extra:
                continue
            if not run.extra:
                slot.remove(run)
                if not slot:
                    del self._slots[key]
                return None
            if old == run.old:
                run.old += 1
                run.new += 1
            elif old != run.old + run.extra:
                return (
                    f"Attempt to merge block {old} from the middle of a chunk range "
                    f"[{run.old} - {run.old + run.extra}]"
                )
            run.extra -= 1
            return None
        return f"Corruption detected: exception for block {old} is on disk but not in memory"
