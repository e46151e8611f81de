"""Which kernels were requested: names and patterns of the catalogue, and paths."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ProvisioningError
from harness.guest import built, catalogue, fallback
from harness.guest.build import kept
from harness.guest.build import modules as mixed
from harness.guest.catalogue import Entry, Kernel, Progress
from harness.guest.fetch import provision


def named_kernels(
    names: Sequence[str],
    modules: Path | None,
    guest: str | None = None,
    *,
    one: bool = False,
    progress: Progress,
) -> tuple[Entry | Kernel, ...]:
    """The kernels that a command line names; a catalogue entry for each that has one.

    Nothing is fetched; an impossible request is refused first.

    Args:
        names: of the catalogue, or paths; none for the default kernel.
        modules: of kernels given as a path; for others, what is to take the place of their own.
        guest: what is to boot them; by default what each is made for.
        one: only one is wanted.
        progress: told in one line each what happens.

    Raises:
        ProvisioningError: one of them does not exist, or this machine lacks what its guests need.
    """
    found: list[Entry | Kernel] = []
    known = [entry.name for entry in catalogue.entries()]
    wanted = [
        name
        for pattern in names or [catalogue.default()]
        for name in (_all(progress) if pattern == "all" else matching(known, pattern) or [pattern])
    ]
    for name in dict.fromkeys(wanted):
        if name in known:
            if modules is not None:
                mixed.found_in(modules)
            entry = catalogue.entry_of(name)
            if guest not in (None, entry.guest):
                raise ProvisioningError(
                    f"{name} needs guest {entry.guest}; leave out --guest {guest}"
                )
            found.append(entry)
        elif name in kept.names():
            found.append(_mixed(kept.get(name), modules))
        elif "/" in name or Path(name).exists():
            if modules is None:
                raise ProvisioningError(
                    f"--kernel {name} is a kernel you built; give its modules with --modules DIR"
                )
            found.append(built.custom(Path(name), modules, guest))
        else:
            catalogue.entry_of(name)  # which lists what there is
    if one and len(found) > 1:
        raise ProvisioningError(
            f"one kernel is needed, and {', '.join(names)} matches "
            f"{', '.join(each.name for each in found)}; give one of them"
        )
    if any(each.guest == catalogue.QEMU for each in found):
        from harness.guest import qemu

        qemu.check_installed()
    return tuple(found)


def chosen_kernels(
    names: Sequence[str],
    modules: Path | None,
    guest: str | None = None,
    *,
    one: bool = False,
    progress: Progress,
) -> tuple[Kernel, ...]:
    """The kernels that a command line names, on this machine; fetched if needed.

    The arguments are those of `named_kernels`.  If none is named and the default one does not
    boot here, the best one that does is used.

    Raises:
        ProvisioningError: one of them is not available.
    """
    found = named_kernels(names, modules, guest, one=one, progress=progress)
    catalogue.check_room([each for each in found if isinstance(each, Entry)])
    if not names and guest in (None, catalogue.UML) and modules is None:
        return (fallback.best(progress),)
    return tuple(
        each
        if isinstance(each, Kernel)
        else _mixed(provision.fetch(each.name, progress=progress), modules)
        for each in found
    )


def _mixed(kernel: Kernel, modules: Path | None) -> Kernel:
    """The kernel with modules of the user's in the place of its own, if there are any."""
    if modules is None:
        return kernel
    return mixed.with_modules(kernel, mixed.found_in(modules), str(modules))


def _all(progress: Progress) -> list[str]:
    """The kernels of the catalogue that this machine has the guests for."""
    from harness.guest import qemu

    there = [
        entry.name
        for entry in catalogue.entries()
        if entry.guest != catalogue.QEMU or qemu.installed()
    ]
    if len(there) < len(catalogue.entries()):
        progress("QEMU is not installed; its kernels are skipped (dmsnap doctor says what to type)")
    return there


def matching(known: Sequence[str], pattern: str) -> list[str]:
    """Catalogue kernels that match ``pattern``; a path matches none."""
    return [] if "/" in pattern else fnmatch.filter(known, pattern)
