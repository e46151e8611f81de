"""A distribution's kernel from Debian's packages, laid out for QEMU.

Of some thousand modules only those are kept that a guest loads or scenarios use, and their
dependencies; decompressed, since older Pythons have no zstd.
"""

from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.catalogue import KEPT, MODULE, sha256_of
from harness.guest.fetch.apt import (
    Fetched,
    PrivateApt,
    Progress,
    deb_version,
    debian_mirror,
    unpack,
)
from harness.guest.fetch.initramfs import Modules, decompressed
from harness.guest.programs import require

_REAL: Final = r"linux-image-\d\S*"
_PARTS: Final = r"linux-(?:binary|modules)-\d\S*"
"""The package with the kernel image since Debian 14; before, one package has everything."""


def fetch_image(
    *, suite: str, package: str, into: Path, work: Path, progress: Progress, unless: str = ""
) -> Fetched | None:
    """Fetch and lay out a kernel: ``linux`` and ``modules/RELEASE``.

    Args:
        suite: Debian suite.
        package: its meta package, which depends on the package of a kernel.
        into: existing empty directory for the result.
        work: existing directory for everything else.
        progress: called with a line for each thing that happens.
        unless: SHA-256 of a kernel package that need not be fetched again.

    Returns:
        What was fetched; None if the package is that one.

    Raises:
        ProvisioningError: something is missing or a download fails; cause and cure.
        OSError: the disk is full or not writable.
    """
    require("dpkg-deb", "sudo apt-get install dpkg")
    apt = PrivateApt(suite, work / "apt", debian_mirror(), progress)
    apt.update()
    real = apt.dependencies(package, _REAL)
    if not real:
        raise ProvisioningError(
            f"{package} of suite {suite} names no kernel for this machine; QEMU kernels exist only "
            "for amd64; use a User-mode Linux, or a kernel you built (--kernel PATH "
            "--modules DIR)"
        )
    if unless and apt.offer(real[0]).sha256 == unless:
        return None
    tree = work / "kernel-tree"
    debs = [apt.download(part) for part in (real[0], *apt.dependencies(real[0], _PARTS))]
    for deb in debs:
        unpack(deb, tree)
    # The second paths are those of Debian 13 and 14.
    images = sorted([*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")])
    releases = sorted([*tree.glob("lib/modules/*/"), *tree.glob("usr/lib/modules/*/")])
    if len(images) != 1 or len(releases) != 1:
        raise ProvisioningError(
            f"{real[0]} is not laid out as a kernel (one vmlinuz and one "
            "directory of modules); this dmsnap is too old for it"
        )
    release = releases[0]
    if next(release.rglob(f"{MODULE}*"), None) is None:
        raise ProvisioningError(
            f"{real[0]} contains no {MODULE}; use another kernel of the catalogue"
        )
    images[0].rename(into / "linux")
    keep_modules(release, into / "modules" / release.name)
    return Fetched(
        version=deb_version(debs[0]),
        release=release.name,
        sha256=sha256_of(debs[0]),
        libc_version=None,
        expired=apt.expired,
        packages=tuple(apt.packages),
    )


def keep_modules(source: Path, target: Path) -> None:
    """Copy the modules that guests need, decompressed, to the same paths below ``target``."""
    modules = Modules(source)
    for name in modules.order(KEPT):
        path = modules.path(name)
        assert path is not None, "only modules with files are ordered"
        place = target / path.relative_to(source).with_name(path.name.partition(".ko")[0] + ".ko")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(decompressed(path))
