"""Files that are whole or not there, files of strangers, and directories that are dmsnap's own.

A reader never meets a file that is half written.

The data goes to a file beside the target, is fsynced, and takes the target's name in one rename.
Whoever is interrupted leaves the old file, or none.

What a guest leaves is a stranger's: `open_stranger` never follows a link there, never waits, and
takes only regular files; `read_stranger` takes only so much.

A directory that dmsnap made for a purpose of its own carries a mark; `remove_ours` removes that
and nothing else, whatever has taken its place.
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
"""The mark: a file in each directory that dmsnap made, and may remove with all that is in it."""
_OURS_TEXT: Final = b"made by dmsnap, which removes this directory when it needs its place\n"

_PART_BYTES: Final = 1 << 20


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all; directories on the way are made.

    Raises:
        OSError: the disk is full, the place cannot be written …; ``path`` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps its files private; a report is for everyone whom the umask lets in.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_given(path: Path, limit: int) -> bytes:
    """All of a file that the user named, which may be a stranger's.

    Args:
        path: of a regular file, or a link to one.
        limit: the most bytes that it may have.

    Raises:
        BadTrace: it is none (a pipe, a device …), or longer; nothing was waited for.
        OSError: it is not there, or cannot be read.
    """
    # A pipe without a writer would be waited for, and a terminal become ours.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadTrace(f"{path} is no regular file; standard input is named -")
        return read_bounded(file, limit)


def read_bounded(file: BinaryIO, limit: int) -> bytes:
    """All that is left of an open file.

    Raises:
        BadTrace: it is more than ``limit`` bytes.
    """
    data = bytearray()
    # By parts: who asks for so much at once takes memory for all of it, whatever there is.
    while part := file.read(min(_PART_BYTES, limit + 1 - len(data))):
        data += part
        if len(data) > limit:
            raise BadTrace(f"the file has more than {limit >> 20} MiB; none may")
    return bytes(data)


def check_writable(directory: Path) -> None:
    """See that files can be written in ``directory``, which need not be there; nothing is made.

    Raises:
        ProvisioningError: they cannot.
    """
    place = directory.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ProvisioningError(
            f"cannot write into {directory}: {place} is no directory; name another one"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise ProvisioningError(
            f"cannot write into {directory}: {place} is not yours to write; "
            "correct its permissions, or name another one"
        )


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of ``directory``, which is made if it is missing.

    Raises:
        ProvisioningError: another process is in it.
        OSError: it cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if directory.is_symlink():
        raise ProvisioningError(
            f"{directory} is a link, and stands where files of guests are to "
            "go: move it away, or name another directory"
        )
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ProvisioningError(
                    f"another dmsnap is at work in {directory}: wait for it, "
                    "or name another directory (--report)"
                ) from None
        yield
    finally:
        os.close(handle)


# -- files of strangers ---------------------------------------------------------------------------


def open_stranger(path: Path, limit: int, *, below: Path | None = None) -> int:
    """Open a file that a stranger may have put there, for reading.

    Args:
        path: the file.
        limit: the most bytes that it may have.
        below: the directory that the stranger could not replace, by default that of the file;
            from there on no link is followed.

    Returns:
        A descriptor; it is the caller's to close.

    Raises:
        NotAFile: it is a link, a pipe, a device, …; or longer.
        OSError: it is not there, or cannot be read.
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
        # A pipe without a writer would be waited for, a terminal become ours.
        handle = os.open(
            name,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            dir_fd=at,
        )
    except OSError as fault:
        # A link (ELOOP; ENOTDIR where a directory should be), and a socket (ENXIO).
        if fault.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise NotAFile(f"{path} is no regular file") from fault
        raise OSError(fault.errno, fault.strerror, str(path)) from None
    finally:
        os.close(at)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise NotAFile(f"{path} is no regular file")
        if about.st_size > limit:
            raise NotAFile(f"{path} has {about.st_size} bytes, and may have {limit}")
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_stranger(path: Path, limit: int, *, below: Path | None = None) -> bytes:
    """All of a file that a stranger may have put there.

    Raises:
        NotAFile: as `open_stranger`; or it grows while it is read.
        OSError: it is not there, or cannot be read.
    """
    with os.fdopen(open_stranger(path, limit, below=below), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NotAFile(f"{path} has more than {limit} bytes")
    return data


# -- directories of our own -----------------------------------------------------------------------


def mark_ours(directory: Path) -> None:
    """Make ``directory`` with those above it, and mark it, if it is new or empty.

    One that is there and holds something stays whose it is.

    Raises:
        OSError: it cannot be made.
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
    """Whether dmsnap made and marked that directory; a link to one is not."""
    try:
        return (
            stat.S_ISDIR(os.lstat(directory).st_mode)
            and read_stranger(directory / OURS, len(_OURS_TEXT)) == _OURS_TEXT
        )
    except (OSError, NotAFile):
        return False


def ours_or_empty(directory: Path) -> bool:
    """Whether a directory that dmsnap made is there; one that is empty, or missing, may be made.

    Raises:
        ProvisioningError: something else stands there.
    """
    if directory.parent.is_symlink():
        raise ProvisioningError(
            f"{directory.parent} is a link: nothing is removed through one; "
            "move it away, or name another directory"
        )
    if is_ours(directory):
        return True
    if not os.path.lexists(directory) or (
        not directory.is_symlink() and directory.is_dir() and not any(directory.iterdir())
    ):
        return False
    what = "a link" if directory.is_symlink() else "not a directory that dmsnap made"
    raise ProvisioningError(
        f"{directory} is {what}, and stands where files of guests are to "
        "go: move it away, or name another directory"
    )


def remove_ours(directory: Path) -> None:
    """Remove a directory that dmsnap made, if it is there.

    Raises:
        ProvisioningError: it is not one, or cannot be removed; it is as it was.
    """
    if not ours_or_empty(directory):
        return
    try:
        shutil.rmtree(directory)  # which follows no link
    except OSError as fault:
        raise ProvisioningError(
            f"cannot remove {directory}, which an earlier run left: {fault.strerror}"
        ) from fault
