"""The error tree: what can go wrong with the harness itself, each with cause and cure.

A *divergence* between kernel and twin is a value (`harness.compare.diff`), never an exception.
"""

import errno
from typing import Final

_ERRNO_NAMES: Final[dict[int, str]] = dict(errno.errorcode) | {
    getattr(errno, name): name for name in ("EAGAIN", "EDEADLK", "EOPNOTSUPP")
}
"""Where two names have one number, the kernel's own."""


def errno_name(number: int | None) -> str:
    """The kernel's name of an errno; of None, ``EIO``."""
    number = errno.EIO if number is None else number
    return _ERRNO_NAMES.get(number, f"E{number}")


class DmsnapError(Exception):
    """Root of every error that a user may meet; its text names the cause and the cure.

    Attributes:
        step: index of the step of a scenario that it came from; None if of none, or not yet known.
    """

    step: int | None = None


class BadScenario(DmsnapError):
    """A scenario asks for something that has no meaning (unknown device, bad range, …)."""


class BadTrace(DmsnapError):
    """A trace or observation file cannot be read.

    Attributes:
        line: 1-based line number, 0 when the file as a whole is at fault.
        field: path of the field at fault (``$.table[0].length``), empty when unknown.
        step: index of the step on that line, None if it holds none.
    """

    def __init__(
        self, message: str, *, line: int = 0, field: str = "", step: int | None = None
    ) -> None:
        where = f"line {line}" if line else "trace"
        if step is not None:
            where = f"step {step}, {where}"
        if field:
            where += f", field {field}"
        super().__init__(f"{where}: {message}")
        self.line = line
        self.field = field
        self.step = step


class ProvisioningError(DmsnapError):
    """A guest, or the machine that should run it, lacks something; the text says what to do."""


class CannotBoot(ProvisioningError):
    """A kernel does not boot on this machine; the text says what its console said of it."""


class BuildFailed(ProvisioningError):
    """A kernel cannot be built of its source; the text says what the compiler or kbuild said."""


class NotAFile(DmsnapError):
    """What a stranger left is no regular file, or longer than it may be."""


class Unsupported(ProvisioningError):
    """This kernel lacks what a scenario asks for, or the twin does not know it: nobody's fault."""


class WitnessesDisagree(DmsnapError):
    """Several ways to learn of the kernel's uevents did not give the same ones."""


class UnsafeMachine(ProvisioningError):
    """The kernel side was asked to run where it could touch somebody's devices."""


class GuestLost(DmsnapError):
    """A guest panicked, was killed or vanished while it worked."""


class MalformedStore(DmsnapError):
    """Bytes that are not an exception store.

    Attributes:
        offset: byte offset on the COW device of the field at fault.
        field: its name (``magic``, ``version``, ``chunk_size``, ``area 3``, …).
        errno: what the kernel gives to whoever loads a table with it.
    """

    def __init__(self, message: str, *, offset: int, field: str, errno: str) -> None:
        super().__init__(f"byte {offset}, {field}: {message}")
        self.offset = offset
        self.field = field
        self.errno = errno


class KernelCrash(DmsnapError):
    """A place where the kernel dies: the twin raises it where there is nothing after it.

    Where some kernels live on, and no harmless probe tells which, the twin announces it and goes on
    (`harness.twin.device_mapper.DeviceMapper.may_die`).

    Attributes:
        defect: its name in the register of known defects, empty if it is not there.
    """

    def __init__(self, text: str, defect: str = "") -> None:
        super().__init__(text)
        self.defect = defect

    def covers(self, step: int) -> bool:
        """Whether it is announced by this that a kernel may die in ``step``."""
        return step == self.step


class FreedMemory(KernelCrash):
    """From here on the kernel uses memory that it has freed: it may die at any later time."""

    def covers(self, step: int) -> bool:
        """Whether it is announced by this that a kernel may die in ``step``."""
        return self.step is not None and step >= self.step


class NeverReturns(DmsnapError):
    """The twin has come to a step that waits for ever; the text says for what."""


class TwinInvariant(DmsnapError):
    """The twin contradicts itself: a defect of dmsnap, please report it with the trace."""
