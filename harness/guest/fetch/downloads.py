"""Downloads that are not used yet, kept so that nothing is downloaded twice.

A package stays in the cache until what it was fetched for is complete; after an attempt that was
cut short (no compiler, a full disk, Ctrl-C) it is found there the next time.  The indexes of a
suite stay for good: apt asks the mirror whether they are current, and fetches those that are not.

A file is used only if its digest is the one in the current signed index; any other is ignored.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from harness.guest.catalogue import cache_dir, sha256_of


def packages_dir() -> Path:
    """Where packages are kept; the directory need not exist."""
    return cache_dir().parent / "packages"


def indexes_dir(suite: str) -> Path:
    """Where the indexes of a suite are kept; the directory need not exist."""
    return cache_dir().parent / "indexes" / suite


def take(name: str, sha256: str, into: Path) -> bool:
    """Put the package ``name`` into a directory, if it is kept and has this ``sha256``."""
    kept = packages_dir() / name
    try:
        if sha256_of(kept) != sha256:
            return False
        _place(kept, into / name)
    except OSError:
        return False
    return True


def keep(package: Path) -> None:
    """Keep a downloaded package; if that fails, it will be downloaded again."""
    with suppress(OSError):
        packages_dir().mkdir(parents=True, exist_ok=True)
        _place(package, packages_dir() / package.name)


def served(packages: Iterable[Path]) -> None:
    """Drop these packages and older versions; what they were fetched for is complete."""
    for package in packages:
        name = package.name.partition("_")[0]
        for kept in packages_dir().glob(f"{name}_*.deb"):
            kept.unlink(missing_ok=True)


def lay_out_indexes(suite: str, lists: Path) -> None:
    """Put the kept indexes of a suite where apt looks for them."""
    with suppress(OSError):
        for kept in indexes_dir(suite).iterdir():
            _place(kept, lists / kept.name)


def keep_indexes(suite: str, lists: Path) -> None:
    """Keep the indexes that apt has now, and drop older ones of that suite."""
    with suppress(OSError):
        indexes_dir(suite).mkdir(parents=True, exist_ok=True)
        now = {path.name for path in lists.iterdir() if path.is_file() and path.name != "lock"}
        for kept in indexes_dir(suite).iterdir():
            if kept.name not in now:
                kept.unlink()
        for name in now:
            _place(lists / name, indexes_dir(suite) / name)


def _place(source: Path, target: Path) -> None:
    """Put a file in another place, atomically; without a copy on one file system."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    try:
        try:
            part.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
