"""Reading a COW device, whatever holds it: bytes, a map, or a seekable file.

The formats open nothing themselves; the caller passes the device in.  One small class hides whether
it is memory or a file, so that `harness.store.parse` can read a batch of areas in one call:
one strided copy from memory, one read for each area from a file.
"""

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, Protocol

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
Device = BinaryIO | io.IOBase | bytes | bytearray | memoryview | mmap.mmap | ByteArray
"""What a store can be read from."""

SCAN_BYTES: Final = 1 << 20
"""Block size of scans; their memory use does not depend on the device."""


class Source(Protocol):
    """A COW device to read; every requested range lies on it."""

    size_bytes: int

    def rows(self, offset: int, stride: int, out: ByteArray) -> int:
        """Fill ``out`` (rows, row length): row i comes from ``offset + i * stride``.

        Returns the number of rows read before the device failed; 0 is never returned.

        Raises:
            OSError: the first row cannot be read.
        """


class _Memory:
    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.size_bytes = len(view)

    def rows(self, offset: int, stride: int, out: ByteArray) -> int:
        if out.size:
            # The view does not outlive this call, so a map stays closable.
            np.copyto(out, np.ndarray(out.shape, np.uint8, self._view, offset, (stride, 1)))
        return len(out)


class _File:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = file.seek(0, io.SEEK_END)

    def rows(self, offset: int, stride: int, out: ByteArray) -> int:
        for index, row in enumerate(out):
            try:
                self._read(offset + index * stride, memoryview(row))
            except OSError:
                # Reading ahead is our choice, not the format's: an area that nobody needs may be
                # unreadable.  The kernel ignores errors of its own readahead as well.
                if index:
                    return index
                raise
        return len(out)

    def _read(self, offset: int, view: memoryview) -> None:
        self._file.seek(offset)
        while len(view):
            # Raw files may return less than requested.
            count: int | None = self._file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise OSError(f"the device ended at byte {self._file.tell()} during a read")
            view = view[count:]


@contextmanager
def opened(device: Device) -> Iterator[Source]:
    """A `Source` over ``device``; a file's position is undefined afterwards.

    Raises:
        TypeError: ``device`` is neither a buffer nor a seekable binary file.
    """
    try:
        view = memoryview(device)  # type: ignore[arg-type]
    except TypeError:
        if not (hasattr(device, "readinto") and hasattr(device, "seek")):
            raise TypeError(
                f"{type(device).__name__} is not a COW device: pass bytes, a map, or a file "
                "opened in binary mode"
            ) from None
        yield _File(device)  # type: ignore[arg-type]
        return
    with view, view.cast("B") as flat:
        yield _Memory(flat)


def read_range(source: Source, offset: int, length: int) -> ByteArray:
    """``length`` bytes at ``offset``."""
    out = np.empty(length, dtype=np.uint8)
    source.rows(offset, length, out.reshape(1, length))
    return out


def trimmed(source: Source, length: int) -> bytes:
    """The first ``length`` bytes of the device without their trailing zeros."""
    end = 0
    for start in range(0, length, SCAN_BYTES):
        used = np.flatnonzero(read_range(source, start, min(SCAN_BYTES, length - start)))
        if len(used):
            end = start + int(used[-1]) + 1
    return read_range(source, 0, end).tobytes()
