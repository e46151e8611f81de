"""Rules for steps beyond those of their types; each rule is here once."""

from collections.abc import Iterable, Sequence
from typing import Final

from harness.errors import BadScenario
from harness.trace.faults import MARKS
from harness.trace.observations import Observation
from harness.trace.steps import (
    REQUEST_SECTORS_MAX,
    AnyStep,
    Disk,
    Fault,
    Heal,
    Parallel,
    Parameter,
    Poke,
    Read,
)
from harness.units import SECTOR_BYTES

EXAMINE_SECTORS_MAX: Final = 1 << 19
"""`Examine` reads a mapped device whole up to this size (256 MiB), else only both ends."""
EXAMINE_END_SECTORS: Final = 1 << 13


RESERVED: Final = frozenset({".", "..", "control", "dmsnap-hang"})
"""Names with another meaning in /dev/mapper."""


def no_device(name: str) -> BadScenario:
    """The refusal of a request to a missing device."""
    return BadScenario(f"there is no device named {name}; create it before it is used")


def no_disk(name: str) -> BadScenario:
    """The refusal of an image of something that is not a disk."""
    return BadScenario(f"there is no disk named {name}; an image needs a disk")


def no_fallible_disk(name: str) -> BadScenario:
    """The refusal of a fault, or its end, on something that cannot have one."""
    return BadScenario(f"{name} is not a disk that can fail; create it with can_fail")


def check_name(name: str) -> None:
    """Refuse a name that no device can have.

    Raises:
        BadScenario: it is one of `RESERVED`.
    """
    if name in RESERVED:
        raise BadScenario(f"a device cannot be called {name}; choose another name")


def check_command(name: str, *, is_disk: bool) -> None:
    """Refuse a device-mapper command on a disk; a scenario has no say in how disks are made.

    Raises:
        BadScenario: ``name`` is a disk.
    """
    if is_disk:
        raise BadScenario(f"{name} is a disk; device-mapper commands need a mapped device")


def check_disk(step: Disk, *, taken: bool) -> None:
    """Refuse a disk that cannot be created.

    Raises:
        BadScenario: its name is ``taken``, its size is not a whole number of blocks, or it can
            fail and has large blocks, or is linked and cannot fail.
    """
    check_name(step.name)
    if taken:
        raise BadScenario(f"there is already a device named {step.name}; choose another name")
    if step.sectors * SECTOR_BYTES % step.block_size:
        raise BadScenario(
            f"disk {step.name}: {step.sectors} sectors are not a multiple of a block of "
            f"{step.block_size} bytes"
        )
    if step.can_fail and step.block_size != SECTOR_BYTES:
        raise BadScenario(f"disk {step.name} can fail, so its blocks have {SECTOR_BYTES} bytes")
    if step.linked and not step.can_fail:
        raise BadScenario(f"disk {step.name} is linked, so it must have can_fail")


def check_poke(step: Poke) -> None:
    """Refuse bytes that no request can write.

    Raises:
        BadScenario: there are none, or not a whole number of sectors.
    """
    if not step.data or len(step.data) % SECTOR_BYTES:
        raise BadScenario(
            f"a poke of {len(step.data)} bytes, which is not a whole number of sectors"
        )


def check_parameter(step: Parameter) -> None:
    """Refuse what cannot be a module parameter; whether it exists, the kernel says.

    Raises:
        BadScenario: the name is not valid.
    """
    if not step.name.isidentifier():
        raise BadScenario(f"{step.name!r} is not a name of a module parameter")


def check_fault(step: Fault, *, linked: bool) -> None:
    """Refuse a fault that a disk cannot have.

    Raises:
        BadScenario: there is no link to take down, or a fault would take it down twice.
    """
    if step.how != "error" and not linked:
        raise BadScenario(f"disk {step.device} has no link to take down; create it with linked")
    if step.how == "dies" and step.count != 1:
        raise BadScenario(f"disk {step.device} dies once, so the count of this fault must be 1")


def faults_without_effect(trace: Sequence[AnyStep], seen: Iterable[Observation]) -> list[int]:
    """Indices of faults that should have stopped a disk but struck no request before a heal."""
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
    """Refuse to resume in mid-step a device that might fail or change its table.

    Raises:
        BadScenario: the device is not suspended, or has a table loaded.
    """
    if not suspended or loaded:
        why = "has a table loaded" if loaded else "is not suspended"
        raise BadScenario(
            f"a parallel step resumes {name}, which {why}; suspend it before, and load nothing"
        )


def check_parallel(step: Parallel) -> None:
    """Refuse I/Os that cannot be one set of requests.

    Raises:
        BadScenario: an I/O is too long or buffered, or a device is read twice.
    """
    for io in step.ios:
        if io.sectors > REQUEST_SECTORS_MAX or io.buffered:
            raise BadScenario(
                f"an I/O of a parallel step is direct and at most "
                f"{REQUEST_SECTORS_MAX} sectors long"
            )
    readers = [io.device for io in step.ios if isinstance(io, Read)]
    if len(set(readers)) != len(readers):
        raise BadScenario("a parallel step reads a device once, as contents are kept by device")


def examined(sectors: int) -> list[tuple[int, int]]:
    """The ranges of a mapped device of ``sectors`` sectors that `Examine` reads: first, count."""
    if sectors <= EXAMINE_SECTORS_MAX:
        return [(0, sectors)]
    return [(0, EXAMINE_END_SECTORS), (sectors - EXAMINE_END_SECTORS, EXAMINE_END_SECTORS)]


def examined_sector(index: int, sectors: int) -> int:
    """Which sector of such a device is at ``index`` in what `Examine` shows."""
    for first, count in examined(sectors):
        if index < count:
            return first + index
        index -= count
    raise ValueError("beyond the end of what is shown")


def requests(sector: int, sectors: int) -> list[tuple[int, int]]:
    """Cut a read or write step into requests: (sector, sectors) of each, ascending."""
    end = sector + sectors
    return [
        (at, min(REQUEST_SECTORS_MAX, end - at)) for at in range(sector, end, REQUEST_SECTORS_MAX)
    ]
