"""A snapshot's content, from its origin and its store: what the kernel would show, without one.

Ranges without an exception come from the origin, the others from the COW device.  Where exceptions
are few and long, each range is copied by itself, and holes stay holes.  Where they are many and
short, a window of the origin is read at once, the chunks are read into it, and it is written at
once.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from harness.errors import Refused
from harness.media import COPY_BYTES, Medium
from harness.store.check import check
from harness.store.order import Runs, Which, in_chunk_order, runs
from harness.store.parse import State, Store
from harness.units import bytes_of_sectors

Tell = Callable[[int], None]
"""Is told how many bytes more are done."""

_HOLE_BYTES: Final = 4096
_LONG_BYTES: Final = 256 << 10
"""Runs of this length on average are copied one by one."""


def check_readable(store: Store, *, duplicates: bool) -> None:
    """See that each exception leads to a data chunk of its own.

    Args:
        store: the store.
        duplicates: whether an old chunk may be there more than once.

    Raises:
        Refused: the store is not valid, or one does not.
    """
    if store.state is not State.VALID:
        raise Refused(
            f"the store is {store.state.value}: it holds no exceptions that the kernel would use"
        )
    for finding in check(store):
        if finding.damage and not (duplicates and finding.code == "duplicate-old-chunk"):
            cure = (
                "say which one counts: --duplicates first or last"
                if finding.code == "duplicate-old-chunk"
                else "what it stands for is lost, or somebody else's"
            )
            raise Refused(f"{finding.message}; {cure}")


def extract(
    store: Store,
    cow: Medium,
    origin: Medium,
    out: Medium,
    length: int,
    *,
    which: Which = "last",
    tell: Tell = lambda _bytes: None,
) -> None:
    """Write the content of a snapshot of ``length`` bytes.

    Exceptions behind that are not looked at, as the kernel never does.

    Args:
        store: the store on ``cow``; see `check_readable`.
        cow: the COW device.
        origin: the origin, at least as long.
        out: where it goes; holes are left where it is blank.
        length: bytes of the snapshot.
        which: the exception that counts where a chunk has several.
        tell: is told of progress.

    Raises:
        MalformedStore, OSError: something cannot be read or written.
    """
    chunk = bytes_of_sectors(store.chunk_sectors)
    window = max(COPY_BYTES, chunk)
    at = 0
    for found in runs(in_chunk_order(store, which)):
        block = found[found["old"] < np.uint64(-(-length // chunk))]
        first = 0
        while first < len(block):
            start = int(block["old"][first]) * chunk
            if at < start:
                out.copy_from(origin, at, at, start - at)
                tell(start - at)
                at = start
            # All runs that begin in the window, and end in it or shortly behind.
            behind = int(np.searchsorted(block["old"], (start + window) // chunk))
            some = block[first : max(behind, first + 1)]
            end = min(length, int(some["old"][-1] + some["count"][-1]) * chunk)
            if (end - start) > 2 * window or end - start >= len(some) * _LONG_BYTES:
                _by_runs(some, chunk, length, cow, origin, out)
            else:
                _by_window(some, chunk, start, end, cow, origin, out)
            tell(end - start)
            at = end
            first += len(some)
    if at < length:
        out.copy_from(origin, at, at, length - at)
        tell(length - at)


def _by_runs(some: Runs, chunk: int, length: int, cow: Medium, origin: Medium, out: Medium) -> None:
    at = int(some["old"][0]) * chunk
    for old, new, count in some.tolist():
        start, end = old * chunk, min(length, (old + count) * chunk)
        if at < start:
            out.copy_from(origin, at, at, start - at)
        out.copy_from(cow, new * chunk, start, end - start)
        at = end


def _by_window(
    some: Runs, chunk: int, start: int, end: int, cow: Medium, origin: Medium, out: Medium
) -> None:
    buffer = bytearray(end - start)
    view = memoryview(buffer)
    if int(some["count"].sum()) * chunk < end - start:
        for begin, stop, data in origin.stretches(start, end):
            if data:
                origin.read_into(view[begin - start : stop - start], begin)
    for old, new, count in some.tolist():
        begin, stop = old * chunk, min(end, (old + count) * chunk)
        cow.read_into(view[begin - start : stop - start], new * chunk)
    write_sparse(out, view, start)


def write_sparse(out: Medium, view: memoryview, start: int) -> None:
    """Write ``view``; parts of it that are zero are left out where the medium is blank."""
    if not out.blank or len(view) % _HOLE_BYTES:
        out.write(view, start)
        return
    words = np.frombuffer(view, np.uint64).reshape(-1, _HOLE_BYTES // 8)
    used = words.any(axis=1)
    if used.all():
        out.write(view, start)
        return
    edges = np.flatnonzero(np.diff(np.concatenate(([False], used, [False])).astype(np.int8)))
    for begin, stop in edges.reshape(-1, 2).tolist():
        out.write(view[begin * _HOLE_BYTES : stop * _HOLE_BYTES], start + begin * _HOLE_BYTES)
