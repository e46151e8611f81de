"""What the twin says of a trace where there is no kernel's answer: unknown targets, hangs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from dmsnap_pytest import ScenarioResult, check

from harness.campaign.replay import observe_twin
from harness.cli.main import main as command
from harness.cli.options import EXIT_CANNOT
from harness.compare.diff import AGREED, Verdict
from harness.errors import BadScenario, NeverReturns, Unsupported
from harness.guest.events import Loss, Outcome, Reason
from harness.plugin import answer
from harness.report import junit, ktap
from harness.report.words import verdicts
from harness.scenarios.registry import catalogue, choose
from harness.trace.files import Header, Trace
from harness.trace.files import dumps as as_text
from harness.trace.observations import Observation
from harness.trace.steps import (
    AnyStep,
    Create,
    Disk,
    Examine,
    Load,
    Resume,
    Suspend,
    TargetLine,
    Write,
)
from harness.twin.backend import TwinBackend
from harness.twin.device_mapper import TARGET_TYPES
from harness.twin.profile import PROFILES, Profile
from harness.verdict.foresight import foresee, hangs_in, not_modelled
from harness.verdict.judge import judge
from harness.verdict.result import Result, RunReport, dumps, loads
from harness.wire.journal import Ready

READY = Ready(release="6.12.0-fake", version="#1", probe=Profile().facts())
HANGING = tuple(entry for entry in catalogue().values() if entry.theme == "hangs")


def trace_of(*steps: AnyStep) -> Trace:
    return Trace(Header(scenario="x", seed=7), steps)


def with_target(kind: str) -> Trace:
    lines = TargetLine(0, 8, "linear", "{a} 0"), TargetLine(8, 8, kind, "{a} 0")
    return trace_of(
        Disk(name="a", sectors=64),
        Create(name="real"),
        Load(name="real", table=lines),
        Resume(name="real"),
        Examine(),
    )


def until(trace: Trace, step: int) -> tuple[Observation, ...]:
    twin = TwinBackend(Profile())
    twin.begin(trace.header.seed)
    return tuple(twin.execute(index, each) for index, each in enumerate(trace.steps[:step]))


def outcome(
    trace: Trace, seen: tuple[Observation, ...] = (), lost: Loss | None = None, **more: Any
) -> Outcome:
    return Outcome(
        scenario=trace.header.scenario,
        seed=7,
        attempts=1,
        observations=seen,
        ready=READY,
        lost=lost,
        **more,
    )


def hang(step: int | None, reason: Reason = "hang") -> Loss:
    return Loss(
        reason=reason,
        detail="as was foretold",
        step=step,
        guest=1,
        console="the last line",
        log=Path("console"),
    )


# -- targets that are not known -------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "thin",
        "thin-pool",
        "crypt",
        "raid",
        "mirror",
        "log-writes",
        "era",
        "writecache",
        "vdo",
        "multipath",
        "verity",
        "Linear",
        "snapshto",
        "snapshot ",
        "",
        "no such",
        "unheard-of",
    ],
)
def test_a_target_that_may_be_some_kernels_is_unsupported(kind: str) -> None:
    trace = with_target(kind)
    says = f"step 2 (load real), line 4: target {kind} is not known to the twin"
    fault = not_modelled(trace)
    assert fault is not None
    assert (fault.step, str(fault)) == (2, f"target {kind} is not known to the twin")
    for one in (
        outcome(trace, until(with_target("nosuch"), 5)),
        outcome(trace, lost=hang(3)),
        outcome(trace, lost=hang(2, "panic")),
    ):
        result, twin = judge(trace, one, "fake")
        assert (result.verdict, result.reason, twin) == (Verdict.UNSUPPORTED, says, None)
    with pytest.raises(Unsupported) as caught:
        observe_twin(trace, Profile())
    assert str(caught.value) == says


@pytest.mark.parametrize("kind", ["nosuch", "nosuch2", "nosuch-target", *TARGET_TYPES])
def test_a_target_that_is_none_or_is_known_is_compared(kind: str) -> None:
    trace = with_target(kind)
    assert not_modelled(trace) is None
    result, _ = judge(trace, outcome(trace, until(trace, 5)), "fake")
    assert result.verdict is Verdict.SAME


def test_no_kernel_is_asked_about_a_trace_that_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was asked for")

    monkeypatch.setattr("harness.guest.choice.chosen_kernels", never)
    file = tmp_path / "thin.jsonl"
    file.write_bytes(as_text(with_target("thin")).replace(b"\n", b"\n\n"))
    result = CliRunner().invoke(command, ["replay", str(file), "--kernel", "uml-6.1"])
    assert result.exit_code == EXIT_CANNOT
    assert result.output == (
        "step 2 (load real), line 7: target thin is not known to the twin\n"
        "x on uml-6.1: unsupported\n"
    )


def test_a_step_without_meaning_is_told_with_its_place() -> None:
    with pytest.raises(BadScenario, match=r"^step 1 \(write b\), line 3: there is no device"):
        observe_twin(
            trace_of(Disk(name="a", sectors=8), Write(device="b", sector=0, sectors=1)), Profile()
        )


# -- steps that never return ----------------------------------------------------------------------


@pytest.mark.parametrize("scenario", HANGING, ids=lambda entry: entry.name)
@pytest.mark.parametrize("profile", ["6.1", "6.12", "7.2"])
def test_the_last_step_but_the_examine_never_returns(scenario: Any, profile: str) -> None:
    trace = scenario.trace()
    fault = foresee(trace, PROFILES[profile].facts())
    assert isinstance(fault, NeverReturns)
    assert "which is suspended" in str(fault)
    assert hangs_in(trace, PROFILES[profile].facts()) == fault.step


@pytest.fixture(scope="module")
def hanging() -> tuple[Trace, int]:
    [scenario] = choose(["write_while_a_store_is_suspended"])
    return scenario.trace(7), 15


SAYS = (
    "step 15 (write org), line 17, never returns: it waits for I/O on cow, which is suspended "
    "(write 16+8)"
)


def agreed(hanging: tuple[Trace, int]) -> Result:
    trace, at = hanging
    return judge(trace, outcome(trace, until(trace, at), hang(at)), "fake")[0]


def test_both_sides_hang_in_one_step(hanging: tuple[Trace, int]) -> None:
    result = agreed(hanging)
    assert (result.verdict, result.reason, result.console) == (Verdict.HANGS, SAYS, "")
    assert all(result.compared.values()) or sum(result.compared.values()) > hanging[1]


def test_what_came_before_is_compared(hanging: tuple[Trace, int]) -> None:
    trace, at = hanging
    seen = list(until(trace, at))
    seen[3] = msgspec.structs.replace(seen[3], error="EIO")
    result, _ = judge(trace, outcome(trace, tuple(seen), hang(at)), "fake")
    assert result.verdict is Verdict.DIVERGED
    assert [each.step for each in result.divergences] == [3]
    short, _ = judge(trace, outcome(trace, until(trace, at - 1), hang(at)), "fake")
    assert short.verdict is Verdict.DIVERGED


def test_a_kernel_that_hangs_elsewhere_has_diverged(hanging: tuple[Trace, int]) -> None:
    trace, _ = hanging
    result, _ = judge(trace, outcome(trace, lost=hang(4)), "fake")
    assert result.verdict is Verdict.DIVERGED
    assert result.reason == (
        "the kernel hangs in step 4 (disk store), line 6; in the twin another step never "
        "returns, step 15 (write org), line 17: it waits for I/O on cow, which is suspended "
        "(write 16+8)"
    )


@pytest.mark.parametrize("reason", ["vanished", "rubbish"])
def test_a_guest_that_is_lost_otherwise_does_not_hang(
    hanging: tuple[Trace, int], reason: Reason
) -> None:
    trace, at = hanging
    result, _ = judge(trace, outcome(trace, until(trace, at), hang(at, reason)), "fake")
    assert result.verdict is Verdict.LOST
    assert result.reason.startswith(f"{reason} in step 15 (write org), line 17: ")


def test_a_hang_that_the_twin_knows_nothing_of_is_a_lost_guest() -> None:
    trace = choose(["bring_up[P]"])[0].trace(7)
    result, _ = judge(trace, outcome(trace, lost=hang(4)), "fake")
    assert result.verdict is Verdict.LOST


def test_a_kernel_that_returns_has_diverged(hanging: tuple[Trace, int]) -> None:
    trace, at = hanging
    more = tuple(Observation(step=step) for step in range(at, len(trace.steps)))
    result, _ = judge(trace, outcome(trace, until(trace, at) + more), "fake")
    assert result.verdict is Verdict.DIVERGED
    assert result.reason.startswith(
        "the kernel returns from a step that never returns in the twin, step 15 "
    )


def test_a_wait_that_nobody_explains_is_a_fault_of_the_twin(
    hanging: tuple[Trace, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.errors import TwinInvariant
    from harness.twin.mapped_device import MappedDevice

    monkeypatch.setattr(MappedDevice, "held", ())
    fault = foresee(hanging[0], READY.probe)
    assert isinstance(fault, TwinInvariant)


def test_every_report_takes_it_for_agreement(hanging: tuple[Trace, int]) -> None:
    report = RunReport(results=(agreed(hanging),))
    assert report.nothing_differs
    assert loads(dumps(report)) == report
    assert verdicts(report) == "0 same, 1 hangs on both sides, 0 diverged"
    text = junit.render(report).decode()
    assert 'failures="0" errors="0"' in text
    assert 'skipped="0"' in text
    assert SAYS in text
    lines = ktap.render(report).decode().splitlines()
    assert f"  ok 1 write_while_a_store_is_suspended # hangs on both sides: {SAYS}" in lines
    assert "ok 1 fake" in lines
    check(ScenarioResult(**answer(report.results[0])))
    assert Verdict.HANGS in AGREED


def test_a_suspended_device_with_nothing_in_it_hangs_nobody() -> None:
    steps = (
        Disk(name="a", sectors=64),
        Create(name="d"),
        Load(name="d", table=(TargetLine(0, 64, "linear", "{a} 0"),)),
        Resume(name="d"),
        Suspend(name="d"),
        Write(device="d", sector=0, sectors=1),
        Resume(name="d"),
    )
    assert foresee(trace_of(*steps), READY.probe) is None
