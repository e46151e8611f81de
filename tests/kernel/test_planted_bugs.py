"""Bugs planted in the twin, one at a time: each is found, in the layer and the place where it sits.

The kernel's side comes from a real guest, once for all bugs; each scenario is *same* first, so
what is found is the bug.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.campaign.observe import Guests, Scenarios, observe
from harness.compare.diff import Verdict
from harness.guest import catalogue
from harness.guest.events import Outcome
from harness.guest.fetch import provision
from harness.scenarios.registry import choose
from harness.store.layout import ENTRY, DiskHeader
from harness.trace.files import Layer, Trace
from harness.twin import origins, persistent
from harness.twin.exceptions.table import ExceptionTable, Pairs
from harness.twin.merge import SnapshotMerge
from harness.twin.pending import PendingException
from harness.twin.persistent import PersistentStore
from harness.twin.snapshot import Snapshot
from harness.twin.table import Table
from harness.twin.world import World
from harness.verdict.judge import judge

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """A bug, the scenario that shows it, and where: a layer, and a chunk of the store if it has
    one."""

    plant: Patch
    scenario: str
    layer: Layer
    chunk: int | None = None


def area_stride(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(persistent, "area_chunk", lambda area, entries: 1 + area * (entries + 2))


def first_free_chunk(patch: pytest.MonkeyPatch) -> None:
    original = PersistentStore.__init__

    def init(self: PersistentStore, *rest: object) -> None:
        original(self, *rest)  # type: ignore[arg-type]
        self.next_free = 3

    patch.setattr(PersistentStore, "__init__", init)


def header_field(patch: pytest.MonkeyPatch) -> None:
    def header(self: PersistentStore) -> bytes:
        return (
            DiskHeader(
                valid=int(self.valid), version=self.version, chunk_sectors=self.chunk_sectors + 1
            )
            .pack()
            .ljust(self.chunk_sectors * 512, b"\0")
        )

    patch.setattr(PersistentStore, "_header", header)


def missed_snapshot(patch: pytest.MonkeyPatch) -> None:
    original = origins.write_to_snapshots
    patch.setattr(
        origins,
        "write_to_snapshots",
        lambda snapshots, sector, bio: original(snapshots[:-1], sector, bio),
    )


def wrong_half_copied(patch: pytest.MonkeyPatch) -> None:
    def start_copy(self: Snapshot, pending: PendingException) -> None:
        size = self.store.chunk_sectors
        first = pending.old * size
        half = size // 2
        self.kcopyd.copy(
            self.origin,
            min(first + half, self.origin.sectors - size),
            self.cow,
            pending.new * size,
            min(size, self.origin.sectors - first),
            self._copied,
            pending,
        )

    patch.setattr(Snapshot, "start_copy", start_copy)


def stale_status(patch: pytest.MonkeyPatch) -> None:
    original = PersistentStore.usage

    def usage(self: PersistentStore) -> tuple[int, int, int]:
        allocated, total, metadata = original(self)
        if self.committed == 0 and self.area:
            metadata -= self.chunk_sectors
        return allocated, total, metadata

    patch.setattr(PersistentStore, "usage", usage)


def metadata_not_skipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PersistentStore, "_skip_metadata", lambda _self: None)


def next_area_not_zeroed(patch: pytest.MonkeyPatch) -> None:
    original = PersistentStore._chunk_io

    def chunk_io(
        self: PersistentStore,
        op: object,
        chunk: int,
        data: bytes,
        then: Callable[[int], None],
        flags: int = 0,
    ) -> None:
        if self.entries and chunk == 1 + (self.area + 1) * (self.entries + 1):
            then(0)
        else:
            original(self, op, chunk, data, then, flags)  # type: ignore[arg-type]

    patch.setattr(PersistentStore, "_chunk_io", chunk_io)


def entry_swapped(patch: pytest.MonkeyPatch) -> None:
    class Swapped:
        size = ENTRY.size
        iter_unpack = ENTRY.iter_unpack
        unpack_from = ENTRY.unpack_from

        @staticmethod
        def pack_into(buffer: bytearray, offset: int, old: int, new: int) -> None:
            ENTRY.pack_into(buffer, offset, new, old)

    patch.setattr(persistent, "ENTRY", Swapped)


def overflow_lets_remapped_writes_pass(patch: pytest.MonkeyPatch) -> None:
    original = Snapshot.map

    def map_bio(self: Snapshot, bio: object) -> object:
        if self.overflowed and self.complete.lookup(bio.sector // self.store.chunk_sectors) >= 0:  # type: ignore[attr-defined]
            self.overflowed = False
            try:
                return original(self, bio)  # type: ignore[arg-type]
            finally:
                self.overflowed = True
        return original(self, bio)  # type: ignore[arg-type]

    patch.setattr(Snapshot, "map", map_bio)


def invalidation_without_event(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Table, "raise_event", lambda _self: None)


def partial_chunk_not_copied(patch: pytest.MonkeyPatch) -> None:
    def start_copy(self: Snapshot, pending: PendingException) -> None:
        self.kcopyd.prepare_callback()
        self.kcopyd.do_callback(self._copied, pending, False)

    patch.setattr(Snapshot, "start_copy", start_copy)


def tail_copied_whole(patch: pytest.MonkeyPatch) -> None:
    original = Snapshot.start_copy

    def start_copy(self: Snapshot, pending: PendingException) -> None:
        size = self.store.chunk_sectors
        left = self.origin.sectors - pending.old * size
        original(self, pending)
        if left < size:
            view = self.cow.view(pending.new * size + left, size - left)  # type: ignore[attr-defined]
            view[:] = bytes(len(view))

    patch.setattr(Snapshot, "start_copy", start_copy)


def uevent_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = World.uevent

    def uevent(self: World, md: object, action: str, **properties: str) -> None:
        if action != "remove":
            original(self, md, action, **properties)  # type: ignore[arg-type]

    patch.setattr(World, "uevent", uevent)


def log_misspelt(patch: pytest.MonkeyPatch) -> None:
    original = World.log
    patch.setattr(
        World,
        "log",
        lambda self, text: original(self, text.replace("Unable to allocate", "Cannot allocate")),
    )


def duplicate_order(patch: pytest.MonkeyPatch) -> None:
    original = ExceptionTable.insert

    def insert(self: ExceptionTable, old: int, new: int) -> None:
        if self.lookup(old) < 0:
            original(self, old, new)

    patch.setattr(ExceptionTable, "insert", insert)


def wrong_errno(patch: pytest.MonkeyPatch) -> None:
    original = PersistentStore.read_metadata

    def read_metadata(self: PersistentStore, add: Callable[[Pairs], None]) -> bool:
        try:
            return original(self, add)
        except OSError as fault:
            raise OSError(errno.EIO, "all the same") from fault

    patch.setattr(PersistentStore, "read_metadata", read_metadata)


def merge_without_flush(patch: pytest.MonkeyPatch) -> None:
    """Only disks that tell their requests can show it: no content depends on a flush."""

    def merged(self: SnapshotMerge, _context: object, read_error: bool, write_error: bool) -> None:
        if read_error or write_error:
            self._fail(f"{'Read' if read_error else 'Write'} error: shutting down merge.")
        else:
            self.store.commit_merge(self._count, self._committed)

    patch.setattr(SnapshotMerge, "_merged", merged)


def area_before_the_next_is_zeroed(patch: pytest.MonkeyPatch) -> None:
    """Both are written in the end; a fault between them tells which one came first."""
    zeros: list[tuple[int, bytes, Callable[[int], None]]] = []
    original = PersistentStore._chunk_io

    def chunk_io(
        self: PersistentStore,
        op: object,
        chunk: int,
        data: bytes,
        then: Callable[[int], None],
        flags: int = 0,
    ) -> None:
        if self.entries and chunk == 1 + (self.area + 1) * (self.entries + 1):
            zeros.append((chunk, data, then))
            then(0)
            return
        original(self, op, chunk, data, then, flags)  # type: ignore[arg-type]
        while zeros:
            late, content, _ = zeros.pop()
            original(self, op, late, content, lambda _error: None)  # type: ignore[arg-type]

    patch.setattr(PersistentStore, "_chunk_io", chunk_io)


BUGS = (
    Bug(area_stride, "full_area[1-1]", Layer.STORE, 34),
    Bug(first_free_chunk, "bring_up[P]", Layer.STATUS),
    Bug(header_field, "bring_up[P]", Layer.STORE, 0),
    Bug(missed_snapshot, "mixed_chunk_sizes[P]", Layer.STATUS),
    Bug(wrong_half_copied, "write_part_of_chunk[P-8]", Layer.CONTENT, 0),
    Bug(stale_status, "one_by_one_through_areas[1]", Layer.STATUS),
    Bug(metadata_not_skipped, "one_by_one_through_areas[1]", Layer.STATUS),
    Bug(next_area_not_zeroed, "stale_area", Layer.STORE, 34),
    Bug(entry_swapped, "full_area[8-0]", Layer.STORE, 1),
    Bug(overflow_lets_remapped_writes_pass, "overflow_by_snapshot[PO]", Layer.ERROR),
    Bug(invalidation_without_event, "events_of_invalidation[P]", Layer.EVENT),
    Bug(partial_chunk_not_copied, "write_one_sector[P-8]", Layer.CONTENT, 0),
    Bug(tail_copied_whole, "tail_chunk[N-5]", Layer.STORE, 0),
    Bug(uevent_forgotten, "bring_up[N]", Layer.UEVENT),
    Bug(log_misspelt, "overflow_by_origin[N]", Layer.LOG),
    Bug(duplicate_order, "duplicate_entries_alone[False]", Layer.CONTENT, 5),
    Bug(wrong_errno, "foreign_header[1-1-1]", Layer.ERROR),
    Bug(merge_without_flush, "merged_data_is_flushed_first[8]", Layer.REQUESTS),
    Bug(area_before_the_next_is_zeroed, "filling_an_area_fails[P-snap-zeroing]", Layer.ERROR),
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Trace, Outcome]]:
    """What a real kernel did in each scenario that the bugs need."""
    kernel = provision.fetch(catalogue.default())
    traces = {
        scenario.name: scenario.trace()
        for scenario in choose(dict.fromkeys(bug.scenario for bug in BUGS))
    }
    outcomes = observe(
        Scenarios(traces.values()),
        Guests(kernel=kernel, results=Path(tmp_path_factory.mktemp("guests"))),
    )
    return {name: (traces[name], outcomes[name]) for name in traces}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_is_found_where_it_sits(
    bug: Bug, real: dict[str, tuple[Trace, Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, outcome = real[bug.scenario]
    sound, _ = judge(trace, outcome, "kernel")
    assert sound.verdict is Verdict.SAME, sound

    bug.plant(monkeypatch)
    result, _ = judge(trace, outcome, "kernel")

    assert result.verdict in (Verdict.DIVERGED, Verdict.NONDETERMINISTIC)
    found = [divergence for divergence in result.divergences if divergence.layer is bug.layer]
    assert found, [(divergence.layer, divergence.what) for divergence in result.divergences]
    if bug.chunk is not None:
        place = found[0].place
        assert place is not None
        assert place.chunk == bug.chunk, place
