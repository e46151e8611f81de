"""Files and block devices that the user named: opened with care, read and written by position.

What is read is never written, not even by accident: its descriptor cannot.  What is made is whole
or not there: it grows beside its place, and takes its name when it is finished and on the disk.

A block device is written only where the user said so, and never one that the kernel holds for
somebody else: it is opened exclusively, which fails while it is mounted or part of another device.
"""

import errno
import fcntl
import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from harness.errors import Refused
from harness.units import SECTOR_BYTES, Bytes

COPY_BYTES: Final = 4 << 20
"""What is copied with one request, and the memory that a copy takes."""
_BLKGETSIZE64: Final = 0x80081272
_COPY_ELSEWHERE: Final = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.ETXTBSY,
)
"""copy_file_range(2) says so where buffers have to do it."""


class Medium:
    """A file or block device that is open, of a size that is known.

    Attributes:
        path: what the user called it.
        fd: its descriptor.
        size_bytes: its length when it was opened.
        regular: it is a file, whose holes can be seen.
        blank: nothing but holes was in it when it was opened, so holes need not be written.
    """

    def __init__(self, path: Path, fd: int, *, blank: bool = False) -> None:
        self.path = path
        self.fd = fd
        self.blank = blank
        about = os.fstat(fd)
        self.regular = stat.S_ISREG(about.st_mode)
        if self.regular:
            self.size_bytes = Bytes(about.st_size)
        else:
            answer = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
            self.size_bytes = Bytes(struct.unpack("=Q", answer)[0])
        self._whole_copies = True

    def file(self) -> io.FileIO:
        """The same as a file to read, for `harness.store.parse`; it does not own the descriptor."""
        return io.FileIO(self.fd, "r", closefd=False)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset`` on.

        Raises:
            OSError: it cannot be read, or ends before.
        """
        while len(view):
            count = os.preadv(self.fd, [view], offset)
            if not count:
                raise OSError(errno.EIO, f"ends at byte {offset} while it is read", str(self.path))
            view = view[count:]
            offset += count

    def read(self, offset: int, length: int) -> bytearray:
        """``length`` bytes from ``offset`` on.

        Raises:
            OSError: as `read_into`.
        """
        out = bytearray(length)
        self.read_into(memoryview(out), offset)
        return out

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``.

        Raises:
            OSError: it cannot be written.
        """
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, offset)
            view = view[count:]
            offset += count

    def sync(self) -> None:
        """Have what was written on the disk.

        Raises:
            OSError: the disk could not take it.
        """
        os.fsync(self.fd)

    def truncate(self, size_bytes: int) -> None:
        """Make a file so long.

        Raises:
            OSError: it cannot be.
        """
        os.ftruncate(self.fd, size_bytes)
        self.size_bytes = Bytes(size_bytes)

    def stretches(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """``start`` to ``end`` in pieces, in order: (start, end, True where there may be data)."""
        at = start
        while at < end:
            data, hole = self._next(at, end)
            if at < data:
                yield at, data, False
            if data < hole:
                yield data, hole, True
            at = hole

    def _next(self, at: int, end: int) -> tuple[int, int]:
        """Where data begins from ``at`` on, and where that ends."""
        if not self.regular:
            return at, end
        try:
            data = min(end, os.lseek(self.fd, at, os.SEEK_DATA))
            return data, min(end, os.lseek(self.fd, data, os.SEEK_HOLE)) if data < end else end
        except OSError as fault:
            # Nothing but a hole up to the end; or a file system that knows none.
            return (end, end) if fault.errno == errno.ENXIO else (at, end)

    def zero(self, offset: int, length: int) -> None:
        """Zeros in a range.

        Raises:
            OSError: it cannot be written.
        """
        zeros = bytes(min(length, COPY_BYTES))
        for at in range(offset, offset + length, COPY_BYTES):
            self.write(zeros[: offset + length - at], at)

    def copy_from(self, source: "Medium", start: int, to: int, length: int) -> None:
        """Copy a range of another medium; holes of it stay holes where nothing was.

        Raises:
            OSError: one cannot be read, or the other not written.
        """
        for begin, end, data in source.stretches(start, start + length):
            at = to + begin - start
            if data:
                self._copy(source, begin, at, end - begin)
            elif not self.blank:
                self.zero(at, end - begin)

    def _copy(self, source: "Medium", start: int, to: int, length: int) -> None:
        while length and self._whole_copies and self.regular and source.regular:
            try:
                count = os.copy_file_range(source.fd, self.fd, min(length, 1 << 30), start, to)
            except OSError as fault:
                if fault.errno not in _COPY_ELSEWHERE:
                    raise
                count = 0
            if not count:
                # Not between these two, or it says nothing of an end: a read will.
                self._whole_copies = False
            start, to, length = start + count, to + count, length - count
        if not length:
            return
        buffer = memoryview(bytearray(min(length, COPY_BYTES)))
        while length:
            part = buffer[:length]
            source.read_into(part, start)
            self.write(part, to)
            start, to, length = start + len(part), to + len(part), length - len(part)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


def _open(path: Path, flags: int) -> int:
    """Open a file or block device that the user named; nothing else, and nothing is waited for.

    Raises:
        Refused: it is something else.
        OSError: it is not there, or cannot be opened.
    """
    # A pipe without a writer would be waited for, and a terminal become ours.
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise Refused(f"{path} is neither a file nor a block device: name one")
    return fd


@contextmanager
def reading(path: Path) -> Iterator[Medium]:
    """A medium that is only read.

    Raises:
        Refused: it is neither a file nor a block device.
        OSError: it is not there, or cannot be read.
    """
    medium = Medium(path, _open(path, os.O_RDONLY))
    try:
        yield medium
    finally:
        medium.close()


@contextmanager
def in_place(path: Path) -> Iterator[Medium]:
    """A medium that is there, to be changed where it is; nobody else may hold it meanwhile.

    Raises:
        Refused: it is neither a file nor a block device, or somebody uses it.
        OSError: it is not there, or cannot be written.
    """
    try:
        # Without O_CREAT, O_EXCL is the kernel's word for a block device that nobody holds.
        exclusive = os.O_EXCL if stat.S_ISBLK(path.stat().st_mode) else 0
        fd = _open(path, os.O_RDWR | exclusive)
    except OSError as fault:
        if fault.errno == errno.EBUSY:
            raise Refused(
                f"{path} is in use, mounted or part of another device: unmount it, or remove what "
                "stands on it"
            ) from None
        raise
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"{path} is in use by another dmsnap: wait for it") from None
        medium = Medium(path, fd)
        yield medium
    finally:
        os.close(fd)


def check_free(path: Path, *, force: bool) -> None:
    """See that ``path`` may be made, before any work is done for it.

    Raises:
        Refused: something is there, and nobody said that it may be replaced.
    """
    if os.path.lexists(path) and not force:
        raise Refused(f"{path} is there already: name another file, or say --force to replace it")


@contextmanager
def made(path: Path, size_bytes: int = 0, *, force: bool = False) -> Iterator[Medium]:
    """A new file of ``size_bytes``, all hole; it has its name when the block ends well, not before.

    With ``force``, what is there is replaced, and a block device is written.

    Raises:
        Refused: something is there; or a block device is too small, or in use.
        OSError: it cannot be made, or not be brought to the disk.
    """
    check_free(path, force=force)
    if path.is_block_device():
        with in_place(path) as medium:
            if medium.size_bytes < size_bytes:
                raise Refused(
                    f"{path} has {medium.size_bytes // SECTOR_BYTES} sectors, and "
                    f"{-(-size_bytes // SECTOR_BYTES)} are needed: make it larger"
                )
            yield medium
            medium.sync()
        return
    if os.path.lexists(path) and not path.is_file():
        raise Refused(f"{path} is no file: name another one")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with suppress(FileNotFoundError):
        part.unlink()  # of a process that had our number, and was killed
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, size_bytes)
        yield Medium(path, fd, blank=True)
        os.fsync(fd)
        if force:
            part.replace(path)
        else:
            try:
                os.link(part, path)  # which replaces nothing that has come meanwhile
            except FileExistsError:
                raise Refused(f"{path} is there now: name another file") from None
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            part.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
