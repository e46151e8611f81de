"""Bringing a kernel of the catalogue into the cache, once, under a lock."""

import datetime
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from harness.errors import ProvisioningError
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


def fetch(name: str, *, progress: Progress = lambda _line: None,
          refresh: bool = False) -> Kernel:
    """Bring a kernel of the catalogue into the cache; nothing is done where it is there.

    Args:
        name: of the catalogue.
        progress: told in one line each what happens.
        refresh: fetch what the suite holds today, and replace what is cached.

    Raises:
        ProvisioningError: it cannot be fetched; cause and cure.
    """
    entry = entry_of(name)
    if not refresh and (kernel := _load(entry)):
        return kernel
    parent = cache_dir()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent / f".{name}.lock", progress):
            if not refresh and (kernel := _load(entry)):
                return kernel  # somebody else fetched it while we waited
            check_room([entry], refresh=refresh)
            _fetch_locked(entry, parent, progress)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot write into the cache {parent}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory") from fault
    kernel = _load(entry)
    if kernel is None:
        raise ProvisioningError(f"kernel {name} vanished from {parent} as soon as it was there; "
                                "something else cleans that directory, set XDG_CACHE_HOME")
    return kernel


def _fetch_locked(entry: Entry, parent: Path, progress: Progress) -> None:
    from harness.guest.fetch import apt, downloads, image

    prefix = f".{entry.name}.part-"
    for leftover in parent.glob(f"{prefix}*"):
        # We hold the lock: whoever made it was cut short.
        progress("removing what an attempt that was cut short left behind")
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as work:
        # Its own subdirectory, because mkdtemp makes one that others cannot read.
        fresh = Path(work, "kernel")
        fresh.mkdir()
        home = parent / entry.name
        cached = _load(entry)
        # A refresh is also the cure of a cache that was damaged.
        unless = (cached.record.package_sha256 if cached and cached.record
                  and sha256_of(cached.program) == cached.record.program_sha256 else "")
        if entry.guest == QEMU:
            got = image.fetch_image(suite=entry.suite, package=entry.package, into=fresh,
                                    work=Path(work), progress=progress, unless=unless)
        else:
            got = apt.fetch_kernel(suite=entry.suite, package=entry.package, into=fresh,
                                   home=home, work=Path(work), progress=progress, unless=unless)
        if got is None:
            progress(f"what is cached is what {entry.suite} holds today")
            return
        manifest = Manifest(
            name=entry.name, home=str(home), suite=entry.suite, package=entry.package,
            version=got.version, release=got.release, package_sha256=got.sha256,
            program_sha256=sha256_of(fresh / "linux"), libc_version=got.libc_version,
            kept=_kept(entry), expired=got.expired,
            fetched_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        _write_durably(fresh / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
        if os.path.lexists(home):
            # Not one step, but a reader that comes between finds no kernel, never half of one.
            home.rename(Path(work, "old"))
        fresh.rename(home)
    downloads.served(got.packages)
    progress(f"kernel {got.release} from {entry.package} {got.version} is ready")


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        # The rename must not become durable before the files that it vouches for.
        os.sync()
