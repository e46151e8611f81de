"""Kernel fixes that had no test anywhere, and other things that no suite tries.

A fix is cited in the row that it answers (docs/ROWS.md).  If it concerns a race, I/O is in flight
on disks that answer late, so that the order that used to go wrong is the likely one.
"""

from itertools import permutations
from typing import Final

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, delay, error, linear, patched, reading, writing
from harness.store.layout import ENTRY, DiskHeader, area_chunk, entries_per_area

STORES: Final = ("P", "N")


@scenario(
    rows=("F: header and metadata at invalidation",),
    by=("space", "copy", "metadata"),
    writer=("snap", "org"),
)
def header_at_invalidation(s: Script, by: str, writer: str) -> None:
    """Invalidated for each reason: the header says so, and nothing else of the store changes."""
    s.disk("store", 256)
    s.disk("disk", 256, stamped=True)
    s.device("base", linear("disk", 256))
    size = 40 if by == "space" else 256
    s.device("cow", linear("store", size))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.origin("org", "base")
    s.write(writer, 0, 24)
    s.image("store")
    if by == "copy":
        s.reload("base", linear("disk", 64), error(192))
    elif by == "metadata":
        s.reload("cow", *patched("store", 256, 8, error(8)))
    s.write(writer, 64, 3)
    s.image("store")
    s.write("snap", 0, 8)
    s.write("org", 128, 8)


@scenario(rows=("F: header and metadata at invalidation",), room=(2, 5))
def commits_race_invalidation(s: Script, room: int) -> None:
    """Some chunks are still being copied, on a slow COW device, when the store is full.

    What reaches the disk must be a header, marked invalid, and entries: never one over the other.
    """
    s.disk("base", 128, stamped=True)
    s.disk("store", 8 * (2 + room))
    s.device("cow", delay("store", 8 * (2 + room), 0, write_ms=30))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.parallel(*(("snap", 8 * chunk, 3) for chunk in range(room + 1)))
    s.image("store")
    s.reactivate("snap", "base", "cow", "P", 8)


@scenario(rows=("F: commits in the order of allocation",), store=STORES, late=(0, 1))
def late_copy(s: Script, store: str, late: int) -> None:
    """The copy of one chunk is slow, the others are done: they are committed after it, or not."""
    s.disk("base", 128, stamped=True)
    s.disk("store", 256)
    first = 8 * (late + (2 if store == "P" else 0))
    s.device("cow", *patched("store", 256, first, delay("store", 8, 0, first, write_ms=60)))
    s.snapshot("snap", "base", "cow", store, 8)
    s.parallel(*(("snap", 16 * number, 3) for number in range(4)))
    s.image("store")
    s.read("snap", 0, 64)


@scenario(rows=("F: read of the origin and the exception that overtakes it",), chunk=(8, 16))
def read_overtaken(s: Script, chunk: int) -> None:
    """A slow read of the origin through the snapshot; meanwhile all of its chunks are overwritten.

    The reads cover the chunk that is written, half of it, and its neighbour.
    """
    s.disk("disk", 128, stamped=True)
    s.device("base", delay("disk", 128, 40, write_ms=0))
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", "P", chunk)
    s.origin("org", "base")
    for number, (sector, sectors) in enumerate(((0, chunk), (chunk + 2, 3), (3 * chunk, chunk))):
        s.parallel(
            reading("snap", sector, sectors), writing("org", number * chunk, chunk, 70 + number)
        )
    s.read("snap", 0, 4 * chunk)
    s.read("org", 0, 4 * chunk)


@scenario(
    rows=("F: a whole chunk is written without reading the origin",),
    store=STORES,
    chunk=(1, 8, 128),
)
def whole_chunks_over_a_dead_origin(s: Script, store: str, chunk: int) -> None:
    """Every chunk of an unreadable origin is written whole; then one in part."""
    sectors = 4 * chunk
    s.device("base", error(sectors))
    s.disk("cow", 12 * chunk)
    s.snapshot("snap", "base", "cow", store, chunk)
    for number in (2, 0, 3):
        s.write("snap", number * chunk, chunk)
    s.read("snap", 2 * chunk, 2 * chunk)
    s.read("snap", chunk, 1)
    s.write("snap", 2 * chunk, 1)
    s.write("snap", chunk, max(1, chunk - 1))
    s.read("snap", 0, chunk)


@scenario(rows=("F: origin or merge suspended during handover",), store=("P", "PO", "N"))
def handover_while_origin_is_suspended(s: Script, store: str) -> None:
    """The snapshot is reloaded while its origin is suspended: neither waits for the other."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.write("org", 16, 3)
    s.suspend("org")
    s.reload("snap", s.snapshot_line("base", "cow", store, 8))
    s.write("snap", 30, 9)
    s.read("snap", 0, 64)
    s.resume("org")
    s.write("org", 40, 30)
    s.load("snap", s.snapshot_line("base", "cow", store, 8))
    s.suspend("snap", "org")
    s.resume("org", "snap")
    s.write("org", 90, 30)
    s.read("snap", 0, 256)


@scenario(rows=("F: origin or merge suspended during handover",), suspended=(False, True))
def handover_beside_a_merge(s: Script, suspended: bool) -> None:
    """Another snapshot of the origin is reloaded while the merge is suspended, or is over."""
    s.snapshot_and_origin("P", 8)
    s.disk("cow2", 512)
    s.snapshot("other", "base", "cow2", "P", 8)
    s.suspend("org")
    s.resume("org")
    s.write("snap", 3, 60)
    s.merge("org", "snap", "base", "cow", 8)
    s.load("other", s.snapshot_line("base", "cow2", "P", 8))
    if suspended:
        s.suspend("org")
    s.suspend("other")
    s.resume("other")
    s.read("other", 0, 256)
    if suspended:
        s.resume("org")
    s.write("org", 100, 30)
    s.read("other", 0, 256)


ORDERS: Final = tuple("+".join(order) for order in permutations(("suspend", "heir", "remove")))


@scenario(rows=("G3: handover in every order",), store=STORES, order=ORDERS)
def handover_in_every_order(s: Script, store: str, order: str) -> None:
    """An heir is loaded; then the source is suspended and removed and the heir resumed, in turn."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.prepare("heir", s.snapshot_line("base", "cow", store, 8))
    for turn, act in enumerate(order.split("+")):
        {"suspend": s.suspend, "heir": s.resume, "remove": s.remove}[act](
            "heir" if act == "heir" else "snap"
        )
        s.write("org", 16 + 16 * turn, 3)
    s.read("heir", 0, 64)
    s.write("heir", 100, 3)
    s.suspend("heir")
    s.resume("heir")


@scenario(rows=("G3: handover in every order",), order=ORDERS)
def merge_in_every_order(s: Script, order: str) -> None:
    """A merge is loaded; then the snapshot is suspended and removed and the merge resumed."""
    s.snapshot_and_origin("P", 8)
    s.write("snap", 3, 40)
    s.load("org", s.merge_line("base", "cow", "P", 8))
    s.suspend("org")
    for act in order.split("+"):
        {"suspend": s.suspend, "heir": s.resume, "remove": s.remove}[act](
            "org" if act == "heir" else "snap"
        )
    s.suspend("org")
    s.resume("org")
    s.read("org", 0, 64)
    s.write("org", 20, 30)


@scenario(rows=("G4: the status line step by step",), chunk=(1, 8))
def numbers_all_the_way(s: Script, chunk: int) -> None:
    """One snapshot's life: filled to the last chunk, reloaded, merged, refilled, overflowed."""
    count = 2 * entries_per_area(1) if chunk == 1 else 12
    s.disk("base", (count + 8) * chunk, stamped=True)
    s.disk("cow", {1: 68, 8: 14}[chunk] * chunk)
    for turn in range(2):
        s.snapshot("snap", "base", "cow", "P", chunk)
        for number in range(0, count, 4 if chunk == 1 else 1):
            s.write("snap", number * chunk, 4 if chunk == 1 else chunk)
        if turn:
            s.write("snap", (count + 4) * chunk, 1)
        s.reactivate("snap", "base", "cow", "P", chunk)
        s.reload("snap", s.merge_line("base", "cow", "P", chunk))
        s.remove("snap")


@scenario(rows=("lvmsync_go: data chunks between areas", "Rust parser: 1000 areas"))
def thousand_areas(s: Script) -> None:
    """A store of 1003 areas of one sector, found on the disk; read, and written at its end."""
    areas, entries = 1003, entries_per_area(1)
    count = areas * entries - 1
    s.disk("base", count + 64)
    s.disk("cow", areas * (entries + 1) + 64)
    s.poke("cow", 0, DiskHeader(chunk_sectors=1).pack())
    for area in range(areas):
        at = area_chunk(area, entries)
        used = entries if area + 1 < areas else entries - 1
        s.poke("cow", at, b"".join(ENTRY.pack(area * entries + n, at + 1 + n) for n in range(used)))
    s.write("cow", area_chunk(1000, entries) + 1, entries)
    s.snapshot("snap", "base", "cow", "P", 1)
    s.read("snap", 1000 * entries - 8, 64)
    s.write("snap", 1000 * entries, 3)
    s.write("snap", count, 4)
    s.status("snap")
    s.reactivate("snap", "base", "cow", "P", 1)
    s.read("snap", count - 8, 16)
