"""Debian's kernel source (package linux-source-VERSION), from the suite of a kernel of ours.

It comes as the kernels do (`harness.guest.fetch.apt`) and is unpacked once, into
``$XDG_CACHE_HOME/dmsnap/sources/debian-VERSION``; the digest of the package stays beside it.
"""

import tempfile
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.files import write_whole
from harness.guest import catalogue, trust
from harness.guest.catalogue import Progress, check_free, sha256_of
from harness.guest.fetch import downloads
from harness.guest.fetch.apt import PrivateApt, deb_version, debian_mirror, unpack
from harness.guest.lock import locked
from harness.guest.programs import require, run

PREFIX: Final = "debian:"
_ORIGIN: Final = "origin"
"""Beside the tree: package, version and digest; written last."""
_ROOM_BYTES: Final = 2300 << 20
"""The package, what is in it, and the tree."""
_LIMIT_S: Final = 1800.0


def suite_of(version: str) -> str:
    """The suite that has linux-source-VERSION: that of a kernel of the catalogue.

    Raises:
        ProvisioningError: there is no such kernel.
    """
    suites = {entry.name.partition("-")[2]: entry.suite for entry in catalogue.entries()}
    if version not in suites:
        raise ProvisioningError(
            f"--source {PREFIX}{version}: Debian's source is known of {', '.join(suites)}; of "
            "others unpack linux-source-VERSION yourself and give the directory"
        )
    return suites[version]


def fetch(version: str, progress: Progress) -> Path:
    """The tree of Debian's source of a kernel; fetched if it is not in the cache.

    Args:
        version: as in the name of a kernel of the catalogue, such as 6.12.
        progress: told in one line each what happens.

    Raises:
        ProvisioningError: it cannot be had; cause and cure.
    """
    suite = suite_of(version)
    home = catalogue.cache_dir().parent / "sources" / f"debian-{version}"
    trust.check_ours(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / ".lock", progress):
            tree = home / f"linux-source-{version}"
            if not (home / _ORIGIN).is_file():
                _fetch_locked(suite, tree, progress)
            return tree
    except OSError as fault:
        raise ProvisioningError(
            f"cannot write into the cache {home}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory"
        ) from fault


def _fetch_locked(suite: str, tree: Path, progress: Progress) -> None:
    home, package = tree.parent, tree.name
    tar = require("tar", "sudo apt-get install -y tar")
    require("xz", "sudo apt-get install -y xz-utils")
    check_free(home, _ROOM_BYTES, f"the source of {package}")
    with tempfile.TemporaryDirectory(prefix=".part-", dir=home) as work:
        apt = PrivateApt(suite, Path(work, "apt"), debian_mirror(), progress)
        apt.update()
        deb = apt.download(package)
        unpack(deb, Path(work, "deb"))
        archive = next(Path(work, "deb").rglob(f"{package}.tar.xz"), None)
        if archive is None:
            raise ProvisioningError(f"{deb.name} holds no {package}.tar.xz: fetch it again")
        progress(f"unpacking {archive.name}")
        status, output = run(
            [tar, "-xJf", str(archive), "-C", work, "--no-same-owner"],
            limit_s=_LIMIT_S,
            slow="free the disk or the processor",
        )
        if status or not Path(work, package, "Makefile").is_file():
            raise ProvisioningError(
                f"{archive.name} cannot be unpacked: {output.strip()[-200:] or 'no tree in it'}"
            )
        if tree.exists():
            tree.rename(Path(work, "old"))
        Path(work, package).rename(tree)
        origin = f"{package} {deb_version(deb)} ({suite})\nsha256 {sha256_of(deb)}\n"
        write_whole(home / _ORIGIN, origin.encode())
    downloads.served(apt.packages)


def origin(tree: Path) -> str:
    """Package, version and suite that a tree in the cache came from."""
    return (tree.parent / _ORIGIN).read_text().splitlines()[0]
