"""Devices on devices: what a table takes from those below, and how it may name them.

Limits that are kept if a new table has no devices below, blocks that do not line up, read-only
devices in the middle, numbers that are too long.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, delay, error, linear, writing, zero

_SECTORS = 64
_KINDS = {
    "error": "",
    "zero": "",
    "error_of": "{base} 0",
    "linear": "{base} 0",
    "delay": "{base} 0 0",
    "snapshot": "{base} {cow} P 8",
    "snapshot-origin": "{base}",
}


def _line(kind: str) -> Segment:
    return Segment(_SECTORS, kind.removesuffix("_of"), _KINDS[kind])


@scenario(
    tables=(
        "error",
        "zero",
        "error_of",
        "linear error",
        "linear zero",
        "snapshot error",
        "snapshot zero error",
        "snapshot error error",
        "snapshot-origin error",
        "snapshot error_of",
        "error snapshot error",
        "snapshot delay error",
        "zero error linear",
    )
)
def limits_are_kept(s: Script, tables: str) -> None:
    """Tables one after another: one without devices below keeps the existing queue limits."""
    s.disk("base", _SECTORS, stamped=True)
    s.disk("cow", 128)
    first, *others = tables.split()
    s.device("d", _line(first))
    s.discard("d", 8, 8)
    for kind in others:
        s.reload("d", _line(kind))
        s.discard("d", 8, 8)
        s.write("d", 3, 2)
        s.zeroout("d", 8, 4)


@scenario()
def limits_of_large_blocks_are_kept(s: Script) -> None:
    """An error table under which blocks of 4096 bytes remain, and one that loses them."""
    s.disk("base", _SECTORS, stamped=True, block_size=4096)
    s.disk("small", _SECTORS, stamped=True)
    s.device("d", _line("linear"))
    s.read("d", 1, 1)
    s.reload("d", error(61))
    s.read("d", 1, 1)
    s.reload("d", zero(61))
    s.read("d", 1, 1)
    s.reload("d", linear("small", _SECTORS))
    s.read("d", 1, 1)
    s.reload("d", linear("base", 61))
    s.read("d", 1, 1)


@scenario(store=("P", "N"))
def read_only_below(s: Script, store: str) -> None:
    """Writes reach a read-only device through those that stand on it."""
    s.disk("base", _SECTORS, stamped=True)
    s.disk("store", 128)
    s.device("ro", _line("linear"), read_only=True)
    s.device("top", linear("ro", _SECTORS))
    s.write("top", 0, 12)
    s.discard("top", 0, 8)
    s.zeroout("top", 16, 8)
    s.write("ro", 0, 1)
    s.reload("ro", _line("linear"))
    s.write("ro", 0, 1)
    s.device("cow", linear("store", 128), read_only=True)
    s.snapshot("snap", "ro", "cow", store, 8)
    s.origin("org", "ro")
    s.write("org", 30, 3)
    s.write("snap", 0, 3)


@scenario(start=(1, 3, 7, 8, 9), length=(8, 60))
def blocks_that_do_not_line_up(s: Script, start: int, length: int) -> None:
    """Devices that begin in the middle of a physical block, and what stands on them."""
    s.disk("base", 128, stamped=True)
    s.disk("large", 128, stamped=True, block_size=4096)
    s.disk("cow", 128)
    s.device("part", linear("base", length, start))
    s.device("part2", linear("part", length - 1, 1))
    s.snapshot("snap", "part", "cow", "N", 1)
    s.origin("org", "part")
    s.device("both", linear("part", length), linear("large", 8))
    s.device("three", linear("large", 8), linear("part", 8), linear("base", 8, 3))
    s.write("org", 0, length)
    s.write("snap", 1, 5)


@scenario(
    word=(
        "5000:1",
        "4096:0",
        "4095:0",
        "9:1048576",
        "9:1048575",
        "9:4294967297",
        "9:2:3",
        "9:1:2:3",
        "9:1:2x",
        "9:2x",
        "9:",
        "-9:2",
        "+9:2",
        "0x9:2",
        "0:0",
        "0",
        "00",
        "008",
        "fe",
        "0x8",
        "0xg",
        "12g",
        "ffffffffff",
        "4294967296",
        "1ffffffff",
        "cafe",
        "/dev/nosuch",
    )
)
def device_numbers(s: Script, word: str) -> None:
    """A table that names a device by number, or by something that some kernels take for one."""
    s.disk("cow", _SECTORS)
    s.prepare("d", Segment(8, "linear", f"{word} 0"))
    s.load("d", Segment(8, "snapshot", f"{word} {{cow}} P 8"))
    s.load("d", Segment(8, "snapshot-origin", word))


@scenario()
def numbers_beyond_their_bits(s: Script) -> None:
    """Numbers in tables with too many bits: the remaining bits count."""
    s.disk("base", _SECTORS, stamped=True)
    s.disk("cow", _SECTORS)
    s.device("d", zero(8))
    for number in (
        "-1",
        "+1",
        "0x1",
        "1x",
        "",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551624",
        "99999999999999999999999999999",
    ):
        s.load("d", Segment(8, "linear", f"{{base}} {number}"))
        s.load("d", Segment(8, "error", f"{{base}} {number}"))
        s.load("d", Segment(8, "delay", f"{{base}} {number} 0"))
    for number in ("-1", "4294967296", "4294967297", "18446744073709551619", "x"):
        s.load("d", Segment(8, "delay", f"{{base}} 0 {number}"))
        s.load("d", Segment(_SECTORS, "snapshot", f"{{base}} {{cow}} N 8 {number}"))
        s.clear("d")
        s.load("d", Segment(_SECTORS, "snapshot", f"{{base}} {{cow}} N {number}"))
        s.clear("d")
    s.load("d", linear("base", 8, 18446744073709551624))
    s.resume("d")
    s.read("d", 0, 8)


@scenario()
def delay_tables(s: Script) -> None:
    """One, two or three groups of a delay, good and bad."""
    s.disk("base", _SECTORS, stamped=True)
    s.create("d")
    group = "{base} 0 0"
    for args in (
        "",
        "{base}",
        "{base} 0",
        f"{group} 1",
        "{base} x 0",
        "{nosuch} 0 0",
        f"{group} {{base}} 0",
        f"{group} {{nosuch}} 0 0",
        f"{group} {group} {{base}} 0 x",
        f"{group} {group} {group} 1",
        "{base} 100 0",
        "{base} 60 0",
    ):
        s.load("d", Segment(8, "delay", args))
    s.load("d", delay("base", 8, 1, 8))
    s.resume("d")
    s.write("d", 0, 4)
    s.read("d", 0, 8)
    s.flush("d")
    s.reload("d", Segment(8, "delay", "{base} 0 2 {base} 8 1"))
    s.write("d", 0, 4)
    s.read("d", 0, 8)
    s.reload("d", Segment(8, "delay", "{base} 0 0 {base} 8 1 {base} 16 2"))
    s.parallel(*(writing("d", sector, 2, 50 + sector) for sector in (0, 1, 4)))
    s.read("d", 0, 8)
    s.discard("d", 0, 8)
    s.suspend("d")
    s.resume("d")
    s.status("d")
    s.table("d")


@scenario()
def first_table_does_not_fit(s: Script) -> None:
    """It is refused; whether the next one is checked depends on what the first has decided."""
    s.disk("base", _SECTORS, stamped=True)
    s.disk("cow", _SECTORS)
    for name in ("d", "e"):
        s.prepare(name, linear("base", 8, 60))
        s.table(name, inactive=True)
        s.load(name, linear("base", 8, 100))
        s.resume(name)
        s.clear(name)
        s.load(name, linear("base", 16, 8))
        s.load(name, linear("cow", 100))
        s.resume(name)
        s.load(name, s.snapshot_line("base", "cow", "P", 8, sectors=16))
        s.resume(name)
        s.write(name, 3, 2)
        s.read(name, 0, 16)
        s.load(name, linear("base", 8, 60))
        s.resume(name)
        s.status(name)
        s.suspend(name)


@scenario(kind=("linear", "error", "zero", "snapshot-origin"))
def simple_tables(s: Script, kind: str) -> None:
    """Arguments of the simple targets, too few, too many, and out of range."""
    s.disk("base", _SECTORS, stamped=True)
    s.create("d")
    for args in (
        "",
        "{base}",
        "{base} 0",
        "{base} 0 0",
        "{base} x",
        "{base} 64",
        "{base} 60",
        "{nosuch} 0",
        "{nosuch}",
        "{base} 56",
    ):
        s.load("d", Segment(8, kind, args))
    s.resume("d")
    s.write("d", 0, 3)
    s.read("d", 0, 8)


@scenario()
def name_of_a_renamed_device(s: Script) -> None:
    """The old name of a renamed device can be used again, and tables follow the name."""
    s.disk("base", _SECTORS, stamped=True)
    s.disk("cow", _SECTORS)
    s.device("a", linear("base", _SECTORS))
    s.snapshot("snap", "a", "cow", "P", 8, sectors=_SECTORS)
    s.rename("a", "b")
    s.table("snap")
    s.device("a", linear("b", _SECTORS))
    s.write("a", 0, 3)
    s.rename("a", "snap")
    s.rename("snap", "a")
    s.write("snap", 0, 3)
    s.remove("b")
    s.remove("a")
    s.rename("a", "c")


@scenario()
def suspended_without_a_table(s: Script) -> None:
    """A device that was never loaded can be suspended; then I/O would wait forever."""
    s.create("d")
    s.write("d", 0, 1)
    s.suspend("d")
    s.write("d", 0, 1)
    s.read("d", 0, 1)
    s.parallel(writing("d", 0, 1, 9))
    s.resume("d")
    s.load("d", zero(8))
    s.write("d", 0, 1)
    s.resume("d")
    s.write("d", 0, 1)
