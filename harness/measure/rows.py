"""Every dm-snapshot test that exists elsewhere, as rows; docs/ROWS.md maps them to scenarios.

A row is one test of another suite, or one fix, or one thing that nobody tests.  A scenario names
the rows that it covers (`harness.scenarios.registry.Scenario.rows`); a row says which part of it
is out of reach here, and why.  ``python -m harness.measure.rows`` prints the page.

"This level" is what device-mapper shows of its devices: requests, tables, status, events, log,
and every byte of the disks below.
"""

import sys
from dataclasses import dataclass
from itertools import product
from typing import Final

from harness.scenarios.registry import Scenario, catalogue

MOUNTED: Final = (
    "The requests are issued as such a file system would issue them; mounting it needs a "
    "real file system, which the twin does not have."
)
SPEED: Final = (
    "The requests and their results are compared; their speed is not a question "
    "of same or different (`make bench` measures it)."
)
PLACEMENT: Final = (
    "The requests are compared; on which CPU each is issued and completed (blktrace) "
    "is not a behaviour of dm-snapshot."
)
LVM: Final = "LVM's own decisions are left out; the device-mapper requests that follow are here."
ENGINE: Final = "Another engine with its own format: the idea is mirrored, not its commands."
FORMAT: Final = "Another format and another daemon: the idea is mirrored with the persistent store."


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its name, what it tests, and which part is out of reach at this level."""

    name: str
    tests: str
    beyond: str = ""


def _variants(
    name: str, tests: str, beyond: str = "", *, stores: tuple[str, ...] = ("P", "N")
) -> list[Row]:
    words = {"P": "persistent", "N": "transient"}
    return [
        Row(f"dmtest: {name}_{store}", f"{tests}, {words[store]} store", beyond) for store in stores
    ]


def _dmtest() -> list[Row]:
    """The 73 tests of the snapshot suite of device-mapper-test-suite."""
    rows = [
        *_variants("bring_up_snapshot_target", "a snapshot comes up and goes"),
        *_variants("create_lots_of_snaps", "101 snapshots of one origin"),
        Row(
            "dmtest: huge_chunk_size_P",
            "one chunk of 524288 sectors, persistent store",
            "Chunks of up to 16384 sectors are used: one of 524288 needs 768 MiB for the store's "
            "three buffers alone, and a guest has 512 MiB.",
        ),
        Row("dmtest: huge_chunk_size_N", "one chunk of 524288 sectors, transient store"),
        Row("dmtest: non_power_of_2_chunk_size_fails", "a chunk of 65 sectors is refused"),
        Row("dmtest: too_large_chunk_size_fails", "a chunk of 2^22 sectors is refused"),
        Row(
            "dmtest: largest_chunk_size_succeeds_P",
            "a chunk of 2^21 sectors, persistent store",
            "Header and first area are a chunk each: 2 GiB written and 3 GiB of kernel memory, "
            "which no guest here has. `largest_chunk` shows that the size is accepted, with a "
            "transient store.",
        ),
        Row("dmtest: largest_chunk_size_succeeds_N", "a chunk of 2^21 sectors, transient store"),
    ]
    for fs in ("ext4", "xfs"):
        rows += _variants(
            f"create_snap_{fs}", f"a data set on an {fs} origin, another on its snapshot", MOUNTED
        )
    rows += [
        *_variants(
            "many_snaps_with_changes", "31 versions of a source tree, a snapshot of each", MOUNTED
        ),
        *_variants(
            "parallel_io_to_many_snaps",
            "16 snapshots and their origin written at once",
            "One request of each device is in flight at a time; queues as deep as dt's are "
            "not explored.",
        ),
        *_variants(
            "many_snapshots_of_same_volume",
            "16 snapshots; the origin before and after, then the first snapshot",
            "Memory and time of copy jobs in flight are measured separately, by `dmsnap "
            "headline`; contents are the same with any limit (`cow_threshold`, "
            "`threshold_in_flight`).",
        ),
        *_variants(
            "snapshot_writes_do_not_affect_origin",
            "a tenth of the snapshot is overwritten; the origin keeps its pattern",
        ),
        *_variants(
            "origin_writes_do_not_affect_snapshot",
            "a tenth of the origin is overwritten; the snapshot keeps its pattern",
        ),
        *_variants(
            "snap_breaking_throughput",
            "the origin overwritten, chunks of 4 to 64 KiB, requests of 64 KiB to 1 MiB",
            SPEED,
        ),
        *_variants(
            "snap_already_broken_throughput", "the same when everything is copied already", SPEED
        ),
        Row("dmtest: linear_throughput", "the same on a linear device", SPEED),
    ]
    for fs in ("xfs", "ext4"):
        rows += _variants(
            f"multithreaded_layout_reread_throughput_{fs}",
            f"eight interleaved files on {fs} under a snapshot, one read again",
            f"{MOUNTED} {SPEED}",
        )
    rows += [
        Row(
            f"dmtest: bonnie_raw_device_{fs}",
            f"bonnie++ on {fs} without a snapshot",
            f"{MOUNTED} {SPEED}",
        )
        for fs in ("xfs", "ext4")
    ]
    for fs in ("xfs", "ext4"):
        rows += _variants(
            f"bonnie_rolling_snap_{fs}",
            f"bonnie++ on {fs}; twice under a snapshot; and under the next",
            f"{MOUNTED} {SPEED}",
        )
    kinds = {
        "throughput": ("throughput", SPEED),
        "iod": ("distribution over CPUs", PLACEMENT),
        "latency": ("latency", SPEED),
    }
    patterns = {
        "randwrite": "random writes of 4 KiB",
        "seqwrite": "writes of 256 KiB in order",
        "randread": "random reads of 4 KiB",
        "seqread": "reads of 256 KiB in order",
    }
    measured = {
        "origin": (
            "randwrite throughput",
            "randwrite iod",
            "randwrite latency",
            "seqwrite throughput",
            "seqwrite iod",
        ),
        "snapshot": (
            "randwrite throughput",
            "randwrite iod",
            "randwrite latency",
            "seqwrite throughput",
            "seqwrite iod",
            "randread throughput",
            "randread latency",
            "seqread throughput",
        ),
    }
    measured["raw_device"] = measured["snapshot"]
    for device, tests in measured.items():
        for pattern, kind in (test.split() for test in tests):
            name = f"fio_{device}_{pattern}_{kind}"
            said = f"{patterns[pattern]} by 1 to 8 workers on the {device.replace('_', ' ')}"
            what, why = kinds[kind]
            if device == "raw_device":
                rows.append(Row(f"dmtest: {name}", f"{said}: {what}", why))
            else:
                rows += _variants(name, f"{said}: {what}", why, stores=("N", "P"))
    return rows


LVM_ROWS: Final = (
    Row(
        "lvm2: snapshot-usage (a store that ends where its data ends)",
        "fills of 32 KiB, 128 KiB and 4 MiB fit their stores; 33 KiB do not fit one of 32",
    ),
    Row(
        "lvm2: snapshot-usage (full, extended, filled again)",
        "three chunks are full after one sector; extended, the snapshot goes on",
        LVM,
    ),
    Row(
        "lvm2: snapshot-usage (a snapshot of 4095 GiB)",
        "100 KiB for 4095 GiB: one sector uses 12 percent of them",
    ),
    Row(
        "lvm2: snapshot-usage (stale header of another chunk size)",
        "a COW device that holds an older store's header",
    ),
    Row("lvm2: snapshot-usage (read-only)", "a snapshot that is activated read-only"),
    Row("lvm2: snapshot-usage (15 PiB)", "a virtual device of 15 PiB and a snapshot of half of it"),
    Row(
        "lvm2: snapshot-usage (metadata sectors)",
        "the third number of the status line",
        "Targets before 1.8 do not print it; every kernel here does.",
    ),
    Row(
        "lvm2: snapshot-usage-exa",
        "a virtual size of 15 EiB",
        "8191 PiB and the first size that a table cannot have (2^54 sectors) are shown: a kernel "
        "refuses what lies beyond the largest file offset.",
    ),
    Row("lvm2: snapshot-maxsize", "a store as large as it can ever need stays valid"),
    Row(
        "lvm2: lvcreate-small-snap",
        "three chunks are enough, one and two are not",
        "That two chunks are too few is LVM's decision; the kernel accepts them, and the first "
        "write overflows.",
    ),
    Row(
        "lvm2: lvcreate-usage",
        "chunks of 3 and 1024 KiB rejected, of 4 and 512 KiB accepted",
        "Only LVM rejects 1024 KiB; the kernel accepts up to 1 GiB.",
    ),
    Row(
        "lvm2: snapshot-reactivate",
        "contents across two cycles of deactivation, with unaligned writes",
        "Writes are whole sectors: 2411 of them stand for 1234567 bytes.",
    ),
    Row(
        "lvm2: snapshot-cow-reduce",
        "a store shrunk below its used size; overflow by direct write",
        "LVM refuses to shrink it; here it is shrunk, which shows why.",
    ),
    Row("lvm2: lvextend-snapshot-policy", "the COW volume grows under a live snapshot", LVM),
    Row(
        "lvm2: lvextend-snapshot-dmeventd",
        "the monitor lets it grow, and stops at overflow",
        "The monitor is a separate daemon that polls; its polls, its growth and the event that "
        "it waits for are here.",
    ),
    Row(
        "lvm2: snapshot-merge (in use)",
        "a merge while the origin is mounted",
        "A device above the origin stands for the mounted file system; that LVM may postpone a "
        "merge is its own decision.",
    ),
    Row(
        "lvm2: snapshot-merge (copies out to one more)",
        "a merge next to another snapshot, which gets copies of what is overwritten",
    ),
    Row("lvm2: snapshot-merge (a second one refused)", "one merge per origin"),
    Row(
        "lvm2: snapshot-merge-stack",
        "a merge onto a slow device, then an error of the COW device; re-activated, finished",
        "A suspended device stands for the slow one, so that nothing depends on time; thin "
        "volumes are another module.",
    ),
    Row("lvm2: merge resumed by activation", "a merge is loaded where its snapshot never ran"),
    Row(
        "lvm2: snapshot-remove-dmsetup",
        "suspended without flush over a suspended device; forced removal leaves an error target",
        "No file system is mounted; a device on top keeps the snapshot open.",
    ),
    Row("lvm2: snapshot-rename", "volumes get other names while they are active"),
    Row(
        "lvm2: snapshots over raid, mirror, cache, thin",
        "origin and COW volume are not plain disks",
        "dm-raid, dm-cache and dm-thin are separate modules, and dm-snapshot sees only a block "
        "device. Stacks of linear segments, two layers deep, are here.",
    ),
    Row(
        "lvm2: usage percent",
        "0 when new, less than 50 later, 100 after an overflow",
        "LVM computes the percentage; the numbers it uses are compared at each step.",
    ),
)

ANDROID_ROWS: Final = (
    Row(
        "android: DmSnapshotArgs",
        "PO is accepted, and what the table says",
        "For an older target libdm chooses P by its version.",
    ),
    Row("android: DmSnapshot", "isolation, merge, poll until all is merged, base holds the data"),
    Row("android: DmSnapshotOverflow", "EIO of write or fsync, then Overflow or Invalid"),
    Row(
        "android: ParseStatusText",
        "four good and ten malformed status lines",
        "Everything that a kernel prints is here; the malformed lines are for a parser, and no "
        "kernel prints them.",
    ),
    Row(
        "android: DmSnapshotMergePercent",
        "percent from the numbers of the status line",
        "libdm computes the percentage; the numbers are compared at four places of one merge.",
    ),
    Row("android: Snapshot_Metadata", "areas of 256: old 256 is new 2, old 512 is new 259"),
    Row("android: Snapshot_Metadata_Overlap", "operations that overlap each other", FORMAT),
    Row("android: Merge_Resume", "a merge is interrupted and continues", FORMAT),
    *(
        Row(
            f"android: Merge_Crash_{stops}_{order}",
            f"interrupted at {stops.lower()} places, chunks written in {order.lower()} order",
            f"{FORMAT} The merge stops at an error, not at a kill.",
        )
        for stops, order in product(("Fixed", "Random"), ("Ordered", "Inverted"))
    ),
    Row(
        "android: InterruptMergeDuringPhaseUpdate",
        "two partitions merge one after the other, interrupted in between",
        FORMAT,
    ),
    Row("android: MergeInRecovery", "a merge from only what is on the disk"),
)

_ENGINES: Final = {
    "overflow": "the store for changed blocks runs full",
    "writes to the snapshot image": "the image is written, before and after its origin",
    "destroyed in use": "the snapshot is removed while in use",
    "boundary writes": "writes at, and across, every boundary",
    "corruption": "scattered writes; the image is read after every few",
}

OTHER_ROWS: Final = (
    Row(
        "xfstests: generic/081",
        "5 MiB through a 4 MiB snapshot of a 256 MiB volume: overflow, and a clean log",
        MOUNTED,
    ),
    Row(
        "xfstests: btrfs/291",
        "a throw-away snapshot at every FUA of a replayed log",
        f"{MOUNTED} The log is that of the scenario's own writes.",
    ),
    Row("huge sparse disk: chunks of 16, 128, 512", "a small COW device makes a huge disk"),
    Row("huge sparse disk: 17 TiB", "a disk of 17 TiB, written everywhere"),
    *(Row(f"blksnap: {name}", text, ENGINE) for name, text in _ENGINES.items()),
    Row("blksnap: origin pulled out", "the origin's disk fails under a live snapshot", ENGINE),
    *(Row(f"dattobd: {name}", text, ENGINE) for name, text in _ENGINES.items()),
)

READER_ROWS: Final = (
    Row("lvmsync: an exactly full area", "crashes when the last area is exactly full"),
    Row("lvmsync_go: data chunks between areas", "takes data for metadata from the second area on"),
    Row("Rust parser: 1000 areas", "stops after 1000 areas"),
)

FIX_ROWS: Final = (
    Row(
        "F: header and metadata at invalidation",
        "61578dcd: an invalidation could write an area over the header, or the other way round",
        "The two writes race in the kernel; they are in flight at once here, but nothing forces "
        "the fatal order.",
    ),
    Row(
        "F: read of the origin and the exception that overtakes it",
        "a8d41b59: a read of the origin could see what was written after its chunk was copied",
    ),
    Row(
        "F: origin or merge suspended during handover",
        "09ee96b2 and its sibling: resume quiesces whatever stands on the origin",
        "Handover while a merge is copying cannot be held there; it is suspended, or finished.",
    ),
    Row(
        "F: commits in the order of allocation",
        "1.12.0: exceptions committed out of order leaked chunks of the store at a crash",
        "The order on the disk is shown; cutting the power between two commits is not.",
    ),
    Row(
        "F: a whole chunk is written without reading the origin",
        "a6e50b40: nothing is copied that is about to be overwritten",
    ),
    Row("F: discard features", "1.16.0: discard_zeroes_cow and discard_passdown_origin"),
    Row(
        "F: merged data flushed before the metadata is committed",
        "5.11: a power cut could find the entry gone and its data not yet on the origin",
    ),
)

NOBODY_ROWS: Final = (
    Row(
        "G1: kernel and twin compared at every step",
        "data, status and store",
        "Covered by the harness: each scenario of the catalogue is such a comparison.",
    ),
    Row("G2: every byte of the store, areas exactly full", "an oracle for the format"),
    Row(
        "G3: handover in every order",
        "the right order of steps, and every wrong one",
        "A suspend waits for pending exceptions, and a step for its own I/O, so none is "
        "pending during a handover.",
    ),
    Row("G4: the status line step by step", "through fill, overflow and merge"),
    Row("G5: the discard features", "zeroes and passdown, aligned and not"),
    Row(
        "G6: crash consistency of the store",
        "power cuts anywhere, in a merge too",
        "Needs the state of the disks after each write, which no step records yet. Stores as such "
        "cuts leave them are loaded by `entries_with_holes` and `stale_entries`.",
    ),
    Row("G7: faults placed by count", "the third write to a range fails"),
    Row(
        "G8: a fuzzer that shrinks what it finds",
        "tables, states and I/O at random",
        "A program, not a scenario; traces are data, so they can be shortened.",
    ),
    Row(
        "G9: a self-contained bug bundle",
        "one command replays it",
        "A program, not a scenario; `dmsnap trace` and `dmsnap replay` are its core.",
    ),
    Row(
        "G10: a published matrix",
        "scenario × kernel × store × chunk, resumable after a panic",
        "A report, not a scenario; `dmsnap run --kernel … --kernel …` writes one for machines.",
    ),
)

SECTIONS: Final[dict[str, tuple[Row, ...]]] = {
    "A. device-mapper-test-suite, suite snapshot": tuple(_dmtest()),
    "B. LVM2, test/shell": LVM_ROWS,
    "C. Android, libdm and snapuserd": ANDROID_ROWS,
    "D. xfstests and other engines": OTHER_ROWS,
    "E. Readers of the store, where they are wrong": READER_ROWS,
    "F. Kernel fixes that no suite tests": FIX_ROWS,
    "G. What none of them has": NOBODY_ROWS,
}

INTRODUCTION: Final = """\
# What other suites test, and where it is tested here

Every test of dm-snapshot elsewhere that we know of, every kernel fix that should have one, and \
what nobody tests: a row each, with the scenarios that cover it. Sizes are scaled to a guest of \
512 MiB. `×n` counts the variants of a scenario that cover the row.

The third column says which part of a row is out of reach at the level of device-mapper, and why.

This page is generated: `python -m harness.measure.rows > docs/ROWS.md`.
"""


def all_rows() -> dict[str, Row]:
    """Every row by name, in order."""
    return {row.name: row for rows in SECTIONS.values() for row in rows}


def answers() -> dict[str, list[Scenario]]:
    """Row name → the scenarios that cover it, in catalogue order; includes rows without any."""
    found: dict[str, list[Scenario]] = {name: [] for name in all_rows()}
    for entry in catalogue().values():
        for name in entry.rows:
            found.setdefault(name, []).append(entry)
    return found


def _listed(entries: list[Scenario]) -> str:
    """Scenarios without their parameters: `name` ×3, `other`."""
    count: dict[str, int] = {}
    for entry in entries:
        base = entry.name.partition("[")[0]
        count[base] = count.get(base, 0) + 1
    return ", ".join(f"`{name}`" + (f" ×{n}" if n > 1 else "") for name, n in count.items())


def page() -> str:
    """The page, as Markdown."""
    answered = answers()
    lines = [INTRODUCTION]
    rows = all_rows()
    shown = sum(bool(answered[name]) for name in rows)
    lines.append(
        f"{len(rows)} rows: {shown} are covered by scenarios, {len(rows) - shown} are "
        "not, each with its reason.\n"
    )
    for title, section in SECTIONS.items():
        lines += [f"## {title}", "", "| row | scenarios | out of reach |", "|---|---|---|"]
        lines += [
            f"| **{row.name}**<br>{row.tests} | {_listed(answered[row.name]) or '–'} | "
            f"{row.beyond} |"
            for row in section
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
