"""What each step does in a world that keeps its promises: the life cycle of a snapshot.

A snapshot exists once a table with it is loaded, and is taken when that table first becomes live.
It is dormant when its table is gone, and active again when another table with its COW device and
the same origin becomes live.  If such a table is loaded while the first is still active, it takes
over: a handover.  A snapshot-merge table merges it into its origin.  A transient snapshot ends
with its last table.
"""

from harness.promises.extents import ZERO, Extent, Extents, Stamp, written
from harness.promises.pieces import NOWHERE, Leaf, Piece, Snapshot, in_place, out_of_reach, overlap
from harness.promises.tables import Line, Mapped
from harness.promises.world import World
from harness.trace import observations
from harness.trace import steps as do
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep


def act(world: World, step: AnyStep, observation: Observation) -> None:
    """Apply a step, given whether it succeeded."""
    failed = observation.error is not None
    match step:
        case do.Disk():
            _disk(world, step)
        case do.Create() if not failed:
            world.mapped[step.name] = Mapped()
        case do.Load():
            _load(world, step, failed=failed)
        case do.Clear() if not failed:
            _clear(world, step.name)
        case do.Resume():
            _resume(world, step.name, failed=failed)
        case do.Remove() if not failed:
            _remove(world, step.name)
        case do.Rename() if not failed:
            _rename(world, step.name, step.to)
        case do.Write() | do.Poke() | do.Zeroout() | do.Discard():
            _write(world, step, observation.error)
        case do.Parallel():
            _parallel(world, step, observation)
        case do.Crash():
            world.give_up()


# -- disks and what is written ------------------------------------------------------------------


def _disk(world: World, step: do.Disk) -> None:
    """A new disk has zeros, or its stamps."""
    disk = world.disks[step.name] = Leaf(step.sectors)
    content = ZERO if step.fill == "zero" else Stamp(step.name, step.generation, 0)
    disk.keep(Extent(0, step.sectors, content))


def _write(
    world: World, step: do.Write | do.Poke | do.Zeroout | do.Discard, error: str | None
) -> None:
    """A write that never began changes nothing; a failed one may have changed all of it."""
    if error in (observations.SUSPENDED, "EOPNOTSUPP"):
        return
    if error is not None and world.handed_over(step.device):
        return
    world.write(step.device, written(world.seed, step, failed=error is not None))
    if isinstance(step, do.Discard):
        _pass_down(world, step)


def _pass_down(world: World, step: do.Discard) -> None:
    """Discards that are passed down reach the origin, and nothing announces them."""
    for line in world.live(step.device):
        if "discard_passdown_origin" in " ".join(line.words).lower():
            world.write(line.device(0), Extents(step.sector, step.sector + step.sectors))


def _parallel(world: World, step: do.Parallel, observation: Observation) -> None:
    """What overlaps or was refused is unknown; the rest is as if done in turn."""
    for name in step.resume:
        _resume(world, name, failed=False)
    ended = (observation.text or "").splitlines()
    writes = [
        (io, said == "ok")
        for io, said in zip(step.ios, ended, strict=False)
        if isinstance(io, do.Write)
    ]
    for io, done in writes:
        shared = any(other is not io and _overlap(io, other) for other, _ in writes)
        world.write(io.device, written(world.seed, io, failed=shared or not done))


def _overlap(one: do.Write, other: do.Write) -> bool:
    """True if both write to some sector of one device."""
    return (
        one.device == other.device
        and other.sector < one.sector + one.sectors
        and one.sector < other.sector + other.sectors
    )


# -- a table is loaded --------------------------------------------------------------------------


def _load(world: World, step: do.Load, *, failed: bool) -> None:
    """A table goes into the inactive slot; even a failed load may have created a store."""
    lines = [_line(world, raw, failed=failed) for raw in step.table]
    mapped = world.mapped.get(step.name)
    if mapped and not failed:
        _let_go(world, mapped.take_inactive())
        mapped.inactive = lines


def _line(world: World, raw: do.TargetLine, *, failed: bool) -> Line:
    """A line of a table, with the snapshot that it will show."""
    line = Line(raw.start, raw.length, raw.type, tuple(raw.args.split()))
    if line.type not in ("snapshot", "snapshot-merge") or len(line.words) < 3:
        return line
    return line.showing(_attach(world, line, failed=failed))


def _attach(world: World, line: Line, *, failed: bool) -> Snapshot | None:
    """The snapshot that a line will show: the one on its COW device, or a new one."""
    cow = list(world.pieces(line.device(1), 0, do.SECTOR_MAX))
    transient = line.words[2][0] in "nN"
    # The kernel creates a store if the COW device begins with zeros.
    fresh = transient or [
        extent.content for extent in world.content(line.device(1), 0, 1).between(0, 1)
    ] == [ZERO]
    known, shared = None, False
    reached = [piece for piece in cow if piece.leaf is not NOWHERE]
    for snapshot in [each for each in world.snapshots if overlap(reached, each.cow_pieces)]:
        if _same(snapshot, line, cow) and (snapshot.active_in or not fresh):
            known = snapshot
        elif not failed:
            shared |= _supplant(world, snapshot)
    if failed and transient:
        return None
    _become_cow(world, cow)
    if failed or known:
        return known
    new = Snapshot(line.end, line.device(0), line.device(1), transient=transient)
    new.cow_pieces = cow
    # A store not created here may have any contents.
    new.taken = new.store_found = not fresh
    if shared or not _followed(new, line):
        new.forget()
    world.snapshots.append(new)
    return new


def _same(snapshot: Snapshot, line: Line, cow: list[Piece]) -> bool:
    """True if a line names the COW device and the origin of a snapshot."""
    return snapshot.cow_pieces == cow and snapshot.origin == line.device(0)


def _supplant(world: World, snapshot: Snapshot) -> bool:
    """A new snapshot uses its COW device; True if two now share one."""
    snapshot.forget()
    if world.referenced(snapshot):
        return True
    world.snapshots.remove(snapshot)
    return False


def _followed(new: Snapshot, line: Line) -> bool:
    """True if the model can follow a snapshot, its origin and its COW device."""
    return (
        line.start == 0
        and new.origin != ""
        and new.cow_pieces != []
        and all(piece.leaf is not None for piece in new.cow_pieces)
    )


def _become_cow(world: World, cow: list[Piece]) -> None:
    """From now on the kernel may write anything to these places."""
    for piece in cow:
        if piece.leaf is not None:
            piece.leaf.content.drop(piece.at, piece.at_end)
    for snapshot in world.snapshots:
        if overlap(cow, snapshot.origin_pieces):
            snapshot.forget()  # its origin has become a COW device


# -- a table becomes live -----------------------------------------------------------------------


def _resume(world: World, name: str, *, failed: bool) -> None:
    """The inactive table becomes the live one; its snapshots become active."""
    mapped = world.mapped.get(name)
    if mapped is None:
        return
    if failed or (mapped.opaque and not mapped.inactive):
        _become_opaque(name, mapped)
        return
    if mapped.inactive:
        _swap_tables(world, mapped, name)
    for line in mapped.live:
        if line.snapshot:
            _activate(world, name, line, line.snapshot)
    _look_again(world)


def _become_opaque(name: str, mapped: Mapped) -> None:
    """It is unknown which table is live now."""
    mapped.live, mapped.inactive, mapped.opaque = mapped.lines, [], True
    for line in mapped.live:
        if line.snapshot and line.snapshot.active_in in ("", name):
            line.snapshot.forget()


def _swap_tables(world: World, mapped: Mapped, name: str) -> None:
    """Replace the live table with the inactive one."""
    lines = mapped.take_inactive()
    _let_go(world, mapped.take_live(), name)
    mapped.live, mapped.opaque = lines, False
    world.snapshots += [
        line.snapshot for line in lines if line.snapshot and line.snapshot not in world.snapshots
    ]


def _activate(world: World, name: str, line: Line, snapshot: Snapshot) -> None:
    """A snapshot becomes, or stays, active in a mapped device."""
    snapshot.active_in = name
    if not snapshot.taken:
        snapshot.content, snapshot.taken = world.content(snapshot.origin, 0, line.end), True
        snapshot.origin_pieces = list(world.pieces(snapshot.origin, 0, line.end))
    snapshot.sectors = line.end
    snapshot.merging = line.type == "snapshot-merge"
    snapshot.merged = snapshot.merging and snapshot.merged
    if snapshot.merge_pending:
        # Until the merge has written a sector, it may have either of two contents.
        below = world.content(snapshot.origin, 0, line.end)
        for extent in snapshot.content.differing(below, line.end):
            world.write_merging(snapshot, Extents(extent.start, extent.end))


def _look_again(world: World) -> None:
    """An origin or a COW device that has moved elsewhere is not the one it was.

    One with sectors that only fail for a while is still the same.
    """
    for snapshot in world.snapshots:
        if not snapshot.active_in:
            continue
        if snapshot.taken:
            _look_at_origin(world, snapshot)
        _look_at_cow(world, snapshot)


def _look_at_origin(world: World, snapshot: Snapshot) -> None:
    """A snapshot whose origin has moved has unknown contents."""
    now = list(world.pieces(snapshot.origin, 0, snapshot.sectors))
    if now != snapshot.origin_pieces and not out_of_reach(snapshot.origin_pieces, now):
        snapshot.forget()
        snapshot.origin_pieces = now


def _look_at_cow(world: World, snapshot: Snapshot) -> None:
    """A COW device may grow; one that has moved has another store."""
    now = list(world.pieces(snapshot.cow, 0, do.SECTOR_MAX))
    if now == snapshot.cow_pieces or out_of_reach(snapshot.cow_pieces, now):
        return
    if not in_place(snapshot.cow_pieces, now):
        snapshot.forget()
    _become_cow(world, now)
    snapshot.cow_pieces = now


# -- a table goes -------------------------------------------------------------------------------


def _let_go(world: World, lines: list[Line], name: str = "") -> None:
    """A table (of ``name`` if live) is gone: its snapshots are dormant, transient ones end.

    The mapped device must no longer have it.
    """
    for line in lines:
        snapshot = line.snapshot
        if snapshot is None:
            continue
        if snapshot.active_in == name:
            snapshot.active_in = ""
        if snapshot.transient and not world.referenced(snapshot) and snapshot in world.snapshots:
            world.snapshots.remove(snapshot)


def _clear(world: World, name: str) -> None:
    """Remove the inactive table."""
    if mapped := world.mapped.get(name):
        _let_go(world, mapped.take_inactive())


def _remove(world: World, name: str) -> None:
    """Remove a mapped device, with both its tables."""
    if mapped := world.mapped.get(name):
        _let_go(world, mapped.take_inactive())
        _let_go(world, mapped.take_live(), name)
        del world.mapped[name]
    _look_again(world)


def _rename(world: World, old: str, new: str) -> None:
    """Rename a mapped device, in every table that names it."""
    if old not in world.mapped or new in world.mapped or new in world.disks:
        return
    world.mapped[new] = world.mapped.pop(old)
    for snapshot in world.snapshots:
        snapshot.renamed(old, new)
    for mapped in world.mapped.values():
        mapped.live = [line.renamed(old, new) for line in mapped.live]
        mapped.inactive = [line.renamed(old, new) for line in mapped.inactive]
