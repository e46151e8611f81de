"""Which snapshots each origin has, and what a write to an origin does (kernel: dm-snap.c).

Kernel: ``_origins`` and ``_dm_origins``.  For each origin device a list of snapshots, sorted by
chunk size, largest first; and the resumed snapshot-origin targets.  A handover pairs two snapshots
that share origin and COW device: the *source* is active, the *destination* is not yet.

Every write to a chunk that some snapshot has not copied yet waits until all of them have.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from harness.twin.arguments import CtrError
from harness.twin.bio import Bio, BlockDevice
from harness.twin.pending import PendingException


class Store(Protocol):
    """What is needed here of a snapshot's exception store."""

    chunk_sectors: int

    @property
    def can_merge(self) -> bool:
        """Whether its exceptions can be merged."""


class OneSnapshot(Protocol):
    """What an origin needs of a snapshot (kernel: ``struct dm_snapshot``)."""

    active: bool

    @property
    def is_merge(self) -> bool:
        """It is merging back into its origin."""

    @property
    def origin(self) -> BlockDevice:
        """The device that it is a snapshot of."""

    @property
    def cow(self) -> BlockDevice:
        """The device that holds what it keeps."""

    @property
    def store(self) -> Store:
        """Its exception store."""

    def exception_for_origin(self, sector: int) -> PendingException | None:
        """The exception that a write to the origin at ``sector`` has to wait for, if any."""

    def start_copy(self, pending: PendingException) -> None:
        """Start to copy a chunk."""


class OriginTarget(Protocol):
    """What is needed here of a snapshot-origin target."""

    @property
    def device(self) -> BlockDevice:
        """The origin."""


S = TypeVar("S", bound=OneSnapshot)
T = TypeVar("T", bound=OriginTarget)


@dataclass(slots=True)
class Sharing(Generic[S]):
    """What ``__find_snapshots_sharing_cow`` finds."""

    count: int = 0
    source: S | None = None
    destination: S | None = None
    merging: S | None = None


class Origins(Generic[S, T]):
    """All origins of the world."""

    def __init__(self) -> None:
        self._snapshots: dict[BlockDevice, list[S]] = {}
        self._targets: dict[BlockDevice, list[T]] = {}

    def write(self, origin: BlockDevice, sector: int, bio: Bio) -> bool:
        """A write to ``origin`` at ``sector``; True if it has to wait (kernel: ``do_origin``)."""
        snapshots = self._snapshots.get(origin)
        return snapshots is not None and write_to_snapshots(snapshots, sector, bio)

    def snapshots(self, origin: BlockDevice) -> list[S]:
        """Snapshots of ``origin`` in the order in which an origin write visits them."""
        return self._snapshots.get(origin, [])

    def sharing_cow(self, snapshot: S) -> Sharing[S]:
        """Snapshots that share origin and COW device with ``snapshot``, and any merge."""
        found: Sharing[S] = Sharing()
        for other in self.snapshots(snapshot.origin):
            if other.is_merge:
                found.merging = other
            if other.cow is not snapshot.cow:
                continue
            if other.active:
                found.source = other
            else:
                found.destination = other
            found.count += 1
        return found

    def register(self, snapshot: S) -> bool:
        """Add a snapshot; True if it is the destination of a handover.

        Raises:
            CtrError: it cannot be paired (kernel: ``__validate_exception_handover``).
        """
        is_destination = self._validate_handover(snapshot)
        self._insert(snapshot)
        return is_destination

    def _validate_handover(self, snapshot: S) -> bool:
        found = self.sharing_cow(snapshot)
        if found.count == 2 or found.destination is not None:
            raise CtrError("Snapshot cow pairing for exception table handover failed", errno.EINVAL)
        if found.source is None:
            return False
        if snapshot.is_merge:
            if found.merging is not None:
                raise CtrError("A snapshot is already merging.", errno.EINVAL)
            if not found.source.store.can_merge:
                raise CtrError(
                    "Snapshot exception store does not support snapshot-merge.", errno.EINVAL
                )
        return True

    def _insert(self, snapshot: S) -> None:
        """Insert before the first with a smaller chunk size (kernel: ``__insert_snapshot``)."""
        snapshots = self._snapshots.setdefault(snapshot.origin, [])
        chunk_sectors = snapshot.store.chunk_sectors
        position = next(
            (
                index
                for index, other in enumerate(snapshots)
                if other.store.chunk_sectors < chunk_sectors
            ),
            len(snapshots),
        )
        snapshots.insert(position, snapshot)

    def reregister(self, snapshot: S) -> None:
        """Move to the correct place, now that the chunk size is known."""
        self._snapshots[snapshot.origin].remove(snapshot)
        self._insert(snapshot)

    def unregister(self, snapshot: S) -> None:
        """From now on no origin write sees ``snapshot``."""
        snapshots = self._snapshots[snapshot.origin]
        snapshots.remove(snapshot)
        if not snapshots:
            del self._snapshots[snapshot.origin]

    def minimum_chunk_sectors(self, origin: BlockDevice) -> int:
        """Smallest chunk size on ``origin``; 0 if there is none (destinations count as none)."""
        return min(
            (
                snapshot.store.chunk_sectors
                for snapshot in self.snapshots(origin)
                if snapshot.store.chunk_sectors
            ),
            default=0,
        )

    def add_origin(self, target: T) -> None:
        """A snapshot-origin target was resumed."""
        self._targets.setdefault(target.device, []).append(target)

    def remove_origin(self, target: T) -> None:
        """A snapshot-origin target was suspended."""
        self._targets[target.device].remove(target)

    def origin_target(self, origin: BlockDevice) -> T | None:
        """The resumed snapshot-origin target on ``origin``, if any."""
        targets = self._targets.get(origin)
        return targets[0] if targets else None


def write_to_snapshots(snapshots: Sequence[OneSnapshot], sector: int, bio: Bio | None) -> bool:
    """Make the exceptions that a write at ``sector`` needs (kernel: ``__origin_write``).

    Returns True if something must be waited for; ``bio`` is then queued on the first such
    exception and comes back to `Origins.write` when that is complete.
    """
    must_wait = False
    start_last: tuple[OneSnapshot, PendingException] | None = None
    for snapshot in snapshots:
        pending = snapshot.exception_for_origin(sector)
        if pending is None:
            continue
        must_wait = True
        if bio is not None:
            pending.origin_bios.append(bio)
            bio = None
            if not pending.started:
                pending.started = True
                start_last = snapshot, pending
        if not pending.started:
            pending.started = True
            snapshot.start_copy(pending)
    # The exception that holds the bio goes last, to give the others a head start.
    if start_last is not None:
        snapshot, pending = start_last
        snapshot.start_copy(pending)
    return must_wait
