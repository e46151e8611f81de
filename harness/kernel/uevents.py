"""The uevents of a step, from the kernel's own netlink group, as seen by two witnesses.

The kernel sends an event from within the call that causes it (kobject_uevent), and it waits in
the listener's socket: a non-blocking drain right after the step is exact.  Events of disks, loop
devices and other subsystems are left out, as are properties with a number that is specific to this
boot, or that repeat what the event says anyway.

One witness is pyudev, that is libudev, whose word is taken.  The other reads its own netlink socket
and parses the kernel's bytes itself; pyroute2's socket for that would cost each guest half a second
of imports.  Both must report the same device-mapper events in the same order, or nothing that they
say counts (`WitnessesDisagree`).

Where udevd runs, it is a third witness: it must pass on every device-mapper event of the kernel to
its listeners (`Retold`).  It does so late, so this is settled when a scenario ends, not step by
step.
"""

import socket
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import pyudev

from harness.errors import WitnessesDisagree
from harness.kernel import udev
from harness.trace.observations import UEvent

Event = tuple[str, dict[str, str]]
"""Action and properties."""

UNCOMPARED: Final = frozenset(
    {
        "SEQNUM",
        "DEVPATH",
        "DEVNAME",
        "MAJOR",
        "MINOR",
        "SUBSYSTEM",
        "DEVTYPE",
        "ACTION",
        "DISKSEQ",
        "DM_COOKIE",
    }
)
_BUFFER_BYTES: Final = 8 << 20
_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1
_MESSAGE_BYTES: Final = 16 << 10
"""More than the kernel's buffer of an event (UEVENT_BUFFER_SIZE) with its head."""
_SO_RCVBUFFORCE: Final = 33
_LAST_NUMBER: Final = Path("/sys/kernel/uevent_seqnum")


class EventSource(Protocol):
    """Where uevents come from."""

    def drain(self) -> list[Event]:
        """Every event since the last call."""

    def close(self) -> None:
        """Stop listening."""


class Listener(EventSource, Protocol):
    """Where the uevents of scenarios come from."""

    def finish(self, names: Mapping[str, Collection[str]]) -> None:
        """A scenario is over, and its devices are gone.

        Args:
            names: for each ``major:minor``, all names it had in the scenario.

        Raises:
            WitnessesDisagree: an event that was due did not arrive.
        """


def select(
    events: Iterable[tuple[str, Mapping[str, str]]], mapped: Mapping[str, str]
) -> tuple[UEvent, ...]:
    """The events of mapped devices; ``mapped`` is ``major:minor`` → name."""
    chosen = []
    for action, properties in events:
        number = f"{properties.get('MAJOR')}:{properties.get('MINOR')}"
        if properties.get("SUBSYSTEM") == "block" and number in mapped:
            chosen.append(
                UEvent(
                    action,
                    mapped[number],
                    {key: properties[key] for key in sorted(properties) if key not in UNCOMPARED},
                )
            )
    return tuple(chosen)


def numbered(
    events: Iterable[tuple[str, Mapping[str, str]]], leave_out: Iterable[str]
) -> tuple[UEvent, ...]:
    """The events of all mapped devices except some, with ``major:minor`` as the name.

    If many commands ran since the last drain, one number may have belonged to several devices.
    """
    found = list(events)
    numbers = {
        f"{properties.get('MAJOR')}:{properties.get('MINOR')}"
        for _, properties in found
        if properties.get("DEVNAME", "").removeprefix("/dev/").startswith("dm-")
    }
    return select(found, {number: number for number in numbers.difference(leave_out)})


def parse(message: bytes) -> Event | None:
    """An event as the kernel sends it: ``action@path`` and ``KEY=VALUE``, each ended by a zero.

    None if it is not such a message.
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
        OSError: the kernel refuses the socket.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, _KERNEL_GROUP))

    def drain(self) -> list[Event]:
        """Every event of a block device that has arrived since the last call.

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
    """Two sources of the same events; the first one's word is taken.

    Raises:
        WitnessesDisagree: they differ about device-mapper (when they are drained).
    """

    def __init__(self, first: EventSource, second: EventSource) -> None:
        self._first = first
        self._second = second

    def finish(self, names: Mapping[str, Collection[str]]) -> None:
        """Nothing to do: the kernel's events arrive at once."""

    def drain(self) -> list[Event]:
        """Every event since the last call, as both report it."""
        ours: list[Event] = []
        theirs: list[Event] = []
        while True:
            # What arrives between the two drains is in the next round of the one drained first.
            one, other = self._first.drain(), self._second.drain()
            ours += one
            theirs += other
            if _testimony(ours) == _testimony(theirs):
                return ours
            if not one and not other:
                raise WitnessesDisagree(
                    f"the uevents of a step: pyudev saw {_told(_testimony(ours))}; netlink's own "
                    f"socket saw {_told(_testimony(theirs))}"
                )

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._second.close()


_UNNAMED: Final = "-"


class Testimony(NamedTuple):
    """What must agree: action, device, its name, the number of the event."""

    action: str
    device: str
    name: str
    number: str

    def retold(self, other: "Testimony") -> bool:
        """Whether ``other`` is this event, passed on by udevd.

        The kernel mostly leaves out the name; udevd looks for it, and may not find it any more.
        """
        return other == (self if self.name != _UNNAMED else self._replace(name=other.name))


def _testimony(events: Iterable[Event]) -> list[Testimony]:
    return [
        Testimony(
            action, device, properties.get("DM_NAME", _UNNAMED), properties.get("SEQNUM", "-")
        )
        for action, properties in events
        if (device := properties.get("DEVPATH", "").rpartition("/")[2]).startswith("dm-")
    ]


def _told(said: Iterable[Testimony]) -> str:
    return "[" + ", ".join(" ".join(words) for words in said) + "]"


class Retold:
    """The kernel's uevents; udevd passes on each one of device-mapper, once.

    udevd multicasts an event when its rules have run, whether they failed or not, and whether the
    device still exists or not.  The order is the kernel's for each device, not across
    devices.

    Args:
        kernel: whose word is taken.
        udevd: its events.
        settle: waits until udevd has passed on everything.
        number: that of the last event so far.

    Raises:
        WitnessesDisagree: udevd says something else (when it is drained, or at the end).
    """

    def __init__(
        self,
        kernel: Listener,
        udevd: EventSource,
        settle: Callable[[], None],
        number: Callable[[], int],
    ) -> None:
        self._kernel = kernel
        self._udevd = udevd
        self._settle = settle
        self._number = number
        self._outstanding: defaultdict[str, deque[Testimony]] = defaultdict(deque)
        self._named: dict[tuple[str, str], Testimony] = {}
        # Some may have heard what came before all of them were listening.
        self._since = number()

    def drain(self) -> list[Event]:
        """Every event since the last call, as the kernel sent it."""
        # udevd first: what it passes on, the kernel has sent before.
        retold = self._udevd.drain()
        events = self._kernel.drain()
        for said in self._new(events):
            self._outstanding[said.device].append(said)
        for said in self._new(retold):
            due = self._outstanding[said.device]
            if not due or not due[0].retold(said):
                raise WitnessesDisagree(
                    f"the uevents of a scenario: udevd told {_told([said])}; what the kernel had "
                    f"told of {said.device}, and udevd not yet, is {_told(due)}"
                )
            due.popleft()
            self._named.setdefault((said.device, said.name), said)
        return events

    def _new(self, events: Iterable[Event]) -> list[Testimony]:
        return [said for said in _testimony(events) if int(said.number) > self._since]

    def finish(self, names: Mapping[str, Collection[str]]) -> None:
        """Check that udevd has passed on everything, and gave each device one of its names."""
        try:
            self.drain()
            if any(self._outstanding.values()):
                self._settle()
                self.drain()
            missing = [said for due in self._outstanding.values() for said in due]
            if missing:
                raise WitnessesDisagree(
                    f"the uevents of a scenario: udevd did not tell "
                    f"{_told(missing)} after the kernel"
                )
            borne = {f"dm-{number.partition(':')[2]}": names[number] for number in names}
            for (device, name), said in self._named.items():
                if name != _UNNAMED and name not in borne.get(device, [name]):
                    raise WitnessesDisagree(
                        f"the uevents of a scenario: udevd told {_told([said])}; {device} was "
                        f"called {', '.join(sorted(borne[device]))}"
                    )
        finally:
            # The next scenario is not to blame for what arrives too late.
            self._since = self._number()
            self._outstanding.clear()
            self._named.clear()

    def close(self) -> None:
        """Close all."""
        self._kernel.close()
        self._udevd.close()


class PyudevUEvents:
    """Listens to uevents through libudev: the kernel's, or those that udevd passes on."""

    def __init__(self, source: Literal["kernel", "udev"]) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
        self._monitor.filter_by("block")
        self._monitor.set_receive_buffer_size(_BUFFER_BYTES)
        self._monitor.start()

    def drain(self) -> list[Event]:
        """Every event that has arrived since the last call."""
        found = []
        while (device := self._monitor.poll(timeout=0)) is not None:
            found.append(
                (
                    str(device.action),
                    {str(key): str(value) for key, value in device.properties.items()},
                )
            )
        return found

    def close(self) -> None:
        """Nothing to do: libudev's socket goes with the last reference to it."""


def kernel_uevents() -> Listener:
    """The kernel's uevents, by both witnesses, and by udevd where it runs."""
    kernel = Witnesses(PyudevUEvents("kernel"), NetlinkUEvents())
    if not udev.runs():
        return kernel
    return Retold(kernel, PyudevUEvents("udev"), udev.settle, lambda: int(_LAST_NUMBER.read_text()))
