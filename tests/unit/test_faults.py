"""The plan of faults, and the process that serves a disk by it, without a kernel."""

import socket
import struct

import pytest

from harness.faults import FaultPlan, request_line
from harness.kernel.nbd_server import NbdServer

REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
MAGIC = 0x25609513
READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)
FUA = 1


def test_the_third_write_to_a_range():
    plan = FaultPlan()
    plan.add("write", 16, 8, nth=3)
    assert [plan.strikes("write", sector, 8) for sector in (16, 8, 23, 24, 10, 16)] == [
        False, False, False, False, True, False]
    assert not plan.strikes("read", 16, 8)


def test_ranges_touch_by_a_sector():
    plan = FaultPlan()
    plan.add("read", 16, 8, count=0)
    assert [plan.strikes("read", *where) for where in (
        (15, 1), (15, 2), (23, 1), (24, 1), (0, 100))] == [False, True, True, False, True]


def test_a_flush_has_no_place():
    plan = FaultPlan()
    plan.add("flush", 16, 8, nth=2, count=2)
    assert [plan.strikes("flush", 0, 0) for _ in range(5)] == [False, True, True, False, False]


def test_each_fault_counts_all_that_matches():
    plan = FaultPlan()
    plan.add("write", 0, 8, nth=1)
    plan.add("write", 0, 8, nth=2)
    assert [plan.strikes("write", 0, 1) for _ in range(3)] == [True, True, False]
    plan.add("write", 0, 8, count=0)
    plan.heal()
    assert not plan.strikes("write", 0, 1)


def test_requests_in_words():
    assert request_line("write", 16, 8, fua=True) == "write 16+8 fua"
    assert request_line("flush", 0, 0, failed=True) == "flush EIO"
    assert request_line("read", 0, 1, failed=True) == "read 0+1 EIO"


class Kernel:
    """The other end: what drivers/block/nbd.c would send."""

    def __init__(self, server: NbdServer) -> None:
        self.end: socket.socket = server.kernel_end
        self.cookie = 0

    def ask(self, kind: int, sector: int, sectors: int, data: bytes = b"", flags: int = 0
            ) -> tuple[int, bytes]:
        self.cookie += 1
        self.end.sendall(REQUEST.pack(MAGIC, flags, kind, self.cookie, sector * 512,
                                      sectors * 512) + data)
        magic, error, cookie = REPLY.unpack(self.receive(REPLY.size))
        assert (magic, cookie) == (0x67446698, self.cookie)
        return error, self.receive(sectors * 512 if kind == READ and not error else 0)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.end.recv(size - len(data))
        return data


@pytest.fixture
def server():
    server = NbdServer(64)
    yield server
    assert server.close() == ""


def test_what_is_written_is_there(server):
    kernel = Kernel(server)
    assert kernel.ask(WRITE, 8, 2, b"a" * 1024, FUA) == (0, b"")
    assert kernel.ask(READ, 9, 2) == (0, b"a" * 512 + bytes(512))
    assert kernel.ask(FLUSH, 0, 0) == (0, b"")
    assert kernel.ask(TRIM, 8, 1) == (0, b"")
    assert server.read(8, 2) == bytes(512) + b"a" * 512
    assert server.take_requests() == ("write 8+2 fua", "read 9+2", "flush", "discard 8+1")
    assert server.take_requests() == ()
    assert server.served() == 4


def test_what_fails_moves_nothing(server):
    kernel = Kernel(server)
    server.write(0, b"b" * 512)
    server.fail("write", 0, 1, nth=2, count=1)
    server.fail("read", 0, 1, nth=1, count=0)
    assert kernel.ask(WRITE, 0, 1, b"1" * 512) == (0, b"")
    assert kernel.ask(WRITE, 0, 1, b"2" * 512) == (5, b"")
    assert server.read(0, 1) == b"1" * 512
    assert kernel.ask(READ, 0, 2) == (5, b"")
    assert kernel.ask(READ, 1, 2) == (0, bytes(1024))
    server.heal()
    assert kernel.ask(READ, 0, 1) == (0, b"1" * 512)
    assert server.take_requests()[1:3] == ("write 0+1 EIO", "read 0+2 EIO")


def test_a_disconnect_is_no_fault(server):
    kernel = Kernel(server)
    kernel.end.sendall(REQUEST.pack(MAGIC, 0, DISCONNECT, 0, 0, 0))
    assert kernel.end.recv(1) == b""
    assert server.take_requests() == ()


def test_several_servers_end_in_any_order():
    first, second = NbdServer(8), NbdServer(8)
    assert first.close() == ""
    assert Kernel(second).ask(READ, 0, 8) == (0, bytes(4096))
    assert second.close() == ""


def test_nonsense_ends_the_server_and_is_told():
    server = NbdServer(8)
    server.kernel_end.sendall(bytes(REQUEST.size))
    assert server.kernel_end.recv(1) == b""
    assert "status" in server.close()
