"""The uevents of a step, from the kernel's own netlink group, by two witnesses.

The kernel sends an event from within the call that causes it (kobject_uevent), and it waits in
the socket of the listener: a drain that does not block, right after the step, is exact.  Events
of disks, loop devices and of other subsystems are left out, as are properties that carry a number
of this one boot, or say again what the event says anyhow.

One witness is pyudev, that is libudev, whose word is taken.  The other reads a netlink socket of
its own and parses the kernel's bytes itself; pyroute2's socket for that would cost each guest half
a second of imports.  What they say of device-mapper must be the same events in the same order, or
nothing that they say counts (`WitnessesDisagree`).
"""

import socket
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import pyudev

from harness.errors import WitnessesDisagree
from harness.steps import UEvent

Event = tuple[str, dict[str, str]]
"""Action and properties."""

UNCOMPARED: Final = frozenset({
    "SEQNUM", "DEVPATH", "DEVNAME", "MAJOR", "MINOR", "SUBSYSTEM", "DEVTYPE", "ACTION",
    "DISKSEQ", "DM_COOKIE"})
_BUFFER_BYTES: Final = 8 << 20
_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1
_MESSAGE_BYTES: Final = 16 << 10
"""More than the kernel's buffer of an event (UEVENT_BUFFER_SIZE) with its head."""
_SO_RCVBUFFORCE: Final = 33


class EventSource(Protocol):
    """Where uevents come from."""

    def drain(self) -> list[Event]:
        """Every event since the last call."""

    def close(self) -> None:
        """Listen no more."""


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


def parse(message: bytes) -> Event | None:
    """An event as the kernel sends it: ``action@path`` and ``KEY=VALUE``, each ended by a zero.

    None for what is no such message.
    """
    head, *fields = message.decode("utf-8", "replace").rstrip("\0").split("\0")
    properties = dict(field.split("=", 1) for field in fields if "=" in field)
    action, found, path = head.partition("@")
    if not found or properties.get("ACTION") != action or properties.get("DEVPATH") != path:
        return None
    return action, properties


class NetlinkUEvents:
    """Listens to the kernel's uevents on a netlink socket.

    Raises:
        OSError: the kernel gives none.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, _KERNEL_GROUP))

    def drain(self) -> list[Event]:
        """Every event of a block device that has come since the last call.

        Raises:
            OSError: some were lost (ENOBUFS).
        """
        found: list[Event] = []
        while True:
            try:
                event = parse(self._socket.recv(_MESSAGE_BYTES))
            except BlockingIOError:
                return found
            if event is not None and event[1].get("SUBSYSTEM") == "block":
                found.append(event)


    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Witnesses:
    """Two sources of the same events, of which the first is taken at its word.

    Raises:
        WitnessesDisagree: they do not say the same of device-mapper (when they are drained).
    """

    def __init__(self, first: EventSource, second: EventSource) -> None:
        self._first = first
        self._second = second

    def drain(self) -> list[Event]:
        """Every event since the last call, as both have it."""
        ours: list[Event] = []
        theirs: list[Event] = []
        while True:
            # What comes between the two is in the next round of the one that was first.
            one, other = self._first.drain(), self._second.drain()
            ours += one
            theirs += other
            if _testimony(ours) == _testimony(theirs):
                return ours
            if not one and not other:
                raise WitnessesDisagree(
                    f"the uevents of a step: pyudev saw {_told(ours)}; netlink's own socket saw "
                    f"{_told(theirs)}")

    def close(self) -> None:
        """Dismiss both."""
        self._first.close()
        self._second.close()


def _testimony(events: Iterable[Event]) -> list[tuple[str, ...]]:
    """What must be the same: action, device, its name, the number of the event."""
    return [(action, device, properties.get("DM_NAME", "-"), properties.get("SEQNUM", "-"))
            for action, properties in events
            if (device := properties.get("DEVPATH", "").rpartition("/")[2]).startswith("dm-")]


def _told(events: Iterable[Event]) -> str:
    return "[" + ", ".join(" ".join(words) for words in _testimony(events)) + "]"


class PyudevUEvents:
    """Listens to the kernel's uevents through libudev."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._monitor.filter_by("block")
        self._monitor.set_receive_buffer_size(_BUFFER_BYTES)
        self._monitor.start()

    def drain(self) -> list[Event]:
        """Every event that has come since the last call."""
        found = []
        while (device := self._monitor.poll(timeout=0)) is not None:
            found.append((str(device.action), {str(key): str(value)
                                               for key, value in device.properties.items()}))
        return found


    def close(self) -> None:
        """Nothing to do: libudev's socket goes with the last reference to it."""


def kernel_uevents() -> EventSource:
    """The kernel's uevents, by both witnesses."""
    return Witnesses(PyudevUEvents(), NetlinkUEvents())
