"""The uevents of a step, from the kernel's own netlink group, through pyudev.

The kernel sends an event from within the call that causes it (kobject_uevent), and it waits in
the socket of the listener: a drain that does not block, right after the step, is exact.  Events
of disks, loop devices and of other subsystems are left out, as are properties that carry a number
of this one boot, or say again what the event says anyhow.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import pyudev

from harness.steps import UEvent

UNCOMPARED: Final = frozenset({
    "SEQNUM", "DEVPATH", "DEVNAME", "MAJOR", "MINOR", "SUBSYSTEM", "DEVTYPE", "ACTION",
    "DISKSEQ", "DM_COOKIE"})
_BUFFER_BYTES: Final = 8 << 20



def select(events: Iterable[tuple[str, Mapping[str, str]]],
           mapped: Mapping[str, str]) -> tuple[UEvent, ...]:
    """The events of mapped devices; ``mapped`` is ``major:minor`` → name."""
    chosen = []
    for action, properties in events:
        number = f"{properties.get('MAJOR')}:{properties.get('MINOR')}"
        if properties.get("SUBSYSTEM") == "block" and number in mapped:
            chosen.append(UEvent(action, mapped[number], {
                key: properties[key] for key in sorted(properties) if key not in UNCOMPARED}))
    return tuple(chosen)


def numbered(events: Iterable[tuple[str, Mapping[str, str]]], leave_out: Iterable[str]
             ) -> tuple[UEvent, ...]:
    """The events of all mapped devices except some, with ``major:minor`` for a name.

    Where many commands ran since the last drain, one number may have been that of several devices.
    """
    found = list(events)
    numbers = {f"{properties.get('MAJOR')}:{properties.get('MINOR')}" for _, properties in found
               if properties.get("DEVNAME", "").removeprefix("/dev/").startswith("dm-")}
    return select(found, {number: number for number in numbers.difference(leave_out)})


class UEvents:
    """Listens to the kernel's uevents."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._monitor.filter_by("block")
        self._monitor.set_receive_buffer_size(_BUFFER_BYTES)
        self._monitor.start()

    def drain(self) -> list[tuple[str, dict[str, str]]]:
        """Every event that has come since the last call."""
        found = []
        while (device := self._monitor.poll(timeout=0)) is not None:
            found.append((str(device.action), {str(key): str(value)
                                               for key, value in device.properties.items()}))
        return found
