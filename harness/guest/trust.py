"""Whether a cached kernel is what was fetched, and whether only the user can change the cache.

A signature is checked when a package comes; after that, what is in the cache is only as good as
its directories.  So before a kernel is run

- the cache must belong to the user or to root, and nobody else may write there;
- every file of the kernel that runs or is loaded must be the one that its manifest names.

Who can write the manifest can write the files.  So the second check needs the first; it finds
what was damaged, exchanged or added unnoticed.
"""

import grp
import os
import pwd
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.catalogue import KEPT, Kernel, sha256_of

_WORKERS: Final = 4


def check_ours(place: Path) -> None:
    """Check that nobody but the user and root can change what is below ``place``.

    It need not exist; the existing part of its path counts.

    Raises:
        ProvisioningError: somebody else can; who, and what to type.
    """
    place = Path(os.path.realpath(place))
    for path in (place, *place.parents):
        try:
            about = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as fault:
            raise ProvisioningError(f"{path} cannot be examined: {fault.strerror}") from None
        if about.st_uid not in (0, os.geteuid()):
            raise ProvisioningError(
                f"the cache {place} is not used: {path} belongs to {_user(about.st_uid)}, who can "
                "change what is run from it; set XDG_CACHE_HOME to a directory that you own"
            )
        # In a sticky directory nobody can move other users' files.
        if not about.st_mode & stat.S_ISVTX and _others_write(about):
            raise ProvisioningError(
                f"the cache {place} is not used: others can write into {path}, and change what is "
                f"run from it; type: chmod go-w {path}"
            )


def _others_write(about: os.stat_result) -> bool:
    if about.st_mode & stat.S_IWOTH:
        return True
    return bool(about.st_mode & stat.S_IWGRP) and not _is_own_group(about.st_gid)


def _is_own_group(group: int) -> bool:
    """Whether a group has only the user, as many systems create one per user (umask 002)."""
    if group == 0:
        return True
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return (
        group == user.pw_gid
        and found.gr_name == user.pw_name
        and set(found.gr_mem) <= {user.pw_name}
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def files_of(home: Path) -> list[Path]:
    """The files of a kernel that run or are loaded, relative to ``home``, in order.

    The program, the C library next to it, and the modules that guests load, wherever they are.
    """
    found = [home / "linux", *(path for path in (home / "libc").glob("*") if path.is_file())]
    for directory, _, names in os.walk(home / "modules"):
        found += [
            Path(directory, name)
            for name in names
            if name.partition(".ko")[0].replace("_", "-") in KEPT
        ]
    return sorted(path.relative_to(home) for path in found)


def digests(home: Path) -> dict[str, str]:
    """File of a kernel, relative to ``home`` → its SHA-256."""
    names = files_of(home)
    with ThreadPoolExecutor(_WORKERS) as workers:
        return dict(
            zip(
                map(str, names),
                workers.map(lambda name: sha256_of(home / name), names),
                strict=True,
            )
        )


def verify(kernel: Kernel) -> None:
    """Check that a cached kernel is what was fetched; one that the user built is not checked.

    Raises:
        ProvisioningError: it is not, or others could change it.
    """
    if kernel.record is None:
        return
    home = kernel.program.parent
    check_ours(home)
    record = kernel.record.files or {"linux": kernel.record.program_sha256}
    cure = f"type: dmsnap kernels fetch --refresh {kernel.name}"
    try:
        for name in files_of(home):
            about = (home / name).lstat()
            if about.st_uid not in (0, os.geteuid()) or _others_write(about):
                if stat.S_ISLNK(about.st_mode) and about.st_uid in (0, os.geteuid()):
                    continue
                raise ProvisioningError(
                    f"{kernel.name} is not run: others can change {home / name}; {cure}"
                )
        now = digests(home)
    except OSError as fault:
        raise ProvisioningError(
            f"{kernel.name} is not run: {fault.filename} cannot be read ({fault.strerror}); {cure}"
        ) from None
    if not kernel.record.files:
        now = {name: now[name] for name in record if name in now}
    changed = sorted(
        name for name in record.keys() | now.keys() if record.get(name) != now.get(name)
    )
    if changed:
        raise ProvisioningError(
            f"{kernel.name} is not run: {', '.join(changed[:3])} in {home} "
            f"{'are' if len(changed) > 1 else 'is'} not what was fetched; {cure}"
        )
