"""Who snapshots which origin (kernel: ``_origins`` and ``_dm_origins`` in dm-snap.c).

For each origin device a list of snapshots, sorted by chunk size, largest first; and the resumed
snapshot-origin targets.  A handover pairs two snapshots that share origin and COW device: the
*source* is active, the *destination* is not yet.
"""

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.twin.arguments import CtrError
from harness.twin.bio import BlockDevice

if TYPE_CHECKING:
    from harness.twin.origin import Origin
    from harness.twin.snapshot import Snapshot


@dataclass(slots=True)
class Sharing:
    """What ``__find_snapshots_sharing_cow`` finds."""

    count: int = 0
    source: "Snapshot | None" = None
    destination: "Snapshot | None" = None
    merging: "Snapshot | None" = None


class Registry:
    """All origins of the world."""

    def __init__(self) -> None:
        self._snapshots: dict[BlockDevice, list[Snapshot]] = {}
        self._origins: dict[BlockDevice, list[Origin]] = {}

    def snapshots(self, origin: BlockDevice) -> "list[Snapshot]":
        """Snapshots of ``origin`` in the order in which an origin write visits them."""
        return self._snapshots.get(origin, [])

    def sharing_cow(self, snapshot: "Snapshot") -> Sharing:
        """Snapshots that share origin and COW device with ``snapshot``, and any merge."""
        found = Sharing()
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

    def register(self, snapshot: "Snapshot") -> bool:
        """Add a snapshot; True if it is the destination of a handover.

        Raises:
            CtrError: it cannot be paired (kernel: ``__validate_exception_handover``).
        """
        is_destination = self._validate_handover(snapshot)
        self._insert(snapshot)
        return is_destination

    def _validate_handover(self, snapshot: "Snapshot") -> bool:
        found = self.sharing_cow(snapshot)
        if found.count == 2 or found.destination is not None:
            raise CtrError("Snapshot cow pairing for exception table handover failed",
                           errno.EINVAL)
        if found.source is None:
            return False
        if snapshot.is_merge:
            if found.merging is not None:
                raise CtrError("A snapshot is already merging.", errno.EINVAL)
            if not found.source.store.can_merge:
                raise CtrError("Snapshot exception store does not support snapshot-merge.",
                               errno.EINVAL)
        return True

    def _insert(self, snapshot: "Snapshot") -> None:
        """Before the first with a smaller chunk size (kernel: ``__insert_snapshot``)."""
        snapshots = self._snapshots.setdefault(snapshot.origin, [])
        chunk_sectors = snapshot.store.chunk_sectors
        position = next((index for index, other in enumerate(snapshots)
                         if other.store.chunk_sectors < chunk_sectors), len(snapshots))
        snapshots.insert(position, snapshot)

    def reregister(self, snapshot: "Snapshot") -> None:
        """Move to the right place, now that the chunk size is known."""
        self._snapshots[snapshot.origin].remove(snapshot)
        self._insert(snapshot)

    def unregister(self, snapshot: "Snapshot") -> None:
        """From now on no origin write sees ``snapshot``."""
        snapshots = self._snapshots[snapshot.origin]
        snapshots.remove(snapshot)
        if not snapshots:
            del self._snapshots[snapshot.origin]

    def minimum_chunk_sectors(self, origin: BlockDevice) -> int:
        """Smallest chunk size on ``origin``; 0 if there is none (destinations count as none)."""
        return min((snapshot.store.chunk_sectors for snapshot in self.snapshots(origin)
                    if snapshot.store.chunk_sectors), default=0)

    def add_origin(self, target: "Origin") -> None:
        """A snapshot-origin target was resumed."""
        self._origins.setdefault(target.device, []).append(target)

    def remove_origin(self, target: "Origin") -> None:
        """A snapshot-origin target was suspended."""
        self._origins[target.device].remove(target)

    def origin_target(self, origin: BlockDevice) -> "Origin | None":
        """The resumed snapshot-origin target on ``origin``, if any."""
        targets = self._origins.get(origin)
        return targets[0] if targets else None
