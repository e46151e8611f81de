"""Faults by count: every place where dm-snapshot does I/O fails once.

The disks can fail, so every request that reaches them is compared too: which, in which order, with
which flags.  Wherever possible, steps make one exception at a time, because then there is only one
order.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, delay, error, linear, reading, writing, zero
from harness.trace.files import Layer

PERSISTENT = ("P", "PO")
STORES = ("P", "PO", "N")
WRITERS = ("snap", "org")
RACE = (
    "several exceptions are in flight at once: how many of them one write of metadata holds, "
    "and which request is the first, is a race"
)


def cast(
    s: Script, store: str, chunk: int, *, origin_sectors: int = 128, cow_sectors: int = 256
) -> None:
    """Disks ``base`` (stamped) and ``cow`` that can fail; snapshot ``snap``, origin ``org``."""
    s.disk("base", origin_sectors, stamped=True, can_fail=True)
    s.disk("cow", cow_sectors, can_fail=True)
    s.snapshot("snap", "base", "cow", store, chunk)
    s.origin("org", "base")


def afterwards(s: Script, store: str, chunk: int) -> None:
    """Everything is healed: what still works, and what the next activation finds."""
    s.heal("base", "cow")
    s.read("snap", 0, 8 * chunk)
    s.write("org", 6 * chunk, 1)
    s.write("snap", 7 * chunk, 1)
    s.wait("snap", 0)
    if store != "N":
        s.image("cow")
    s.reactivate("snap", "base", "cow", store, chunk)
    s.write("snap", 5 * chunk, 1)
    s.read("snap", 0, 8 * chunk)


# -- without a fault: what is sent, and in which order --


@scenario(store=STORES, writer=WRITERS, chunk=(1, 8))
def order_of_requests(s: Script, store: str, writer: str, chunk: int) -> None:
    """Copy, flush, metadata, and only then the write itself; a whole chunk is written directly."""
    cast(s, store, chunk)
    s.write(writer, 2 * chunk, 1)
    s.write(writer, 2 * chunk, 1)
    s.write(writer, 5 * chunk, chunk)
    s.flush(writer)
    s.read(writer, 0, 8 * chunk)


@scenario()
def order_of_requests_at_an_area(s: Script) -> None:
    """The exception that fills an area: the next area is zeroed before this one is written."""
    cast(s, "P", 1)
    for sector in range(34):
        s.write("snap", sector, 1)
    s.reactivate("snap", "base", "cow", "P", 1)
    s.write("snap", 40, 1)


@scenario()
def areas_read_ahead(s: Script) -> None:
    """A store of three areas is loaded: the kernel reads twelve areas ahead, each once."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 1024, can_fail=True)
    s.snapshot("snap", "base", "cow", "P", 1)
    for start in range(0, 70, 2):
        s.write("snap", start, 1)
        s.write("snap", start + 1, 1)
    s.reactivate("snap", "base", "cow", "P", 1)
    s.read("snap", 0, 128)


@scenario()
def flushes_of_tables(s: Script) -> None:
    """Which disks see how many flushes depends on the targets above them."""
    for name in ("one", "two"):
        s.disk(name, 64, can_fail=True)
    s.disk("plain", 64)
    s.device("a", linear("one", 32), linear("one", 32, 32))
    s.device("b", linear("one", 32), linear("two", 32, 32))
    s.device("c", linear("one", 32), error(32))
    s.device("d", linear("one", 32), zero(32))
    s.device("e", linear("one", 32), delay("two", 32, 1, 32))
    s.device("f", linear("plain", 32), linear("two", 32))
    s.device("g", linear("plain", 32))
    s.device("h", linear("a", 64))
    for name in "abcdefgh":
        s.flush(name)
    s.fault("one", "flush", count=0)
    for name in "abcdefgh":
        s.flush(name)
    s.flush("one")


# -- copies --


@scenario(store=STORES, writer=WRITERS, rows=("G7: faults placed by count",))
def copy_read_fails(s: Script, store: str, writer: str) -> None:
    """The origin cannot be read for a copy: Invalid; only a write to the snapshot fails."""
    cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("base", "read", 16, 8)
    s.write(writer, 18, 2)
    s.write(writer, 18, 2)
    s.read("snap", 8, 8)
    afterwards(s, store, 8)


@scenario(store=STORES, writer=WRITERS, rows=("G7: faults placed by count",))
def copy_write_fails(s: Script, store: str, writer: str) -> None:
    """The copy cannot be written: the third write to the COW device's chunk 2, or to chunk 0."""
    cast(s, store, 8)
    s.write("snap", 8, 3)
    s.write("snap", 12, 3)
    first = 0 if store == "N" else 16
    s.fault("cow", "write", first, 8, nth=2)
    s.write("snap", 9, 1)
    s.write("snap", 10, 1)
    s.write("snap", 11, 1)
    s.fault("cow", "write", first + 8, 8)
    s.write(writer, 33, 2)
    afterwards(s, store, 8)


@scenario(store=STORES, chunk=(1, 8))
def whole_chunk_write_fails(s: Script, store: str, chunk: int) -> None:
    """A write of a whole chunk is its own copy: when it fails the snapshot is invalid."""
    cast(s, store, chunk)
    s.write("snap", chunk, chunk)
    s.fault("cow", "write", 0 if store == "N" else 2 * chunk, 4 * chunk)
    s.write("snap", 3 * chunk, chunk)
    afterwards(s, store, chunk)


@scenario(store=("P", "N"), writer=WRITERS, rest=(1, 5))
def copy_of_the_tail_fails(s: Script, store: str, writer: str, rest: int) -> None:
    """The copy of a partial last chunk of the origin fails."""
    cast(s, store, 8, origin_sectors=64 + rest)
    s.fault("base", "read", 64 + rest - 1, 1)
    s.write(writer, 64, 1)
    s.heal("base")
    s.read("snap", 0, 64 + rest)
    s.read("org", 0, 64 + rest)


@scenario(device=("base", "cow"), piece=(1, 2, 3), writer=WRITERS)
def a_piece_of_a_copy_fails(s: Script, device: str, piece: int, writer: str) -> None:
    """Kcopyd cuts a large chunk into pieces: one of them fails, the others are done."""
    s.leave_out(Layer.REQUESTS, "kcopyd has several pieces in flight at once")
    cast(s, "N", 4096, origin_sectors=8192, cow_sectors=8192)
    s.fault(device, "read" if device == "base" else "write", (piece - 1) * 1024, 1)
    s.write(writer, 100, 8)
    s.heal(device)
    s.read("snap", 0, 128)
    s.read("org", 0, 128)


@scenario(store=("P", "N"))
def copies_fail_one_after_the_other(s: Script, store: str) -> None:
    """Each of three snapshots of one origin loses a copy to a different write; one is left."""
    s.disk("base", 128, stamped=True, can_fail=True)
    for number in range(4):
        s.disk(f"cow{number}", 256, can_fail=True)
        s.snapshot(f"snap{number}", "base", f"cow{number}", store, 8)
    s.origin("org", "base")
    for number in range(3):
        s.fault(f"cow{number}", "write", nth=1 + 2 * number if store == "P" else 1 + number)
    for chunk in range(4):
        s.write("org", 8 * chunk, 4)
    for number in range(4):
        s.read(f"snap{number}", 0, 64)


@scenario(store=STORES, chunk=(8, 16), broken=("copy", "metadata"))
def second_snapshot_fails(s: Script, store: str, chunk: int, broken: str) -> None:
    """One of two snapshots fails: the other keeps its contents, and the origin is written."""
    cast(s, "P", 8)
    s.disk("cow2", 256, can_fail=True)
    s.snapshot("snap2", "base", "cow2", store, chunk)
    s.suspend("org")
    s.resume("org")
    s.write("org", 2, 1)
    if broken == "copy":
        s.fault("cow2", "write", 2 * chunk, 256 - 2 * chunk)
    else:
        s.fault("cow2", "write", 0, 2 * chunk, nth=1)
    s.write("org", 33, 1)
    s.write("org", 66, 1)
    s.heal("cow2")
    s.read("snap", 0, 128)
    s.read("snap2", 0, 128)


# -- I/O of users --


@scenario(store=STORES)
def reads_fail(s: Script, store: str) -> None:
    """Reads of origin and of COW device fail: the reader gets an error, and no state changes."""
    cast(s, store, 8)
    s.write("snap", 8, 8)
    s.fault("base", "read", 16, 8)
    s.read("snap", 16, 8)
    s.read("snap", 16, 8)
    s.fault("base", "read", 16, 8)
    s.read("org", 16, 8)
    s.fault("cow", "read", 0, 64)
    s.read("snap", 8, 8)
    s.read("snap", 0, 64)
    s.fault("base", "read", nth=3)
    s.read("snap", 0, 64)
    s.read("snap", 0, 64)


@scenario(store=STORES)
def write_of_a_mapped_chunk_fails(s: Script, store: str) -> None:
    """A write to a chunk with an exception fails: only that, and the snapshot stays valid."""
    cast(s, store, 8)
    s.write("snap", 8, 8)
    s.fault("cow", "write", 0 if store == "N" else 16, 8)
    s.write("snap", 10, 2)
    s.write("snap", 12, 2)
    s.fault("cow", "write", 0 if store == "N" else 16, 8)
    s.write("snap", 8, 8)
    s.read("snap", 8, 8)


@scenario(store=STORES)
def write_behind_its_copy_fails(s: Script, store: str) -> None:
    """The chunk is copied and its exception is made; the snapshot's write that follows fails."""
    cast(s, store, 8)
    s.fault("cow", "write", 0 if store == "N" else 16, 8, nth=2)
    s.write("snap", 10, 2)
    s.read("snap", 8, 8)
    s.write("snap", 10, 2)
    s.read("snap", 8, 8)


@scenario(store=STORES, count=(1, 2, 0))
def origin_write_fails(s: Script, store: str, count: int) -> None:
    """The origin's own write fails after the copy: the copy stays, and is not made again."""
    cast(s, store, 8)
    s.fault("base", "write", 16, 16, count=count)
    s.write("org", 18, 2)
    s.write("org", 18, 2)
    s.write("org", 24, 8)
    s.heal("base")
    s.write("org", 18, 2)
    s.read("snap", 0, 64)
    s.read("org", 0, 64)


@scenario(store=STORES)
def flush_fails(s: Script, store: str) -> None:
    """Flushes fail: those of the snapshot on its COW device, those of the origin on its own."""
    cast(s, store, 8)
    s.write("snap", 8, 8)
    s.fault("cow", "flush")
    s.flush("org")
    s.flush("snap")
    s.flush("snap")
    s.fault("base", "flush")
    s.flush("snap")
    s.flush("org")
    s.fault("base", "read", 24, 8)
    s.write("snap", 25, 1)
    s.fault("cow", "flush")
    s.flush("snap")
    s.flush("snap")


@scenario(device=("base", "cow"))
def discard_fails(s: Script, device: str) -> None:
    """A discard fails: passed down to the origin, or zeroing a chunk of the COW device."""
    s.disk("base", 4096, stamped=True, can_fail=True)
    s.disk("cow", 4096, can_fail=True)
    s.device(
        "snap",
        s.snapshot_line(
            "base", "cow", "P", 512, features="2 discard_zeroes_cow discard_passdown_origin"
        ),
    )
    s.write("snap", 512, 512)
    s.write("snap", 1030, 8)
    s.discard("snap", 0, 512)
    s.fault(device, "discard" if device == "base" else "write", count=2)
    s.discard("snap", 512, 512)
    s.discard("snap", 1024, 512)
    s.discard("snap", 1024, 512)
    s.read("snap", 0, 2048)


# -- several at once --


@scenario(store=STORES, broken=("read", "write"))
def queued_writes_fail_together(s: Script, store: str, broken: str) -> None:
    """Five writes wait for one copy, which fails: each of them gets EIO."""
    s.leave_out(Layer.REQUESTS, RACE)
    cast(s, store, 8)
    if broken == "read":
        s.fault("base", "read", 16, 8)
    else:
        s.fault("cow", "write", 0 if store == "N" else 16, 8)
    s.parallel(*(("snap", 16 + at, 1) for at in range(5)))
    s.parallel(("snap", 16, 1), ("snap", 40, 1), ("org", 16, 1))
    s.heal("base", "cow")
    s.read("org", 0, 64)


@scenario(store=STORES)
def queued_origin_writes_go_on(s: Script, store: str) -> None:
    """Writes to origin and snapshot wait for a copy that fails: the origin's writes succeed."""
    s.leave_out(Layer.REQUESTS, RACE)
    cast(s, store, 8)
    s.fault("base", "read", 16, 8)
    s.parallel(("org", 16, 1), ("snap", 17, 1), ("org", 18, 2), ("snap", 20, 1), ("org", 22, 2))
    s.read("org", 16, 8)
    s.read("snap", 16, 8)


@scenario(store=STORES)
def queued_writes_behind_their_copy(s: Script, store: str) -> None:
    """Four writes wait for one copy that works; only the second to arrive fails."""
    s.leave_out(Layer.REQUESTS, RACE)
    cast(s, store, 8)
    s.fault("cow", "write", 2 if store == "N" else 18, 1, nth=2)
    s.parallel(*(("snap", 16 + at, 1) for at in range(4)))
    s.read("snap", 16, 8)


@scenario(store=STORES)
def read_in_flight_when_space_runs_out(s: Script, store: str) -> None:
    """A late read of the origin, for the snapshot, while an origin write finds the store full.

    Nobody waits for the read: the origin is written, and the read returns that, without an error.
    """
    s.disk("base-disk", 64, stamped=True)
    s.device("base", delay("base-disk", 64, 50, write_ms=0))
    s.disk("cow", 16 if store == "N" else 24)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("snap", 32, 8)
    if store == "N":
        s.write("snap", 40, 8)
    s.parallel(reading("snap", 16, 8), writing("org", 18, 2, 70))
    s.read("snap", 16, 8)
    s.read("org", 16, 8)


@scenario(store=("P", "N"), broken=("read", "write"))
def late_copies_fail(s: Script, store: str, broken: str) -> None:
    """The COW device answers late: more writes arrive while the copy that fails is on its way."""
    s.leave_out(Layer.REQUESTS, RACE)
    s.disk("base", 64, stamped=True, can_fail=True)
    s.disk("cow-disk", 256, can_fail=True)
    s.device("cow", delay("cow-disk", 256, 10))
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    if broken == "read":
        s.fault("base", "read", 16, 8)
    else:
        s.fault("cow-disk", "write", 0 if store == "N" else 16, 8)
    s.parallel(("snap", 17, 1), ("snap", 18, 1), ("org", 19, 1), ("snap", 20, 1))
    s.read("org", 16, 8)
