"""What kernels did in races, recorded: the search through the permitted orders finds each.

A recording is a trace and, beside it, what a kernel was seen to do; both are as `dmsnap replay`
writes them.
"""

from pathlib import Path

import pytest

from harness.compare.diff import Verdict, requests_alike
from harness.guest.events import Outcome
from harness.trace import files
from harness.trace.observations import Observation
from harness.twin import explore
from harness.verdict.judge import judge
from harness.wire.journal import Ready

RACES = Path(__file__).with_name("races")
RECORDED = sorted(RACES.glob("*.kernel.jsonl"))


def judged(path: Path) -> tuple[Verdict, int]:
    trace = files.read(path.with_name(path.name.replace(".kernel", "")))
    seen = files.read_observations(path)
    about = seen.header
    ready = Ready(about.release, about.version, targets=about.targets, probe=about.profile)
    outcome = Outcome(trace.header.scenario, trace.header.seed, 1, seen.observations, ready)
    result, _ = judge(trace, outcome, about.kernel)
    return result.verdict, result.orders


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name.partition(".")[0])
def test_a_recorded_race_is_a_permitted_order(path: Path) -> None:
    verdict, orders = judged(path)
    assert verdict is Verdict.SAME
    assert orders > 1


def test_without_the_lead_of_requests_it_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen before: one race of a step was answered otherwise, and no second one of that step."""
    monkeypatch.setattr(explore.Orders, "_led_within", lambda _self, _answers: iter(()))
    [path] = [path for path in RECORDED if path.name.startswith("two_races")]
    assert judged(path)[0] is Verdict.NONDETERMINISTIC


def test_requests_agree_up_to_the_first_that_differs() -> None:
    kernel = Observation(
        step=0, requests={"a": ("read 0+8", "flush", "write 8+8"), "b": ("flush",)}
    )
    twin = Observation(step=0, requests={"a": ("read 0+8", "flush", "read 8+8"), "c": ("flush",)})
    assert requests_alike(kernel, twin) == 2
    assert requests_alike(kernel, kernel) == 4
    assert requests_alike(kernel, Observation(step=0)) == 0
