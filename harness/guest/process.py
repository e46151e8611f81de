"""A guest as a host process: started under its keeper, waited for without busy loops, ended whole.

Any command can be kept; `harness.guest.uml` keeps a kernel, the tests keep small programs that
behave as badly as a guest can.  How the family of processes is held together is told in
`harness.guest.keeper`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from harness.errors import ProvisioningError
from harness.guest.keeper import TAIL_REPORT_BYTES

CONSOLE_NAME: Final = "console.log"
JOURNAL_NAME: Final = "journal.jsonl"
JOB_NAME: Final = "job.json"

_END_LIMIT_S: Final = 20.0
_KEEPER: Final = Path(__file__).with_name("keeper.py")


class Guest(Protocol):
    """A guest that was started; the supervisor needs no more of it."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the guest has ended."""

    def ended(self) -> bool:
        """The guest ended, by itself or not, and nothing of it is left."""

    def end(self) -> None:
        """End it now, with every process that belongs to it; harmless when it has ended."""

    def console_tail(self) -> str:
        """The last that it printed; complete once it has ended."""


class Launcher(Protocol):
    """Starts guests of one kind."""

    def check(self, guests: int, results: Path) -> None:
        """See that ``guests`` of them can run here at the same time.

        Raises:
            ProvisioningError: they cannot; cause and cure.
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
        cleanup: called once when it has ended.
    """

    def __init__(self, command: Sequence[str | Path], *, results: Path, env: Mapping[str, str],
                 cleanup: Callable[[], object] | None = None) -> None:
        self._console = results / CONSOLE_NAME
        self._tail: str | None = None
        self._stack = ExitStack()
        if cleanup is not None:
            self._stack.callback(cleanup)
        lifeline, ours = os.pipe()
        # Popen closes every other descriptor in the child, so that only we hold the other end
        # of the pipe, whatever else is started at the same time.
        self._lifeline = ours
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), str(self._console),
                 *(str(word) for word in command)],
                stdin=lifeline, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=dict(env), cwd="/", start_new_session=True)
            self._pidfd = os.pidfd_open(self._keeper.pid)
        except OSError as fault:
            os.close(ours)
            self._stack.close()
            raise ProvisioningError(
                f"cannot start a process for a guest: {fault.strerror}; free processes, memory "
                "or file descriptors, or run fewer guests (-j)") from fault
        finally:
            os.close(lifeline)
        self._stack.callback(os.close, self._pidfd)

    @property
    def keeper_pid(self) -> int:
        """Process id of the keeper; the guest is its child."""
        return self._keeper.pid

    def fileno(self) -> int:
        """A pidfd of the keeper, which ends after the guest and all that belongs to it."""
        return self._pidfd

    def ended(self) -> bool:
        """Whether nothing is left; collects the end of the console when that is so."""
        if self._keeper.poll() is None:
            return False
        self._collect()
        return True

    def end(self) -> None:
        """Close the lifeline and wait until the keeper has ended the family.

        Raises:
            ProvisioningError: processes of the guest cannot be killed.
        """
        self._drop_lifeline()
        try:
            self._keeper.wait(timeout=_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
            self._collect()
            raise ProvisioningError(
                f"a guest did not end within {_END_LIMIT_S:.0f} s of being killed: the host "
                "keeps its processes in uninterruptible sleep, see `ps -eo pid,stat,wchan,args` "
                "and the host's kernel log") from None
        self._collect()

    def console_tail(self) -> str:
        """The last that was printed: from the keeper's report, else from the file."""
        if self._tail is not None:
            return self._tail
        try:
            with self._console.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_REPORT_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
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
            report = pipe.read().decode(errors="replace")
        # A keeper that was killed has no report to give.
        self._tail = report or self.console_tail()
        self._stack.close()
