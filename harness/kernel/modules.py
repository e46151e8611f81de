"""Kernel modules and their parameters, without starting a process: finit_module(2) and sysfs.

All modules that the harness uses are loaded in 15 ms this way; modprobe would cost a process for
each, and a guest whose root is the host's has no modules.dep for its kernel.  A module that is
built in or already loaded is as good as one that was just loaded.
"""

import ctypes
import errno
import lzma
import os
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.kernel import udev

WANTED: Final = (
    "dm-mod",
    "dm-bufio",
    "dm-snapshot",
    "dm-zero",
    "dm-flakey",
    "dm-delay",
    "dm-dust",
    "loop",
)
"""In dependency order; `harness.kernel.disks.disks` loads the ram disk."""
NEEDED: Final = ("dm-mod", "dm-bufio", "dm-snapshot", "brd")
"""Nothing works without these; the others only extend what scenarios can use."""
_SYS_MODULE: Final = Path("/sys/module")
_FINIT_MODULE: Final = {"x86_64": 313, "aarch64": 273, "riscv64": 273, "i686": 350}
_DELETE_MODULE: Final = {"x86_64": 176, "aarch64": 106, "riscv64": 106, "i686": 129}
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _number(table: dict[str, int]) -> int:
    machine = os.uname().machine
    try:
        return table[machine]
    except KeyError:
        raise ProvisioningError(
            f"the number of finit_module on {machine} is not known to dmsnap: load the modules "
            f"{', '.join(WANTED)} and brd before it starts"
        ) from None


def present(name: str) -> bool:
    """Whether module ``name`` is loaded, or built in and known to sysfs."""
    return (_SYS_MODULE / name.replace("-", "_")).is_dir()


def loaded(name: str) -> bool:
    """Whether module ``name`` was loaded, not built in: only a loaded one counts its users."""
    return (_SYS_MODULE / name.replace("-", "_") / "refcnt").exists()


def find(directory: Path, name: str) -> Path | None:
    """The file of module ``name`` below ``directory``, compressed or not."""
    drivers = [f"{top}drivers/{kind}" for top in ("kernel/", "") for kind in ("md", "block", "net")]
    for folder in (*drivers, "."):
        for suffix in (".ko", ".ko.xz", ".ko.zst", ".ko.gz"):
            path = directory / folder / (name + suffix)
            if path.is_file():
                return path
    return None


def load(directory: Path, name: str, parameters: str = "") -> bool:
    """Load a module; returns whether it is there afterwards.

    Raises:
        ProvisioningError: its file cannot be used, or the kernel refuses it.
    """
    if present(name):
        return True
    path = find(directory, name)
    if path is None:
        return False
    if path.suffix == ".xz":
        fd = os.memfd_create(name)
        os.write(fd, lzma.decompress(path.read_bytes()))
    elif path.suffix != ".ko":
        raise ProvisioningError(
            f"module {path.name} is compressed in a way that Python 3.11 cannot undo: "
            f"decompress it (zstd -d {path.name}), or give a directory with plain .ko files"
        )
    else:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        failed = _libc.syscall(_number(_FINIT_MODULE), fd, parameters.encode(), 0)
        number = ctypes.get_errno()
    finally:
        os.close(fd)
    if failed and number != errno.EEXIST:
        raise ProvisioningError(
            f"the kernel refuses module {path.name}: {os.strerror(number)}; was it built for "
            f"this kernel ({os.uname().release})?"
        )
    return True


def unload(name: str) -> bool:
    """Remove a module; False if it is built in or in use.

    If udev runs, it may still be looking at one of its devices; this waits for that.
    """
    if _delete(name):
        return True
    if not loaded(name):
        return False
    udev.settle()
    return _delete(name)


def _delete(name: str) -> bool:
    return not _libc.syscall(
        _number(_DELETE_MODULE), name.replace("-", "_").encode(), os.O_NONBLOCK
    )


def load_all(directory: Path) -> tuple[str, ...]:
    """Load what the harness uses, except the ram disk; returns the missing optional ones.

    Raises:
        ProvisioningError: a required one is missing.
    """
    missing = [name for name in WANTED if not load(directory, name)]
    for name in missing:
        # A module that is built in without parameters has no directory in sysfs: the device
        # node of device-mapper, not the module, decides.
        if name in NEEDED and not (name != "dm-snapshot" and Path("/dev/mapper/control").exists()):
            raise ProvisioningError(
                f"module {name} is neither in this kernel ({os.uname().release}) nor below "
                f"{directory}: give the directory of its modules (--modules)"
            )
    return tuple(missing)


class Parameters:
    """Parameters of module dm_snapshot; `restore` puts back what a scenario changed."""

    def __init__(self, directory: Path = _SYS_MODULE / "dm_snapshot" / "parameters") -> None:
        self._directory = directory
        self._before: dict[str, str] = {}

    def names(self) -> dict[str, str]:
        """Parameter → current value."""
        if not self._directory.is_dir():
            return {}
        return {path.name: path.read_text().strip() for path in sorted(self._directory.iterdir())}

    def set(self, name: str, value: str) -> None:
        """Write a parameter.

        Raises:
            OSError: the kernel refuses the value, or has no such parameter (ENOENT).
        """
        path = self._directory / name
        before = path.read_text().strip()
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
        self._before.setdefault(name, before)

    def restore(self) -> list[str]:
        """Restore every parameter that was changed; returns what could not be restored."""
        failed = []
        for name, value in self._before.items():
            try:
                (self._directory / name).write_text(value)
            except OSError as fault:
                failed.append(f"parameter {name}: {fault}")
        self._before.clear()
        return failed
