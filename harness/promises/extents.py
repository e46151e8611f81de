"""Contents of a device as extents, for the promise model: what each sector holds, if it is known.

An extent holds zeros, or the stamps of consecutive sectors.  What no extent covers is unknown.  A
device of any size costs only what was written to it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from harness.trace import pattern
from harness.trace.observations import Runs, Stamped, Unreadable, Zeros
from harness.trace.steps import Discard, Poke, Write, Zeroout


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


def moved(what: Content, by: int) -> Content:
    """``what`` as it reads ``by`` sectors further on."""
    return what._replace(shift=what.shift - by) if isinstance(what, Stamp) else what


class Extents:
    """Sorted extents that do not overlap; ``start`` and ``end`` bound what a write covers."""

    def __init__(self, start: int = 0, end: int = 0) -> None:
        self.start, self.end = start, end
        self._items: list[tuple[int, int, Stamp | Zero]] = []

    @property
    def empty(self) -> bool:
        """True if the bounds hold nothing."""
        return self.start >= self.end

    def clear(self) -> None:
        """Forget everything."""
        self._items = []

    def put(self, start: int, end: int, what: Content) -> None:
        """Sectors [start, end) hold ``what``."""
        if start >= end:
            return
        items = self._items
        low = bisect_right(items, start, key=lambda item: item[1])
        high = bisect_left(items, end, key=lambda item: item[0])
        new = [(a, start, old) for a, _, old in items[low:high][:1] if a < start]
        if what is not None:
            new.append((start, end, what))
        new += [(end, b, old) for _, b, old in items[low:high][-1:] if b > end]
        items[low:high] = new
        self.start, self.end = min(self.start, start), max(self.end, end)

    def drop(self, start: int, end: int) -> None:
        """Sectors [start, end) are unknown."""
        self.put(start, end, UNKNOWN)

    def between(self, start: int, end: int) -> list[tuple[int, int, Content]]:
        """[start, end) in pieces, with the unknown ones in their places."""
        items, at = self._items, start
        found: list[tuple[int, int, Content]] = []
        if start >= end:
            return found
        for a, b, what in items[bisect_right(items, start, key=lambda item: item[1]):]:
            if a >= end:
                break
            if at < a:
                found.append((at, a, UNKNOWN))
            found.append((max(a, start), min(b, end), what))
            at = min(b, end)
        if at < end:
            found.append((at, end, UNKNOWN))
        return found

    def within(self, start: int, end: int) -> "Extents":
        """That part of a write that lies in [start, end)."""
        part = Extents(max(start, self.start), min(end, self.end))
        for a, b, what in self.between(part.start, part.end):
            part.put(a, b, what)
        return part

    def shifted(self, by: int) -> "Extents":
        """The same ``by`` sectors further on."""
        part = Extents(self.start + by, self.end + by)
        for a, b, what in self.between(self.start, self.end):
            part.put(a + by, b + by, moved(what, by))
        return part

    def unknown(self) -> "Extents":
        """The same bounds, and nothing known."""
        return Extents(self.start, self.end)

    def differing(self, other: "Extents", end: int) -> list[tuple[int, int]]:
        """Ranges of [0, end) where not both are known to hold the same."""
        found = []
        for a, b, what in self.between(0, end):
            found += [(x, y) for x, y, there in other.between(a, b)
                      if what is UNKNOWN or what != there]
        return found


def written(seed: int, step: Write | Poke | Zeroout | Discard, *, failed: bool) -> Extents:
    """What a step writes; a failed one may have written any part of it."""
    count = len(step.data) >> 9 if isinstance(step, Poke) else step.sectors
    end = step.sector + count
    data = Extents(step.sector, end)
    if failed or isinstance(step, Discard) or (isinstance(step, Write) and step.buffered):
        return data
    if isinstance(step, Poke):
        at = step.sector
        for run in pattern.encode(seed, step.data[:count << 9]):
            if isinstance(run, Zeros):
                data.put(at, at + run.count, ZERO)
            elif isinstance(run, Stamped):
                data.put(at, at + run.count, Stamp(run.device, run.generation, run.sector - at))
            at += run.count
    elif isinstance(step, Zeroout) or step.fill == "zero":
        data.put(step.sector, end, ZERO)
    else:
        data.put(step.sector, end, Stamp(step.device, step.generation, 0))
    return data


def broken(promised: Extents, start: int, runs: Runs) -> Iterator[tuple[int, int, Content, str]]:
    """Where runs, read from sector ``start`` on, are not what was promised.

    Yields (first sector, sectors, what was promised there, what was read in words).
    """
    for run in runs:
        for a, b, what in promised.between(start, start + run.count):
            if what is UNKNOWN or isinstance(run, Unreadable):
                continue
            if isinstance(what, Zero):
                kept = isinstance(run, Zeros)
            else:
                kept = isinstance(run, Stamped) and (
                    (run.device, run.generation, run.sector + a - start)
                    == (what.device, what.generation, a + what.shift))
            if not kept:
                yield a, b - a, what, pattern.origin_of(run, a - start)
        start += run.count
