"""Many snapshots of one origin, of equal and of different chunk sizes; origins of every kind."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, error, linear, patched, zero

STORES = ("P", "N")


def _snapshots(s: Script, count: int, store: str, chunk: int, cow_sectors: int) -> list[str]:
    names = [f"snap{number}" for number in range(count)]
    for number, name in enumerate(names):
        s.disk(f"cow{number}", cow_sectors)
        s.snapshot(name, "base", f"cow{number}", store, chunk)
    return names


@scenario(count=(101,), store=STORES, rows=("dmtest: create_lots_of_snaps_{store}",))
@scenario(count=(1, 2, 8), store=STORES)
def snapshots_of_one_origin(s: Script, count: int, store: str) -> None:
    """Every snapshot gets its own copy of what the origin loses."""
    s.disk("base", 128, stamped=True)
    names = _snapshots(s, count, store, 8, 192)
    s.origin("org", "base")
    s.write("org", 3, 20)
    s.write(names[0], 16, 8)
    s.write(names[-1], 30, 4)
    s.write("org", 0, 64)
    s.read(names[0], 0, 64)
    s.remove(*names[1:])
    s.write("org", 64, 8)


@scenario(store=STORES, rows=("dmtest: many_snapshots_of_same_volume_{store}",))
def many_snapshots_of_same_volume(s: Script, store: str) -> None:
    """Sixteen snapshots; the origin is written before and after, then the first snapshot."""
    s.disk("base", 512, stamped=True)
    s.origin("org", "base")
    s.write("org", 0, 512)
    s.suspend("org")
    names = _snapshots(s, 16, store, 8, 1024)
    s.resume("org")
    s.write("org", 100, 400)
    s.write(names[0], 0, 300)
    s.read(names[15], 0, 512)


@scenario(store=STORES, rows=("dmtest: many_snaps_with_changes_{store}",))
def many_snapshots_with_changes(s: Script, store: str) -> None:
    """One generation after another, a snapshot of each."""
    s.disk("base", 64, stamped=True)
    s.origin("org", "base")
    for number in range(12):
        s.suspend("org")
        s.disk(f"cow{number}", 128)
        s.snapshot(f"snap{number}", "base", f"cow{number}", store, 8)
        s.resume("org")
        s.write("org", number * 5, 9)
    for number in range(12):
        s.read(f"snap{number}", 0, 64)


@scenario(store=STORES)
def mixed_chunk_sizes(s: Script, store: str) -> None:
    """Snapshots with chunks of 1 to 128 sectors on one origin, created in mixed order."""
    s.disk("base", 512, stamped=True)
    for chunk in (16, 128, 1, 8, 64):
        s.disk(f"cow{chunk}", 2048)
        s.snapshot(f"snap{chunk}", "base", f"cow{chunk}", store, chunk)
    s.origin("org", "base")
    s.write("org", 5, 1)
    s.write("org", 130, 200)
    s.write("snap16", 5, 20)
    s.write("org", 0, 40)
    for chunk in (128, 64, 16, 8, 1):
        s.read(f"snap{chunk}", 0, 512)


@scenario()
def new_smaller_snapshot(s: Script) -> None:
    """The origin is suspended and resumed around each new snapshot, and cuts ever finer."""
    s.disk("base", 256, stamped=True)
    s.origin("org", "base")
    for chunk in (64, 16, 4):
        s.suspend("org")
        s.disk(f"cow{chunk}", 1024)
        s.snapshot(f"snap{chunk}", "base", f"cow{chunk}", "P", chunk)
        s.resume("org")
        s.write("org", 256 - 4 * chunk, 2 * chunk)
    for chunk in (64, 16, 4):
        s.read(f"snap{chunk}", 0, 256)


@scenario(store=STORES)
def origin_not_resumed(s: Script, store: str) -> None:
    """A snapshot under a running origin: a long origin write copies its first chunk only.

    The origin takes the boundary at which it cuts writes when it is resumed, so the other chunks
    of the write are lost to the snapshot.
    """
    s.disk("base", 256, stamped=True)
    s.origin("org", "base")
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", store, 8)
    s.write("org", 16, 32)
    s.read("snap", 0, 64)
    s.suspend("org")
    s.resume("org")
    s.write("org", 64, 32)
    s.read("snap", 64, 64)


@scenario()
def write_below_the_origin(s: Script) -> None:
    """Writes to the disk itself go unnoticed: the snapshot shows them."""
    s.snapshot_and_origin("P", 8)
    s.write("base", 0, 16)
    s.read("snap", 0, 32)
    s.write("org", 4, 2)
    s.write("base", 0, 8)
    s.read("snap", 0, 32)


@scenario(store=STORES)
def shorter_snapshot(s: Script, store: str) -> None:
    """A snapshot shorter than its origin: writes beyond its end do not concern it."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", store, 16)
    s.remove("snap")
    s.snapshot("snap", "base", "cow", store, 16, sectors=40)
    s.origin("org", "base")
    s.write("org", 36, 10)
    s.write("org", 60, 4)
    s.write("snap", 39, 1)
    s.read("snap", 32, 8)
    s.write("org", 0, 128)


@scenario(store=("P", "N"), sectors=(40, 64, 400, 1200))
def written_past_a_shorter_snapshot(s: Script, store: str, sectors: int) -> None:
    """A write crosses the end of a snapshot within a chunk: the part beyond waits for no copy."""
    s.disk("base", 2400, stamped=True)
    s.disk("cow1", 4096)
    s.disk("cow2", 4096)
    s.snapshot("snap1", "base", "cow1", store, 32, sectors=1200)
    s.snapshot("snap2", "base", "cow2", "P", 8, sectors=1200)
    s.origin("org", "base")
    s.write("org", 1184, sectors)
    s.read("snap1", 1100, 100)
    s.read("snap2", 1100, 100)
    s.write("org", 8, sectors)
    s.read("snap1", 0, 1200)
    s.examine()


@scenario()
def two_origins_on_one_disk(s: Script) -> None:
    """Two snapshot-origin targets on the same device, resumed at different times."""
    s.disk("base", 128, stamped=True)
    s.origin("early", "base")
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.origin("late", "base")
    s.write("late", 8, 24)
    s.write("early", 40, 4)
    s.read("snap", 0, 128)
    s.remove("late")
    s.write("early", 64, 3)


@scenario()
def snapshot_of_the_origin_device(s: Script) -> None:
    """A snapshot of the snapshot-origin itself is a snapshot of another device."""
    s.disk("base", 128, stamped=True)
    s.origin("org", "base")
    s.disk("cow", 256)
    s.snapshot("snap", "org", "cow", "P", 8)
    s.write("org", 0, 16)
    s.read("snap", 0, 32)
    s.origin("top", "org")
    s.write("top", 32, 16)
    s.read("snap", 0, 64)
    s.remove("org")
    s.remove("top", "snap", "org")


@scenario()
def snapshot_of_a_snapshot(s: Script) -> None:
    """A snapshot whose origin is a snapshot, with an origin target between them."""
    s.snapshot_and_origin("P", 8)
    s.disk("cow2", 512)
    s.snapshot("snap2", "snap", "cow2", "P", 16)
    s.origin("middle", "snap")
    s.write("middle", 3, 20)
    s.write("org", 0, 40)
    s.write("snap2", 10, 3)
    s.read("snap2", 0, 64)
    s.read("snap", 0, 64)


@scenario(store=STORES, rows=("F: a whole chunk is written without reading the origin",))
def bad_origin(s: Script, store: str) -> None:
    """An unreadable origin: whole chunks can still be written, a copy is fatal."""
    s.device("bad", error(64))
    s.disk("cow", 128)
    s.snapshot("snap", "bad", "cow", store, 8)
    s.read("snap", 0, 8)
    s.write("snap", 0, 8)
    s.read("snap", 0, 8)
    s.write("snap", 16, 16)
    s.write("snap", 41, 3)
    s.read("snap", 0, 8)
    s.flush("snap")


@scenario(store=STORES)
def half_bad_origin(s: Script, store: str) -> None:
    """Part of the origin fails: an origin write there fails too, and invalidates the snapshot."""
    s.disk("good", 64, stamped=True)
    s.device("base", linear("good", 32), error(32))
    s.disk("cow", 128)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("org", 8, 8)
    s.read("snap", 0, 64)
    s.write("org", 36, 2)
    s.read("snap", 0, 8)
    s.read("org", 0, 16)


@scenario(store=STORES)
def bad_cow(s: Script, store: str) -> None:
    """The COW device fails after its metadata: the first copy invalidates the snapshot."""
    s.disk("store", 32)
    s.disk("base", 64, stamped=True)
    s.device("cow", linear("store", 24), error(104))
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("snap", 0, 3)
    s.write("snap", 8, 8)
    s.write("org", 16, 3)
    s.write("snap", 24, 8)
    s.write("snap", 0, 3)


@scenario(which=("snap", "org"))
def bad_metadata(s: Script, which: str) -> None:
    """The metadata area cannot be written: invalid, though the header still can be."""
    s.disk("store", 128)
    s.disk("base", 64, stamped=True)
    s.device("cow", linear("store", 128))
    s.snapshot("snap", "base", "cow", "PO", 8)
    s.origin("org", "base")
    s.write(which, 0, 3)
    s.reload("cow", *patched("store", 128, 8, error(8)))
    s.write(which, 20, 3)
    s.read("snap", 0, 32)


@scenario()
def bad_header(s: Script) -> None:
    """The header cannot be written at invalidation: a reload finds a valid snapshot again."""
    s.disk("store", 128)
    s.disk("base", 64, stamped=True)
    s.device("cow", linear("store", 128))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 3)
    s.reload("cow", error(16), linear("store", 112, 16))
    s.write("snap", 20, 3)
    s.remove("snap")
    s.reload("cow", linear("store", 128))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.read("snap", 0, 32)


@scenario(start=(8, 16, 20))
def target_not_at_zero(s: Script, start: int) -> None:
    """A snapshot that does not start at sector 0 of its table: the start is not subtracted."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.device("snap", zero(start), s.snapshot_line("base", "cow", "P", 8, sectors=100 - start))
    s.write("snap", start, 8)
    s.write("snap", start + 9, 3)
    s.read("snap", 0, 64)


@scenario()
def origin_not_at_zero(s: Script) -> None:
    """A snapshot-origin after another target, and two of them in one table."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.device("org", zero(12), s.origin_line("base", sectors=52), s.origin_line("base", sectors=64))
    s.write("org", 10, 20)
    s.write("org", 60, 10)
    s.read("snap", 0, 128)
    s.suspend("org")
    s.resume("org")


@scenario()
def one_table_two_snapshots(s: Script) -> None:
    """Two snapshot targets in one table, with different chunk sizes."""
    s.disk("base", 128, stamped=True)
    s.disk("cow1", 256)
    s.disk("cow2", 256)
    s.device(
        "snap",
        s.snapshot_line("base", "cow1", "P", 8, sectors=64),
        s.snapshot_line("base", "cow2", "P", 32, sectors=64),
    )
    s.origin("org", "base")
    s.write("snap", 60, 10)
    s.write("org", 0, 128)
    s.read("snap", 0, 128)


@scenario()
def same_cow_under_two_origins(s: Script) -> None:
    """The same COW device for two origins is not detected: the second load finds a store."""
    s.disk("base1", 64, stamped=True)
    s.disk("base2", 64, stamped=True)
    s.disk("cow", 256)
    s.snapshot("snap1", "base1", "cow", "P", 8)
    s.snapshot("snap2", "base2", "cow", "P", 8)
    s.write("snap1", 0, 3)
    s.write("snap2", 8, 3)
    s.read("snap1", 0, 16)
    s.read("snap2", 0, 16)
