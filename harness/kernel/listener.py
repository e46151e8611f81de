"""Runs commands in a guest for the host: ``python -m harness.kernel.listener DIRECTORY``.

The channel is the results directory, as for everything that leaves a guest: the host puts
``ask-N.json`` there (N from 1), the answer is ``answer-N.json``; both appear atomically.  Commands
run one after the other, as root, by ``sh -c``.  Before the first one, the modules are loaded as the
agent would load them; it is up to the host to find out what is missing.
"""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from harness.errors import DmsnapError
from harness.files import write_whole
from harness.kernel import machine, modules
from harness.kernel.agent import read_job
from harness.trace.steps import encode

COMMAND_LIMIT_S: Final = 60.0
_POLL_S: Final = 0.02
NO_ANSWER: Final = 124
"""Exit status of a command that did not end in time, as of timeout(1)."""


class Ask(Struct, frozen=True):
    """A shell command."""

    command: str


class Answer(Struct, frozen=True):
    """Its result."""

    status: int
    stdout: bytes
    stderr: bytes


def ask_file(directory: Path, number: int) -> Path:
    """Where the host puts a command."""
    return directory / f"ask-{number}.json"


def answer_file(directory: Path, number: int) -> Path:
    """Where the guest puts the result; number 0 says that it is listening."""
    return directory / f"answer-{number}.json"


def carry_out(command: str) -> Answer:
    """Run a command."""
    try:
        done = subprocess.run(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as fault:
        return Answer(
            NO_ANSWER, fault.stdout or b"", f"no end within {COMMAND_LIMIT_S:g} s".encode()
        )
    return Answer(done.returncode, done.stdout, done.stderr)


def listen(directory: Path) -> None:
    """Answer until the guest is stopped.

    Raises:
        UnsafeMachine: this is not a disposable guest.
    """
    job = read_job(directory)
    machine.check(here=job.here)
    with suppress(DmsnapError, OSError):
        modules.load_all(Path(job.modules))
    number = 0
    write_whole(answer_file(directory, number), encode(Answer(0, b"", b"")))
    while True:
        number += 1
        while not ask_file(directory, number).exists():
            time.sleep(_POLL_S)
        ask = msgspec.json.decode(ask_file(directory, number).read_bytes(), type=Ask)
        write_whole(answer_file(directory, number), encode(carry_out(ask.command)))


if __name__ == "__main__":
    listen(Path(sys.argv[1]))
