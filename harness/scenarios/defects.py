"""Known defects of kernels that no other theme meets (docs/KERNEL-DEFECTS.md).

Those that can kill the kernel run only when named, each in its own guest.
"""

from typing import Final

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear, zero
from harness.store.layout import ENTRY, DiskHeader
from harness.trace.files import Layer

_COUNT_255: Final = 255 << 56
"""In the upper byte of a new chunk: 255 further chunks."""


@scenario(loses_guest=True)
def store_kills_kernel(s: Script) -> None:
    """On load, two rotten entries form a run that is too long to be counted."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 256)
    s.poke("cow", 0, DiskHeader(chunk_sectors=8).pack())
    s.poke("cow", 8, ENTRY.pack(5, _COUNT_255 | 10) + ENTRY.pack(4, 9))
    s.snapshot("snap", "base", "cow", "P", 8)


@scenario()
def long_run_in_a_rotten_store(s: Script) -> None:
    """One rotten entry claims that 255 chunks follow it: they are read from where it says."""
    s.disk("base", 2048, stamped=True)
    s.disk("cow", 1024, stamped=True)
    s.poke("cow", 0, DiskHeader(chunk_sectors=8).pack())
    s.poke("cow", 8, (ENTRY.pack(5, _COUNT_255 | 10) + ENTRY.pack(300, 40)).ljust(4096, b"\0"))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.read("snap", 32, 64)
    s.read("snap", 8 * 120, 8)
    s.read("snap", 8 * 200, 8)


@scenario()
def all_ones_in_a_store(s: Script) -> None:
    """The new chunk of one rotten entry is all ones, so the next one is 0, which is the header."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 256)
    s.poke("cow", 0, DiskHeader(chunk_sectors=8).pack())
    s.poke("cow", 8, ENTRY.pack(5, (1 << 64) - 1).ljust(4096, b"\0"))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 16, 8)
    s.read("snap", 0, 32)
    s.remove("snap")
    s.snapshot("snap", "base", "cow", "P", 8)


def _named_twice(s: Script, *lines: Segment) -> None:
    s.disk("base", 512, stamped=True)
    s.disk("cow", 256)
    s.device("snap", *lines)
    s.read("snap", 0, 8)
    s.write("snap", 3, 3)
    s.remove("snap")


@scenario(loses_guest=True)
def origin_named_again(s: Script) -> None:
    """A snapshot, and after it in the same table a target that opens its origin for writing.

    From then on the snapshot's reference to its origin is freed memory: a kernel may die of it.
    """
    _named_twice(s, s.snapshot_line("base", "cow", "P", 8, sectors=256), linear("base", 256, 256))


@scenario()
def origin_named_before(s: Script) -> None:
    """The same two in the other order: the device is open for writing when the snapshot asks."""
    _named_twice(s, linear("base", 256, 256), s.snapshot_line("base", "cow", "P", 8, sectors=256))


@scenario(loses_guest=True)
def discard_small_chunks(s: Script) -> None:
    """Discards zero chunks of 8 sectors, whose granularity is less than a whole sector."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512)
    s.device("snap", s.snapshot_line("base", "cow", "P", 8, features="1 discard_zeroes_cow"))
    s.write("snap", 0, 32)
    s.discard("snap", 8, 16)
    s.read("snap", 0, 40)


@scenario(sector=(0, 200))
def discard_of_several_chunks(s: Script, sector: int) -> None:
    """The length of three chunks is discarded, from the start of one or from the middle.

    The granularity is too small for the block layer to cut at chunks, so all pieces start in the
    middle of one.  After each of the three, the COW device has a chunk from elsewhere.
    """
    chunk = 1024
    s.disk("base", 8 * chunk, stamped=True)
    s.disk("cow", 10 * chunk)
    s.device("snap", s.snapshot_line("base", "cow", "P", chunk, features="1 discard_zeroes_cow"))
    for number in (0, 5, 1, 6, 2, 7):
        s.write("snap", number * chunk, chunk)
    s.discard("snap", sector, 3 * chunk)
    s.read("snap", 0, 8 * chunk)


@scenario()
def merge_run_over_2_tib(s: Script) -> None:
    """A run of 2 TiB and 32 MiB is merged: the sectors of a run are counted in 32 bits.

    The COW device is as ascending writes leave it, except for where its data starts; most of it,
    and of the origin, consists of dm-zero.
    """
    s.leave_out(
        Layer.LOG,
        "7.2 warns of dm-bufio's vmalloc flags, once after each boot, where "
        "chunks are of more than 4 MiB",
    )
    chunk, data = 65536, 256
    chunks = (1 << 32) // chunk + 1
    sectors, real = chunks * chunk, 2 * chunk
    s.disk("old", real)
    s.disk("meta", real)
    s.disk("new", real)
    for number in (0, 1):
        s.write("old", number * chunk, 8)
        s.write("new", number * chunk, 8)
    s.poke("meta", 0, DiskHeader(chunk_sectors=chunk).pack())
    s.poke("meta", chunk, b"".join(ENTRY.pack(old, old + data) for old in range(chunks)))
    s.device("base", linear("old", real), zero(sectors - real))
    s.device(
        "cow", linear("meta", real), zero(data * chunk - real), linear("new", real), zero(sectors)
    )
    s.snapshot("snap", "base", "cow", "P", chunk)
    for number in (0, 1):
        s.read("snap", number * chunk, 8)
    s.remove("snap")
    s.device("merge", s.merge_line("base", "cow", "P", chunk))
    for number in (0, 1):
        s.read("merge", number * chunk, 8)


@scenario(loses_guest=True)
def written_after_a_failed_merge(s: Script) -> None:
    """A merge fails with the last run of a full area; the snapshot is recreated, and written.

    The merge has read the area and counts all its entries: the next exception is one too many.
    """
    s.disk("disk", 64, stamped=True)
    s.disk("cow", 256)
    s.device("base", linear("disk", 64))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    s.write("snap", 0, 34)
    s.write("snap", 50, 2)
    s.suspend("base")
    s.load("base", error(32), linear("disk", 32, 32))
    s.resume("base")
    s.merge("org", "snap", "base", "cow", 1)
    s.status("org")
    s.reload("org", s.snapshot_line("base", "cow", "P", 1))
    s.read("org", 40, 8)
    s.write("org", 60, 1)
