"""The hunt for flakes: what it compares, keeps, and takes over from an earlier start."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from harness.campaign.plan import Plan
from harness.compare.diff import Verdict
from harness.errors import ProvisioningError
from harness.report.reporter import Reporter
from harness.scenarios.registry import choose
from harness.trace.files import loads
from harness.verdict.result import Result, RunReport
from tests.hunt import flakes
from tests.hunt.flakes import Condition, Hunt, Made, _line, _turn

SCENARIOS = ("bring_up[P]", "bring_up[N]")
KERNEL = "uml-6.12"


class Guests:
    """Stands for `execute`: each run has the verdicts that are next, SAME where none is named."""

    def __init__(self) -> None:
        self.verdicts: list[dict[str, Verdict]] = []
        self.asked: list[list[str]] = []
        self.dies_after: int | None = None
        self.fields: dict[str, object] = {}

    def __call__(self, plan: Plan, reporter: Reporter, finished: Sequence[Result] = ()) -> None:
        verdicts = self.verdicts.pop(0) if self.verdicts else {}
        done = {result.scenario for result in finished}
        left = [trace.header.scenario for trace in plan.traces if trace.header.scenario not in done]
        self.asked.append(left)
        with closing(reporter):
            reporter.begin([KERNEL], len(plan.traces))
            for result in finished:
                reporter.result(result)
            for number, name in enumerate(left):
                if number == self.dies_after:
                    raise KeyboardInterrupt
                reporter.result(
                    msgspec.structs.replace(
                        Result(
                            scenario=name, kernel=KERNEL, verdict=verdicts.get(name, Verdict.SAME)
                        ),
                        **self.fields,
                    )
                )
            reporter.end(RunReport())


class Busy:
    """Stands for a condition: how often it was there."""

    def __init__(self) -> None:
        self.count = 0
        self.stops = 0
        self.stopped_s = 0.0

    def __enter__(self) -> "Busy":
        self.count += 1
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> Guests:
    found = Guests()
    monkeypatch.setattr(flakes, "execute", found)
    monkeypatch.setattr(
        Plan, "keys", lambda plan: {(KERNEL, trace.header.scenario): "key" for trace in plan.traces}
    )
    return found


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Busy:
    found = Busy()
    monkeypatch.setattr(flakes, "busy", lambda _count: found)
    monkeypatch.setattr(flakes, "Slowness", lambda _seed: found)
    return found


def hunt_in(directory: Path) -> Hunt:
    return Hunt([scenario.trace() for scenario in choose(SCENARIOS)], directory, 1)


def one(
    hunt: Hunt, number: int, condition: Condition = Condition.QUIET, *, resume: bool = False
) -> Made:
    return hunt.run(KERNEL, condition, number, resume=resume)


# -- comparing --


def test_the_same_verdicts_are_no_change(tmp_path: Path, guests: Guests) -> None:
    hunt = hunt_in(tmp_path)
    odd = {SCENARIOS[0]: Verdict.DIVERGED}
    guests.verdicts = [odd, odd]
    for number in (1, 2):
        made = one(hunt, number)
        assert made.verdicts == {**odd, SCENARIOS[1]: Verdict.SAME}
    assert hunt.changed() == {}


def test_a_verdict_that_changes_is_told_with_its_runs(tmp_path: Path, guests: Guests) -> None:
    hunt = hunt_in(tmp_path)
    guests.verdicts = [{}, {SCENARIOS[1]: Verdict.NONDETERMINISTIC}, {}]
    for number in (1, 2, 3):
        one(hunt, number)
    wanted = {
        f"{SCENARIOS[1]} on {KERNEL}": {
            "same": [f"{KERNEL}-quiet-1", f"{KERNEL}-quiet-3"],
            "nondeterministic": [f"{KERNEL}-quiet-2"],
        }
    }
    assert hunt.changed() == wanted
    written = msgspec.json.decode((tmp_path / "flakes.json").read_bytes())
    assert written["changed"] == wanted
    assert [run["number"] for run in written["runs"]] == [1, 2, 3]


def test_kernels_are_not_compared_with_each_other(tmp_path: Path) -> None:
    hunt = hunt_in(tmp_path)
    hunt.made = [
        Made(
            kernel=kernel,
            condition=Condition.QUIET,
            number=1,
            by_other_order=0,
            verdicts={"one": verdict},
            repeated=(),
        )
        for kernel, verdict in (("a", Verdict.SAME), ("b", Verdict.DIVERGED))
    ]
    assert hunt.changed() == {}


def test_a_scenario_that_is_repeated_is_one(tmp_path: Path) -> None:
    """Its turns in one run are compared, too."""
    hunt = hunt_in(tmp_path)
    hunt.made = [
        Made(
            kernel="a",
            condition=Condition.QUIET,
            number=1,
            by_other_order=0,
            verdicts={"one": Verdict.SAME, "one#1": Verdict.LOST},
            repeated=(),
        )
    ]
    assert hunt.changed() == {"one on a": {"same": ["a-quiet-1"], "guest lost": ["a-quiet-1"]}}


def test_each_turn_has_a_name_and_a_seed() -> None:
    [scenario] = choose([SCENARIOS[0]])
    turns = [_turn(scenario, turn).header for turn in range(3)]
    assert [turn.scenario for turn in turns] == [
        SCENARIOS[0],
        f"{SCENARIOS[0]}#1",
        f"{SCENARIOS[0]}#2",
    ]
    assert [turn.seed for turn in turns] == [1, 2, 3]


# -- what is kept --


def test_what_is_not_the_same_is_kept(tmp_path: Path, guests: Guests) -> None:
    hunt = hunt_in(tmp_path)
    guests.verdicts = [{SCENARIOS[0]: Verdict.DIVERGED}]
    made = one(hunt, 1)
    directory = tmp_path / made.name
    assert loads((directory / f"{SCENARIOS[0]}.jsonl").read_bytes()).header.scenario == SCENARIOS[0]
    kept = msgspec.json.decode(
        (directory / f"{SCENARIOS[0]}.result.json").read_bytes(), type=Result
    )
    assert kept.verdict is Verdict.DIVERGED
    assert not (directory / f"{SCENARIOS[1]}.jsonl").exists()


def test_what_is_unsupported_is_not_odd(tmp_path: Path, guests: Guests) -> None:
    hunt = hunt_in(tmp_path)
    guests.verdicts = [{SCENARIOS[0]: Verdict.UNSUPPORTED}]
    made = one(hunt, 1)
    assert not list((tmp_path / made.name).glob("*.result.json"))


def test_a_run_in_a_line(tmp_path: Path, guests: Guests, busy: Busy) -> None:
    hunt = hunt_in(tmp_path)
    guests.fields = {"orders": 3, "attempts": 2}
    busy.stops, busy.stopped_s = 7, 1.25
    made = one(hunt, 4, Condition.SLOWED)
    assert (made.by_other_order, made.repeated, made.stops) == (2, SCENARIOS, 7)
    assert _line(made).startswith(
        f"{KERNEL}-slowed-4: 2 same (2 by another permitted order; 2 in a second guest; "
        "7 stops, 1.2 s in all), "
    )


# -- resuming --


def test_a_run_that_was_cut_short_goes_on(tmp_path: Path, guests: Guests) -> None:
    guests.dies_after = 1
    guests.verdicts = [{SCENARIOS[0]: Verdict.DIVERGED}]
    with pytest.raises(KeyboardInterrupt):
        one(hunt_in(tmp_path), 1)
    guests.dies_after = None
    made = one(hunt_in(tmp_path), 1, resume=True)
    assert guests.asked == [list(SCENARIOS), [SCENARIOS[1]]]
    assert made.verdicts == {SCENARIOS[0]: Verdict.DIVERGED, SCENARIOS[1]: Verdict.SAME}


def test_a_run_that_is_over_is_not_run_again(tmp_path: Path, guests: Guests, busy: Busy) -> None:
    busy.stops = 1
    one(hunt_in(tmp_path), 1, Condition.SLOWED)
    busy.stops = 0  # and so nothing is slowed, which is no fault where nothing ran
    hunt = hunt_in(tmp_path)
    made = one(hunt, 1, Condition.SLOWED, resume=True)
    assert guests.asked == [list(SCENARIOS), []]
    assert set(made.verdicts) == set(SCENARIOS)
    assert busy.count == 1


def test_without_resume_all_of_it_runs_again(tmp_path: Path, guests: Guests) -> None:
    one(hunt_in(tmp_path), 1)
    one(hunt_in(tmp_path), 1)
    assert guests.asked == [list(SCENARIOS)] * 2


def test_a_run_of_other_code_is_not_taken_over(
    tmp_path: Path, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    one(hunt_in(tmp_path), 1)
    monkeypatch.setattr(
        Plan,
        "keys",
        lambda plan: {(KERNEL, trace.header.scenario): "another" for trace in plan.traces},
    )
    one(hunt_in(tmp_path), 1, resume=True)
    assert guests.asked == [list(SCENARIOS)] * 2


def test_resume_where_nothing_was_begun(tmp_path: Path, guests: Guests) -> None:
    made = one(hunt_in(tmp_path), 5, resume=True)
    assert set(made.verdicts) == set(SCENARIOS)
    assert guests.asked == [list(SCENARIOS)]


# -- conditions --


@pytest.mark.usefixtures("busy")
def test_a_condition_that_could_not_be_is_a_fault(tmp_path: Path, guests: Guests) -> None:
    with pytest.raises(ProvisioningError, match="nothing was slowed"):
        one(hunt_in(tmp_path), 1, Condition.SLOWED)
    assert guests.asked


@pytest.mark.parametrize(("condition", "count"), [(Condition.QUIET, 0), (Condition.LOADED, 1)])
def test_what_goes_on_beside_the_guests(
    tmp_path: Path, guests: Guests, busy: Busy, condition: Condition, count: int
) -> None:
    one(hunt_in(tmp_path), 1, condition)
    assert busy.count == count
    assert len(guests.asked) == 1
