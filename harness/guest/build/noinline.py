"""The dm-snapshot module of a Debian kernel, built without inlining any function.

A compiler inlines most small functions, and an inlined function has no entry that could be
probed.  Debian has the source and the headers of each of its kernels, so the module is rebuilt for
exactly that kernel, out of tree, with inlining switched off; nothing else is changed.  It needs
the compiler that the headers ask for, and make.

dm-dust, which scenarios use and Debian's kernels leave out, is built along with it.
"""

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.build.headers import KBUILD, unpacked
from harness.guest.build.kbuild import LOG
from harness.guest.build.modules import lay_over
from harness.guest.catalogue import (
    MODULE,
    QEMU,
    Entry,
    Kernel,
    cache_dir,
    check_free,
    find,
)
from harness.guest.fetch import downloads
from harness.guest.fetch.apt import PrivateApt, Progress, debian_mirror, unpack
from harness.guest.programs import require, run

_FLAGS: Final = (
    "-fno-inline -fno-inline-small-functions -fno-inline-functions-called-once "
    "-fno-partial-inlining -fno-ipa-sra -fno-ipa-cp -fno-ipa-icf"
)
"""No inlining, nor anything else that changes a function's name or merges two of them."""
_DUST: Final = "dm-dust.ko"
_NO_SOURCE: Final = (
    "the source of {} is not known; coverage needs a catalogue kernel "
    "that runs in QEMU, such as --kernel deb-6.1"
)
_ROOM_BYTES: Final = 1 << 30
"""Space for the packages of headers and source, unpacked: all headers, drivers/md only."""
_LIMIT_S: Final = 900.0
_NM_LIMIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel whose module has every function as a symbol.

    Attributes:
        kernel: the kernel to boot.
        functions: symbols of functions in the module.
    """

    kernel: Kernel
    functions: frozenset[str]


def check(entry: Entry) -> None:
    """Check that such a module can be built here, as far as known before a download.

    Raises:
        ProvisioningError: the kernel does not run in QEMU, or a tool is missing; cause and cure.
    """
    if entry.guest != QEMU:
        raise ProvisioningError(_NO_SOURCE.format(entry.name))
    require("nm", "sudo apt-get install -y binutils")
    kernel = find(entry.name)
    if kernel is None or not _built(kernel):
        require("make", "sudo apt-get install -y make")
        if not any(
            re.fullmatch(r"gcc(-\d+)?", path.name)
            for place in os.environ.get("PATH", os.defpath).split(os.pathsep)
            for path in Path(place or ".").glob("gcc*")
        ):
            raise ProvisioningError(
                "a module must be built, and there is no compiler on this "
                "machine; type: sudo apt-get install -y gcc make"
            )
        check_free(cache_dir(), _ROOM_BYTES, f"the module of {entry.name}")


def build(kernel: Kernel, progress: Progress) -> Build:
    """The kernel with such a module; nothing is built if it is cached.

    Raises:
        ProvisioningError: the kernel is not one of Debian's for QEMU, a tool is missing, or the
            packages cannot be fetched or do not fit; cause and cure.
    """
    if kernel.record is None or kernel.guest != QEMU:
        raise ProvisioningError(_NO_SOURCE.format(kernel.name))
    nm = require("nm", "sudo apt-get install -y binutils")
    modules = _place(kernel)
    home = modules.parent
    if not _built(kernel):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=home) as work:
            made, packages = _make(kernel, Path(work), progress)
            fresh = Path(work, "modules")
            built = {Path(name).stem: made / name for name in (MODULE, _DUST)}
            lay_over(kernel.modules, built, fresh)
            if modules.is_dir():
                modules.rename(Path(work, "old"))
            fresh.rename(modules)
            downloads.served(packages)
    _, listed = run([nm, "--defined-only", str(next(modules.rglob(MODULE)))], limit_s=_NM_LIMIT_S)
    functions = frozenset(re.findall(r"^\w+ [tT] ([A-Za-z_]\w*)$", listed, re.MULTILINE))
    return Build(replace(kernel, modules=modules), functions)


def _place(kernel: Kernel) -> Path:
    assert kernel.record is not None, "kernels of the catalogue have one"
    return cache_dir().parent / "noinline" / kernel.name / kernel.record.version / kernel.release


def _built(kernel: Kernel) -> bool:
    # An older one may lack what is kept, or built, today.
    return {*_names(kernel.modules), _DUST} <= _names(_place(kernel))


def _names(modules: Path) -> set[str]:
    return {path.name for path in modules.rglob("*.ko")}


def _make(kernel: Kernel, work: Path, progress: Progress) -> tuple[Path, list[Path]]:
    """Fetch, unpack and build; returns where the modules are, and what was fetched."""
    assert kernel.record is not None
    require("make", "sudo apt-get install -y make")
    apt = PrivateApt(kernel.record.suite, work / "apt", debian_mirror(), progress)
    apt.update()
    number = re.match(r"\d+\.\d+", kernel.release)
    assert number is not None, "releases of Debian start with two numbers"
    tree = work / "tree"
    # The headers come first and are small; they say which compiler it takes.
    headers = unpacked(kernel, apt, tree)
    unpack(apt.download(f"linux-source-{number[0]}"), tree)
    progress(f"building {MODULE} without inlining, with {headers.compiler}")
    archive = next((tree / "usr/src").glob("linux-source-*.tar.xz"))
    folder = archive.name.removesuffix(".tar.xz")
    _run(["tar", "-xJf", str(archive), "-C", str(work), f"{folder}/drivers/md"])
    place = work / folder / "drivers/md"
    (place / "Makefile").unlink()
    (place / "Kbuild").write_text(f"{KBUILD}obj-m += dm-dust.o\n")
    headers.make(place, log=work / LOG, flags=[f"KCFLAGS={_FLAGS}"])
    return place, apt.packages


def _run(argv: list[str]) -> None:
    status, output = run(argv, limit_s=_LIMIT_S)
    if status:
        raise ProvisioningError(
            f"`{argv[0]}` fails while the module is built: "
            f"{' / '.join(output.strip().splitlines()[-5:])}"
        )
