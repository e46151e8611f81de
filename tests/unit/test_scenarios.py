"""The catalogue: every scenario has a name of its own, says what it is about, and makes sense."""

import ast
from pathlib import Path

import pytest

from harness.errors import BadScenario, KernelCrash
from harness.scenarios import registry
from harness.scenarios.registry import Scenario, by_theme, catalogue, choose, scenario
from harness.scenarios.script import (
    Script,
    Segment,
    delay,
    error,
    linear,
    patched,
    reading,
    writing,
    zero,
)
from harness.trace import files as traces
from harness.trace.files import Layer
from harness.trace.steps import (
    AnyStep,
    Crash,
    Disk,
    Examine,
    Load,
    Parallel,
    Read,
    Suspend,
    TargetLine,
    Write,
)
from harness.twin import explore
from harness.twin.profile import PROFILES

SCENARIOS_MIN = 40
LOST = {"lost[panic]", "lost[hang]", "lost[exit]"}


def names(*patterns: str) -> list[str]:
    return [entry.name for entry in choose(patterns)]


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scenario]:
    entries: dict[str, Scenario] = {}
    monkeypatch.setattr(registry, "_scenarios", entries)
    return entries


def test_the_catalogue_is_large_and_each_entry_tells_about_itself() -> None:
    entries = catalogue()
    assert len({name.partition("[")[0] for name in entries}) >= SCENARIOS_MIN
    for name, entry in entries.items():
        assert entry.name == name
        assert entry.about.endswith((".", "?")), name
        assert entry.theme in registry.THEMES
        assert name.isascii()


def test_themes_hold_everything_once_in_order() -> None:
    themes = list(by_theme())
    assert [theme for theme, _ in themes] == list(registry.THEMES)
    assert [entry for _, entries in themes for entry in entries] == list(catalogue().values())


def test_no_two_scenarios_share_a_name_and_all_have_a_docstring(empty: dict[str, Scenario]) -> None:
    def one(script: Script, store: str) -> None:
        """About one."""

    def silent(script: Script) -> None:
        script.examine()

    scenario(store=("P", "N"))(one)
    assert list(empty) == ["one[P]", "one[N]"]
    with pytest.raises(BadScenario, match=r"two scenarios are named one\[P\]"):
        scenario(store=("P",))(one)
    with pytest.raises(BadScenario, match="silent says nothing about itself"):
        scenario()(silent)


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["bring_up"], ["bring_up[P]", "bring_up[PO]", "bring_up[N]"]),
        (["bring_up[PO]"], ["bring_up[PO]"]),
        (["bring_up[P*"], ["bring_up[P]", "bring_up[PO]"]),
        (["bring_*[?]"], ["bring_up[P]", "bring_up[N]"]),
        (["bring_up[N]", "bring_up[P]", "bring_up[N]"], ["bring_up[P]", "bring_up[N]"]),
    ],
)
def test_patterns(patterns: list[str], wanted: list[str]) -> None:
    assert names(*patterns) == wanted


@pytest.mark.parametrize("pattern", ["bring", "bring_up[", "bring_up[X]", "[bB]ring_up", "", "["])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(
        BadScenario, match=r"no scenario matches .*: (see dmsnap list|did you mean|bring_up has)"
    ):
        choose(["bring_up", pattern])


def test_what_loses_its_guest_runs_only_when_named() -> None:
    everything = names()
    losing = {entry.name for entry in catalogue().values() if entry.loses_guest}
    assert losing >= LOST
    assert not losing & set(everything)
    assert len(everything) == len(catalogue()) - len(losing)
    assert set(names("lost")) == LOST
    for name in losing:
        assert names(name) == [name]
    assert not losing & set(names("*"))
    assert names("lo*") == [
        name for name in catalogue() if name.startswith("lo") and name not in losing
    ]


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_each_ends_with_examine_and_survives_its_file(entry: Scenario) -> None:
    trace = entry.trace(seed=3)
    assert (trace.header.scenario, trace.header.seed, trace.header.about) == (
        entry.name,
        3,
        entry.about,
    )
    assert isinstance(trace.steps[-1], Examine)
    assert not any(isinstance(step, Examine) for step in trace.steps[-2:-1])
    assert entry.trace(seed=3) == trace, "writing a scenario twice gives the same steps"
    assert traces.loads(traces.dumps(trace)) == trace
    assert entry.loses_guest or not any(isinstance(step, Crash) for step in trace.steps)


def test_a_scenario_that_ends_with_examine_gets_no_second_one(empty: dict[str, Scenario]) -> None:
    @scenario()
    def short(script: Script) -> None:
        """It leaves the log out, and examines."""
        script.leave_out(Layer.LOG, "for a test")
        script.disk("a", 8)
        script.examine()

    trace = empty["short"].trace()
    assert trace.steps == (Disk(name="a", sectors=8), Examine())
    assert [(left.layer, left.reason) for left in trace.header.not_compared] == [
        (Layer.LOG, "for a test")
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_each_makes_sense_to_the_twin_under_every_profile(profile: str) -> None:
    """No BadScenario, no broken invariant; and a step is seen exactly once.

    The seed crashes where an origin without snapshots is written from sector 0 on.
    """
    crashed = 0
    for entry in choose([]):
        steps: tuple[AnyStep, ...] = entry.trace().steps
        try:
            seen = explore.run(steps, 1, PROFILES[profile])
        except KernelCrash:
            crashed += 1
            continue
        except Exception as fault:
            raise AssertionError(f"{entry.name} under {profile}") from fault
        assert [each.step for each in seen] == list(range(len(steps))), entry.name
    assert crashed <= (60 if profile == "seed" else 0)


def test_a_step_that_no_trace_may_have_names_its_scenario() -> None:
    def nothing(s: Script) -> None:
        """Reads nothing."""
        s.read("base", 0, 0)

    wrong = Scenario(name="wrong", theme="none", about="Reads nothing.", author=nothing)
    with pytest.raises(BadScenario, match=r"scenario wrong, step 0, line 2, field \$\.sectors"):
        wrong.trace()


def table(*lines: Segment | TargetLine) -> list[tuple[int, int, str, str]]:
    script = Script()
    script.load("d", *lines)
    (step,) = script.steps
    assert isinstance(step, Load)
    return [(line.start, line.length, line.type, line.args) for line in step.table]


def test_segments_lie_end_to_end_and_a_line_lies_where_it_says() -> None:
    assert table(linear("a", 8, 3), zero(0), error(4), delay("b", 2, 5, write_ms=7)) == [
        (0, 8, "linear", "{a} 3"),
        (8, 4, "error", ""),
        (12, 2, "delay", "{b} 0 5 {b} 0 7"),
    ]
    assert table(TargetLine(0, 0, "zero"), TargetLine(16, 8, "zero"), Segment(1, "x")) == [
        (0, 0, "zero", ""),
        (16, 8, "zero", ""),
        (24, 1, "x", ""),
    ]
    assert table() == []


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        (0, [(0, 2, "error", ""), (2, 6, "linear", "{a} 2")]),
        (3, [(0, 3, "linear", "{a} 0"), (3, 2, "error", ""), (5, 3, "linear", "{a} 5")]),
        (6, [(0, 6, "linear", "{a} 0"), (6, 2, "error", "")]),
    ],
)
def test_a_patch_lies_anywhere(at: int, wanted: list[tuple[int, int, str, str]]) -> None:
    assert table(*patched("a", 8, at, error(2))) == wanted


def test_requests_in_flight_keep_their_order_and_their_generations() -> None:
    script = Script()
    script.write("a", 0, 1)
    script.parallel(
        ("a", 0, 1), reading("a", 1, 2), writing("b", 3, 4, 77), ("a", 5, 1), resume=("c",)
    )
    assert script.steps[-1] == Parallel(
        resume=("c",),
        ios=(
            Write(device="a", sector=0, sectors=1, generation=2),
            Read(device="a", sector=1, sectors=2),
            Write(device="b", sector=3, sectors=4, generation=77),
            Write(device="a", sector=5, sectors=1, generation=3),
        ),
    )


def test_a_suspend_may_leave_the_flush_and_the_freeze_out() -> None:
    script = Script()
    script.suspend("a", "b", flush=False, lockfs=False)
    assert script.steps == [Suspend(name=name, flush=False, lockfs=False) for name in "ab"]


def test_no_scenario_writes_past_the_pen() -> None:
    """Neither the list of steps nor a step's own class is named where scenarios are written."""
    for theme in registry.THEMES:
        tree = ast.parse((Path(registry.__file__).parent / f"{theme}.py").read_text("utf-8"))
        assert not [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "steps"
        ], theme
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "harness.trace.steps"
            for alias in node.names
        }
        assert imported <= {"TargetLine"}, theme
