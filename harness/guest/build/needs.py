"""Which options a kernel must have for a scenario to run on it, and what one that lacks some costs.

Options that are not here are needed by every scenario.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from harness.trace.files import Trace
from harness.trace.steps import Create, Disk, Load

TARGETS: Final = {
    "snapshot": "CONFIG_DM_SNAPSHOT",
    "snapshot-origin": "CONFIG_DM_SNAPSHOT",
    "snapshot-merge": "CONFIG_DM_SNAPSHOT",
    "zero": "CONFIG_DM_ZERO",
    "flakey": "CONFIG_DM_FLAKEY",
    "delay": "CONFIG_DM_DELAY",
    "dust": "CONFIG_DM_DUST",
    "log-writes": "CONFIG_DM_LOG_WRITES",
}
"""Type of a target → the option that brings it; others come with device-mapper itself."""
LOOP: Final = "CONFIG_BLK_DEV_LOOP"
NBD: Final = "CONFIG_BLK_DEV_NBD"
LINK: Final = ("CONFIG_VETH", "CONFIG_NET_NS")
OPTIONAL: Final = frozenset(
    {
        *(option for option in TARGETS.values() if option != "CONFIG_DM_SNAPSHOT"),
        LOOP,
        NBD,
        *LINK,
        # Told of beside what happens, and missed by no scenario.
        "CONFIG_IKCONFIG",
        "CONFIG_IKCONFIG_PROC",
        "CONFIG_SLUB_DEBUG",
        "CONFIG_NET_CORE",
        "CONFIG_STDERR_CONSOLE",
        "CONFIG_LOG_BUF_SHIFT",
    }
)
"""Without these a kernel is a guest all the same."""


def options_of(trace: Trace) -> frozenset[str]:
    """What a scenario needs beyond what all of them do."""
    found: set[str] = set()
    for step in trace.steps:
        if isinstance(step, Disk):
            if step.can_fail:
                found.add(NBD)
            if step.linked:
                found.update(LINK)
            if step.block_size != 512 and not step.can_fail:
                found.add(LOOP)
        elif isinstance(step, (Load, Create)):
            found.update(
                TARGETS[line.type] for line in getattr(step, "table", ()) if line.type in TARGETS
            )
    return frozenset(found)


def told(lacking: Iterable[str], traces: Iterable[Trace]) -> str:
    """Options that a kernel lacks, each with the number of ``traces`` that need it; all at once.

    Empty if none of them is missed.
    """
    needed: Mapping[str, frozenset[str]] = {
        trace.header.scenario: options_of(trace) for trace in traces
    }
    missed = {
        option: len(needed)
        if option not in OPTIONAL
        else sum(option in each for each in needed.values())
        for option in sorted(set(lacking))
    }
    parts = [f"{option} ({count} scenarios)" for option, count in missed.items() if count]
    return f"this kernel lacks {', '.join(parts)}" if parts else ""
