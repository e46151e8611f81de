"""The store as a witness: a COW disk's contents, against what its snapshot shows and reports.

Twin and kernel share one idea of how the module works.  Here the store on a disk is read by code
that knows only the format (`harness.store`), for each side separately, and must agree with the
snapshot on top of it:

- a store that the kernel has loaded can be read, and one that it calls bad cannot;
- the header says Invalid only if the status line does, or was not read yet;
- a valid store accounts for the numbers of the status line, and is undamaged if it was created
  here;
- store and origin together explain every sector that the snapshot shows.

It needs images of whole disks, so it checks at the steps that examine everything.  It checks
nothing if someone else wrote to the COW disk, if disk or device cannot be read or are in separate
pieces, or for snapshots that are Invalid, have overflowed or failed to merge: what they have in
memory is not on any disk.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct

from harness import store
from harness.compare.place import Geometry, locate
from harness.errors import MalformedStore
from harness.promises import lifecycle
from harness.promises.check import BrokenPromise
from harness.promises.pieces import Leaf, Snapshot
from harness.promises.tables import Line
from harness.promises.world import World
from harness.store import State, Store
from harness.trace import pattern, rules
from harness.trace import steps as do
from harness.trace.files import Trace
from harness.trace.observations import DeviceState, Observation, Runs, Unreadable
from harness.trace.steps import AnyStep
from harness.units import SECTOR_BYTES, bytes_of_sectors, sector_of_byte

LOAD_RULE: Final = "a store that can be read is loaded, and one that cannot is refused"
NUMBERS_RULE: Final = "the status line says what the store says"
SOUND_RULE: Final = "a store that the kernel made is sound"
EXPLAINS_RULE: Final = "store and origin explain what a persistent snapshot shows"
_REFUSED: Final = "Failed to read snapshot metadata"


def check(trace: Trace, observations: Sequence[Observation]) -> tuple[BrokenPromise, ...]:
    """Where one side's stores contradict what its snapshots show; each once."""
    witness = _Witness(trace.header.seed)
    found: dict[tuple[str, str], BrokenPromise] = {}
    for index, (step, observation) in enumerate(zip(trace.steps, observations, strict=False)):
        if observation.step != index:
            break
        for broken in witness.hear(step, observation):
            found.setdefault((broken.device, broken.rule), broken)
    return tuple(found.values())


class _Loaded(Struct, frozen=True):
    """How a kernel last read the store of a disk.

    ``writes`` to the disk came before it; ``errno`` is the kernel's error where it called the store
    bad, None if it loaded it.
    """

    writes: int
    errno: str | None


class _Standing(Struct, frozen=True):
    """A device whose one target is a snapshot, and the words of its last status."""

    device: str
    line: Line
    snapshot: Snapshot
    status: list[str]


class _Witness:
    """What is known at a step: the world, the last status lines, how each store was loaded."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = World(seed)
        self.states: dict[str, DeviceState | None] = {}
        self.large_blocks = False
        self.loads: dict[Leaf, _Loaded] = {}

    def hear(self, step: AnyStep, observation: Observation) -> Iterator[BrokenPromise]:
        """Apply a step; if it shows every disk, check the stores."""
        lifecycle.act(self.world, step, observation)
        self.states |= observation.state
        if isinstance(step, do.Disk):
            self.large_blocks |= step.block_size > SECTOR_BYTES
        if isinstance(step, do.Load):
            for line in step.table:
                self._load(line, observation)
        if isinstance(step, do.Examine):
            for name, disk in self.world.disks.items():
                if name in observation.image:
                    yield from self._disk(name, disk, observation)

    # -- how stores were loaded ---------------------------------------------------------------

    def _load(self, line: do.TargetLine, observation: Observation) -> None:
        """Note whether the kernel has read the store that a line of a table names."""
        words = line.args.split()
        if line.type not in ("snapshot", "snapshot-merge") or words[2:3] not in (["P"], ["PO"]):
            return
        match = do.REFERENCE.fullmatch(words[1])
        disk = self._below(match[1]) if match else None
        if disk is None or self._active_on(disk):
            return  # a handover reads nothing
        if observation.error is None:
            self.loads[disk] = _Loaded(disk.writes, None)
        elif words[3:4] and words[3].isdecimal() and int(words[3]) > disk.sectors:
            # The kernel reads a whole chunk of the table's size before it knows the real size.
            self.loads.pop(disk, None)
        elif any(_REFUSED in said for said in observation.log):
            self.loads[disk] = _Loaded(disk.writes, observation.error)

    def _active_on(self, disk: Leaf) -> bool:
        """True if a snapshot is active whose store is on ``disk``."""
        return any(
            snapshot.active_in and snapshot.cow_pieces and snapshot.cow_pieces[0].leaf is disk
            for snapshot in self.world.snapshots
        )

    def _below(self, name: str) -> Leaf | None:
        """The disk that is ``name``, starting at its first sector."""
        pieces = list(self.world.pieces(name, 0, do.SECTOR_MAX))
        if len(pieces) != 1 or pieces[0].start or pieces[0].at:
            return None
        return None if isinstance(pieces[0].leaf, Snapshot) else pieces[0].leaf

    def _standing_on(self, disk: Leaf) -> list[_Standing]:
        """The devices that show a snapshot whose store is on ``disk``, and nothing else."""
        found = []
        for device, mapped in self.world.mapped.items():
            if len(mapped.live) != 1 or mapped.opaque:
                continue
            line, snapshot = mapped.live[0], mapped.live[0].snapshot
            if (
                snapshot
                and not snapshot.transient
                and snapshot.active_in == device
                and self._below(snapshot.cow) is disk
            ):
                state = self.states.get(device)
                status = state.status if state and state.status else ""
                found.append(_Standing(device, line, snapshot, status.split()[3:]))
        return found

    # -- what they say ------------------------------------------------------------------------

    def _disk(self, name: str, disk: Leaf, observation: Observation) -> Iterator[BrokenPromise]:
        """All contradictions of the store on one disk."""
        loaded, image = self.loads.get(disk), observation.image[name]
        if (
            loaded is None
            or loaded.writes != disk.writes
            or any(isinstance(run, Unreadable) for run in image)
        ):
            return
        step = observation.step
        try:
            found = store.parse(_File(self.seed, image))
        except MalformedStore as fault:
            if loaded.errno is None:
                yield _broken(step, name, LOAD_RULE, "the store that was loaded", str(fault))
            elif loaded.errno != fault.errno:
                yield _broken(step, name, LOAD_RULE, f"{fault.errno}: {fault}", loaded.errno)
            return
        if loaded.errno:
            # The disk may have been unreadable then, or its blocks larger than the chunks.
            if loaded.errno != "EIO" and not self.large_blocks:
                yield _broken(
                    step, name, LOAD_RULE, "a store that can be read", f"{loaded.errno}: {_REFUSED}"
                )
            return
        standing = self._standing_on(disk)
        if len(standing) == 1:
            yield from self._snapshot(name, found, standing[0], observation)

    def _snapshot(
        self, name: str, found: Store, on: _Standing, observation: Observation
    ) -> Iterator[BrokenPromise]:
        """Contradictions of the store on disk ``name`` with the one snapshot on it."""
        step, words = observation.step, on.status
        if found.state is State.INVALID and words != ["Invalid"]:
            yield _broken(step, on.device, NUMBERS_RULE, "Invalid", " ".join(words))
        if found.state is not State.VALID or len(words) != 2 or not words[1].isdecimal():
            return
        for promised, read in _numbers(found, words):
            yield _broken(step, on.device, NUMBERS_RULE, promised, read)
        findings = store.check(found, origin_sectors=on.line.length)
        damage = [finding for finding in findings if finding.damage]
        if damage and not on.snapshot.store_found:
            yield _broken(
                step,
                name,
                SOUND_RULE,
                "a sound store",
                damage[0].message,
                sector=sector_of_byte(damage[0].places[0]),
            )
        if damage or len(rules.examined(on.line.length)) > 1:
            return
        shown, origin = (
            observation.content.get(each, observation.image.get(each, ()))
            for each in (on.device, on.line.device(0))
        )
        wrong = unexplained(
            self.seed, found, cow=observation.image[name], origin=origin, shown=shown
        )
        if wrong:
            sector, promised, read = wrong
            yield _broken(step, on.device, EXPLAINS_RULE, promised, read, sector=sector)


def _broken(
    step: int, device: str, rule: str, promised: str, read: str, *, sector: int = 0
) -> BrokenPromise:
    return BrokenPromise(
        step=step, device=device, sector=sector, sectors=1, promised=promised, read=read, rule=rule
    )


def _numbers(found: Store, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(promised, read) for each number of a status line that the store does not account for."""
    used, metadata = words[0].partition("/")[0], words[1]
    if metadata != str(found.metadata_sectors):
        yield f"{found.metadata_sectors} sectors of metadata", metadata
    if not used.isdecimal() or int(used) < found.allocated_sectors:
        yield f"{found.allocated_sectors} sectors allocated", words[0]


def unexplained(
    seed: int, found: Store, *, cow: Runs, origin: Runs, shown: Runs
) -> tuple[int, str, str] | None:
    """The first sector of a snapshot that store and origin do not explain.

    Args:
        seed: seed of the stamps.
        found: the store.
        cow: every sector of the disk that the store is on.
        origin: sectors of the origin, from the first.
        shown: what the snapshot shows; sectors that cannot be read here or on the origin are
            skipped, and those past the origin's end.

    Returns:
        the sector, what it should be, and what it is; None if all is explained.
    """
    size = found.chunk_sectors
    end = min(pattern.sectors_of(shown), pattern.sectors_of(origin))
    below, copies, above = (pattern.Contents(seed, runs) for runs in (origin, cow, shown))
    entries = np.concatenate([np.empty(0, store.ENTRY_DTYPE), *found.exceptions()])
    entries = entries[np.argsort(entries["old"], kind="stable")]
    # Exceptions consecutive on both devices are one piece.
    jumps = (np.diff(entries["old"]) != 1) | (np.diff(entries["new"]) != 1)
    expected: list[Runs] = []
    at = 0
    for piece in np.split(entries, np.flatnonzero(jumps) + 1) if len(entries) else ():
        old, new = piece[0].tolist()
        first, behind = min(end, old * size), min(end, (old + len(piece)) * size)
        expected += below.cut(at, first), copies.cut(new * size, new * size + behind - first)
        at = behind
    expected.append(below.cut(at, end))
    made = pattern.Contents(seed, pattern.join(expected))
    known: list[Runs] = []
    at = 0
    for run in above.cut(0, end):
        for part in (run,) if isinstance(run, Unreadable) else made.cut(at, at + run.count):
            known.append(
                above.cut(at, at + part.count) if isinstance(part, Unreadable) else (part,)
            )
            at += part.count
    place = locate(seed, Geometry(), "", pattern.join(known), above.cut(0, end))
    return (place.sector, place.left, place.right) if place else None


class _File(io.RawIOBase):
    """A disk as a file; only the parts read are turned into bytes."""

    def __init__(self, seed: int, runs: Runs) -> None:
        self._contents = pattern.Contents(seed, runs)
        self._size = bytes_of_sectors(pattern.sectors_of(runs))
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (self._size if whence == io.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        first = sector_of_byte(self._at)
        end = sector_of_byte(self._at + len(view) + SECTOR_BYTES - 1)
        data = pattern.decode(self._contents.seed, self._contents.cut(first, end))
        part = data[self._at - bytes_of_sectors(first) :][: len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)
