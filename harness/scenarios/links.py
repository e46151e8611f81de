"""The disk behind a link that goes down: in the middle of a copy, a commit, a merge.

Origin or COW store is behind a network block device whose link goes down when a chosen request
arrives.  Either it comes up again (``stalls``), and users only notice the delay; or it stays down
and the disk is given up (``dies``): that request is lost, all that follow fail, and the earlier
contents are there when the link is back.
"""

from harness.scenarios.io_errors import RACE
from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, reading, writing
from harness.trace.faults import How
from harness.trace.files import Layer

HOW = ("stalls", "dies")
WRITERS = ("snap", "org")


def linked_cast(s: Script, store: str, chunk: int = 8, *, cow_sectors: int = 256) -> None:
    """Disks ``base`` (stamped) and ``cow`` behind links; snapshot ``snap``, origin ``org``."""
    s.disk("base", 128, stamped=True, linked=True)
    s.disk("cow", cow_sectors, linked=True)
    s.snapshot("snap", "base", "cow", store, chunk)
    s.origin("org", "base")


def link_is_up(s: Script, store: str, chunk: int = 8) -> None:
    """The link is up: what still works, and what the next activation finds."""
    s.heal("base", "cow")
    s.read("snap", 0, 8 * chunk)
    s.write("org", 6 * chunk, 1)
    s.write("snap", 7 * chunk, 1)
    s.reactivate("snap", "base", "cow", store, chunk)
    s.write("snap", 5 * chunk, 1)
    s.read("snap", 0, 8 * chunk)


# -- copies --


@scenario(how=HOW, writer=WRITERS)
def link_of_origin_in_a_copy(s: Script, how: How, writer: str) -> None:
    """The origin's link goes down while a chunk is read for its copy."""
    linked_cast(s, "P")
    s.write("snap", 8, 3)
    s.fault("base", "read", 16, 8, how=how)
    s.write(writer, 18, 2)
    s.write(writer, 34, 2)
    s.read("snap", 8, 8)
    link_is_up(s, "P")


@scenario(how=HOW, store=("P", "N"))
def link_of_cow_in_a_copy(s: Script, how: How, store: str) -> None:
    """The COW device's link goes down under the data of the second copy."""
    linked_cast(s, store)
    s.write("snap", 8, 3)
    s.fault("cow", "write", 8 if store == "N" else 24, 8, how=how)
    s.write("org", 18, 2)
    s.write("org", 34, 2)
    s.read("snap", 8, 16)
    link_is_up(s, store)


@scenario(how=HOW)
def links_of_both_in_a_copy(s: Script, how: How) -> None:
    """In one copy first the origin's link goes down and up, then the COW device's goes down."""
    linked_cast(s, "P")
    s.fault("base", "read", 16, 8, how="stalls")
    s.fault("cow", "write", nth=2, how=how)
    s.write("snap", 18, 2)
    s.write("snap", 34, 2)
    link_is_up(s, "P")


# -- commits --


@scenario(how=HOW, at=("flush", "area"))
def link_in_a_commit(s: Script, how: How, at: str) -> None:
    """The link goes down under the flush ahead of the metadata, or under the area itself."""
    linked_cast(s, "P")
    s.write("snap", 8, 3)
    if at == "flush":
        s.fault("cow", "flush", how=how)
    else:
        s.fault("cow", "write", 8, 8, how=how)
    s.write("snap", 18, 2)
    s.write("org", 34, 2)
    link_is_up(s, "P")


@scenario(how=HOW)
def link_in_an_overflow(s: Script, how: How) -> None:
    """The store is full, and the link goes down under the header that says so."""
    linked_cast(s, "P", cow_sectors=32)
    s.write("snap", 8, 3)
    s.write("snap", 16, 3)
    s.fault("cow", "write", 0, 8, how=how)
    s.write("org", 34, 2)
    s.read("snap", 8, 8)
    s.heal("cow")
    s.image("cow")
    s.reactivate("snap", "base", "cow", "P", 8)
    s.read("snap", 0, 64)


@scenario(how=HOW)
def link_in_a_creation(s: Script, how: How) -> None:
    """The link goes down under the header of a new store; the next attempt works."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, linked=True)
    s.fault("cow", "write", how=how)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.resume("snap")
    s.heal("cow")
    s.load("snap", s.snapshot_line("base", "cow", "P", 8))
    s.resume("snap")
    s.write("snap", 3, 1)
    s.read("snap", 0, 64)


@scenario(how=HOW)
def link_in_an_activation(s: Script, how: How) -> None:
    """The link goes down while the exceptions of a store are read."""
    linked_cast(s, "P")
    s.write("snap", 8, 3)
    s.remove("snap")
    s.fault("cow", "read", 8, 8, how=how)
    s.create("snap")
    for _ in range(2):
        s.load("snap", s.snapshot_line("base", "cow", "P", 8))
        s.resume("snap")
        s.read("snap", 0, 64)
        s.heal("cow")


# -- merges --


@scenario(how=HOW, at=("read", "write", "flush", "clear"))
def link_in_a_merge(s: Script, how: How, at: str) -> None:
    """The link goes down in the second run: its read, its write, its flush, its metadata."""
    linked_cast(s, "P")
    for number in (2, 3, 9, 10, 5):
        s.write("snap", number * 8, 8)
    s.load("org", s.merge_line("base", "cow", "P", 8))
    s.suspend("snap", "org")
    match at:
        case "read":
            s.fault("cow", "read", 16, 240, nth=2, how=how)
        case "write":
            s.fault("base", "write", nth=2, how=how)
        case "flush":
            s.fault("base", "flush", nth=2, how=how)
        case _:
            s.fault("cow", "write", 8, 8, nth=2, how=how)
    s.resume("org")
    s.read("org", 0, 96)
    s.write("org", 18, 2)
    s.heal("base", "cow")
    s.suspend("org")
    s.resume("org")
    s.read("org", 0, 96)


@scenario(how=HOW)
def link_of_another_store_in_a_merge(s: Script, how: How) -> None:
    """What a merge overwrites goes to another snapshot first, whose COW device's link goes down."""
    s.leave_out(Layer.REQUESTS, RACE)
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.origin("org", "base")
    s.disk("cow2", 256, linked=True)
    s.snapshot("snap2", "base", "cow2", "P", 8)
    for number in (2, 3, 9):
        s.write("snap", number * 8, 8)
    s.fault("cow2", "write", how=how)
    s.merge("org", "snap", "base", "cow", 8)
    s.heal("cow2")
    s.read("snap2", 0, 128)
    s.read("org", 0, 128)


# -- I/O of users --


@scenario(how=HOW)
def link_under_a_read_of_the_origin(s: Script, how: How) -> None:
    """A read of the snapshot goes to the origin, whose link goes down; no state changes."""
    linked_cast(s, "P")
    s.write("snap", 8, 8)
    s.fault("base", "read", 16, 8, how=how)
    s.read("snap", 0, 64)
    s.read("snap", 8, 8)
    s.read("snap", 32, 8)
    s.read("org", 32, 8)
    s.heal("base")
    s.read("snap", 0, 64)


@scenario(how=HOW)
def link_under_an_origin_write(s: Script, how: How) -> None:
    """The copy is made, then the link goes down under the origin's own write."""
    linked_cast(s, "P")
    s.fault("base", "write", 16, 8, how=how)
    s.write("org", 18, 2)
    s.write("org", 20, 2)
    s.flush("org")
    s.heal("base")
    s.write("org", 22, 2)
    s.read("snap", 0, 64)
    s.read("org", 0, 64)


@scenario(how=HOW)
def link_under_queued_writes(s: Script, how: How) -> None:
    """Five writes wait for one copy, whose link goes down; one more chunk is in flight."""
    s.leave_out(Layer.REQUESTS, RACE)
    linked_cast(s, "P")
    s.fault("base", "read", 16, 8, how=how)
    s.parallel(*(("snap", 16 + at, 1) for at in range(5)), ("snap", 40, 1))
    s.parallel(("snap", 21, 1), ("org", 56, 2))
    s.heal("base")
    s.read("org", 0, 64)
    s.read("snap", 0, 64)


@scenario(how=HOW)
def link_under_queued_reads_and_writes(s: Script, how: How) -> None:
    """Reads and writes of a COW device whose link goes down with the first of them.

    Which is the first is a race: if the link stalls, both kinds meet it; if it dies, none gets
    through.
    """
    s.leave_out(Layer.REQUESTS, RACE)
    linked_cast(s, "P")
    for chunk in range(4):
        s.write("snap", 8 * chunk, 8)
    for op in ("read", "write"):
        s.fault("cow", op, 16, 240, how=how)
    s.parallel(reading("snap", 8, 2), *(writing("snap", sector, 2, 50) for sector in (2, 16, 28)))
    s.read("snap", 0, 32)
    s.heal("cow")
    s.read("snap", 0, 32)


@scenario(how=HOW)
def link_under_requests_begun_together(s: Script, how: How) -> None:
    """The link goes down with the second of four requests: what was sent before is answered."""
    s.disk("base", 128, stamped=True, linked=True)
    s.fault("base", "write", 0, 128, nth=2, how=how)
    s.parallel(*(("base", 16 * at, 8) for at in range(4)))
    s.heal("base")
    s.read("base", 0, 128)


@scenario(how=HOW)
def link_under_copies_begun_together(s: Script, how: How) -> None:
    """The link of the origin goes down with the second of three reads for copies."""
    s.leave_out(Layer.REQUESTS, RACE)
    linked_cast(s, "P")
    s.fault("base", "read", 16, 112, nth=2, how=how)
    s.parallel(*(("snap", 16 * at + 1, 1) for at in range(1, 4)))
    s.heal("base")
    s.read("snap", 0, 64)
    s.read("org", 0, 64)
