"""Several I/Os in flight at once: on one chunk, on neighbours, on origin and snapshot.

Disks answer at once, or late (dm-delay), which keeps copies in flight while more arrives.  Where
the outcome depends on a race, it must be among the twin's permitted orders.
"""

from harness.scenarios.io_errors import RACE
from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, delay, reading, writing
from harness.trace.faults import Op
from harness.trace.files import Layer

STORES = ("P", "N")


@scenario(store=STORES)
def parts_of_one_chunk(s: Script, store: str) -> None:
    """Writes to parts of one chunk wait for the same copy, and go out in the order they came."""
    s.snapshot_and_origin(store, 8)
    s.parallel(("snap", 0, 2), ("snap", 2, 2), ("snap", 1, 2), ("snap", 5, 3))
    s.read("snap", 0, 8)


@scenario(store=STORES)
def whole_chunk_behind_a_part(s: Script, store: str) -> None:
    """A write of a whole chunk that finds a copy started waits like any other."""
    s.snapshot_and_origin(store, 8)
    s.parallel(("snap", 0, 2), ("snap", 0, 8))
    s.parallel(("snap", 8, 8), ("snap", 10, 2))
    s.read("snap", 0, 16)


@scenario(store=STORES, count=(4, 40), rows=("F: commits in the order of allocation",))
def many_chunks(s: Script, store: str, count: int) -> None:
    """Many chunks at once: committed in the order of allocation, few area writes."""
    s.snapshot_and_origin(store, 8, origin_sectors=512, cow_sectors=1024)
    s.parallel(*(("snap", 8 * chunk + chunk % 8, 8 - chunk % 8) for chunk in range(count)))
    s.read("snap", 0, 512)


@scenario(store=STORES)
def origin_and_snapshot(s: Script, store: str) -> None:
    """Origin and snapshot write the same chunk at once, either first."""
    s.snapshot_and_origin(store, 8)
    s.parallel(("org", 0, 4), ("snap", 2, 4))
    s.parallel(("snap", 10, 4), ("org", 8, 4))
    s.parallel(("snap", 16, 8), ("org", 16, 8))
    s.parallel(("org", 24, 8), ("snap", 24, 8))
    s.read("snap", 0, 32)
    s.read("org", 0, 32)


@scenario(store=STORES)
def several_snapshots(s: Script, store: str) -> None:
    """Origin writes while snapshots with other chunk sizes are written too."""
    s.disk("base", 128, stamped=True)
    for number, chunk in enumerate((8, 16, 4)):
        s.disk(f"cow{number}", 512)
        s.snapshot(f"snap{number}", "base", f"cow{number}", store, chunk)
    s.origin("org", "base")
    s.parallel(
        ("org", 0, 20),
        ("snap1", 3, 3),
        ("org", 30, 6),
        ("snap0", 30, 10),
        ("snap2", 2, 1),
        ("org", 64, 32),
    )
    for number in range(3):
        s.read(f"snap{number}", 0, 128)


def _slow_cow(s: Script, store: str, ms: int, *, cow_sectors: int = 512) -> None:
    """A snapshot with a slow COW device."""
    s.disk("base", 128, stamped=True)
    s.disk("store", cow_sectors)
    s.device("cow", delay("store", cow_sectors, ms))
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")


@scenario(store=STORES, rows=("F: commits in the order of allocation",))
def slow_cow(s: Script, store: str) -> None:
    """Copies stay in flight; later writes find their exceptions pending."""
    _slow_cow(s, store, 50)
    s.parallel(("snap", 0, 2), ("org", 4, 2), ("snap", 0, 8), ("org", 0, 1), ("snap", 9, 3))
    s.read("snap", 0, 16)
    s.parallel(("org", 32, 16), ("org", 36, 4), ("snap", 40, 3))
    s.read("snap", 32, 16)


@scenario(store=STORES, rows=("F: read of the origin and the exception that overtakes it",))
def slow_origin(s: Script, store: str) -> None:
    """The origin reads slowly: a read is in flight while an origin write is waiting."""
    s.disk("disk", 128, stamped=True)
    s.device("base", delay("disk", 128, 60, write_ms=0))
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.parallel(reading("snap", 0, 8), writing("org", 0, 8, 77))
    s.read("snap", 0, 16)
    s.read("org", 0, 16)


@scenario(store=("P", "PO", "N"), rows=("F: header and metadata at invalidation",))
def overflow_in_flight(s: Script, store: str) -> None:
    """More chunks at once than fit: some are in flight when the store overflows."""
    s.snapshot_and_origin(store, 8, origin_sectors=128, cow_sectors=48)
    s.parallel(*(("snap", 8 * chunk, 5) for chunk in range(8)))
    s.read("snap", 0, 128)


@scenario(threshold=("0", "1", "2", "2048"))
def threshold_in_flight(s: Script, threshold: str) -> None:
    """The limit on copies in flight changes when they are made, but nothing visible."""
    s.parameter("snapshot_cow_threshold", threshold)
    _slow_cow(s, "P", 20)
    s.parallel(*(("snap", 8 * chunk, 5) for chunk in range(6)))
    s.read("snap", 0, 64)


@scenario()
def refused_in_flight(s: Script) -> None:
    """Requests that are refused do not disturb the others."""
    s.snapshot_and_origin("P", 8)
    s.parallel(("snap", 0, 4), ("snap", 250, 20), ("snap", 300, 4), ("org", 8, 4))
    s.read("snap", 0, 256)


@scenario(store=STORES, op=("read", "write"))
def copies_begun_together(s: Script, store: str, op: Op) -> None:
    """Several copies may be in one run of kcopyd's worker; the request that is sent first fails."""
    s.leave_out(Layer.REQUESTS, RACE)
    s.disk("base", 128, stamped=True, can_fail=True)
    s.disk("cow", 512, can_fail=True)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    disk = "base" if op == "read" else "cow"
    s.fault(disk, op, 8, 120)
    s.parallel(*(("snap", 8 * chunk + 1, 2) for chunk in range(1, 4)))
    s.read("snap", 0, 64)
    s.heal(disk)
    s.read("org", 0, 64)


@scenario(store=STORES)
def queued_writes_go_out_together(s: Script, store: str) -> None:
    """Writes to parts of one chunk have waited for its copy: kcopyd's worker sends all of them."""
    s.disk("base", 128, stamped=True, can_fail=True)
    s.disk("cow", 512, can_fail=True)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    for disk in ("base", "cow"):
        s.fault(disk, "write", 8, 100, nth=4)
    s.parallel(*(("snap", 16 + at, 1) for at in range(4)))
    s.parallel(*(("org", 32 + 2 * at, 1) for at in range(4)))
    s.read("snap", 0, 64)
    s.read("org", 0, 64)
