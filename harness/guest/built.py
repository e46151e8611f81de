"""A kernel that the user built: whether it is one, and whether its modules are there."""

import os
import struct
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.catalogue import MODULE, QEMU, UML, Kernel, answers

_HEAD_BYTES: Final = 4096
_BOOT_MAGIC_AT: Final = 0x202
_PT_LOAD: Final = 1


def custom(program: Path, modules: Path, guest: str | None = None) -> Kernel:
    """A kernel that the user built (``--kernel PATH --modules DIR``).

    Args:
        program: the ``linux`` that a build with ARCH=um leaves, or an x86-64 bzImage or vmlinux.
        modules: a directory with dm-snapshot.ko somewhere in it: the build tree, or what
            ``make modules_install`` filled.
        guest: what boots it; by default the kind it was built for.

    Raises:
        ProvisioningError: one of them is not valid; cause and cure.
    """
    program, modules = program.absolute(), modules.absolute()
    if not program.is_file():
        raise ProvisioningError(
            f"--kernel {program}: there is no such file; give the program "
            "`linux` that `make ARCH=um` builds, or a bzImage"
        )
    if not modules.is_dir():
        raise ProvisioningError(
            f"--modules {modules}: there is no such directory; give the one "
            "that `make modules_install INSTALL_MOD_PATH=DIR` filled"
        )
    image = guest == QEMU or (guest is None and is_image(program))
    if not image:
        _check_program(program)
    _check_modules(modules, compressed=image)
    # A modules_install tree is named after its release.
    releases = sorted(modules.glob("lib/modules/*/"))
    return Kernel(
        str(program),
        program,
        releases[0] if len(releases) == 1 else modules,
        guest=QEMU if image else UML,
    )


def is_image(program: Path) -> bool:
    """Whether a file is a kernel for a machine (bzImage, vmlinux), not a User-mode Linux program.

    A bzImage has a magic (Documentation/arch/x86/boot.rst); of ELF programs, a vmlinux is the one
    loaded into the upper half of the address space.
    """
    with program.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[_BOOT_MAGIC_AT:][:4] == b"HdrS":
        return True
    if head[:5] != b"\x7fELF\x02" or len(head) < _HEAD_BYTES:
        return False
    (start,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    headers = [
        struct.unpack_from("<IIQQ", head, at)
        for at in range(start, min(start + size * count, _HEAD_BYTES - 56), size or 56)
    ]
    return any(kind == _PT_LOAD and address >> 63 for kind, _flags, _offset, address in headers)


def _check_program(program: Path) -> None:
    if not os.access(program, os.X_OK):
        raise ProvisioningError(
            f"--kernel {program} is not executable; if it is the program that "
            f"`make ARCH=um` built: chmod +x {program}"
        )
    ok, said = answers(program)
    if not ok:
        raise ProvisioningError(
            f"--kernel {program} does not start ({said}); give a User-mode "
            "Linux program that runs on this machine (`linux --version`)"
        )


def _check_modules(modules: Path, *, compressed: bool) -> None:
    if next(modules.rglob(MODULE), None) is not None:
        return
    packed = next(modules.rglob(f"{MODULE}.*"), None)
    if packed is not None and compressed and packed.suffix == ".xz":
        return
    cure = (
        f"decompress it: {packed} cannot be loaded as it is"
        if packed
        else "build it with CONFIG_DM_SNAPSHOT=m and give its build directory"
    )
    raise ProvisioningError(f"--modules {modules} contains no {MODULE}; {cure}")
