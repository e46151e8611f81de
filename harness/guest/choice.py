"""Which kernels were asked for: names and patterns of the catalogue, and paths."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ProvisioningError
from harness.guest import built, catalogue
from harness.guest.catalogue import Kernel, Progress
from harness.guest.fetch import provision


def chosen_kernels(names: Sequence[str], modules: Path | None, guest: str | None = None, *,
                   progress: Progress) -> tuple[Kernel, ...]:
    """The kernels that a command line names; those of the catalogue are fetched if need be.

    Args:
        names: of the catalogue, or paths.
        modules: of kernels given as a path.
        guest: what is to boot them; by default what each is made for.
        progress: told in one line each what happens.

    Raises:
        ProvisioningError: one of them cannot be had.
    """
    found = []
    known = [entry.name for entry in catalogue.entries()]
    wanted = [name for pattern in names or [catalogue.default()]
              for name in (_all(progress) if pattern == "all" else
                           matching(known, pattern) or [pattern])]
    for name in dict.fromkeys(wanted):
        if name in known:
            if modules is not None:
                raise ProvisioningError(f"--modules belongs to a kernel given as a path, and "
                                        f"{name} is one of the catalogue: leave it out")
            entry = catalogue.entry_of(name)
            if guest not in (None, entry.guest):
                raise ProvisioningError(f"{name} is a kernel for guest {entry.guest}: leave "
                                        f"--guest {guest} out")
            found.append(provision.fetch(name, progress=progress))
        elif "/" in name or Path(name).exists():
            if modules is None:
                raise ProvisioningError(f"--kernel {name} is a program of your own: say where its "
                                        "modules are, with --modules DIR")
            found.append(built.custom(Path(name), modules, guest))
        else:
            catalogue.entry_of(name)  # which says what there is
    return tuple(found)


def _all(progress: Progress) -> list[str]:
    """The kernels of the catalogue that this machine has the guests for."""
    from harness.guest import qemu

    there = [entry.name for entry in catalogue.entries()
             if entry.guest != catalogue.QEMU or qemu.installed()]
    if len(there) < len(catalogue.entries()):
        progress("QEMU is not installed, so its kernels are left out (dmsnap doctor says what to "
                 "type)")
    return there


def matching(known: Sequence[str], pattern: str) -> list[str]:
    """Kernels of the catalogue that ``pattern`` names; a path names none."""
    return [] if "/" in pattern else fnmatch.filter(known, pattern)
