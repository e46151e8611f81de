"""Removing mapped devices, whatever state a scenario left them in.

Devices that nobody uses go first, then those that they used, until nothing is left or nothing
more can be removed.  A suspended device that others use is resumed first, since its users may wait
for it while they are destroyed.  What still resists gets a table of errors, which releases every
device below and ends every waiting request; and since something (a kernel worker) may close a
device a little later, this waits up to a second.
"""

import contextlib
import time
from collections.abc import Iterable
from typing import Final

from harness.kernel.drivers.driver import UUID_PREFIX, Driver, Line

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.02


def _sweep(driver: Driver, names: list[str]) -> list[str]:
    """Remove what can be removed, round by round; returns what is left."""
    while True:
        left = []
        for name in names:
            try:
                driver.remove(name)
            except OSError:
                left.append(name)
        if not left or len(left) == len(names):
            return left
        names = left


def _wake(driver: Driver, names: Iterable[str]) -> None:
    """Resume suspended devices that others use, without tables that were not live yet."""
    for name, info in driver.survey(names).items():
        if info.suspended and info.open:
            with contextlib.suppress(OSError):
                driver.clear(name)
                driver.resume(name)


def _wipe(driver: Driver, name: str, length: int) -> None:
    """Give a device a table of errors."""
    with contextlib.suppress(OSError):
        driver.clear(name)
        driver.load(name, [Line(0, max(length, 1), "error", "")])
        driver.suspend(name, flush=False, lockfs=False)
        driver.resume(name)


def _length(table: str | None) -> int:
    last = (table or "").split("\n")[-1].split()
    return int(last[0]) + int(last[1]) if len(last) > 1 else 0


def remove_all(driver: Driver, names: Iterable[str]) -> list[str]:
    """Remove the devices ``names``, youngest first; returns each one left, with a reason.

    Only devices with the harness's own UUID are touched.
    """
    ours = driver.survey(names)
    left = [name for name, info in reversed(ours.items()) if info.uuid.startswith(UUID_PREFIX)]
    if not left:
        return []
    _wake(driver, left)
    left = _sweep(driver, left)
    if left:
        for name, info in driver.survey(left).items():
            _wipe(driver, name, _length(info.table))
        deadline = time.monotonic() + _PATIENCE_S
        while (left := _sweep(driver, left)) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
    infos = driver.survey(left)
    return [f"{name} (open {info.open}, table {info.table})" for name, info in infos.items()]
