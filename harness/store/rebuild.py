"""A store made of two images: what turns the one into the other, as a snapshot would hold it."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.media import COPY_BYTES, Medium
from harness.store.layout import DiskHeader, area_chunk, chunks_needed, data_chunk, entries_per_area
from harness.store.overlay import Tell
from harness.store.parse import ENTRY_DTYPE
from harness.units import bytes_of_sectors

Chunks = npt.NDArray[np.int64]


def changed(
    origin: Medium, image: Medium, chunk_sectors: int, *, tell: Tell = lambda _bytes: None
) -> Iterator[tuple[int, Chunks, memoryview]]:
    """Where ``image`` differs from ``origin``, window by window.

    The last chunk may be there in part; what both lack counts as zero.

    Yields:
        the first chunk of a window, the numbers in it of those that differ, and all its bytes in
        the image, which are good until the next one.

    Raises:
        OSError: one of them cannot be read.
    """
    chunk = bytes_of_sectors(chunk_sectors)
    window = max(COPY_BYTES, chunk)
    length = image.size_bytes
    ours, theirs = bytearray(window), bytearray(window)
    for start in range(0, length, window):
        size = min(window, length - start)
        whole = -(-size // chunk)
        for medium, buffer in ((image, ours), (origin, theirs)):
            buffer[:] = bytes(window) if size < window else buffer
            _read(medium, memoryview(buffer)[:size], start)
        a, b = (np.frombuffer(each, np.uint64)[: whole * chunk // 8] for each in (ours, theirs))
        differ = np.flatnonzero((a != b).reshape(whole, -1).any(axis=1))
        yield start // chunk, differ, memoryview(ours)
        tell(size)


def _read(medium: Medium, view: memoryview, start: int) -> None:
    """Fill ``view``; holes are zeros without being read."""
    for begin, end, data in medium.stretches(start, start + len(view)):
        part = view[begin - start : end - start]
        if data:
            medium.read_into(part, begin)
        else:
            part[:] = bytes(len(part))


def rebuild(
    origin: Medium,
    image: Medium,
    out: Medium,
    chunk_sectors: int,
    *,
    tell: Tell = lambda _bytes: None,
) -> int:
    """Write a store with which a snapshot of ``origin`` shows ``image``.

    The header comes last: until then there is no store.

    Args:
        origin: what the snapshot stands on.
        image: what it shows, of the same size.
        out: a blank file, which grows as needed, or a device that is large enough.
        chunk_sectors: the chunk size.
        tell: is told of progress.

    Returns:
        how many exceptions it has.

    Raises:
        OSError: something cannot be read or written.
    """
    chunk = bytes_of_sectors(chunk_sectors)
    entries = entries_per_area(chunk_sectors)
    out.write(bytes(chunk), 0)
    area = np.zeros(entries, ENTRY_DTYPE)
    count = 0
    for first, differ, data in changed(origin, image, chunk_sectors, tell=tell):
        for index in differ.tolist():
            new = data_chunk(count, entries)
            out.write(data[index * chunk : (index + 1) * chunk], new * chunk)
            area[count % entries] = (first + index, new)
            count += 1
            if not count % entries:
                out.write(area.tobytes(), area_chunk(count // entries - 1, entries) * chunk)
                area[:] = (0, 0)
    out.write(area.tobytes(), area_chunk(count // entries, entries) * chunk)
    if out.regular:
        # As much as the kernel needs for so many, so that it does not overflow at once.
        out.truncate(chunks_needed(count, entries) * chunk)
    out.sync()
    out.write(DiskHeader(chunk_sectors=chunk_sectors).pack().ljust(chunk, b"\0"), 0)
    return count
