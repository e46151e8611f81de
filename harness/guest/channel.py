"""A way into a guest for testinfra, through the results directory.

For guests without ssh: User-mode Linux and QEMU.  `harness.kernel.listener` is the other end; it
describes the form of a command and its answer.
"""

import os
import select
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from testinfra.backend.base import BaseBackend, CommandResult

from harness.errors import GuestLost, NotAFile
from harness.files import read_stranger, write_whole
from harness.guest.process import Guest

LISTENER: Final = ("-m", "harness.kernel.listener")
"""What Python runs in the guest."""
_POLL_S: Final = 0.02
_ANSWER_BYTES_MAX: Final = 16 << 20


class _Answer(msgspec.Struct):
    status: int
    stdout: bytes
    stderr: bytes


class Channel(BaseBackend):  # type: ignore[misc] # testinfra's own annotations are partial
    """A testinfra backend over the results directory of a guest.

    Args:
        guest: a guest that runs the listener; its job is in ``results``.
        results: its results directory.
        limit_s: longest time for an answer.
    """

    NAME = "dmsnap"

    def __init__(self, guest: Guest, results: Path, limit_s: float) -> None:
        super().__init__("guest")
        self._guest = guest
        self._results = results
        self._limit_s = limit_s
        self._number = 0

    def wait_until_up(self, limit_s: float) -> None:
        """Wait for the listener.

        Raises:
            GuestLost: it does not come up.
        """
        self._answer(0, "to come up", limit_s)

    def run(self, command: str, *args: str, **_kwargs: Any) -> CommandResult:
        """Run a command in the guest.

        Raises:
            GuestLost: there is no answer, or an invalid one.
        """
        text = self.get_command(command, *args)
        self._number += 1
        write_whole(
            self._results / f"ask-{self._number}.json", msgspec.json.encode({"command": text})
        )
        answer = self._answer(self._number, f"to answer {text!r}", self._limit_s)
        return self.result(answer.status, text.encode(), answer.stdout, answer.stderr)

    def _answer(self, number: int, what: str, limit_s: float) -> _Answer:
        file = self._results / f"answer-{number}.json"
        end = time.monotonic() + limit_s
        while not os.path.lexists(file):
            ended = bool(select.select([self._guest], [], [], _POLL_S)[0]) and self._guest.ended()
            if os.path.lexists(file):
                break
            if ended or time.monotonic() > end:
                why = "ended when it was" if ended else f"took more than {limit_s:.0f} s"
                raise GuestLost(
                    f"a guest {why} {what}; its console ends with:\n"
                    f"{self._guest.console_tail()[-2000:]}"
                )
        try:
            return msgspec.json.decode(read_stranger(file, _ANSWER_BYTES_MAX), type=_Answer)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, NotAFile) as fault:
            raise GuestLost(f"a guest was {what}, and wrote rubbish: {fault}") from None
