"""Stores whose exceptions are in an order that no snapshot makes: how memory keeps them.

The kernel keeps exceptions in hash slots, as lists of runs, and the order of a list decides which
of two records of one chunk is found and which run a new exception joins.  The chunks have one
sector, and two ranges of the origin fall into the same slots.
"""

from collections.abc import Callable

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, error, linear, patched, zero
from harness.store.build import allocate, build
from harness.store.layout import ENTRY

_ORIGIN_SECTORS = 17000
_FAR = 64 * 256
"""Chunks this far apart share a slot, if a table has the least number of slots."""
_COW_SECTORS = 400


def _numbers(count: int, seed: int) -> list[int]:
    """Numbers that look random, below 2^16."""
    found = []
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % (1 << 31)
        found.append(seed >> 8 & 0xFFFF)
    return found


def _place(number: int) -> int:
    """One of 600 chunks at the beginning or of 600 far away."""
    return number % 600 + (_FAR if number & 0x4000 else 0)


def _scattered(seed: int) -> list[int]:
    """Short runs anywhere, no chunk twice."""
    found: list[int] = []
    for number in _numbers(60, seed):
        found += [
            chunk
            for chunk in range(_place(number), _place(number) + 1 + number % 4)
            if chunk not in found
        ]
    return found


def _ascending(seed: int) -> list[int]:
    return sorted(_scattered(seed))


def _backwards(seed: int) -> list[int]:
    return _ascending(seed)[::-1]


def _twice(seed: int) -> list[int]:
    """Some chunks again, later."""
    chunks = _scattered(seed)
    return chunks + [chunks[number % len(chunks)] for number in _numbers(20, seed + 1)]


def _interleaved(seed: int) -> list[int]:
    """Two runs that grow in turn, across the end of a group."""
    return [chunk for step in range(40) for chunk in (240 + step, _FAR + 250 + seed + step)]


def _few(seed: int) -> list[int]:
    """A few, some twice."""
    return [_place(number) % 300 for number in _numbers(14, seed)] * 2


_ORDERS: dict[str, Callable[[int], list[int]]] = {
    "ascending": _ascending,
    "scattered": _scattered,
    "backwards": _backwards,
    "twice": _twice,
    "interleaved": _interleaved,
    "few": _few,
}


def _store(s: Script, order: str, seed: int, *, new_backwards: bool) -> list[int]:
    chunks = _ORDERS[order](seed)
    pairs = [(int(old), int(new)) for old, new in allocate(chunks, 1).tolist()]
    if new_backwards:
        pairs = [(old, new) for (old, _), (_, new) in zip(pairs, pairs[::-1], strict=True)]
    s.disk("base", _ORIGIN_SECTORS, stamped=True)
    s.disk("cow", _COW_SECTORS, stamped=True)
    s.poke("cow", 0, build(1, pairs))
    return chunks


def _look(s: Script) -> None:
    s.read("snap", 0, 620)
    s.read("snap", _FAR, _ORIGIN_SECTORS - _FAR)


@scenario(order=tuple(_ORDERS), seed=(1,), new=("up", "down"))
def exceptions_in_any_order(s: Script, order: str, seed: int, new: str) -> None:
    """The store is loaded, read, written next to what is there, and loaded again."""
    chunks = _store(s, order, seed, new_backwards=new == "down")
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    _look(s)
    for chunk in chunks[::9]:
        s.write("snap", chunk + 1, 2)
    s.write("org", 600, 20)
    s.write("snap", max(chunks[-1] - 1, 0), 1)
    _look(s)
    s.reactivate("snap", "base", "cow", "P", 1)
    _look(s)


@scenario(order=tuple(_ORDERS), seed=(2,), new=("up", "down"))
def merge_in_any_order(s: Script, order: str, seed: int, new: str) -> None:
    """The store is merged: its runs are removed from the lists, and so are failed ones."""
    chunks = _store(s, order, seed, new_backwards=new == "down")
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    s.write("snap", chunks[0] + 1, 3)
    s.merge("org", "snap", "base", "cow", 1)
    s.status("org")
    s.read("org", 0, 620)
    s.suspend("org")
    s.resume("org")
    s.write("org", 2, 3)


@scenario(order=("scattered", "twice", "interleaved"), seed=(1, 2))
def handover_in_the_middle(s: Script, order: str, seed: int) -> None:
    """The exceptions of such a store go from table to table, with writes in between."""
    chunks = _store(s, order, seed, new_backwards=False)
    s.snapshot("snap", "base", "cow", "P", 1)
    for turn in range(3):
        s.write("snap", chunks[turn * 3] + 1, 4)
        s.suspend("snap")
        s.suspend("snap")
        s.reload("snap", s.snapshot_line("base", "cow", "PO", 1))
        s.resume("snap")
    _look(s)


@scenario(
    chunks=(
        "99",
        "100",
        "101",
        "99 100",
        "98 99 100 101",
        "1099511627776",
        "36028797018963968",
        "18446744073709551615",
    )
)
def merge_beyond_the_origin(s: Script, chunks: str) -> None:
    """Exceptions at the end of the origin, right after it, and far beyond are merged."""
    s.disk("base", 100, stamped=True)
    s.disk("cow", 200, stamped=True)
    s.poke("cow", 0, build(1, [(int(old), 2 + new) for new, old in enumerate(chunks.split())]))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    s.merge("org", "snap", "base", "cow", 1)
    s.status("org")
    s.write("org", 3, 9)
    s.suspend("org")
    s.resume("org")


@scenario(store=("P", "N"), left=(24, 28, 32, 36, 40))
def copy_at_the_end_of_a_shrunk_origin(s: Script, store: str, left: int) -> None:
    """The origin ends before, inside, or right at the start of the chunk to be copied."""
    s.disk("disk", 64, stamped=True)
    s.disk("cow", 128, stamped=True)
    s.write("cow", 0, 8, zeros=True)
    s.device("base", linear("disk", 64))
    s.snapshot("snap", "base", "cow", store, 8)
    s.write("snap", 3, 2)
    s.reload("base", linear("disk", left))
    s.write("snap", 33, 2)
    s.read("snap", 0, 8)
    s.read("snap", 32, 8)


@scenario(seed=(3,), bits=(20, 45))
def exceptions_far_apart(s: Script, seed: int, bits: int) -> None:
    """A store of single chunks and short runs, anywhere on a huge origin; some read, some written.

    The origin is made of zeros, since no disk is that large.
    """
    numbers = _numbers(48, seed)
    chunks = sorted(
        {(number << bits - 16) + part for number in numbers for part in range(1 + number % 3)}
    )
    sectors = (1 << bits) + 8
    s.disk("cow", 256, stamped=True)
    s.poke("cow", 0, build(1, allocate(chunks, 1)))
    s.device("base", zero(sectors))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    for chunk in (chunks[0], chunks[7], chunks[-1]):
        s.read("snap", max(chunk - 2, 0), 6)
        s.write("snap", chunk, 4)
        s.write("org", chunk + 2, 5)
        s.read("snap", chunk, 9)
    s.write("snap", chunks[9] - 1, 20)
    s.write("org", chunks[11] - 3, 24)
    s.read("snap", chunks[9] - 1, 20)
    s.reactivate("snap", "base", "cow", "P", 1)
    s.read("snap", chunks[9] - 1, 20)


@scenario(entry=(31, 20), becomes=("nowhere", "middle", "first", "metadata"))
def merge_of_an_area_that_changed(s: Script, entry: int, becomes: str) -> None:
    """An area of the store is overwritten behind the snapshot's back; the merge reads it again.

    A merge reads what to copy from the disk, and its runs from memory, and reports where they do
    not match.
    """
    s.disk("base", 128, stamped=True)
    s.disk("cow", 128, stamped=True)
    pairs = [(int(old), int(new)) for old, new in allocate(range(40), 1).tolist()]
    s.poke("cow", 0, build(1, pairs))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    other = {
        "nowhere": (90, pairs[entry][1]),
        "middle": (12, pairs[12][1]),
        "first": (0, pairs[0][1]),
        "metadata": (pairs[entry][0], 1),
    }[becomes]
    area = [other if index == entry else pair for index, pair in enumerate(pairs[:32])]
    s.poke("cow", 1, b"".join(ENTRY.pack(*pair) for pair in area))
    s.merge("org", "snap", "base", "cow", 1)
    s.status("org")
    s.read("org", 0, 128)
    s.write("org", 9, 6)
    s.suspend("org")
    s.resume("org")


@scenario(count=(36, 70), again=("handed over", "activated"))
def written_after_a_merge_that_failed(s: Script, count: int, again: str) -> None:
    """Part of the store has been merged when the origin fails; then it is a snapshot again."""
    s.disk("base", 256, stamped=True)
    s.disk("cow", 256, stamped=True)
    chunks = [*range(3, 20), *range(100, 83 + count)]
    s.poke("cow", 0, build(1, allocate(chunks, 1)))
    s.device("below", linear("base", 90), error(166))
    s.snapshot("snap", "below", "cow", "P", 1)
    s.origin("org", "below")
    s.suspend("below")
    s.load("below", *patched("base", 256, 3, error(5)))
    s.resume("below")
    s.merge("org", "snap", "below", "cow", 1)
    s.status("org")
    if again == "activated":
        s.reactivate("org", "below", "cow", "P", 1)
    else:
        s.reload("org", s.snapshot_line("below", "cow", "P", 1))
    s.write("org", 9, 6)
    s.write("org", 60, 9)
    s.write("org", 2, 3)
    s.read("org", 0, 256)


@scenario(chunk=("18446744073709551615", "72057594037927935", "1152921504606846975"))
def last_new_chunk_of_all(s: Script, chunk: str) -> None:
    """Entries point to the largest possible chunks, which decide what is handed out next."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 64, stamped=True)
    s.poke("cow", 0, build(1, [(1, 5), (20, int(chunk)), (30, 7)]))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.read("snap", 0, 64)
    s.write("snap", 40, 2)
    s.write("snap", 20, 1)
    s.read("snap", 0, 64)


@scenario()
def entries_beyond_a_disk_that_counts(s: Script) -> None:
    """What lies beyond the end of the COW device never becomes a request to the disk."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 64, can_fail=True)
    s.poke("cow", 0, build(1, [(1, 5), (20, 64), (21, 65), (30, 1000000)]))
    s.snapshot("snap", "base", "cow", "P", 1)
    for sector in (1, 20, 21, 30):
        s.read("snap", sector, 1)
        s.write("snap", sector, 1)
    s.write("snap", 40, 2)
