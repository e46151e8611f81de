"""Target striped: its constructor, its ranges, a stripe that fails, snapshots over and on it."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear, zero

_SECTORS = 192
_SHAPES = {
    "2x8": (2, 8),
    "2x16": (2, 16),
    "3x8": (3, 8),
    "3x5": (3, 5),
    "4x3": (4, 3),
    "1x24": (1, 24),
}
"""Stripes, and sectors per chunk; not all of them powers of two."""
_PERSISTENT_OR_NOT = ("P", "N")


def _line(disks: str, chunk: int, sectors: int) -> Segment:
    """A striped line over ``disks``, each from its sector 3 on."""
    places = " ".join(f"{{{disk}}} 3" for disk in disks)
    return Segment(sectors, "striped", f"{len(disks)} {chunk} {places}")


def _disks(s: Script, count: int, *, can_fail: bool = False) -> str:
    names = "abcd"[:count]
    for name in names:
        s.disk(name, 256, stamped=True, can_fail=can_fail)
    return names


@scenario()
def striped_ctr(s: Script) -> None:
    """Arguments of target striped, good and bad, and tables that do not fit."""
    s.disk("a", 64, stamped=True)
    s.disk("b", 64, stamped=True)
    s.create("d")
    for args in (
        "",
        "2",
        "0 8",
        "x 8",
        "-2 8",
        "+2 8 {a} 0 {b} 0",
        "2x 8",
        "4294967296 8",
        "2 0",
        "2 x",
        "2 -8",
        "2 +8 {a} 0 {b} 0",
        "2 4294967296",
        "3 8 {a} 0 {b} 0 {a} 8",
        "2 12 {a} 0 {b} 0",
        "2 8",
        "2 8 {a}",
        "2 8 {a} 0 {b}",
        "2 8 {a} 0",
        "2 8 {a} 0 {b} 0 0",
        "2 8 {a} 0 {b} 0 {a} 0",
        "2 8 {nosuch} 0 {b} 0",
        "2 8 {a} 0 {nosuch} 0",
        "2 8 {a} x {b} 0",
        "2 8 {a} 0 {b} -1",
        "2 8 {a} 0 {b} 8x",
        "2 8 {d} 0 {a} 0",
        "2 8 {a} 0 {b} 18446744073709551616",
        "2 8 {a} 60 {b} 0",
        "2 8 {a} 0 {b} 64",
        "2 08 {a} 00 {b} 0",
        "1 64 {a} 0",
        "1 32 {a} 0",
        "4 8 {a} 0 {a} 8 {b} 0 {b} 8",
    ):
        s.load("d", Segment(64, "striped", args))
    s.resume("d")
    s.table("d")
    s.status("d")
    s.message("d", "anything")
    s.write("d", 5, 30)
    s.read("d", 0, 64)


@scenario(shape=tuple(_SHAPES))
def striped_ranges(s: Script, shape: str) -> None:
    """What each stripe gets of reads, writes, discards, zeros and flushes, aligned or not."""
    stripes, chunk = _SHAPES[shape]
    disks = _disks(s, stripes, can_fail=True)
    length = stripes * chunk * 6
    s.device("wide", _line(disks, chunk, length))
    for sector, sectors in (
        (0, 1),
        (chunk - 1, 2),
        (1, stripes * chunk),
        (chunk, 2 * chunk),
        (3, length - 3),
        (length - 1, 1),
        (length - 2, 4),
    ):
        s.write("wide", sector, sectors)
        s.read("wide", sector, sectors)
    s.zeroout("wide", 2, 2 * chunk)
    s.flush("wide")
    for sector, sectors in (
        (0, length),
        (chunk, chunk),
        (1, 1),
        (chunk - 1, 2),
        (2, stripes * chunk),
        (chunk + 1, 2 * chunk),
    ):
        s.write("wide", 0, length)
        s.discard("wide", sector, sectors)
        s.image(*disks)


@scenario()
def striped_on_one_disk(s: Script) -> None:
    """All stripes on one disk, alone and next to other targets: flushes, and flushes with data."""
    s.disk("a", 256, stamped=True, can_fail=True)
    s.disk("base", 64, stamped=True)
    line = Segment(64, "striped", "2 8 {a} 0 {a} 64")
    s.device("alone", line)
    s.device("beside", line, linear("base", 16, 8))
    s.device("with", line, zero(16))
    for device in ("alone", "beside", "with"):
        s.flush(device)
        s.write(device, 5, 20)
        s.snapshot("snap", "base", device, "P", 8)
        s.write("snap", 0, 8)
        s.flush("snap")
        s.remove("snap")
        s.write(device, 0, 8, zeros=True)


@scenario(chunk=(1, 2, 4, 6, 7, 8, 12, 16, 24), disk=("memory", "fallible", "large"))
def striped_limits(s: Script, chunk: int, disk: str) -> None:
    """Chunks smaller than a block, or not a multiple of it, and devices on top of that."""
    for name in ("a", "b", "cow"):
        s.disk(
            name,
            512,
            stamped=name != "cow",
            can_fail=disk == "fallible" and name != "cow",
            block_size=4096 if disk == "large" and name != "cow" else 512,
        )
    for stripes in (2, 3):
        name = f"d{stripes}"
        places = " ".join(f"{{{'ab'[at % 2]}}} {at * 64}" for at in range(stripes))
        s.device(name, Segment(stripes * chunk * 2, "striped", f"{stripes} {chunk} {places}"))
        s.create(f"in{stripes}")
        s.load(f"in{stripes}", linear(name, chunk, chunk))
        s.create(f"at{stripes}")
        s.load(f"at{stripes}", linear(name, 1, 1))
        s.create(f"s{stripes}")
        s.load(f"s{stripes}", s.snapshot_line(name, "cow", "N", 8))
        s.create(f"m{stripes}")
        s.load(f"m{stripes}", linear("cow", 8, 4), linear(name, stripes * chunk, 0))


@scenario(store=_PERSISTENT_OR_NOT, shape=tuple(_SHAPES), chunk=(4, 16))
def snapshot_over_striped(s: Script, store: str, shape: str, chunk: int) -> None:
    """The origin is striped: chunks of the snapshot are copied from several stripes."""
    stripes, width = _SHAPES[shape]
    disks = _disks(s, stripes)
    length = stripes * width * 8
    s.disk("cow", 1024)
    s.device("real", _line(disks, width, length))
    s.snapshot("snap", "real", "cow", store, chunk)
    s.origin("org", "real")
    s.write("org", 3, 2)
    s.write("org", width - 1, 2 * width + 3)
    s.write("snap", 5, width + 9)
    s.write("snap", length - 3, 3)
    s.read("snap", 0, length)
    s.write("org", 0, length)
    s.zeroout("org", 1, 2 * width)
    s.flush("org")


@scenario(store=("P", "PO", "N"), shape=tuple(_SHAPES))
def store_on_striped(s: Script, store: str, shape: str) -> None:
    """The COW device is striped: it overflows, and is read again."""
    stripes, width = _SHAPES[shape]
    disks = _disks(s, stripes)
    for disk in disks:
        s.write(disk, 0, 64, zeros=True)
    s.disk("base", _SECTORS, stamped=True)
    s.device("cow", _line(disks, width, stripes * width * 3))
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("org", 3, 20)
    s.write("snap", 12, 3)
    s.examine()
    s.remove("snap")
    s.snapshot("snap", "base", "cow", store, 8)
    s.write("snap", 64, 100)
    s.write("org", 96, 60)
    s.status("snap")


@scenario(shape=tuple(_SHAPES))
def merge_into_striped(s: Script, shape: str) -> None:
    """A snapshot with its store on stripes is merged into a striped origin."""
    stripes, width = _SHAPES[shape]
    disks = _disks(s, stripes)
    length = stripes * width * 8
    s.disk("store", 1024)
    s.device("real", _line(disks, width, length))
    s.device("cow", Segment(1024, "striped", "2 8 {store} 0 {store} 512"))
    s.snapshot("snap", "real", "cow", "P", 8)
    s.origin("org", "real")
    s.write("snap", 3, 40)
    s.write("org", width, 2 * width)
    s.merge("org", "snap", "real", "cow", 8)
    s.write("org", 1, width)
    s.read("org", 0, length)


@scenario(op=("read", "write"), through=("disk", "error"))
def stripe_fails(s: Script, op: str, through: str) -> None:
    """A device below one stripe fails: the letter, and the events, at most 14 of them."""
    disks = _disks(s, 2, can_fail=True)
    if through == "error":
        s.device("bad", linear("b", 64))
        disks = ("a", "bad")  # type: ignore[assignment]
    s.device("d", Segment(128, "striped", f"2 8 {{{disks[0]}}} 0 {{{disks[1]}}} 0"))
    s.write("d", 0, 32)
    if through == "error":
        s.reload("bad", error(64))
    else:
        s.fault("b", "read" if op == "read" else "write", 0, 64, count=0)
    act = s.read if op == "read" else s.write
    act("d", 0, 8)
    for at in range(17):
        act("d", 8 + 16 * (at % 4), 1 + at % 3)
    s.status("d")
    act("d", 0, 32)
    s.flush("d")
    s.heal("b")
    s.reload("d", Segment(128, "striped", f"2 8 {{{disks[0]}}} 0 {{{disks[1]}}} 0"))
    s.status("d")


@scenario()
def stripe_fails_twice_named(s: Script) -> None:
    """A device of two stripes fails: both are marked."""
    s.disk("a", 128, stamped=True, can_fail=True)
    s.disk("b", 128, stamped=True, can_fail=True)
    s.device("d", Segment(96, "striped", "3 8 {a} 0 {b} 0 {a} 64"))
    s.fault("a", "write", 64, 8)
    s.write("d", 16, 3)
    s.status("d")
    s.fault("a", "flush")
    s.flush("d")
    s.discard("d", 0, 96)
    s.status("d")


@scenario(who=("origin", "cow"), op=("read", "write"))
def stripe_fails_below_a_snapshot(s: Script, who: str, op: str) -> None:
    """One stripe below an origin, or below a store, fails in the middle of copies."""
    disks = _disks(s, 2, can_fail=True)
    s.disk("other", 256, stamped=who == "cow")
    for disk in disks if who == "cow" else ():
        s.write(disk, 0, 256, zeros=True)
    s.device("wide", Segment(256, "striped", "2 16 {a} 0 {b} 0"))
    real, cow = ("wide", "other") if who == "origin" else ("other", "wide")
    s.snapshot("snap", real, cow, "P", 8, sectors=256)
    s.device("org", s.origin_line(real, sectors=256))
    s.write("org", 0, 3)
    s.fault("b", "write" if op == "write" else "read", 0, 64)
    s.write("org", 18, 2)
    s.status("wide")
    s.write("snap", 40, 2)
    s.read("snap", 0, 64)
    s.heal("b")
    s.read("snap", 0, 64)


@scenario()
def stripes_of_stripes(s: Script) -> None:
    """Striped on striped on linear, with a hole, and a snapshot of it all."""
    for name in ("a", "b"):
        s.disk(name, 256, stamped=True)
    s.disk("cow", 512)
    s.device("part", linear("a", 128, 16))
    s.device("low", Segment(96, "striped", "3 8 {part} 0 {b} 0 {b} 64"))
    s.device(
        "top",
        Segment(64, "striped", "2 16 {low} 32 {b} 128"),
        error(8),
        Segment(24, "striped", "1 8 {low} 0"),
    )
    s.snapshot("snap", "top", "cow", "P", 8)
    s.origin("org", "top")
    s.write("org", 10, 50)
    s.read("org", 60, 8)
    s.write("org", 60, 20)
    s.write("snap", 75, 10)
    s.suspend("low")
    s.write("org", 0, 1)
    s.resume("low")
    s.reload("low", Segment(96, "striped", "3 8 {part} 0 {b} 0 {b} 96"))
    s.read("org", 0, 64)


@scenario()
def poked_through_stripes(s: Script) -> None:
    """The snapshot finds a store that was written by hand through stripes."""
    s.disk("a", 128, stamped=True)
    s.disk("b", 128)
    s.disk("base", 64, stamped=True)
    s.device("cow", Segment(128, "striped", "2 4 {a} 0 {b} 0"))
    s.poke("cow", 0, bytes(4096))
    s.snapshot("snap", "base", "cow", "P", 4)
    s.write("snap", 3, 10)
    s.image("a", "b")


@scenario(chunk=(8, 512), sectors=(512, 1500), rows=("F: discard features",))
def discard_of_striped_snapshots(s: Script, chunk: int, sectors: int) -> None:
    """Each stripe takes a discard of one chunk of a snapshot; newer kernels add them up."""
    s.disk("base", 2048, stamped=True)
    for name in ("one", "two"):
        s.disk(f"cow_{name}", 2048, can_fail=True)
        s.device(
            name, Segment(2048, "snapshot", f"{{base}} {{cow_{name}}} N 512 1 discard_zeroes_cow")
        )
        # Chunk by chunk: through the stripes, a hundred pieces would wait for copies at once.
        for sector in (0, 512):
            s.write(name, sector, 512)
    s.device("wide", Segment(4096, "striped", f"2 {chunk} {{one}} 0 {{two}} 0"))
    s.discard("wide", 0, sectors)
    s.discard("wide", 700, sectors)
    s.read("wide", 0, 2048)
