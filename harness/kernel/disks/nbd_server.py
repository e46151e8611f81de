"""A disk that can fail: memory served to the kernel's nbd driver by a process of our own.

Only the transmission phase of the NBD protocol: requests arrive on a socket, one after the other,
and each is answered before the next is read.  So the order of the log is the order in which
the kernel sent them, and a request that is to fail (`harness.trace.faults`) fails as if the medium
had refused it: nothing is read or written, and the driver ends it with EIO, whatever the answer
says (drivers/block/nbd.c, ``nbd_handle_reply``).

A disk behind a link (`Wire`) can also stop.  If it stalls, the link goes down before the answer is
sent, so the answer is lost, again and again, until the link is up.  If it dies, the link goes down
and stays down, and the connection is given up, as after a timeout; healing it means bringing the
link up and reconnecting.

A process, not a thread: Python's ``fcntl.ioctl`` with a buffer of more than 1024 bytes keeps the
interpreter lock, and device-mapper's ioctls do I/O; they would wait for a thread that waits for
them.  The process is a fork of this one, which costs milliseconds, and ends with it, since its end
of a socket pair is then closed.  Faults and requests for its log reach it over that pair.

The memory is a memfd shared by both processes: when the harness looks at it, that is not a request
and meets no fault.
"""

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol

import msgspec

from harness.errors import DmsnapError, ProvisioningError, Unsupported
from harness.trace.faults import OUTAGE_MS, FaultPlan, How, Op, request_line
from harness.units import bytes_of_sectors, sectors_of_bytes

FLAGS: Final = 1 | 4 | 8 | 32
"""NBD_FLAG_HAS_FLAGS, _SEND_FLUSH, _SEND_FUA, _SEND_TRIM."""
_REQUEST: Final = struct.Struct(">IHHQQI")
"""struct nbd_request: magic, flags, type, cookie, from, len."""
_REPLY: Final = struct.Struct(">IIQ")
"""struct nbd_reply: magic, error, cookie."""
_LENGTH: Final = struct.Struct("=I")
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_FLAG_FUA: Final = 1
_READ, _WRITE, _DISCONNECT = 0, 1, 2
_OPS: Final[dict[int, Op]] = {_READ: "read", _WRITE: "write", 3: "flush", 4: "discard"}
_EIO: Final = 5


class Wire(Protocol):
    """How a disk that can stop is connected (`harness.kernel.disks.link.Link`).

    If something does not obey, `ProvisioningError` is raised.
    """

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A connection: the kernel's end, and ours."""

    def down(self) -> None:
        """From now on nothing that is sent arrives."""

    def up(self) -> None:
        """What is sent arrives."""

    def stuck(self, server: socket.socket) -> int:
        """Bytes that were sent and have not arrived."""

    def deliver(self, server: socket.socket, rest: bytes) -> None:
        """Send some more, and wait until all has arrived."""

    def give_up(self, number: int) -> None:
        """End the connection of an nbd device, and all requests that it has."""


class NbdServer:
    """``sectors`` sectors of zeros behind a socket, and the process that serves them.

    ``wire`` is called in that process if the disk is to be one that can stop.

    Attributes:
        sectors: size of the disk.
        linked: whether it is one that can stop.
        kernel_end: the socket to give to the kernel, and to close here after that.

    Raises:
        OSError: memory or a process is not available.
        Unsupported: this kernel has no such wire.
    """

    def __init__(self, sectors: int, wire: Callable[[], Wire] | None = None) -> None:
        self.sectors = sectors
        self.linked = wire is not None
        with contextlib.ExitStack() as stack:
            self._memory = os.memfd_create("dmsnap")
            stack.callback(os.close, self._memory)
            os.ftruncate(self._memory, bytes_of_sectors(sectors))
            self._control, told = (stack.enter_context(end) for end in socket.socketpair())
            self.kernel_end, served = (stack.enter_context(end) for end in socket.socketpair())
            self._process = os.fork()
            if not self._process:
                self.kernel_end.close()
                self._control.close()
                _run(self._memory, served, told, wire)
            stack.pop_all()
        served.close()
        told.close()
        if wire is not None:
            self.kernel_end.close()
            try:
                self.kernel_end = self._receive_end()
            except (DmsnapError, OSError, EOFError):
                self.close()
                raise

    def _receive_end(self) -> socket.socket:
        """The kernel's end of a connection that the process has made."""
        self._answer()
        _, [fd], _, _ = socket.recv_fds(self._control, 1, 1)
        return socket.socket(fileno=fd)

    # -- what the harness does alongside the kernel --

    def read(self, sector: int, sectors: int) -> bytes:
        """The bytes of a range."""
        return os.pread(self._memory, bytes_of_sectors(sectors), bytes_of_sectors(sector))

    def write(self, sector: int, data: bytes | memoryview) -> None:
        """Put bytes somewhere."""
        os.pwrite(self._memory, data, bytes_of_sectors(sector))

    def _ask(self, *message: object) -> Any:
        """Send the process a message; returns its answer.  During an outage, waits for its end.

        Raises:
            OSError: it is gone.
            ProvisioningError: a link did not obey.
        """
        _send(self._control, message)
        return self._answer()

    def _answer(self) -> Any:
        answer, fault, kind = _receive(self._control)
        if fault:
            raise (Unsupported if kind == Unsupported.__name__ else ProvisioningError)(fault)
        return answer

    def fail(
        self, op: Op, sector: int, sectors: int, *, nth: int, count: int, how: How = "error"
    ) -> None:
        """Add a fault; see `harness.trace.faults.FaultPlan.add`."""
        self._ask("fail", op, sector, sectors, nth, count, how)

    def connected(self, number: int) -> None:
        """Say which nbd device is in front."""
        self._ask("connected", number)

    def heal(self) -> socket.socket | None:
        """Forget all faults; if the disk died, returns the new socket for the kernel."""
        return self._receive_end() if self._ask("heal") else None

    def renew(self) -> bool:
        """Become a new disk of zeros without faults; False if that is not possible.

        A kernel that has released the socket does not take it again.
        """
        try:
            alive = bool(self._ask("renew"))
            os.ftruncate(self._memory, 0)
            os.ftruncate(self._memory, bytes_of_sectors(self.sectors))
        except (ProvisioningError, OSError, EOFError):
            return False
        return alive

    def served(self) -> int:
        """How many requests were answered so far."""
        return int(self._ask("served"))

    def take_requests(self) -> tuple[str, ...]:
        """The requests since the last call, in the order of their arrival."""
        return tuple(self._ask("take"))

    def close(self) -> str:
        """End, once the kernel has disconnected or never was connected; returns what went wrong."""
        self.kernel_end.close()
        # Hanging up is not enough: a server that was forked later also holds this end.
        with contextlib.suppress(ProvisioningError, OSError, EOFError):
            self._ask("end")
        self._control.close()
        _, status = os.waitpid(self._process, 0)
        os.close(self._memory)
        return f"the NBD server ended with status {status}" if status else ""


def _run(
    memory: int, kernel: socket.socket, harness: socket.socket, wire: Callable[[], Wire] | None
) -> NoReturn:
    """The life of the process; nothing of its parent may run in it."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        service = _Service(memory, kernel, harness)
        if wire is None or service.connect_by(wire):
            service.serve()
        status = 0
    finally:
        os._exit(status)


def _exactly(end: socket.socket, size: int) -> bytearray:
    """Exactly so many bytes.

    Raises:
        EOFError: there are no more.
    """
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = end.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _send(end: socket.socket, message: object) -> None:
    text = msgspec.json.encode(message)
    end.sendall(_LENGTH.pack(len(text)) + text)


def _receive(end: socket.socket) -> Any:
    [length] = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return msgspec.json.decode(_exactly(end, length))


class _Service:
    """What the process does: the kernel's requests, and now and then one of the harness."""

    def __init__(self, memory: int, kernel: socket.socket, harness: socket.socket) -> None:
        self._memory = memory
        self._kernel = kernel
        self._harness = harness
        self._plan = FaultPlan()
        self._log: list[str] = []
        self._served = 0
        self._wire: Wire | None = None
        self._number = -1
        self._fault = ""
        self._healed_end: socket.socket | None = None

    def connect_by(self, make: Callable[[], Wire]) -> bool:
        """Connect a wire, and give the harness the kernel's end of it; False if there is none."""
        self._kernel.close()
        try:
            self._wire = make()
            end, self._kernel = self._wire.connect()
        except (DmsnapError, OSError) as fault:
            _send(self._harness, (None, str(fault), type(fault).__name__))
            return False
        self._hand_over(end)
        return True

    def _hand_over(self, end: socket.socket) -> None:
        """An end of a connection for the harness."""
        _send(self._harness, (None, "", ""))
        socket.send_fds(self._harness, [b"."], [end.fileno()])

    def serve(self) -> None:
        """Until the harness says so, or hangs up.

        Raises:
            ValueError: the kernel sent something that is not a request.
        """
        while True:
            ends = [end for end in (self._harness, self._kernel) if end.fileno() >= 0]
            ready, _, _ = select.select(ends, (), ())
            if self._kernel in ready:
                try:
                    alive = self._answer()
                except EOFError:
                    alive = False
                if not alive:
                    # Disconnected: whoever still waits for an answer gets one.
                    self._kernel.close()
            elif ready:
                try:
                    message = _receive(self._harness)
                except EOFError:
                    return
                answer = self._obey(*message)
                _send(self._harness, (answer, self._fault, ""))
                self._fault = ""
                if self._healed_end is not None:
                    self._hand_over(self._healed_end)
                    self._healed_end = None
                if message == ["end"]:
                    return

    def _obey(self, command: str, *arguments: Any) -> object:
        match command, arguments:
            case "fail", (op, sector, sectors, nth, count, how):
                self._plan.add(op, sector, sectors, nth=nth, count=count, how=how)
            case "connected", (number,):
                self._number = number
            case "heal", ():
                self._plan.heal()
                try:
                    return self._revive()
                except (DmsnapError, OSError) as fault:
                    self._fault = str(fault)
            case "renew", ():
                self._plan = FaultPlan()
                self._log = []
                return self._kernel.fileno() >= 0
            case "served", ():
                return self._served
            case "take", ():
                lines, self._log = self._log, []
                return lines
        return None

    def _answer(self) -> bool:
        """Serve one request; False at the end."""
        magic, flags, kind, cookie, offset, length = _REQUEST.unpack(
            _exactly(self._kernel, _REQUEST.size)
        )
        if kind == _DISCONNECT:
            return False
        if magic != _REQUEST_MAGIC or kind not in _OPS:
            raise ValueError(f"request of type {kind} with magic {magic:#x}")
        data = _exactly(self._kernel, length) if kind == _WRITE else b""
        op = _OPS[kind]
        sector, sectors = sectors_of_bytes(offset), sectors_of_bytes(length)
        struck = self._plan.strikes(op, sector, sectors)
        self._log.append(
            request_line(op, sector, sectors, fua=bool(flags & _FLAG_FUA), struck=struck)
        )
        self._served += 1
        if struck == "dies":
            return self._die()
        failed = struck == "error"
        reply = _REPLY.pack(_REPLY_MAGIC, _EIO if failed else 0, cookie)
        if not failed:
            if op == "write":
                os.pwrite(self._memory, data, offset)
            elif op == "discard":
                os.pwrite(self._memory, bytes(length), offset)
            elif op == "read":
                reply += os.pread(self._memory, length, offset)
        if struck == "stalls":
            self._stall(reply)
        else:
            self._kernel.sendall(reply)
        return True

    def _stall(self, reply: bytes) -> None:
        """Send an answer during an outage; check that it needed the link."""
        assert self._wire is not None
        sent = 0
        try:
            self._wire.down()
            # As much as there is room for: nobody reads any of it.
            sent = self._kernel.send(reply, socket.MSG_DONTWAIT)
            select.select((), (), (), OUTAGE_MS / 1000)
            if self._wire.stuck(self._kernel) < sent:
                raise ProvisioningError("the link is down, but an answer got through")
        except (DmsnapError, OSError) as fault:
            self._fault = str(fault)
        try:
            self._wire.up()
            self._wire.deliver(self._kernel, reply[sent:])
        except (DmsnapError, OSError) as fault:
            self._fault = self._fault or str(fault)

    def _die(self) -> bool:
        """Take the link down for good, and end the connection; returns False.

        Earlier answers arrive first.
        """
        assert self._wire is not None
        try:
            self._wire.deliver(self._kernel, b"")
            self._wire.down()
        except (DmsnapError, OSError) as fault:
            self._fault = str(fault)
        try:
            self._wire.give_up(self._number)
        except (DmsnapError, OSError) as fault:
            self._fault = self._fault or str(fault)
        return False

    def _revive(self) -> bool:
        """If the disk died, reconnect it; returns whether it did."""
        if self._wire is None or self._kernel.fileno() >= 0:
            return False
        self._wire.up()
        self._healed_end, self._kernel = self._wire.connect()
        return True
