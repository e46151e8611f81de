"""What is odd about a store that the kernel would load without complaint.

The kernel checks no entry (dm-snap-persistent.c ``insert_exceptions``, dm-snap.c
``dm_add_exception``): it maps chunks beyond the device, to metadata, to each other's
data.  `check` looks for all of it.  *Damage* means that the snapshot shows wrong data or errors;
a *remark* is what a sound store may show too, after a merge, a crash or an earlier use.

Memory: about 150 MiB at most on top of the store, however many exceptions there are; the areas
are gone through several times (`harness.store.order`).
"""

from collections.abc import Callable
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
from harness.store.order import Numbers, tally
from harness.store.parse import State, Store
from harness.units import bytes_of_sectors

PLACES_MAX: Final = 16
"""A finding lists at most this many places; its count says how many there are."""
_CONSECUTIVE_SHIFT: Final = 56
_WINDOW: Final = 1 << 26

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
    """Findings in ``store``, damage first; empty if nothing is odd.

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


class _Found:
    """Entries that are odd by themselves: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int] = []

    def add(self, mask: npt.NDArray[np.bool_], start: int) -> None:
        """Those of a block that begins with entry ``start``."""
        where = np.flatnonzero(mask)
        self.count += len(where)
        self.first += [start + int(index) for index in where[: PLACES_MAX - len(self.first)]]


def _entries(store: Store, origin_sectors: int | None) -> list[Finding]:
    stride = np.uint64(store.entries_per_area + 1)
    chunks_on_device = store.size_bytes // bytes_of_sectors(store.chunk_sectors)
    origin_chunks = None if origin_sectors is None else -(-origin_sectors // store.chunk_sectors)
    beyond, metadata, outside = _Found(), _Found(), _Found()
    enormous = False
    greatest = -1
    start = 0

    def sound(new: Numbers) -> npt.NDArray[np.bool_]:
        on_device: npt.NDArray[np.bool_] = new < np.uint64(chunks_on_device)
        data: npt.NDArray[np.bool_] = new % stride != np.uint64(FIRST_AREA_CHUNK)
        return on_device & data

    for block in store.exceptions():
        new = block["new"]
        far = new >= np.uint64(chunks_on_device)
        beyond.add(far, start)
        enormous |= bool((new >> np.uint64(_CONSECUTIVE_SHIFT)).any())
        metadata.add((new % stride == np.uint64(FIRST_AREA_CHUNK)) & ~far, start)
        good = new[sound(new)]
        greatest = max(greatest, int(good.max()) if len(good) else -1)
        if origin_chunks is not None:
            outside.add(block["old"] >= np.uint64(origin_chunks), start)
        start += len(block)
    findings = []
    if beyond.count:
        text = f"new_chunk lies beyond the device, which has {chunks_on_device} chunks"
        if enormous:
            text += (
                "; some are 2^56 or more, where the kernel keeps the length of a run: what it "
                "does with them is undefined"
            )
        findings.append(_entry_finding(store, "new-chunk-beyond-device", text, beyond))
    if metadata.count:
        findings.append(
            _entry_finding(
                store, "new-chunk-in-metadata", "new_chunk is a metadata chunk", metadata
            )
        )
    distinct, places, again = tally(store, "new")
    if again:
        findings.append(
            _finding(
                store,
                "duplicate-new-chunk",
                "two exceptions share a new_chunk: one shows the other's data",
                _places(store, np.array(places)),
                count=again,
            )
        )
    if beyond.count or metadata.count:
        distinct, _, _ = tally(store, "new", sound)
    findings += _holes(store, sound, distinct, greatest)
    _, places, again = tally(store, "old")
    if again:
        findings.append(
            _finding(
                store,
                "duplicate-old-chunk",
                "an old_chunk appears more than once: which exception wins depends on the kernel",
                _places(store, np.array(places)),
                count=again,
            )
        )
    if outside.count:
        findings.append(
            _entry_finding(
                store,
                "old-chunk-beyond-origin",
                f"old_chunk lies beyond the origin, which has {origin_chunks} chunks",
                outside,
            )
        )
    return findings


def _holes(
    store: Store,
    sound: Callable[[Numbers], npt.NDArray[np.bool_]],
    distinct: int,
    greatest: int,
) -> list[Finding]:
    """Data chunks below the ``greatest`` used one that no exception points to."""
    if greatest < 0:
        return []
    entries = store.entries_per_area
    end = data_index(greatest, entries) + 1
    missing = end - distinct
    if not missing:
        return []
    places: list[int] = []
    for first in range(0, end, _WINDOW):
        used = np.zeros(min(_WINDOW, end - first), bool)
        for block in store.exceptions():
            shifted = block["new"][sound(block["new"])] - np.uint64(2)
            # Chunk numbers as positions in the order of allocation; a gap in them is a hole.
            position = shifted - shifted // np.uint64(entries + 1)
            inside = (position >= np.uint64(first)) & (position < np.uint64(first + len(used)))
            used[(position[inside] - np.uint64(first)).astype(np.intp)] = True
        places += [
            data_chunk(first + int(index), entries) * bytes_of_sectors(store.chunk_sectors)
            for index in np.flatnonzero(~used)[: PLACES_MAX - len(places)]
        ]
        if len(places) == PLACES_MAX:
            break
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


def _entry_finding(store: Store, code: Code, text: str, found: _Found) -> Finding:
    return _finding(store, code, text, _places(store, np.array(found.first)), count=found.count)


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
