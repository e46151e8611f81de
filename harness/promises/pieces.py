"""Where contents live, for the promise model: disks, snapshots, and the pieces of a device.

Contents live in *leaves*: disks, and what snapshots show.  Any device is pieces of leaves, so a
question about a device (what does it show? who stands on what is written?) is one about pieces.
"""

from collections.abc import Sequence
from typing import Final, Optional

from msgspec import Struct

from harness.promises.extents import UNKNOWN, Content, Extent, Extents


class Leaf:
    """Where contents live: a disk, or what a snapshot shows.

    Attributes:
        sectors: its size.
        content: what it is promised to hold.
        writes: how many came from above it; what a kernel keeps in a store is none.
    """

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.content = Extents()
        self.writes = 0

    @property
    def promised(self) -> bool:
        """Whether anything is promised of it now."""
        return True

    def keep(self, extent: Extent) -> None:
        """A write has reached it."""
        self.content.add(extent)


class Snapshot(Leaf):
    """What the snapshot on one COW device shows; it outlives the tables that name it.

    Attributes:
        origin, cow: the devices that its table names.
        active_in: the mapped device in which it is active; empty while it is dormant.
        taken: whether it ever became active, so that its origin's contents of then are its own.
        store_found: its store was on the COW device before anybody here loaded it.
        transient: it is gone with its last table.
        merging, merged: it is being merged into its origin; that has finished.
        invalid: the side says so, for now.
        forgotten: nothing is ever promised of it again.
        cow_pieces, origin_pieces: where both lay when last looked at.
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
        """Whether anything is promised of it now: not while it is Invalid."""
        return not self.invalid

    @property
    def merge_pending(self) -> bool:
        """Whether a merge has still to write to the origin."""
        return self.merging and not self.merged

    def keep(self, extent: Extent) -> None:
        """A write has reached it; that is no new promise where there is none any more."""
        content: Content = UNKNOWN if self.forgotten else extent.content
        self.content.put(extent.start, extent.end, content)

    def forget(self) -> None:
        """Nothing is promised of this snapshot any more, whatever is written to it."""
        self.content.clear()
        self.taken = self.forgotten = True

    def renamed(self, old: str, new: str) -> None:
        """A device that it may stand on, or be active in, takes another name."""
        self.active_in, self.origin, self.cow = (
            new if name == old else name for name in (self.active_in, self.origin, self.cow)
        )


NOWHERE: Final = Leaf(0)
"""What an error target leads to."""


class Piece(Struct, frozen=True):
    """Sectors [start, end) of a device are those of ``leaf`` from its sector ``at`` on.

    ``leaf`` is None where the model does not follow.
    """

    start: int
    end: int
    leaf: Leaf | None
    at: int

    @property
    def sectors(self) -> int:
        """How many they are."""
        return self.end - self.start

    @property
    def at_end(self) -> int:
        """The sector of the leaf behind the last one."""
        return self.at + self.end - self.start

    def moved(self, by: int) -> "Piece":
        """The same place, found ``by`` sectors further on."""
        return Piece(self.start + by, self.end + by, self.leaf, self.at)

    def shown(self) -> list[Extent]:
        """What the device is promised to show here."""
        if self.leaf is None or not self.leaf.promised:
            return []
        by = self.start - self.at
        return [extent.moved(by) for extent in self.leaf.content.between(self.at, self.at_end)]

    def under(self, leaf: Leaf, start: int, end: int) -> Optional["Piece"]:
        """The part of it that is sectors [start, end) of ``leaf``; None if there is none."""
        low, high = max(start, self.at), min(end, self.at_end)
        if self.leaf is not leaf or low >= high:
            return None
        by = self.start - self.at
        return Piece(low + by, high + by, leaf, low)

    def overlaps(self, other: "Piece") -> bool:
        """True if both have sectors of one leaf in common."""
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
    """True if both have sectors of one leaf in common."""
    return any(piece.overlaps(other) for piece in some for other in others)


def in_place(old: Sequence[Piece], new: Sequence[Piece]) -> bool:
    """True if all of ``old`` is still where it was; there may be more."""
    return all(any(piece.holds(was) for piece in new) for was in old)


def out_of_reach(home: Sequence[Piece], now: Sequence[Piece]) -> bool:
    """True if nothing has moved, and some of it cannot be reached for now (error targets)."""
    reached = [piece for piece in now if piece.leaf is not NOWHERE]
    return len(reached) < len(now) and in_place(reached, home)
