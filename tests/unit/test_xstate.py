"""The arithmetic of vm/ptrace-whole-xstate.c, on a host that is played: no AMX is needed.

The very source is compiled, and the one function through which it reaches the host is played in
Python: a process whose state is larger than the caller's buffer, and a system call that takes the
whole of it or nothing.  It is done once with each compiler that is here.
"""

import ctypes
import errno
import os
import shutil
import struct
import subprocess

import pytest

from harness.errors import ProvisioningError
from harness.guest import xstate
from harness.guest.catalogue import vm_file

PTRACE, SIGPROCMASK = 101, 14
PEEKTEXT, PEEKDATA, PEEKUSER, POKEDATA, CONT = 1, 2, 3, 5, 7
GETREGSET, SETREGSET = 0x4204, 0x4205
FXSTATE, XSTATE = 0x46E62B7F, 0x202
AMX = 3 << 17
WHOLE, ROOM = 11008, 2696
PID = 4711

PLAYED = """
long (*host)(long, long, long, long, long, long);
long played(long number, long a, long b, long c, long d, long e)
{ return host(number, a, b, c, d, e); }
"""
LONG = ctypes.c_long
HOST = ctypes.CFUNCTYPE(LONG, *[LONG] * 6, use_errno=True)
COMPILERS = [name for name in ("cc", "tcc", "clang") if shutil.which(name)]

pytestmark = pytest.mark.skipif(
    not COMPILERS,
    reason=(
        "no C compiler is installed (the kernel tests play the same host with the one that is "
        "fetched); type: sudo apt-get install -y tcc"
    ),
)


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_ulong))


class Host:
    """One traced process and the system calls of its host.

    Attributes:
        state: its XSTATE.
        calls: ptrace requests that came, by number.
        masks: how signals were blocked, and let through again.
    """

    def __init__(self, size):
        self.state = bytearray(index % 251 for index in range(size))
        self.in_use = 7 | AMX | 1 << 9
        self.calls = []
        self.masks = []
        self.fails = 0

    @property
    def in_use(self):
        return struct.unpack_from("<Q", self.state, 512)[0]

    @in_use.setter
    def in_use(self, bits):
        struct.pack_into("<Q", self.state, 512, bits)

    def call(self, number, *arguments):
        if number == SIGPROCMASK:
            how, new, old, _size = arguments[:4]
            if how == 0:
                ctypes.cast(old, ctypes.POINTER(LONG))[0] = 0x1234
            self.masks.append((how, ctypes.cast(new, ctypes.POINTER(LONG))[0]))
            return 0
        assert number == PTRACE
        request, pid, address, data = arguments[:4]
        assert pid == PID
        self.calls.append(request)
        if self.fails:
            return self.fail(self.fails)
        if request in (GETREGSET, SETREGSET) and address == XSTATE:
            return self.regset(request, Vector.from_address(data))
        if request in (PEEKTEXT, PEEKDATA, PEEKUSER):
            ctypes.cast(data, ctypes.POINTER(LONG))[0] = -address
            return 0
        return 100 * request + address + data

    def regset(self, request, vector):
        """xstateregs_get and xstateregs_set, below ptrace_regset."""
        if vector.length % 8:
            return self.fail(errno.EINVAL)
        vector.length = min(vector.length, len(self.state))
        if request == GETREGSET:
            ctypes.memmove(vector.base, bytes(self.state), vector.length)
            return 0
        if vector.length < len(self.state):
            return self.fail(errno.EFAULT)
        given = bytearray(ctypes.string_at(vector.base, vector.length))
        if struct.unpack_from("<Q", given, 512)[0] & AMX:
            return self.fail(errno.EINVAL)
        self.state = given
        return 0

    @staticmethod
    def fail(number):
        ctypes.set_errno(number)
        return -1


@pytest.fixture(scope="module", params=COMPILERS)
def library(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    (place / "played.c").write_text(PLAYED)
    subprocess.run(
        [
            request.param,
            *xstate._FLAGS,
            "-Dsyscall=played",
            "-o",
            place / "lib.so",
            vm_file(xstate.SOURCE),
            place / "played.c",
        ],
        check=True,
        timeout=60,
    )
    found = ctypes.CDLL(str(place / "lib.so"), use_errno=True)
    found.ptrace.restype = LONG
    found.ptrace.argtypes = [ctypes.c_int, ctypes.c_int, LONG, LONG]
    return found


@pytest.fixture
def play(library):
    kept = []

    def play(size):
        host = Host(size)
        kept.append(HOST(host.call))
        ctypes.c_void_p.in_dll(library, "host").value = ctypes.cast(kept[-1], ctypes.c_void_p).value
        return host

    return play


@pytest.fixture
def ptrace(library):
    def ptrace(request, address=0, data=0):
        ctypes.set_errno(77)
        return library.ptrace(request, PID, address, data), ctypes.get_errno()

    return ptrace


@pytest.fixture
def move(ptrace):
    """Get or set XSTATE through a buffer; the answer, errno, iov_len and the buffer."""

    def move(request, content):
        # A guard behind it, which nobody may touch.
        buffer = ctypes.create_string_buffer(bytes(content) + b"guard", len(content) + 5)
        vector = Vector(ctypes.addressof(buffer), len(content))
        answer = ptrace(request, XSTATE, ctypes.addressof(vector))
        assert buffer.raw[len(content) :] == b"guard"
        return (*answer, vector.length, buffer.raw[: len(content)])

    return move


@pytest.mark.parametrize("room", [0, 8, 512, 520, 576, 832, ROOM, WHOLE - 8, WHOLE, WHOLE + 800])
def test_a_get_gives_what_there_is_room_for(play, move, room):
    host = play(WHOLE)
    result, _, length, got = move(GETREGSET, b"\xee" * room)
    assert (result, length) == (0, min(room, WHOLE))
    assert got == bytes(host.state)[:room] + b"\xee" * (room - length)
    assert host.calls == [GETREGSET]


@pytest.mark.parametrize("room", [0, 8, 512, 520, 576, 832, ROOM, WHOLE - 8, WHOLE, WHOLE + 800])
def test_a_set_changes_the_caller_s_part_and_no_other(play, move, room):
    host = play(WHOLE)
    before = bytes(host.state)
    given = bytearray((index * 7 + 1) % 256 for index in range(room))
    if room >= 520:
        struct.pack_into("<Q", given, 512, 7 | AMX | 1 << 40)
    result, _, length, _ = move(SETREGSET, given)
    assert (result, length) == (0, min(room, WHOLE))
    expected = bytearray(given[:WHOLE] + before[room:])
    bits = struct.unpack_from("<Q", expected, 512)[0]
    struct.pack_into("<Q", expected, 512, bits & ~AMX)
    assert host.state == expected
    assert host.calls == [GETREGSET, SETREGSET]


def test_without_it_that_host_refuses(play):
    """What is played is what the cure is for."""
    host = play(WHOLE)
    buffer = ctypes.create_string_buffer(ROOM)
    vector = Vector(ctypes.addressof(buffer), ROOM)
    assert host.call(PTRACE, SETREGSET, PID, XSTATE, ctypes.addressof(vector)) == -1
    assert ctypes.get_errno() == errno.EFAULT
    # And so it does with all of it, while AMX is said to be in use.
    buffer = ctypes.create_string_buffer(bytes(host.state), WHOLE)
    vector = Vector(ctypes.addressof(buffer), WHOLE)
    assert host.call(PTRACE, SETREGSET, PID, XSTATE, ctypes.addressof(vector)) == -1
    assert ctypes.get_errno() == errno.EINVAL


def test_what_was_got_can_be_set_again(play, move):
    host = play(WHOLE)
    _, _, length, got = move(GETREGSET, bytes(ROOM))
    saved = bytes(host.state)
    host.state[:ROOM] = bytes(ROOM)
    assert move(SETREGSET, got[:length])[0] == 0
    host.in_use |= AMX
    assert host.state == saved


@pytest.mark.parametrize("size", [576, 832, ROOM])
def test_a_host_with_less_state_is_served_too(play, move, size):
    host = play(size)
    host.in_use = 7
    assert move(GETREGSET, bytes(ROOM))[:3] == (0, 77, size)
    given = bytes(512) + struct.pack("<Q", 3) + bytes(ROOM - 520)
    assert move(SETREGSET, given)[:3] == (0, 77, size)
    assert host.state == given[:size]


@pytest.mark.parametrize("request_", [GETREGSET, SETREGSET])
def test_half_a_word_is_refused_as_the_host_does(play, move, request_):
    host = play(WHOLE)
    before = bytes(host.state)
    assert move(request_, bytes(ROOM + 4))[:3] == (-1, errno.EINVAL, ROOM + 4)
    assert host.state == before


@pytest.mark.parametrize("request_", [GETREGSET, SETREGSET])
def test_an_error_of_the_host_is_handed_on(play, move, request_):
    host = play(WHOLE)
    host.fails = errno.ESRCH
    assert move(request_, bytes(ROOM))[:3] == (-1, errno.ESRCH, ROOM)
    assert host.calls == [GETREGSET]
    assert host.masks == [(0, -1), (2, 0x1234)]


def test_no_signal_comes_between(play, move):
    host = play(WHOLE)
    move(SETREGSET, bytes(ROOM))
    move(GETREGSET, bytes(ROOM))
    assert host.masks == [(0, -1), (2, 0x1234)] * 2


@pytest.mark.parametrize("request_", [PEEKTEXT, PEEKDATA, PEEKUSER])
def test_a_peek_returns_the_word(play, ptrace, request_):
    host = play(WHOLE)
    # errno tells a word of -1 from an error: it is cleared.
    assert ptrace(request_, 1, 0) == (-1, 0)
    assert ptrace(request_, 4096, 0) == (-4096, 0)
    host.fails = errno.EIO
    assert ptrace(request_, 4096, 0) == (-1, errno.EIO)


def test_everything_else_is_the_system_call(play, ptrace):
    host = play(WHOLE)
    assert ptrace(POKEDATA, 10, 3) == (513, 77)
    assert ptrace(CONT, 0, 9) == (709, 77)
    assert ptrace(0) == (0, 77)
    assert ptrace(SETREGSET, 1, 0)[0] == 100 * SETREGSET + 1  # NT_PRSTATUS
    assert ptrace(GETREGSET, FXSTATE, 0)[0] == 100 * GETREGSET + FXSTATE
    host.fails = errno.EPERM
    assert ptrace(CONT) == (-1, errno.EPERM)
    assert host.masks == []


# -- the object -------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path):
    """Compile, without a network; what came."""

    def built():
        return xstate.compiled(vm_file(xstate.SOURCE), tmp_path / "made/it.so", lambda _line: None)

    return built


@pytest.mark.parametrize("name", COMPILERS)
def test_any_compiler_will_do(built, tmp_path, monkeypatch, name):
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin/cc"
    compiler.write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec {name} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert ctypes.CDLL(str(built())).ptrace
    # Not twice.
    monkeypatch.setenv("PATH", "/nothing")
    assert list((tmp_path / "made").iterdir()) == [built()]


def test_a_compiler_that_fails_is_passed_over_and_all_are_named(built, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name in ("cc", "tcc"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\necho no linker\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    monkeypatch.setattr(xstate, "_fetched_tcc", lambda *_rest: [str(tmp_path / "bin/tcc")])
    with pytest.raises(
        ProvisioningError,
        match=r"cc: no linker; tcc: no linker; tcc: no linker.*"
        "apt-get install -y tcc",
    ):
        built()
    assert not (tmp_path / "made").exists()
