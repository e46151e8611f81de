"""Each function of the seed, its place in the twin, and evidence that scenarios reach it.

The seed is ``drivers/md/dm-snap.c`` of December 2018 (snapshot 1.15.0).  `SEED` lists all its
functions in file order.  Which scenarios reach a function is counted on a real module
(`harness.measure.coverage`) and kept in docs/traceability.json; ``python -m
harness.measure.traceability`` generates docs/TRACEABILITY.md from both, and a test keeps them in
agreement.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.measure.coverage import Counted, Function, load

DATA: Final = Path(__file__).parents[2] / "docs" / "traceability.json"
PAGE: Final = DATA.with_name("TRACEABILITY.md")

GONE: Final = "It no longer exists in this kernel."


@dataclass(frozen=True, slots=True)
class Seed:
    """A function of the seed.

    Attributes:
        name: of the function.
        twin: its counterparts: module and name below `harness.twin`; empty if there are none.
        note: for the reader: why there is no counterpart, or why nothing reaches it.
    """

    name: str
    twin: tuple[str, ...] = ()
    note: str = ""


_MODULE: Final = "The twin does not model the module itself; its target types always exist."
_HASH: Final = "A Python dict, with its own hash, size and growth."
_PLAIN: Final = "A plain attribute; nothing that could differ."
_DAX: Final = "DAX is not modelled, and newer kernels no longer have the function."
_EXIT: Final = (
    f"{_MODULE} It is in a section of its own and cannot be probed; "
    "`exit_origin_hash`, which only it calls on unload, is reached."
)

SEED: Final = (
    Seed("dm_snap_origin", ("exception_store:ExceptionStore",), _PLAIN),
    Seed("dm_snap_cow", ("exception_store:ExceptionStore",), _PLAIN),
    Seed("chunk_to_sector", ("snapshot:Snapshot.start_copy",)),
    Seed("bdev_equal", ("origins:Origins.sharing_cow",)),
    Seed("init_tracked_chunk", ("bio:Bio",)),
    Seed("is_bio_tracked", ("snapshot:Snapshot.end_io",)),
    Seed("track_chunk", ("snapshot:Snapshot._track",)),
    Seed("stop_tracking_chunk", ("snapshot:Snapshot.end_io",)),
    Seed("__chunk_is_tracked", ("snapshot:Snapshot.when_untracked",)),
    Seed(
        "__check_for_conflicting_io",
        ("snapshot:Snapshot.when_untracked", "merge:SnapshotMerge._wait_for_writes"),
    ),
    Seed("init_origin_hash", (), _MODULE),
    Seed("exit_origin_hash", (), _MODULE),
    Seed("origin_hash", ("origins:Origins",), _HASH),
    Seed("__lookup_origin", ("origins:Origins.snapshots",)),
    Seed("__insert_origin", ("origins:Origins._insert",)),
    Seed("__lookup_dm_origin", ("origins:Origins.origin_target",)),
    Seed("__insert_dm_origin", ("origins:Origins.add_origin",)),
    Seed("__remove_dm_origin", ("origins:Origins.remove_origin",)),
    Seed("__find_snapshots_sharing_cow", ("origins:Origins.sharing_cow",)),
    Seed("__validate_exception_handover", ("origins:Origins._validate_handover",)),
    Seed("__insert_snapshot", ("origins:Origins._insert",)),
    Seed("register_snapshot", ("origins:Origins.register",)),
    Seed("reregister_snapshot", ("origins:Origins.reregister",)),
    Seed("unregister_snapshot", ("origins:Origins.unregister",)),
    Seed("dm_exception_table_init", ("exceptions.table:ExceptionTable.__init__",)),
    Seed("dm_exception_table_exit", (), "Python frees what nobody holds."),
    Seed("exception_hash", ("exceptions.lists:ExceptionLists",)),
    Seed("dm_remove_exception", ("exceptions.table:ExceptionTable.remove",)),
    Seed("dm_lookup_exception", ("exceptions.table:ExceptionTable.lookup",)),
    Seed("alloc_completed_exception", ("exceptions.table:ExceptionTable.insert",)),
    Seed("free_completed_exception", (), "Python frees unreferenced objects."),
    Seed("alloc_pending_exception", ("pending:PendingException.__init__",)),
    Seed("free_pending_exception", (), "Python frees unreferenced objects."),
    Seed(
        "dm_insert_exception",
        ("exceptions.table:ExceptionTable.insert", "exceptions.lists:ExceptionLists.insert"),
    ),
    Seed("dm_add_exception", ("exceptions.table:ExceptionTable.load",)),
    Seed("__minimum_chunk_size", ("origins:Origins.minimum_chunk_sectors",)),
    Seed("calc_max_buckets", ("exceptions.table:table_slots",)),
    Seed(
        "init_hash_tables", ("exceptions.table:table_slots", "snapshot:Snapshot._construct_store")
    ),
    Seed("merge_shutdown", ("merge:SnapshotMerge._next_chunks",)),
    Seed("__release_queued_bios_after_merge", ("merge:SnapshotMerge._release",)),
    Seed("__remove_single_exception_chunk", ("exceptions.table:ExceptionTable.remove",)),
    Seed("remove_single_exception_chunk", ("merge:SnapshotMerge._committed",)),
    Seed("read_pending_exceptions_done_count", ("world:World.when_exception_done",)),
    Seed("increment_pending_exceptions_done_count", ("world:World.exception_done",)),
    Seed(
        "snapshot_merge_next_chunks",
        ("merge:SnapshotMerge._next_chunks", "merge:SnapshotMerge._copy_out"),
    ),
    Seed("merge_callback", ("merge:SnapshotMerge._merged", "merge:SnapshotMerge._committed")),
    Seed("start_merge", ("merge:SnapshotMerge.start_merge",)),
    Seed("stop_merge", ("merge:SnapshotMerge._stop",)),
    Seed("snapshot_ctr", ("snapshot:Snapshot.construct",)),
    Seed("__free_exceptions", (), "Python frees unreferenced objects."),
    Seed("__handover_exceptions", ("snapshot:_hand_over",)),
    Seed("snapshot_dtr", ("snapshot:Snapshot.destroy",)),
    Seed("flush_bios", ("snapshot:Snapshot._finish", "merge:SnapshotMerge._committed")),
    Seed("retry_origin_bios", ("snapshot:Snapshot._finish",)),
    Seed("error_bios", ("snapshot:Snapshot._finish", "merge:SnapshotMerge._fail")),
    Seed("__invalidate_snapshot", ("snapshot:Snapshot.invalidate",)),
    Seed("pending_complete", ("snapshot:Snapshot._pending_complete",)),
    Seed("complete_exception", ("snapshot:Snapshot._commit_in_order",)),
    Seed("copy_callback", ("snapshot:Snapshot._copied",)),
    Seed("start_copy", ("snapshot:Snapshot.start_copy",)),
    Seed("full_bio_end_io", ("snapshot:Snapshot._end_full_bio",)),
    Seed("start_full_bio", ("snapshot:Snapshot._start_full_bio",)),
    Seed("__lookup_pending_exception", ("snapshot:Snapshot._map",)),
    Seed("__find_pending_exception", ("snapshot:Snapshot.new_pending",)),
    Seed("remap_exception", ("snapshot:Snapshot._map",)),
    Seed("snapshot_map", ("snapshot:Snapshot.map", "snapshot:Snapshot._map")),
    Seed("snapshot_merge_map", ("merge:SnapshotMerge.map",)),
    Seed("snapshot_end_io", ("snapshot:Snapshot.end_io",)),
    Seed("snapshot_merge_presuspend", ("merge:SnapshotMerge.presuspend",)),
    Seed("snapshot_preresume", ("snapshot:Snapshot.preresume",)),
    Seed("snapshot_resume", ("snapshot:Snapshot.resume",)),
    Seed("get_origin_minimum_chunksize", ("origins:Origins.minimum_chunk_sectors",)),
    Seed("snapshot_merge_resume", ("merge:SnapshotMerge.resume",)),
    Seed("snapshot_status", ("snapshot:Snapshot.status", "snapshot:Snapshot.table_line")),
    Seed("snapshot_iterate_devices", ("snapshot:Snapshot.devices",)),
    Seed("__origin_write", ("origins:write_to_snapshots",)),
    Seed("do_origin", ("origins:Origins.write",)),
    Seed("origin_write_extent", ("merge:SnapshotMerge._copy_out",)),
    Seed("origin_ctr", ("origin:Origin.construct",)),
    Seed("origin_dtr", ("origin:Origin.destroy",)),
    Seed("origin_map", ("origin:Origin.map",)),
    Seed("origin_dax_direct_access", (), _DAX),
    Seed("origin_resume", ("origin:Origin.resume",)),
    Seed("origin_postsuspend", ("origin:Origin.postsuspend",)),
    Seed("origin_status", ("origin:Origin.table_line",)),
    Seed("origin_iterate_devices", ("origin:Origin.devices",)),
    Seed("dm_snapshot_init", (), _MODULE),
    Seed("dm_snapshot_exit", (), _EXIT),
)

NAMES: Final = tuple(function.name for function in SEED)


def resolve(symbol: str) -> object:
    """The counterparts of a function, imported.

    Raises:
        ImportError, AttributeError: there is no such counterpart.
    """
    module, _, path = symbol.partition(":")
    found: object = importlib.import_module(f"harness.twin.{module}")
    for name in path.split("."):
        found = getattr(found, name)
    return found


def page(recorded: Counted) -> str:
    """docs/TRACEABILITY.md."""
    reached = [name for name in NAMES if _is_reached(recorded.functions.get(name))]
    lines = [
        "# Traceability: the seed, the twin, and what reaches them",
        "",
        (
            "<!-- Made by `dmsnap coverage --update`; edit harness/measure/traceability.py "
            "instead. -->"
        ),
        "",
        (
            f"The {len(SEED)} functions of the seed, `drivers/md/dm-snap.c` of December 2018, in "
            "file order: the counterpart of each in the twin, and how many scenarios reach it on "
            "a real module, with some that reach little else."
        ),
        "",
        (
            f"Counted by the kernel itself: {recorded.release} ({recorded.kernel}, package version "
            f"{recorded.version}), a probe on the entry of each function, {recorded.scenarios} "
            "scenarios. The module is built from that kernel's source without inlining, as an "
            f"inlined function has no entry. {len(reached)} of {len(SEED)} are reached."
        ),
        "",
        (
            "`dmsnap coverage --kernel deb-6.1` counts again. How much of the twin the same "
            "catalogue runs: [TWIN-COVERAGE.md](TWIN-COVERAGE.md)."
        ),
        "",
        "| function | in the twin | scenarios | for example | remark |",
        "|---|---|---|---|---|",
        *(_row(function, recorded.functions.get(function.name)) for function in SEED),
    ]
    return "\n".join(lines) + "\n"


def _is_reached(counted: Function | None) -> bool:
    return counted is not None and bool(counted.scenarios or counted.loading or counted.unloading)


def _row(function: Seed, counted: Function | None) -> str:
    twin = ", ".join(f"`{symbol.replace(':', '.')}`" for symbol in function.twin) or "–"
    remarks = [function.note] if function.note else []
    named = ""
    if counted is None:
        number = "–"
        if not function.note:
            remarks.append(GONE)
    else:
        number = str(counted.scenarios)
        named = ", ".join(f"`{name}`" for name in counted.named)
        if counted.loading and not counted.scenarios:
            remarks.append("It runs when the module is loaded.")
        if counted.unloading and not counted.scenarios:
            remarks.append("It runs when the module is unloaded.")
    return f"| `{function.name}` | {twin} | {number} | {named} | {' '.join(remarks)} |"


if __name__ == "__main__":
    sys.stdout.write(page(load(DATA)))
