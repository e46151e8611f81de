"""The configuration of a kernel: fragments that ship in ``vm/``, and what kernels lack of it."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.catalogue import vm_file

BASE: Final = "uml.config"
PRESETS: Final = ("kasan", "lockdep", "ubsan", "kmemleak", "kcsan", "debug", "failmem")
"""Names of files in ``vm/presets/``."""
_SET: Final = re.compile(r"^(CONFIG_\w+)=(.*)$", re.MULTILINE)
_UNSET: Final = re.compile(r"^# (CONFIG_\w+) is not set$", re.MULTILINE)


def fragment(presets: Sequence[str] = ()) -> str:
    """What a kernel is to be built with, as kbuild reads it (``KCONFIG_ALLCONFIG``).

    Args:
        presets: of `PRESETS`; what one of them says goes before what stands above it.

    Raises:
        ProvisioningError: there is no such preset, or it is missing from this installation.
    """
    for name in presets:
        if name not in PRESETS:
            raise ProvisioningError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    parts = [vm_file(BASE), *(vm_file(f"presets/{name}.config") for name in dict.fromkeys(presets))]
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


def options(text: str) -> dict[str, str]:
    """Option → value in a .config or a fragment; one that is off has ``n``."""
    return dict.fromkeys(_UNSET.findall(text), "n") | dict(_SET.findall(text))


def lacking(wanted: Mapping[str, str], got: Mapping[str, str]) -> dict[str, str]:
    """Options that are wanted and that a kernel does not have → what was wanted.

    A module serves where it was to be built in, and the other way round, as far as it goes: both
    are there.  What was to be off and is on is no lack.
    """
    return {
        name: value
        for name, value in wanted.items()
        if value != "n"
        and (got.get(name) not in ("y", "m") if value in ("y", "m") else got.get(name) != value)
    }


def about(preset: str) -> str:
    """The option that a preset is about, its first: without that there is no point in it."""
    found = options(vm_file(f"presets/{preset}.config").read_text(encoding="utf-8"))
    return next(name for name, value in found.items() if value != "n")
