"""Fetching a kernel of the catalogue into the cache, once, under a lock."""

import datetime
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from harness.errors import ProvisioningError
from harness.guest import trust
from harness.guest.catalogue import (
    QEMU,
    Entry,
    Kernel,
    Manifest,
    Progress,
    _kept,
    _load,
    cache_dir,
    check_room,
    entry_of,
    sha256_of,
)
from harness.guest.lock import locked


def fetch(name: str, *, progress: Progress = lambda _line: None, refresh: bool = False) -> Kernel:
    """Fetch a kernel of the catalogue into the cache; does nothing if it is there.

    Args:
        name: of a kernel of the catalogue.
        progress: called with a line for each thing that happens.
        refresh: fetch the suite's current version, and replace the cached one.

    Raises:
        ProvisioningError: it cannot be fetched; cause and cure.
    """
    kernel = _fetched(entry_of(name), progress, refresh)
    trust.verify(kernel)
    if kernel.record and (age := kernel.record.age()):
        progress(age)
    return kernel


def _fetched(entry: Entry, progress: Progress, refresh: bool) -> Kernel:
    name = entry.name
    if not refresh and (kernel := _load(entry)):
        return kernel
    parent = cache_dir()
    trust.check_ours(parent)
    try:
        # Whatever the umask, nobody else may write what is run from here.
        parent.mkdir(parents=True, exist_ok=True)
        for made in (parent.parent, parent):
            if made.stat().st_uid == os.geteuid():
                made.chmod(made.stat().st_mode & ~0o022)
        with locked(parent / f".{name}.lock", progress):
            if not refresh and (kernel := _load(entry)):
                return kernel  # another process fetched it while we waited
            check_room([entry], refresh=refresh)
            _fetch_locked(entry, parent, progress)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot write into the cache {parent}: {fault.strerror}; free space, change its "
            "permissions, or set XDG_CACHE_HOME to another directory"
        ) from fault
    kernel = _load(entry)
    if kernel is None:
        raise ProvisioningError(
            f"kernel {name} vanished from {parent} right after it was fetched; "
            "something else cleans that directory; set XDG_CACHE_HOME"
        )
    return kernel


def _fetch_locked(entry: Entry, parent: Path, progress: Progress) -> None:
    from harness.guest.fetch import apt, downloads, image

    prefix = f".{entry.name}.part-"
    for leftover in parent.glob(f"{prefix}*"):
        # We hold the lock: whoever made it was interrupted.
        progress("removing what an interrupted attempt left behind")
        remove(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as work:
        # A subdirectory, because others cannot read what mkdtemp creates.
        fresh = Path(work, "kernel")
        fresh.mkdir()
        home = parent / entry.name
        cached = _load(entry)
        # A refresh also cures a damaged cache.
        unless = ""
        if cached and cached.record and cached.record.files:
            with suppress(ProvisioningError):
                trust.verify(cached)
                unless = cached.record.package_sha256
        if entry.guest == QEMU:
            got = image.fetch_image(
                suite=entry.suite,
                package=entry.package,
                into=fresh,
                work=Path(work),
                progress=progress,
                unless=unless,
            )
        else:
            got = apt.fetch_kernel(
                suite=entry.suite,
                package=entry.package,
                into=fresh,
                home=home,
                work=Path(work),
                progress=progress,
                unless=unless,
            )
        if got is None:
            progress(f"the cached kernel is the current one of {entry.suite}")
            return
        manifest = Manifest(
            name=entry.name,
            home=str(home),
            suite=entry.suite,
            package=entry.package,
            version=got.version,
            release=got.release,
            package_sha256=got.sha256,
            program_sha256=sha256_of(fresh / "linux"),
            libc_version=got.libc_version,
            kept=_kept(entry),
            files=trust.digests(fresh),
            expired=got.expired,
            fetched_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        _write_durably(fresh / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
        if os.path.lexists(home):
            # Not atomic, but a reader in between finds no kernel, never half of one.
            home.rename(Path(work, "old"))
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o022)
        fresh.rename(home)
    downloads.served(got.packages)
    progress(f"kernel {got.release} from {entry.package} {got.version} is ready")


def forget(name: str, *, progress: Progress = lambda _line: None) -> None:
    """Remove a kernel from the cache, in one step for whoever looks for it.

    Raises:
        ProvisioningError: it cannot be.
    """
    parent = cache_dir()
    trust.check_ours(parent)
    try:
        with (
            locked(parent / f".{name}.lock", progress),
            tempfile.TemporaryDirectory(prefix=f".{name}.part-", dir=parent) as work,
        ):
            old = Path(work, "old")
            (parent / name).rename(old)
            remove(old)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot remove {parent / name}: {fault.strerror}; correct its permissions"
        ) from fault


def remove(path: Path) -> None:
    """Remove what an attempt left, of any type: links are not followed, unreadable directories
    are opened (packages may have such).

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, names, _ in os.walk(path):
        for name in ("", *names):
            inner = Path(directory, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(path)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        # The rename must not become durable before the files that it vouches for.
        os.sync()
