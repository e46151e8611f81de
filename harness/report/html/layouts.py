"""Which old chunk lives where, after each step: what a picture of a COW device is made from.

No observation says it between two images of a disk.  So the twin goes through the steps once more,
in its first order, and its exception tables are looked at after each.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from harness.errors import DmsnapError
from harness.trace.steps import AnyStep
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile
from harness.twin.snapshot import Snapshot

RUNS_MAX: Final = 2048
"""A table with more runs is not drawn."""
_CHUNKS_MAX: Final = 1 << 53
"""Numbers of a browser end there; what a rotten store names beyond it is on no device."""


class Layout(Struct, frozen=True, omit_defaults=True):
    """The exceptions of one snapshot.

    Attributes:
        origin, cow: names of its devices.
        chunk: sectors of a chunk.
        sectors: of the snapshot.
        cow_sectors: of the COW device.
        persistent: whether its store is on the COW device.
        state: ``invalid``, ``overflowed``, ``merge failed``, or empty.
        runs: (old chunk, new chunk, length), by new chunk.
    """

    origin: str
    cow: str
    chunk: int
    sectors: int
    cow_sectors: int
    persistent: bool
    state: str = ""
    runs: tuple[tuple[int, int, int], ...] = ()


class Layouts(Struct, frozen=True):
    """All that changed in one step: device → its layout, None where it has none any more."""

    step: int
    devices: dict[str, Layout | None]


def layouts(steps: Sequence[AnyStep], seed: int, profile: Profile) -> tuple[Layouts, ...]:
    """What changed in each step in which something did, as far as the twin gets."""
    return tuple(_walk(steps, seed, profile))


def _walk(steps: Sequence[AnyStep], seed: int, profile: Profile) -> Iterator[Layouts]:
    backend = TwinBackend(profile)
    backend.begin(seed)
    last: dict[str, Layout] = {}
    for index, step in enumerate(steps):
        try:
            backend.execute(index, step)
        except DmsnapError:  # the verdict says it
            return
        now = dict(_found(backend))
        changed: dict[str, Layout | None] = {
            name: now.get(name)
            for name in last.keys() | now.keys()
            if last.get(name) != now.get(name)
        }
        if changed:
            yield Layouts(index, dict(sorted(changed.items())))
        last = now


def _found(backend: TwinBackend) -> Iterator[tuple[str, Layout]]:
    """The snapshot of each device whose live table has one target, a snapshot."""
    for name, device in backend.world.mapped.items():
        targets = device.live.targets if device.live else []
        if len(targets) == 1 and isinstance(targets[0], Snapshot) and targets[0].active:
            snapshot = targets[0]
            runs = [run for run in snapshot.complete.runs() if max(run) < _CHUNKS_MAX]
            if len(runs) <= RUNS_MAX and snapshot.store.chunk_sectors:
                yield (
                    name,
                    Layout(
                        origin=_name(snapshot.origin),
                        cow=_name(snapshot.cow),
                        chunk=snapshot.store.chunk_sectors,
                        sectors=snapshot.sectors,
                        cow_sectors=snapshot.cow.sectors,
                        persistent=snapshot.store.can_merge,
                        state=_state(snapshot),
                        runs=tuple(runs),
                    ),
                )


def _name(device: Any) -> str:
    return str(getattr(device, "name", ""))


def _state(snapshot: Snapshot) -> str:
    if not snapshot.valid:
        return "invalid"
    if snapshot.overflowed:
        return "overflowed"
    return "merge failed" if snapshot.merge_failed else ""
