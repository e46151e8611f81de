"""What the twin knows of a trace before, or in place of, a kernel's answer: where it ends.

A trace that needs what the twin does not model has no verdict but *unsupported*, whatever a kernel
would make of it, so no guest need be had for it.  One that ends in a step which never returns, or
in a crash, ends so on a kernel as well, if the two agree: then there is no observation to compare,
but the step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from harness.compare.diff import words
from harness.errors import (
    BadScenario,
    DmsnapError,
    KernelCrash,
    NeverReturns,
    ProvisioningError,
    Unsupported,
)
from harness.trace.files import Trace
from harness.trace.steps import Load
from harness.twin.backend import TwinBackend
from harness.twin.device_mapper import TARGET_TYPES
from harness.twin.profile import FAITHFUL, Fact, Profile
from harness.twin.table import check_known

_TOLD: Final = (BadScenario, Unsupported, NeverReturns, KernelCrash)


def place(trace: Trace, step: int) -> str:
    """A step in words, with its place in the trace: ``step 4 (load real), line 6``."""
    return f"step {step} ({words(trace.steps[step])}), line {trace.line(step)}"


def told(trace: Trace, fault: DmsnapError) -> str:
    """``fault`` with the place that it came from, where that is known."""
    step = fault.step
    return str(fault) if step is None or step >= len(trace.steps) else (
        f"{place(trace, step)}: {fault}")


def with_place(trace: Trace, fault: DmsnapError) -> DmsnapError:
    """The same error, whose text names the step and the line."""
    for kind in _TOLD:
        if isinstance(fault, kind):
            return kind(told(trace, fault))
    return fault


def not_modelled(trace: Trace) -> Unsupported | None:
    """Why the twin cannot be asked about a trace: the first target that it does not know."""
    for index, step in enumerate(trace.steps):
        for line in step.table if isinstance(step, Load) else ():
            if line.type not in TARGET_TYPES:
                try:
                    check_known(line.type)
                except Unsupported as fault:
                    fault.step = index
                    return fault
    return None


def foresee(trace: Trace, facts: Mapping[str, Fact], defects: str = FAITHFUL, *,
            crashes: bool = False) -> DmsnapError | None:
    """What ends a trace in the twin's first order, with its step; None if it gets through.

    ``facts`` are those of a guest's probe.  With ``crashes``, the kernel crashes where no probe
    tells.
    """
    try:
        profile = Profile.from_probe(facts)
    except ProvisioningError:
        return None
    backend = TwinBackend(dataclasses.replace(profile, defects=defects, unprobed_crashes=crashes))
    backend.begin(trace.header.seed)
    for index, each in enumerate(trace.steps):
        try:
            backend.execute(index, each)
        except DmsnapError as fault:
            return fault
        except Exception:  # noqa: BLE001 - a twin that breaks foresees nothing
            return None
    return None
