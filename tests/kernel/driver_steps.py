"""A varied list of steps that both drivers must answer alike, and what compares two answers.

Pure data and a pure function: a test boots a guest for each driver and compares its journals.
"""

from collections.abc import Sequence

import msgspec

from harness.steps import (
    AnyStep,
    Clear,
    Create,
    Discard,
    Disk,
    Examine,
    Flush,
    Image,
    Load,
    Message,
    Observation,
    Parameter,
    Poke,
    Read,
    Remove,
    Rename,
    Resume,
    Status,
    Suspend,
    Table,
    TargetLine,
    Wait,
    Write,
    Zeroout,
)


def load(name: str, kind: str, args: str = "", length: int = 2048, **options: bool) -> Load:
    return Load(name=name, table=(TargetLine(0, length, kind, args),), **options)


def disks() -> list[AnyStep]:
    return [Disk(name="org", sectors=2048, fill="stamp"), Disk(name="cow", sectors=1024),
            Disk(name="tiny", sectors=64), Disk(name="b4k", sectors=2048, block_size=4096)]


def live(name: str, kind: str, args: str = "", length: int = 2048) -> list[AnyStep]:
    return [Create(name=name), load(name, kind, args, length), Resume(name=name)]


SCENARIOS: dict[str, list[AnyStep]] = {
    "persistent": [
        *disks(), *live("o", "snapshot-origin", "{org}"), Status(name="o"), Table(name="o"),
        *live("s", "snapshot", "{org} {cow} P 8"), Suspend(name="o"), Resume(name="o"),
        Status(name="s"), Table(name="s"), Table(name="s", inactive=True),
        Write(device="s", sector=0, sectors=1, generation=2),
        Write(device="o", sector=100, sectors=30, generation=3),
        Write(device="s", sector=1000, sectors=64, generation=4, buffered=True),
        Read(device="s", sector=96, sectors=48), Read(device="s", sector=0, sectors=20,
                                                      buffered=True),
        Write(device="s", sector=2040, sectors=16, generation=5),
        Read(device="s", sector=2040, sectors=16), Read(device="s", sector=5000, sectors=8),
        Flush(device="s"), Flush(device="o"), Discard(device="s", sector=0, sectors=8),
        Zeroout(device="s", sector=300, sectors=20), Discard(device="o", sector=0, sectors=8),
        Poke(device="cow", sector=1000, data=b"abcd" * 128), Image(device="cow"),
        Rename(name="s", to="t"), Status(name="s"), Status(name="t"), Read(device="t", sector=0,
                                                                           sectors=1),
        Suspend(name="t"), Read(device="t", sector=0, sectors=8), Examine(), Resume(name="t"),
        Remove(name="t"), Remove(name="o"), *live("s", "snapshot", "{org} {cow} PO 16"), Examine(),
    ],
    "overflow": [
        *disks(), *live("o", "snapshot-origin", "{org}"),
        *live("s", "snapshot", "{org} {tiny} P 8"), *live("n", "snapshot", "{org} {cow} N 16"),
        Suspend(name="o", flush=False, lockfs=False), Resume(name="o"),
        Wait(name="s", event=7), Wait(name="s", event=0),
        # chunk by chunk: what of one long request reaches the metadata of a store that overflows
        # in the middle of it is a matter of timing
        *(Write(device="s", sector=8 * chunk, sectors=8, generation=2) for chunk in range(7)),
        Wait(name="s", event=0),
        Status(name="s"), Read(device="s", sector=0, sectors=1), Flush(device="s"),
        Write(device="o", sector=512, sectors=512, generation=3),
        Write(device="o", sector=1024, sectors=1024, generation=3), Examine(),
    ],
    "refusals": [
        *disks(), Create(name="s"), Create(name="s"), Create(name="org"), Resume(name="s"),
        Status(name="s"), Table(name="s"), Table(name="s", inactive=True), Clear(name="s"),
        Read(device="s", sector=0, sectors=8), Write(device="s", sector=0, sectors=8),
        Flush(device="s"),
        Message(name="s", text="hello there"), Load(name="s", table=()), load("s", "nosuch"),
        load("s", "linear"), load("s", "linear", "{nosuch} 0"), load("s", "linear", "{s} 0"),
        load("s", "linear", "259:77 0"), load("s", "linear", "{org} 0", 4096),
        load("s", "zero", length=0), load("s", "zero", "junk"), load("s", "snapshot"),
        Load(name="s", table=(TargetLine(0, 8, "zero"), TargetLine(16, 8, "zero"))),
        Load(name="s", table=(TargetLine(8, 8, "zero"),)),
        load("s", "snapshot", "{org} {org} P 8"), load("s", "snapshot", "{org} {cow} X 8"),
        load("s", "snapshot", "{org} {cow} P 7"), load("s", "snapshot", "{org} {cow} P 8 1"),
        load("s", "snapshot", "{org} {cow} N 0"), load("s", "snapshot", "{nosuch} {cow} N 8"),
        load("s", "snapshot", r"{org} {cow} \N 16"),
        load("s", "snapshot", "{org} {cow} P 8"), Status(name="s", inactive=True),
        load("s", "snapshot", "{org} {cow} P 8"), load("s", "zero", length=1024),
        Resume(name="s"), Resume(name="s"), load("s", "error", length=4096, read_only=True),
        Resume(name="s"), Write(device="s", sector=0, sectors=8), Read(device="s", sector=0,
                                                                       sectors=8),
        load("s", "linear", "{org} 0", 4096), Resume(name="s"), Suspend(name="s"),
        Resume(name="s"), Message(name="s", text="what", sector=5000), Message(name="s", text="x"),
        *live("top", "linear", "{s} 0", 8), Remove(name="s"), Rename(name="s", to="top"),
        Rename(name="s", to="s"), Rename(name="nosuch", to="x"), Status(name="nosuch"),
        Table(name="nosuch"), load("nosuch", "zero"), Clear(name="nosuch"), Resume(name="nosuch"),
        Suspend(name="nosuch"), Remove(name="nosuch"), Message(name="nosuch", text="x"),
        Wait(name="nosuch", event=0), Suspend(name="s"), Read(device="top", sector=0, sectors=8),
        Parameter(name="snapshot_cow_threshold", value="7"),
        Parameter(name="snapshot_cow_threshold", value="-7"),
        Parameter(name="nosuch", value="1"), Examine(),
    ],
    "blocks": [
        *disks(), *live("s", "snapshot", "{b4k} {b4k} P 8"), Remove(name="s"),
        *live("s", "snapshot", "{b4k} {cow} P 4"), Remove(name="s"),
        *live("s", "snapshot", "{b4k} {cow} P 8"), Write(device="s", sector=1, sectors=1),
        Write(device="s", sector=8, sectors=8), Write(device="b4k", sector=3, sectors=2),
        Write(device="b4k", sector=9, sectors=2, buffered=True), Read(device="s", sector=0,
                                                                      sectors=16),
        Load(name="s", table=tuple(TargetLine(8 * i, 8, "linear", f"{{org}} {8 * (40 - i)}")
                                   for i in range(40))),
        Suspend(name="s"), Resume(name="s"), Examine(),
    ],
    "many": [
        *disks(), *(step for i in range(12) for step in
                    [Disk(name=f"c{i}", sectors=256),
                     *live(f"s.{i}", "snapshot", f"{{org}} {{c{i}}} N {8 << i % 3}")]),
        *live("o", "snapshot-origin", "{org}"), Write(device="o", sector=5, sectors=33), Examine(),
    ],
}


def differences(one: Sequence[Observation], other: Sequence[Observation]) -> list[str]:
    """Where two runs of the same steps differ, field by field; empty where they agree."""
    found = []
    if len(one) != len(other):
        found.append(f"{len(one)} observations against {len(other)}")
    for a, b in zip(one, other, strict=False):
        left, right = msgspec.to_builtins(a), msgspec.to_builtins(b)
        found += [f"step {a.step}, {field}: {left.get(field)!r} against {right.get(field)!r}"
                  for field in sorted(left.keys() | right.keys())
                  if field != "elapsed_us" and left.get(field) != right.get(field)]
    return found
