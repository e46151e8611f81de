"""What a device-mapper driver offers: one protocol, spoken by `dmsetup` and by direct ioctls.

Each call is one device-mapper command.  A refusal of the kernel is an OSError with the errno,
whichever driver asked; nothing is retried and nothing else is done.

Lines have one form in both drivers, the one that ``dmsetup status NAME`` prints: ``start length
type parameters``, one space between each, so the line of a target without parameters ends with a
space. Device numbers in them are left as the kernel printed them.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

UUID_PREFIX: Final = "DMSNAP-"
"""UUID prefix of every mapped device that the harness creates; no other device is touched."""
NODES: Final = "/dev/mapper"
WAIT_LIMIT_S: Final = 0.5
"""How long a wait for an event may take."""


class Line(NamedTuple):
    """A table line as the kernel takes it: paths instead of ``{name}``."""

    start: int
    length: int
    type: str
    params: str


class Info(NamedTuple):
    """What device-mapper says about one device; the three texts are None without a table."""

    name: str
    uuid: str
    number: str
    open: int
    event: int
    suspended: bool
    read_only: bool
    status: str | None
    table: str | None
    inactive: str | None


def line_text(start: int, length: int, kind: str, params: str) -> str:
    """A status or table line, in the form that both drivers give."""
    return f"{start} {length} {kind} {params}"


def node(name: str) -> str:
    """Path of the block device node of a mapped device."""
    return f"{NODES}/{name}"


class Driver(Protocol):
    """Device-mapper, command by command.  Every method may raise OSError with the errno."""

    label: str

    def create(self, name: str, uuid: str) -> None:
        """Create a device without a table, and its node."""

    def load(self, name: str, lines: Sequence[Line], *, read_only: bool = False) -> None:
        """Load a table into the inactive slot."""

    def clear(self, name: str) -> None:
        """Drop the inactive table."""

    def resume(self, name: str) -> None:
        """Make the inactive table live, if there is one, and resume."""

    def suspend(self, name: str, *, flush: bool = True, lockfs: bool = True) -> None:
        """Suspend."""

    def remove(self, name: str) -> None:
        """Remove a device and its node."""

    def rename(self, name: str, to: str) -> None:
        """Give a device another name, and its node too."""

    def message(self, name: str, sector: int, text: str) -> str:
        """Send a message to the target at ``sector``; returns its answer, empty if none."""

    def status(self, name: str, *, inactive: bool = False) -> str:
        """The status lines; empty if there is no such table."""

    def table(self, name: str, *, inactive: bool = False) -> str:
        """The table lines; empty if there is no such table."""

    def wait(self, name: str, event: int) -> int:
        """Wait until the event number differs from ``event``; returns the new one.

        Raises:
            TimeoutError: nothing happened within `WAIT_LIMIT_S`.
        """

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Numbers (``major:minor``) of the devices that the live table uses, sorted."""

    def survey(self, names: Iterable[str]) -> dict[str, Info]:
        """State of those of ``names`` that exist, in the order of ``names``."""

    def devices(self) -> dict[str, str]:
        """Name → UUID of every mapped device of this kernel, sorted by name."""

    def targets(self) -> dict[str, str]:
        """Target → version, sorted by name."""
