"""Whether what a guest reports about LVM's boots is possible.

Observations come from a guest, which may say anything.  What the replay takes for granted is
checked here once, before it is used: each action has an observation; that of a command has the
image of the whole disk; and an `Examine` that shows a snapshot also shows all that explains it.
"""

from collections.abc import Mapping, Sequence

from harness.errors import GuestLost
from harness.lvm.situations import DISK, ORIGIN, SECTORS
from harness.trace.observations import Observation, Runs
from harness.trace.pattern import sectors_of
from harness.trace.steps import Examine
from harness.wire.lvm import Boot, Lvm, PowerCut


def check(boot: Boot, seen: Sequence[Observation]) -> None:
    """Make sure that ``seen`` are observations of ``boot``.

    Raises:
        GuestLost: they cannot be; says which, and why.
    """
    if len(seen) != len(boot.actions):
        raise _rubbish(boot, len(seen), f"{len(seen)} observations of {len(boot.actions)} actions")
    status: dict[str, str | None] = {}
    for index, (action, observation) in enumerate(zip(boot.actions, seen, strict=True)):
        for name, state in observation.state.items():
            if state is None:
                status.pop(name, None)
            else:
                status[name] = state.status
        for name, runs in {**observation.content, **observation.image}.items():
            if sectors_of(runs) > SECTORS:
                raise _rubbish(boot, index, f"{name} is larger than the disk it is on")
        if isinstance(action, Lvm) and not _whole(observation.image.get(DISK)):
            raise _rubbish(boot, index, "a command has no image of the whole disk")
        if isinstance(action, Examine):
            fault = _unexplained(observation.content, status)
            if fault:
                raise _rubbish(boot, index, fault)
    cut = next((at for at, each in enumerate(boot.actions) if isinstance(each, PowerCut)), None)
    if cut is not None and cut != len(boot.actions) - 1:
        raise _rubbish(boot, cut, "something follows a power cut")


def _whole(image: Runs | None) -> bool:
    return image is not None and sectors_of(image) == SECTORS


def _unexplained(content: Mapping[str, Runs], status: Mapping[str, str | None]) -> str:
    """What is missing next to the content of a snapshot; empty if nothing is."""
    for name in content:
        if name not in status:
            return f"{name} has content and no state"
        if f"{name}-cow" not in content:
            continue
        if len((status[name] or "").split()) < 3:
            return f"the status of {name} is not one of a target"
        if f"{ORIGIN}-real" not in content:
            return f"{name} is a snapshot, and there is no {ORIGIN}-real"
    return ""


def _rubbish(boot: Boot, index: int, why: str) -> GuestLost:
    return GuestLost(f"{boot.name}: what the guest says of action {index} is rubbish: {why}")
