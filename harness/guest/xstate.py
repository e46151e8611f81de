"""The cure for a User-mode Linux that has too little room for this processor's XSTATE.

Before 6.13 it moves the floating-point state of its processes through a buffer of a fixed size,
and dies with its first process on a host whose processor has more (AMX: Intel servers since
Sapphire Rapids).  `vm/ptrace-whole-xstate.c` explains why, and cures it: an object that answers
ptrace(2) in place of the C library.  Here it is compiled and put in front of the C library of a
copy of the program.

Any C compiler will do.  If there is none, Debian's tcc is fetched like a kernel
(`harness.guest.fetch.apt`): 0.3 MB, and it needs no headers for this.  The object is kept in
``$XDG_CACHE_HOME/dmsnap/whole-xstate``, so this happens once.

Whether the cure is used is decided by a boot (`harness.guest.boots`).
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.files import write_whole
from harness.guest.catalogue import UML, Progress, answers, cache_dir, entries, vm_file
from harness.guest.fetch.apt import PrivateApt, debian_mirror, patchelf_program, unpack
from harness.guest.programs import run

SOURCE: Final = "ptrace-whole-xstate.c"
OBJECT: Final = "ptrace-whole-xstate.so"
CAUSE: Final = (
    "it has too little room for this processor's floating-point state (AMX; fixed in Linux 6.13)"
)

_SIGN: Final = re.compile(r"ptrace set fp regs failed|Attempted to kill init! exitcode=0x0000000b")
_FLAGS: Final = ("-fPIC", "-nostdlib", "-shared")
_LIMIT_S: Final = 60.0


def shows(console: str) -> bool:
    """Whether a kernel died in the way that this cures."""
    return _SIGN.search(console) is not None


def is_current(program: Path) -> bool:
    """Whether a cured program has the object of the current source next to it."""
    return program.with_name(OBJECT).read_bytes() == _object().read_bytes()


def cured(program: Path, home: Path, progress: Progress) -> Path:
    """A copy of a program that uses the object: ``cured/linux`` in ``home``.

    Args:
        program: a User-mode Linux.
        home: existing directory; an earlier ``cured`` is replaced in one step.
        progress: called with a line for each thing that happens.

    Raises:
        ProvisioningError: it is linked statically, or a download fails; cause and cure.
    """
    patchelf = patchelf_program()
    if run([patchelf, "--print-interpreter", str(program)], limit_s=_LIMIT_S)[0]:
        raise ProvisioningError(
            f"{program} is linked statically, so nothing can be put in front of its C "
            "library; build it without CONFIG_STATIC_LINK, or build Linux 6.13 or newer"
        )
    try:
        built = compiled(vm_file(SOURCE), _object(), progress)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=home) as work:
            fresh = Path(work, "cured")
            fresh.mkdir()
            copy = fresh / "linux"
            shutil.copyfile(program, copy)
            copy.chmod(0o755)
            shutil.copyfile(built, fresh / OBJECT)
            # Found next to the program, wherever the cache is; patchelf puts it first.
            status, said = run(
                [patchelf, "--add-needed", f"$ORIGIN/{OBJECT}", str(copy)], limit_s=_LIMIT_S
            )
            runs, version = (False, said.strip()) if status else answers(copy)
            if not runs:
                raise ProvisioningError(f"{OBJECT} cannot be added to {program}: {version}")
            if (home / "cured").exists():
                (home / "cured").rename(Path(work, "old"))
            fresh.rename(home / "cured")
    except OSError as fault:
        raise ProvisioningError(
            f"cannot write into {home.parents[1]}: {fault.strerror}; free "
            "space, or set XDG_CACHE_HOME to another directory"
        ) from fault
    return home / "cured" / "linux"


def _object() -> Path:
    """Where the compiled object is kept, named after its source."""
    digest = hashlib.sha256(vm_file(SOURCE).read_bytes()).hexdigest()
    return cache_dir().parent / "whole-xstate" / f"{digest[:16]}.so"


def compiled(source: Path, target: Path, progress: Progress) -> Path:
    """Compile an object to load before the C library; does nothing if it exists.

    Args:
        source: uses no header and nothing but the C library.
        target: the file to create.
        progress: called with a line for each thing that happens.

    Raises:
        ProvisioningError: there is no compiler, and none can be fetched; cause and cure.
        OSError: ``target`` cannot be written.
    """
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as name:
        work = Path(name)
        failed = []
        for compiler in _compilers(work, progress):
            argv = [*compiler, *_FLAGS, "-o", str(work / target.name), str(source)]
            status, said = run(argv, limit_s=_LIMIT_S)
            if not status:
                # tcc leaves out the stack's flags, which makes it executable.
                run(
                    [patchelf_program(), "--clear-execstack", str(work / target.name)],
                    limit_s=_LIMIT_S,
                )
                write_whole(target, (work / target.name).read_bytes())
                return target
            failed.append(
                f"{Path(compiler[0]).name}: {(said.strip().splitlines() or ['no output'])[-1]}"
            )
    raise ProvisioningError(
        f"{source.name} cannot be compiled ({'; '.join(failed)}); install a C "
        "compiler: sudo apt-get install -y tcc"
    )


def _compilers(work: Path, progress: Progress) -> Iterator[list[str]]:
    """C compilers; the next one is for when the one before fails."""
    for name in ("cc", "tcc"):
        if found := shutil.which(name):
            yield [found]
    yield _fetched_tcc(work, progress)


def _fetched_tcc(work: Path, progress: Progress) -> list[str]:
    """Debian's tcc, unpacked below ``work``."""
    # From the oldest suite: a C library runs programs built for older ones, not newer ones.
    suite = next(entry.suite for entry in entries() if entry.guest == UML)
    progress(f"no usable C compiler on this machine; fetching Debian's tcc of {suite}")
    try:
        apt = PrivateApt(suite, work / "apt", debian_mirror(), progress)
        apt.update()
        tree = work / "tcc"
        unpack(apt.download("tcc"), tree)
    except ProvisioningError as fault:
        raise ProvisioningError(
            f"no usable C compiler on this machine, and fetching Debian's tcc "
            f"failed ({fault}); type: sudo apt-get install -y tcc"
        ) from fault
    # Its own directory, which is compiled into it as a system path.
    own = next(tree.glob("usr/lib/*/tcc"), tree)
    return [str(tree / "usr/bin/tcc"), f"-B{own}"]
