"""The verdict: what one side saw, held against the other."""

import dataclasses
from collections.abc import Sequence

import msgspec

from harness.compare import diff
from harness.compare.diff import Verdict
from harness.errors import (
    BadScenario,
    FreedMemory,
    KernelCrash,
    ProvisioningError,
    TwinInvariant,
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
from harness.twin.backend import TwinBackend
from harness.twin.profile import FAITHFUL, Profile
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
        loss = outcome.lost
        where = "" if loss.step is None else (
            f" in step {loss.step} ({diff.words(trace.steps[loss.step])})")
        if loss.reason == "panic" and ready and _twin_crashes(trace, loss.step, ready, defects):
            return replace(result, verdict=Verdict.SAME, console=console_tail(loss.console),
                           reason=f"both sides crash{where}: {loss.detail}"), None
        return replace(result, verdict=Verdict.LOST, console=console_tail(loss.console),
                       reason=f"{loss.reason}{where}: {loss.detail}"), None
    if outcome.unsupported:
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=outcome.fault), None
    if outcome.fault:
        return replace(result, verdict=Verdict.BROKEN,
                       reason=f"the kernel side: {outcome.fault}"), None
    idle = faults_without_effect(trace.steps, outcome.observations)
    if idle:
        return replace(result, verdict=Verdict.BROKEN, reason=(
            f"the kernel side: step {idle[0]} ({diff.words(trace.steps[idle[0]])}) was to stop the "
            "disk, and no request met it")), None
    assert ready is not None, "a scenario that ended had a guest that was ready"
    try:
        result, twin = _compare(result, trace, outcome.observations, ready, defects)
    except BadScenario as fault:
        return replace(result, verdict=Verdict.BROKEN, reason=f"the twin: {fault}"), None
    except ProvisioningError as fault:  # no kernel answers like that: there is nothing to compare
        return replace(result, verdict=Verdict.LOST, reason=f"rubbish: {fault}"), None
    except (KernelCrash, TwinInvariant) as fault:
        return replace(result, verdict=Verdict.DIVERGED, reason=f"the twin: {fault}"), None
    except Exception as fault:  # noqa: BLE001 - a twin that breaks is a result, and not the last
        return replace(result, verdict=Verdict.DIVERGED, reason=(
            f"the twin broke: {fault_of(fault)}; please report it with the trace")), None
    if outcome.leftovers:
        result = replace(result, verdict=Verdict.DIVERGED, reason=(
            f"devices would not go away: {', '.join(outcome.leftovers)}"))
    return result, twin


def _twin_crashes(trace: Trace, step: int | None, ready: Ready, defects: str) -> bool:
    """Whether the twin comes to a crash of the kernel in this very step.

    What freed memory does to a kernel may come later.
    """
    try:
        probed = Profile.from_probe(ready.probe)
    except ProvisioningError:
        return False
    backend = TwinBackend(dataclasses.replace(probed, defects=defects, unprobed_crashes=True))
    backend.begin(trace.header.seed)
    for index, each in enumerate(trace.steps):
        try:
            backend.execute(index, each)
        except FreedMemory:
            return step is not None and index <= step
        except KernelCrash:
            return index == step
        except Exception:  # noqa: BLE001 - a twin that breaks in another way does not crash alike
            return False
    return False


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
        if len(outcomes) > 1:
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
