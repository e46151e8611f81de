"""Programs of the host that dmsnap needs: apt, make, a compiler, …; found, run, and ended whole."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError

_LEASH: Final = Path(__file__).with_name("leash.py")
_LEASH_LIMIT_S: Final = 10.0
_READ_BYTES: Final = 1 << 16
_SLOW: Final = "check the network, or name another mirror in DMSNAP_MIRROR"


def search_path() -> str:
    """Where programs are looked for: an ordinary user's PATH lacks the directories of root's."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def require(program: str, cure: str) -> str:
    """Path of a program.

    Raises:
        ProvisioningError: it is not installed; names the command to type.
    """
    found = shutil.which(program, path=search_path())
    if found is None:
        raise ProvisioningError(f"{program} is missing on this machine; type: {cure}")
    return found


def run(
    argv: Sequence[str],
    *,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    whole_env: bool = False,
    cwd: Path | None = None,
    heard: Callable[[bytes], None] = lambda _data: None,
    slow: str = _SLOW,
) -> tuple[int, str]:
    """Run a program; returns its status and all that it printed.

    All that it starts ends with it, and it ends when the time is up, when the user interrupts, or
    when dmsnap is gone in any way: apt has helpers that would go on downloading.

    Args:
        argv: program and arguments.
        limit_s: seconds.
        env: beside what dmsnap has itself, in English.
        whole_env: ``env`` is all of it.
        cwd: where it runs.
        heard: told what it prints, as that comes.
        slow: what to do where it takes too long.

    Raises:
        ProvisioningError: the limit passed.
    """
    lifeline, ours = os.pipe()
    deadline = time.monotonic() + limit_s
    said = bytearray()
    try:
        with (
            os.fdopen(lifeline, "rb") as stdin,
            subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LEASH), *argv],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
                env={**({} if whole_env else os.environ), "LC_ALL": "C", **(env or {})},
            ) as process,
        ):
            assert process.stdout is not None
            try:
                while True:
                    left = max(0.0, deadline - time.monotonic())
                    if not select.select([process.stdout], [], [], left)[0]:
                        raise subprocess.TimeoutExpired(argv, limit_s)
                    data = os.read(process.stdout.fileno(), _READ_BYTES)
                    if not data:
                        break
                    said += data
                    heard(data)
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except BaseException as fault:
                os.close(ours)
                ours = -1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LEASH_LIMIT_S)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(fault, subprocess.TimeoutExpired):
                    raise ProvisioningError(
                        f"`{' '.join(argv)}` did not end within {limit_s:.0f} s; {slow}"
                    ) from None
                raise
    finally:
        if ours >= 0:
            os.close(ours)
    return process.returncode, said.decode(errors="replace")
