"""Files that are whole or not there, and directories that belong to one process at a time.

A reader never meets a file that is half written.

The data goes to a file beside the target, is fsynced, and takes the target's name in one rename.
Whoever is interrupted leaves the old file, or none.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import ProvisioningError


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


def check_writable(directory: Path) -> None:
    """See that files can be written in ``directory``, which need not be there; nothing is made.

    Raises:
        ProvisioningError: they cannot.
    """
    place = directory.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ProvisioningError(f"cannot write into {directory}: {place} is no directory; name "
                                "another one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ProvisioningError(f"cannot write into {directory}: {place} is not yours to write; "
                                "correct its permissions, or name another one")


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of ``directory``, which is made if it is missing.

    Raises:
        ProvisioningError: another process is in it.
        OSError: it cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ProvisioningError(f"another dmsnap is at work in {directory}: wait for it, "
                                        "or name another directory (--report)") from None
        yield
    finally:
        os.close(handle)
