"""The world of the promise model: disks, mapped devices, snapshots, and how they are stacked.

A write goes down through the tables to leaves.  Each snapshot that depends on what a write changed,
and was not told of it by a snapshot-origin or snapshot-merge target, loses its promise for those
sectors.  Creation, change and end of devices are in `harness.promises.lifecycle`, the
rules are those of `harness.promises.check`.
"""

from collections.abc import Iterator

from harness.promises.extents import ZERO, Extent, Extents
from harness.promises.pieces import NOWHERE, Leaf, Piece, Snapshot
from harness.promises.tables import Line, Mapped

Told = tuple[Snapshot, ...]
"""Snapshots to which a write was announced."""


class World:
    """Everything that the steps so far have created, as far as promises go."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.disks: dict[str, Leaf] = {}
        self.mapped: dict[str, Mapped] = {}
        self.snapshots: list[Snapshot] = []

    # -- where things are -------------------------------------------------------------------

    def live(self, name: str) -> list[Line]:
        """Lines of the live table of ``name``."""
        return self.mapped[name].live if name in self.mapped else []

    def pieces(self, name: str, start: int, end: int) -> Iterator[Piece]:
        """Sectors [start, end) of a device as pieces of leaves."""
        if disk := self.disks.get(name):
            if start < min(end, disk.sectors):
                yield Piece(start, min(end, disk.sectors), disk, start)
            return
        mapped = self.mapped.get(name)
        if mapped is None or mapped.opaque:
            yield Piece(start, end, None, 0)
            return
        for line in mapped.live:
            low, high = max(start, line.start), min(end, line.end)
            if low < high:
                yield from self._pieces_of_line(name, line, low, high)

    def _pieces_of_line(self, name: str, line: Line, start: int, end: int) -> Iterator[Piece]:
        """Sectors [start, end) of ``name``, which are all in one line of its table."""
        if parts := line.parts(start, end):
            for part in parts:
                for piece in self.pieces(part.device, part.first, part.end + part.shift):
                    yield piece.moved(-part.shift)
        elif line.type == "snapshot-origin":
            yield from self.pieces(line.device(0), start, end)
        elif line.snapshot and line.snapshot.active_in == name:
            yield Piece(start, end, line.snapshot, start)
        elif line.type == "error":
            yield Piece(start, end, NOWHERE, 0)
        else:
            yield Piece(start, end, None, 0)

    def content(self, name: str, start: int, end: int) -> Extents:
        """What sectors [start, end) of a device are promised to show."""
        shown = Extents()
        for piece in self.pieces(name, start, end):
            for extent in piece.shown():
                shown.add(extent)
        for line in self.live(name):
            if line.type == "zero":
                shown.put(max(start, line.start), min(end, line.end), ZERO)
        return shown

    def snapshots_of(self, origin: str) -> Told:
        """Snapshots that every write through a target on ``origin`` is announced to."""
        return tuple(
            snapshot
            for snapshot in self.snapshots
            if snapshot.active_in and snapshot.origin == origin and not snapshot.merging
        )

    def referenced(self, snapshot: Snapshot) -> bool:
        """True while a table, live or not, names the snapshot."""
        return any(
            line.snapshot is snapshot for mapped in self.mapped.values() for line in mapped.lines
        )

    def handed_over(self, name: str) -> bool:
        """True for a device whose snapshot another device took over; it refuses all I/O."""
        mapped = self.mapped.get(name)
        return bool(mapped and not mapped.opaque and mapped.live) and all(
            line.snapshot and line.snapshot.active_in not in ("", name) for line in self.live(name)
        )

    # -- writes -----------------------------------------------------------------------------

    def write(self, name: str, data: Extents, told: Told = ()) -> None:
        """``data`` (unknown in gaps within its bounds) goes to a device."""
        mapped = self.mapped.get(name)
        if mapped is None:
            if disk := self.disks.get(name):
                self._store(disk, data, told)
            return
        if mapped.opaque:
            self.give_up()
            return
        for line in mapped.live:
            part = data.within(line.start, line.end)
            if not part.empty:
                self._write_line(name, line, part, told)

    def _write_line(self, name: str, line: Line, data: Extents, told: Told) -> None:
        """``data`` goes to one line of the table of ``name``."""
        origin, snapshot = line.device(0), line.snapshot
        if line.type in ("zero", "error"):
            return
        if parts := line.parts(data.start, data.end):
            for part in parts:
                below = data.within(part.start, part.end).shifted(part.shift)
                self.write(part.device, below, told)
        elif line.type == "snapshot-origin":
            self.write(origin, data, told + self.snapshots_of(origin))
        elif snapshot and snapshot.active_in == name:
            self._store(snapshot, data, told)
            if line.type == "snapshot-merge":
                below = data if snapshot.merged else data.unknown()
                self.write_merging(snapshot, below, told)
        else:
            self.give_up()

    def write_merging(self, snapshot: Snapshot, data: Extents, told: Told = ()) -> None:
        """``data`` goes to the origin of a merging snapshot, which already shows it."""
        self.write(snapshot.origin, data, (*told, snapshot, *self.snapshots_of(snapshot.origin)))

    def _store(self, leaf: Leaf, data: Extents, told: Told) -> None:
        """``data`` reaches a leaf; snapshots on it that were not told become unknown there."""
        leaf.writes += 1
        for extent in data.between(data.start, data.end):
            leaf.keep(extent)
            for snapshot in self.snapshots:
                if snapshot is not leaf:
                    self._written_below(snapshot, leaf, extent, told=snapshot in told)

    def _written_below(self, snapshot: Snapshot, leaf: Leaf, extent: Extent, *, told: bool) -> None:
        """What a snapshot that may be on a leaf loses by a write to it."""
        if any(piece.under(leaf, extent.start, extent.end) for piece in snapshot.cow_pieces):
            snapshot.forget()  # its COW device was written to
            if self.referenced(snapshot):
                leaf.content.drop(extent.start, extent.end)
        if told:
            return
        for piece in snapshot.origin_pieces:
            if changed := piece.under(leaf, extent.start, extent.end):
                snapshot.content.drop(changed.start, changed.end)
                if snapshot.merge_pending:  # the merge may write it too
                    leaf.content.drop(changed.at, changed.at_end)

    def give_up(self) -> None:
        """Something happened that this model cannot follow; nothing is promised any more."""
        for disk in self.disks.values():
            disk.content.clear()
        for snapshot in self.snapshots:
            snapshot.forget()
