"""The first file system of a QEMU guest: busybox, a script, and the modules that reach the root.

A distribution's kernel has 9p and virtio as modules, so it cannot mount the host's file system by
itself.  What it needs is packed here into a cpio archive of the *newc* format
(Documentation/driver-api/early-userspace/buffer-format.rst), without a tool: the archive is a
header of hexadecimal numbers, a name and the data, three times a dozen lines.

Which modules, and in which order, is read from the modules themselves (``depends=`` in their
section .modinfo), since packages have no modules.dep.  A name without a file counts as built in.
"""

import gzip
import lzma
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.catalogue import SUBJECT, TRANSPORT, vm_file

INSTALL: Final = "sudo apt-get install -y qemu-system-x86 busybox-static"
BUSYBOX: Final = Path("/bin/busybox")
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
_ELF_INTERPRETER: Final = b"/ld-linux"
_TRAILER: Final = "TRAILER!!!"
_DECOMPRESS_LIMIT_S: Final = 60.0


# -- modules ----------------------------------------------------------------------------------


class Modules:
    """The module files below a directory, compressed or not.

    Args:
        directory: as /lib/modules/RELEASE, or a build tree.
    """

    def __init__(self, directory: Path) -> None:
        self._files = {
            _key(path): path
            for path in sorted(directory.rglob("*.ko*"))
            if path.name.endswith((".ko", ".ko.xz", ".ko.zst", ".ko.gz"))
        }

    def path(self, name: str) -> Path | None:
        """The file of a module; None if it has none, being built in or missing."""
        return self._files.get(name.replace("-", "_"))

    def order(self, names: Iterable[str]) -> list[str]:
        """``names`` and their dependencies, dependencies first; only those with files.

        Raises:
            ProvisioningError: one cannot be read.
        """
        found: dict[str, None] = {}

        def visit(name: str, above: tuple[str, ...]) -> None:
            key = name.replace("-", "_")
            path = self._files.get(key)
            if path is None or key in found or key in above:
                return
            for needed in depends(decompressed(path)):
                visit(needed, (*above, key))
            found[key] = None

        for name in names:
            visit(name, ())
        return list(found)


def _key(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def depends(module: bytes) -> list[str]:
    """The modules that a module says it depends on."""
    match = _DEPENDS.search(module)
    return match[1].decode().split(",") if match and match[1] else []


def decompressed(path: Path) -> bytes:
    """The plain bytes of a module.

    Raises:
        ProvisioningError: it cannot be read or decompressed; cause and cure.
    """
    try:
        data = path.read_bytes()
        match path.suffix:
            case ".xz":
                return lzma.decompress(data)
            case ".gz":
                return gzip.decompress(data)
            case ".zst":
                return _unzstd(path)
        return data
    except (OSError, lzma.LZMAError, EOFError, subprocess.SubprocessError) as fault:
        raise ProvisioningError(
            f"module {path} cannot be read ({fault}); give a directory with "
            "complete modules (--modules)"
        ) from fault


def _unzstd(path: Path) -> bytes:
    zstd = shutil.which("zstd")
    if zstd is None:
        raise ProvisioningError(
            f"{path.name} is compressed with zstd, which is missing on this "
            "machine; type: sudo apt-get install -y zstd"
        )
    return subprocess.run(
        [zstd, "-dcq", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_DECOMPRESS_LIMIT_S,
        check=True,
    ).stdout


# -- the archive ------------------------------------------------------------------------------


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive of the format newc.

    Args:
        entries: path without a leading slash, mode with its file type, contents; a directory
            comes before what is in it.
    """

    def part(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    def member(number: int, name: str, mode: int, data: bytes) -> bytes:
        # Inode, mode, uid, gid, links, time, size, four device numbers, name length, no checksum.
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name.encode()) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        return part(header + name.encode() + b"\0") + part(data)

    members = [member(number, *entry) for number, entry in enumerate(entries, 1)]
    return b"".join(members) + member(0, _TRAILER, 0, b"")


def build(modules: Path | None, init: Path | None) -> bytes:
    """The initramfs of a guest.

    Args:
        modules: directory of the kernel's modules.
        init: what to hand over to, on the host's file system; None for a machine that only prints
            that it works.

    Raises:
        ProvisioningError: busybox is missing, or a module cannot be read.
    """
    return cpio(_entries(modules, init))


def _entries(modules: Path | None, init: Path | None) -> Iterator[tuple[str, int, bytes]]:
    folder, program, file = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    for name in ("bin", "dev", "modules", "root"):
        yield name, folder, b""
    yield "init", program, vm_file("initramfs-init").read_bytes()
    yield "bin/busybox", program, busybox().read_bytes()
    if init is not None:
        yield "next", file, f"{init}\n".encode()
    if modules is not None:
        for name, path in early(Modules(modules)):
            yield f"modules/{name}", file, decompressed(path)


def early(modules: Modules) -> list[tuple[str, Path]]:
    """What the initramfs loads, as file names in order, each with its module.

    The modules that reach the root, and the other dependencies of dm-snapshot.
    """
    own = {name.replace("-", "_") for name in SUBJECT}
    names = modules.order(TRANSPORT)
    names += [name for name in modules.order(SUBJECT) if name not in own and name not in names]
    return [
        (f"{index:02}-{name}.ko", path)
        for index, name in enumerate(names)
        if (path := modules.path(name)) is not None
    ]


def busybox() -> Path:
    """A busybox that needs no libraries.

    Raises:
        ProvisioningError: this machine does not have it.
    """
    try:
        # A dynamic program names its interpreter in its first pages.
        head = BUSYBOX.read_bytes()[:4096]
    except OSError:
        raise ProvisioningError(
            f"busybox is missing on this machine; a QEMU guest starts with it; type: {INSTALL}"
        ) from None
    if _ELF_INTERPRETER in head:
        raise ProvisioningError(
            f"{BUSYBOX} needs libraries; a QEMU guest has none when it starts; type: {INSTALL}"
        )
    return BUSYBOX
