"""The error tree: what can go wrong with the harness itself, each with cause and cure.

A *divergence* between kernel and twin is a value (`harness.compare.diff`), never an exception.
"""

import errno
from typing import Final

_ERRNO_NAMES: Final[dict[int, str]] = dict(errno.errorcode) | {
    getattr(errno, name): name for name in ("EAGAIN", "EDEADLK", "EOPNOTSUPP")
}
"""Where one number has two names, the kernel's own."""


def errno_name(number: int | None) -> str:
    """The kernel's name for an errno; ``EIO`` for None."""
    number = errno.EIO if number is None else number
    return _ERRNO_NAMES.get(number, f"E{number}")


class DmsnapError(Exception):
    """Root of every error that a user may see; its text names cause and cure.

    Attributes:
        step: index of the scenario step it came from; None if none, or not yet known.
    """

    step: int | None = None


class BadScenario(DmsnapError):
    """A scenario asks for something meaningless (unknown device, bad range, …)."""


class BadTrace(DmsnapError):
    """A trace or observation file cannot be read.

    Attributes:
        line: 1-based line number, 0 if the whole file is at fault.
        field: path of the field at fault (``$.table[0].length``); empty if unknown.
        step: index of the step on that line, None if there is none.
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
    """A kernel does not boot on this machine; the text quotes its console."""


class BuildFailed(ProvisioningError):
    """A kernel cannot be built of its source; the text says what the compiler or kbuild said."""


class NotAFile(DmsnapError):
    """A file left by a guest or a user is not a regular file, or is too long."""


class Refused(DmsnapError):
    """What a command on files or devices will not do, or cannot; nothing was changed by it."""


class Unsupported(ProvisioningError):
    """The kernel lacks what a scenario needs, or the twin does not model it; not a failure."""


class WitnessesDisagree(DmsnapError):
    """Several ways of receiving the kernel's uevents did not give the same ones."""


class UnsafeMachine(ProvisioningError):
    """The kernel side was asked to run where it could touch devices in use."""


class GuestLost(DmsnapError):
    """A guest panicked, was killed or vanished during a run."""


class MalformedStore(DmsnapError):
    """Bytes that are not an exception store.

    Attributes:
        offset: byte offset on the COW device of the field at fault.
        field: its name (``magic``, ``version``, ``chunk_size``, ``area 3``, …).
        errno: what the kernel returns when a table with it is loaded.
    """

    def __init__(self, message: str, *, offset: int, field: str, errno: str) -> None:
        super().__init__(f"byte {offset}, {field}: {message}")
        self.offset = offset
        self.field = field
        self.errno = errno


class KernelCrash(DmsnapError):
    """A place where the kernel dies; the twin raises it where nothing can follow.

    Where some kernels survive, and no harmless probe tells which, the twin announces it and goes on
    (`harness.twin.device_mapper.DeviceMapper.may_die`).

    Attributes:
        defect: its name in the register of known defects, empty if it is not there.
    """

    def __init__(self, text: str, defect: str = "") -> None:
        super().__init__(text)
        self.defect = defect

    def covers(self, step: int) -> bool:
        """Whether this announces that a kernel may die in ``step``."""
        return step == self.step


class FreedMemory(KernelCrash):
    """From here on the kernel uses freed memory; it may die at any later time."""

    def covers(self, step: int) -> bool:
        """Whether this announces that a kernel may die in ``step``."""
        return self.step is not None and step >= self.step


class NeverReturns(DmsnapError):
    """The twin reached a step that waits for ever; the text says for what."""


class TwinInvariant(DmsnapError):
    """The twin contradicts itself. This is a defect of dmsnap; report it with the trace."""
