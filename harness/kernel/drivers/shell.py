"""One shell into which commands are typed, as a person would do.

Starting a program from a large Python process costs a guest 100 ms, most of it for copying that
process; a shell that is started once, through `sh`, forks in a fraction of that.  It runs one
command at a time, with files for its three streams, and answers with the exit status.
"""

import contextlib
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import sh

from harness.kernel.drivers.ioctl import alarm

_SHELL: Final = "/bin/sh"


class Answer(NamedTuple):
    """The result of a command: exit status, standard output, standard error."""

    status: int
    output: str
    errors: str


class Shell:
    """A shell in its own session.

    Args:
        environment: the whole environment of the shell and of what it starts.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._directory = tempfile.TemporaryDirectory(prefix="dmsnap-shell-")
        self._streams = Path(self._directory.name)
        self._start()

    def _start(self) -> None:
        typed, self._keyboard = os.pipe()
        self._screen, shown = os.pipe()
        with os.fdopen(typed, "rb") as stdin, os.fdopen(shown, "wb") as stdout:
            options: Mapping[str, Any] = {
                "_in": stdin,
                "_out": stdout,
                "_env": self._environment,
                "_bg": True,
                "_bg_exc": False,
                "_tty_out": False,
                "_new_session": True,
                "_cwd": str(self._streams),
            }
            self._running = sh.Command(_SHELL)(**options)

    def run(self, argv: Sequence[str], *, given: str = "", limit_s: float) -> Answer:
        """Run one command; ``given`` is its standard input.

        Raises:
            TimeoutError: it took longer; it, and the shell, have been killed, and a new shell
                waits for the next command.
        """
        (self._streams / "in").write_text(given)
        line = f"{shlex.join(argv)} <in >out 2>err; echo $?\n"
        said = b""
        try:
            with alarm(limit_s):
                os.write(self._keyboard, line.encode())
                while not said.endswith(b"\n"):
                    part = os.read(self._screen, 64)
                    if not part:
                        raise OSError(f"the shell ended while it ran {argv[0]}")
                    said += part
        except TimeoutError:
            self._stop()
            self._start()
            raise
        return Answer(
            int(said),
            *(
                (self._streams / name).read_text("utf-8", "surrogateescape")
                for name in ("out", "err")
            ),
        )

    def _stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._running.kill_group()
        with contextlib.suppress(sh.ErrorReturnCode):
            self._running.wait()
        os.close(self._keyboard)
        os.close(self._screen)

    def close(self) -> None:
        """Stop the shell."""
        self._stop()
        self._directory.cleanup()
