"""Modules for a Debian kernel: built out of tree against that kernel's own headers.

Debian carries the headers of each of its kernels, and they name the compiler that it takes.  What
is built of which source is the caller's affair: `dmsnap coverage` builds Debian's own without
inlining (`harness.guest.build.noinline`), ``--source TREE --kernel deb-6.12`` the user's.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import BuildFailed, ProvisioningError
from harness.guest import trust
from harness.guest.build import kbuild, modules
from harness.guest.build.tree import MD, Tree, lay_out, place_name, users_words
from harness.guest.catalogue import QEMU, Kernel, Progress, cache_dir, check_free
from harness.guest.fetch import downloads
from harness.guest.fetch.apt import PrivateApt, deb_version, debian_mirror, unpack
from harness.guest.lock import locked
from harness.guest.programs import require

SNAPSHOT: Final = "dm-snap.o dm-exception-store.o dm-snap-transient.o dm-snap-persistent.o"
"""What the module is made of (kernel: drivers/md/Makefile)."""
KBUILD: Final = f"obj-m += dm-snapshot.o\ndm-snapshot-y := {SNAPSHOT}\n"
_READY: Final = "ready"
"""Written last, beside the headers: the name of the compiler."""
_ROOM_BYTES: Final = 600 << 20


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of a kernel.

    Attributes:
        directory: where make is to be run.
        compiler: that built the kernel: a module of another one may be refused.
    """

    directory: Path
    compiler: str

    def make(self, place: Path, *, log: Path, flags: Sequence[str] = ()) -> None:
        """Build the modules of a directory with a Kbuild of its own, in it.

        Raises:
            BuildFailed: it failed; the lines that say why.
        """
        kbuild.make(
            self.directory,
            [f"M={place}", f"CC={self.compiler}", *flags, "modules"],
            log=log,
            what="modules",
        )


def check(kernel_guest: str, name: str) -> None:
    """See that a kernel is one whose headers Debian has, and that modules can be built here.

    Raises:
        ProvisioningError: cause and cure.
    """
    if kernel_guest != QEMU:
        raise ProvisioningError(
            f"modules for {name} cannot be built: only kernels for guest qemu have headers in "
            "Debian (--kernel deb-6.12); leave --kernel out to build a User-mode Linux of the tree"
        )
    kbuild.check(kbuild.FOR_MODULES)


def unpacked(kernel: Kernel, apt: PrivateApt, into: Path) -> Headers:
    """Fetch the headers of a kernel, and lay them out.

    Args:
        kernel: of the catalogue.
        apt: of its suite, up to date.
        into: directory for them.

    Raises:
        ProvisioningError: the suite has others by now, or the compiler is missing.
    """
    assert kernel.record is not None, "kernels of the catalogue have one"
    package = f"linux-headers-{kernel.release}"
    parts = [package, *apt.dependencies(package, r"linux-(?:headers|kbuild)-\S+")]
    for part in parts:
        deb = apt.download(part)
        if part == package and deb_version(deb) != kernel.record.version:
            raise ProvisioningError(
                f"{kernel.record.suite} has moved on to {deb_version(deb)}, {kernel.name} is "
                f"{kernel.record.version}; type: dmsnap kernels fetch --refresh {kernel.name}"
            )
        unpack(deb, into)
    directory = into / "usr/src" / package
    compiler = _compiler(directory)
    # The headers name their other half by the place where the package would be installed.
    makefile = directory / "Makefile"
    makefile.write_text(makefile.read_text(encoding="utf-8").replace("/usr/", f"{into}/usr/"))
    return Headers(directory, compiler)


def _compiler(headers: Path) -> str:
    config = (headers / ".config").read_text(encoding="utf-8")
    version = re.search(r'^CONFIG_CC_VERSION_TEXT=".*\bgcc-(\d+)\b', config, re.MULTILINE)
    version = version or re.search(r"^CONFIG_GCC_VERSION=(\d+)\d{4}$", config, re.MULTILINE)
    name = f"gcc-{version[1]}" if version else "gcc"
    require(name, f"sudo apt-get install -y {name} make  (or run on the Debian of that kernel)")
    return name


def headers_of(kernel: Kernel, progress: Progress) -> Headers:
    """The headers of a kernel, from the cache; fetched if they are not there.

    Raises:
        ProvisioningError: they cannot be had; cause and cure.
    """
    check(kernel.guest, kernel.name)
    record = kernel.record
    if record is None:
        raise ProvisioningError(
            f"modules for {kernel.name} cannot be built: its headers are not known; build them "
            "yourself, and give --modules DIR"
        )
    home = cache_dir().parent / "headers" / kernel.name / record.version
    kbuild.refuse_spaces(home)
    trust.check_ours(home)
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / ".lock", progress):
        directory = home / "tree/usr/src" / f"linux-headers-{kernel.release}"
        if (home / _READY).is_file():
            return Headers(directory, _compiler(directory))
        check_free(home, _ROOM_BYTES, f"the headers of {kernel.name}")
        for leftover in ("apt", "tree"):
            shutil.rmtree(home / leftover, ignore_errors=True)
        apt = PrivateApt(record.suite, home / "apt", debian_mirror(), progress)
        apt.update()
        found = unpacked(kernel, apt, home / "tree")
        (home / _READY).touch()
        downloads.served(apt.packages)
        return found


def with_source(kernel: Kernel, tree: Tree, source: str, progress: Progress) -> Kernel:
    """A Debian kernel with the snapshot module of a tree.

    kcopyd and what else is in dm-mod stays the kernel's own: to change that, build a whole kernel.

    Args:
        kernel: of the catalogue.
        tree: of the module.
        source: what the user called it.
        progress: told in one line each what happens.

    Raises:
        BuildFailed: the compiler says no; its lines.
        ProvisioningError: it cannot be built here, or the kernel would refuse it.
    """
    headers = headers_of(kernel, progress)
    place = headers.directory.parents[3] / "builds" / place_name(tree)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / ".lock", progress):
            farm, objects = place / "source", place / "objects"
            lay_out(tree, farm)
            objects.mkdir(exist_ok=True)
            _link(farm / MD, objects)
            if not (objects / "Kbuild").is_file():
                (objects / "Kbuild").write_text(KBUILD, encoding="utf-8")
            progress(f"building dm-snapshot of {source} for {kernel.name}")
            try:
                headers.make(objects, log=place / kbuild.LOG, flags=["KCFLAGS=-Wno-error"])
            except BuildFailed as fault:
                text = str(fault).replace(f"{objects}/", f"{farm}/{MD}/")
                raise BuildFailed(users_words(tree, farm, text)) from None
            return modules.with_modules(kernel, {"dm-snapshot": objects / "dm-snapshot.ko"}, source)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot build in the cache {place}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory"
        ) from fault


def _link(source: Path, into: Path) -> None:
    """Put links to the sources of a directory into another, whose objects are kept."""
    for path in source.iterdir():
        place = into / path.name
        if path.suffix in (".c", ".h") and not place.is_symlink():
            place.symlink_to(path)
    for place in into.iterdir():
        if place.is_symlink() and not place.exists():
            place.unlink()
