"""A guest as a host process: started under its keeper, waited for without busy loops, ended whole.

Any command can be kept; `harness.guest.uml` keeps a kernel, the tests keep small programs that
behave as badly as a guest can.  `harness.guest.keeper` describes how the family of processes is
held together.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from harness.errors import NotAFile, ProvisioningError
from harness.files import open_stranger
from harness.guest.cage import Cage
from harness.guest.keeper import CONSOLE_HEAD_BYTES, CONSOLE_TAIL_BYTES, TAIL_REPORT_BYTES

CONSOLE_NAME: Final = "console.log"
JOURNAL_NAME: Final = "journal.jsonl"
JOB_NAME: Final = "job.json"
GUEST_PREFIX: Final = "guest-"
"""Prefix of a guest's directory name; its number follows."""

MARK_VARIABLE: Final = "DMSNAP_KEPT"
"""An environment variable of every process of a guest, unique to that guest."""

_END_LIMIT_S: Final = 20.0
_CONSOLE_BYTES_MAX: Final = 2 * (CONSOLE_HEAD_BYTES + CONSOLE_TAIL_BYTES)
_KEEPER: Final = Path(__file__).with_name("keeper.py")


class Guest(Protocol):
    """A guest that was started, as the supervisor sees it."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the guest has ended."""

    def ended(self) -> bool:
        """Whether the guest ended, by itself or not, and no process of it is left."""

    def end(self) -> None:
        """End it now, with every process that belongs to it; harmless if it has ended."""

    def console_tail(self) -> str:
        """The last part of its output; complete once it has ended."""


class Launcher(Protocol):
    """Starts guests of one kind."""

    @property
    def slowness(self) -> float:
        """Factor for the time limits of these guests, at least 1; call after `check`."""

    def check(self, guests: int, results: Path) -> None:
        """Check that ``guests`` of them can run here at a time.

        Raises:
            ProvisioningError: they cannot run; cause and cure.
        """

    def start(self, results: Path) -> Guest:
        """Start a guest that reads its job from, and writes its journal to, ``results``.

        Raises:
            ProvisioningError: it cannot be started; cause and cure.
        """


class KeptProcess:
    """A command under a keeper.

    Args:
        command: program and arguments.
        results: existing directory; the console is kept there.
        env: the whole environment of the command.
        private: this guest's own directory; removed when it has ended.
        cage: what the command may see and touch; None for no cage.

    Attributes:
        private: that directory.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        results: Path,
        env: Mapping[str, str],
        private: Path | None = None,
        cage: Cage | None = None,
    ) -> None:
        self._console = results / CONSOLE_NAME
        self._tail: str | None = None
        self.private = private
        self._memory = cage.memory if cage else ""
        self._mark = uuid.uuid4().hex
        lifeline, ours = os.pipe()
        # Popen closes all other descriptors in the child, so only we hold the other end of
        # the pipe, whatever else is started at the same time.
        self._lifeline = ours
        try:
            self._keeper = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(_KEEPER),
                    str(self._console),
                    str(private or ""),
                    json.dumps(cage) if cage else "",
                    *(str(word) for word in command),
                ],
                stdin=lifeline,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**env, MARK_VARIABLE: self._mark},
                cwd="/",
                start_new_session=True,
            )
            self._pidfd = os.pidfd_open(self._keeper.pid)
        except OSError as fault:
            os.close(ours)
            self._remove_private()
            raise ProvisioningError(
                f"cannot start a process for a guest: {fault.strerror}; free processes, memory "
                "or file descriptors, or run fewer guests (-j)"
            ) from fault
        finally:
            os.close(lifeline)

    @property
    def keeper_pid(self) -> int:
        """Process id of the keeper; the guest is its child."""
        return self._keeper.pid

    @property
    def status(self) -> int:
        """Exit status of an ended guest, 128 + n for signal n."""
        return self._keeper.returncode or 0

    def fileno(self) -> int:
        """A pidfd of the keeper, which ends after the guest and all its processes."""
        return self._pidfd

    def ended(self) -> bool:
        """Whether nothing is left; if so, collects the end of the console."""
        if self._keeper.poll() is None:
            return False
        self._collect()
        return True

    def end(self) -> None:
        """Close the pipe and wait until the keeper has ended all processes.

        Raises:
            ProvisioningError: processes of the guest cannot be killed.
        """
        self._drop_lifeline()
        self._keeper.send_signal(signal.SIGCONT)  # it may have been stopped
        try:
            self._keeper.wait(timeout=_END_LIMIT_S)
            self._collect()
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
            self._collect()
            raise ProvisioningError(
                f"a guest did not end within {_END_LIMIT_S:.0f} s of being killed; the host "
                "keeps its processes in uninterruptible sleep, see `ps -eo pid,stat,wchan,args` "
                "and the host's kernel log"
            ) from None
        finally:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def console_tail(self) -> str:
        """The end of the output, from the keeper's report or else from the file."""
        if self._tail is not None:
            return self._tail
        try:
            with os.fdopen(open_stranger(self._console, _CONSOLE_BYTES_MAX), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_REPORT_BYTES))
                return file.read(TAIL_REPORT_BYTES).decode(errors="replace")
        except (OSError, NotAFile):
            return ""

    def _drop_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _collect(self) -> None:
        if self._tail is not None:
            return
        self._drop_lifeline()
        assert self._keeper.stdout is not None
        with self._keeper.stdout as pipe:
            report = pipe.read(TAIL_REPORT_BYTES).decode(errors="replace")
        # A killed keeper gives no report, and could not end the guest.
        self._tail = report or self.console_tail()
        if self._keeper.returncode < 0:
            end_marked(self._mark)
            self._remove_private()

    def _remove_private(self) -> None:
        for path in (self.private, self._memory):
            if path:
                shutil.rmtree(path, ignore_errors=True)


def end_marked(mark: str) -> None:
    """Kill every process with ``mark`` in its environment, and wait until they are gone."""
    entry = f"{MARK_VARIABLE}={mark}".encode()
    with ExitStack() as stack:
        dying = select.poll()
        count = 0
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # gone by now, or another user's
                if entry not in environ.read_bytes().split(b"\0"):
                    continue
                pidfd = os.pidfd_open(int(environ.parent.name))
                stack.callback(os.close, pidfd)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                dying.register(pidfd, select.POLLIN)
                count += 1
        while count:
            ended = dying.poll(_END_LIMIT_S * 1000)
            if not ended:
                return
            for pidfd, _ in ended:
                dying.unregister(pidfd)
                count -= 1
