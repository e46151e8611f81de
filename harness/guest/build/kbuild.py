"""kbuild: make, run on a farm (`harness.guest.build.tree`), out of tree, and what it says.

A kernel tree's Makefile is code that its user asked to be run.  It runs with the user's rights, in
an environment of its own: what is set for other builds (ARCH, CROSS_COMPILE, O, MAKEFLAGS, …)
would make another kernel of it.
"""

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.errors import BuildFailed, ProvisioningError
from harness.guest.catalogue import Progress
from harness.guest.programs import run, search_path

LOG: Final = "build.log"
"""What make printed last, in the directory of a build."""
PREREQUISITES: Final = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "awk": "mawk",
}
"""Program → the Debian package that has it (Documentation/process/changes.rst)."""
FOR_MODULES: Final = ("make", "gcc", "ld")
"""Enough where a kernel's headers are there."""
LIMIT_S: Final = 7200.0
_HEADER: Final = Path("/usr/include/stdio.h")
_KEPT: Final = ("PATH", "HOME", "TMPDIR", "CCACHE_DIR", "XDG_CACHE_HOME")
_TELL_S: Final = 15.0
_SHOWN_LINES: Final = 12
_COMPILED: Final = re.compile(rb"^  (?:CC|LD|AS|HOSTCC|AR|LINK)\b.*$", re.MULTILINE)
_ERROR: Final = re.compile(
    r"(?:\berror:|\bundefined reference\b|\bundefined!|\*\*\* )", re.IGNORECASE
)
_AFTER_ERROR: Final = re.compile(r"^\s*(?:\d+ )?\s*\|")
"""The line of source that a compiler quotes, and the mark below it."""
_MAKES: Final = re.compile(r"^make(?:\[\d+\])?: ")


def check(programs: Sequence[str] = tuple(PREREQUISITES)) -> None:
    """See that a kernel can be built here.

    Raises:
        ProvisioningError: something is missing; all of it, with what to type.
    """
    path = search_path()
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    packages = [PREREQUISITES[name] for name in missing]
    if not _HEADER.exists():
        missing.append("the C library's headers")
        packages.append("libc6-dev")
    if missing:
        raise ProvisioningError(
            f"to build a kernel takes {', '.join(missing)}, and this machine has none of it; "
            f"type: sudo apt-get install -y {' '.join(dict.fromkeys(packages))}"
        )


def make(
    directory: Path,
    words: Sequence[str],
    *,
    log: Path,
    progress: Progress = lambda _line: None,
    what: str = "",
) -> str:
    """Run make; what it printed.

    Args:
        directory: where (``-C``).
        words: variables and targets.
        log: file that keeps what it printed.
        progress: told each quarter of a minute how far it is, in one line.
        what: is built, in words; empty if nothing need be told.

    Raises:
        BuildFailed: it failed; the lines that say why.
        ProvisioningError: it did not come to an end.
    """
    started = told = time.monotonic()
    done = 0

    def heard(data: bytes) -> None:
        nonlocal told, done
        done += len(_COMPILED.findall(data))
        if what and time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            progress(f"building {what}: {done} files, {told - started:.0f} s")

    jobs = len(os.sched_getaffinity(0))
    try:
        status, output = run(
            ["make", "-C", str(directory), f"-j{jobs}", "--no-print-directory", *words],
            limit_s=LIMIT_S,
            env={name: os.environ[name] for name in _KEPT if name in os.environ}
            | {"PATH": search_path()},
            whole_env=True,
            heard=heard,
            slow=f"what it printed is in {log}",
        )
    finally:
        log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(output, encoding="utf-8")
    if status:
        said = errors(output)
        raise BuildFailed(
            f"{what or 'the kernel'} cannot be built (all of it: {log}):\n" + "\n".join(said)
        )
    return output


def errors(output: str) -> list[str]:
    """The lines of a failed build that say why: the compiler's first error, with what it quotes."""
    lines = output.splitlines()
    at = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    of_compiler = [number for number in at if not _MAKES.match(lines[number])]
    found: list[str] = []
    for number in of_compiler or at:
        found.append(lines[number])
        for line in lines[number + 1 :]:
            if not _AFTER_ERROR.match(line):
                break
            found.append(line)
        if len(found) >= _SHOWN_LINES:
            break
    return found[:_SHOWN_LINES] or lines[-_SHOWN_LINES:] or ["make says nothing"]


def refuse_spaces(directory: Path) -> None:
    """See that kbuild can work in ``directory``.

    Raises:
        ProvisioningError: its path has what make splits words at.
    """
    if re.search(r"[\s:]", str(directory)):
        raise ProvisioningError(
            f"kbuild cannot work in {directory}, whose path has a space or a colon: set "
            "XDG_CACHE_HOME to a directory without"
        )
