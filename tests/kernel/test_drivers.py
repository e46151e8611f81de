"""The two drivers are one protocol: each scenario gives the same observations through both.

Where a race decides (I/Os in flight together, a preemptible kernel), two runs of the same driver
differ too: then each of the two outcomes must be one that the twin permits.

A command of `dmsetup` is a process, and a step takes four of them.  So by default only those
scenarios are taken that hold a kind of step, with its flags, targets and error, that none before
them holds; ``make test-drivers`` takes all (``--scenario '*'``; half an hour on two cores).
"""

from pathlib import Path

import pytest
from msgspec import structs

from harness.campaign.observe import Guests, Scenarios, observe
from harness.campaign.plan import default_jobs
from harness.campaign.replay import observe_twin
from harness.compare.diff import Verdict, compare, render
from harness.guest import catalogue
from harness.guest.events import Outcome
from harness.guest.fetch import provision
from harness.scenarios.registry import choose
from harness.trace.files import Trace
from harness.trace.steps import AnyStep, TargetLine
from harness.twin.profile import named
from harness.verdict.judge import judge

DRIVERS = ("ioctl", "dmsetup")


def run_with(driver: str, traces: dict[str, Trace], results: Path) -> dict[str, Outcome]:
    kernel = provision.fetch(catalogue.default())
    return observe(
        Scenarios(traces.values(), driver=driver),
        Guests(kernel=kernel, results=results, count=default_jobs(kernel)),
    )


def kind(step: AnyStep, error: str | None) -> tuple[object, ...]:
    """What a driver makes a step of, as far as it may go another way: no names, no numbers."""
    fields = structs.asdict(step).values()
    return (
        type(step),
        error,
        tuple(value for value in fields if isinstance(value, bool)),
        tuple(
            (line.type, len(line.args.split()))
            for value in fields
            if isinstance(value, tuple)
            for line in value
            if isinstance(line, TargetLine)
        ),
    )


def chosen(patterns: list[str]) -> dict[str, Trace]:
    traces = {scenario.name: scenario.trace() for scenario in choose(patterns)}
    if patterns:
        return traces
    seen: set[tuple[object, ...]] = set()
    found = {}
    for name, trace in traces.items():
        observed = observe_twin(trace, named("6.12")).observations
        kinds = set(map(kind, trace.steps, (each.error for each in observed)))
        if not kinds <= seen:
            found[name] = trace
            seen |= kinds
    return found


def permitted(trace: Trace, outcome: Outcome) -> bool:
    """Whether some order that is open to the kernel gives this outcome in the twin."""
    return judge(trace, outcome, catalogue.default())[0].verdict is Verdict.SAME


def test_drivers_are_equal(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    traces = chosen(pytestconfig.getoption("--dmsnap-scenario"))
    by_ioctl = run_with("ioctl", traces, tmp_path / "ioctl")
    by_dmsetup = run_with("dmsetup", traces, tmp_path / "dmsetup")

    different = []
    for name, trace in traces.items():
        one, other = by_ioctl[name], by_dmsetup[name]
        assert one.ready is not None
        assert other.ready is not None
        assert (one.ready.driver, other.ready.driver) == DRIVERS
        assert one.ready.targets == other.ready.targets
        for outcome in (one, other):
            assert not outcome.lost, (name, outcome.lost)
            assert not outcome.fault, (name, outcome.fault)
            assert not outcome.leftovers, (name, outcome.leftovers)
        comparison = compare(trace, one.observations, other.observations, sides=DRIVERS)
        if not comparison.same and not (permitted(trace, one) and permitted(trace, other)):
            different.append(
                f"{name}: "
                + "; ".join(render(divergence, DRIVERS) for divergence in comparison.divergences)
            )
    assert not different, "\n".join(different)
