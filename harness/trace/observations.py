"""What one side saw of a step, as values to compare.

Contents are runs (`harness.trace.pattern` turns bytes into runs and back), and all text from a
side names devices as ``{name}``.
"""

from typing import Final

from msgspec import Struct

SUSPENDED: Final = "SUSPENDED"
"""Error of an I/O step that would wait for ever, because its device, or one below it, is
suspended; both sides refuse it without issuing it."""
TIMEOUT: Final = "TIMEOUT"
"""Error of a `Wait` whose event did not come."""


# -- observations -----------------------------------------------------------------------------


class Stamped(Struct, frozen=True, array_like=True, tag="stamp", forbid_unknown_fields=True):
    """``count`` sectors that carry the stamps of consecutive sectors of one write."""

    device: str
    generation: int
    sector: int
    count: int


class Zeros(Struct, frozen=True, array_like=True, tag="zero", forbid_unknown_fields=True):
    """``count`` sectors of zeros."""

    count: int


class Raw(Struct, frozen=True, array_like=True, tag="raw", forbid_unknown_fields=True):
    """``count`` sectors of anything else; ``packed`` is their bytes, deflated by zlib."""

    count: int
    packed: bytes


class Unreadable(Struct, frozen=True, array_like=True, tag="error", forbid_unknown_fields=True):
    """``count`` sectors whose request failed with errno ``error`` (only in `Examine`)."""

    error: str
    count: int


Run = Stamped | Zeros | Raw | Unreadable
Runs = tuple[Run, ...]
"""Contents of consecutive sectors, lossless: `harness.trace.pattern` turns bytes into runs and
back.  Encoding is a function of the bytes alone, so equal runs mean equal bytes."""


class DeviceState(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What device-mapper reports for one mapped device after a step.

    Lines are those of ``dmsetup status`` and ``dmsetup table``, joined by newlines, with device
    numbers replaced by ``{name}``; None if there is no such table.
    """

    status: str | None = None
    table: str | None = None
    inactive: str | None = None
    suspended: bool = False
    read_only: bool = False
    event: int = 0
    open: int = 0


class UEvent(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A kernel uevent of a mapped device (subsystem block): action, device, chosen properties."""

    action: str
    device: str
    properties: dict[str, str] = {}


class Observation(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What one side saw of one step.

    Attributes:
        step: index of the step in the trace, from 0.
        error: errno name (``EIO``), `SUSPENDED`, `TIMEOUT`, or None.
        text: the lines that `Status` or `Table` returned; the new event number of `Wait`; the
            answer to a `Message`; how each I/O of `Parallel` ended.
        content: device name → what was read.
        image: disk name → every sector of it.
        state: mapped devices whose state changed in this step; None for a removed one.
        uevents, log: in order of arrival.
        requests: disk that can fail → the requests that reached it, in order of arrival.
        elapsed_us: time that the step took on this side; never compared.
    """

    step: int
    error: str | None = None
    text: str | None = None
    content: dict[str, Runs] = {}
    image: dict[str, Runs] = {}
    state: dict[str, DeviceState | None] = {}
    uevents: tuple[UEvent, ...] = ()
    log: tuple[str, ...] = ()
    requests: dict[str, tuple[str, ...]] = {}
    elapsed_us: int = 0
