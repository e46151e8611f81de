"""System updates as Android does them with these targets: written to a snapshot, then merged.

There is no snapshot-origin: the snapshot's own device becomes the merge by a reload, and may be
removed and brought up again at any moment until the merge is over.  Where the original kills its
daemon, the merge here stops at a sector that cannot be written, and the devices are removed.
"""

from typing import Final

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear, patched
from harness.store.layout import chunks_needed, entries_per_area

COUNT: Final = 70
"""Chunks of an update in the scenarios below: more than two areas of chunks of one sector."""


def _writes(order: str, count: int = COUNT) -> list[int]:
    """Chunks 0 … count - 1 in the order in which an update writes them."""
    chunks = list(range(count))
    if order == "inverted":
        chunks.reverse()
    elif order == "scattered":
        chunks = [(7 + 37 * chunk) % count for chunk in chunks]
    return chunks


@scenario(store=("P", "PO"), chunk=(1, 8, 64), rows=("android: DmSnapshot",))
def merge_in_place(s: Script, store: str, chunk: int) -> None:
    """The base does not show the update until the snapshot's own device becomes a merge."""
    sectors = 8 * chunk
    s.disk("base", sectors, stamped=True)
    s.disk("cow", 20 * chunk)
    s.snapshot("system", "base", "cow", store, chunk)
    s.write("system", 0, sectors // 2)
    s.write("system", sectors - 3, 3)
    s.read("base", 0, sectors)
    s.read("system", 0, sectors)
    s.reload("system", s.merge_line("base", "cow", store, chunk))
    s.status("system")
    s.read("base", 0, sectors)
    s.write("system", 0, sectors)
    s.reload("system", linear("base", sectors))
    s.read("system", 0, sectors)


@scenario(rows=("android: DmSnapshotArgs",), store=("P", "PO", "N"))
def arguments_of_both_targets(s: Script, store: str) -> None:
    """P, PO and N in tables of snapshot and of snapshot-merge, and what those report."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 128)
    for number, target in enumerate(("snapshot", "snapshot-merge")):
        s.write("cow", 0, 1, zeros=True)
        s.prepare(f"try{number}", Segment(64, target, f"{{base}} {{cow}} {store} 8"))
        s.table(f"try{number}", inactive=True)
        s.status(f"try{number}", inactive=True)
        s.clear(f"try{number}")
        s.remove(f"try{number}")
        if store == "N":
            break  # some kernels crash on the merge of a transient store


@scenario(rows=("android: DmSnapshotOverflow",), by=("write", "fsync"))
def overflow_seen_by(s: Script, by: str) -> None:
    """A PO store is filled completely: the write fails, or the fsync after it; reads still work."""
    s.disk("base", 512, stamped=True)
    s.disk("cow", 128)
    s.snapshot("system", "base", "cow", "PO", 8)
    for sector in range(0, 256, 32):
        s.write("system", sector, 32, buffered=by == "fsync")
        s.flush("system")
    s.status("system")
    s.read("system", 0, 64)
    s.read("system", 400, 64)
    s.reload("system", s.merge_line("base", "cow", "PO", 8))
    s.read("system", 0, 64)


@scenario(rows=("android: ParseStatusText",), line=("numbers", "invalid", "overflow", "failed"))
def every_status_line(s: Script, line: str) -> None:
    """The four forms of a snapshot's status, from load to removal."""
    s.disk("disk", 128, stamped=True)
    s.device("base", linear("disk", 128))
    s.disk("cow", 40 if line in ("invalid", "overflow") else 200)
    s.prepare("system", s.snapshot_line("base", "cow", "PO" if line == "overflow" else "P", 8))
    s.status("system", inactive=True)
    s.resume("system")
    s.write("system", 3, 60)
    s.status("system")
    if line == "failed":
        s.reload("base", linear("disk", 24), error(104))
        s.reload("system", s.merge_line("base", "cow", "P", 8))
        s.status("system")
    s.suspend("system")
    s.status("system")
    s.resume("system")


@scenario(rows=("android: DmSnapshotMergePercent",))
def merge_percent(s: Script) -> None:
    """The numbers of the status line when nothing, a third, two thirds and all are merged.

    Each third of the base is a separate device, suspended until its turn comes.
    """
    parts = 3
    for number in range(parts):
        s.disk(f"disk{number}", 64, stamped=True)
        s.device(f"part{number}", linear(f"disk{number}", 64))
    s.device("base", *(linear(f"part{n}", 64) for n in range(parts)))
    s.disk("cow", 512)
    s.snapshot("system", "base", "cow", "P", 1)
    for number in range(parts):
        s.write("system", 64 * number, 40)
    s.load("system", s.merge_line("base", "cow", "P", 1))
    s.suspend("system", *(f"part{number}" for number in range(parts)))
    s.resume("system")
    for number in reversed(range(parts)):
        s.resume(f"part{number}")
        s.image("cow")
    s.read("system", 0, 192)


@scenario(rows=("android: Snapshot_Metadata",), order=("single", "together"))
def metadata_numbers(s: Script, order: str) -> None:
    """Chunks of 4 KiB, areas of 256: old 256 goes to new 2, old 512 to new 259, and never to 258.

    Chunk 258 is the second area.
    """
    chunk, first, count = 8, 256, 260
    s.disk("base", chunk * (first + count + 8))
    s.disk("cow", chunk * chunks_needed(count, entries_per_area(chunk)))
    s.snapshot("system", "base", "cow", "P", chunk)
    if order == "together":
        s.write("system", first * chunk, count * chunk)
    else:
        for old in range(first, first + count):
            s.write("system", old * chunk, chunk)
    s.image("cow")
    s.reactivate("system", "base", "cow", "P", chunk)
    s.read("system", 512 * chunk, chunk)
    s.write("system", 512 * chunk, 1)


@scenario(rows=("android: Snapshot_Metadata_Overlap",), order=("ordered", "inverted"))
def overlapping_writes_merged(s: Script, order: str) -> None:
    """Ranges of an update that overlap by half, from either end; then merged."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512)
    s.snapshot("system", "base", "cow", "P", 8)
    for block in _writes(order, 14):
        s.write("system", 16 * block, 32)
    s.write("system", 20, 100)
    s.reload("system", s.merge_line("base", "cow", "P", 8))
    s.read("system", 0, 256)


@scenario(
    order=("ordered",),
    stops=("fixed",),
    rows=("android: Merge_Crash_Fixed_Ordered", "android: Merge_Resume"),
)
@scenario(order=("ordered",), stops=("random",), rows=("android: Merge_Crash_Random_Ordered",))
@scenario(order=("inverted",), stops=("fixed",), rows=("android: Merge_Crash_Fixed_Inverted",))
@scenario(order=("inverted",), stops=("random",), rows=("android: Merge_Crash_Random_Inverted",))
@scenario(order=("scattered",), stops=("fixed", "random"), rows=("android: Merge_Resume",))
def merge_interrupted(s: Script, order: str, stops: str) -> None:
    """A merge stops, all devices are removed, and it resumes where it was; again and again."""
    sectors = COUNT + 10
    s.disk("disk", sectors, stamped=True)
    s.device("base", linear("disk", sectors))
    s.disk("cow", 256)
    s.snapshot("system", "base", "cow", "P", 1)
    for chunk in _writes(order):
        s.write("system", chunk, 1)
    s.remove("system")
    merged = _writes(order)[::-1]
    places = (15, 30, 45, 60) if stops == "fixed" else (3, 41, 38, 69)
    for place in places:
        bad = merged[place]
        s.reload("base", *patched("disk", sectors, bad, error(1)))
        s.device("system", s.merge_line("base", "cow", "P", 1))
        s.read("system", 0, bad + 1)
        s.image("disk", "cow")
        s.remove("system", "base")
        s.device("base", linear("disk", sectors))
    s.device("system", s.merge_line("base", "cow", "P", 1))
    s.read("system", 0, sectors)


@scenario(rows=("android: InterruptMergeDuringPhaseUpdate",), between=(False, True))
def merge_in_two_phases(s: Script, between: bool) -> None:
    """Two partitions on one disk: the second is merged when the first is done, or after a stop."""
    s.disk("disk", 256, stamped=True)
    s.disk("store", 512)
    names = ("system", "vendor")

    def up(name: str, number: int, target: str) -> None:
        s.device(f"{name}-base", linear("disk", 128, 128 * number))
        s.device(f"{name}-cow", linear("store", 256, 256 * number))
        line = (s.snapshot_line if target == "snapshot" else s.merge_line)(
            f"{name}-base", f"{name}-cow", "P", 8
        )
        s.device(name, line)

    for number, name in enumerate(names):
        up(name, number, "snapshot")
        s.write(name, 5, 40)
        s.write(name, 90, 9)
    s.reload("system", s.merge_line("system-base", "system-cow", "P", 8))
    s.write("vendor", 60, 9)
    if between:
        for number, name in enumerate(names):
            s.remove(name, f"{name}-cow", f"{name}-base")
            up(name, number, "snapshot" if number else "snapshot-merge")
            s.read(name, 0, 128)
    s.reload("vendor", s.merge_line("vendor-base", "vendor-cow", "P", 8))
    for name in names:
        s.read(name, 0, 128)


@scenario(rows=("android: MergeInRecovery",), loaded=("snapshot", "merge", "readonly"))
def merge_in_recovery(s: Script, loaded: str) -> None:
    """Only disk and store exist: brought up as before, or merging, or read-only."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.snapshot("system", "base", "cow", "P", 8)
    s.write("system", 5, 60)
    s.remove("system")
    if loaded == "snapshot":
        s.snapshot("recovery", "base", "cow", "P", 8)
        s.read("recovery", 0, 128)
        s.reload("recovery", s.merge_line("base", "cow", "P", 8))
    else:
        s.device("recovery", s.merge_line("base", "cow", "P", 8), read_only=loaded == "readonly")
    s.read("recovery", 0, 128)
    s.write("recovery", 0, 3)
    s.flush("recovery")
