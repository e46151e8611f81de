"""A ready kernel with modules of the user's own in the place of some of its own.

``--kernel uml-6.12 --modules DIR``: DIR is a build tree, what ``make modules_install`` filled, or
any directory with modules in it.  Those that guests of dmsnap load are taken, the others are the
kernel's own.  What the kernel would refuse is said before it boots (`harness.guest.build.fit`).
The mixture is kept in ``$XDG_CACHE_HOME/dmsnap/mixed/ID``, by its contents.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import ProvisioningError
from harness.guest import trust
from harness.guest.build import fit
from harness.guest.catalogue import SUBJECT, UML, Kernel, cache_dir, sha256_of

_MIXED_MAX: Final = 8
_WALKED_MAX: Final = 300_000


def found_in(directory: Path) -> dict[str, Path]:
    """Name → file of the modules below ``directory`` that guests load.

    Raises:
        ProvisioningError: there is none, or the directory is no place to look in.
    """
    if not directory.is_dir():
        raise ProvisioningError(
            f"--modules {directory}: there is no such directory; give a build tree, or what "
            "`make modules_install INSTALL_MOD_PATH=DIR` filled"
        )
    found: dict[str, list[Path]] = {}
    walked = 0
    for place, _, names in os.walk(directory):
        walked += len(names)
        if walked > _WALKED_MAX:
            raise ProvisioningError(
                f"--modules {directory} holds more than {_WALKED_MAX} files: give the directory of "
                "the modules"
            )
        for name in names:
            path = Path(place, name)
            if name.endswith((".ko", ".ko.xz")) and fit.name_of(path) in SUBJECT:
                found.setdefault(fit.name_of(path), []).append(path)
    if not found:
        raise ProvisioningError(
            f"--modules {directory} holds none of the modules that guests load "
            f"({', '.join(SUBJECT)}): build one, as a module (CONFIG_DM_SNAPSHOT=m)"
        )
    for paths in found.values():
        if len({sha256_of(path) for path in paths}) > 1:
            raise ProvisioningError(
                f"--modules {directory} holds several of one name: "
                f"{', '.join(map(str, sorted(paths)))}; give the directory of one of them"
            )
    return {name: min(paths) for name, paths in sorted(found.items())}


def with_modules(kernel: Kernel, files: Mapping[str, Path], what: str) -> Kernel:
    """A kernel with these modules in the place of its own.

    Args:
        kernel: a ready one.
        files: name → file.
        what: where they come from, for the user.

    Raises:
        ProvisioningError: the kernel would refuse some; all of it.
    """
    check(kernel, files, what)
    digests = {name: sha256_of(path) for name, path in files.items()}
    key = hashlib.sha256(
        msgspec.json.encode(
            [kernel.name, str(kernel.modules), kernel.release, sorted(digests.items())]
        )
    ).hexdigest()[:16]
    parent = cache_dir().parent / "mixed"
    home = parent / key / kernel.release
    trust.check_ours(parent)
    try:
        if not home.is_dir():
            (parent / key).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".part-", dir=parent) as work:
                fresh = Path(work, kernel.release)
                lay_over(kernel.modules, files, fresh)
                fresh.rename(home)
        os.utime(parent / key)
        for old in sorted(parent.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime_ns)[
            :-_MIXED_MAX
        ]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot write into the cache {parent}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory"
        ) from fault
    words = ", ".join(f"{name} sha256 {digest[:16]}" for name, digest in digests.items())
    return replace(kernel, modules=home, built=f"modules of {what}: {words}")


def lay_over(modules: Path, files: Mapping[str, Path], into: Path) -> None:
    """Copy a kernel's modules, with some exchanged.

    Args:
        modules: directory of the kernel's own.
        files: name → file that takes the place of the module of that name, or is added.
        into: directory to make.

    Raises:
        OSError: the disk is full or not writable.
    """
    shutil.copytree(modules, into)
    beside = next((path.parent for path in into.rglob("dm-snapshot.ko*")), into)
    for name, file in files.items():
        place = beside
        for old in [path for path in into.rglob("*.ko*") if fit.name_of(path) == name]:
            place = old.parent
            old.unlink()
        shutil.copyfile(file, place / (name + file.name[file.name.index(".ko") :]))


def check(kernel: Kernel, files: Mapping[str, Path], what: str) -> None:
    """See that a kernel would load these modules.

    Raises:
        ProvisioningError: it would not; each reason.
    """
    own = [
        fit.read(path)
        for path in sorted(kernel.modules.rglob("*.ko*"))
        if fit.name_of(path) not in files and _may_serve(path)
    ]
    exports = fit.exports_of(kernel.program) if kernel.guest == UML else None
    wrong = fit.misfits(map(fit.read, files.values()), own, exports)
    if wrong:
        raise ProvisioningError(
            f"{kernel.name} would not load the modules of {what}: {'; '.join(wrong)}. Build them "
            f"for {kernel.release} as it was built"
        )


def _may_serve(path: Path) -> bool:
    """Whether device-mapper may use what that module exports: there are thousands of others."""
    return fit.name_of(path) in SUBJECT or bool({"md", "dax", "lib"} & set(path.parts[:-1]))
