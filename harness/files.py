"""Atomic writes, untrusted files, and directories that dmsnap owns.

A reader never sees a half-written file.  The data goes to a temporary file in the same directory,
is fsynced, and takes the target's name in one rename.  An interruption leaves the old file or none.

What a guest leaves is untrusted (a stranger's): `open_stranger` never follows a link there, never
blocks, and takes only regular files; `read_stranger` reads up to a limit.

A directory that dmsnap made for itself carries a mark; `remove_ours` removes only such
directories, whatever has taken their place.
"""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from harness.errors import BadTrace, NotAFile, ProvisioningError

OURS: Final = ".dmsnap"
"""The mark: a file in each directory that dmsnap made and may remove with its contents."""
_OURS_TEXT: Final = b"made by dmsnap, which removes this directory when it needs its place\n"

_PART_BYTES: Final = 1 << 20


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all; missing directories are created.

    Raises:
        OSError: the disk is full, the path is not writable …; ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes its files private; a report is readable by whoever the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_given(path: Path, limit: int) -> bytes:
    """The whole of a file that the user named; its contents may be a stranger's.

    Args:
        path: a regular file, or a link to one.
        limit: the most bytes it may have.

    Raises:
        BadTrace: not a regular file (a pipe, a device …), or too long; it never blocks.
        OSError: it does not exist, or cannot be read.
    """
    # Opening a pipe without a writer would block; a terminal could become our controlling one.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadTrace(f"{path} is not a regular file; for standard input use -")
        return read_bounded(file, limit)


def read_bounded(file: BinaryIO, limit: int) -> bytes:
    """The rest of an open file.

    Raises:
        BadTrace: it is longer than ``limit`` bytes.
    """
    data = bytearray()
    # In parts: one large read allocates its whole size, however short the file is.
    while part := file.read(min(_PART_BYTES, limit + 1 - len(data))):
        data += part
        if len(data) > limit:
            raise BadTrace(f"the file is larger than the limit of {limit >> 20} MiB")
    return bytes(data)


def check_writable(directory: Path) -> None:
    """Check that ``directory``, which need not exist, can be written; nothing is created.

    Raises:
        ProvisioningError: it cannot.
    """
    place = directory.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ProvisioningError(
            f"cannot write into {directory}: {place} is not a directory; choose another one"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise ProvisioningError(
            f"cannot write into {directory}: {place} is not writable for you; "
            "change its permissions, or choose another directory"
        )


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a lock on ``directory``, which is created if missing; other dmsnaps stay out.

    Raises:
        ProvisioningError: another process holds it.
        OSError: it cannot be created.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if directory.is_symlink():
        raise ProvisioningError(
            f"{directory} is a link, where a directory for guest files is "
            "needed; move it away, or choose another directory"
        )
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ProvisioningError(
                    f"another dmsnap is using {directory}; wait for it, "
                    "or choose another directory (--report)"
                ) from None
        yield
    finally:
        os.close(handle)


# -- untrusted files ------------------------------------------------------------------------------


def open_stranger(path: Path, limit: int, *, below: Path | None = None) -> int:
    """Open a file that a stranger may have put there for reading.

    Args:
        path: the file.
        limit: the most bytes it may have.
        below: the directory that the stranger could not replace, by default the file's own;
            no link below it is followed.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        NotAFile: it is a link, a pipe, a device, …; or too long.
        OSError: it does not exist, or cannot be read.
    """
    base = path.parent if below is None else below
    *directories, name = path.relative_to(base).parts
    at = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory in directories:
            outer = at
            at = os.open(
                directory, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=outer
            )
            os.close(outer)
        # Opening a pipe without a writer would block; a terminal could become our controlling one.
        handle = os.open(
            name,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            dir_fd=at,
        )
    except OSError as fault:
        # A link (ELOOP; ENOTDIR where a directory should be), and a socket (ENXIO).
        if fault.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise NotAFile(f"{path} is not a regular file") from fault
        raise OSError(fault.errno, fault.strerror, str(path)) from None
    finally:
        os.close(at)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise NotAFile(f"{path} is not a regular file")
        if about.st_size > limit:
            raise NotAFile(f"{path} has {about.st_size} bytes; the limit is {limit}")
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_stranger(path: Path, limit: int, *, below: Path | None = None) -> bytes:
    """The whole of a file that a stranger may have put there.

    Raises:
        NotAFile: as for `open_stranger`, or it grows while it is read.
        OSError: it does not exist, or cannot be read.
    """
    with os.fdopen(open_stranger(path, limit, below=below), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NotAFile(f"{path} has more than {limit} bytes")
    return data


# -- directories that dmsnap owns ----------------------------------------------------------------


def mark_ours(directory: Path) -> None:
    """Create ``directory`` and its parents, and mark it if it is new or empty.

    An existing one that is not empty is left unmarked.

    Raises:
        OSError: it cannot be created.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with os.scandir(directory) as entries:
        if next(entries, None) is not None:
            return
    handle = os.open(
        directory / OURS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    with os.fdopen(handle, "wb") as file:
        file.write(_OURS_TEXT)


def is_ours(directory: Path) -> bool:
    """Whether dmsnap made and marked that directory; false for a link to one."""
    try:
        return (
            stat.S_ISDIR(os.lstat(directory).st_mode)
            and read_stranger(directory / OURS, len(_OURS_TEXT)) == _OURS_TEXT
        )
    except (OSError, NotAFile):
        return False


def ours_or_empty(directory: Path) -> bool:
    """Whether a directory that dmsnap made is there; an empty or missing one may be created.

    Raises:
        ProvisioningError: something else is there.
    """
    if directory.parent.is_symlink():
        raise ProvisioningError(
            f"{directory.parent} is a link, and dmsnap removes nothing through one; "
            "move it away, or choose another directory"
        )
    if is_ours(directory):
        return True
    if not os.path.lexists(directory) or (
        not directory.is_symlink() and directory.is_dir() and not any(directory.iterdir())
    ):
        return False
    what = "a link" if directory.is_symlink() else "not a directory that dmsnap made"
    raise ProvisioningError(
        f"{directory} is {what}, where a directory for guest files is "
        "needed; move it away, or choose another directory"
    )


def remove_ours(directory: Path) -> None:
    """Remove a directory that dmsnap made, if it is there.

    Raises:
        ProvisioningError: it is not one, or cannot be removed.
    """
    if not ours_or_empty(directory):
        return
    try:
        shutil.rmtree(directory)  # does not follow links
    except OSError as fault:
        raise ProvisioningError(
            f"cannot remove {directory}, left by an earlier run: {fault.strerror}"
        ) from fault
