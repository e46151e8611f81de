"""The keeper: a small program between dmsnap and one guest, so that no process is left behind.

A User-mode Linux kernel is a family of host processes: the kernel, I/O helpers, and one traced
stub for each address space inside it.  It leaves its process group, and killing the first of
them does not end the rest.  So each guest gets a keeper, which

- is the *subreaper* of the family: orphans become the keeper's children, and
  the keeper exits only when it has none left;
- holds one end of a pipe (its standard input) whose other end only dmsnap holds.  When dmsnap
  ends the guest, or dies itself in any way, the pipe closes, and the family is killed;
- puts the guest into its cage before it runs (`harness.guest.cage`);
- removes the guest's private directory at the end;
- keeps the console, bounded: the head in a file as it comes, the tail in memory until the end.
  The very last bytes also go to standard output, in case the disk is full.

If the keeper itself is killed, the kernel dies with it (parent-death signal), and dmsnap looks for
anything left (`harness.guest.process`).  If it is stopped (SIGSTOP), the end of dmsnap wakes it,
and it sees that the pipe is closed.

It is started as ``python -I -S keeper.py CONSOLE PRIVATE CAGE COMMAND…`` (PRIVATE may be empty;
CAGE is a `harness.guest.cage.Cage` in JSON, or empty) and imports nothing of dmsnap but the cage:
it must be up in a few milliseconds.  Its exit status is that of the guest, 128 + n for signal n.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # With -I, Python does not look for modules where dmsnap is.
    sys.path.append(str(Path(__file__).parents[2]))
from harness.guest import cage as cages

CONSOLE_HEAD_BYTES: Final = 256 << 10
"""Console output that goes to the file as it comes: more than a whole boot."""
CONSOLE_TAIL_BYTES: Final = 256 << 10
"""Console output kept from the end of a talkative guest; what is in between is left out."""
TAIL_REPORT_BYTES: Final = 16 << 10
"""Output to standard output at the end; less than a pipe holds, so it never blocks."""
NOT_STARTED: Final = 127
"""Exit status when the command could not be started."""

_READ_BYTES: Final = 64 << 10
_DRAIN_MS: Final = 500
_DESCRIPTORS: Final = 1024
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Console:
    """A bounded log: head, then a note of how much is left out, then tail."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        self._head_left = CONSOLE_HEAD_BYTES
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._left_out = 0
        self._last = b""

    def add(self, data: bytes) -> None:
        """Add output of the guest."""
        self._last = (self._last + data)[-TAIL_REPORT_BYTES:]
        head, data = data[: self._head_left], data[self._head_left :]
        if head:
            self._head_left -= len(head)
            self._write(head)
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= CONSOLE_TAIL_BYTES:
                dropped = len(self._tail.popleft())
                self._tail_bytes -= dropped
                self._left_out += dropped

    def close(self) -> bytes:
        """Write the tail; returns the very last bytes."""
        if self._left_out:
            self._write(b"\n[... %d bytes left out ...]\n" % self._left_out)
        for part in self._tail:
            self._write(part)
        os.close(self._fd)
        return self._last

    def _write(self, data: bytes) -> None:
        # A full disk must not keep the keeper from its first duty, to end the guest.
        with contextlib.suppress(OSError):
            os.write(self._fd, data)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    """Direct children, including zombies; read from /proc/*/stat, which every kernel has."""
    me = os.getpid()
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 — pathlib would cost its own import time
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{name}/stat").read_bytes()
            # The second field, the command, is in parentheses and may contain anything.
            if int(stat[stat.rindex(b")") + 1 :].split()[1]) == me:
                found.append(int(name))
    return found


def _end_family() -> None:
    """Kill and reap children until there are none; orphaned descendants become our children."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _follow(guest: int, lifeline: int, output: int, console: Console) -> int:
    """Copy the console until the guest ends or is ended; returns its exit status."""
    poll = select.poll()
    ended = os.pidfd_open(guest)
    for fd in (ended, lifeline, output):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if output in ready:
            data = os.read(output, _READ_BYTES)
            if data:
                console.add(data)
            else:
                poll.unregister(output)
        if lifeline in ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(guest, signal.SIGKILL)
            poll.unregister(lifeline)
        if ended in ready:
            return os.waitstatus_to_exitcode(os.waitpid(guest, 0)[1])


def _drain(output: int, console: Console) -> None:
    """What the guest printed before it ended and is still in the pipe."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while poll.poll(_DRAIN_MS):
        data = os.read(output, _READ_BYTES)
        if not data:
            return
        console.add(data)


def _start(command: list[str], output: int, cage: cages.Cage | None) -> int:
    """Start ``command`` in its cage, with output to ``output``; returns its process id.

    If it cannot start, the reason goes to ``output`` and its status is `NOT_STARTED`.
    """
    keeper = os.getpid()
    if cage is not None:
        try:
            cages.prepare(cage)
        except OSError as fault:
            _say_not_started(output, command, fault)
            cage, command = None, []
    guest = os.fork()
    if guest:
        return guest
    try:
        for number in (
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGTERM,
            signal.SIGPIPE,
            signal.SIGXFSZ,
        ):
            signal.signal(number, signal.SIG_DFL)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent died before the line above took effect.  In a namespace of its own
        # a process neither sees its parent nor outlives it.
        if command and os.getppid() in (keeper, 0):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, _DESCRIPTORS)
            if cage is not None:
                cages.enter(cage)
            os.execvp(command[0], command)  # noqa: S606
    except OSError as fault:
        _say_not_started(2, command, fault)
    finally:
        os._exit(NOT_STARTED)


def _say_not_started(output: int, command: list[str], fault: OSError) -> None:
    os.write(output, f"keeper: cannot start {command[0]}: {fault.strerror}\n".encode())


def main(console_path: str, private: str, cage_text: str, command: list[str]) -> int:
    """Start ``command``, keep it, and leave no process and no ``private`` directory behind."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Only the pipe ends a guest; Ctrl-C is for dmsnap to handle.
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a guest's core would have all of its memory
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    console = Console(Path(console_path))
    output, guest_side = os.pipe()
    cage = cages.Cage(*json.loads(cage_text)) if cage_text else None
    guest = _start(command, guest_side, cage)
    # After entering the user namespace, which would reset it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    os.close(guest_side)
    status = _follow(guest, sys.stdin.fileno(), output, console)
    _end_family()
    _drain(output, console)
    passing = [path for path in (private, cage.memory if cage else "") if path]
    if passing:
        import shutil  # costs more than the rest of this program; a guest need not wait for it

        for path in passing:
            shutil.rmtree(path, ignore_errors=True)
    last = console.close()
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), last)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
