"""Which kernel runs if none is named: the default one, or the best that boots here.

A named kernel is never replaced by another.
"""

import sys
from dataclasses import replace
from pathlib import Path

from harness.errors import CannotBoot, ProvisioningError
from harness.guest import catalogue, qemu
from harness.guest.catalogue import UML, Entry, Kernel, Progress
from harness.guest.fetch import provision
from harness.guest.supervise import launcher_of


def prove(kernel: Kernel, *, fresh: bool = False, progress: Progress = lambda _line: None) -> str:
    """Check that a kernel boots here; returns the result in words.

    Args:
        kernel: of either kind of guest.
        fresh: boot even if it is already proven.
        progress: called with a line for each thing that happens.

    Raises:
        CannotBoot: it does not boot; why, in one line.
        ProvisioningError: no guest of that kind can be started here; cause and cure.
    """
    launcher = launcher_of(kernel, python=Path(sys.executable))
    return launcher.prove(fresh=fresh, progress=progress)


def best(progress: Progress = lambda _line: None) -> Kernel:
    """The default kernel if it boots here, else the best one that does; fetched if needed.

    Args:
        progress: called with a line for each thing that happens.

    Raises:
        CannotBoot: no kernel boots.
        ProvisioningError: the default kernel cannot be fetched.
    """
    kernel = provision.fetch(catalogue.default(), progress=_named(catalogue.default(), progress))
    try:
        prove(kernel, progress=progress)
    except ProvisioningError as fault:
        return _another(fault, progress)
    return kernel


def _another(why: ProvisioningError, progress: Progress) -> Kernel:
    progress(f"{why}")
    refused = [str(why)]
    for entry in _others():
        try:
            kernel = provision.fetch(entry.name, progress=_named(entry.name, progress))
            prove(kernel, progress=progress)
        except ProvisioningError as fault:
            progress(f"{entry.name} cannot replace it: {fault}")
            refused.append(str(fault))
            continue
        progress(f"{entry.name} is used in place of {catalogue.default()}")
        return replace(kernel, instead=f"in place of {catalogue.default()}: {why}")
    raise CannotBoot(f"no kernel boots on this machine. {'. '.join(refused)}")


def _named(name: str, progress: Progress) -> Progress:
    return lambda line: progress(f"{name}: {line}")


def _others() -> list[Entry]:
    """What can stand in for the default, best first.

    User-mode Linux before QEMU, which is slow; cached before not yet fetched; a released suite
    before a moving one; newer before older.
    """
    cached = {kernel.name for kernel in catalogue.installed()}
    newest_first = reversed(
        [
            entry
            for entry in catalogue.entries()
            if entry.name != catalogue.default() and (entry.guest == UML or qemu.installed())
        ]
    )
    return sorted(
        newest_first,
        key=lambda entry: (entry.guest != UML, entry.name not in cached, not entry.stable),
    )
