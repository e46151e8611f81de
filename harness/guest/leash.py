"""A leash: a program and all its descendants end when the holder of the other end is gone.

``python -I -S leash.py COMMAND…``: standard input is a pipe whose other end only dmsnap holds.
When dmsnap closes it, or is killed, the command and all its descendants are killed, including
those that left its process group (the leash is their subreaper).  Exit status: the command's,
128 + n for signal n, or `NOT_STARTED` if it could not be started.

It imports nothing from dmsnap, as it must be up in a few milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

NOT_STARTED: Final = 127
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _end_family() -> None:
    """Kill and reap children until there are none; orphans become our children."""
    while True:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The second field, the command, is in parentheses and may contain anything.
                if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main(command: list[str]) -> int:
    """Run ``command`` on the leash; returns its exit status."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Only the pipe ends the command: signals are for dmsnap to handle.
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    leash = os.getpid()

    def in_child() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != leash:  # it died before the line above took effect
            os._exit(NOT_STARTED)

    try:
        # One thread, so running Python between fork and exec is safe.
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=in_child)  # noqa: PLW1509
    except OSError as fault:
        print(f"cannot start {command[0]}: {fault.strerror}")
        return NOT_STARTED
    poll = select.poll()
    ended = os.pidfd_open(started.pid)
    for descriptor in (ended, sys.stdin.fileno()):
        poll.register(descriptor, select.POLLIN)
    if ended not in {descriptor for descriptor, _ in poll.poll()}:
        started.kill()
    status = started.wait()
    _end_family()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
