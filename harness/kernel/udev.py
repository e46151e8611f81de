"""Machines in which udev runs: it opens each new block device, to look what is on it.

User-mode Linux and QEMU guests have none; a Vagrant machine, or one that somebody else made, has.
"""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

_CONTROL: Final = Path("/run/udev/control")
_LIMIT_S: Final = 20.0


def runs() -> bool:
    """Whether udev runs here."""
    return _CONTROL.exists()


def settle() -> None:
    """Wait until udev has looked at everything; at once where it does not run."""
    if runs():
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["udevadm", "settle"], timeout=_LIMIT_S, check=False)
