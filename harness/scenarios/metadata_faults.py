"""Faults by count in the metadata: creation, activation, commits, invalidation; after overflow."""

from harness.scenarios.io_errors import PERSISTENT, STORES, WRITERS, afterwards, cast
from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, linear


@scenario(store=PERSISTENT, writer=WRITERS, nth=(1, 2))
def metadata_write_fails(s: Script, store: str, writer: str, nth: int) -> None:
    """An area cannot be written: Invalid, even with PO; the store keeps what it had."""
    cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "write", 8, 8, nth=nth)
    s.write(writer, 18, 2)
    s.write(writer, 34, 2)
    s.write(writer, 50, 2)
    afterwards(s, store, 8)


@scenario(store=PERSISTENT, writer=WRITERS)
def flush_before_metadata_fails(s: Script, store: str, writer: str) -> None:
    """The flush before an area fails: some kernels do not check, and call the exception safe."""
    cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "flush", nth=2)
    s.write(writer, 18, 2)
    s.write(writer, 34, 2)
    s.write(writer, 50, 2)
    afterwards(s, store, 8)


@scenario(below=("linear", "two", "split"))
def flush_before_metadata_fails_below(s: Script, below: str) -> None:
    """The same with a table as COW device: one target, two targets, or two devices."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 256, can_fail=True)
    s.disk("more", 64, can_fail=True)
    lines = {
        "linear": (linear("cow", 256),),
        "two": (linear("cow", 64), linear("cow", 64, 64)),
        "split": (linear("cow", 64), linear("more", 64)),
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
    cast(s, store, 1)
    for sector in range(31):
        s.write("snap", sector, 1)
    s.fault("cow", "write", 34 if broken == "zeroing" else 1, 1)
    s.write(writer, 40, 1)
    s.write(writer, 41, 1)
    s.heal("cow")
    s.read("snap", 0, 64)
    s.reactivate("snap", "base", "cow", store, 1)
    s.read("snap", 0, 64)


@scenario(chunk=(1, 8), broken=(1, 2))
def creation_fails(s: Script, chunk: int, broken: int) -> None:
    """A new store's header, or its first area, cannot be written: refused; the next one works."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, can_fail=True)
    s.fault("cow", "write", nth=broken)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", chunk))
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
    cast(s, store, 8, cow_sectors=32 if why == "space" else 256)
    s.write("snap", 8, 3)
    s.fault("cow", "write", 0, 8)
    if why == "copy":
        s.fault("base", "read", 16, 8)
    elif why == "metadata":
        s.fault("cow", "write", 8, 8)
    s.write("org", 18, 2)
    s.write("org", 34, 2)
    s.read("snap", 0, 64)
    afterwards(s, store, 8)


@scenario(store=PERSISTENT)
def reload_reads_nothing(s: Script, store: str) -> None:
    """A handover takes the metadata from memory: faults of the header are not met."""
    cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "read", 0, 16, count=0)
    s.fault("cow", "write", 0, 8, count=0)
    s.reload("snap", s.snapshot_line("base", "cow", store, 8))
    s.read("snap", 0, 64)
    s.write("snap", 20, 2)
    s.remove("snap")
    s.prepare("snap", s.snapshot_line("base", "cow", store, 8))


@scenario(store=PERSISTENT, fault=("copy", "metadata", "mapped"))
def fault_after_overflow(s: Script, store: str, fault: str) -> None:
    """The store is full, then a fault follows: an overflowed snapshot becomes invalid, or not."""
    cast(s, store, 8, cow_sectors=32)
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
    """Faults that leave no state behind, then the store runs full."""
    cast(s, store, 8, cow_sectors=32)
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
    cast(s, store, 8)
    for sector, where in ((16, "base"), (8, "cow")):
        s.write("snap", 8, 3)
        s.fault(where, "read" if where == "base" else "write", sector, 8)
        s.write("snap", 18, 2)
        s.heal("base", "cow")
        s.reactivate("snap", "base", "cow", store, 8)
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
    cast(s, store, 8)
    s.write("snap", 8, 3)
    s.fault("cow", "read", count=0)
    s.fault("cow", "write", count=0)
    s.fault("cow", "flush", count=0)
    s.read("snap", 0, 64)
    s.write("snap", 9, 1)
    s.write("org", 40, 2)
    s.read("snap", 0, 64)
    s.flush("snap")
    s.flush("org")
    afterwards(s, store, 8)
