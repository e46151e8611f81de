"""Where contents are, for the promise model: disks, snapshots, and the pieces of a device.

Contents are in *leaves*: disks, and what snapshots show.  Any device is pieces of leaves, so a
question about a device (what does it show? what is stacked on a write?) is one about pieces.
"""

from collections.abc import Sequence
from typing import Final, Optional

from msgspec import Struct

from harness.promises.extents import UNKNOWN, Content, Extent, Extents


class Leaf:
    """Where contents are: a disk, or what a snapshot shows.

    Attributes:
        sectors: its size.
        content: its promised contents.
        writes: number of writes from above; what a kernel keeps in a store does not count.
    """

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.content = Extents()
        self.writes = 0

    @property
    def promised(self) -> bool:
        """Whether anything is promised for it now."""
        return True

    def keep(self, extent: Extent) -> None:
        """Apply a write that reached it."""
        self.content.add(extent)


class Snapshot(Leaf):
    """What the snapshot on one COW device shows; it outlives the tables that name it.

    Attributes:
        origin, cow: the devices that its table names.
        active_in: the mapped device in which it is active; empty while it is dormant.
        taken: whether it ever became active, which fixes the origin's contents of that time.
        store_found: its store was on the COW device before it was first loaded here.
        transient: it ends with its last table.
        merging, merged: it is being merged into its origin; the merge has finished.
        invalid: the side calls it Invalid, for now.
        forgotten: nothing is promised for it ever again.
        cow_pieces, origin_pieces: where both were when last checked.
    """

    def __init__(self, sectors: int, origin: str, cow: str, *, transient: bool = False) -> None:
        super().__init__(sectors)
        self.origin, self.cow = origin, cow
        self.active_in = ""
        self.taken = False
        self.store_found = False
        self.transient = transient
        self.merging = self.merged = False
        self.invalid = False
        self.forgotten = False
        self.cow_pieces: list[Piece] = []
        self.origin_pieces: list[Piece] = []

    @property
    def promised(self) -> bool:
        """Whether anything is promised for it now: not while it is Invalid."""
        return not self.invalid

    @property
    def merge_pending(self) -> bool:
        """Whether a merge still has to write to the origin."""
        return self.merging and not self.merged

    def keep(self, extent: Extent) -> None:
        """Apply a write that reached it; it renews no promise that is gone."""
        content: Content = UNKNOWN if self.forgotten else extent.content
        self.content.put(extent.start, extent.end, content)

    def forget(self) -> None:
        """Promise nothing more for this snapshot, whatever is written to it."""
        self.content.clear()
        self.taken = self.forgotten = True

    def renamed(self, old: str, new: str) -> None:
        """Rename a device that it may be on, or be active in."""
        self.active_in, self.origin, self.cow = (
            new if name == old else name for name in (self.active_in, self.origin, self.cow)
        )


NOWHERE: Final = Leaf(0)
"""The leaf of an error target."""


class Piece(Struct, frozen=True):
    """Sectors [start, end) of a device are those of ``leaf`` from its sector ``at``.

    ``leaf`` is None where the model cannot follow.
    """

    start: int
    end: int
    leaf: Leaf | None
    at: int

    @property
    def sectors(self) -> int:
        """Number of sectors."""
        return self.end - self.start

    @property
    def at_end(self) -> int:
        """The leaf's sector after the last one."""
        return self.at + self.end - self.start

    def moved(self, by: int) -> "Piece":
        """The same place, shifted by ``by`` sectors."""
        return Piece(self.start + by, self.end + by, self.leaf, self.at)

    def shown(self) -> list[Extent]:
        """What the device is promised to show here."""
        if self.leaf is None or not self.leaf.promised:
            return []
        by = self.start - self.at
        return [extent.moved(by) for extent in self.leaf.content.between(self.at, self.at_end)]

    def under(self, leaf: Leaf, start: int, end: int) -> Optional["Piece"]:
        """The part in sectors [start, end) of ``leaf``; None if there is none."""
        low, high = max(start, self.at), min(end, self.at_end)
        if self.leaf is not leaf or low >= high:
            return None
        by = self.start - self.at
        return Piece(low + by, high + by, leaf, low)

    def overlaps(self, other: "Piece") -> bool:
        """True if both share sectors of a leaf."""
        return (
            self.leaf is other.leaf is not None
            and self.at < other.at_end
            and other.at < self.at_end
        )

    def holds(self, other: "Piece") -> bool:
        """True if all of ``other`` is in here, at the same sectors of device and leaf."""
        return (
            self.leaf is other.leaf
            and self.start <= other.start
            and other.end <= self.end
            and self.at - self.start == other.at - other.start
        )


def overlap(some: Sequence[Piece], others: Sequence[Piece]) -> bool:
    """True if both share sectors of a leaf."""
    return any(piece.overlaps(other) for piece in some for other in others)


def in_place(old: Sequence[Piece], new: Sequence[Piece]) -> bool:
    """True if all of ``old`` is still where it was; ``new`` may have more."""
    return all(any(piece.holds(was) for piece in new) for was in old)


def out_of_reach(home: Sequence[Piece], now: Sequence[Piece]) -> bool:
    """True if nothing has moved, but some of it is unreachable for now (error targets)."""
    reached = [piece for piece in now if piece.leaf is not NOWHERE]
    return len(reached) < len(now) and in_place(reached, home)
