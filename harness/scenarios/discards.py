"""Discards of a snapshot that takes them: what is zeroed, what is passed down, what is hit."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script

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


@scenario(sector=(8, 256, 504), features=FEATURES,
          rows=("F: discard features", "G5: the discard features"))
def discard_unaligned(s: Script, sector: int, features: str) -> None:
    """A chunk's length from the middle of one: zeros run into the neighbour on the COW device."""
    _snapshot(s, features)
    s.discard("snap", sector, CHUNK)
    s.read("snap", 0, 4 * CHUNK)
    s.image("cow")


@scenario(rows=("F: discard features", "G5: the discard features"))
def discard_of_overflowed(s: Script) -> None:
    """A snapshot that has overflowed takes no discard, an invalid one neither."""
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
