"""The world of the promise model: disks, tables, and who stands on whom.

A device is pieces of *leaves*: disks, and the images that snapshots show.  A write goes down
through the tables to leaves.  Each image that stands on what a write changed, and was not told of
it by a snapshot-origin or snapshot-merge target, loses its promise for those sectors.  The rules
are those of `harness.promises.check`.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from harness.promises.extents import UNKNOWN, ZERO, Extents, Stamp, moved, written
from harness.trace import observations
from harness.trace import steps as do
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep


class Leaf:
    """Where contents live: a disk, or the image that a snapshot shows."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.content = Extents()
        self.writes = 0  # that came from above it; what a kernel keeps in a store is none


Piece = tuple[int, int, Leaf | None, int]
"""Sectors [start, end) of a device are at ``leaf``, from its sector ``at``; None: not followed."""


class Image(Leaf):
    """What the snapshot on one COW device shows; it outlives the tables that name it."""

    def __init__(self, sectors: int, origin: str, cow: str) -> None:
        super().__init__(sectors)
        self.origin, self.cow = origin, cow
        self.owner = ""  # the mapped device that shows it; empty while it is dormant
        self.frozen = False  # whether it ever became active
        self.found = False  # its store was there before anybody here loaded it
        self.merging = self.merged = False
        self.transient = False
        self.invalid = False  # the side says so, for now
        self.lost = False  # nothing is ever promised of it again
        self.store: list[Piece] = []  # where its COW device lies, when last looked at
        self.pieces: list[Piece] = []  # of the origin, when last looked at

    def forget(self) -> None:
        """Nothing is promised of this snapshot any more, whatever is written to it."""
        self.content.clear()
        self.frozen = self.lost = True


CHUNKS_MAX: Final = 1 << 12
"""A striped line of more chunks is not followed."""
NOWHERE: Final = Leaf(0)
"""What an error target leads to."""


class Line(Struct, frozen=True):
    """A line of a table; ``image`` is what its snapshot shows."""

    start: int
    length: int
    type: str
    words: tuple[str, ...]  # a device is {name}
    image: Image | None = None

    @property
    def straight(self) -> bool:
        """The line maps its sectors to one device as they are: linear, delayed alike, or dusty."""
        words = self.words
        if len(words) < 2 or not words[1].isdecimal():
            return False
        groups = range(0, len(words), 3)
        return (self.type, len(words)) in (("linear", 2), ("dust", 3)) or (
            self.type == "delay" and all(words[at : at + 2] == words[:2] for at in groups))

    def below(self, start: int, end: int) -> Iterator[tuple[int, int, str, int]]:
        """Where sectors [start, end) of the line lie: (start, end, device, its first sector).

        Nothing, if the line is not straight, nor striped in a way that can be followed.
        """
        if self.straight:
            yield start, end, self.device(0), int(self.words[1]) + start - self.start
            return
        words = self.words
        numbers = (*words[:2], *words[3::2])
        if self.type != "striped" or len(words) < 4 or len(words) % 2 or not all(
                map(str.isdecimal, numbers)):
            return
        stripes, chunk = int(words[0]), int(words[1])
        if stripes * 2 + 2 != len(words) or not chunk or self.length > CHUNKS_MAX * chunk:
            return
        at = start
        while at < end:
            number, offset = divmod(at - self.start, chunk)
            row, stripe = divmod(number, stripes)
            stop = min(end, at + chunk - offset)
            yield (at, stop, self.device(2 + 2 * stripe),
                   int(words[3 + 2 * stripe]) + row * chunk + offset)
            at = stop

    def device(self, index: int) -> str:
        """The device that argument ``index`` names; empty if it is none."""
        match = do.REFERENCE.fullmatch(self.words[index]) if index < len(self.words) else None
        return match[1] if match else ""


class Mapped:
    """A mapped device: its tables; ``opaque`` when a failed resume leaves open which is live."""

    def __init__(self) -> None:
        self.live: list[Line] = []
        self.inactive: list[Line] = []
        self.opaque = False


class World:
    """Everything that the steps so far have made, as far as promises go."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.disks: dict[str, Leaf] = {}
        self.mapped: dict[str, Mapped] = {}
        self.images: list[Image] = []

    # -- where things are -------------------------------------------------------------------

    def pieces(self, name: str, start: int, end: int) -> Iterator[Piece]:
        """Sectors [start, end) of a device as pieces of leaves."""
        if disk := self.disks.get(name):
            if start < min(end, disk.sectors):
                yield start, min(end, disk.sectors), disk, start
            return
        mapped = self.mapped.get(name)
        if mapped is None or mapped.opaque:
            yield start, end, None, 0
            return
        for line in mapped.live:
            a, b = max(start, line.start), min(end, line.start + line.length)
            if a >= b:
                continue
            if parts := list(line.below(a, b)):
                for low, high, device, first in parts:
                    shift = first - low
                    for x, y, leaf, at in self.pieces(device, first, high + shift):
                        yield x - shift, y - shift, leaf, at
            elif line.type == "snapshot-origin":
                yield from self.pieces(line.device(0), a, b)
            elif line.image and line.image.owner == name:
                yield a, b, line.image, a
            elif line.type == "error":
                yield a, b, NOWHERE, 0
            else:
                yield a, b, None, 0

    def content(self, name: str, start: int, end: int) -> Extents:
        """What a device is promised to show."""
        shown = Extents()
        for a, b, leaf, at in self.pieces(name, start, end):
            if leaf and not (isinstance(leaf, Image) and leaf.invalid):
                for x, y, what in leaf.content.between(at, at + b - a):
                    shown.put(x + a - at, y + a - at, moved(what, a - at))
        for line in self.live(name):
            if line.type == "zero":
                shown.put(max(start, line.start), min(end, line.start + line.length), ZERO)
        return shown

    def live(self, name: str) -> list[Line]:
        """Lines of the live table of ``name``."""
        return self.mapped[name].live if name in self.mapped else []

    # -- writes -------------------------------------------------------------------------------

    def write(self, name: str, data: Extents, kept: tuple[Image, ...] = ()) -> None:
        """``data`` (unknown where it says nothing, within its bounds) goes to a device.

        ``kept`` are the images whose origin this write was announced to.
        """
        mapped = self.mapped.get(name)
        if mapped is None:
            if disk := self.disks.get(name):
                self.store(disk, data, kept)
            return
        if mapped.opaque:
            self.give_up()
            return
        for line in mapped.live:
            part = data.within(line.start, line.start + line.length)
            if part.empty or line.type in ("zero", "error"):
                continue
            origin = line.device(0)
            if parts := list(line.below(part.start, part.end)):
                for low, high, device, first in parts:
                    self.write(device, part.within(low, high).shifted(first - low), kept)
            elif line.type == "snapshot-origin":
                self.write(origin, part, kept + self.registered(origin))
            elif (image := line.image) and image.owner == name:
                self.store(image, part, kept)
                if line.type == "snapshot-merge":
                    below = part if image.merged else part.unknown()
                    self.write(origin, below, (*kept, image, *self.registered(origin)))
            else:
                self.give_up()

    def registered(self, origin: str) -> tuple[Image, ...]:
        """Images that a write through a target on ``origin`` cannot change."""
        return tuple(image for image in self.images
                     if image.owner and image.origin == origin and not image.merging)

    def store(self, leaf: Leaf, data: Extents, kept: tuple[Image, ...]) -> None:
        """``data`` reaches a leaf; whoever stands on it and was not told knows nothing there."""
        leaf.writes += 1
        for a, b, what in data.between(data.start, data.end):
            leaf.content.put(a, b, UNKNOWN if isinstance(leaf, Image) and leaf.lost else what)
            for image in self.images:
                if image is leaf:
                    continue
                if any(cow is leaf and at < b and a < at + y - x for x, y, cow, at in image.store):
                    image.forget()  # somebody wrote to its COW device
                    if self.referenced(image):
                        leaf.content.put(a, b, UNKNOWN)
                if image in kept:
                    continue
                for x, y, below, at in image.pieces:
                    low, high = max(a, at), min(b, at + y - x)
                    if below is leaf and low < high:
                        image.content.put(low - at + x, high - at + x, UNKNOWN)
                        if image.merging and not image.merged:
                            leaf.content.put(low, high, UNKNOWN)  # the merge may write it too

    def referenced(self, image: Image) -> bool:
        """True while a table, live or not, names the snapshot."""
        return any(line.image is image for mapped in self.mapped.values()
                   for line in mapped.live + mapped.inactive)

    def stale(self, name: str) -> bool:
        """True for a device whose snapshot another device has taken over: it refuses all I/O."""
        mapped = self.mapped.get(name)
        return bool(mapped and not mapped.opaque and mapped.live) and all(
            line.image and line.image.owner not in ("", name) for line in self.live(name))

    def give_up(self) -> None:
        """Something happened that this model cannot follow: nothing is promised any more."""
        for disk in self.disks.values():
            disk.content.clear()
        for image in self.images:
            image.forget()

    # -- steps --------------------------------------------------------------------------------

    def act(self, step: AnyStep, observation: Observation) -> None:
        """What a step does to a world that keeps its promises."""
        failed = observation.error is not None
        match step:
            case do.Disk():
                disk = self.disks[step.name] = Leaf(step.sectors)
                disk.content.put(0, step.sectors, ZERO if step.fill == "zero" else
                                 Stamp(step.name, step.generation, 0))
            case do.Create() if not failed:
                self.mapped[step.name] = Mapped()
            case do.Load():
                self.load(step, failed)
            case do.Clear() if not failed:
                self.drop(step.name, "inactive")
            case do.Resume():
                self.resume(step.name, failed)
            case do.Remove() if not failed:
                for slot in ("inactive", "live"):
                    self.drop(step.name, slot)
                self.mapped.pop(step.name, None)
                self.look_again()
            case do.Rename() if not failed:
                self.rename(step.name, step.to)
            case do.Write() | do.Poke() | do.Zeroout() | do.Discard():
                refused = failed and self.stale(step.device)
                if observation.error not in (observations.SUSPENDED, "EOPNOTSUPP") and not refused:
                    self.write(step.device, written(self.seed, step, failed=failed))
                    if isinstance(step, do.Discard):
                        self.discard(step)
            case do.Parallel():
                self.parallel(step, observation)
            case do.Crash():
                self.give_up()

    def parallel(self, step: do.Parallel, observation: Observation) -> None:
        """What overlaps, or was refused, is anybody's guess; the rest is as if done in turns."""
        for name in step.resume:
            self.resume(name, failed=False)
        ended = (observation.text or "").splitlines()
        writes = [(io, said == "ok") for io, said in zip(step.ios, ended, strict=False)
                  if isinstance(io, do.Write)]
        for io, done in writes:
            shared = any(
                other is not io and other.device == io.device
                and other.sector < io.sector + io.sectors
                and io.sector < other.sector + other.sectors
                for other, _ in writes)
            self.write(io.device, written(self.seed, io, failed=shared or not done))

    def discard(self, step: do.Discard) -> None:
        """Discards that are passed down reach the origin, and by the rules nobody is told."""
        for line in self.live(step.device):
            if "discard_passdown_origin" in " ".join(line.words).lower():
                self.write(line.device(0), Extents(step.sector, step.sector + step.sectors))

    def load(self, step: do.Load, failed: bool) -> None:
        """A table goes into the inactive slot; a failed load may have made a store all the same."""
        lines = []
        for raw in step.table:
            line = Line(raw.start, raw.length, raw.type, tuple(raw.args.split()))
            if line.type in ("snapshot", "snapshot-merge") and len(line.words) > 2:
                line = Line(line.start, line.length, line.type, line.words,
                            self.attach(line, failed))
            lines.append(line)
        mapped = self.mapped.get(step.name)
        if mapped and not failed:
            self.drop(step.name, "inactive")
            mapped.inactive = lines

    def attach(self, line: Line, failed: bool) -> Image | None:
        """The image that a snapshot line will show: the one on its COW device, or a new one."""
        origin, cow = line.device(0), line.device(1)
        where = list(self.pieces(cow, 0, do.SECTOR_MAX))
        transient = line.words[2][:1] in "nN"
        fresh = transient or [w for *_, w in self.content(cow, 0, 1).between(0, 1)] == [ZERO]
        known, shared = None, False
        for image in [i for i in self.images if _overlap(where, i.store)]:
            if (image.store, image.origin) == (where, origin) and (image.owner or not fresh):
                known = image
            elif not failed:
                image.forget()
                if self.referenced(image):
                    shared = True  # two snapshots on one COW device
                else:
                    self.images.remove(image)
        if failed and transient:
            return None
        self.become_cow(where)
        if failed or known:
            return known
        image = Image(line.start + line.length, origin, cow)
        image.transient = transient
        image.store = where
        image.frozen = image.found = not fresh  # a store that nobody here made may hold anything
        if shared or line.start != 0 or not origin or not where or any(
                leaf is None for _, _, leaf, _ in where):  # a COW device that keeps nothing
            image.forget()
        self.images.append(image)
        return image

    def become_cow(self, where: list[Piece]) -> None:
        """The kernel may write anything to these places from now on."""
        for a, b, leaf, at in where:
            if leaf:
                leaf.content.drop(at, at + b - a)
                for image in self.images:
                    for x, y, below, start in image.pieces:
                        if below is leaf and start < at + b - a and at < start + y - x:
                            image.forget()  # its origin has become a COW device

    def drop(self, name: str, slot: str) -> None:
        """A table goes away; its snapshots lie dormant, and a transient one is gone."""
        mapped = self.mapped.get(name)
        if mapped is None:
            return
        lines: list[Line] = getattr(mapped, slot)
        setattr(mapped, slot, [])
        for line in lines:
            if (image := line.image) is None:
                continue
            if image.owner == name and slot == "live":
                image.owner = ""
            if image.transient and not self.referenced(image) and image in self.images:
                self.images.remove(image)

    def resume(self, name: str, failed: bool) -> None:
        """The inactive table becomes the live one; its snapshots become active."""
        mapped = self.mapped.get(name)
        if mapped is None:
            return
        if failed or (mapped.opaque and not mapped.inactive):
            # Which table is live now is the side's secret.
            mapped.live, mapped.inactive, mapped.opaque = mapped.live + mapped.inactive, [], True
            for line in mapped.live:
                if line.image and line.image.owner in ("", name):
                    line.image.forget()
            return
        if mapped.inactive:
            new, mapped.inactive = mapped.inactive, []
            images = [line.image for line in new if line.image]
            self.drop(name, "live")
            mapped.live, mapped.opaque = new, False
            self.images += [image for image in images if image not in self.images]
        for line in mapped.live:
            if line.image:
                self.activate(name, line, line.image)
        self.look_again()

    def activate(self, name: str, line: Line, image: Image) -> None:
        """A snapshot becomes, or stays, active in a mapped device."""
        image.owner = name
        end = line.start + line.length
        if not image.frozen:
            image.content, image.frozen = self.content(image.origin, 0, end), True
            image.pieces = list(self.pieces(image.origin, 0, end))
        image.sectors = end
        image.merging = line.type == "snapshot-merge"
        image.merged = image.merging and image.merged
        if image.merging and not image.merged:
            # What the merge has still to write is, until it has, either of two things.
            below = self.content(image.origin, 0, end)
            for a, b in image.content.differing(below, end):
                self.write(image.origin, Extents(a, b), (image, *self.registered(image.origin)))

    def look_again(self) -> None:
        """An origin, or a COW device, that has come to lie elsewhere is not the one it was.

        One that fails in places for a while still is.
        """
        for image in self.images:
            pieces = list(self.pieces(image.origin, 0, image.sectors))
            if image.owner and image.frozen and pieces != image.pieces and not (
                    _out_of_reach(image.pieces, pieces)):
                image.forget()
                image.pieces = pieces
            store = list(self.pieces(image.cow, 0, do.SECTOR_MAX))
            if image.owner and store != image.store and not _out_of_reach(image.store, store):
                if not _grown(image.store, store):
                    image.forget()
                self.become_cow(store)
                image.store = store

    def rename(self, old: str, new: str) -> None:
        """A mapped device takes another name, in every table that names it."""
        if old not in self.mapped or new in self.mapped or new in self.disks:
            return
        self.mapped[new] = self.mapped.pop(old)
        for image in self.images:
            image.owner, image.origin, image.cow = (
                new if at == old else at for at in (image.owner, image.origin, image.cow))
        for mapped in self.mapped.values():
            for slot in ("live", "inactive"):
                setattr(mapped, slot, [
                    Line(line.start, line.length, line.type,
                          tuple(f"{{{new}}}" if w == f"{{{old}}}" else w for w in line.words),
                          line.image) for line in getattr(mapped, slot)])


def _out_of_reach(home: list[Piece], now: list[Piece]) -> bool:
    """True if nothing has moved, and some of it cannot be reached for now (error targets)."""
    reached = [piece for piece in now if piece[2] is not NOWHERE]
    return len(reached) < len(now) and _grown(reached, home)


def _overlap(one: list[Piece], other: list[Piece]) -> bool:
    return any(p is q and a < c + (y - x) and c < a + (e - b)
               for b, e, p, a in one if p and p is not NOWHERE
               for x, y, q, c in other)


def _grown(old: list[Piece], new: list[Piece]) -> bool:
    """True if everything is still where it was."""
    return all(any(p is q and x <= a and b <= y and at - a == to - x for x, y, q, to in new)
               for a, b, p, at in old)
