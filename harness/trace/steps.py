"""The vocabulary: steps, observations, and the protocol that both sides implement.

Everything here is data.  A step is one action on one named device; an observation is what one
side saw of it.  Both are msgspec structs; the JSON form (docs/trace-format.md) and its checks
follow from the types.

Names.  A *disk* is a plain block device that the harness creates; a *mapped device* is what a
scenario builds on it with device-mapper.  They share one name space.  In table arguments
``{name}`` stands for a device, whatever its number or path on a side, and output of a side is
translated back to ``{name}`` before anything is compared.
"""

import re
from functools import cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from harness.trace.faults import How, Op

NAME_PATTERN: Final = r"^[A-Za-z0-9_.+-]{1,16}\Z"
"""Device names; 16 bytes, so that a sector can carry the name of its device."""
SECTOR_MAX: Final = 1 << 54
"""Upper bound of any sector number in a step; beyond it byte offsets exceed 63 bits."""
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
TARGET_ARGS_MAX: Final = 512
"""Characters in the arguments of a target; with every ``{name}`` expanded, the whole line stays
below the 4096 that `dmsetup` reads at once."""
TARGET_TYPE_PATTERN: Final = r"^[A-Za-z0-9_.+-]{1,15}\Z"
TargetType = Annotated[str, Meta(pattern=TARGET_TYPE_PATTERN)]
"""The kernel has 16 bytes for it, the last of them NUL (``DM_MAX_TYPE_NAME``)."""
TARGET_ARGS_PATTERN: Final = r"^[ !\"$-~]*\Z"
TargetArgs = Annotated[str, Meta(pattern=TARGET_ARGS_PATTERN, max_length=TARGET_ARGS_MAX)]
"""Printable ASCII.  A newline would begin another line of `dmsetup`'s input, and a ``#`` would end
it; beyond ASCII the kernel sees bytes, some of which it takes for blanks."""
TABLE_LINES_MAX: Final = 512
MESSAGE_PATTERN: Final = r"^[ -~]*\Z"
MessageText = Annotated[str, Meta(pattern=MESSAGE_PATTERN, max_length=1024)]
PARAMETER_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,54}\Z"
ParameterName = Annotated[str, Meta(pattern=PARAMETER_PATTERN)]
"""A C identifier, shorter than the limit for module names (``MODULE_NAME_LEN``)."""
VALUE_PATTERN: Final = r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*\Z"
ParameterValue = Annotated[str, Meta(pattern=VALUE_PATTERN, max_length=64)]
"""Text written to a sysfs file; it may end with a newline, but has no control characters."""
LINE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"
Line = Annotated[str, Meta(pattern=LINE_PATTERN, max_length=4096)]
"""A line for people."""
IN_WORDS: Final = {
    NAME_PATTERN: "of 1 to 16 letters, digits and _.+-",
    TARGET_TYPE_PATTERN: "of 1 to 15 letters, digits and _.+-",
    TARGET_ARGS_PATTERN: "of printable ASCII without #",
    MESSAGE_PATTERN: "of printable ASCII",
    PARAMETER_PATTERN: "that is a C identifier of at most 55 characters",
    VALUE_PATTERN: "without control characters other than newlines",
    LINE_PATTERN: "that is one line without control characters",
}
"""What each pattern demands, for error messages."""
ScenarioName = Annotated[str, Meta(pattern=LINE_PATTERN, min_length=1, max_length=256)]
SectorNumber = Annotated[int, Meta(ge=0, le=SECTOR_MAX)]
SectorCount = Annotated[int, Meta(ge=1, le=1 << 31)]
POKE_BYTES_MAX: Final = 8 << 20
"""The whole disk of LVM's situations, as a boot finds it (`harness.lvm.situations`)."""
Generation = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Fill = Literal["stamp", "zero"]
REQUEST_SECTORS_MAX: Final = 2048
"""A read or write step longer than this is issued as several requests of this size (1 MiB), in
ascending order, one at a time; the first one that fails ends the step."""


class Step(
    Struct,
    frozen=True,
    kw_only=True,
    tag_field="do",
    tag=str.lower,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """One action.  The JSON field ``do`` holds the class name in lower case.

    A field with its default value is left out of a file, whether it was given or not, so equal
    steps are equal bytes.
    """

    def __post_init__(self) -> None:
        # msgspec recognises a default by identity; an equal value from a file is another object.
        for name, default in _defaults(type(self)):
            value = getattr(self, name)
            if value is not default and type(value) is type(default) and value == default:
                msgspec.structs.force_setattr(self, name, default)


@cache
def _defaults(step: type[Step]) -> tuple[tuple[str, object], ...]:
    """The fields of a step that have a default, with their defaults."""
    return tuple(
        (field.name, field.default)
        for field in msgspec.structs.fields(step)
        if field.default is not msgspec.NODEFAULT
    )


NO_TARGET: Final = "nosuch"
"""No kernel has target types that begin like this: loading such a table must be refused.
With any other unknown type a scenario needs something that is missing."""


class TargetLine(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a table, as in ``dmsetup``: start and length in sectors, type, arguments."""

    start: SectorNumber
    length: Annotated[int, Meta(ge=0, le=SECTOR_MAX)]
    type: TargetType
    args: TargetArgs = ""


class Disk(Step, frozen=True, kw_only=True):
    """Create a disk of ``sectors`` sectors, filled with its own stamps or with zeros.

    One that ``can_fail`` takes faults (`Fault`), reports every request that reaches it, has a
    write cache that must be flushed, supports discards, and has blocks of 512 bytes.  One that is
    also ``linked`` is behind its own link, so that a fault can stop it (`Fault.how`).
    """

    name: Name
    sectors: SectorCount
    fill: Fill = "zero"
    generation: Generation = 0
    block_size: Literal[512, 1024, 2048, 4096] = 512
    can_fail: bool = False
    linked: bool = False


class Create(Step, frozen=True, kw_only=True):
    """Create a mapped device without a table (DM_DEV_CREATE)."""

    name: Name


class Load(Step, frozen=True, kw_only=True):
    """Load a table into the inactive slot (DM_TABLE_LOAD)."""

    name: Name
    table: Annotated[tuple[TargetLine, ...], Meta(max_length=TABLE_LINES_MAX)]
    read_only: bool = False


class Clear(Step, frozen=True, kw_only=True):
    """Drop the inactive table (DM_TABLE_CLEAR)."""

    name: Name


class Resume(Step, frozen=True, kw_only=True):
    """Make the inactive table live, if there is one, and resume (DM_DEV_SUSPEND)."""

    name: Name


class Suspend(Step, frozen=True, kw_only=True):
    """Suspend; ``flush`` waits for I/O in flight, ``lockfs`` freezes a file system above."""

    name: Name
    flush: bool = True
    lockfs: bool = True


class Remove(Step, frozen=True, kw_only=True):
    """Remove a mapped device (DM_DEV_REMOVE)."""

    name: Name


class Rename(Step, frozen=True, kw_only=True):
    """Give a mapped device another name; later steps use the new one (DM_DEV_RENAME)."""

    name: Name
    to: Name


class Message(Step, frozen=True, kw_only=True):
    """Send a target message (DM_TARGET_MSG)."""

    name: Name
    text: MessageText
    sector: SectorNumber = 0


class Status(Step, frozen=True, kw_only=True):
    """Ask for the status lines; `inactive` asks for the inactive table."""

    name: Name
    inactive: bool = False


class Table(Step, frozen=True, kw_only=True):
    """Ask for the table lines; `inactive` asks for the inactive table."""

    name: Name
    inactive: bool = False


class Wait(Step, frozen=True, kw_only=True):
    """Wait until the event number of a device differs from ``event`` (DM_DEV_WAIT)."""

    name: Name
    event: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]


class Write(Step, frozen=True, kw_only=True):
    """Write ``sectors`` sectors that describe themselves, or zeros.

    A stamped sector names ``device``, its own number there and ``generation``.
    """

    device: Name
    sector: SectorNumber
    sectors: SectorCount
    generation: Generation = 1
    fill: Fill = "stamp"
    buffered: bool = False


class Poke(Step, frozen=True, kw_only=True):
    """Write literal bytes, a whole number of sectors (base64 in JSON)."""

    device: Name
    sector: SectorNumber
    data: Annotated[bytes, Meta(max_length=POKE_BYTES_MAX)]


class Read(Step, frozen=True, kw_only=True):
    """Read ``sectors`` sectors."""

    device: Name
    sector: SectorNumber
    sectors: SectorCount
    buffered: bool = False


class Flush(Step, frozen=True, kw_only=True):
    """Send a flush (fsync of the block device)."""

    device: Name


class Discard(Step, frozen=True, kw_only=True):
    """Discard a range (BLKDISCARD)."""

    device: Name
    sector: SectorNumber
    sectors: SectorCount


class Zeroout(Step, frozen=True, kw_only=True):
    """Zero a range (BLKZEROOUT)."""

    device: Name
    sector: SectorNumber
    sectors: SectorCount


class Parallel(Step, frozen=True, kw_only=True):
    """Several reads and writes in flight at once, submitted in order, none waiting for another.

    Each is one request, so at most `REQUEST_SECTORS_MAX` long, and direct; at most one of them
    reads a device.  The step ends with the last of them; its error is the first in the order of
    submission, and its text has a line for each: ``ok`` or the errno.

    Mapped devices named in ``resume`` are suspended before the step, with nothing loaded, and
    resumed in this order once everything is submitted.  Until then their I/O waits,
    so that what finds what in flight does not depend on a race.
    """

    ios: Annotated[tuple[Write | Read, ...], Meta(min_length=1, max_length=256)]
    resume: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()


class Fault(Step, frozen=True, kw_only=True):
    """From now on the ``nth`` request of a kind that touches a range fails, or stops the disk.

    The device is a disk that ``can_fail``; a range without a length reaches to its end.  Requests
    are counted from 1; ``count`` of them are struck in all, 0 means all that follow.  A disk
    may have several faults.

    A struck request fails with EIO (``how`` = ``error``).  On a ``linked`` disk it may also take
    the link down: for a while, so that its answer is late (``stalls``), or for good, so that it
    and all later ones fail (``dies``, which happens once).
    """

    device: Name
    op: Op
    sector: SectorNumber = 0
    sectors: SectorCount | None = None
    nth: Annotated[int, Meta(ge=1, le=1 << 31)] = 1
    count: Annotated[int, Meta(ge=0, le=1 << 31)] = 1
    how: How = "error"


class Heal(Step, frozen=True, kw_only=True):
    """Forget all faults of a disk; one that died is connected again."""

    device: Name


class Image(Step, frozen=True, kw_only=True):
    """Every byte of a disk."""

    device: Name


class Parameter(Step, frozen=True, kw_only=True):
    """Set a parameter of module dm_snapshot; a scenario's end restores it."""

    name: ParameterName
    value: ParameterValue


class Examine(Step, frozen=True, kw_only=True):
    """Read every mapped device that can be read, then the image of every disk.

    Each scenario ends with one.  A mapped device is skipped while it has no live table, or while
    it or a device below it is suspended.
    """


class Crash(Step, frozen=True, kw_only=True):
    """Lose the guest on purpose: ``panic`` (sysrq c), ``hang`` (uninterruptible), ``exit``."""

    how: Literal["panic", "hang", "exit"]


AnyStep = (
    Disk
    | Create
    | Load
    | Clear
    | Resume
    | Suspend
    | Remove
    | Rename
    | Message
    | Status
    | Table
    | Wait
    | Write
    | Poke
    | Read
    | Flush
    | Discard
    | Zeroout
    | Parallel
    | Fault
    | Heal
    | Image
    | Parameter
    | Examine
    | Crash
)
REFERENCE: Final = re.compile(r"\{([A-Za-z0-9_.+-]{1,16})\}")
"""A device reference in table arguments."""


def references(step: AnyStep) -> tuple[str, ...]:
    """Names of the devices that the tables of ``step`` refer to, in order."""
    if not isinstance(step, Load):
        return ()
    return tuple(m[1] for line in step.table for m in REFERENCE.finditer(line.args))


encode = msgspec.json.Encoder(order="deterministic").encode
"""Steps, observations and records to JSON bytes; equal values give equal bytes."""
