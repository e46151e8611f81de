"""The verdict: what one side saw, compared with the other."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from harness.compare import diff
from harness.compare.diff import Verdict
from harness.compare.history import before
from harness.errors import (
    BadScenario,
    NeverReturns,
    ProvisioningError,
    TwinInvariant,
    Unsupported,
)
from harness.guest.events import Loss, Outcome
from harness.promises import check as promise
from harness.promises import witness
from harness.promises.check import BrokenPromise
from harness.trace.backend import fault_of
from harness.trace.files import Observations, ObservationsHeader, Trace
from harness.trace.observations import Observation
from harness.trace.rules import faults_without_effect
from harness.trace.steps import Crash, encode
from harness.twin import explore
from harness.twin.profile import FAITHFUL, FIXED
from harness.verdict.defects import known
from harness.verdict.foresight import dies_in, foresee, place, profile_of, told
from harness.verdict.result import Result, console_tail
from harness.wire.journal import Ready

_OTHER_PANICS: Final = ("sysrq triggered crash", "deadlocked on memory", "Out of memory")
"""Words of a panic that was requested, or that a guest without memory ends in."""


def judge(
    trace: Trace,
    outcome: Outcome,
    kernel: str,
    defects: str = FAITHFUL,
    orders_max: int | None = None,
) -> tuple[Result, Observations | None]:
    """The verdict of one scenario on one kernel, and what the twin saw, if it was asked.

    Where the twin's first order is not the kernel's, ``orders_max`` of them are tried at most, by
    default as many as `harness.twin.explore` tries.
    """
    ready = outcome.ready
    result = Result(
        scenario=outcome.scenario,
        kernel=kernel,
        release=ready.release if ready else "",
        seed=trace.header.seed,
        verdict=Verdict.SAME,
        attempts=outcome.attempts,
        steps=len(trace.steps),
        kernel_us=_time(outcome.observations),
        names=trace.header.names or {},
    )
    replace = msgspec.structs.replace
    if outcome.lost:
        return _judge_lost(result, trace, outcome, defects, orders_max)
    at = "" if outcome.step is None else f"{place(trace, outcome.step)}: "
    if outcome.unsupported:
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=f"{at}{outcome.fault}"), None
    if outcome.fault:
        return replace(
            result, verdict=Verdict.BROKEN, reason=f"the kernel side: {at}{outcome.fault}"
        ), None
    idle = faults_without_effect(trace.steps, outcome.observations)
    if idle:
        return replace(
            result,
            verdict=Verdict.BROKEN,
            reason=(
                f"the kernel side: {place(trace, idle[0])} was meant to stop the disk, "
                "but no request reached it"
            ),
        ), None
    assert ready is not None, "a scenario that ended had a guest that was ready"
    result, twin = _against_twin(result, trace, outcome.observations, ready, defects, orders_max)
    if outcome.leftovers:
        result = replace(
            result,
            verdict=Verdict.DIVERGED,
            reason=(f"devices could not be removed: {', '.join(outcome.leftovers)}"),
        )
    return result, twin


def _against_twin(
    result: Result,
    trace: Trace,
    seen: Sequence[Observation],
    ready: Ready,
    defects: str,
    orders_max: int | None,
    died_in: int | None = None,
) -> tuple[Result, Observations | None]:
    """The verdict on what a kernel did, whatever happens to the twin."""
    replace = msgspec.structs.replace
    try:
        return _compare(result, trace, seen, ready, defects, orders_max, died_in)
    except BadScenario as fault:
        return replace(
            result, verdict=Verdict.BROKEN, reason=f"the twin: {told(trace, fault)}"
        ), None
    except Unsupported as fault:
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=told(trace, fault)), None
    except ProvisioningError as fault:  # no kernel has such facts; there is nothing to compare
        return replace(result, verdict=Verdict.LOST, reason=f"rubbish: {fault}"), None
    except TwinInvariant as fault:
        return replace(
            result, verdict=Verdict.DIVERGED, reason=f"the twin: {told(trace, fault)}"
        ), None
    except Exception as fault:  # noqa: BLE001 - a twin that breaks is a result, and not the last
        return replace(
            result,
            verdict=Verdict.DIVERGED,
            reason=(f"the twin broke: {fault_of(fault)}; please report it with the trace"),
        ), None


def unsupported(trace: Trace, kernel: str, fault: Unsupported) -> Result:
    """The result of a trace that the twin cannot run; no kernel need run it."""
    return Result(
        scenario=trace.header.scenario,
        kernel=kernel,
        seed=trace.header.seed,
        verdict=Verdict.UNSUPPORTED,
        reason=told(trace, fault),
        attempts=0,
        steps=len(trace.steps),
    )


def _judge_lost(
    result: Result, trace: Trace, outcome: Outcome, defects: str, orders_max: int | None
) -> tuple[Result, Observations | None]:
    """A guest was lost: as the twin predicts, or otherwise."""
    replace = msgspec.structs.replace
    loss, ready = outcome.lost, outcome.ready
    assert loss is not None
    where = "" if loss.step is None else f" in {place(trace, loss.step)}"
    result = replace(result, console=console_tail(loss.console))
    end = None if ready is None else foresee(trace, ready.probe, defects)
    if isinstance(end, Unsupported):
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=told(trace, end)), None
    if ready and loss.step is not None and _is_death(trace, loss):
        with suppress(ProvisioningError):  # a guest with impossible facts proves nothing
            profile_of(ready.probe)
            return _judge_death(result, trace, outcome, loss.step, ready, defects, orders_max)
    if loss.reason == "hang" and ready and isinstance(end, NeverReturns) and loss.step is not None:
        if end.step != loss.step:
            return replace(
                result,
                verdict=Verdict.DIVERGED,
                reason=(
                    f"the kernel hangs{where}; in the twin another step never returns, "
                    f"{told(trace, end)}"
                ),
            ), None
        # What came before it is compared like any other.
        before = msgspec.structs.replace(trace, steps=trace.steps[: loss.step])
        result, twin = _against_twin(
            result, before, outcome.observations, ready, defects, orders_max
        )
        if result.verdict is Verdict.SAME:
            result = replace(
                result,
                verdict=Verdict.HANGS,
                console="",
                reason=f"{place(trace, loss.step)}, never returns: {end}",
            )
        return result, twin
    return replace(
        result, verdict=Verdict.LOST, reason=f"{loss.reason}{where}: {loss.detail}"
    ), None


def _is_death(trace: Trace, loss: Loss) -> bool:
    """Whether a kernel died of what was done to it: a panic, which each BUG and oops ends in.

    Not a requested one, by the trace itself or through sysrq, nor one for lack of memory.
    """
    assert loss.step is not None
    return (
        loss.reason == "panic"
        and not isinstance(trace.steps[loss.step], Crash)
        and not any(words in loss.detail for words in _OTHER_PANICS)
    )


def _judge_death(
    result: Result,
    trace: Trace,
    outcome: Outcome,
    step: int,
    ready: Ready,
    defects: str,
    orders_max: int | None,
) -> tuple[Result, Observations | None]:
    """A kernel died; if the twin announced it, what came before is compared."""
    replace = msgspec.structs.replace
    assert outcome.lost is not None
    where, detail = place(trace, step), outcome.lost.detail
    crash = dies_in(trace, ready.probe, step, defects)
    if crash is None:
        return replace(
            result,
            verdict=Verdict.DIVERGED,
            reason=(f"the kernel dies in {where}, which the twin did not announce: {detail}"),
        ), None
    result, twin = _against_twin(
        result, trace, outcome.observations, ready, defects, orders_max, died_in=step
    )
    if result.verdict is Verdict.SAME:
        since = "" if crash.step == step else f"since {place(trace, crash.step or 0)}, "
        result = replace(
            result,
            verdict=Verdict.DIES,
            console="",
            reason=(f"{where}, kills the kernel: {since}{crash} ({detail})"),
        )
    return result, twin


def _compare(
    result: Result,
    trace: Trace,
    seen: Sequence[Observation],
    ready: Ready,
    defects: str,
    orders_max: int | None,
    died_in: int | None = None,
) -> tuple[Result, Observations]:
    """Compare with the twin's first order, and with the others if that differs.

    A kernel that died is compared up to that step; the order must announce the death.
    """
    profile = profile_of(ready.probe, defects)
    steps, seed = trace.steps, trace.header.seed
    if died_in is not None:
        steps = steps[: died_in + 1]
        trace = msgspec.structs.replace(trace, steps=steps[: max(died_in, len(seen))])
    orders = explore.Orders(steps, seed, profile, orders_max)
    outcomes: set[bytes] = set()
    first: tuple[diff.Comparison, tuple[Observation, ...]] | None = None
    for answers, simulated in orders:
        twin = simulated[: len(trace.steps)]
        comparison = diff.compare(trace, seen, twin)
        outcomes.add(encode(comparison.divergences))
        if first is None:
            first = comparison, twin
        if comparison.same and (died_in is None or orders.dies_in(died_in)):
            verdict = Verdict.SAME
            reason = (
                ""
                if not answers
                else (
                    f"the kernel took another permitted order, number {orders.tried} of those tried"
                )
            )
            break
        if comparison.same:
            orders.differs_in(len(steps) - 1)
        else:
            step = comparison.divergences[0].step
            alike = (
                diff.requests_alike(seen[step], twin[step])
                if step < min(len(seen), len(twin))
                else 0
            )
            orders.differs_in(step, alike)
    else:
        assert first is not None, "there is always a first order"
        comparison, twin = first
        verdict, reason = _unlike(trace, orders, len(outcomes), len(seen) > len(twin))
    header = ObservationsHeader(
        scenario=result.scenario, seed=seed, side="twin", profile=profile.facts()
    )
    kernel_promises = _broken_promises(trace, seen)
    # Where the two saw the same, they broke the same promises.
    alike = comparison.same and not comparison.not_compared
    struck = orders.defects if comparison.same else orders.first_defects
    if defects == FIXED and not comparison.same:
        struck = _where_it_is_faithful(trace, seen, ready)
    return msgspec.structs.replace(
        result.compared_with(comparison),
        defects=known(struck, result.release),
        before=() if comparison.same else before(trace, comparison.divergences[0]),
        verdict=verdict,
        reason=reason,
        orders=orders.tried,
        kernel_promises=kernel_promises,
        twin_promises=kernel_promises if alike else _broken_promises(trace, twin),
        twin_us=_time(twin),
    ), Observations(header, twin)


def _where_it_is_faithful(
    trace: Trace, seen: Sequence[Observation], ready: Ready
) -> Mapping[str, int]:
    """The known defects of a twin that does as kernels do, if it does as this one did."""
    orders = explore.Orders(trace.steps, trace.header.seed, profile_of(ready.probe))
    _, simulated = next(iter(orders))
    return orders.defects if diff.compare(trace, seen, simulated).same else {}


def _unlike(
    trace: Trace, orders: explore.Orders, outcomes: int, goes_on: bool
) -> tuple[Verdict, str]:
    """The verdict if none of the orders is the kernel's, and its reason.

    ``outcomes`` is how many ways there were to differ; ``goes_on`` says that the kernel went on
    where the twin's first order ends.
    """
    if goes_on and isinstance(orders.end, NeverReturns):
        return Verdict.DIVERGED, (
            "the kernel returns from a step that never returns in the twin, "
            f"{told(trace, orders.end)}"
        )
    if goes_on and orders.end:
        return Verdict.DIVERGED, (
            f"the kernel survives a step that kills it in the twin, {told(trace, orders.end)}"
        )
    if outcomes < 2:
        return Verdict.DIVERGED, ""
    reason = f"none of the {orders.tried} permitted orders tried is the kernel's"
    if orders.complete:
        return Verdict.DIVERGED, reason
    return Verdict.NONDETERMINISTIC, f"{reason}, and there are more"


def _broken_promises(trace: Trace, seen: Sequence[Observation]) -> tuple[BrokenPromise, ...]:
    return promise.check(trace, seen) + witness.check(trace, seen)


def _time(seen: Sequence[Observation]) -> int:
    return sum(observation.elapsed_us for observation in seen)
