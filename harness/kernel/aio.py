"""Several requests in flight at once, through the kernel's asynchronous I/O (io_submit(2)).

One call submits all of them in order, and with O_DIRECT none waits for another: the block device
gets the list as fast as a process can submit it.  The structures are those of linux/aio_abi.h; the
system call numbers are those of the machines that dmsnap knows.
"""

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

import numpy as np

from harness.errors import ProvisioningError
from harness.trace import pattern
from harness.units import bytes_of_sectors

_CALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit."""
_IOCB: Final = struct.Struct("=QIiHhIQQqQII")
"""struct iocb, little-endian: data, key, rw_flags, opcode, reqprio, fd, buf, nbytes, offset, …"""
_EVENT: Final = struct.Struct("=QQqq")
"""struct io_event: data, obj, res, res2."""
_PREAD, _PWRITE = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


class Request(NamedTuple):
    """One request; ``data`` is what to write, None to read."""

    path: str
    sector: int
    sectors: int
    data: pattern.Buffer | None


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def submit_all(
    requests: Sequence[Request], then: Callable[[], None] = lambda: None
) -> list[memoryview | OSError]:
    """Submit all, call ``then``, wait for all; what each read (or wrote), or the refusal.

    A request that did less than requested counts as refused: ENOSPC for a write, EINVAL for a read.

    Raises:
        ProvisioningError: this machine's system call numbers are not known.
        OSError: a device cannot be opened, or the kernel has no asynchronous I/O.
    """
    machine = os.uname().machine
    if machine not in _CALLS:
        raise ProvisioningError(
            f"asynchronous I/O on {machine} is not known to dmsnap: leave out "
            "scenarios with parallel steps"
        )
    setup, destroy, getevents, submit = _CALLS[machine]
    count = len(requests)
    with ExitStack() as stack:
        context = ctypes.c_ulong(0)
        _call(setup, count, ctypes.byref(context))
        stack.callback(_call, destroy, context)
        fds: dict[str, int] = {}
        views = []
        blocks = ctypes.create_string_buffer(_IOCB.size * count)
        for index, request in enumerate(requests):
            if request.path not in fds:
                fds[request.path] = os.open(request.path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
                stack.callback(os.close, fds[request.path])
            size = bytes_of_sectors(request.sectors)
            view = memoryview(mmap.mmap(-1, size))
            if request.data is not None:
                np.frombuffer(view, dtype=np.uint8)[:] = np.frombuffer(request.data, dtype=np.uint8)
            views.append(view)
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
            _IOCB.pack_into(
                blocks,
                _IOCB.size * index,
                index,
                0,
                0,
                _PREAD if request.data is None else _PWRITE,
                0,
                fds[request.path],
                address,
                size,
                bytes_of_sectors(request.sector),
                0,
                0,
                0,
            )
        base = ctypes.addressof(blocks)
        pointers = (ctypes.c_void_p * count)(*(base + _IOCB.size * i for i in range(count)))
        answers: list[memoryview | OSError] = [OSError(errno.EIO, "no answer")] * count
        taken = 0
        refused: dict[int, OSError] = {}
        while taken < count:
            rest = ctypes.byref(pointers, taken * ctypes.sizeof(ctypes.c_void_p))
            try:
                taken += _call(submit, context, count - taken, rest)
            except OSError as fault:  # the first of the rest is refused, the others can continue
                refused[taken] = fault
                taken += 1
        then()
        events = ctypes.create_string_buffer(_EVENT.size * count)
        wanted = count - len(refused)
        if wanted:
            _call(getevents, context, wanted, wanted, events, None)
        for index in range(wanted):
            number, _, result, _ = _EVENT.unpack_from(events, _EVENT.size * index)
            answers[number] = _answer(requests[number], views[number], result)
        for number, refusal in refused.items():
            answers[number] = refusal
        return answers


def _answer(request: Request, view: memoryview, result: int) -> memoryview | OSError:
    if result < 0:
        return OSError(-result, os.strerror(-result))
    if result < len(view):
        code = errno.EINVAL if request.data is None else errno.ENOSPC
        return OSError(code, os.strerror(code))
    return view
