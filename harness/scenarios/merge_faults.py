"""Faults by count in a merge: reads, writes, flushes and metadata of each run, and what follows."""

from typing import Literal

from harness.scenarios.io_errors import RACE, STORES, cast
from harness.scenarios.registry import scenario
from harness.scenarios.script import Script
from harness.trace.files import Layer


@scenario(chunk=(1, 8), rows=("F: merged data flushed before the metadata is committed",))
def merged_data_is_flushed_first(s: Script, chunk: int) -> None:
    """Each run: its data to the origin, a flush of the origin, a flush and the metadata."""
    cast(s, "P", chunk)
    for number in (2, 3, 9, 10, 5):
        s.write("snap", number * chunk, chunk)
    s.merge("org", "snap", "base", "cow", chunk)
    s.flush("org")
    s.read("org", 0, 12 * chunk)


def _ready_to_merge(s: Script, chunk: int = 1) -> None:
    """A store of more than one area, its merge loaded but not started; chunks 3…22 and 60…84."""
    cast(s, "P", chunk, origin_sectors=128 * chunk, cow_sectors=128 * chunk)
    for number in (*range(3, 23), *range(60, 85)):
        s.write("snap", number * chunk, chunk)
    s.load("org", s.merge_line("base", "cow", "P", chunk))
    s.suspend("snap", "org")


def _look_at_merge(s: Script, chunk: int = 1) -> None:
    s.read("org", 0, 100 * chunk)
    s.write("org", 62 * chunk, 1)
    s.write("org", 100 * chunk, 1)


def _again(s: Script, retry: bool, chunk: int = 1) -> None:
    """All is healed; the failed merge is resumed, or its device is recreated."""
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


@scenario(
    nth=(1, 2, 3),
    retry=(False, True),
    rows=("F: merged data flushed before the metadata is committed",),
)
def merge_flush_fails(s: Script, nth: int, retry: bool) -> None:
    """The origin cannot be flushed after the nth run: its metadata is not touched."""
    _ready_to_merge(s)
    s.fault("base", "flush", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(nth=(1, 2, 3), retry=(False, True))
def merge_metadata_write_fails(s: Script, nth: int, retry: bool) -> None:
    """The nth run is on the origin, but the store cannot be updated: "Merge failed".

    A retry merges garbage: the entries are gone from memory but still counted.
    """
    _ready_to_merge(s)
    s.fault("cow", "write", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(nth=(1, 2), retry=(False, True))
def merge_metadata_flush_fails(s: Script, nth: int, retry: bool) -> None:
    """The flush before the store's metadata fails in a merge: some kernels do not check."""
    _ready_to_merge(s)
    s.fault("cow", "flush", nth=nth)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(retry=(False, True))
def merge_area_read_fails(s: Script, retry: bool) -> None:
    """The area before the last cannot be read: "Merge failed"; a retry skips it."""
    _ready_to_merge(s)
    s.fault("cow", "read", 1, 1)
    s.resume("org")
    _look_at_merge(s)
    _again(s, retry)


@scenario(fails=("read", "write"))
def written_after_merge_metadata_failed(s: Script, fails: Literal["read", "write"]) -> None:
    """The area before the last cannot be read, or the last not written: a snapshot again.

    New exceptions are written over the full area that was stepped back to, or after entries that
    are gone from memory: read again, the store has lost one or the other.
    """
    _ready_to_merge(s)
    s.fault("cow", fails, 1 if fails == "read" else 34, 1)
    s.resume("org")
    s.remove("snap")
    s.status("org")
    s.heal("cow")
    s.reload("org", s.snapshot_line("base", "cow", "P", 1))
    s.write("org", 40, 2)
    s.read("org", 0, 128)
    s.reactivate("org", "base", "cow", "P", 1)
    s.read("org", 0, 128)


@scenario(store=STORES, broken=("copy", "metadata"))
def merge_copies_out_and_fails(s: Script, store: str, broken: str) -> None:
    """Another snapshot cannot keep what the merge overwrites: it is invalid, the merge goes on."""
    s.leave_out(Layer.REQUESTS, RACE)
    cast(s, "P", 8)
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
    cast(s, "P", 8)
    s.write("snap", 16, 8)
    s.merge("org", "snap", "base", "cow", 8)
    s.fault(device, "flush")
    s.flush("org")
    s.flush("org")


@scenario()
def activation_of_a_merge_fails(s: Script) -> None:
    """A merge is loaded over a store that cannot be read at first."""
    cast(s, "P", 8)
    s.write("snap", 16, 8)
    s.remove("snap", "org")
    s.fault("cow", "read", 0, 8)
    s.fault("cow", "read", 8, 8)
    s.create("org")
    for _ in range(3):
        s.load("org", s.merge_line("base", "cow", "P", 8))
    s.resume("org")
    s.read("org", 0, 64)
