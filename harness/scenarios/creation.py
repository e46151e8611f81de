"""Bringing up snapshots, and everything that a constructor refuses."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, linear, zero
from harness.trace.steps import TargetLine

STORES = ("P", "PO", "N")


@scenario(store=STORES, rows=("dmtest: bring_up_snapshot_target_{store[0]}",))
def bring_up(s: Script, store: str) -> None:
    """A snapshot is created, queried for everything it can report, and removed."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 128)
    s.create("snap")
    s.status("snap")
    s.load("snap", s.snapshot_line("base", "cow", store, 8))
    s.table("snap", inactive=True)
    s.status("snap", inactive=True)
    s.image("cow")
    s.resume("snap")
    s.status("snap")
    s.table("snap")
    s.read("snap", 0, 256)
    s.remove("snap")
    s.status("snap")


def _try_tables(s: Script, *arguments: str, sectors: int = 64, target: str = "snapshot") -> None:
    """Load each on a separate device; what is accepted is dropped again."""
    for number, text in enumerate(arguments):
        name = f"try{number}"
        s.prepare(name, Segment(sectors, target, text))
        s.table(name, inactive=True)
        s.clear(name)
        s.remove(name)


@scenario()
def ctr_argument_count(s: Script) -> None:
    """Too few words; any number of spaces between them; backslashes, which are literal."""
    s.disk("base", 64)
    s.disk("cow", 64)
    _try_tables(
        s,
        "",
        "{base}",
        "{base} {cow}",
        "{base} {cow} P",
        "  {base}   {cow}  P  8  ",
        "{base} {cow} P\\ 8",
        "{base} {cow} P \\8",
    )


@scenario()
def ctr_store_types(s: Script) -> None:
    """Which words name a store type, and what may follow the first letter."""
    s.disk("base", 64)
    s.disk("cow", 64)
    _try_tables(
        s,
        *(
            f"{{base}} {{cow}} {word} 8"
            for word in (
                "P",
                "p",
                "N",
                "n",
                "PO",
                "po",
                "pO",
                "POxx",
                "PX",
                "Px",
                "P8",
                "persistent",
                "transient",
                "NO",
                "NOPE",
                "nx",
                "X",
                "O",
                "0",
                "-",
                "PP",
                "PN",
            )
        ),
    )


@scenario()
def ctr_chunk_sizes(s: Script) -> None:
    """Which words are a chunk size."""
    s.disk("base", 64)
    s.disk("cow", 4096)
    _try_tables(
        s,
        *(
            f"{{base}} {{cow}} P {word}"
            for word in (
                "1",
                "2",
                "64",
                "0",
                "+8",
                "008",
                "-8",
                "0x8",
                "8k",
                "8.0",
                "x",
                "3",
                "24",
                "65",
                "4294967295",
                "4294967296",
                "18446744073709551616",
                "4194304",
                "4194303",
                "2147483648",
            )
        ),
    )
    _try_tables(
        s, *(f"{{base}} {{cow}} N {word}" for word in ("1", "0", "3", "65", "2097152", "4194304"))
    )


@scenario(
    rows=("dmtest: non_power_of_2_chunk_size_fails", "dmtest: too_large_chunk_size_fails"),
    store=("P", "N"),
)
def chunk_size_refused(s: Script, store: str) -> None:
    """Not a power of two, and beyond the limit: refused, and nothing is written."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 64, stamped=True)
    _try_tables(s, f"{{base}} {{cow}} {store} 65", f"{{base}} {{cow}} {store} 4194304")
    s.image("cow")


@scenario()
def ctr_features(s: Script) -> None:
    """Feature arguments: counts, names, their order, and which complaint wins."""
    s.disk("base", 64)
    s.disk("cow", 64)
    _try_tables(
        s,
        *(
            f"{{base}} {{cow}} P 8 {words}"
            for words in (
                "0",
                "0 junk",
                "00",
                "+0",
                "-1",
                "x",
                "1",
                "2",
                "3",
                "3 a b c",
                "1 bogus",
                "2 bogus",
                "1 discard_passdown_origin",
                "2 discard_passdown_origin bogus",
                "2 bogus discard_passdown_origin",
                "2 discard_zeroes_cow bogus",
                "1 DISCARD_BOGUS",
            )
        ),
    )


@scenario()
def ctr_faults_in_order(s: Script) -> None:
    """Features are read before devices are opened, and devices before the store."""
    s.disk("base", 64)
    _try_tables(
        s,
        "{nobody} {nothing} X 3 1 bogus",
        "{nobody} {nothing} X 3",
        "{base} {nothing} X 3",
        "{base} {base} X 3",
    )


@scenario()
def ctr_devices(s: Script) -> None:
    """Devices that do not exist: paths, numbers, and both at once."""
    s.disk("base", 64)
    s.disk("cow", 64)
    _try_tables(
        s,
        "{nobody} {cow} P 8",
        "{base} {nobody} P 8",
        "999:7 {cow} P 8",
        "{base} 999:7 P 8",
        "/nowhere {cow} P 8",
        "nowhere {cow} P 8",
    )


@scenario()
def cow_is_origin(s: Script) -> None:
    """The COW device may not be the origin."""
    s.disk("base", 64, stamped=True)
    s.prepare("snap", s.snapshot_line("base", "base", "P", 8))
    s.image("base")
    s.remove("snap")


@scenario()
def names_itself(s: Script) -> None:
    """A table that names the device it is loaded into."""
    s.disk("base", 64)
    s.device("snap", linear("base", 64))
    s.load("snap", s.snapshot_line("snap", "base", "P", 8))
    s.clear("snap")


@scenario()
def origin_ctr(s: Script) -> None:
    """What snapshot-origin refuses."""
    s.disk("base", 64)
    _try_tables(s, "", "{base} {base}", "{nobody}", "999:7", "{base}", target="snapshot-origin")


@scenario()
def table_faults(s: Script) -> None:
    """Tables that device-mapper refuses before it asks a target."""
    s.disk("base", 64)
    tables: tuple[tuple[Segment | TargetLine, ...], ...] = (
        (),
        (TargetLine(0, 0, "zero"),),
        (Segment(8, "nosuch"),),
        (TargetLine(8, 8, "zero"),),
        (zero(8), TargetLine(16, 8, "zero")),
        (zero(8), Segment(8, "snapshot", "x")),
        (Segment(8, "linear", "{base} x"),),
        (Segment(8, "linear", "{base}"),),
        (Segment(8, "zero", "x"),),
        (linear("base", 65),),
        (linear("base", 8, 60),),
        (s.origin_line("base", sectors=65),),
    )
    for number, lines in enumerate(tables):
        name = f"try{number}"
        s.prepare(name, *lines)
        s.remove(name)


@scenario(store=STORES)
def default_chunk_size(s: Script, store: str) -> None:
    """Chunk size 0: the default of a persistent store, an error of a transient one."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", store, 0)
    s.write("snap", 3, 1)


@scenario(rows=("dmtest: largest_chunk_size_succeeds_N",))
def largest_chunk(s: Script) -> None:
    """2097152 sectors, the largest chunk, in a transient store; the origin is far smaller."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 2097152)
    s.snapshot("snap", "base", "cow", "N", 2097152)
    s.write("snap", 5, 3)
    s.read("snap", 0, 64)
    s.remove("snap")


@scenario(chunk=(2048, 16384), rows=("dmtest: huge_chunk_size_P",))
def huge_chunk(s: Script, chunk: int) -> None:
    """A chunk longer than any bio: always copied; header and areas are just as long."""
    s.disk("base", 2 * chunk + 100, stamped=True)
    s.disk("cow", 5 * chunk)
    s.snapshot("snap", "base", "cow", "P", chunk)
    s.origin("org", "base")
    s.write("snap", 7, 9)
    s.write("snap", chunk, chunk)
    s.write("org", 2 * chunk + 50, 20)
    s.read("snap", chunk - 8, 16)


@scenario(store=("P", "N"), chunk=(1, 8, 16))
def blocks_of_4096(s: Script, store: str, chunk: int) -> None:
    """A COW device with a logical block of 4096 bytes takes no smaller chunk."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, block_size=4096)
    s.snapshot("snap", "base", "cow", store, chunk)


@scenario()
def blocks_of_4096_io(s: Script) -> None:
    """I/O that is not a multiple of the block size is refused; the rest works as usual."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, block_size=4096)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 1, 1)
    s.write("snap", 8, 8)
    s.write("snap", 20, 8)
    s.write("snap", 32, 32)
    s.read("snap", 0, 64)
    s.read("snap", 1, 8)


@scenario(store=("P", "N"))
def default_chunk_on_4096(s: Script, store: str) -> None:
    """Chunk size 0 over a device with large blocks."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 512, block_size=4096)
    s.snapshot("snap", "base", "cow", store, 0)


@scenario()
def longer_than_origin(s: Script) -> None:
    """A snapshot longer than its origin: refused at load, later at resume."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 128)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8, sectors=72))
    s.image("cow")
    s.load("snap", s.snapshot_line("base", "cow", "P", 8))
    s.resume("snap")
    s.write("snap", 0, 3)
    s.device("other", zero(32))
    s.disk("cow2", 128)
    s.load("other", s.snapshot_line("base", "cow2", "P", 8, sectors=72))
    s.resume("other")
    s.resume("other")


@scenario(rows=("lvm2: lvcreate-small-snap",), sectors=(4, 8, 15, 16, 17, 24, 44))
def tiny_cow(s: Script, sectors: int) -> None:
    """COW devices from less than a chunk to a few chunks: what can be created, and what fits."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", sectors)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 1)
    s.write("snap", 8, 1)
    s.write("snap", 16, 1)
    s.write("snap", 24, 1)


@scenario()
def table_chunk_larger_than_cow(s: Script) -> None:
    """The header is read with the table's chunk size, which must fit the device."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 48)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 0, 3)
    s.reactivate("snap", "base", "cow", "P", 64)


@scenario(rows=("lvm2: snapshot-usage (read-only)",))
def read_only_snapshot(s: Script) -> None:
    """A read-only table still writes the header, and origin writes still copy."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 128)
    s.snapshot("snap", "base", "cow", "P", 8, read_only=True)
    s.origin("org", "base")
    s.write("snap", 0, 8)
    s.write("org", 8, 4)
    s.read("snap", 0, 64)
    s.reload("snap", s.snapshot_line("base", "cow", "P", 8))
    s.write("snap", 0, 8)
