"""The verdict: what one side saw, held against the other."""

import dataclasses
from collections.abc import Sequence

import msgspec

from harness.compare import diff
from harness.compare.diff import Verdict
from harness.errors import (
    BadScenario,
    DmsnapError,
    FreedMemory,
    KernelCrash,
    NeverReturns,
    ProvisioningError,
    TwinInvariant,
    Unsupported,
)
from harness.guest.events import (
    Outcome,
)
from harness.promises import check as promise
from harness.promises import witness
from harness.promises.check import BrokenPromise
from harness.trace.backend import fault_of
from harness.trace.files import Observations, ObservationsHeader, Trace
from harness.trace.observations import Observation
from harness.trace.rules import faults_without_effect
from harness.trace.steps import encode
from harness.twin import explore
from harness.twin.profile import FAITHFUL, Profile
from harness.verdict.foresight import foresee, place, told
from harness.verdict.result import Result, console_tail
from harness.wire.journal import Ready


def judge(trace: Trace, outcome: Outcome, kernel: str, defects: str = FAITHFUL
          ) -> tuple[Result, Observations | None]:
    """The verdict of one scenario on one kernel, and what the twin saw, if it was asked."""
    ready = outcome.ready
    result = Result(
        scenario=outcome.scenario, kernel=kernel, release=ready.release if ready else "",
        seed=trace.header.seed, verdict=Verdict.SAME, attempts=outcome.attempts,
        steps=len(trace.steps), kernel_us=_time(outcome.observations))
    replace = msgspec.structs.replace
    if outcome.lost:
        return _judge_lost(result, trace, outcome, defects)
    at = "" if outcome.step is None else f"{place(trace, outcome.step)}: "
    if outcome.unsupported:
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=f"{at}{outcome.fault}"), None
    if outcome.fault:
        return replace(result, verdict=Verdict.BROKEN,
                       reason=f"the kernel side: {at}{outcome.fault}"), None
    idle = faults_without_effect(trace.steps, outcome.observations)
    if idle:
        return replace(result, verdict=Verdict.BROKEN, reason=(
            f"the kernel side: {place(trace, idle[0])} was to stop the disk, and no request met "
            "it")), None
    assert ready is not None, "a scenario that ended had a guest that was ready"
    result, twin = _against_twin(result, trace, outcome.observations, ready, defects)
    if outcome.leftovers:
        result = replace(result, verdict=Verdict.DIVERGED, reason=(
            f"devices would not go away: {', '.join(outcome.leftovers)}"))
    return result, twin


def _against_twin(result: Result, trace: Trace, seen: Sequence[Observation], ready: Ready,
                  defects: str) -> tuple[Result, Observations | None]:
    """The verdict on what a kernel was seen to do, however the twin fares."""
    replace = msgspec.structs.replace
    try:
        return _compare(result, trace, seen, ready, defects)
    except BadScenario as fault:
        return replace(result, verdict=Verdict.BROKEN, reason=f"the twin: {told(trace, fault)}"
                       ), None
    except Unsupported as fault:
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=told(trace, fault)), None
    except ProvisioningError as fault:  # no kernel answers like that: there is nothing to compare
        return replace(result, verdict=Verdict.LOST, reason=f"rubbish: {fault}"), None
    except (KernelCrash, TwinInvariant) as fault:
        return replace(result, verdict=Verdict.DIVERGED, reason=f"the twin: {told(trace, fault)}"
                       ), None
    except Exception as fault:  # noqa: BLE001 - a twin that breaks is a result, and not the last
        return replace(result, verdict=Verdict.DIVERGED, reason=(
            f"the twin broke: {fault_of(fault)}; please report it with the trace")), None


def unsupported(trace: Trace, kernel: str, fault: Unsupported) -> Result:
    """The result of a trace that the twin cannot be asked about: no kernel need run it."""
    return Result(scenario=trace.header.scenario, kernel=kernel, seed=trace.header.seed,
                  verdict=Verdict.UNSUPPORTED, reason=told(trace, fault), attempts=0,
                  steps=len(trace.steps))


def hangs_in(trace: Trace, ready: Ready, defects: str = FAITHFUL) -> int | None:
    """The step of which the twin says that it never returns on this guest's kernel."""
    fault = foresee(trace, ready.probe, defects)
    return fault.step if isinstance(fault, NeverReturns) else None


def _judge_lost(result: Result, trace: Trace, outcome: Outcome, defects: str
                ) -> tuple[Result, Observations | None]:
    """A guest was lost: by what the twin comes to as well, or by something else."""
    replace = msgspec.structs.replace
    loss, ready = outcome.lost, outcome.ready
    assert loss is not None
    where = "" if loss.step is None else f" in {place(trace, loss.step)}"
    result = replace(result, console=console_tail(loss.console))
    end = None if ready is None else foresee(trace, ready.probe, defects,
                                             crashes=loss.reason == "panic")
    if isinstance(end, Unsupported):
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=told(trace, end)), None
    if loss.reason == "panic" and _crashes_alike(end, loss.step):
        return replace(result, reason=f"both sides crash{where}: {loss.detail}"), None
    if loss.reason == "hang" and ready and isinstance(end, NeverReturns) and loss.step is not None:
        if end.step != loss.step:
            return replace(result, verdict=Verdict.DIVERGED, reason=(
                f"the kernel hangs{where}; the twin says that another step never returns, "
                f"{told(trace, end)}")), None
        # What came before it is compared like any other.
        before = Trace(trace.header, trace.steps[:loss.step], trace.lines)
        result, twin = _against_twin(result, before, outcome.observations, ready, defects)
        if result.verdict is Verdict.SAME:
            result = replace(result, verdict=Verdict.HANGS, console="",
                             reason=f"{place(trace, loss.step)}, never returns: {end}")
        return result, twin
    return replace(result, verdict=Verdict.LOST, reason=f"{loss.reason}{where}: {loss.detail}"
                   ), None


def _crashes_alike(end: DmsnapError | None, step: int | None) -> bool:
    """Whether the twin comes to a crash of the kernel in this very step.

    What freed memory does to a kernel may come later.
    """
    if isinstance(end, FreedMemory) and end.step is not None:
        return step is not None and end.step <= step
    return isinstance(end, KernelCrash) and end.step == step


def _compare(result: Result, trace: Trace, seen: Sequence[Observation], ready: Ready, defects: str
             ) -> tuple[Result, Observations]:
    """Compare with the twin's first order, and with the others where that differs."""
    profile = dataclasses.replace(Profile.from_probe(ready.probe), defects=defects)
    steps, seed = trace.steps, trace.header.seed
    orders = explore.Orders(steps, seed, profile)
    outcomes: set[bytes] = set()
    first: tuple[diff.Comparison, tuple[Observation, ...]] | None = None
    for answers, twin in orders:
        comparison = diff.compare(trace, seen, twin)
        outcomes.add(encode(comparison.divergences))
        if first is None:
            first = comparison, twin
        if comparison.same:
            verdict = Verdict.SAME
            reason = "" if not answers else (
                "the kernel took another of the permitted orders, number "
                f"{orders.tried} that was tried")
            break
        orders.differs_in(comparison.divergences[0].step)
    else:
        assert first is not None, "there is always a first order"
        comparison, twin = first
        reason, verdict = "", Verdict.DIVERGED
        if orders.stuck and len(seen) > len(twin):
            reason = (f"the kernel returns from a step of which the twin says that it never "
                      f"returns, {told(trace, orders.stuck)}")
        elif len(outcomes) > 1:
            reason = f"none of the {orders.tried} permitted orders that were tried is the kernel's"
            if not orders.complete:
                verdict = Verdict.NONDETERMINISTIC
                reason += ", and there are more"
    header = ObservationsHeader(scenario=result.scenario, seed=seed, side="twin",
                                profile=profile.facts())
    kernel_promises = _broken_promises(trace, seen)
    # Where the two saw the same, they broke the same promises.
    alike = comparison.same and not comparison.not_compared
    return msgspec.structs.replace(
        result.compared_with(comparison), verdict=verdict, reason=reason, orders=orders.tried,
        kernel_promises=kernel_promises,
        twin_promises=kernel_promises if alike else _broken_promises(trace, twin),
        twin_us=_time(twin)), Observations(header, twin)


def _broken_promises(trace: Trace, seen: Sequence[Observation]) -> tuple[BrokenPromise, ...]:
    return promise.check(trace, seen) + witness.check(trace, seen)


def _time(seen: Sequence[Observation]) -> int:
    return sum(observation.elapsed_us for observation in seen)
