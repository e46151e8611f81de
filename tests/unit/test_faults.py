"""The plan of faults, and the process that serves a disk by it, without a kernel."""

import socket
import struct

import pytest

from harness.errors import BadScenario, ProvisioningError, Unsupported
from harness.kernel.disks.nbd_server import NbdServer
from harness.trace.faults import FaultPlan, request_line
from harness.trace.observations import Observation
from harness.trace.rules import check_disk, check_fault, faults_without_effect
from harness.trace.steps import Disk, Fault, Heal, Read

REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
MAGIC = 0x25609513
READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)
FUA = 1


def test_the_third_write_to_a_range():
    plan = FaultPlan()
    plan.add("write", 16, 8, nth=3)
    assert [plan.strikes("write", sector, 8) for sector in (16, 8, 23, 24, 10, 16)] == [
        None,
        None,
        None,
        None,
        "error",
        None,
    ]
    assert not plan.strikes("read", 16, 8)


def test_ranges_touch_by_a_sector():
    plan = FaultPlan()
    plan.add("read", 16, 8, count=0)
    assert [
        plan.strikes("read", *where) for where in ((15, 1), (15, 2), (23, 1), (24, 1), (0, 100))
    ] == [None, "error", "error", None, "error"]


def test_a_flush_has_no_place():
    plan = FaultPlan()
    plan.add("flush", 16, 8, nth=2, count=2)
    assert [plan.strikes("flush", 0, 0) for _ in range(5)] == [None, "error", "error", None, None]


def test_each_fault_counts_all_that_matches():
    plan = FaultPlan()
    plan.add("write", 0, 8, nth=1)
    plan.add("write", 0, 8, nth=2)
    assert [plan.strikes("write", 0, 1) for _ in range(3)] == ["error", "error", None]
    plan.add("write", 0, 8, count=0)
    plan.heal()
    assert not plan.strikes("write", 0, 1)


def test_the_worst_of_several_faults_happens():
    plan = FaultPlan()
    for how in ("error", "dies", "stalls"):
        plan.add("write", 0, 8, how=how)
    plan.add("write", 0, 8, nth=2, how="stalls")
    assert [plan.strikes("write", 0, 1) for _ in range(2)] == ["dies", "stalls"]


def test_requests_in_words():
    assert request_line("write", 16, 8, fua=True) == "write 16+8 fua"
    assert request_line("flush", 0, 0, struck="error") == "flush EIO"
    assert request_line("read", 0, 1, struck="stalls") == "read 0+1 late"
    assert request_line("write", 0, 1, fua=True, struck="dies") == "write 0+1 fua lost"


class Kernel:
    """The other end: what drivers/block/nbd.c would send."""

    def __init__(self, server: NbdServer) -> None:
        self.end: socket.socket = server.kernel_end
        self.cookie = 0

    def ask(
        self, kind: int, sector: int, sectors: int, data: bytes = b"", flags: int = 0
    ) -> tuple[int, bytes]:
        self.cookie += 1
        self.end.sendall(
            REQUEST.pack(MAGIC, flags, kind, self.cookie, sector * 512, sectors * 512) + data
        )
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


# -- disks that stop --


class Cable:
    """A wire without a kernel, which says of itself that nothing arrives while it is down.

    ``broken`` names what it does not do.
    """

    def __init__(self, broken=""):
        self.broken = broken
        self.client = None
        self.arrived = False

    def connect(self):
        self.client, server = socket.socketpair()
        return self.client, server

    def down(self):
        if self.broken == "early" and not self.arrived:
            raise ProvisioningError("it is not known whether what was answered has arrived")
        if self.broken == "down":
            raise ProvisioningError("the link is up nevertheless")

    def up(self):
        """Nothing to do."""

    def stuck(self, _server):
        return 0 if self.broken == "leaks" else 1 << 30

    def deliver(self, server, rest):
        if self.broken == "deliver":
            raise ProvisioningError("an answer has not arrived")
        server.sendall(rest)
        self.arrived = True

    def give_up(self, number):
        assert number == 7
        assert self.client is not None
        self.client.shutdown(socket.SHUT_RDWR)


def linked(broken=""):
    server = NbdServer(4096, lambda: Cable(broken))
    server.connected(7)
    return server


def hangs_up(kernel, kind, data=b""):
    """Whether the connection ends in the place of an answer."""
    kernel.end.sendall(REQUEST.pack(MAGIC, 0, kind, 1, 0, 512) + data)
    return kernel.end.recv(1) == b""


def test_a_stall_is_an_answer_that_comes_late():
    server = linked()
    kernel = Kernel(server)
    server.fail("read", 8, 8, nth=1, count=1, how="stalls")
    assert kernel.ask(READ, 0, 8) == (0, bytes(4096))
    # More than a socket takes at once.
    assert kernel.ask(READ, 8, 2048) == (0, bytes(1 << 20))
    assert kernel.ask(WRITE, 8, 1, b"w" * 512) == (0, b"")
    assert server.take_requests() == ("read 0+8", "read 8+2048 late", "write 8+1")
    assert server.close() == ""


def test_a_disk_that_died_is_silent_until_it_is_healed():
    server = linked("early")
    kernel = Kernel(server)
    server.fail("write", 0, 8, nth=2, count=1, how="dies")
    assert kernel.ask(WRITE, 0, 1, b"1" * 512) == (0, b"")
    assert hangs_up(kernel, WRITE, b"2" * 512)
    assert server.take_requests() == ("write 0+1", "write 0+1 lost")
    assert server.read(0, 1) == b"1" * 512
    server.kernel_end.close()
    server.kernel_end = server.heal()
    assert Kernel(server).ask(READ, 0, 1) == (0, b"1" * 512)
    assert server.heal() is None
    assert server.renew()
    assert server.close() == ""


def test_a_disk_that_died_is_not_used_again():
    server = linked()
    server.fail("read", 0, 8, nth=1, count=1, how="dies")
    assert hangs_up(Kernel(server), READ)
    assert not server.renew()
    assert server.close() == ""


@pytest.mark.parametrize(
    ("broken", "how", "said"),
    [
        ("down", "stalls", "the link is up nevertheless"),
        ("down", "dies", "the link is up nevertheless"),
        ("leaks", "stalls", "the link is down, but an answer got through"),
        ("deliver", "stalls", "an answer has not arrived"),
    ],
)
def test_a_link_that_does_not_do_as_it_is_told(broken, how, said):
    server = linked(broken)
    server.fail("read", 0, 8, nth=1, count=1, how=how)
    kernel = Kernel(server)
    kernel.end.sendall(REQUEST.pack(MAGIC, 0, READ, 1, 0, 512))
    kernel.end.recv(1)
    with pytest.raises(ProvisioningError, match=said):
        server.served()
    assert server.served() == 1
    server.close()


def test_a_kernel_without_links_is_told_apart():
    def none():
        raise Unsupported("this kernel makes no pair of network devices")

    with pytest.raises(Unsupported, match="no pair of network devices"):
        NbdServer(8, none)

    def fails():
        raise OSError(24, "too many files")

    with pytest.raises(ProvisioningError, match="too many files") as caught:
        NbdServer(8, fails)
    assert not isinstance(caught.value, Unsupported)


def test_only_a_linked_disk_stops():
    stop = Fault(device="cow", op="write", how="stalls")
    check_fault(stop, linked=True)
    check_fault(Fault(device="cow", op="write"), linked=False)
    with pytest.raises(BadScenario, match="has no link"):
        check_fault(stop, linked=False)
    with pytest.raises(BadScenario, match="dies once"):
        check_fault(Fault(device="cow", op="write", how="dies", count=0), linked=True)
    with pytest.raises(BadScenario, match="must have can_fail"):
        check_disk(Disk(name="cow", sectors=8, linked=True), taken=False)


def test_a_fault_that_met_no_request_is_found():
    trace = (
        Fault(device="cow", op="read", how="stalls"),
        Read(device="snap", sector=0, sectors=1),
        Heal(device="cow"),
        Fault(device="cow", op="read", how="dies"),
        Fault(device="cow", op="read", nth=9),
        Read(device="snap", sector=0, sectors=1),
    )

    def seen(first, second):
        return [
            Observation(step=1, requests={"cow": (first,)}),
            Observation(step=5, requests={"cow": ("read 0+8", second)}),
        ]

    assert faults_without_effect(trace, seen("read 0+8 late", "read 0+8 lost")) == []
    assert faults_without_effect(trace, seen("read 0+8", "read 0+8 late")) == [0, 3]
    assert faults_without_effect(trace, seen("read 0+8 EIO", "read 0+8 lost")) == [0]
    assert faults_without_effect(trace, []) == [0, 3]
