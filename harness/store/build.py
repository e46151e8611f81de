"""Stores made to order: sound ones for scenarios and tests, and ones that no kernel wrote.

`build` lays out bytes exactly as asked and checks nothing, so hostile stores are as easy to make
as sound ones: a header that lies about its chunk size, entries that point anywhere, a device that
ends where an area should begin.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from harness.store.layout import DiskHeader, area_chunk, chunks_needed, entries_per_area
from harness.store.parse import ENTRY_DTYPE, Entries
from harness.units import bytes_of_sectors

Pairs = Iterable[tuple[int, int]] | Entries
"""Exceptions as (old_chunk, new_chunk)."""


def allocate(old_chunks: Iterable[int], chunk_sectors: int) -> Entries:
    """Exceptions for ``old_chunks``, in the chunks that a fresh store would hand out for them."""
    old = np.fromiter(old_chunks, dtype=np.uint64)
    out = np.empty(len(old), ENTRY_DTYPE)
    index = np.arange(len(old), dtype=np.uint64)
    out["old"] = old
    out["new"] = index + np.uint64(2) + index // np.uint64(entries_per_area(chunk_sectors))
    return out


def build(
    chunk_sectors: int,
    exceptions: Pairs = (),
    *,
    sectors: int | None = None,
    header: DiskHeader | None = None,
    header_tail: bytes = b"",
    stale: Pairs = (),
    data: Mapping[int, bytes] | None = None,
) -> bytes:
    """The image of a COW device with a store on it.

    Args:
        chunk_sectors: chunk size, which decides where everything lies.
        exceptions: entries in commit order; as many areas as they need, and one more, all zero, if
            the last is exactly full.
        sectors: size of the device, which cuts off what does not fit; by default as large as the
            kernel needs for that many exceptions.
        header: header to write instead of the correct one.
        header_tail: bytes that follow the header in chunk 0.
        stale: entries behind the end marker; they begin one entry after it.
        data: contents by chunk number.

    Raises:
        ValueError: the stale entries do not fit the last area.
    """
    used = as_entries(exceptions)
    chunk_bytes = bytes_of_sectors(chunk_sectors)
    size = (
        bytes_of_sectors(sectors)
        if sectors is not None
        else chunks_needed(len(used), entries_per_area(chunk_sectors)) * chunk_bytes
    )
    image = bytearray(size)
    contents = itertools.chain(
        pieces(chunk_sectors, used, header=header, header_tail=header_tail, stale=stale),
        ((chunk * chunk_bytes, content) for chunk, content in (data or {}).items()),
    )
    for offset, content in contents:
        if offset < size:
            part = content[: size - offset]
            image[offset : offset + len(part)] = part
    return bytes(image)


def pieces(
    chunk_sectors: int,
    exceptions: Pairs = (),
    *,
    header: DiskHeader | None = None,
    header_tail: bytes = b"",
    stale: Pairs = (),
) -> Iterator[tuple[int, bytes]]:
    """The metadata chunks of a store, each with its byte offset: the header, then every area.

    For devices that are too large to hold in memory; the arguments are those of `build`.
    """
    used = as_entries(exceptions)
    left = as_entries(stale)
    entries = entries_per_area(chunk_sectors)
    chunk_bytes = bytes_of_sectors(chunk_sectors)
    if len(left) and len(used) % entries + 1 + len(left) > entries:
        raise ValueError(f"{len(left)} stale entries do not fit the last area")
    head = (header or DiskHeader(chunk_sectors=chunk_sectors)).pack() + header_tail
    yield 0, head.ljust(chunk_bytes, b"\0")
    for area in range(len(used) // entries + 1):
        content = used[area * entries : (area + 1) * entries].tobytes()
        if len(content) < chunk_bytes:
            content += bytes(ENTRY_DTYPE.itemsize) + left.tobytes()
        yield area_chunk(area, entries) * chunk_bytes, content.ljust(chunk_bytes, b"\0")


def as_entries(pairs: Pairs) -> Entries:
    """Exceptions as an array of `ENTRY_DTYPE`."""
    if isinstance(pairs, np.ndarray):
        return pairs.astype(ENTRY_DTYPE, copy=False)
    return np.array([tuple(pair) for pair in pairs], dtype=ENTRY_DTYPE)
