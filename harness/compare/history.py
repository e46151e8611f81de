"""What came before a divergence, at the same place: steps with their sectors.

Origin, snapshots and linear parts count sectors alike where a table begins at 0, so a step on one
of them touches the same place on the others.  A COW device counts its own; it is only followed
where it is the device in question.
"""

from collections.abc import Iterator
from typing import Final

from harness.compare.diff import Divergence, words
from harness.trace.files import Trace
from harness.trace.steps import (
    AnyStep,
    Clear,
    Discard,
    Fault,
    Heal,
    Load,
    Parallel,
    Poke,
    Read,
    Remove,
    Resume,
    Suspend,
    Write,
    Zeroout,
    references,
)
from harness.units import SECTOR_BYTES

STEPS_MAX: Final = 6
"""Earlier steps that are told; the last ones."""
Range = tuple[int, int]


def told(step: AnyStep) -> str:
    """A step in words, with its sectors: ``write snap, sectors 3 to 10``."""
    reached = sectors(step)
    if reached is None:
        return words(step)
    first, end = reached
    many = f"sectors {first} to {end - 1}" if end - first > 1 else f"sector {first}"
    return f"{words(step)}, {many}"


def sectors(step: AnyStep) -> Range | None:
    """The sectors that a step reaches, as first and end; None if it does no I/O to a range."""
    match step:
        case Write() | Read() | Discard() | Zeroout():
            return step.sector, step.sector + step.sectors
        case Poke():
            return step.sector, step.sector + len(step.data) // SECTOR_BYTES
    return None


def before(trace: Trace, divergence: Divergence) -> tuple[str, ...]:
    """Earlier steps that touched the place of a divergence, and its own, in words and in order."""
    if not 0 <= divergence.step < len(trace.steps):
        return ()
    step = trace.steps[divergence.step]
    device = _device(step)
    where = sectors(step)
    if divergence.place is not None:
        device = divergence.what.rpartition(" of ")[2]
        sector = divergence.place.byte // SECTOR_BYTES
        where = sector, sector + 1
    if device is None:
        device = divergence.what.rpartition(" of ")[2]
    alike = _alike(trace.steps[: divergence.step], device)
    found = [
        f"step {index} ({told(earlier)})"
        for index, earlier in enumerate(trace.steps[: divergence.step])
        if any(_touches(each, alike, where) for each in _parts(earlier))
    ]
    return (*found[-STEPS_MAX:], f"step {divergence.step} ({told(step)})")


def _parts(step: AnyStep) -> Iterator[AnyStep]:
    if isinstance(step, Parallel):
        yield from step.ios
    else:
        yield step


def _device(step: AnyStep) -> str | None:
    return getattr(step, "device", None) or getattr(step, "name", None)


def _touches(step: AnyStep, devices: set[str], where: Range | None) -> bool:
    if _device(step) not in devices:
        return False
    reached = sectors(step)
    if reached is not None:
        return not isinstance(step, Read) and (
            where is None or (reached[0] < where[1] and where[0] < reached[1])
        )
    return isinstance(step, Load | Clear | Resume | Suspend | Remove | Fault | Heal)


def _alike(steps: tuple[AnyStep, ...], device: str) -> set[str]:
    """Devices that count sectors as ``device`` does, by the tables that were loaded."""
    found, changed = {device}, True
    loads = [step for step in steps if isinstance(step, Load) and references(step)]
    while changed:
        changed = False
        for load in loads:
            pair = {load.name, references(load)[0]}
            if pair & found and not pair <= found:
                found |= pair
                changed = True
    return found
