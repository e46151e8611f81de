"""Writes to a snapshot and its origin: every size and alignment, in turns."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, zero

STORES = ("P", "N")
CHUNKS = (8, 16, 128)


@scenario(store=STORES, chunk=(1, *CHUNKS))
def write_one_sector(s: Script, store: str, chunk: int) -> None:
    """One sector at the start, in the middle and at the end of a chunk."""
    s.snapshot_and_origin(store, chunk, cow_sectors=1024)
    s.write("snap", 0, 1)
    s.write("snap", chunk + chunk // 2, 1)
    s.write("org", 3 * chunk // 2, 1)
    s.write("snap", 2 * chunk - 1, 1)
    s.write("org", 255, 1)
    s.read("snap", 0, 256)


@scenario(store=STORES, chunk=CHUNKS)
def write_part_of_chunk(s: Script, store: str, chunk: int) -> None:
    """Parts of a chunk: the rest of it is copied from the origin."""
    s.snapshot_and_origin(store, chunk, cow_sectors=1024)
    s.write("snap", 1, chunk - 1)
    s.write("snap", chunk, chunk - 1)
    s.write("org", 1, 2)
    s.read("snap", 0, 2 * chunk)
    s.read("org", 0, 2 * chunk)


@scenario(store=STORES, chunk=(1, *CHUNKS))
def write_whole_chunk(s: Script, store: str, chunk: int) -> None:
    """Whole chunks need no copy; chunks already there are overwritten in place."""
    s.snapshot_and_origin(store, chunk, cow_sectors=1024)
    s.write("snap", 0, chunk)
    s.write("snap", chunk, chunk)
    s.write("snap", 0, chunk)
    s.write("org", 0, chunk)
    s.read("snap", 0, 2 * chunk)


@scenario(store=STORES, chunk=CHUNKS)
def write_across_chunks(s: Script, store: str, chunk: int) -> None:
    """Unaligned writes that touch several chunks: copies at the ends, none between."""
    s.snapshot_and_origin(store, chunk, origin_sectors=8 * chunk, cow_sectors=16 * chunk)
    s.write("snap", chunk // 2, chunk)
    s.write("org", chunk - 1, 2)
    s.write("snap", 3 * chunk - 3, 2 * chunk + 6)
    s.read("snap", 0, 8 * chunk)


@scenario(store=STORES, chunk=(1, 8))
def write_across_areas(s: Script, store: str, chunk: int) -> None:
    """More exceptions than two metadata areas hold, by large and by small writes."""
    sectors = 600 * 8 if chunk == 8 else 80
    s.snapshot_and_origin(store, chunk, origin_sectors=sectors, cow_sectors=2 * sectors)
    s.write("snap", 0, sectors // 2)
    s.write("org", sectors // 4, sectors // 2)
    s.read("snap", 0, sectors)


@scenario(
    chunk=(1, 2, 8),
    rows=("lvm2: snapshot-usage (metadata sectors)", "G4: the status line step by step"),
)
def one_by_one_through_areas(s: Script, chunk: int) -> None:
    """Status after each exception: where allocation and metadata jump at the end of an area."""
    count = {1: 70, 2: 70, 8: 12}[chunk]
    s.snapshot_and_origin("P", chunk, origin_sectors=count * chunk, cow_sectors=4 * count * chunk)
    for index in range(count):
        s.write("snap" if index % 3 else "org", index * chunk, 1)


@scenario(store=STORES, chunk=CHUNKS)
def in_turns(s: Script, store: str, chunk: int) -> None:
    """Origin and snapshot write the same and neighbouring chunks in turns."""
    s.snapshot_and_origin(store, chunk, origin_sectors=16 * chunk, cow_sectors=32 * chunk)
    for turn in range(6):
        s.write("org", turn * chunk + turn, chunk // 2)
        s.write("snap", turn * chunk + chunk // 4, chunk)
        s.read("snap", turn * chunk, 2 * chunk)
    s.write("org", 0, 16 * chunk)
    s.read("snap", 0, 16 * chunk)


@scenario(rows=("dmtest: snapshot_writes_do_not_affect_origin_{store}",), store=STORES)
def snapshot_writes_do_not_affect_origin(s: Script, store: str) -> None:
    """The snapshot is written in many places; the origin shows none of it."""
    s.snapshot_and_origin(store, 8, origin_sectors=1024, cow_sectors=2048)
    for sector in range(0, 1024, 40):
        s.write("snap", sector, 5)
    s.read("org", 0, 1024)


@scenario(rows=("dmtest: origin_writes_do_not_affect_snapshot_{store}",), store=STORES)
def origin_writes_do_not_affect_snapshot(s: Script, store: str) -> None:
    """The origin is written in many places, twice; the snapshot shows none of it."""
    s.snapshot_and_origin(store, 8, origin_sectors=1024, cow_sectors=2048)
    for step in (40, 56):
        for sector in range(0, 1000, step):
            s.write("org", sector, 11)
    s.read("snap", 0, 1024)


@scenario(
    store=STORES, rest=(1, 5, 7), rows=("blksnap: boundary writes", "dattobd: boundary writes")
)
def tail_chunk(s: Script, store: str, rest: int) -> None:
    """An origin that is not a multiple of the chunk: its last chunk is copied up to the end."""
    s.disk("base", 64 + rest, stamped=True)
    s.disk("cow", 256, stamped=store == "N")
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("org", 64, 1)
    s.write("snap", 60, 4 + rest)
    s.read("snap", 56, 8 + rest)
    s.write("snap", 60, 16)


@scenario(store=STORES)
def full_tail_chunk_is_short(s: Script, store: str) -> None:
    """A write of the whole partial last chunk is not a whole chunk: it is copied first."""
    s.disk("base", 20, stamped=True)
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", store, 8)
    s.write("snap", 16, 4)
    s.image("cow")


@scenario(store=STORES, rows=("blksnap: boundary writes", "dattobd: boundary writes"))
def beyond_the_end(s: Script, store: str) -> None:
    """Reads and writes that cross or lie beyond the end of the device."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 250, 12)
    s.write("snap", 256, 8)
    s.read("snap", 250, 12)
    s.read("snap", 300, 8)
    s.write("org", 255, 2)


@scenario(chunk=(8, 16, 128, 512))
def long_writes(s: Script, chunk: int) -> None:
    """Writes of megabytes: cut at chunks, at the queue's limit and into requests of 1 MiB."""
    s.snapshot_and_origin("P", chunk, origin_sectors=8192, cow_sectors=20480)
    s.write("snap", 5, 4000)
    s.write("org", 3000, 5000)
    s.read("snap", 2990, 100)
    s.read("snap", 0, 8192)


@scenario(store=STORES, chunk=(1, 8, 16))
def buffered_writes(s: Script, store: str, chunk: int) -> None:
    """Through the page cache: whole blocks reach the snapshot, one bio each."""
    s.snapshot_and_origin(store, chunk, cow_sectors=1024)
    s.write("snap", 3, 2, buffered=True)
    s.write("org", 20, 30, buffered=True)
    s.write("snap", 64, 32, buffered=True)
    s.read("snap", 0, 256, buffered=True)


@scenario()
def buffered_small_blocks(s: Script) -> None:
    """A device of odd length: the page cache falls back to blocks of one sector."""
    s.snapshot_and_origin("P", 8, origin_sectors=129)
    s.write("snap", 3, 2, buffered=True)
    s.write("org", 60, 69, buffered=True)
    s.read("snap", 50, 79, buffered=True)


@scenario(store=STORES)
def zeroout(s: Script, store: str) -> None:
    """BLKZEROOUT falls back to writing zeros, which allocates like any write."""
    s.snapshot_and_origin(store, 16)
    s.zeroout("snap", 8, 40)
    s.zeroout("org", 100, 60)
    s.zeroout("snap", 250, 8)
    s.read("snap", 0, 256)


@scenario(store=STORES)
def discards_refused(s: Script, store: str) -> None:
    """Without the feature neither snapshot nor origin takes a discard."""
    s.snapshot_and_origin(store, 8)
    s.discard("snap", 0, 64)
    s.discard("org", 0, 64)


@scenario(store=STORES)
def flushes(s: Script, store: str) -> None:
    """Flushes in between, on every device."""
    s.snapshot_and_origin(store, 8)
    s.flush("snap")
    s.write("snap", 0, 3)
    s.flush("snap")
    s.flush("org")
    s.write("org", 8, 3)
    s.flush("org")
    s.flush("base")


@scenario(store=STORES)
def zeros_are_data(s: Script, store: str) -> None:
    """Writing zeros, in part of a chunk and in whole ones."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 2, 3, zeros=True)
    s.write("snap", 8, 16, zeros=True)
    s.write("org", 8, 20, zeros=True)
    s.read("snap", 0, 64)


@scenario(rows=("huge sparse disk: chunks of 16, 128, 512",), chunk=(16, 128, 512))
def over_zero_target(s: Script, chunk: int) -> None:
    """A snapshot of dm-zero: a huge sparse disk of 17 TiB, written at both ends."""
    huge = 17 << 31
    s.device("nothing", zero(huge))
    s.disk("cow", 8192)
    s.snapshot("snap", "nothing", "cow", "N", chunk)
    s.write("snap", 3, 5)
    s.write("snap", huge - 9, 9)
    s.write("snap", huge // 2, 2 * chunk)
    s.read("snap", huge - 16, 16)
    s.read("snap", huge // 2 - 8, 3 * chunk)
