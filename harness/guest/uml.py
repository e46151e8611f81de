"""User-mode Linux: a real kernel as an ordinary process, without root, KVM or network.

The guest's root is the host's own file system, read-only (hostfs), so Python and dmsnap run in
it unchanged; its results directory is mounted over itself, read-write.  `vm/init` is its first
process.  Its memory is a file that the kernel unlinks at once, in a directory that must allow
executable mappings and have room; if /dev/shm is full, tiny (containers) or mounted noexec, another
directory is used.  The process is in a cage (`harness.guest.cage`): what it can see and touch of
the host does not depend on what its kernel does.

Before its first guest a kernel proves that it boots here (`harness.guest.boots`); if it needs the
cure for that, it runs cured.

Left out on purpose: network, host block devices, commands of the management console.
"""

import dataclasses
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest import boots
from harness.guest.cage import MEMORY
from harness.guest.catalogue import Kernel, Progress
from harness.guest.confinement import confine
from harness.guest.host_root import (
    AGENT,
    check_limits,
    check_seen,
    passing_dir,
    private_dir,
    write_init,
)
from harness.guest.process import KeptProcess

MEMORY_MIB_MIN: Final = 64
"""The kernel and Python do not both fit in less."""
_PROOF_MIB: Final = 128


def memory_dirs() -> list[Path]:
    """Directories that may hold a guest's memory, best first; those in RAM come first."""
    names = [
        "/dev/shm",  # noqa: S108
        os.environ.get("XDG_RUNTIME_DIR", ""),
        "/tmp",  # noqa: S108
        tempfile.gettempdir(),
    ]
    return [Path(name) for name in dict.fromkeys(names) if name]


def memory_dir(need_mib: int, candidates: Iterable[Path] | None = None) -> Path:
    """The first directory that can hold ``need_mib`` MiB of executable guest memory.

    Raises:
        ProvisioningError: none can; says why for each.
    """
    refused = []
    for directory in memory_dirs() if candidates is None else candidates:
        reason = _unfit_for_memory(directory, need_mib)
        if not reason:
            return directory
        refused.append(f"{directory}: {reason}")
    raise ProvisioningError(
        f"no directory has room for the memory of the guests ({need_mib} MiB): "
        + "; ".join(refused)
        + ". Free space there, run fewer guests (-j), or set TMPDIR to a directory with room "
        "on a file system that is not mounted noexec (sudo mount -o remount,exec /dev/shm)"
    )


def _unfit_for_memory(directory: Path, need_mib: int) -> str:
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.truncate(mmap.PAGESIZE)
            mmap.mmap(
                file.fileno(),
                mmap.PAGESIZE,
                flags=mmap.MAP_SHARED,
                prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
            ).close()
        room = os.statvfs(directory)
    except PermissionError as fault:
        # A file that can be created but not mapped: the mount forbids execution.
        return "mounted noexec" if fault.filename is None else "not writable"
    except OSError as fault:
        return os.strerror(fault.errno or 0)
    free_mib = room.f_bavail * room.f_frsize >> 20
    return "" if free_mib >= need_mib else f"{free_mib} MiB free"


class UmlGuest:
    """Starts User-mode Linux guests of one kernel; a `harness.guest.process.Launcher`.

    Args:
        kernel: the kernel to boot.
        python: interpreter that runs in the guest; a venv's, so that it finds its packages.
        argv: its arguments; the results directory is appended.
        memory_mib: memory of the guest.
    """

    slowness = 1.0
    """The supervisor's limits are made for these guests."""
    memory_mib = 512
    """Enough for the catalogue."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        python: Path,
        argv: Iterable[str] = AGENT,
        memory_mib: int = memory_mib,
    ) -> None:
        if memory_mib < MEMORY_MIB_MIN:
            raise ProvisioningError(
                f"a guest needs at least {MEMORY_MIB_MIN} MiB of memory, {memory_mib} were given"
            )
        self.kernel = kernel
        self._python = python
        self._argv = tuple(argv)
        self._memory_mib = memory_mib
        self._proof: boots.Proof | None = None

    def check(self, guests: int, results: Path) -> None:
        """Check that the kernel boots, and that ``guests`` guests have memory and what they need.

        Raises:
            CannotBoot: it does not boot.
            ProvisioningError: cause and cure.
        """
        memory_dir(self._memory_mib * guests)
        check_limits(self._memory_mib)
        check_seen(self.kernel, self._python, results)
        self.prove()

    def prove(self, *, fresh: bool = False, progress: Progress = lambda _line: None) -> str:
        """Check that the kernel boots here; returns the result in words.

        Args:
            fresh: boot even if it is already proven.
            progress: called with a line for each thing that happens.

        Raises:
            CannotBoot: it does not boot.
            ProvisioningError: no guest at all can be started here; cause and cure.
        """
        if self._proof is None or fresh:
            self._proof = boots.proven(
                self.kernel, self._boot_small, fresh=fresh, progress=progress
            )
        return self._proof.words()

    def _boot_small(self, program: Path) -> boots.Boot:
        """Boot a guest of ``program`` that only prints that it works."""
        kernel = dataclasses.replace(self.kernel, program=program)
        small = UmlGuest(kernel, python=self._python, argv=boots.ARGV, memory_mib=_PROOF_MIB)
        with passing_dir() as results:
            return boots.watch(small.boot(results), boots.SAYS, boots.LIMIT_S)

    def start(self, results: Path) -> KeptProcess:
        """Boot a guest; it reads its job from ``results`` and writes its journal there.

        Raises:
            CannotBoot: no guest of this kernel boots here.
            ProvisioningError: the guest cannot be started; cause and cure.
        """
        self.prove()
        return self.boot(results)

    def boot(self, results: Path) -> KeptProcess:
        """Start a guest, whether or not it is proven that the kernel boots.

        Raises:
            ProvisioningError: the guest cannot be started; cause and cure.
        """
        memory = memory_dir(self._memory_mib)
        private = private_dir()
        try:
            write_init(
                private,
                kernel=self.kernel,
                python=self._python,
                argv=self._argv,
                results=results,
                mount={"TYPE": "hostfs", "SOURCE": "none", "OPTIONS": str(results)},
            )
            command = self.command(private)
            cage = confine(
                command[0],
                self.kernel,
                self._python,
                self._argv,
                results=results,
                private=private,
                memory=memory,
                memory_mib=self._memory_mib,
            )
        except OSError as fault:
            shutil.rmtree(private, ignore_errors=True)
            raise ProvisioningError(
                f"cannot prepare a guest in {private}: {fault.strerror}; free space there"
            ) from fault
        except BaseException:  # Ctrl-C too
            shutil.rmtree(private, ignore_errors=True)
            raise
        if cage is not None:
            memory = Path(cage.memory or MEMORY)
        return KeptProcess(
            command,
            results=results,
            private=private,
            cage=cage,
            env={"PATH": os.defpath, "LC_ALL": "C", "TMPDIR": str(memory)},
        )

    def command(self, private: Path) -> list[str]:
        """The kernel and its command line; none of its words may contain a space."""
        return [
            self._proof.runs if self._proof else str(self.kernel.program),
            f"mem={self._memory_mib}M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={private}/init",
            # One console, output only: what kernel and agent print goes to the keeper.
            "con=null",
            "con0=null,fd:1",
            f"uml_dir={private}/",
            "umid=uml",
            # Any failure ends the guest; the kernel prints it last.
            "panic=-1",
            "oops=panic",
            "quiet",
        ]
