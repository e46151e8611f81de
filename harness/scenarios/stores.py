"""The exception store on disk: areas filled to the last entry, and stores found on a device."""

from collections.abc import Iterable

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, error, linear, patched, zero
from harness.store.build import allocate, build
from harness.store.layout import ENTRY, DiskHeader, entries_per_area
from harness.units import bytes_of_sectors

_COW_SECTORS = 256


def _found(
    s: Script, image: bytes, *, sectors: int = _COW_SECTORS, origin_sectors: int = 256
) -> None:
    """Disks ``base`` and ``cow``, the latter stamped and then overwritten by ``image``."""
    s.disk("base", origin_sectors, stamped=True)
    s.disk("cow", sectors, stamped=True)
    s.poke("cow", 0, image[: bytes_of_sectors(sectors)])


def _use(s: Script, chunk: int = 8, store: str = "P") -> None:
    """Bring the store up and do a little with it."""
    s.snapshot("snap", "base", "cow", store, chunk)
    s.origin("org", "base")
    s.read("snap", 0, 128)
    s.write("snap", 1, 1)
    s.write("org", 40, 8)
    s.write("snap", 100, 12)


@scenario(
    chunk=(1, 2, 8),
    delta=(-1, 0, 1),
    rows=(
        "android: Snapshot_Metadata",
        "lvmsync: an exactly full area",
        "G2: every byte of the store, areas exactly full",
    ),
)
def full_area(s: Script, chunk: int, delta: int) -> None:
    """One exception less than an area holds, exactly as many, one more; then loaded again."""
    count = entries_per_area(chunk) + delta
    s.disk("base", (count + 8) * chunk, stamped=True)
    s.disk("cow", (count + 16) * chunk)
    s.snapshot("snap", "base", "cow", "P", chunk)
    s.write("snap", 0, (count - 1) * chunk)
    s.image("cow")
    s.write("snap", (count + 3) * chunk, 1)
    s.image("cow")
    s.reactivate("snap", "base", "cow", "P", chunk)
    s.write("snap", (count + 5) * chunk, 1)
    s.read("snap", 0, (count + 8) * chunk)


@scenario(
    chunk=(1, 2),
    areas=(2, 3),
    rows=(
        "lvmsync: an exactly full area",
        "lvmsync_go: data chunks between areas",
        "G2: every byte of the store, areas exactly full",
    ),
)
def full_areas(s: Script, chunk: int, areas: int) -> None:
    """Several areas, the last exactly full, built and loaded again; then one more exception."""
    count = entries_per_area(chunk) * areas
    s.disk("base", (count + 8) * chunk, stamped=True)
    s.disk("cow", (count + areas + 16) * chunk)
    s.snapshot("snap", "base", "cow", "P", chunk)
    s.origin("org", "base")
    s.write("snap", 0, count * chunk // 2)
    s.write("org", count * chunk // 2, count * chunk - count * chunk // 2)
    s.reactivate("snap", "base", "cow", "P", chunk)
    s.suspend("org")
    s.resume("org")
    s.write("org", count * chunk, chunk)
    s.read("snap", 0, (count + 8) * chunk)


@scenario(store=("P", "PO"), extra=(0, 1))
def no_room_for_the_next_area(s: Script, store: str, extra: int) -> None:
    """The COW device ends after the last data chunk of an area: the next one cannot be zeroed."""
    count = entries_per_area(1)
    s.disk("base", 64, stamped=True)
    s.disk("cow", 2 + count + extra)
    s.snapshot("snap", "base", "cow", store, 1)
    s.write("snap", 0, count - 1)
    s.write("snap", count - 1, 1)
    s.write("snap", count, 1)
    s.read("snap", 0, 64)


@scenario(store=("P", "N"), rows=("lvm2: snapshot-reactivate",))
def reactivate(s: Script, store: str) -> None:
    """Removed and recreated, twice, with unaligned writes between."""
    s.snapshot_and_origin(store, 8, origin_sectors=4096, cow_sectors=8192)
    for turn in range(2):
        s.write("snap", 100 + turn * 1000, 2411)
        s.write("org", 7 + turn * 50, 33)
        s.reactivate("snap", "base", "cow", store, 8)
        s.read("snap", 0, 4096)
    s.write("snap", 5, 3)


@scenario()
def reactivate_empty(s: Script) -> None:
    """A store without exceptions, removed and recreated."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 64)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.remove("snap")
    s.image("cow")
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 8)


@scenario()
def reactivate_full(s: Script) -> None:
    """A store without a free chunk, removed and recreated: it can be read, and rewritten."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 48)
    s.snapshot("snap", "base", "cow", "PO", 8)
    s.write("snap", 0, 32)
    s.reactivate("snap", "base", "cow", "PO", 8)
    s.read("snap", 0, 64)
    s.write("snap", 3, 20)
    s.write("snap", 32, 1)
    s.read("snap", 0, 64)


@scenario()
def reactivate_invalid(s: Script) -> None:
    """An invalidated store, removed and recreated: it loads, and is invalid."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 48)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 64)
    s.reactivate("snap", "base", "cow", "P", 8)
    s.read("snap", 0, 8)
    s.remove("snap")
    s.write("cow", 0, 1, zeros=True)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 3)


@scenario(
    rows=("lvm2: snapshot-usage (stale header of another chunk size)",),
    disk=(4, 16, 32),
    table=(0, 4, 8, 16),
)
def other_chunk_size_on_disk(s: Script, disk: int, table: int) -> None:
    """The header names another chunk size than the table: the header wins."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512)
    s.snapshot("old", "base", "cow", "P", disk)
    s.write("old", 5, 40)
    s.remove("old")
    s.snapshot("snap", "base", "cow", "P", table)
    s.read("snap", 0, 64)
    s.write("snap", 100, 7)


@scenario(size=(0, 3, 24, 4194304, 4294967295, 2147483648))
def bad_chunk_size_on_disk(s: Script, size: int) -> None:
    """The header names an impossible chunk size."""
    _found(s, DiskHeader(chunk_sectors=size).pack())
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))


@scenario()
def chunk_size_on_disk_too_small_for_blocks(s: Script) -> None:
    """The header names a chunk smaller than the logical block of the device."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, block_size=4096)
    s.poke("cow", 0, build(4, sectors=8))
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))


@scenario(magic=(0, 1, 0x70416E54), version=(0, 1, 2), valid=(0, 1))
def foreign_header(s: Script, magic: int, version: int, valid: int) -> None:
    """Headers of something else: magic 0 is a new store whatever follows, all else is refused."""
    _found(s, DiskHeader(magic, valid, version, 16).pack() + b"and what follows" * 31)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.resume("snap")
    s.image("cow")


@scenario(valid=(0, 1, 2, 0x80000000), version=(0, 1, 2))
def header_flags(s: Script, valid: int, version: int) -> None:
    """Valid and version of a store: any value but 0 is valid, any version but 1 is refused."""
    exceptions = allocate([0, 1, 5], 8)
    header = DiskHeader(valid=valid, version=version, chunk_sectors=8)
    _found(s, build(8, exceptions, header=header))
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.resume("snap")
    s.write("snap", 64, 3)


@scenario()
def foreign_disk(s: Script) -> None:
    """A COW device full of foreign data."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 64, stamped=True)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.image("cow")
    s.load("snap", s.snapshot_line("base", "cow", "N", 8))
    s.resume("snap")
    s.write("snap", 3, 1)


def _entries(pairs: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(ENTRY.pack(old, new) for old, new in pairs)


@scenario(store=("P", "PO"))
def stale_entries(s: Script, store: str) -> None:
    """Entries after the end marker are kept, and become live once the marker is overwritten."""
    _found(s, build(8, allocate([3], 8), stale=[(7, 9), (1, 5)]))
    _use(s, store=store)
    s.reactivate("snap", "base", "cow", "P", 8)
    s.read("snap", 0, 128)


@scenario(new=(0x1000, 30, 31, 32, 33, 100, 0xFFFFFFFF))
def entry_beyond_the_cow(s: Script, new: int) -> None:
    """An entry that points beyond the device: accepted, its chunk unreadable, no space left."""
    _found(s, build(8, [(2, new), (3, 2)]))
    _use(s)


@scenario(new=(0, 1, 2))
def entry_at_metadata(s: Script, new: int) -> None:
    """Entries that point at the header or at an area: nothing checks this."""
    _found(s, build(8, [(2, 4), (9, new), (3, 5)]))
    _use(s)


@scenario()
def entries_with_holes(s: Script) -> None:
    """Entries that leave chunks unused: those are never handed out again."""
    _found(s, build(8, [(2, 3), (9, 7), (3, 12)]))
    _use(s)


@scenario(second=(2, 6))
def duplicate_entries(s: Script, second: int) -> None:
    """Two entries for one old chunk: which of them wins is the order of a list."""
    _found(s, build(8, [(2, 2), (5, 3), (2, 4), (second, 5), (9, 6)]))
    _use(s)


@scenario(larger=(False, True))
def duplicate_entries_alone(s: Script, larger: bool) -> None:
    """Three entries for one old chunk, and none for a larger one, or one: the rule differs."""
    _found(s, build(8, [(5, 4), (5, 2), (5, 7), *([(6, 9)] if larger else [])]))
    _use(s)


@scenario()
def two_chunks_in_one_place(s: Script) -> None:
    """Two old chunks in the same new chunk: each write is seen through both."""
    _found(s, build(8, [(2, 2), (5, 2)]))
    _use(s)
    s.write("snap", 17, 3)
    s.read("snap", 16, 32)


@scenario()
def runs_in_any_order(s: Script) -> None:
    """Runs that grow at both ends, and records that look like a run but are not."""
    _found(s, build(8, [(4, 4), (5, 5), (3, 3), (7, 6), (8, 8), (10, 9), (9, 7)]))
    _use(s)


@scenario()
def old_chunk_beyond_the_origin(s: Script) -> None:
    """Exceptions for chunks that the origin does not have."""
    _found(s, build(8, [(2, 2), (1000, 3), (1 << 50, 4)]))
    _use(s)


@scenario(areas=(1, 2), rows=("lvmsync: an exactly full area",))
def device_ends_behind_a_full_area(s: Script, areas: int) -> None:
    """The last area is full and the next one lies beyond the end: the load fails."""
    image = build(1, allocate(range(32 * areas), 1))
    cut = 1 + 33 * areas
    s.disk("base", 128, stamped=True)
    s.disk("cow", cut)
    s.poke("cow", 0, image[: bytes_of_sectors(cut)])
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 1))


@scenario(bad=("header", "area"))
def unreadable_store(s: Script, bad: str) -> None:
    """The header, or the first area, cannot be read."""
    s.disk("store", 128)
    s.disk("base", 64, stamped=True)
    s.device("cow", linear("store", 128))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 3)
    s.remove("snap")
    s.reload("cow", *patched("store", 128, 0 if bad == "header" else 8, error(8)))
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))


@scenario(bad=("header", "area"))
def unwritable_store(s: Script, bad: str) -> None:
    """A new store whose header, or first area, cannot be written."""
    s.disk("store", 128)
    s.disk("base", 64, stamped=True)
    s.device("cow", *patched("store", 128, 0 if bad == "header" else 8, zero(8)))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 3)
    s.reactivate("snap", "base", "cow", "P", 8)


@scenario(rows=("lvm2: lvextend-snapshot-policy",))
def cow_grows(s: Script) -> None:
    """The COW device grows under a live snapshot: there is room at once, an overflow stays."""
    s.disk("store", 256)
    s.disk("base", 128, stamped=True)
    s.device("cow", linear("store", 40))
    s.snapshot("snap", "base", "cow", "PO", 8)
    s.write("snap", 0, 16)
    s.reload("cow", linear("store", 64))
    s.write("snap", 16, 24)
    s.write("snap", 64, 24)
    s.reload("cow", linear("store", 256))
    s.write("snap", 0, 8)
    s.reactivate("snap", "base", "cow", "PO", 8)
    s.write("snap", 100, 3)


@scenario(rows=("lvm2: snapshot-cow-reduce",))
def cow_shrinks(s: Script) -> None:
    """The COW device shrinks below what is used."""
    s.disk("store", 256)
    s.disk("base", 128, stamped=True)
    s.device("cow", linear("store", 128))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 64)
    s.reload("cow", linear("store", 56))
    s.read("snap", 0, 40)
    s.read("snap", 40, 24)
    s.write("snap", 1, 1)
    s.write("snap", 50, 1)
    s.write("snap", 100, 1)


@scenario()
def stale_area(s: Script) -> None:
    """The COW device is full of old entries where the next area will be: it is zeroed first."""
    count = entries_per_area(1)
    s.disk("base", 64, stamped=True)
    s.disk("cow", 128)
    s.poke("cow", 34, _entries((number, 50 + number) for number in range(count)))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.write("snap", 0, count)
    s.image("cow")
    s.reactivate("snap", "base", "cow", "P", 1)
    s.read("snap", 0, 64)


@scenario(more=(1, 2, 3))
def stale_entries_come_to_life(s: Script, more: int) -> None:
    """Old entries lie after the end marker: new exceptions overwrite the marker."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 128, stamped=True)
    s.poke("cow", 0, build(1, [(1, 5), (2, 6)], stale=[(9, 20), (10, 21)]))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.read("snap", 0, 64)
    s.write("snap", 30, more)
    s.reactivate("snap", "base", "cow", "P", 1)
    s.read("snap", 0, 64)
    s.write("snap", 40, 2)
