"""Discards: where they are cut, and what a snapshot that takes them zeroes and passes down.

The submitter cuts one at the granularity of the device, the device at the longest one that it
takes, and a table at its targets.  A disk ignores less than its granularity, so each cut shows in
what is left.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear

CHUNK = 512
"""Smaller chunks make 7.2 divide by zero when the table is loaded."""


def _snapshot(s: Script, features: str) -> None:
    s.disk("base", 16 * CHUNK, stamped=True)
    s.disk("cow", 20 * CHUNK)
    s.device("snap", s.snapshot_line("base", "cow", "P", CHUNK, features=features))
    s.write("snap", 0, 3 * CHUNK)
    s.write("snap", 5 * CHUNK, 10)


FEATURES = ("1 discard_zeroes_cow", "2 discard_zeroes_cow discard_passdown_origin")


@scenario(features=FEATURES, rows=("F: discard features", "G5: the discard features"))
def discard_whole_chunks(s: Script, features: str) -> None:
    """Chunks with an exception read zeros afterwards; others are left alone."""
    _snapshot(s, features)
    s.discard("snap", CHUNK, CHUNK)
    s.read("snap", 0, 4 * CHUNK)
    s.discard("snap", 0, 16 * CHUNK)
    s.read("snap", 0, 16 * CHUNK)
    s.write("snap", 8 * CHUNK, CHUNK)


@scenario(features=FEATURES, rows=("F: discard features", "G5: the discard features"))
def discard_parts(s: Script, features: str) -> None:
    """Parts of a chunk are passed to the COW device as they are."""
    _snapshot(s, features)
    s.discard("snap", 8, 64)
    s.discard("snap", 4 * CHUNK + 16, 32)
    s.read("snap", 0, 6 * CHUNK)


@scenario(
    sector=(8, 256, 504),
    features=FEATURES,
    rows=("F: discard features", "G5: the discard features"),
)
def discard_unaligned(s: Script, sector: int, features: str) -> None:
    """A chunk's length from the middle of one: zeros run into the next chunk on the COW device."""
    _snapshot(s, features)
    s.discard("snap", sector, CHUNK)
    s.read("snap", 0, 4 * CHUNK)
    s.image("cow")


@scenario(rows=("F: discard features", "G5: the discard features"))
def discard_of_overflowed(s: Script) -> None:
    """A snapshot that has overflowed takes no discards, and neither does an invalid one."""
    s.disk("base", 16 * CHUNK, stamped=True)
    s.disk("cow", 4 * CHUNK)
    s.device("snap", s.snapshot_line("base", "cow", "PO", CHUNK, features="1 discard_zeroes_cow"))
    s.write("snap", 0, 4 * CHUNK)
    s.discard("snap", 0, CHUNK)
    s.read("snap", 0, CHUNK)


@scenario(features=FEATURES, rows=("F: discard features", "G5: the discard features"))
def discard_feature_in_lines(s: Script, features: str) -> None:
    """The table line shows the features, and a reload may drop them."""
    _snapshot(s, features)
    s.reload("snap", s.snapshot_line("base", "cow", "P", CHUNK))
    s.discard("snap", 0, CHUNK)
    s.reload("snap", s.snapshot_line("base", "cow", "P", CHUNK, features=features))
    s.discard("snap", 0, CHUNK)
    s.read("snap", 0, CHUNK)


_PLACES = ((0, 8), (1, 8), (5, 16), (7, 9), (8, 17), (20, 3), (97, 16), (100, 28), (41, 79))


def _discard_places(s: Script, device: str) -> None:
    for sector, sectors in _PLACES:
        s.discard(device, sector, sectors)


@scenario(shift=(0, 1, 4, 7, 8, 13), block_size=(512, 4096))
def discard_through_linear(s: Script, shift: int, block_size: int) -> None:
    """A linear target shifts the disk's granularity against that of the device above."""
    s.disk("base", 160, stamped=True, block_size=block_size)
    s.device("shifted", linear("base", 128, shift))
    _discard_places(s, "shifted")
    s.device("twice", linear("shifted", 120, 3))
    s.discard("twice", 2, 90)


@scenario(lengths=((8, 16, 104), (5, 30, 93), (1, 64, 63)), last=("linear", "zero", "error"))
def discard_through_concatenation(s: Script, lengths: tuple[int, int, int], last: str) -> None:
    """Targets side by side on parts of two disks, each with a different shift."""
    s.disk("one", 256, stamped=True)
    s.disk("two", 256, stamped=True)
    first, second, third = lengths
    s.device(
        "joined",
        linear("one", first, 8),
        linear("two", second, 3),
        Segment(third, last, "{one} 100" if last == "linear" else ""),
    )
    _discard_places(s, "joined")
    s.discard("joined", 0, 128)


@scenario(can_fail=(("base",), ("cow",), ("base", "cow")))
def discard_requests(s: Script, can_fail: tuple[str, ...]) -> None:
    """Disks that count requests take discards of any place and length: every cut is seen."""
    s.disk("base", 4096, stamped=True, can_fail="base" in can_fail)
    s.disk("cow", 8192, can_fail="cow" in can_fail)
    s.device("shifted", linear("base", 4090, 5))
    s.device(
        "snap",
        Segment(
            4090, "snapshot", "{shifted} {cow} N 512 2 discard_zeroes_cow discard_passdown_origin"
        ),
    )
    s.write("snap", 512, 1024)
    for sector, sectors in ((5, 20), (511, 514), (100, 2000), (512, 512), (0, 4090)):
        s.discard("snap", sector, sectors)
    s.discard("shifted", 3, 1000)


@scenario(chunk=(512, 1024, 4096, 8192), sector=(0, 5, 512))
def discard_larger_chunks(s: Script, chunk: int, sector: int) -> None:
    """With chunks of 8192 sectors and more, the granularity is more than a page."""
    s.disk("base", 4 * chunk + 100, stamped=True)
    s.disk("cow", 6 * chunk)
    s.device(
        "snap",
        Segment(
            4 * chunk + 100,
            "snapshot",
            f"{{base}} {{cow}} N {chunk} 2 discard_zeroes_cow discard_passdown_origin",
        ),
    )
    s.write("snap", chunk, chunk)
    s.write("snap", 3 * chunk, 10)
    for start, sectors in ((sector, chunk), (chunk + sector, 2 * chunk), (3 * chunk + sector, 50)):
        s.discard("snap", start, sectors)
    s.device("above", linear("snap", 4 * chunk, 8))
    s.discard("above", sector, 3 * chunk)
    s.read("snap", chunk, 64)


@scenario(loses_guest=True, chunk=(1, 4, 8, 16, 64), sector=(0, 5, 16))
def discard_smaller_chunks(s: Script, chunk: int, sector: int) -> None:
    """Chunks smaller than the granularity of the disks: a discard is not cut at them."""
    s.disk("base", 256, stamped=True, block_size=512)
    s.disk("cow", 1024, can_fail=True)
    s.device(
        "snap",
        Segment(
            256,
            "snapshot",
            f"{{base}} {{cow}} N {chunk} 2 discard_zeroes_cow discard_passdown_origin",
        ),
    )
    s.write("snap", 0, 64)
    for sectors in (3, chunk, 2 * chunk, 5 * chunk + 3):
        s.discard("snap", sector, sectors)
    s.read("snap", 0, 128)


@scenario()
def discard_after_the_devices_changed(s: Script) -> None:
    """A device keeps the limits that it got with its table, whatever is below it later."""
    s.disk("base", 128, stamped=True)
    s.disk("other", 128, stamped=True, can_fail=True)
    s.device("below", linear("base", 128))
    s.device("above", linear("below", 128))
    s.reload("below", linear("other", 128))
    s.discard("above", 3, 20)
    s.discard("below", 3, 20)
    s.reload("below", s.origin_line("other", sectors=128))
    s.discard("above", 40, 20)
    s.discard("below", 40, 20)
    s.reload("above", error(128))
    s.discard("above", 3, 20)
