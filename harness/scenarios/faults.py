"""Faults by count: every place where dm-snapshot does I/O fails once.

The disks can fail, so every request that reaches them is compared, too: which, in which order, with
which flags.  Steps that make one exception at a time are used wherever that is possible, because
then there is one order only.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script
from harness.steps import Parallel, Read, TargetLine, Write
from harness.trace import Layer

PERSISTENT = ("P", "PO")
STORES = ("P", "PO", "N")
WRITERS = ("snap", "org")
RACE = ("several exceptions are in flight at once: how many of them one write of metadata holds, "
        "and which request is the first, is a race")


def _cast(s: Script, store: str, chunk: int, *, origin_sectors: int = 128,
          cow_sectors: int = 256) -> None:
    """Disks ``base`` (stamped) and ``cow`` that can fail; snapshot ``snap``, origin ``org``."""
    s.disk("base", origin_sectors, stamped=True, can_fail=True)
    s.disk("cow", cow_sectors, can_fail=True)
    s.snapshot("snap", "base", "cow", store, chunk)
    s.origin("org", "base")


def _afterwards(s: Script, store: str, chunk: int) -> None:
    """Everything is healed: what still works, and what a new activation finds."""
    s.heal("base", "cow")
    s.read("snap", 0, 8 * chunk)
    s.write("org", 6 * chunk, 1)
    s.write("snap", 7 * chunk, 1)
    s.wait("snap", 0)
    if store != "N":
        s.image("cow")
    s.remove("snap")
    s.snapshot("snap", "base", "cow", store, chunk)
    s.write("snap", 5 * chunk, 1)
    s.read("snap", 0, 8 * chunk)


# -- without a fault: what is sent, and in which order --


@scenario(store=STORES, writer=WRITERS, chunk=(1, 8))
def order_of_requests(s: Script, store: str, writer: str, chunk: int) -> None:
    """Copy, flush, metadata, and only then the write itself; a whole chunk goes there at once."""
    _cast(s, store, chunk)
    s.write(writer, 2 * chunk, 1)
    s.write(writer, 2 * chunk, 1)
    s.write(writer, 5 * chunk, chunk)
    s.flush(writer)
    s.read(writer, 0, 8 * chunk)


@scenario(chunk=(1, 8), rows=("F: merged data flushed first",))
def merged_data_is_flushed_first(s: Script, chunk: int) -> None:
    """Each run: its data to the origin, a flush of the origin, a flush and the metadata."""
    _cast(s, "P", chunk)
    for number in (2, 3, 9, 10, 5):
        s.write("snap", number * chunk, chunk)
    s.merge("org", "snap", "base", "cow", chunk)
    s.flush("org")
    s.read("org", 0, 12 * chunk)


@scenario()
def order_of_requests_at_an_area(s: Script) -> None:
    """The exception that fills an area: the next area is zeroed before this one is written."""
    _cast(s, "P", 1)
    for sector in range(34):
        s.write("snap", sector, 1)
    s.remove("snap")
    s.snapshot("snap", "base", "cow", "P", 1)
    s.write("snap", 40, 1)


@scenario()
def areas_read_ahead(s: Script) -> None:
    """A store of three areas is loaded: the kernel reads twelve areas ahead, each of them once."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 1024, can_fail=True)
    s.snapshot("snap", "base", "cow", "P", 1)
    for start in range(0, 70, 2):
        s.write("snap", start, 1)
        s.write("snap", start + 1, 1)
    s.remove("snap")
    s.snapshot("snap", "base", "cow", "P", 1)
    s.read("snap", 0, 128)


@scenario()
def flushes_of_tables(s: Script) -> None:
    """Which disks see how many flushes depends on the targets above them."""
    for name in ("one", "two"):
        s.disk(name, 64, can_fail=True)
    s.disk("plain", 64)
    s.device("a", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "linear", "{one} 32"))
    s.device("b", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "linear", "{two} 32"))
    s.device("c", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "error"))
    s.device("d", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "zero"))
    s.device("e", TargetLine(0, 32, "linear", "{one} 0"),
             TargetLine(32, 32, "delay", "{two} 32 1"))
    s.device("f", TargetLine(0, 32, "linear", "{plain} 0"), TargetLine(32, 32, "linear", "{two} 0"))
    s.device("g", TargetLine(0, 32, "linear", "{plain} 0"))
    s.device("h", TargetLine(0, 64, "linear", "{a} 0"))
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
    _cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("base", "read", 16, 8)
    s.write(writer, 18, 2)
    s.write(writer, 18, 2)
    s.read("snap", 8, 8)
    _afterwards(s, store, 8)


@scenario(store=STORES, writer=WRITERS, rows=("G7: faults placed by count",))
def copy_write_fails(s: Script, store: str, writer: str) -> None:
    """The copy cannot be written: the third write to the COW device's chunk 2, or to chunk 0."""
    _cast(s, store, 8)
    s.write("snap", 8, 3)
    s.write("snap", 12, 3)
    first = 0 if store == "N" else 16
    s.fault("cow", "write", first, 8, nth=2)
    s.write("snap", 9, 1)
    s.write("snap", 10, 1)
    s.write("snap", 11, 1)
    s.fault("cow", "write", first + 8, 8)
    s.write(writer, 33, 2)
    _afterwards(s, store, 8)


@scenario(store=STORES, chunk=(1, 8))
def whole_chunk_write_fails(s: Script, store: str, chunk: int) -> None:
    """A write of a whole chunk is its own copy: when it fails the snapshot is invalid."""
    _cast(s, store, chunk)
    s.write("snap", chunk, chunk)
    s.fault("cow", "write", 0 if store == "N" else 2 * chunk, 4 * chunk)
    s.write("snap", 3 * chunk, chunk)
    _afterwards(s, store, chunk)


@scenario(store=("P", "N"), writer=WRITERS, rest=(1, 5))
def copy_of_the_tail_fails(s: Script, store: str, writer: str, rest: int) -> None:
    """The last chunk of an origin that is no multiple of the chunk is copied in part, and fails."""
    _cast(s, store, 8, origin_sectors=64 + rest)
    s.fault("base", "read", 64 + rest - 1, 1)
    s.write(writer, 64, 1)
    s.heal("base")
    s.read("snap", 0, 64 + rest)
    s.read("org", 0, 64 + rest)


@scenario(device=("base", "cow"), piece=(1, 2, 3), writer=WRITERS)
def a_piece_of_a_copy_fails(s: Script, device: str, piece: int, writer: str) -> None:
    """Kcopyd cuts a large chunk into pieces: one of them fails, the others are done."""
    s.leave_out(Layer.REQUESTS, "kcopyd has several pieces in flight at once")
    _cast(s, "N", 4096, origin_sectors=8192, cow_sectors=8192)
    s.fault(device, "read" if device == "base" else "write", (piece - 1) * 1024, 1)
    s.write(writer, 100, 8)
    s.heal(device)
    s.read("snap", 0, 128)
    s.read("org", 0, 128)


@scenario(store=("P", "N"))
def copies_fail_one_after_the_other(s: Script, store: str) -> None:
    """Each of three snapshots of one origin loses its copy to another write; one is left."""
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
    """Of two snapshots one fails: the other keeps what it had, and the origin is written."""
    _cast(s, "P", 8)
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


# -- metadata --


@scenario(store=PERSISTENT, writer=WRITERS, nth=(1, 2))
def metadata_write_fails(s: Script, store: str, writer: str, nth: int) -> None:
    """An area cannot be written: Invalid, in PO too; the store keeps what it had."""
    _cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "write", 8, 8, nth=nth)
    s.write(writer, 18, 2)
    s.write(writer, 34, 2)
    s.write(writer, 50, 2)
    _afterwards(s, store, 8)


@scenario(store=PERSISTENT, writer=WRITERS)
def flush_before_metadata_fails(s: Script, store: str, writer: str) -> None:
    """The flush ahead of an area fails: some kernels do not look, and call the exception safe."""
    _cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "flush", nth=2)
    s.write(writer, 18, 2)
    s.write(writer, 34, 2)
    s.write(writer, 50, 2)
    _afterwards(s, store, 8)


@scenario(below=("linear", "two", "split"))
def flush_before_metadata_fails_below(s: Script, below: str) -> None:
    """The same where the COW device is a table: one target, two of them, or two devices."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 256, can_fail=True)
    s.disk("more", 64, can_fail=True)
    lines = {
        "linear": (TargetLine(0, 256, "linear", "{cow} 0"),),
        "two": (TargetLine(0, 64, "linear", "{cow} 0"), TargetLine(64, 64, "linear", "{cow} 64")),
        "split": (TargetLine(0, 64, "linear", "{cow} 0"), TargetLine(64, 64, "linear", "{more} 0")),
    }[below]
    s.device("low", *lines)
    s.snapshot("snap", "base", "low", "P", 8)
    s.write("snap", 1, 1)
    s.fault("cow", "flush")
    s.write("snap", 9, 1)
    s.write("snap", 17, 1)
    s.flush("snap")
    s.read("snap", 0, 64)


@scenario(store=PERSISTENT, writer=WRITERS, broken=("zeroing", "area"))
def filling_an_area_fails(s: Script, store: str, writer: str, broken: str) -> None:
    """The last entry of an area: the next area cannot be zeroed, or this one not be written."""
    _cast(s, store, 1)
    for sector in range(31):
        s.write("snap", sector, 1)
    s.fault("cow", "write", 34 if broken == "zeroing" else 1, 1)
    s.write(writer, 40, 1)
    s.write(writer, 41, 1)
    s.heal("cow")
    s.read("snap", 0, 64)
    s.remove("snap")
    s.snapshot("snap", "base", "cow", store, 1)
    s.read("snap", 0, 64)


@scenario(chunk=(1, 8), broken=(1, 2))
def creation_fails(s: Script, chunk: int, broken: int) -> None:
    """A new store's header, or its first area, cannot be written: refused; the next one works."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, can_fail=True)
    s.fault("cow", "write", nth=broken)
    s.create("snap")
    s.load("snap", s.snapshot_line("base", "cow", "P", chunk))
    s.resume("snap")
    s.image("cow")
    s.load("snap", s.snapshot_line("base", "cow", "P", chunk))
    s.resume("snap")
    s.write("snap", 3, 1)
    s.read("snap", 0, 64)


@scenario(broken=("header", "first", "second", "third", "fourth", "both"))
def activation_fails(s: Script, broken: str) -> None:
    """Loading a store of three areas: a header or area in use must be readable, one ahead not."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 512, can_fail=True)
    s.snapshot("snap", "base", "cow", "P", 1)
    for sector in range(66):
        s.write("snap", sector, 1)
    s.remove("snap")
    if broken == "both":
        s.fault("cow", "read", 0, 1)
        s.fault("cow", "read", 1, 1)
    else:
        sector = {"header": 0, "first": 1, "second": 34, "third": 67, "fourth": 100}[broken]
        s.fault("cow", "read", sector, 1)
    s.create("snap")
    for _ in range(3):
        s.load("snap", s.snapshot_line("base", "cow", "P", 1))
        s.clear("snap")
    s.load("snap", s.snapshot_line("base", "cow", "P", 1))
    s.resume("snap")
    s.write("snap", 100, 1)
    s.read("snap", 0, 128)


@scenario(store=PERSISTENT, why=("copy", "metadata", "space"))
def header_write_at_invalidation_fails(s: Script, store: str, why: str) -> None:
    """The header cannot be marked invalid: the snapshot is back after its next activation."""
    _cast(s, store, 8, cow_sectors=32 if why == "space" else 256)
    s.write("snap", 8, 3)
    s.fault("cow", "write", 0, 8)
    if why == "copy":
        s.fault("base", "read", 16, 8)
    elif why == "metadata":
        s.fault("cow", "write", 8, 8)
    s.write("org", 18, 2)
    s.write("org", 34, 2)
    s.read("snap", 0, 64)
    _afterwards(s, store, 8)


@scenario(store=PERSISTENT)
def reload_reads_nothing(s: Script, store: str) -> None:
    """A handover takes the metadata from memory: faults of the header are not met."""
    _cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "read", 0, 16, count=0)
    s.fault("cow", "write", 0, 8, count=0)
    s.reload("snap", s.snapshot_line("base", "cow", store, 8))
    s.read("snap", 0, 64)
    s.write("snap", 20, 2)
    s.remove("snap")
    s.create("snap")
    s.load("snap", s.snapshot_line("base", "cow", store, 8))


# -- I/O of users --


@scenario(store=STORES)
def reads_fail(s: Script, store: str) -> None:
    """Reads of origin and of COW device fail: the reader is told, and no state changes."""
    _cast(s, store, 8)
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
    """A write to a chunk that has its exception fails: it alone, and the snapshot stays valid."""
    _cast(s, store, 8)
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
    _cast(s, store, 8)
    s.fault("cow", "write", 0 if store == "N" else 16, 8, nth=2)
    s.write("snap", 10, 2)
    s.read("snap", 8, 8)
    s.write("snap", 10, 2)
    s.read("snap", 8, 8)


@scenario(store=STORES, count=(1, 2, 0))
def origin_write_fails(s: Script, store: str, count: int) -> None:
    """The origin's own write fails after the copy: the copy stays, and is not made again."""
    _cast(s, store, 8)
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
    _cast(s, store, 8)
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
    """A discard that is passed down, or zeroes a chunk of the COW device, fails in one of both."""
    s.disk("base", 4096, stamped=True, can_fail=True)
    s.disk("cow", 4096, can_fail=True)
    s.device("snap", s.snapshot_line("base", "cow", "P", 512,
                                     features="2 discard_zeroes_cow discard_passdown_origin"))
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
    _cast(s, store, 8)
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
    """Writes to the origin, and to the snapshot, wait for a copy that fails: the origin's go on."""
    s.leave_out(Layer.REQUESTS, RACE)
    _cast(s, store, 8)
    s.fault("base", "read", 16, 8)
    s.parallel(("org", 16, 1), ("snap", 17, 1), ("org", 18, 2), ("snap", 20, 1), ("org", 22, 2))
    s.read("org", 16, 8)
    s.read("snap", 16, 8)


@scenario(store=STORES)
def queued_writes_behind_their_copy(s: Script, store: str) -> None:
    """Four writes wait for one copy that works; of them the second to arrive fails, alone."""
    s.leave_out(Layer.REQUESTS, RACE)
    _cast(s, store, 8)
    s.fault("cow", "write", 2 if store == "N" else 18, 1, nth=2)
    s.parallel(*(("snap", 16 + at, 1) for at in range(4)))
    s.read("snap", 16, 8)


@scenario(store=("P", "N"))
def readers_beside_a_failing_copy(s: Script, store: str) -> None:
    """A read of the chunk is in flight while its copy fails: it gets the origin, or EIO."""
    s.leave_out(Layer.REQUESTS, RACE)
    _cast(s, store, 8)
    s.fault("cow", "write", 0 if store == "N" else 16, 8)
    s.steps.append(Parallel(ios=(
        Read(device="snap", sector=16, sectors=8),
        Write(device="org", sector=18, sectors=2, generation=70),
        Read(device="org", sector=32, sectors=8))))
    s.read("snap", 16, 8)
    s.read("org", 16, 8)


@scenario(store=("P", "N"), broken=("read", "write"))
def late_copies_fail(s: Script, store: str, broken: str) -> None:
    """The COW device answers late: more writes arrive while the copy that fails is on its way."""
    s.leave_out(Layer.REQUESTS, RACE)
    s.disk("base", 64, stamped=True, can_fail=True)
    s.disk("cow-disk", 256, can_fail=True)
    s.device("cow", TargetLine(0, 256, "delay", "{cow-disk} 0 10"))
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    if broken == "read":
        s.fault("base", "read", 16, 8)
    else:
        s.fault("cow-disk", "write", 0 if store == "N" else 16, 8)
    s.parallel(("snap", 17, 1), ("snap", 18, 1), ("org", 19, 1), ("snap", 20, 1))
    s.read("org", 16, 8)


# -- with overflow, and again and again --


@scenario(store=PERSISTENT, fault=("copy", "metadata", "mapped"))
def fault_after_overflow(s: Script, store: str, fault: str) -> None:
    """The store is full; then a fault as well: an overflowed snapshot becomes invalid, or not."""
    _cast(s, store, 8, cow_sectors=32)
    s.write("snap", 8, 8)
    s.write("snap", 16, 8)
    s.write("snap", 24, 8)
    if fault == "copy":
        s.fault("base", "read", 32, 8)
    elif fault == "metadata":
        s.fault("cow", "write", 0, 16)
    else:
        s.fault("cow", "read", 16, 8)
    s.read("snap", 0, 32)
    s.write("snap", 8, 1)
    s.write("org", 32, 1)
    s.read("snap", 0, 32)


@scenario(store=PERSISTENT)
def overflow_after_fault(s: Script, store: str) -> None:
    """Faults that no state remembers, then the store runs full."""
    _cast(s, store, 8, cow_sectors=32)
    s.write("snap", 8, 8)
    s.fault("cow", "write", 16, 8)
    s.write("snap", 9, 2)
    s.fault("base", "write", 40, 8)
    s.write("org", 41, 2)
    s.write("snap", 24, 8)
    s.write("snap", 32, 8)
    s.read("snap", 0, 64)


@scenario(store=PERSISTENT)
def recovery(s: Script, store: str) -> None:
    """A fault, an invalid snapshot, a fresh one in its place: twice, with other faults."""
    _cast(s, store, 8)
    for sector, where in ((16, "base"), (8, "cow")):
        s.write("snap", 8, 3)
        s.fault(where, "read" if where == "base" else "write", sector, 8)
        s.write("snap", 18, 2)
        s.heal("base", "cow")
        s.remove("snap")
        s.snapshot("snap", "base", "cow", store, 8)
        s.read("snap", 0, 8)
        s.remove("snap")
        s.write("cow", 0, 8, zeros=True)
        s.suspend("org")
        s.snapshot("snap", "base", "cow", store, 8)
        s.resume("org")
        s.write("org", 32, 2)
        s.read("snap", 0, 64)


@scenario(store=STORES)
def a_disk_that_is_dead(s: Script, store: str) -> None:
    """From some moment on the COW device fails everything, until it is healed."""
    _cast(s, store, 8)
    s.write("snap", 8, 3)
    for op in ("read", "write", "flush"):
        s.fault("cow", op, count=0)
    s.read("snap", 0, 64)
    s.write("snap", 9, 1)
    s.write("org", 40, 2)
    s.read("snap", 0, 64)
    s.flush("snap")
    s.flush("org")
    _afterwards(s, store, 8)


# -- merge --


def _ready_to_merge(s: Script, chunk: int = 1) -> None:
    """A store of more than one area, its merge loaded and not begun; chunks 3…22 and 60…84."""
    _cast(s, "P", chunk, origin_sectors=128 * chunk, cow_sectors=128 * chunk)
    for number in (*range(3, 23), *range(60, 85)):
        s.write("snap", number * chunk, chunk)
    s.load("org", s.merge_line("base", "cow", "P", chunk))
    s.suspend("snap", "org")


def _look_at_merge(s: Script, chunk: int = 1) -> None:
    s.read("org", 0, 100 * chunk)
    s.write("org", 62 * chunk, 1)
    s.write("org", 100 * chunk, 1)


def _again(s: Script, retry: bool, chunk: int = 1) -> None:
    """All is healed; the failed merge is resumed, or its device is made anew."""
    s.heal("base", "cow")
    if retry:
        s.suspend("org")
        s.resume("org")
    else:
        s.remove("org", "snap")
        s.device("org", s.merge_line("base", "cow", "P", chunk))
    s.read("org", 0, 128 * chunk)


@scenario(nth=(1, 2, 3), retry=(False, True), rows=("lvm2: snapshot-merge-stack",))
def merge_read_fails(s: Script, nth: int, retry: bool) -> None:
    """The nth run cannot be read from the COW device: "Merge failed"."""
    _ready_to_merge(s)
    s.fault("cow", "read", 2, 126, nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(nth=(1, 2, 3), retry=(False, True), rows=("lvm2: snapshot-merge-stack",))
def merge_write_fails(s: Script, nth: int, retry: bool) -> None:
    """The nth run cannot be written to the origin: "Merge failed"."""
    _ready_to_merge(s)
    s.fault("base", "write", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(nth=(1, 2, 3), retry=(False, True), rows=("F: merged data flushed first",))
def merge_flush_fails(s: Script, nth: int, retry: bool) -> None:
    """The origin cannot be flushed behind the nth run: its metadata is not touched."""
    _ready_to_merge(s)
    s.fault("base", "flush", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(nth=(1, 2, 3), retry=(False, True))
def merge_metadata_write_fails(s: Script, nth: int, retry: bool) -> None:
    """The nth run is on the origin, and the store cannot be told: "Merge failed".

    A retry merges what never was: the entries are gone from memory and not counted as gone.
    """
    _ready_to_merge(s)
    s.fault("cow", "write", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(nth=(1, 2), retry=(False, True))
def merge_metadata_flush_fails(s: Script, nth: int, retry: bool) -> None:
    """The flush ahead of the store's metadata fails in a merge: some kernels do not look."""
    _ready_to_merge(s)
    s.fault("cow", "flush", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(retry=(False, True))
def merge_area_read_fails(s: Script, retry: bool) -> None:
    """The area before the last cannot be read: "Merge failed"; a retry leaves it out."""
    _ready_to_merge(s)
    s.fault("cow", "read", 1, 1)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(store=STORES, broken=("copy", "metadata"))
def merge_copies_out_and_fails(s: Script, store: str, broken: str) -> None:
    """Another snapshot cannot keep what the merge overwrites: it is invalid, the merge goes on."""
    s.leave_out(Layer.REQUESTS, RACE)
    _cast(s, "P", 8)
    s.disk("cow2", 256, can_fail=True)
    s.snapshot("snap2", "base", "cow2", store, 8)
    for number in (2, 3, 9):
        s.write("snap", number * 8, 8)
    s.fault("cow2", "write", nth=2 if broken == "metadata" and store != "N" else 1)
    s.merge("org", "snap", "base", "cow", 8)
    s.read("snap2", 0, 128)
    s.read("org", 0, 128)


@scenario(device=("base", "cow"))
def flush_of_a_merge_fails(s: Script, device: str) -> None:
    """A flush of the merge target goes to both devices: one of them fails it."""
    _cast(s, "P", 8)
    s.write("snap", 16, 8)
    s.merge("org", "snap", "base", "cow", 8)
    s.fault(device, "flush")
    s.flush("org")
    s.flush("org")


@scenario()
def activation_of_a_merge_fails(s: Script) -> None:
    """A merge is loaded over a store that cannot be read at first."""
    _cast(s, "P", 8)
    s.write("snap", 16, 8)
    s.remove("snap", "org")
    s.fault("cow", "read", 0, 8)
    s.fault("cow", "read", 8, 8)
    s.create("org")
    for _ in range(3):
        s.load("org", s.merge_line("base", "cow", "P", 8))
    s.resume("org")
    s.read("org", 0, 64)
