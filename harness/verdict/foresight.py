"""What the twin predicts for a trace: where it ends, and where kernels may die.

A trace that needs what the twin does not model has no verdict but *unsupported*, whatever a kernel
would make of it, so it needs no guest.  One that ends in a step that never returns, or in the death
of the kernel, ends like that on a kernel as well, if the two agree; then there is no observation to
compare, only the step.

Nothing here knows what a guest did, only what its probe found.
"""

import dataclasses
from collections.abc import Mapping
from itertools import islice
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
from harness.trace.backend import carry_out
from harness.trace.files import Trace
from harness.trace.steps import Load
from harness.twin.backend import TwinBackend
from harness.twin.device_mapper import TARGET_TYPES
from harness.twin.explore import Orders
from harness.twin.profile import FAITHFUL, Fact, Profile
from harness.twin.table import check_known

DEATHS_ORDERS_MAX: Final = 100
"""How many orders are searched for one in which the kernel may die where it did."""
_TOLD: Final = (BadScenario, Unsupported, NeverReturns, KernelCrash)


def place(trace: Trace, step: int) -> str:
    """A step in words, with its place in the trace: ``step 4 (load real), line 6 of t.jsonl``."""
    of = f" of {trace.file}" if trace.file else ""
    return f"step {step} ({words(trace.steps[step])}), line {trace.line(step)}{of}"


def told(trace: Trace, fault: DmsnapError) -> str:
    """``fault`` with its place, if known."""
    step = fault.step
    return (
        str(fault)
        if step is None or step >= len(trace.steps)
        else (f"{place(trace, step)}: {fault}")
    )


def with_place(trace: Trace, fault: DmsnapError) -> DmsnapError:
    """The same error with the step and the line in its text."""
    for kind in _TOLD:
        if isinstance(fault, kind):
            return kind(told(trace, fault))
    return fault


def not_modelled(trace: Trace) -> Unsupported | None:
    """Why the twin cannot run a trace: the first target that it does not know."""
    for index, step in enumerate(trace.steps):
        for line in step.table if isinstance(step, Load) else ():
            if line.type not in TARGET_TYPES:
                try:
                    check_known(line.type)
                except Unsupported as fault:
                    fault.step = index
                    return fault
    return None


def profile_of(facts: Mapping[str, Fact], defects: str = FAITHFUL) -> Profile:
    """The profile of a guest whose probe found ``facts``.

    Raises:
        ProvisioningError: no kernel has such facts.
    """
    return dataclasses.replace(Profile.from_probe(facts), defects=defects)


@dataclasses.dataclass(frozen=True, slots=True)
class Foretold:
    """What the twin predicts for a trace, in its first order.

    Attributes:
        end: why it does not reach the end, with the step; None if it does.
        crashes: where the kernel dies, or may die; the last may be the end.
    """

    end: DmsnapError | None = None
    crashes: tuple[KernelCrash, ...] = ()


def foretell(trace: Trace, facts: Mapping[str, Fact], defects: str = FAITHFUL) -> Foretold:
    """What the twin predicts for a trace; ``facts`` are those of a guest's probe."""
    try:
        backend = TwinBackend(profile_of(facts, defects))
    except ProvisioningError:
        return Foretold()
    end: DmsnapError | None = None
    try:
        for _ in carry_out(backend, trace.steps, trace.header.seed):
            pass
    except DmsnapError as fault:
        end = fault
    except Exception:  # noqa: BLE001 - a twin that breaks foresees nothing
        return Foretold()
    return Foretold(end, tuple(backend.crashes))


def foresee(trace: Trace, facts: Mapping[str, Fact], defects: str = FAITHFUL) -> DmsnapError | None:
    """What ends a trace in the twin's first order, with its step; None if it reaches the end."""
    return foretell(trace, facts, defects).end


def hangs_in(trace: Trace, facts: Mapping[str, Fact], defects: str = FAITHFUL) -> int | None:
    """The step that, by the twin, never returns."""
    fault = foresee(trace, facts, defects)
    return fault.step if isinstance(fault, NeverReturns) else None


def dies_in(
    trace: Trace, facts: Mapping[str, Fact], step: int, defects: str = FAITHFUL
) -> KernelCrash | None:
    """Why the kernel may die in ``step``, in one of the permitted orders; None if in none.

    At most `DEATHS_ORDERS_MAX` of them are tried.
    """
    try:
        orders = Orders(trace.steps[: step + 1], trace.header.seed, profile_of(facts, defects))
        for _ in islice(orders, DEATHS_ORDERS_MAX):
            if found := orders.dies_in(step):
                return found
    except Exception:  # noqa: BLE001 - a twin that breaks foresees nothing
        return None
    return None
