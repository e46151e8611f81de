"""How a run of exceptions is packed into one number; each layout is defined here once.

A *run* is consecutive old chunks that went to consecutive new chunks.  It never leaves its *group*,
the old chunks that are alike but for their low 8 bits, so those bits say where in the group it
begins; and it counts its further chunks in 8 bits.  There are two layouts, with the parts from the
highest bit down:

- a *packed run* is an integer of any length: low bits of the old chunk (8), new chunk (56), number
  of further chunks (8), epoch (32).  Packed runs of a group sort by old chunk;
- a *word* is one of 64 bits, for arrays: low bits of the old chunk (8), new chunk (48), number of
  further chunks (8).

What is done for each lookup is written inline, with the names from here: calling a function would
cost more than the lookup.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

CONSECUTIVE_BITS: Final = 8
"""Low bits left out of the hash (kernel: ``DM_CHUNK_CONSECUTIVE_BITS``)."""
LOW_MASK: Final = (1 << CONSECUTIVE_BITS) - 1
"""Mask of those bits; also the most further chunks that a run can count."""
CHUNK_NUMBER_BITS: Final = 56
"""A record keeps its count in the top byte of the new chunk (``DM_CHUNK_NUMBER_BITS``)."""
CHUNK_MASK: Final = (1 << CHUNK_NUMBER_BITS) - 1

EPOCH_BITS: Final = 32
EPOCH_MASK: Final = (1 << EPOCH_BITS) - 1
EXTRA_SHIFT: Final = EPOCH_BITS
NEW_SHIFT: Final = EXTRA_SHIFT + CONSECUTIVE_BITS
LOW_SHIFT: Final = NEW_SHIFT + CHUNK_NUMBER_BITS
ONE_MORE: Final = 1 << EXTRA_SHIFT
"""Added to a packed run: one more further chunk."""
WITHOUT_FIRST: Final = (1 << LOW_SHIFT) + (1 << NEW_SHIFT) - ONE_MORE
"""Added to a packed run: it begins one chunk later."""

WORD_NEW_BITS: Final = 48
"""New chunks up to this one fit a word."""
WORD_NEW_MASK: Final = (1 << WORD_NEW_BITS) - 1
WORD_LOW_SHIFT: Final = WORD_NEW_BITS + CONSECUTIVE_BITS


class GroupRun(NamedTuple):
    """Chunks low … low + extra of one group went to new … new + extra.

    Its *epoch* is what is left of its place in the kernel's list; see
    `harness.twin.exceptions.table`.
    """

    low: int
    new: int
    extra: int
    epoch: int


def pack(run: GroupRun) -> int:
    """The packed run."""
    return run.low << LOW_SHIFT | run.new << NEW_SHIFT | run.extra << EXTRA_SHIFT | run.epoch


def unpack(packed: int) -> GroupRun:
    """The inverse of `pack`."""
    return GroupRun(
        packed >> LOW_SHIFT,
        packed >> NEW_SHIFT & CHUNK_MASK,
        packed >> EXTRA_SHIFT & LOW_MASK,
        packed & EPOCH_MASK,
    )


def words(
    old: npt.NDArray[np.int64], new: npt.NDArray[np.int64], extra: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """The words of many runs."""
    return (old & LOW_MASK).astype(np.uint64) << np.uint64(WORD_LOW_SHIFT) | (
        new << CONSECUTIVE_BITS | extra
    ).astype(np.uint64)


def run_of_word(word: int, epoch: int) -> GroupRun:
    """The run that a word holds."""
    return GroupRun(
        word >> WORD_LOW_SHIFT, word >> CONSECUTIVE_BITS & WORD_NEW_MASK, word & LOW_MASK, epoch
    )
