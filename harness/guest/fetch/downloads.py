"""What was downloaded and has not served yet, so that no download is made twice.

A package that came stays in the cache until what it was fetched for is whole; an attempt that was
cut short behind it (no compiler, a full disk, Ctrl-C) finds it the next time.  The indexes of a
suite stay for good: apt asks the mirror whether they are still today's, and fetches what is not.

A file is taken only with the digest that the signed index names today; one that is none is as good
as not there.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from harness.guest.catalogue import cache_dir, sha256_of


def packages_dir() -> Path:
    """Where packages wait; the directory need not exist."""
    return cache_dir().parent / "packages"


def indexes_dir(suite: str) -> Path:
    """Where the indexes of a suite are kept; the directory need not exist."""
    return cache_dir().parent / "indexes" / suite


def take(name: str, sha256: str, into: Path) -> bool:
    """Put the package ``name`` into a directory, if it waits and is the one with ``sha256``."""
    kept = packages_dir() / name
    try:
        if sha256_of(kept) != sha256:
            return False
        _place(kept, into / name)
    except OSError:
        return False
    return True


def keep(package: Path) -> None:
    """Let a package that came wait; where that cannot be, it will come again."""
    with suppress(OSError):
        packages_dir().mkdir(parents=True, exist_ok=True)
        _place(package, packages_dir() / package.name)


def served(packages: Iterable[Path]) -> None:
    """What these packages were fetched for is whole: they, and older ones of theirs, may go."""
    for package in packages:
        name = package.name.partition("_")[0]
        for kept in packages_dir().glob(f"{name}_*.deb"):
            kept.unlink(missing_ok=True)


def lay_out_indexes(suite: str, lists: Path) -> None:
    """Put the kept indexes of a suite where apt has its own."""
    with suppress(OSError):
        for kept in indexes_dir(suite).iterdir():
            _place(kept, lists / kept.name)


def keep_indexes(suite: str, lists: Path) -> None:
    """Keep the indexes that apt has now, and no others of that suite."""
    with suppress(OSError):
        indexes_dir(suite).mkdir(parents=True, exist_ok=True)
        now = {path.name for path in lists.iterdir() if path.is_file() and path.name != "lock"}
        for kept in indexes_dir(suite).iterdir():
            if kept.name not in now:
                kept.unlink()
        for name in now:
            _place(lists / name, indexes_dir(suite) / name)


def _place(source: Path, target: Path) -> None:
    """The same file in another place, whole or not at all; on one file system without a copy."""
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
