"""I/O that meets other I/O in flight, without a race: a suspended device below holds it back.

A merge or a copy waits for the suspended device; what arrives meanwhile meets it there, however
slow the machine is.
"""

from harness.scenarios.io_errors import RACE
from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, delay, error, linear, reading, writing
from harness.trace.files import Layer


def _cast(
    s: Script, *, sectors: int = 256, chunk: int = 8, can_fail: bool = False, late_ms: int = 0
) -> None:
    """Snapshot and origin over mapped devices: ``base``, and ``cow`` in pieces.

    The store's header and first area lie on ``meta``, all else on ``data``, which may take its
    writes late; the disk below the origin may be one that ``can_fail``.
    """
    meta = 2 * chunk
    s.disk("base-disk", sectors, stamped=True, can_fail=can_fail)
    s.disk("meta-disk", meta)
    s.disk("data-disk", 512)
    s.device("base", linear("base-disk", sectors))
    s.device("meta", linear("meta-disk", meta))
    s.device(
        "data",
        delay("data-disk", 512, 0, write_ms=late_ms) if late_ms else linear("data-disk", 512),
    )
    s.device("cow", linear("meta", meta), linear("data", 512))
    s.snapshot("snap", "base", "cow", "P", chunk)
    s.origin("org", "base")


def _ready_to_merge(s: Script, suspended: str, *, can_fail: bool = False, late_ms: int = 0) -> None:
    """Four runs; the merge of the last one, chunks 20 and 21, has got as far as it can."""
    _cast(s, can_fail=can_fail, late_ms=late_ms)
    s.write("snap", 24, 24)
    s.write("snap", 72, 5)
    s.write("snap", 64, 3)
    s.write("snap", 160, 16)
    s.suspend(suspended)
    s.merge("org", "snap", "base", "cow", 8)
    s.status("org")


@scenario(suspended=("base", "meta"), where=(160, 72, 200))
def write_during_its_merge(s: Script, suspended: str, where: int) -> None:
    """Writes to chunks that are being merged wait; others go to the COW device or the origin."""
    _ready_to_merge(s, suspended)
    s.parallel(
        ("org", where, 3),
        ("org", where + 1, 4),
        ("org", 208, 2),
        reading("org", where, 8),
        resume=(suspended,),
    )
    s.read("org", 0, 256)
    s.write("org", where, 8)


@scenario(suspended=("base", "meta"))
def everything_during_a_merge(s: Script, suspended: str) -> None:
    """Reads and writes of everything, across chunks."""
    _ready_to_merge(s, suspended)
    s.parallel(
        *(("org", sector, 13) for sector in range(0, 240, 11)),
        reading("org", 5, 200),
        resume=(suspended,),
    )
    s.read("org", 0, 256)


@scenario(first=("meta", "data"), where=(72, 24))
def merge_waits_for_writes(s: Script, first: str, where: int) -> None:
    """A write to a chunk that is still to be merged is on its way to the COW device."""
    _ready_to_merge(s, "meta")
    s.suspend("data")
    s.parallel(
        ("org", where, 3),
        ("org", where + 2, 5),
        resume=(first, "data" if first == "meta" else "meta"),
    )
    s.read("org", 0, 256)


@scenario(where=(72, 40))
def merge_waits_for_late_writes(s: Script, where: int) -> None:
    """The next run is to be merged while writes to it are still on their way.

    They do not overlap: which of two a delay lets go first is a race.
    """
    _ready_to_merge(s, "meta", late_ms=30)
    s.parallel(("org", where, 3), ("org", where + 3, 5), resume=("meta",))
    s.read("org", 0, 256)


@scenario(run=(160, 24))
def queued_behind_a_merge_that_fails(s: Script, run: int) -> None:
    """Writes wait for the merge of their chunks.  It fails, and each of them gets EIO; or later."""
    s.leave_out(Layer.REQUESTS, RACE)
    _ready_to_merge(s, "base", can_fail=True)
    s.fault("base-disk", "write", run, 8)
    s.parallel(
        ("org", 160, 3),
        ("org", 162, 6),
        ("org", 72, 2),
        ("org", 208, 2),
        reading("org", 150, 30),
        resume=("base",),
    )
    s.heal("base-disk")
    s.write("org", 160, 3)
    s.read("org", 0, 256)


@scenario(suspended=("base", "data", "meta"))
def merge_fails_with_writes_waiting(s: Script, suspended: str) -> None:
    """The merge meets an error below: only what waited for its chunks is refused."""
    _ready_to_merge(s, suspended)
    below = f"{suspended}-disk"
    size = {"base": 256, "data": 512, "meta": 16}[suspended]
    s.load(suspended, error(size))
    s.resume(suspended)
    s.write("org", 160, 2)
    s.reload(suspended, linear(below, size))
    s.write("org", 160, 2)
    s.write("org", 72, 2)


@scenario(chunk=(4, 8, 16))
def merge_beside_a_snapshot(s: Script, chunk: int) -> None:
    """Another snapshot's copies are in flight while the origin is merged and written.

    Nothing needs to be copied for the first run: a resume would wait for that.
    """
    _cast(s)
    s.disk("other-disk", 1024)
    s.device("other", linear("other-disk", 1024))
    s.snapshot("snap2", "base", "other", "P", chunk)
    s.write("snap", 24, 24)
    s.write("snap", 160, 16)
    s.write("snap2", 160, 16)
    s.suspend("other")
    s.merge("org", "snap", "base", "cow", 8)
    s.parallel(
        ("org", 160, 4),
        ("org", 170, 4),
        ("org", 100, 4),
        ("org", 28, 8),
        reading("org", 150, 40),
        resume=("other",),
    )
    s.read("org", 0, 256)
    s.read("snap2", 0, 256)


@scenario(
    order=("read first", "write first"),
    write=("org", "snap"),
    sectors=(3, 8),
    rows=("F: read of the origin and the exception that overtakes it",),
)
def read_of_the_origin_in_flight(s: Script, order: str, write: str, sectors: int) -> None:
    """A snapshot reads from the origin the chunk that is about to be copied."""
    _cast(s)
    s.device("above", linear("snap", 256))
    s.suspend("base")
    ios = (reading("snap", 8, sectors), writing(write, 8, sectors, 77))
    s.parallel(
        *(ios if order == "read first" else ios[::-1]),
        reading("above", 9, sectors),
        resume=("base",),
    )
    s.read("snap", 0, 32)
    s.read("org", 0, 32)


@scenario(suspended=("base", "data", "meta"))
def writes_of_one_chunk_in_flight(s: Script, suspended: str) -> None:
    """Origin and snapshot write one chunk and its neighbours while its copy is held up."""
    _cast(s)
    s.suspend(suspended)
    s.parallel(
        ("org", 8, 3),
        ("snap", 9, 4),
        ("snap", 16, 8),
        ("org", 16, 8),
        ("org", 6, 12),
        ("snap", 4, 2),
        ("org", 12, 1),
        reading("org", 0, 24),
        reading("snap", 0, 24),
        resume=(suspended,),
    )
    s.read("snap", 0, 32)
    s.read("org", 0, 32)


@scenario(suspended=("base", "data"))
def long_writes_in_flight(s: Script, suspended: str) -> None:
    """Requests across many chunks find copies pending, on both sides."""
    _cast(s, sectors=512)
    s.suspend(suspended)
    s.parallel(
        ("org", 0, 100), ("snap", 40, 100), ("org", 60, 200), ("snap", 200, 64), resume=(suspended,)
    )
    s.read("snap", 0, 512)
    s.read("org", 0, 512)


@scenario(threshold=("0", "1", "2"), store=("P", "N"))
def threshold_for_each_snapshot(s: Script, threshold: str, store: str) -> None:
    """An origin write goes on when every snapshot has room for its copies."""
    s.parameter("snapshot_cow_threshold", threshold)
    s.disk("base", 128, stamped=True)
    for number in range(2):
        s.disk(f"store{number}", 512)
        s.device(f"cow{number}", delay(f"store{number}", 512, 10 * number))
        s.snapshot(f"snap{number}", "base", f"cow{number}", store, 8)
    s.origin("org", "base")
    s.parallel(*(("org", 8 * chunk, 5) for chunk in range(5)), ("snap0", 41, 2), ("org", 3, 40))
    s.read("snap0", 0, 128)
    s.read("snap1", 0, 128)


@scenario(cow=("plain", "late", "counted"), store=("P", "N"))
def copies_out_of_order(s: Script, cow: str, store: str) -> None:
    """The first copies end last: they are committed first all the same."""
    if cow == "counted":
        s.leave_out(Layer.REQUESTS, RACE)
    s.disk("base-disk", 256, stamped=True)
    s.disk("store", 512, can_fail=cow == "counted")
    s.device("part", linear("base-disk", 64))
    s.device("base", linear("part", 64), linear("base-disk", 192, 64))
    if cow == "late":
        s.device("cow", delay("store", 512, 0, write_ms=15))
    s.snapshot("snap", "base", "cow" if cow == "late" else "store", store, 8)
    s.origin("org", "base")
    s.suspend("part")
    s.parallel(
        ("org", 8, 3),
        ("snap", 24, 5),
        ("org", 96, 20),
        ("snap", 72, 5),
        ("snap", 200, 8),
        ("org", 160, 2),
        resume=("part",),
    )
    s.write("snap", 128, 3)
    s.read("snap", 0, 256)


@scenario(threshold=("0", "2048"))
def threshold_and_requests(s: Script, threshold: str) -> None:
    """With one copy at a time, each exception is committed by a separate write."""
    if threshold != "0":
        s.leave_out(Layer.REQUESTS, RACE)
    s.parameter("snapshot_copy_throttle", "7")
    s.parameter("snapshot_cow_threshold", threshold)
    s.parameter("snapshot_copy_throttle", "100")
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, can_fail=True)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.parallel(*(("snap", 8 * chunk, 5) for chunk in range(5)))
    s.read("snap", 0, 128)
