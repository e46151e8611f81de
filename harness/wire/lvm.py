"""A guest's orders for LVM2, and what it leaves next to its journal.

A boot is a list of actions: command lines of the real ``lvm``, and ordinary steps
(`harness.kernel.lvm_agent` carries them out).
"""

from typing import Final

from msgspec import Struct

from harness.trace.steps import AnyStep, Name, Step

PV: Final = "pv"
"""The mapped device that is the physical volume."""
DISKS: Final = "disks"
"""Directory of the disks, in the results directory."""


class Lvm(Step, frozen=True, kw_only=True):
    """Run an LVM command and wait for its end."""

    words: tuple[str, ...]


class PowerCut(Step, frozen=True, kw_only=True):
    """Run a command that starts a merge on ``device``, and lose power in the middle of it."""

    words: tuple[str, ...]
    device: Name


Action = Lvm | PowerCut | AnyStep


class Boot(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a situation from a boot to a power cut, or to the end.

    Attributes:
        name: that of the situation.
        image: file of the disk that the previous guest left; empty for the first one.
    """

    name: str
    actions: tuple[Action, ...]
    seed: int
    image: str = ""


class LvmJob(Struct, frozen=True, forbid_unknown_fields=True):
    """The guest's orders.

    Attributes:
        modules: directory of the kernel's modules.
        boots: run one after another; nothing follows a power cut.
    """

    modules: str
    boots: tuple[Boot, ...]


def log_name(situation: str, index: int) -> str:
    """File of the debug log of an action, in the results directory."""
    return f"{situation}-{index:03}.log"
