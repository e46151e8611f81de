"""Whether a kernel would load a module, as far as their files say; before it boots.

Looked at is what the kernel itself refuses a module for (kernel: kernel/module/main.c,
check_modinfo, resolve_symbol, check_version): the string of its build (vermagic), symbols that
nobody exports, and, where the kernel has checksums of them (CONFIG_MODVERSIONS), those.  A ready
kernel's own modules say what is right.

Left out on purpose: signatures; and the exports of an image for QEMU, which is compressed.
"""

import io
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.errors import BadTrace, ProvisioningError
from harness.files import read_given

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

MODULE_BYTES_MAX: Final = 64 << 20
PROGRAM_BYTES_MAX: Final = 1 << 30
_EXPORTS: Final = "__ksymtab_strings"
_VERSION_ENTRY: Final = 64
"""struct modversion_info: a checksum of 8 bytes, and the name."""
_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Module:
    """What a module's file says.

    Attributes:
        name: as in its file name.
        vermagic: string of the build that it is for.
        needs: symbols that others have to export.
        exports: names of symbols that it exports, each with a NUL behind it.  A linker folds a
            name that ends another into that one, so some names that are in it are none.
        checksums: symbol → checksum that it was built with; empty without CONFIG_MODVERSIONS.
    """

    name: str
    vermagic: str
    needs: frozenset[str]
    exports: bytes
    checksums: dict[str, int]


def name_of(path: Path) -> str:
    """The name of a module, as dmsnap spells it."""
    return path.name.partition(".ko")[0].replace("_", "-")


def read(path: Path) -> Module:
    """A module's file, compressed with xz or not.

    Raises:
        ProvisioningError: it is none.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        data = read_given(path, MODULE_BYTES_MAX)
        if path.suffix == ".xz":
            data = lzma.LZMADecompressor(memlimit=MODULE_BYTES_MAX * 4).decompress(
                data, MODULE_BYTES_MAX
            )
        elf = ELFFile(io.BytesIO(data))
        rows = dict(row.partition(b"=")[::2] for row in _section(elf, ".modinfo").split(b"\0"))
        table: Any = elf.get_section_by_name(".symtab")
        undefined = (
            frozenset(
                symbol.name
                for symbol in table.iter_symbols()
                # A weak one may stay undefined.
                if symbol["st_shndx"] == "SHN_UNDEF"
                and symbol["st_info"]["bind"] == "STB_GLOBAL"
                and symbol.name
            )
            if table is not None
            else frozenset()
        )
        if not rows.get(b"vermagic"):
            raise ValueError("it does not say which kernel it is for")
        versions = _section(elf, "__versions")
        return Module(
            name_of(path),
            rows[b"vermagic"].decode(errors="replace"),
            undefined,
            _section(elf, _EXPORTS),
            {
                versions[at + 8 : at + _VERSION_ENTRY]
                .split(b"\0")[0]
                .decode(errors="replace"): int.from_bytes(versions[at : at + 8], "little")
                for at in range(0, len(versions) - _VERSION_ENTRY + 1, _VERSION_ENTRY)
            },
        )
    except (OSError, BadTrace, ELFError, lzma.LZMAError, ValueError, KeyError, EOFError) as fault:
        raise ProvisioningError(f"{path} is no kernel module ({fault}); build it anew") from None


def exports_of(program: Path) -> bytes | None:
    """What a User-mode Linux program exports to modules, as in `Module`; None if not to be seen."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with program.open("rb") as file:
            return _section(ELFFile(file), _EXPORTS) or None
    except (OSError, ELFError, ValueError):
        return None


def _section(elf: "ELFFile", name: str) -> bytes:
    section: Any = elf.get_section_by_name(name)
    return bytes(section.data()) if section is not None else b""


def misfits(wanted: Iterable[Module], own: Iterable[Module], exports: bytes | None) -> list[str]:
    """Why a kernel would refuse modules, in a line each; empty if it would take them.

    Args:
        wanted: the modules.
        own: those of the kernel's own that stay.
        exports: what the kernel itself exports; None if that is not known.
    """
    wanted, own = list(wanted), list(own)
    right = {module.vermagic for module in own}
    foreign: dict[str, list[str]] = {}
    for module in wanted:
        if right and module.vermagic not in right:
            foreign.setdefault(module.vermagic.strip() or "nothing", []).append(module.name)
    if foreign:
        return [
            f"{_few(names)} {'are' if len(names) > 1 else 'is'} for {vermagic!r}, and this kernel "
            f"is {min(right).strip()!r}"
            for vermagic, names in foreign.items()
        ]
    found = []
    checksums = {name: value for module in own for name, value in module.checksums.items()}
    known = b"".join(module.exports for module in (*wanted, *own))
    for module in wanted:
        missing = sorted(
            name
            for name in module.needs
            if exports is not None
            and name.encode() + b"\0" not in exports
            and name.encode() + b"\0" not in known
        )
        if missing:
            found.append(f"{module.name} needs what nothing exports: {_few(missing)}")
        if checksums and not module.checksums:
            found.append(f"{module.name} has no checksums, and this kernel wants them")
        other = sorted(
            name for name, value in module.checksums.items() if checksums.get(name, value) != value
        )
        if other:
            found.append(f"{module.name} was built with another form of {_few(other)}")
    return found


def _few(names: list[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f", and {more} more" if more > 0 else "")
