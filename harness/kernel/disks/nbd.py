"""Network block devices by generic netlink: connect one to a socket, disconnect it again.

The kernel's family ``nbd`` (include/uapi/linux/nbd-netlink.h) replaces a series of ioctls, the last
of which would block for the life of the device.  pyroute2 knows netlink, not this family, so its
message is defined here.  It is imported with the first disk that needs it, because its import takes
a guest two seconds.

The kernel chooses any free device, so a device that is in use is never taken.
"""

import select
import socket
import struct
import time
from pathlib import Path
from typing import Final

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from harness.errors import ProvisioningError, Unsupported
from harness.trace.steps import REQUEST_SECTORS_MAX
from harness.units import SECTOR_BYTES, bytes_of_sectors

FAMILY: Final = "nbd"
_VERSION: Final = 1
_CONNECT: Final = 1
_DISCONNECT: Final = 2
_RECONFIGURE: Final = 3
_LINK_DEAD: Final = 4
_GROUP: Final = "nbd_mc_group"
_NETLINK_GENERIC: Final = 16
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NOTICE: Final = struct.Struct("=16xB3xHHI")
"""struct nlmsghdr, the command of struct genlmsghdr, one attribute: length, type, the number."""
_NBD_ATTR_INDEX: Final = 1
_NOTICE_LIMIT_S: Final = 5.0
_QUEUE: Final = {
    "scheduler": "none",
    "nomerges": "2",
    "max_sectors_kb": str(bytes_of_sectors(REQUEST_SECTORS_MAX) >> 10),
}
"""So that requests arrive one per bio, uncut and in the order in which they were sent."""
_THROTTLE: Final = "wbt_lat_usec"
"""Where a queue limits the writes in flight (blk-wbt.c): a task that has to wait sends what it has
gathered, so the order would depend on the speed of the disk.  0 for no limit."""


class NbdMessage(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    """A command of the family and its attributes (``nbd_attr_policy``)."""

    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
    )

    class sockets(nla):  # type: ignore[misc] # noqa: N801 -- named in nla_map
        """List of sockets (``nbd_attr_policy``, nested)."""

        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc] # noqa: N801 -- named in nla_map
            """One socket (``nbd_sock_policy``)."""

            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


class NbdControl:
    """The netlink family.

    Raises:
        Unsupported: the kernel has no such family.
    """

    def __init__(self) -> None:
        self._netlink = GenericNetlinkSocket()
        try:
            self._netlink.bind(FAMILY, NbdMessage)
        except (NetlinkError, OSError) as fault:
            self._netlink.close()
            raise Unsupported(
                f"the kernel's netlink has no family {FAMILY} ({fault}): a disk that can fail "
                "needs module nbd"
            ) from None

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def dead_connections(self) -> "DeadConnections":
        """Listen to what the driver says about connections."""
        return DeadConnections(self._netlink.mcast_groups[_GROUP])

    def _ask(self, command: int, *attributes: tuple[str, object]) -> list[NbdMessage]:
        """Run one command; returns its answers.

        Raises:
            OSError: the kernel refuses it.
        """
        message = NbdMessage()
        message["cmd"] = command
        message["version"] = _VERSION
        message["attrs"] = list(attributes)
        try:
            return list(
                self._netlink.nlm_request(
                    message, msg_type=self._netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK
                )
            )
        except NetlinkError as fault:
            raise OSError(fault.code, f"nbd: {fault}") from None

    def connect(self, fd: int, sectors: int, flags: int) -> int:
        """Make a block device of what answers on socket ``fd``; returns its number.

        Raises:
            OSError: the kernel refuses it.
            ProvisioningError: its queue cannot be set up as required.
        """
        [answer] = self._ask(
            _CONNECT,
            ("NBD_ATTR_SIZE_BYTES", bytes_of_sectors(sectors)),
            ("NBD_ATTR_BLOCK_SIZE_BYTES", SECTOR_BYTES),
            ("NBD_ATTR_SERVER_FLAGS", flags),
            _socket_of(fd),
        )
        number = int(answer.get_attr("NBD_ATTR_INDEX"))
        try:
            queue = Path(f"/sys/block/nbd{number}/queue")
            for name, value in _QUEUE.items():
                (queue / name).write_text(value)
            if (queue / _THROTTLE).exists():
                (queue / _THROTTLE).write_text("0")
        except OSError as fault:
            self.disconnect(number)
            raise ProvisioningError(f"the queue of nbd{number} cannot be set up: {fault}") from None
        return number

    def reconnect(self, number: int, fd: int) -> None:
        """Give a new connection to a device whose connection is dead.

        Raises:
            OSError: the kernel refuses it.
        """
        self._ask(_RECONFIGURE, ("NBD_ATTR_INDEX", number), _socket_of(fd))

    def disconnect(self, number: int) -> None:
        """Release the socket; the device stays, without a size, for the next connection.

        Raises:
            OSError: the kernel refuses it.
        """
        self._ask(_DISCONNECT, ("NBD_ATTR_INDEX", number))


def _socket_of(fd: int) -> tuple[str, object]:
    return "NBD_ATTR_SOCKETS", {"attrs": [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", fd)]})]}


class DeadConnections:
    """The driver's own notice that a connection is dead (``nbd_mcast_index``)."""

    def __init__(self, group: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_GENERIC
        )
        # A socket without a port receives nothing: it is taken for the kernel's own.
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def forget(self) -> None:
        """Drop what has arrived so far."""
        while self._next(0) is not None:
            pass

    def _next(self, limit_s: float) -> bytes | None:
        return (
            self._socket.recv(1 << 12)
            if select.select((self._socket,), (), (), max(0, limit_s))[0]
            else None
        )

    def wait_for(self, number: int) -> None:
        """Wait until the connection of a device is dead.

        Raises:
            ProvisioningError: it stays alive.
        """
        end = time.monotonic() + _NOTICE_LIMIT_S
        while (notice := self._next(end - time.monotonic())) is not None:
            if len(notice) >= _NOTICE.size:
                command, _, attribute, of = _NOTICE.unpack_from(notice)
                if (command, attribute, of) == (_LINK_DEAD, _NBD_ATTR_INDEX, number):
                    return
        raise ProvisioningError(
            f"the connection of nbd{number} was ended, but the driver did not "
            f"notice within {_NOTICE_LIMIT_S:.0f} s"
        )
