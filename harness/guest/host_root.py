"""Setup of every guest whose root is the host's own file system, read-only.

Python and dmsnap run in it unchanged; its results directory is mounted over itself, read-write.
`vm/init` is its first process on that root.  It reads its settings from a file next to it, since a
kernel's command line cannot carry paths with spaces.  How the file system gets into the guest
(hostfs, 9p) is up to the kind of guest.
"""

import contextlib
import os
import re
import resource
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import harness
from harness.errors import ProvisioningError
from harness.guest.catalogue import Kernel, vm_file

AGENT: Final = ("-m", "harness.kernel.agent")
"""What Python runs in the guest; the results directory is added as the last argument."""

_HIDDEN: Final = ("/dev", "/proc", "/sys")
"""Where the guest mounts its own file systems, which hide the host's files."""
_DESCRIPTORS_MIN: Final = 128
_FILE_BYTES_MIN: Final = 64 << 20
"""Limit for journals, consoles and other files of a guest."""
_ENDS_A_WORD: Final = re.compile(r'[\s"]')
"""On a kernel's command line, stands for the path of ``init``."""
_SOCKET_PATH_MAX: Final = 80
"""A socket path holds 107 bytes; User-mode Linux adds ``/uml/mconsole`` and temporary names."""


def check_limits(memory_mib: int = 0) -> None:
    """Check that the resource limits of this process (``ulimit``) let a guest work.

    Args:
        memory_mib: size of the file that is a guest's memory.

    Raises:
        ProvisioningError: they are too low; cause and cure.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _DESCRIPTORS_MIN:
        raise ProvisioningError(
            f"a guest needs {_DESCRIPTORS_MIN} open files, and {files} are "
            f"allowed; type ulimit -n {_DESCRIPTORS_MIN}, or more"
        )
    longest, need_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[0], memory_mib << 20
    if longest != resource.RLIM_INFINITY and longest < max(need_bytes, _FILE_BYTES_MIN):
        raise ProvisioningError(
            f"a guest needs files of {max(need_bytes, _FILE_BYTES_MIN) >> 20} MiB, and "
            f"{longest >> 20} MiB are allowed; type ulimit -f unlimited"
        )


def check_seen(kernel: Kernel, python: Path, results: Path) -> None:
    """Check that a guest can see every path it needs.

    Raises:
        ProvisioningError: it cannot; cause and cure.
    """
    seen = {
        "results directory": results,
        "modules directory": kernel.modules,
        "Python": python,
        "dmsnap": Path(harness.__file__),
    }
    for what, path in seen.items():
        if _hidden(path):
            raise ProvisioningError(
                f"the guest cannot see the {what} {path}: it mounts its own "
                f"{', '.join(_HIDDEN)}; put it elsewhere"
            )


def private_dir() -> Path:
    """A new directory with a short path that the guest can see.

    Raises:
        ProvisioningError: there is no place for one.
    """
    for parent in ("/tmp", tempfile.gettempdir(), "/var/tmp"):  # noqa: S108
        with contextlib.suppress(OSError):
            path = Path(tempfile.mkdtemp(prefix="dmsnap-", dir=parent))
            if (
                len(os.fsencode(path)) <= _SOCKET_PATH_MAX
                and not _hidden(path)
                and not _ENDS_A_WORD.search(str(path))
            ):
                return path
            path.rmdir()
    raise ProvisioningError(
        "no place for the private directory of a guest: neither /tmp nor TMPDIR is writable "
        f"with a path of at most {_SOCKET_PATH_MAX} bytes without spaces and quotes; set TMPDIR "
        "to such a directory"
    )


@contextlib.contextmanager
def passing_dir() -> Iterator[Path]:
    """A temporary results directory for a guest whose results are not kept.

    Raises:
        ProvisioningError: there is no place for one.
    """
    path = private_dir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _hidden(path: Path) -> bool:
    return any(path.resolve().is_relative_to(top) for top in _HIDDEN)


def write_init(
    private: Path,
    *,
    kernel: Kernel,
    python: Path,
    argv: Sequence[str],
    results: Path,
    mount: Mapping[str, str],
) -> None:
    """Put ``init`` and its settings into ``private``.

    Args:
        private: the guest's own directory, which it can see.
        kernel: the kernel that boots.
        python: interpreter that runs in the guest.
        argv: its arguments; the results directory is appended.
        results: the results directory.
        mount: how it is mounted: ``TYPE``, ``SOURCE`` and ``OPTIONS`` of mount(8).

    Raises:
        OSError: the disk is full or not writable.
    """
    init = private / "init"
    shutil.copyfile(vm_file("init"), init)
    init.chmod(0o755)
    variables = {
        "RESULTS": str(results),
        **{f"RESULTS_{name}": value for name, value in mount.items()},
        "GUEST_ARGV": shlex.join([str(python), *argv, str(results)]),
        "DMSNAP_GUEST": kernel.guest,
        "DMSNAP_MODULES": str(kernel.modules),
        # The guest runs this code, even if it is not installed in ``python``.
        "PYTHONPATH": str(Path(harness.__file__).parent.parent),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    (private / "env").write_text("".join(lines))
