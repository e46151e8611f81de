"""Contents of a device as extents, for the promise model: what is in each sector, if known.

An extent is zeros, or the stamps of consecutive sectors.  Sectors outside all extents are unknown.
A device of any size costs only what was written to it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, NamedTuple

from msgspec import Struct

from harness.trace import pattern
from harness.trace.observations import Run, Runs, Stamped, Unreadable, Zeros
from harness.trace.steps import Discard, Poke, Write, Zeroout
from harness.units import bytes_of_sectors, sector_of_byte


class Stamp(NamedTuple):
    """Sector s holds the stamp of sector ``s + shift`` of ``device``."""

    device: str
    generation: int
    shift: int


class Zero(NamedTuple):
    """Sectors of zeros."""


Content = Stamp | Zero | None
UNKNOWN: Final = None
ZERO: Final = Zero()


def moved(content: Content, by: int) -> Content:
    """``content`` shifted by ``by`` sectors."""
    if isinstance(content, Stamp):
        return Stamp(content.device, content.generation, content.shift - by)
    return content


class Extent(Struct, frozen=True):
    """Sectors [start, end) hold ``content``."""

    start: int
    end: int
    content: Content

    @property
    def sectors(self) -> int:
        """Number of sectors."""
        return self.end - self.start

    def moved(self, by: int) -> "Extent":
        """The same, shifted by ``by`` sectors."""
        return Extent(self.start + by, self.end + by, moved(self.content, by))

    def within(self, start: int, end: int) -> "Extent":
        """The part in [start, end), which it overlaps."""
        if start <= self.start and self.end <= end:
            return self
        return Extent(max(self.start, start), min(self.end, end), self.content)


class Extents:
    """Sorted extents that do not overlap; ``start`` and ``end`` bound the range of a write."""

    def __init__(self, start: int = 0, end: int = 0) -> None:
        self.start, self.end = start, end
        self._known: list[Extent] = []

    @property
    def empty(self) -> bool:
        """True if the bounds are empty."""
        return self.start >= self.end

    def clear(self) -> None:
        """Forget everything."""
        self._known = []

    def put(self, start: int, end: int, content: Content) -> None:
        """Sectors [start, end) hold ``content``."""
        if start >= end:
            return
        first, behind = self._first_behind(start), bisect_left(self._known, end, key=_START)
        replaced = self._known[first:behind]
        new: list[Extent] = []
        if replaced and replaced[0].start < start:
            new.append(replaced[0].within(replaced[0].start, start))
        if content is not UNKNOWN:
            new.append(Extent(start, end, content))
        if replaced and replaced[-1].end > end:
            new.append(replaced[-1].within(end, replaced[-1].end))
        self._known[first:behind] = new
        self.start, self.end = min(self.start, start), max(self.end, end)

    def add(self, extent: Extent) -> None:
        """Put ``extent`` in."""
        self.put(extent.start, extent.end, extent.content)

    def drop(self, start: int, end: int) -> None:
        """Sectors [start, end) are unknown."""
        self.put(start, end, UNKNOWN)

    def between(self, start: int, end: int) -> list[Extent]:
        """[start, end) as extents without a gap, including unknown ones."""
        found: list[Extent] = []
        if start >= end:
            return found
        at = start
        for index in range(self._first_behind(start), len(self._known)):
            extent = self._known[index]
            if extent.start >= end:
                break
            if at < extent.start:
                found.append(Extent(at, extent.start, UNKNOWN))
            found.append(extent.within(start, end))
            at = found[-1].end
        if at < end:
            found.append(Extent(at, end, UNKNOWN))
        return found

    def within(self, start: int, end: int) -> "Extents":
        """The part of a write in [start, end)."""
        part = Extents(max(start, self.start), min(end, self.end))
        for extent in self.between(part.start, part.end):
            part.add(extent)
        return part

    def shifted(self, by: int) -> "Extents":
        """The same, shifted by ``by`` sectors."""
        part = Extents(self.start + by, self.end + by)
        for extent in self.between(self.start, self.end):
            part.add(extent.moved(by))
        return part

    def unknown(self) -> "Extents":
        """The same bounds, with nothing known."""
        return Extents(self.start, self.end)

    def differing(self, other: "Extents", end: int) -> list[Extent]:
        """Where in [0, end) the two are not known to be the same, with the other's contents."""
        return [
            there
            for here in self.between(0, end)
            for there in other.between(here.start, here.end)
            if here.content is UNKNOWN or here.content != there.content
        ]

    def _first_behind(self, sector: int) -> int:
        """Index of the first extent that ends after ``sector``."""
        return bisect_right(self._known, sector, key=_END)


_START: Final = attrgetter("start")
_END: Final = attrgetter("end")


def written(seed: int, step: Write | Poke | Zeroout | Discard, *, failed: bool) -> Extents:
    """What a step writes; a failed one may have written any part of it."""
    sectors = sector_of_byte(len(step.data)) if isinstance(step, Poke) else step.sectors
    data = Extents(step.sector, step.sector + sectors)
    if failed or isinstance(step, Discard) or (isinstance(step, Write) and step.buffered):
        return data
    if isinstance(step, Poke):
        _poke(data, pattern.encode(seed, step.data[: bytes_of_sectors(sectors)]))
    elif isinstance(step, Zeroout) or step.fill == "zero":
        data.put(data.start, data.end, ZERO)
    else:
        data.put(data.start, data.end, Stamp(step.device, step.generation, 0))
    return data


def _poke(data: Extents, runs: Runs) -> None:
    """Put runs in, from the start of ``data``; bytes without a stamp stay unknown."""
    at = data.start
    for run in runs:
        if isinstance(run, Zeros):
            data.put(at, at + run.count, ZERO)
        elif isinstance(run, Stamped):
            data.put(at, at + run.count, Stamp(run.device, run.generation, run.sector - at))
        at += run.count


class Breach(Struct, frozen=True):
    """Sectors that are not as promised; ``read`` is the first of them, in words."""

    promised: Extent
    read: str


def breaches(promised: Extents, start: int, runs: Runs) -> Iterator[Breach]:
    """Where runs, read from sector ``start``, are not as promised."""
    for run in runs:
        for extent in promised.between(start, start + run.count):
            if not _kept(extent, run, extent.start - start):
                yield Breach(extent, pattern.origin_of(run, extent.start - start))
        start += run.count


def _kept(promised: Extent, run: Run, index: int) -> bool:
    """Whether sectors of ``run`` from ``index`` are as promised, or unknown."""
    content = promised.content
    if content is UNKNOWN or isinstance(run, Unreadable):
        return True
    if isinstance(content, Zero):
        return isinstance(run, Zeros)
    return isinstance(run, Stamped) and (
        (run.device, run.generation, run.sector + index)
        == (content.device, content.generation, promised.start + content.shift)
    )
