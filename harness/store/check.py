"""What is odd about a store that the kernel would load without a word.

The kernel checks no entry (dm-snap-persistent.c ``insert_exceptions``, dm-snap.c
``dm_add_exception``): it maps chunks to places beyond the device, to metadata, to each other's
data.  `check` looks for all of it.  *Damage* means that the snapshot shows wrong data or errors;
a *remark* is what a sound store may show as well: after a merge, a crash, an earlier life.

Memory: about 24 bytes for each exception on top of the store, for sorting.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from harness.store.describe import describe
from harness.store.layout import (
    ENTRY,
    FIRST_AREA_CHUNK,
    HEADER,
    area_chunk,
    data_chunk,
    data_index,
)
from harness.store.parse import State, Store
from harness.units import bytes_of_sectors

PLACES_MAX: Final = 16
"""A finding lists at most this many places; its count tells how many there are."""
_CONSECUTIVE_SHIFT: Final = 56

Numbers = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.intp]
Code = Literal[
    "new-chunk-in-metadata",
    "new-chunk-beyond-device",
    "duplicate-old-chunk",
    "duplicate-new-chunk",
    "old-chunk-beyond-origin",
    "hole",
    "header-tail",
    "stale-entries",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of oddity.

    Attributes:
        code: what was found.
        damage: True where the snapshot shows wrong data or errors because of it.
        message: the same in words, with the first place.
        count: how many places there are.
        places: byte offsets on the COW device of the first of them.
    """

    code: Code
    damage: bool
    message: str
    count: int
    places: tuple[int, ...]


def check(store: Store, *, origin_sectors: int | None = None) -> list[Finding]:
    """Findings in ``store``, damage first; empty where nothing is odd.

    Args:
        store: the store.
        origin_sectors: size of the origin, if known; old chunks are checked against it.
    """
    findings = _header(store)
    if store.state is State.VALID:
        findings += _entries(store, origin_sectors) + _stale(store)
    return sorted(findings, key=lambda finding: not finding.damage)


def _header(store: Store) -> list[Finding]:
    if store.state is State.NEW or len(store.header_chunk) <= HEADER.size:
        return []
    tail = np.frombuffer(store.header_chunk, np.uint8)[HEADER.size :]
    return [
        _finding(
            store,
            "header-tail",
            "bytes that are not zero follow the header",
            np.flatnonzero(tail) + HEADER.size,
        )
    ]


def _stale(store: Store) -> list[Finding]:
    stale = store.stale()
    used = np.flatnonzero((stale["old"] != 0) | (stale["new"] != 0))
    if not len(used):
        return []
    return [
        _finding(
            store,
            "stale-entries",
            "bytes from the end marker on are not zero: left by an earlier life of the "
            "device, or the area was written in part; the kernel writes them back, and "
            "they become live once the marker is overwritten",
            _places(store, used + store.count),
        )
    ]


def _entries(store: Store, origin_sectors: int | None) -> list[Finding]:
    new = _column(store, "new")
    stride = np.uint64(store.entries_per_area + 1)
    chunks_on_device = store.size_bytes // bytes_of_sectors(store.chunk_sectors)
    beyond = new >= np.uint64(chunks_on_device)
    metadata = (new % stride == np.uint64(FIRST_AREA_CHUNK)) & ~beyond
    findings = []
    if beyond.any():
        text = f"new_chunk lies beyond the device, which has {chunks_on_device} chunks"
        if (new >> np.uint64(_CONSECUTIVE_SHIFT)).any():
            text += (
                "; some are 2^56 or more, where the kernel keeps the length of a run: what it "
                "does with them is undefined"
            )
        findings.append(_entry_finding(store, "new-chunk-beyond-device", text, beyond))
    if metadata.any():
        findings.append(
            _entry_finding(
                store, "new-chunk-in-metadata", "new_chunk is a metadata chunk", metadata
            )
        )
    sound = ~(beyond | metadata)
    findings += _duplicates(
        store,
        "duplicate-new-chunk",
        "two exceptions share a new_chunk: one shows the other's data",
        new,
    )
    findings += _holes(store, new[sound])
    del new, beyond, metadata, sound
    old = _column(store, "old")
    findings += _duplicates(
        store,
        "duplicate-old-chunk",
        "an old_chunk appears more than once: which exception wins depends on the kernel",
        old,
    )
    if origin_sectors is not None:
        chunks = -(-origin_sectors // store.chunk_sectors)
        outside = old >= np.uint64(chunks)
        if outside.any():
            findings.append(
                _entry_finding(
                    store,
                    "old-chunk-beyond-origin",
                    f"old_chunk lies beyond the origin, which has {chunks} chunks",
                    outside,
                )
            )
    return findings


def _column(store: Store, name: str) -> Numbers:
    """One field of all exceptions, contiguous."""
    out = np.empty(store.count, dtype=np.uint64)
    start = 0
    for block in store.exceptions():
        out[start : start + len(block)] = block[name]
        start += len(block)
    return out


def _duplicates(store: Store, code: Code, text: str, values: Numbers) -> list[Finding]:
    ranked = np.sort(values)
    if not (ranked[1:] == ranked[:-1]).any():
        return []
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    again = order[1:][ranked[1:] == ranked[:-1]]
    return [_finding(store, code, text, _places(store, np.sort(again)))]


def _holes(store: Store, new: Numbers) -> list[Finding]:
    """Data chunks below the highest used one that no exception points to."""
    if not len(new):
        return []
    entries = store.entries_per_area
    # Not np.unique: that hashes, which is an order of magnitude slower on ranked input.
    ranked = np.sort(new)
    used = ranked[np.concatenate((np.array([True]), ranked[1:] != ranked[:-1]))]
    missing = data_index(int(used[-1]), entries) + 1 - len(used)
    if not missing:
        return []
    # Chunk numbers as positions in the order of allocation; a gap in them is a hole.
    shifted = used - np.uint64(2)
    position = (shifted - shifted // np.uint64(entries + 1)).astype(np.int64)
    before = np.concatenate((np.array([-1]), position[:-1]))
    places: list[int] = []
    for gap in np.flatnonzero(position - before > 1)[:PLACES_MAX]:
        first = int(before[gap]) + 1
        end = min(int(position[gap]), first + PLACES_MAX - len(places))
        places += [
            data_chunk(index, entries) * bytes_of_sectors(store.chunk_sectors)
            for index in range(first, end)
        ]
    return [
        _finding(
            store,
            "hole",
            "data chunks that no exception uses: the store was merged in "
            "part, or copies were lost in a crash",
            np.array(places),
            count=missing,
        )
    ]


def _places(store: Store, indexes: Indexes) -> Indexes:
    """Byte offsets of the first entries in ``indexes``; the rest is only counted."""
    chunk_bytes = bytes_of_sectors(store.chunk_sectors)
    entries = store.entries_per_area
    offsets = np.empty(len(indexes), dtype=np.intp)
    for place, index in enumerate(indexes[:PLACES_MAX]):
        area, entry = divmod(int(index), entries)
        offsets[place] = area_chunk(area, entries) * chunk_bytes + entry * ENTRY.size
    return offsets


def _entry_finding(store: Store, code: Code, text: str, mask: npt.NDArray[np.bool_]) -> Finding:
    return _finding(store, code, text, _places(store, np.flatnonzero(mask)))


def _finding(
    store: Store, code: Code, text: str, places: Indexes, *, count: int | None = None
) -> Finding:
    total = len(places) if count is None else count
    first = int(places[0])
    where = describe(first, store.chunk_sectors, store.size_bytes)
    return Finding(
        code,
        code not in ("hole", "header-tail", "stale-entries"),
        f"{text} ({total} in all, the first at byte {first}: {where})",
        total,
        tuple(int(place) for place in places[:PLACES_MAX]),
    )
