"""A store that runs full: by the snapshot's writes or the origin's, with and without overflow."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script

STORES = ("P", "PO", "N")


@scenario(store=STORES, rows=("android: DmSnapshotOverflow", "xfstests: generic/081"))
def overflow_by_snapshot(s: Script, store: str) -> None:
    """The snapshot writes more than fits: then every kind of I/O on what is left."""
    s.snapshot_and_origin(store, 8, origin_sectors=128, cow_sectors=40)
    for sector in range(0, 64, 8):
        s.write("snap", sector, 3)
    s.read("snap", 0, 8)
    s.read("snap", 0, 128)
    s.write("snap", 0, 8)
    s.flush("snap")
    s.write("org", 0, 8)
    s.write("org", 100, 8)
    s.read("snap", 0, 8)
    s.flush("snap")


@scenario(store=STORES, rows=("blksnap: overflow", "dattobd: overflow"))
def overflow_by_origin(s: Script, store: str) -> None:
    """The origin writes more than fits: the snapshot is invalid, the origin goes on."""
    s.snapshot_and_origin(store, 8, origin_sectors=128, cow_sectors=40)
    for sector in range(0, 64, 8):
        s.write("org", sector, 3)
    s.read("snap", 0, 8)
    s.write("snap", 0, 8)
    s.write("org", 64, 64)


@scenario(store=STORES, writer=("snap", "org"))
def overflow_exactly_full(s: Script, store: str, writer: str) -> None:
    """The last chunk is used and no more is needed; then it is rewritten; then one more."""
    s.snapshot_and_origin(store, 8, origin_sectors=128, cow_sectors=48)
    s.write(writer, 0, 32)
    if store == "N":
        s.write(writer, 32, 16)
    s.write("snap", 0, 32)
    s.read("snap", 0, 64)
    s.write(writer, 64, 1)


@scenario(store=STORES)
def overflow_one_of_many(s: Script, store: str) -> None:
    """Three snapshots, one with a small store: only that one gives up."""
    s.disk("base", 128, stamped=True)
    for number, sectors in enumerate((256, 40, 256)):
        s.disk(f"cow{number}", sectors)
        s.snapshot(f"snap{number}", "base", f"cow{number}", store, 8)
    s.origin("org", "base")
    for sector in range(0, 128, 24):
        s.write("org", sector, 10)
    for number in range(3):
        s.read(f"snap{number}", 0, 128)


@scenario(store=("P", "PO"))
def overflow_and_reload(s: Script, store: str) -> None:
    """An overflow survives a reload, and ends when the snapshot is removed and recreated."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 40)
    s.snapshot("snap", "base", "cow", store, 8)
    s.write("snap", 0, 24)
    s.write("snap", 64, 1)
    s.reload("snap", s.snapshot_line("base", "cow", store, 8))
    s.read("snap", 0, 32)
    s.write("snap", 0, 1)
    s.reactivate("snap", "base", "cow", store, 8)
    s.read("snap", 0, 32)
    s.write("snap", 0, 1)


@scenario(store=STORES, writer=("snap", "org"))
def overflow_in_one_write(s: Script, store: str, writer: str) -> None:
    """One long write that runs out of space half way."""
    s.snapshot_and_origin(store, 8, origin_sectors=256, cow_sectors=80)
    s.write(writer, 4, 200)
    s.read("snap", 0, 256)
    s.read("org", 0, 256)


@scenario(
    store=STORES, chunk=(1, 16), rows=("G4: the status line step by step", "lvm2: usage percent")
)
def fill_chunk_by_chunk(s: Script, store: str, chunk: int) -> None:
    """Status after every chunk until nothing fits any more."""
    s.snapshot_and_origin(store, chunk, origin_sectors=64 * chunk, cow_sectors=20 * chunk + 5)
    for index in range(22):
        s.write("snap", index * chunk, chunk)


@scenario(store=STORES)
def events_of_invalidation(s: Script, store: str) -> None:
    """Invalidation raises an event, once; overflow raises none."""
    s.snapshot_and_origin(store, 8, origin_sectors=128, cow_sectors=24)
    s.wait("snap", 0)
    s.write("snap", 0, 8)
    s.write("snap", 8, 8)
    s.write("snap", 16, 8)
    s.wait("snap", 0)
    s.write("org", 40, 8)
    s.wait("snap", 0)
    s.wait("snap", 1)
    s.write("org", 48, 8)
