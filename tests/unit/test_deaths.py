"""Deaths of a kernel: announced by the twin beforehand, and the verdict where one comes, or not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from dmsnap_pytest import ScenarioResult, check

from harness.campaign.here import cannot_be_run
from harness.compare.diff import AGREED, Verdict
from harness.errors import FreedMemory, KernelCrash
from harness.guest.events import Loss, Outcome, Reason
from harness.plugin import answer
from harness.report import github, junit, ktap
from harness.report.words import verdicts
from harness.scenarios.registry import catalogue, choose
from harness.trace.backend import carry_out
from harness.trace.files import Layer, Trace
from harness.trace.observations import Observation
from harness.trace.steps import Crash, Load
from harness.twin.backend import TwinBackend
from harness.twin.explore import Orders
from harness.twin.profile import PROFILES, Profile
from harness.verdict.foresight import dies_in, foretell, hangs_in
from harness.verdict.judge import judge
from harness.verdict.result import Result, RunReport, dumps, loads
from harness.wire.journal import Ready

READY = Ready(release="6.12.0-fake", version="#1", probe=Profile().facts())
PANIC = "Kernel panic - not syncing: for a test"


def scenario(name: str) -> Trace:
    [found] = choose([name])
    return found.trace(7)


def until(trace: Trace, step: int | None = None) -> tuple[Observation, ...]:
    return tuple(carry_out(TwinBackend(Profile()), trace.steps[:step], trace.header.seed))


def lost(
    trace: Trace,
    step: int | None,
    seen: tuple[Observation, ...] = (),
    *,
    reason: Reason = "panic",
    detail: str = PANIC,
    **more: Any,
) -> Outcome:
    return Outcome(
        scenario=trace.header.scenario,
        seed=7,
        attempts=1,
        observations=seen,
        ready=READY,
        **more,
        lost=Loss(
            reason=reason,
            detail=detail,
            step=step,
            guest=1,
            console="the last line",
            log=Path("console"),
        ),
    )


@pytest.fixture(scope="module")
def divides() -> tuple[Trace, int]:
    """Some kernels divide by zero when the table is loaded; no probe tells which."""
    trace = scenario("discard_small_chunks")
    [at] = [index for index, step in enumerate(trace.steps) if isinstance(step, Load)]
    return trace, at


# -- what the twin announces --------------------------------------------------------------------


def test_a_death_that_no_probe_tells_is_announced_and_the_twin_goes_on(
    divides: tuple[Trace, int],
) -> None:
    trace, at = divides
    foretold = foretell(trace, READY.probe)
    assert foretold.end is None
    # The limits are stacked when the table is loaded, and once more when it is resumed.
    assert {crash.step for crash in foretold.crashes} == {at, at + 1}
    assert "divides by zero" in str(foretold.crashes[0])
    assert len(until(trace)) == len(trace.steps)


@pytest.mark.parametrize(
    "name", ["store_kills_kernel", "merge_of_transient_crashes", "written_after_a_failed_merge"]
)
def test_a_death_behind_which_there_is_nothing_ends_the_twin(name: str) -> None:
    trace = scenario(name)
    foretold = foretell(trace, READY.probe)
    assert isinstance(foretold.end, KernelCrash)
    assert foretold.crashes == (foretold.end,)
    assert dies_in(trace, READY.probe, foretold.end.step or 0) is not None


def test_freed_memory_may_kill_at_any_later_time() -> None:
    trace = scenario("origin_named_again")
    crash = foretell(trace, READY.probe).crashes[0]
    assert isinstance(crash, FreedMemory)
    assert crash.step
    assert [crash.covers(step) for step in range(len(trace.steps))] == [
        step >= crash.step for step in range(len(trace.steps))
    ]
    assert not KernelCrash("never announced").covers(0)


LOSING = [entry for entry in catalogue().values() if entry.loses_guest]


@pytest.mark.parametrize("profile", ["6.1", "6.12", "7.2"])
def test_whatever_loses_its_guest_is_announced(profile: str) -> None:
    facts = PROFILES[profile].facts()
    for entry in LOSING:
        trace = entry.trace()
        asked = any(isinstance(step, Crash) for step in trace.steps)
        # Where no disk takes discards, or the granularity is a sector, nothing divides by zero.
        assert (
            foretell(trace, facts).crashes
            or asked
            or hangs_in(trace, facts) is not None
            or entry.name.startswith(("discard_smaller_chunks[", "discard_small_chunks"))
        ), entry.name


def test_nothing_else_is() -> None:
    for entry in catalogue().values():
        if not entry.loses_guest:
            assert foretell(entry.trace(), READY.probe).crashes == (), entry.name


def test_an_order_says_where_it_dies(divides: tuple[Trace, int]) -> None:
    trace, at = divides
    orders = Orders(trace.steps, 7, Profile())
    next(iter(orders))
    assert orders.dies_in(at)
    assert orders.dies_in(at - 1) is None


# -- the verdict --------------------------------------------------------------------------------


def agreed(divides: tuple[Trace, int]) -> Result:
    trace, at = divides
    return judge(trace, lost(trace, at, until(trace, at)), "fake")[0]


def test_a_death_that_was_announced_is_agreement(divides: tuple[Trace, int]) -> None:
    _, at = divides
    result = agreed(divides)
    assert (result.verdict, result.console) == (Verdict.DIES, "")
    assert result.reason == (
        f"step {at} (load snap), line {at + 2}, kills the kernel: a discard granularity of less "
        f"than one sector: the kernel divides by zero in blk_stack_limits ({PANIC})"
    )
    assert (result.steps, result.compared[Layer.ERROR]) == (at, at)


def test_what_came_before_a_death_is_compared(divides: tuple[Trace, int]) -> None:
    trace, at = divides
    seen = list(until(trace, at))
    seen[1] = msgspec.structs.replace(seen[1], error="EIO")
    result, _ = judge(trace, lost(trace, at, tuple(seen)), "fake")
    assert result.verdict is Verdict.DIVERGED
    assert [each.step for each in result.divergences] == [1]


@pytest.mark.parametrize("few", [0, 1])
def test_without_what_came_before_there_is_no_agreement(
    divides: tuple[Trace, int], few: int
) -> None:
    trace, at = divides
    result, _ = judge(trace, lost(trace, at, until(trace, few)), "fake")
    assert result.verdict is Verdict.DIVERGED


def test_a_death_that_was_not_announced_is_a_divergence(divides: tuple[Trace, int]) -> None:
    trace, at = divides
    for name, step in (
        ("bring_up[P]", 3),
        (trace.header.scenario, at - 1),
        (trace.header.scenario, at + 2),
    ):
        result, twin = judge(scenario(name), lost(scenario(name), step), "fake")
        assert (result.verdict, twin) == (Verdict.DIVERGED, None)
        assert result.reason.startswith(f"the kernel dies in step {step} (")
        assert result.reason.endswith(f", which the twin did not announce: {PANIC}")
        assert result.console == "the last line"


def test_freed_memory_says_since_when() -> None:
    trace = scenario("origin_named_again")
    since = foretell(trace, READY.probe).crashes[0].step or 0
    result, _ = judge(trace, lost(trace, since + 2, until(trace, since + 2)), "fake")
    assert result.verdict is Verdict.DIES
    assert f"kills the kernel: since step {since} (" in result.reason
    early, _ = judge(trace, lost(trace, since - 1, until(trace, since - 1)), "fake")
    assert early.verdict is Verdict.DIVERGED


def test_a_kernel_that_lives_on_is_compared_as_ever(divides: tuple[Trace, int]) -> None:
    trace, at = divides
    seen = until(trace)
    whole = Outcome(
        scenario=trace.header.scenario, seed=7, attempts=1, observations=seen, ready=READY
    )
    assert judge(trace, whole, "fake")[0].verdict is Verdict.SAME
    wrong = (*seen[: at + 1], msgspec.structs.replace(seen[at + 1], error="EIO"), *seen[at + 2 :])
    other = Outcome(
        scenario=trace.header.scenario, seed=7, attempts=1, observations=wrong, ready=READY
    )
    assert judge(trace, other, "fake")[0].verdict is Verdict.DIVERGED


def test_a_kernel_that_lives_where_it_must_die_has_diverged() -> None:
    trace = scenario("store_kills_kernel")
    at = foretell(trace, READY.probe).crashes[0].step or 0
    more = tuple(Observation(step=step) for step in range(at, len(trace.steps)))
    result, _ = judge(
        trace,
        Outcome(
            scenario=trace.header.scenario,
            seed=7,
            attempts=1,
            observations=until(trace, at) + more,
            ready=READY,
        ),
        "fake",
    )
    assert result.verdict is Verdict.DIVERGED
    assert result.reason.startswith(
        f"the kernel survives a step that kills it in the twin, step {at} ("
    )


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("hang", "no progress"),
        ("vanished", "ended"),
        ("rubbish", "unreadable record"),
        ("panic", "Kernel panic - not syncing: sysrq triggered crash"),
        ("panic", "Kernel panic - not syncing: System is deadlocked on memory"),
    ],
)
def test_a_guest_that_is_lost_for_another_reason_is_lost(
    divides: tuple[Trace, int], reason: Reason, detail: str
) -> None:
    trace, at = divides
    for step in (at - 1, at):
        result, _ = judge(trace, lost(trace, step, reason=reason, detail=detail), "fake")
        assert result.verdict is Verdict.LOST
        assert result.reason.startswith(f"{reason} in step {step} (")


def test_a_crash_that_the_trace_asks_for_is_a_lost_guest() -> None:
    trace = scenario("lost[panic]")
    [at] = [index for index, step in enumerate(trace.steps) if isinstance(step, Crash)]
    assert judge(trace, lost(trace, at), "fake")[0].verdict is Verdict.LOST
    assert judge(trace, lost(trace, at - 1), "fake")[0].verdict is Verdict.DIVERGED


def test_a_guest_that_is_lost_before_a_step_is_lost(divides: tuple[Trace, int]) -> None:
    trace, _ = divides
    assert judge(trace, lost(trace, None), "fake")[0].verdict is Verdict.LOST


def test_every_report_takes_a_death_for_agreement(divides: tuple[Trace, int]) -> None:
    result = agreed(divides)
    report = RunReport(results=(result,))
    assert report.nothing_differs
    assert loads(dumps(report)) == report
    assert verdicts(report) == "0 same, 1 dies on both sides, 0 diverged"
    text = junit.render(report).decode()
    assert 'failures="0" errors="0"' in text
    assert 'skipped="0"' in text
    assert "verdict: dies on both sides" in text
    assert (
        f"  ok 1 discard_small_chunks # dies on both sides: {result.reason}"
        in ktap.render(report).decode().splitlines()
    )
    summary = github.render(report).decode()
    assert "## dm-snapshot: nothing differs" in summary
    assert "| dies on both sides |" in summary
    check(ScenarioResult(**answer(result)))
    assert Verdict.DIES in AGREED


def test_what_may_kill_this_machine_is_not_run_here(divides: tuple[Trace, int]) -> None:
    trace, at = divides
    fault = cannot_be_run(trace, READY)
    assert fault is not None
    assert str(fault).startswith(f"step {at} (load snap), line {at + 2}: a discard granularity")
    assert str(fault).endswith(": this machine may die")
    assert cannot_be_run(scenario("bring_up[P]"), READY) is None
