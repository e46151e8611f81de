"""Where the kernel side may run: in a disposable guest only; and how a guest is lost on purpose.

User-mode Linux is a guest by nature; a QEMU guest's kernel command line (``dmsnap.guest``) says
that dmsnap started it.  Any other machine could matter to somebody: it must carry a mark that its
owner put there (the file /etc/dmsnap-disposable, or the word dmsnap.disposable on
the kernel's command line), and the user must have said ``--guest here``.
"""

import ctypes
import mmap
import os
import time
from pathlib import Path
from typing import Final, Literal, NoReturn

from harness.errors import UnsafeMachine
from harness.kernel.drivers.driver import UUID_PREFIX, Driver, Line, node

MARKER: Final = "etc/dmsnap-disposable"
COMMAND_LINE_WORD: Final = "dmsnap.disposable"
GUEST_WORD: Final = "dmsnap.guest"
"""As `harness.guest.qemu` boots its kernels."""
_POWER_OFF: Final = 0x4321FEDC
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_HANG_DEVICE: Final = "dmsnap-hang"
_LAST_WORDS_S: Final = 10


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def is_uml(root: Path = Path("/")) -> bool:
    """Whether this kernel is User-mode Linux."""
    return "User Mode Linux" in _text(root / "proc/cpuinfo")


def is_guest(root: Path = Path("/")) -> bool:
    """Whether dmsnap started this machine, or it is a guest by nature."""
    return is_uml(root) or GUEST_WORD in _words(root)


def _words(root: Path) -> list[str]:
    return _text(root / "proc/cmdline").split()


def is_marked(root: Path = Path("/")) -> bool:
    """Whether this machine is marked as disposable."""
    return (root / MARKER).exists() or COMMAND_LINE_WORD in _words(root)


def check(*, here: bool = False, root: Path = Path("/")) -> None:
    """Refuse to go on outside a disposable guest.

    Args:
        here: the user said that this machine is the guest.
        root: the directory that contains proc and etc.

    Raises:
        UnsafeMachine: this machine may matter to somebody.
    """
    if is_guest(root):
        return
    if not here:
        raise UnsafeMachine(
            "the kernel side creates and removes block devices and may crash the kernel, and this "
            "is not a guest: let dmsnap start one, or use --guest here in a disposable machine"
        )
    if not is_marked(root):
        raise UnsafeMachine(
            "--guest here was given, but this machine is not marked as disposable: if nothing on "
            f"it matters, type  touch /{MARKER}  (or boot it with {COMMAND_LINE_WORD})"
        )


def keep_memory() -> None:
    """Make malloc keep freed memory, rather than return it to the kernel.

    A page fault costs a User-mode Linux some 10 µs, and each of numpy's arrays of 1 MiB would
    bring 256 of them.
    """
    libc = ctypes.CDLL(None)
    for option, value in (
        (_M_MMAP_THRESHOLD, 32 << 20),
        (_M_TRIM_THRESHOLD, 1 << 30),
        (_M_TOP_PAD, 16 << 20),
    ):
        libc.mallopt(option, value)


def crash(how: Literal["panic", "hang", "exit"], driver: Driver) -> NoReturn:
    """Lose the guest.

    ``hang`` waits uninterruptibly for a read of a suspended device, as a deadlocked module would.
    """
    if how == "panic":
        Path("/proc/sysrq-trigger").write_text("c")
    elif how == "exit":
        ctypes.CDLL(None).reboot(_POWER_OFF)
    else:
        driver.create(_HANG_DEVICE, UUID_PREFIX + _HANG_DEVICE)
        driver.load(_HANG_DEVICE, [Line(0, 8, "error", "")])
        driver.resume(_HANG_DEVICE)
        driver.suspend(_HANG_DEVICE, flush=False, lockfs=False)
        # Not through the page cache, where SIGKILL would interrupt the wait.
        fd = os.open(node(_HANG_DEVICE), os.O_RDONLY | os.O_DIRECT)
        os.preadv(fd, [mmap.mmap(-1, mmap.PAGESIZE)], 0)
    time.sleep(_LAST_WORDS_S)
    raise AssertionError(f"the guest outlived its crash ({how})")
