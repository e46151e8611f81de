"""A link that can be taken down: two network namespaces, joined by a pair of veth devices.

The near end is that of the kernel's nbd driver, whose socket is made there; the far end is that of
the process that serves the disk.  Both namespaces belong to that process alone and end with it, so
nothing of the machine's own network is touched, or seen.

Down means ``ip link set down`` on the near end.  What is sent from there finds no route, what is
sent towards it is dropped, and TCP keeps both until the link is up again.  So that an outage costs
only milliseconds, TCP's timer starts at 10 ms on this link (200 by default), every segment is
acknowledged at once, unsent data is pushed when the link comes up, and neither end has to ask for
the other's address (a lost query is repeated only after a second).

The order to take the link down is not proof that it is down: rtnetlink must say so of the near end,
the far end must have lost its carrier, and an answer that was sent must stay unacknowledged
(`harness.kernel.disks.nbd_server`).
"""

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from harness.errors import ProvisioningError, Unsupported
from harness.kernel.disks.nbd import DeadConnections

_CLONE_NEWNET: Final = 0x40000000
_NEAR, _FAR, _PORT = "10.0.0.1", "10.0.0.2", 10809
_NETWORK, _PREFIX_BITS = "10.0.0.0/30", 30
_NEAR_MAC, _FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
"""Arbitrary; otherwise the kernel waits for random numbers."""
_NEAR_INDEX, _FAR_INDEX = 2, 3
"""Not the same: the kernel would take its time (a second) to see the carrier change, as it does
where a device is nobody's peer (net/core/link_watch.c, ``linkwatch_urgent_event``)."""
_IFF_UP: Final = 1
_RTAX_RTO_MIN: Final = 13
_METRICS: Final = {"lock": 1 << _RTAX_RTO_MIN, "rto_min": 10, "quickack": 1}
_NUD_PERMANENT: Final = 0x80
_ROUTE_SCOPE_LINK, _ROUTE_PROTO_KERNEL = 253, 2
_NBD_CLEAR_SOCK: Final = 0xAB04
_COUNT: Final = struct.Struct("=i")
_POLL_S: Final = 0.001
_LIMIT_S: Final = 5.0

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(failed: int) -> None:
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def _netlink() -> Iterator[None]:
    """Refusals of rtnetlink are OSErrors, as everywhere else."""
    try:
        yield
    except NetlinkError as fault:
        raise OSError(fault.code, f"rtnetlink: {fault}") from None


def _new_namespace() -> int:
    """Enter a new network namespace; returns its descriptor."""
    _check(_libc.unshare(_CLONE_NEWNET))
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Link:
    """A link and the connections over it; a `harness.kernel.disks.nbd_server.Wire`.

    Args:
        dead: created in the namespace of the kernel's nbd driver, which this process leaves.

    Raises:
        Unsupported: this kernel has no network namespaces, or no veth devices.
        OSError: the kernel refuses something else.
    """

    def __init__(self, dead: DeadConnections) -> None:
        self._dead = dead
        try:
            self._near_namespace = _new_namespace()
            self._near = IPRoute()
            self._far_namespace = _new_namespace()
            self._far = IPRoute()
        except OSError as fault:
            raise Unsupported(
                f"this kernel gives out no network namespace ({fault.strerror}): a "
                "disk that is linked needs CONFIG_NET_NS"
            ) from None
        try:
            self._far.link(
                "add",
                ifname="far",
                index=_FAR_INDEX,
                kind="veth",
                address=_FAR_MAC,
                peer={
                    "ifname": "near",
                    "index": _NEAR_INDEX,
                    "address": _NEAR_MAC,
                    "net_ns_fd": self._near_namespace,
                },
            )
        except NetlinkError as fault:
            raise Unsupported(
                f"this kernel makes no pair of network devices ({fault}): a disk "
                "that is linked needs module veth"
            ) from None
        self._client: socket.socket | None = None
        with _netlink():
            self._near.addr("add", index=_NEAR_INDEX, address=_NEAR, prefixlen=_PREFIX_BITS)
            self._far.addr("add", index=_FAR_INDEX, address=_FAR, prefixlen=_PREFIX_BITS)
            self._far.link("set", index=_FAR_INDEX, state="up")
            self.up()
            self._lead(self._far, _FAR_INDEX, _FAR, _NEAR, _NEAR_MAC)
        self._listener = socket.create_server((_FAR, _PORT))

    @staticmethod
    def _lead(end: IPRoute, index: int, source: str, other: str, mac: str) -> None:
        """Give the route that came with an address its metrics, and say where the other end is."""
        end.neigh("replace", ifindex=index, dst=other, lladdr=mac, state=_NUD_PERMANENT)
        end.route(
            "replace",
            dst=_NETWORK,
            oif=index,
            prefsrc=source,
            scope=_ROUTE_SCOPE_LINK,
            proto=_ROUTE_PROTO_KERNEL,
            metrics=_METRICS,
        )

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A connection: the socket of the kernel's end, and ours.

        Raises:
            OSError: it cannot be made.
        """
        # A socket stays in the namespace in which it was created.
        _check(_libc.setns(self._near_namespace, _CLONE_NEWNET))
        try:
            client = socket.socket()
        finally:
            _check(_libc.setns(self._far_namespace, _CLONE_NEWNET))
        client.settimeout(_LIMIT_S)
        client.connect((_FAR, _PORT))
        client.settimeout(None)
        server, _ = self._listener.accept()
        for end in (client, server):
            _push(end)
        if self._client is not None:
            self._client.close()
        self._client = client
        return client, server

    def down(self) -> None:
        """Take the link down.

        Raises:
            ProvisioningError: it is still up.
            OSError: the kernel refuses it.
        """
        with _netlink():
            self._near.link("set", index=_NEAR_INDEX, state="down")
            [near] = self._near.get_links(_NEAR_INDEX)
            [far] = self._far.get_links(_FAR_INDEX)
        operstate, carrier = near.get_attr("IFLA_OPERSTATE"), far.get_attr("IFLA_CARRIER")
        if near["flags"] & _IFF_UP or operstate != "DOWN" or carrier:
            raise ProvisioningError(
                "the link was taken down, but rtnetlink does not say so: its near end is "
                f"{operstate} with flags {near['flags']:#x}, its far end has carrier {carrier}"
            )

    def up(self) -> None:
        """Bring the link up; what waits to be sent from the near end is sent.

        Raises:
            ProvisioningError: it stays down.
            OSError: the kernel refuses it.
        """
        with _netlink():
            self._near.link("set", index=_NEAR_INDEX, state="up")
            self._lead(self._near, _NEAR_INDEX, _NEAR, _FAR, _FAR_MAC)
            self._wait(
                lambda: (
                    {
                        link.get_attr("IFLA_OPERSTATE")
                        for link in (
                            *self._near.get_links(_NEAR_INDEX),
                            *self._far.get_links(_FAR_INDEX),
                        )
                    }
                    == {"UP"}
                ),
                "the link was brought up, but rtnetlink does not say so",
            )
        if self._client is not None:
            with contextlib.suppress(OSError):  # the device may be disconnected
                _push(self._client)

    def stuck(self, server: socket.socket) -> int:
        """Bytes that were sent and have not arrived, as far as the kernel knows (SIOCOUTQ)."""
        return int(_COUNT.unpack(fcntl.ioctl(server, termios.TIOCOUTQ, bytes(_COUNT.size)))[0])

    def deliver(self, server: socket.socket, rest: bytes) -> None:
        """Send some more over a link that is up, and wait until all that was sent has arrived.

        Raises:
            ProvisioningError: it does not arrive.
        """
        _push(server)
        server.sendall(rest)
        self._wait(lambda: not self.stuck(server), "the link is up, but an answer has not arrived")

    @staticmethod
    def _wait(happened: Callable[[], bool], otherwise: str) -> None:
        """Poll for something that is not signalled."""
        end = time.monotonic() + _LIMIT_S
        while not happened():
            if time.monotonic() > end:
                raise ProvisioningError(f"{otherwise} within {_LIMIT_S:.0f} s")
            select.select((), (), (), _POLL_S)

    def give_up(self, number: int) -> None:
        """End the connection of an nbd device, and all requests that it has.

        This happens at the kernel's end, where it does not matter that the link is down.  Waiting
        until the connection is known to be dead keeps it from taking the next one with it.

        Raises:
            OSError: the device cannot be told.
            ProvisioningError: the driver does not notice.
        """
        assert self._client is not None
        self._dead.forget()
        self._client.shutdown(socket.SHUT_RDWR)
        device = os.open(f"/dev/nbd{number}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._dead.wait_for(number)
        finally:
            # Whatever went wrong here, whoever still waits for an answer gets one.
            fcntl.ioctl(device, _NBD_CLEAR_SOCK)
            os.close(device)


def _push(end: socket.socket) -> None:
    """Send small segments at once, from now on and those that wait (``tcp_sock_set_nodelay``)."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
