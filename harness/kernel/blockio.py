"""Reads, writes and the other requests of a step, on a block device of the guest.

A device is opened for one step and then closed: an open descriptor raises the open count of a
mapped device and keeps it from being removed.

**Direct** (O_DIRECT) is the rule: a step reaches the device as it is, one request after another,
each in a page-aligned buffer of at most 1 MiB, which the kernel turns into one bio.  The kernel
refuses a request that is not a multiple of the device's logical block size with EINVAL, which is an
observation like any other.

**Buffered** goes through the page cache of the device, and the step confines the
cache's influence to itself: the cache is written back and dropped (BLKFLSBUF) before, since the
device below may have changed under it; readahead is off, so only the requested pages are read; and
a write ends with fsync, so that its effect and its errors belong to the step.  A write that is
refused on the way is written back all the same, as the last close of the device would do.  What
remains is what a user of the cache gets: whole blocks are read and written even for a part of one
(the block size of the cache is 4096 bytes, or less if the size of the device is not a multiple of
that).

A write that crosses the end of a device is cut short by the kernel, and what is left is refused
with ENOSPC; a read there ends early, without an error.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from harness.errors import errno_name
from harness.trace import pattern
from harness.trace.observations import Run, Runs, Unreadable
from harness.trace.rules import requests
from harness.trace.steps import REQUEST_SECTORS_MAX
from harness.units import SECTOR_BYTES, bytes_of_sectors, sectors_of_bytes

BLKDISCARD: Final = 0x1277
BLKZEROOUT: Final = 0x127F
BLKFLSBUF: Final = 0x1261
_RANGE: Final = struct.Struct("=QQ")

Source = Callable[[int, int], pattern.Buffer]
"""(sector, sectors) → the bytes to write there."""


def error_name(fault: OSError) -> str:
    """The errno name of a refusal."""
    return errno_name(fault.errno)


class BlockIO:
    """Requests on block devices, through one buffer."""

    def __init__(self) -> None:
        self._view = memoryview(mmap.mmap(-1, bytes_of_sectors(REQUEST_SECTORS_MAX)))
        self._bytes = np.frombuffer(self._view, dtype=np.uint8)

    @contextlib.contextmanager
    def _open(self, path: str, flags: int, *, buffered: bool = False) -> Iterator[int]:
        fd = os.open(path, flags | os.O_CLOEXEC | (0 if buffered else os.O_DIRECT))
        try:
            if buffered:
                fcntl.ioctl(fd, BLKFLSBUF)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            yield fd
        finally:
            os.close(fd)

    def size(self, path: str) -> int:
        """Sectors of a device.

        Raises:
            OSError: it cannot be opened.
        """
        with self._open(path, os.O_RDONLY) as fd:
            return sectors_of_bytes(os.lseek(fd, 0, os.SEEK_END))

    def write(
        self, path: str, sector: int, sectors: int, source: Source, *, buffered: bool = False
    ) -> None:
        """Write request by request.

        Raises:
            OSError: one was refused; those before it are written.
        """
        with self._open(path, os.O_RDWR, buffered=buffered) as fd:
            try:
                for start, count in requests(sector, sectors):
                    self._put(fd, start, source(start, count))
                if buffered:
                    os.fsync(fd)
            finally:
                if buffered:
                    # What was accepted before a refusal stays dirty while others use the device.
                    with contextlib.suppress(OSError):
                        fcntl.ioctl(fd, BLKFLSBUF)

    def _put(self, fd: int, sector: int, data: pattern.Buffer) -> None:
        """One request; a short one is continued, so that the kernel says why."""
        given = np.frombuffer(data, dtype=np.uint8)
        self._bytes[: len(given)] = given
        done = 0
        while done < len(given):
            wrote = os.pwritev(fd, [self._view[done : len(given)]], bytes_of_sectors(sector) + done)
            if not wrote:
                raise OSError(errno.EIO, "a write returned 0")
            done += wrote

    def _get(self, fd: int, sector: int, sectors: int) -> memoryview:
        """One request; a view of what was read, valid until the next request."""
        got = os.preadv(fd, [self._view[: bytes_of_sectors(sectors)]], bytes_of_sectors(sector))
        return self._view[: got - got % SECTOR_BYTES]

    def read(
        self, path: str, seed: int, sector: int, sectors: int, *, buffered: bool = False
    ) -> tuple[Runs, OSError | None]:
        """Read request by request: the bytes, and the refusal that ended it."""
        parts: list[Runs] = []
        try:
            with self._open(path, os.O_RDONLY, buffered=buffered) as fd:
                for start, count in requests(sector, sectors):
                    data = self._get(fd, start, count)
                    parts.append(pattern.encode(seed, data))
                    if len(data) < bytes_of_sectors(count):
                        break
        except OSError as fault:
            return pattern.join(parts), fault
        return pattern.join(parts), None

    def examine(self, path: str, seed: int, ranges: list[tuple[int, int]]) -> Runs:
        """Read ``ranges``; a request that is refused becomes unreadable sectors.

        Raises:
            OSError: the device cannot be opened.
        """
        parts: list[Runs] = []
        with self._open(path, os.O_RDONLY) as fd:
            for start, count in (cut for piece in ranges for cut in requests(*piece)):
                try:
                    parts.append(pattern.encode(seed, self._get(fd, start, count)))
                except OSError as fault:
                    lost: Run = Unreadable(error_name(fault), count)
                    parts.append((lost,))
        return pattern.join(parts)

    def flush(self, path: str) -> None:
        """Fsync of the device: a flush request.

        Raises:
            OSError: refused.
        """
        with self._open(path, os.O_RDWR) as fd:
            os.fsync(fd)

    def control(self, path: str, request: int, sector: int, sectors: int) -> None:
        """BLKDISCARD or BLKZEROOUT on a range.

        Raises:
            OSError: refused.
        """
        with self._open(path, os.O_RDWR) as fd:
            fcntl.ioctl(
                fd, request, _RANGE.pack(bytes_of_sectors(sector), bytes_of_sectors(sectors))
            )
