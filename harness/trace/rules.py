"""What a step must keep to, beyond what its type says; each rule stands here once."""

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
"""Names that are something else in /dev/mapper."""


def no_device(name: str) -> BadScenario:
    """The refusal of a request to a device that is not there."""
    return BadScenario(f"there is no device named {name}: make it before it is used")


def no_disk(name: str) -> BadScenario:
    """The refusal of an image of what is no disk."""
    return BadScenario(f"there is no disk named {name}: an image is made of a disk")


def no_fallible_disk(name: str) -> BadScenario:
    """The refusal of a fault, or its end, on what takes none."""
    return BadScenario(f"{name} is no disk that can fail: make it with can_fail")


def check_name(name: str) -> None:
    """Refuse a name that no device can have.

    Raises:
        BadScenario: it is one of `RESERVED`.
    """
    if name in RESERVED:
        raise BadScenario(f"a device cannot be called {name}: choose another name")


def check_command(name: str, *, is_disk: bool) -> None:
    """Refuse a device-mapper command on a disk: what one is made of is no affair of a scenario.

    Raises:
        BadScenario: ``name`` is a disk.
    """
    if is_disk:
        raise BadScenario(f"{name} is a disk: device-mapper commands need a mapped device")


def check_disk(step: Disk, *, taken: bool) -> None:
    """Refuse a disk that cannot be made.

    Raises:
        BadScenario: its name is ``taken``, its size is no whole number of blocks, or it is to fail
            and has large blocks, or to stop and not to fail.
    """
    check_name(step.name)
    if taken:
        raise BadScenario(f"there is a device named {step.name} already: choose another name")
    if step.sectors * SECTOR_BYTES % step.block_size:
        raise BadScenario(
            f"disk {step.name}: {step.sectors} sectors are no multiple of a block of "
            f"{step.block_size} bytes"
        )
    if step.can_fail and step.block_size != SECTOR_BYTES:
        raise BadScenario(f"disk {step.name} can fail, so its blocks have {SECTOR_BYTES} bytes")
    if step.linked and not step.can_fail:
        raise BadScenario(f"disk {step.name} is linked, so it must be one with can_fail")


def check_poke(step: Poke) -> None:
    """Refuse bytes that no request can write.

    Raises:
        BadScenario: there are none, or they are no whole number of sectors.
    """
    if not step.data or len(step.data) % SECTOR_BYTES:
        raise BadScenario(
            f"a poke of {len(step.data)} bytes, which are not a whole number of sectors"
        )


def check_parameter(step: Parameter) -> None:
    """Refuse what cannot be a parameter of a module; whether it is one, the kernel says.

    Raises:
        BadScenario: the name is none.
    """
    if not step.name.isidentifier():
        raise BadScenario(f"{step.name!r} is no name of a module parameter")


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
        raise BadScenario(
            f"a parallel step resumes {name}, which {why}: suspend it before, and load nothing"
        )


def check_parallel(step: Parallel) -> None:
    """Refuse what cannot be one set of requests.

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
        raise BadScenario("a parallel step reads a device once: what it shows is kept by device")


def examined(sectors: int) -> list[tuple[int, int]]:
    """The ranges of a mapped device of ``sectors`` sectors that `Examine` reads: first, count."""
    if sectors <= EXAMINE_SECTORS_MAX:
        return [(0, sectors)]
    return [(0, EXAMINE_END_SECTORS), (sectors - EXAMINE_END_SECTORS, EXAMINE_END_SECTORS)]


def examined_sector(index: int, sectors: int) -> int:
    """Which sector of such a device stands at ``index`` in what `Examine` shows."""
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
