"""Files that are whole or not there: a reader never meets one that is half written.

The data goes to a file beside the target, is fsynced, and takes the target's name in one rename.
Whoever is interrupted leaves the old file, or none.
"""

import os
import tempfile
from pathlib import Path


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
