"""What a guest can see of the host, and which cage this host allows (`harness.guest.cage`).

A guest needs system programs and libraries, Python with dmsnap and its packages, its kernel and
modules, what its job names, and two writable directories: its results and its private one.  It
sees nothing else: no home directory, no /run with its sockets, only a few files of /etc.

Which cage a host allows is found by trying it with a small program, once per process.  A user
whose host allows none is told so; root, who could lose the machine by it, is refused a run unless
``--no-cage`` is given.
"""

import functools
import os
import select
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import harness
from harness.errors import ProvisioningError
from harness.files import is_ours
from harness.guest.cage import LANDLOCK, NAMESPACES, Cage
from harness.guest.catalogue import QEMU, UML, Kernel, cache_dir
from harness.guest.fetch.apt import patchelf_program
from harness.guest.host_root import private_dir
from harness.guest.process import KeptProcess
from harness.guest.programs import run

NO_CAGE: Final = "--no-cage"
ROOT_NAME: Final = "root"
"""The cage's root, in the private directory."""
SYSTEM: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
)
"""What programs need from a system, and everybody may read."""

_MEMORY_BESIDE_MIB: Final = 16
"""Extra size of the tmpfs with a guest's memory."""
_TRIAL: Final = ("/bin/sh", "-c", "echo entered")
_TRIAL_LIMIT_S: Final = 20.0
_MOUNTS: Final = Path("/proc/self/mountinfo")
_wanted = True


@dataclass(frozen=True, slots=True)
class Allowed:
    """What this host allows.

    Attributes:
        kind: `NAMESPACES`, `LANDLOCK`, or empty.
        words: the kind, for people.
        reason: why it is not a stronger one; empty if it is the strongest.
    """

    kind: str
    words: str
    reason: str = ""


def forgo() -> None:
    """Give guests of this process no cage, as the user asked."""
    global _wanted  # noqa: PLW0603 - one process serves one command
    _wanted = False


def allowed(*, procfs: bool = False) -> Allowed:
    """The best cage that this host allows.

    Args:
        procfs: guests need to see their own processes, which some containers forbid.

    Raises:
        ProvisioningError: there is no cage, and this is root.
    """
    if not _wanted:
        return Allowed("", "none", f"switched off by {NO_CAGE}")
    found = _tried(procfs)
    if not found.kind and os.geteuid() == 0:
        raise ProvisioningError(
            f"guests cannot be confined on this host, which allows neither namespaces nor Landlock "
            f"({found.reason}), and root may do everything on it; run dmsnap as another user, or, "
            f"if you trust the kernels, with {NO_CAGE}"
        )
    return found


@functools.cache
def _tried(procfs: bool) -> Allowed:
    reasons: list[str] = []
    for kind in (NAMESPACES, LANDLOCK):
        said = _try(kind, procfs)
        if said.strip() == "entered":
            return Allowed(kind, kind, "; ".join(reasons))
        reasons.append(f"{kind}: {said.strip().splitlines()[-1] if said.strip() else 'no answer'}")
    return Allowed("", "none", "; ".join(reasons))


def _try(kind: str, procfs: bool) -> str:
    """What a small program prints in a cage of that kind, or why it cannot."""
    private = private_dir()
    (private / ROOT_NAME).mkdir()
    cage = Cage(
        kind,
        str(private / ROOT_NAME),
        SYSTEM,
        (str(private),),
        memory_mib=1,
        program=_TRIAL[0],
        procfs=procfs,
    )
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as results:
        guest = KeptProcess(
            _TRIAL,
            results=Path(results),
            private=private,
            cage=cage,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
        try:
            select.select([guest], [], [], _TRIAL_LIMIT_S)
        finally:
            guest.end()
        return guest.console_tail()


def told(kernels: Iterable[Kernel]) -> str:
    """How guests of these kernels are confined, in one line; empty if none run on this host.

    Raises:
        ProvisioningError: nothing confines them, and this is root.
    """
    kinds = {kernel.guest for kernel in kernels} & {UML, QEMU}
    if not kinds:
        return ""
    found = allowed(procfs=QEMU in kinds)
    what = {
        NAMESPACES: "",
        LANDLOCK: "; guests can see which files exist on this host",
        "": ": the guests' kernels may do on this host what you may",
    }[found.kind]
    return f"{found.words}{what}{f' ({found.reason})' if found.reason else ''}"


def confine(
    program: str,
    kernel: Kernel,
    python: Path,
    argv: Iterable[str],
    *,
    results: Path,
    private: Path,
    memory: Path | None = None,
    memory_mib: int = 0,
    devices: Sequence[str] = (),
    procfs: bool = False,
) -> Cage | None:
    """The cage of one guest; None if there is none.

    Args:
        program: what runs as its first process.
        kernel: what it boots.
        python: interpreter in the guest, that of dmsnap.
        argv: its arguments; files among them are visible.
        results: its results directory.  If dmsnap made the parent directory, with those of other
            guests of this kernel, that is visible too.
        private: its private directory; the cage is built there.
        memory: directory for the file with the guest's memory; None if there is none.
        memory_mib: its size in MiB.
        devices: host devices that it may use.
        procfs: whether it needs to see its own processes.

    Raises:
        ProvisioningError: there is no cage, and this is root.
        OSError: the disk is full or not writable.
    """
    kind = allowed(procfs=procfs).kind
    if not kind:
        return None
    root = private / ROOT_NAME
    root.mkdir()
    seen = [
        *SYSTEM,
        *_python(python),
        program,
        *libraries(program),
        str(kernel.program),
        str(kernel.modules),
        *(word for word in argv if Path(word).is_absolute()),
        # Fetched kernels have more: their C library, what was built for them.
        str(cache_dir().parent),
    ]
    if is_ours(results.parent):
        seen.append(str(results.parent))
    own_memory, tmpfs_mib = "", 0
    if memory is not None and kind == NAMESPACES and _in_ram(memory):
        tmpfs_mib = memory_mib + _MEMORY_BESIDE_MIB
    elif memory is not None:
        own_memory = tempfile.mkdtemp(prefix="dmsnap-memory-", dir=memory)
    writable = [str(Path(path).absolute()) for path in (results, private, own_memory) if str(path)]
    return Cage(
        kind,
        str(root),
        _outermost(seen),
        tuple(writable),
        tmpfs_mib,
        own_memory,
        os.path.realpath(program),
        procfs,
        tuple(device for device in devices if os.access(device, os.R_OK | os.W_OK)),
    )


@functools.cache
def libraries(program: str) -> tuple[str, ...]:
    """Where a program's loader and libraries are, as far as it names them by path.

    A kernel that a user built may bring its own C library.  A file that is not ELF, or is linked
    statically, names none.
    """

    def ask(what: str) -> list[str]:
        status, output = run(
            [patchelf_program(), f"--print-{what}", program], limit_s=_TRIAL_LIMIT_S
        )
        return output.replace("$ORIGIN", str(Path(program).parent)).split() if not status else []

    paths = [*ask("interpreter"), *ask("needed"), *":".join(ask("rpath")).split(":")]
    return tuple(path for path in paths if Path(path).is_absolute() and Path(path).exists())


def _python(python: Path) -> list[str]:
    """Directories of Python, dmsnap, and the packages of both."""
    packages = [
        path
        for path in (*sys.path, *site.getsitepackages())
        if Path(path).name in ("site-packages", "dist-packages")
    ]
    return [
        str(python),
        sys.prefix,
        sys.exec_prefix,
        sys.base_prefix,
        sys.base_exec_prefix,
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        str(Path(harness.__file__).parent.parent),
        *packages,
    ]


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Absolute paths, without those inside another one with no link between."""
    found: list[str] = []
    # Without following links, which must stay visible as links.
    for path in sorted({os.path.normpath(path) for path in paths if Path(path).is_absolute()}):
        real = os.path.realpath(path)
        if path != real or not any(Path(path).is_relative_to(each) for each in found):
            found.append(path)
    return tuple(found)


def _in_ram(directory: Path) -> bool:
    """Whether the file system of ``directory`` is a tmpfs."""
    here = directory.stat().st_dev
    with _MOUNTS.open(errors="replace") as mounts:
        for line in mounts:
            words = line.split()
            if words[2] == f"{os.major(here)}:{os.minor(here)}":
                return words[words.index("-") + 1] == "tmpfs"
    return False
