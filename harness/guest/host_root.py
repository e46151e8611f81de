"""What every guest gets whose root is the host's own file system, read-only.

Python and dmsnap run in it unchanged; its results directory is mounted over itself, read-write.
`vm/init` is its first process on that root, and reads what it has to know from a file beside it:
a kernel's command line could not carry paths with spaces in them.  How the file system gets into
the guest (hostfs, 9p) is the guest's own affair.
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
"""Where the guest mounts something of its own, so that the host's files cannot be seen."""
_DESCRIPTORS_MIN: Final = 128
_FILE_BYTES_MIN: Final = 64 << 20
"""Journals, consoles and what else a guest leaves."""
_ENDS_A_WORD: Final = re.compile(r'[\s"]')
"""On the command line of a kernel, where the path of ``init`` stands."""
_SOCKET_PATH_MAX: Final = 80
"""A socket path holds 107 bytes; User-mode Linux adds ``/uml/mconsole`` and temporary names."""


def check_limits(memory_mib: int = 0) -> None:
    """See that the resource limits of this process (``ulimit``) let a guest work.

    Args:
        memory_mib: size of the file that is a guest's memory.

    Raises:
        ProvisioningError: they do not; cause and cure.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _DESCRIPTORS_MIN:
        raise ProvisioningError(
            f"a guest needs {_DESCRIPTORS_MIN} open files, and {files} are "
            f"allowed: type ulimit -n {_DESCRIPTORS_MIN}, or more"
        )
    longest, need_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[0], memory_mib << 20
    if longest != resource.RLIM_INFINITY and longest < max(need_bytes, _FILE_BYTES_MIN):
        raise ProvisioningError(
            f"a guest needs files of {max(need_bytes, _FILE_BYTES_MIN) >> 20} MiB, and "
            f"{longest >> 20} MiB are allowed: type ulimit -f unlimited"
        )


def check_seen(kernel: Kernel, python: Path, results: Path) -> None:
    """See that a guest can see every path that it needs.

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
        f"with a path of at most {_SOCKET_PATH_MAX} bytes, without spaces and quotes; set TMPDIR "
        "to such a directory"
    )


@contextlib.contextmanager
def passing_dir() -> Iterator[Path]:
    """A results directory for a guest that leaves none.

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
    """Put ``init`` and what it has to know into ``private``.

    Args:
        private: the guest's own directory, which it can see.
        kernel: what is booted.
        python: interpreter that runs in the guest.
        argv: its arguments, to which the results directory is added.
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
        # The guest runs this very code, also where it is not installed in ``python``.
        "PYTHONPATH": str(Path(harness.__file__).parent.parent),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    (private / "env").write_text("".join(lines))
