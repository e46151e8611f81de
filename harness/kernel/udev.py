"""Machines in which udev runs: it opens each new block device to see what is on it.

User-mode Linux and QEMU guests have no udev; a Vagrant machine, or one that somebody else made,
does.

It also keeps links in /dev/mapper, and removes them when it has processed the event of a removal or
rename.  That is late, and a node of ours that has the name by then is removed too.  So udev is told
to leave our mapped devices alone: it only receives their events and passes them on.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from harness.kernel.drivers.driver import UUID_PREFIX

_CONTROL: Final = Path("/run/udev/control")
_RULES: Final = Path("/run/udev/rules.d/55-dmsnap.rules")
"""Right after device-mapper's rules (55-dm.rules), which find name and UUID."""
_RULE: Final = (
    f'SUBSYSTEM=="block", KERNEL=="dm-*", ENV{{DM_UUID}}=="{UUID_PREFIX}*", SYMLINK="", '
    'ENV{DM_UDEV_DISABLE_DISK_RULES_FLAG}="1", ENV{DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG}="1", '
    'ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}="1"\n'
)
_LIMIT_S: Final = 60.0


def runs() -> bool:
    """Whether udev runs here."""
    return _CONTROL.exists()


def settle() -> None:
    """Wait until udev has looked at everything; returns at once if it does not run."""
    _udevadm("settle")


@contextmanager
def kept_away() -> Iterator[None]:
    """Stop udev from linking or reading our mapped devices; it still passes on their events."""
    if not runs():
        yield
        return
    _RULES.parent.mkdir(exist_ok=True)
    _RULES.write_text(_RULE)
    try:
        _udevadm("control", "--reload")
        yield
    finally:
        _RULES.unlink(missing_ok=True)
        _udevadm("control", "--reload")


def _udevadm(*arguments: str) -> None:
    if runs():
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["udevadm", *arguments], timeout=_LIMIT_S, check=False)
