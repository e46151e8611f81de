"""The vocabulary: steps, observations, and the protocol that both sides implement.

Everything here is data.  A step is one action on one named device; an observation is what one
side saw of it.  Both are msgspec structs, so the JSON form (docs/trace-format.md) and its checks
follow from the types.

Names.  A *disk* is a plain block device that the harness makes; a *mapped device* is what a
scenario builds on it with device-mapper.  They share one name space.  In table arguments
``{name}`` stands for a device, whatever its number or path is on a side, and what a side prints
is brought back to ``{name}`` before anything is compared.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from harness.errors import BadScenario
from harness.faults import MARKS, How, Op
from harness.units import SECTOR_BYTES

NAME_PATTERN: Final = r"^[A-Za-z0-9_.+-]{1,16}\Z"
"""Device names; 16 bytes, so that a sector can carry the name of its device."""
SECTOR_MAX: Final = 1 << 54
"""Upper bound of any sector number in a step; beyond it byte offsets leave 63 bits."""

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
SectorNumber = Annotated[int, Meta(ge=0, le=SECTOR_MAX)]
SectorCount = Annotated[int, Meta(ge=1, le=1 << 31)]
Generation = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Fill = Literal["stamp", "zero"]

REQUEST_SECTORS_MAX: Final = 2048
"""A read or write step longer than this is issued as several requests of this size (1 MiB), in
ascending order, one at a time; the first one that fails ends the step."""
EXAMINE_SECTORS_MAX: Final = 1 << 19
"""`Examine` reads a mapped device whole up to this size (256 MiB), else only both ends."""
EXAMINE_END_SECTORS: Final = 1 << 13

SUSPENDED: Final = "SUSPENDED"
"""Error of an I/O step that would wait for ever, because its device, or one below it, is
suspended: both sides refuse it without issuing it."""
TIMEOUT: Final = "TIMEOUT"
"""Error of a `Wait` whose event did not come."""


class Step(Struct, frozen=True, kw_only=True, tag_field="do", tag=str.lower,
           forbid_unknown_fields=True, omit_defaults=True):
    """One action.  The JSON field ``do`` holds the class name in lower case."""


class TargetLine(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a table, as in ``dmsetup``: start and length in sectors, type, arguments."""

    start: SectorNumber
    length: Annotated[int, Meta(ge=0, le=SECTOR_MAX)]
    type: str
    args: str = ""


class Disk(Step, frozen=True, kw_only=True):
    """Make a disk of ``sectors`` sectors, filled with its own stamps or with zeros.

    One that ``can_fail`` takes faults (`Fault`), tells of every request that reaches it, has a
    write cache that must be flushed, takes discards, and has blocks of 512 bytes.  One that is
    ``linked`` as well stands behind a link of its own, so that a fault can stop it (`Fault.how`).
    """

    name: Name
    sectors: SectorCount
    fill: Fill = "zero"
    generation: Generation = 0
    block_size: Literal[512, 1024, 2048, 4096] = 512
    can_fail: bool = False
    linked: bool = False


class Create(Step, frozen=True, kw_only=True):
    """Make a mapped device without a table (DM_DEV_CREATE)."""

    name: Name


class Load(Step, frozen=True, kw_only=True):
    """Load a table into the inactive slot (DM_TABLE_LOAD)."""

    name: Name
    table: tuple[TargetLine, ...]
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
    text: str
    sector: SectorNumber = 0


class Status(Step, frozen=True, kw_only=True):
    """Ask for the status lines; `inactive` asks the inactive table."""

    name: Name
    inactive: bool = False


class Table(Step, frozen=True, kw_only=True):
    """Ask for the table lines; `inactive` asks the inactive table."""

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
    data: bytes


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
    reads a device.  The step ends with the last of them; its error is the first that one of them
    met, in the order of submission, and its text has a line for each: ``ok`` or the errno.

    Mapped devices named in ``resume`` are suspended before the step, with nothing loaded, and
    resumed in this order once everything is submitted: what is below them waits until then, so
    that it does not depend on a race what finds what in flight.
    """

    ios: Annotated[tuple[Write | Read, ...], Meta(min_length=1, max_length=256)]
    resume: tuple[Name, ...] = ()


class Fault(Step, frozen=True, kw_only=True):
    """From now on the ``nth`` request of a kind that touches a range fails, or stops the disk.

    The device is a disk that ``can_fail``; a range without a length reaches to its end.  Requests
    are counted from 1; ``count`` of them are struck in all, 0 stands for all that follow.  A disk
    may have several faults.

    A request that is struck fails with EIO (``how`` = ``error``).  On a disk that is ``linked``, it
    may also take the link down: for a while, so that its answer is late (``stalls``), or for good,
    so that it and all that follow fail (``dies``, which happens once).
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

    name: str
    value: str


class Examine(Step, frozen=True, kw_only=True):
    """Read every mapped device that can be read, then the image of every disk.

    Each scenario ends with one.  A mapped device is left out while it has no live table, or while
    it or a device below it is suspended.
    """


class Crash(Step, frozen=True, kw_only=True):
    """Lose the guest on purpose: ``panic`` (sysrq c), ``hang`` (uninterruptible), ``exit``."""

    how: Literal["panic", "hang", "exit"]


AnyStep = (
    Disk | Create | Load | Clear | Resume | Suspend | Remove | Rename | Message | Status | Table
    | Wait | Write | Poke | Read | Flush | Discard | Zeroout | Parallel | Fault | Heal | Image
    | Parameter | Examine | Crash
)

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
"""Contents of consecutive sectors, without loss: `harness.pattern` turns bytes into runs and
back.  Encoding is a function of the bytes alone, so equal runs mean equal bytes."""


class DeviceState(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What device-mapper tells of one mapped device after a step.

    Lines are those of ``dmsetup status`` and ``dmsetup table``, joined by newlines, with device
    numbers brought back to ``{name}``; None where there is no such table.
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


class Observation(Struct, frozen=True, kw_only=True, omit_defaults=True,
                  forbid_unknown_fields=True):
    """What one side saw of one step.

    Attributes:
        step: index of the step in the trace, from 0.
        error: errno name (``EIO``), `SUSPENDED`, `TIMEOUT`, or None.
        text: the lines that `Status` or `Table` asked for; the new event number of `Wait`; the
            answer of a `Message`; how each I/O of `Parallel` ended.
        content: device name → what was read.
        image: disk name → every sector of it.
        state: mapped devices whose state changed in this step; None for one that is gone.
        uevents, log: in the order of their arrival.
        requests: disk that can fail → the requests that reached it, in the order of their arrival.
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


class Backend(Protocol):
    """One side: a world of disks and mapped devices that executes steps one by one."""

    def begin(self, seed: int) -> None:
        """Start an empty world; ``seed`` goes into every stamp."""

    def execute(self, index: int, step: AnyStep) -> Observation:
        """Do one step.  What the world refuses is an observation, never an exception.

        Raises:
            BadScenario: the step has no meaning here (unknown device, range outside of it).
        """

    def end(self) -> list[str]:
        """Remove every device, however the scenario ended; returns what would not go away.

        Raises:
            WitnessesDisagree: the devices are gone, but what was observed is in doubt.
        """


REFERENCE: Final = re.compile(r"\{([A-Za-z0-9_.+-]{1,16})\}")
"""A device reference in table arguments."""


def references(step: AnyStep) -> tuple[str, ...]:
    """Names of the devices that the tables of ``step`` refer to, in order."""
    if not isinstance(step, Load):
        return ()
    return tuple(m[1] for line in step.table for m in REFERENCE.finditer(line.args))


def check_disk(step: Disk) -> None:
    """Refuse a disk that cannot be made.

    Raises:
        BadScenario: it is to fail and has large blocks.
    """
    if step.can_fail and step.block_size != SECTOR_BYTES:
        raise BadScenario(f"disk {step.name} can fail, so its blocks have {SECTOR_BYTES} bytes")
    if step.linked and not step.can_fail:
        raise BadScenario(f"disk {step.name} is linked, so it must be one with can_fail")


def check_fault(step: Fault, *, linked: bool) -> None:
    """Refuse a fault that a disk cannot have.

    Raises:
        BadScenario: there is no link to be taken down, or one that is down is to go down again.
    """
    if step.how != "error" and not linked:
        raise BadScenario(f"disk {step.device} has no link to be taken down: make it with linked")
    if step.how == "dies" and step.count != 1:
        raise BadScenario(f"disk {step.device} dies once, so the count of this fault is 1")


def faults_without_effect(trace: Sequence[AnyStep], seen: Iterable[Observation]) -> list[int]:
    """Indices of the faults that were to stop a disk and struck no request before a heal."""
    requests = {observation.step: observation.requests for observation in seen}
    found = []
    for index, step in enumerate(trace):
        if not isinstance(step, Fault) or step.how == "error":
            continue
        mark = f" {MARKS[step.how]}"
        for later in range(index + 1, len(trace)):
            if any(line.endswith(mark) for line in requests.get(later, {}).get(step.device, ())):
                break
            if trace[later] == Heal(device=step.device):
                found.append(index)
                break
        else:
            found.append(index)
    return found


def check_resumable(name: str, *, suspended: bool, loaded: bool) -> None:
    """Refuse to resume, in the middle of a step, what might fail or change its table.

    Raises:
        BadScenario: the device is not suspended, or has a table loaded.
    """
    if not suspended or loaded:
        why = "has a table loaded" if loaded else "is not suspended"
        raise BadScenario(f"a parallel step resumes {name}, which {why}: suspend it before, and "
                          "load nothing")


def check_parallel(step: Parallel) -> None:
    """Refuse what cannot be one set of requests.

    Raises:
        BadScenario: an I/O is too long or buffered, or a device is read twice.
    """
    for io in step.ios:
        if io.sectors > REQUEST_SECTORS_MAX or io.buffered:
            raise BadScenario(f"an I/O of a parallel step is direct and at most "
                              f"{REQUEST_SECTORS_MAX} sectors long")
    readers = [io.device for io in step.ios if isinstance(io, Read)]
    if len(set(readers)) != len(readers):
        raise BadScenario("a parallel step reads a device once: what it shows is kept by device")


def requests(sector: int, sectors: int) -> list[tuple[int, int]]:
    """Cut a read or write step into requests: (sector, sectors) of each, ascending."""
    end = sector + sectors
    return [(at, min(REQUEST_SECTORS_MAX, end - at)) for at in
            range(sector, end, REQUEST_SECTORS_MAX)]


encode = msgspec.json.Encoder(order="deterministic").encode
"""Steps, observations and records to JSON bytes; the same value gives the same bytes."""
