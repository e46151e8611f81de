"""A run: every verdict of `judge`, and `execute` from guests that behave badly to a report.

What the kernel "saw" is what the twin observes; a verdict is made by changing that, or by planting
a twin that answers something else.  The guests of `execute` are programs, not kernels.
"""

import dataclasses
import errno
import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.campaign import observe, run
from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.compare import diff
from harness.compare.diff import Verdict
from harness.errors import BadScenario, ProvisioningError, TwinInvariant
from harness.files import OURS, alone, mark_ours
from harness.guest.catalogue import Kernel
from harness.guest.events import Loss, Outcome
from harness.guest.process import KeptProcess
from harness.guest.recording import NOT_STARTED, recorded
from harness.guest.supervise import Supervisor
from harness.report.junit import JunitReporter
from harness.report.ktap import KtapReporter
from harness.report.ledger import Ledger
from harness.report.reporter import JsonReporter, Reporters
from harness.scenarios.registry import choose
from harness.scenarios.script import Script
from harness.trace.files import Header, Layer, Trace
from harness.trace.observations import Observation
from harness.trace.steps import Load, encode
from harness.twin import explore
from harness.twin.profile import PROFILES, Profile, named
from harness.verdict.judge import judge
from harness.verdict.result import CONSOLE_LINES_MAX, Result, RunReport
from harness.wire.job import Job, JobScenario
from harness.wire.journal import Ready

SEEING_GUEST = Path(__file__).with_name("seeing_guest.py")
READY = Ready(release="6.12.0-fake", version="#1", probe=Profile().facts())


def trace_of(name: str) -> Trace:
    [scenario] = choose([name])
    return scenario.trace(7)


def outcome_of(trace: Trace, seen: tuple[Observation, ...], **fields: object) -> Outcome:
    return Outcome(
        **{
            "scenario": trace.header.scenario,
            "seed": 7,
            "attempts": 1,  # type: ignore[arg-type]
            "observations": seen,
            "ready": READY,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def bring_up() -> Trace:
    return trace_of("bring_up[P]")


@pytest.fixture(scope="module")
def seen(bring_up: Trace) -> tuple[Observation, ...]:
    return explore.run(bring_up.steps, 7, Profile())


def verdict(trace: Trace, outcome: Outcome) -> Result:
    result, _ = judge(trace, outcome, "fake")
    assert (result.scenario, result.kernel, result.seed) == (trace.header.scenario, "fake", 7)
    assert result.steps == len(trace.steps)
    return result


# -- judge --------------------------------------------------------------------------------------


def test_the_same(bring_up: Trace, seen: tuple[Observation, ...]) -> None:
    slow = tuple(msgspec.structs.replace(one, elapsed_us=10) for one in seen)
    result, twin = judge(bring_up, outcome_of(bring_up, slow, attempts=2), "fake")
    assert (result.verdict, result.reason, result.orders) == (Verdict.SAME, "", 1)
    assert (result.release, result.attempts, result.kernel_us) == ("6.12.0-fake", 2, 10 * len(seen))
    assert set(result.compared) == set(Layer)
    silent = (Layer.LOG, Layer.REQUESTS)
    assert all(count for layer, count in result.compared.items() if layer not in silent)
    assert twin is not None
    assert twin.header.side == "twin"
    assert twin.header.profile == Profile().facts()
    assert len(twin.observations) == len(seen)


def test_what_differs_is_placed(bring_up: Trace, seen: tuple[Observation, ...]) -> None:
    other = list(seen)
    other[3] = msgspec.structs.replace(other[3], error="EIO")
    result = verdict(bring_up, outcome_of(bring_up, tuple(other)))
    assert result.verdict is Verdict.DIVERGED
    [found] = result.divergences
    assert (found.step, found.layer, found.left, found.right) == (3, Layer.ERROR, "EIO", "success")


def test_a_missing_observation_differs(bring_up: Trace, seen: tuple[Observation, ...]) -> None:
    result = verdict(bring_up, outcome_of(bring_up, seen[:-1]))
    assert result.verdict is Verdict.DIVERGED
    assert result.divergences[0].step == len(seen) - 1


@pytest.fixture(scope="module")
def race() -> Trace:
    return trace_of("overflow_in_one_write[P-org]")


@pytest.fixture(scope="module")
def orders(race: Trace) -> list[tuple[Observation, ...]]:
    """What is seen in each of the orders that differ from those before them."""
    found: list[tuple[Observation, ...]] = []
    for _, observations in explore.Orders(race.steps, 7, Profile()):
        if all(not diff.compare(race, observations, other).same for other in found):
            found.append(observations)
        if len(found) == 3:
            break
    return found


def test_the_first_order_needs_no_other(race: Trace, orders: list[tuple[Observation, ...]]) -> None:
    assert len(orders) == 3, "the scenario has several orders that can be told apart"
    result = verdict(race, outcome_of(race, orders[0]))
    assert (result.verdict, result.orders, result.by_other_order) == (Verdict.SAME, 1, False)


def test_another_permitted_order_is_the_same(
    race: Trace, orders: list[tuple[Observation, ...]]
) -> None:
    result, twin = judge(race, outcome_of(race, orders[2]), "fake")
    assert (result.verdict, result.by_other_order) == (Verdict.SAME, True)
    assert result.orders > 1
    assert f"number {result.orders} of those tried" in result.reason
    assert twin is not None
    # The twin's side of the report is the order that was the kernel's, not the first one.
    assert diff.compare(race, orders[2], twin.observations).same


def test_a_worker_may_be_stopped_in_its_midst() -> None:
    """Between the write of the metadata and the end of who waits for it: as no whole order does."""
    trace, profile = trace_of("every_status_line[invalid]"), Profile()
    runs = list(explore.Orders(trace.steps, 7, profile))
    whole = [seen for answers, seen in runs if max(answers.values(), default=0) < 2]
    midst = [
        (answers, seen)
        for answers, seen in runs
        if max(answers.values(), default=0) > 1
        and not any(diff.compare(trace, seen, other).same for other in whole)
    ]
    assert midst
    answers, seen = midst[0]
    result = verdict(trace, outcome_of(trace, seen))
    assert (result.verdict, result.by_other_order) == (Verdict.SAME, True)
    # A trace can hold that order.
    again = explore.run(trace.steps, 7, profile, explore.answers_of(explore.recorded(answers)))
    assert diff.compare(trace, seen, again).same


def test_an_order_with_a_race_in_each_of_many_steps_is_found() -> None:
    """Race by race: no plan that does not look at the kernel comes to all of them."""
    s = Script()
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256, can_fail=True)
    s.snapshot("snap", "base", "cow", "P", 1)
    for number in range(12):
        s.write("snap", 2 * number, 2)
    trace, profile = Trace(Header(scenario="made", seed=7), tuple(s.steps)), Profile()
    taken = {point: 3 if point % 3 else 1 for point in range(12)}
    seen = explore.run(trace.steps, 7, profile, taken)
    first = explore.run(trace.steps, 7, profile)
    assert (
        sum(there.requests != here.requests for there, here in zip(seen, first, strict=True)) == 12
    )
    result = verdict(trace, outcome_of(trace, seen))
    assert (result.verdict, result.by_other_order) == (Verdict.SAME, True)
    assert result.orders < 60
    assert not any(
        diff.compare(trace, seen, twin).same for _, twin in explore.Orders(trace.steps, 7, profile)
    ), "not led there"


def test_none_of_the_permitted_orders(
    race: Trace, orders: list[tuple[Observation, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (*orders[0][:-1], msgspec.structs.replace(orders[0][-1], error="EIO"))
    # Two orders, and there are more than were tried.
    monkeypatch.setattr(explore, "ORDERS_MAX", 60)
    result = verdict(race, outcome_of(race, wrong))
    assert result.verdict is Verdict.NONDETERMINISTIC
    assert result.reason == (
        "none of the 60 permitted orders tried is the kernel's, and there are more"
    )
    assert result.divergences == diff.compare(race, wrong, orders[0]).divergences

    class Complete(explore.Orders):
        def __iter__(self) -> Iterator[explore.Tried]:
            for number, observations in enumerate(orders):
                self._last = frozenset({(number, 1)})
                self._met[self._last] = explore._Met((), rested=False, wide={})
                yield {number: 1}, observations
            self.complete = True

    monkeypatch.setattr(explore, "Orders", Complete)
    result = verdict(race, outcome_of(race, wrong))
    assert result.verdict is Verdict.DIVERGED
    assert result.reason == "none of the 3 permitted orders tried is the kernel's"


def loss(step: int | None) -> Loss:
    return Loss(
        reason="panic",
        detail="Kernel panic - not syncing: for a test",
        step=step,
        guest=2,
        console="".join(f"line {n}\n" for n in range(100)),
        log=Path("console"),
    )


def test_a_lost_guest_names_the_step(bring_up: Trace) -> None:
    at = next(index for index, step in enumerate(bring_up.steps) if isinstance(step, Load))
    result, twin = judge(bring_up, outcome_of(bring_up, (), attempts=2, lost=loss(at)), "fake")
    assert (result.verdict, twin, result.attempts) == (Verdict.DIVERGED, None, 2)
    assert result.reason == (
        f"the kernel dies in step {at} (load snap), line {at + 2}, which the twin did not "
        "announce: Kernel panic - not syncing: for a test"
    )
    lines = result.console.splitlines()
    assert (len(lines), lines[-1]) == (CONSOLE_LINES_MAX, "line 99")
    before = verdict(bring_up, outcome_of(bring_up, (), lost=loss(None), ready=None))
    assert (before.reason, before.release) == ("panic: Kernel panic - not syncing: for a test", "")


def test_a_probe_that_no_kernel_gives_is_no_divergence(
    bring_up: Trace, seen: tuple[Observation, ...]
) -> None:
    name, value = next(iter(Profile().facts().items()))
    mad = msgspec.structs.replace(READY, probe={name: [value]})
    result = verdict(bring_up, outcome_of(bring_up, seen, ready=mad))
    assert result.verdict is Verdict.LOST
    assert result.reason.startswith(f"rubbish: the guest's probe says {name} = ")
    panicked = verdict(bring_up, outcome_of(bring_up, (), ready=mad, lost=loss(1)))
    assert (panicked.verdict, panicked.reason.partition(" in ")[0]) == (Verdict.LOST, "panic")


def test_a_scenario_that_the_kernel_side_cannot_carry_out(
    bring_up: Trace, seen: tuple[Observation, ...]
) -> None:
    result = verdict(bring_up, outcome_of(bring_up, seen[:2], fault="no device named x", step=2))
    assert (result.verdict, result.reason) == (
        Verdict.BROKEN,
        "the kernel side: step 2 (create snap), line 4: no device named x",
    )
    result = verdict(bring_up, outcome_of(bring_up, seen, fault="witnesses disagree"))
    assert (result.verdict, result.reason) == (
        Verdict.BROKEN,
        "the kernel side: witnesses disagree",
    )


def test_what_a_kernel_lacks_is_no_fault(bring_up: Trace, seen: tuple[Observation, ...]) -> None:
    result = verdict(
        bring_up, outcome_of(bring_up, seen[:2], fault="there is no module nbd", unsupported=True)
    )
    assert (result.verdict, result.reason) == (Verdict.UNSUPPORTED, "there is no module nbd")


def test_a_fault_that_met_no_request_is_a_broken_scenario() -> None:
    trace = trace_of("link_in_a_creation[stalls]")
    right = explore.run(trace.steps, trace.header.seed, named("6.12"))
    assert verdict(trace, outcome_of(trace, right)).verdict is Verdict.SAME
    wrong = tuple(msgspec.structs.replace(one, requests={}) for one in right)
    result = verdict(trace, outcome_of(trace, wrong))
    assert (result.verdict, result.reason) == (
        Verdict.BROKEN,
        (
            "the kernel side: step 2 (fault cow), line 4 was meant to stop the disk, "
            "but no request reached it"
        ),
    )


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (BadScenario("no device named x"), Verdict.BROKEN),
        (TwinInvariant("step 3 would never return"), Verdict.DIVERGED),
    ],
)
def test_a_twin_that_gives_up(
    bring_up: Trace,
    seen: tuple[Observation, ...],
    fault: Exception,
    wanted: Verdict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise fault

    monkeypatch.setattr(explore, "_run", refuse)
    result, twin = judge(bring_up, outcome_of(bring_up, seen), "fake")
    assert (result.verdict, result.reason, twin) == (wanted, f"the twin: {fault}", None)


def test_what_would_not_go_away_is_no_sameness(
    bring_up: Trace, seen: tuple[Observation, ...]
) -> None:
    result = verdict(bring_up, outcome_of(bring_up, seen, leftovers=("snap", "cow")))
    assert (result.verdict, result.reason) == (
        Verdict.DIVERGED,
        "devices could not be removed: snap, cow",
    )
    assert result.divergences == ()


def test_the_guest_that_was_probed_decides_the_profile() -> None:
    """The same answers are right for one kernel and wrong for another."""
    trace = trace_of("cow_is_origin")
    answers = explore.run(trace.steps, 7, PROFILES["6.1"])
    old = msgspec.structs.replace(READY, probe=PROFILES["6.1"].facts())
    assert verdict(trace, outcome_of(trace, answers, ready=old)).verdict is Verdict.SAME
    assert verdict(trace, outcome_of(trace, answers)).verdict is Verdict.DIVERGED


def test_a_promise_that_both_sides_break_is_reported() -> None:
    trace = trace_of("origin_not_resumed[P]")
    result = verdict(trace, outcome_of(trace, explore.run(trace.steps, 7, Profile())))
    assert result.verdict is Verdict.SAME
    assert result.kernel_promises == result.twin_promises != ()
    assert result.promise_broken


# -- execute ------------------------------------------------------------------------------------


class Recorder:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.doing: list[tuple[str, str]] = []
        self.results: list[Result] = []

    def begin(self, kernels: Sequence[str], total: int) -> None:
        self.calls.append(f"begin {' '.join(kernels)} {total}")

    def progress(self, guest: str, doing: str) -> None:
        self.doing.append((guest, doing))

    def result(self, result: Result) -> None:
        self.calls.append("result")
        self.results.append(result)

    def end(self, report: RunReport) -> None:
        self.calls.append("end")
        self.report = report

    def close(self) -> None:
        self.calls.append("close")


class Programs:
    """Starts `seeing_guest.py` in place of kernels."""

    slowness = 1.0

    def __init__(self) -> None:
        self.run = uuid.uuid4().hex

    def check(self, guests: int, results: Path) -> None:
        """Nothing is needed."""

    def start(self, results: Path) -> KeptProcess:
        home = str(Path(run.__file__).parents[1])
        return KeptProcess(
            [sys.executable, "-P", SEEING_GUEST, results],
            results=results,
            env={"PATH": os.defpath, "PYTHONPATH": home, "RUN": self.run},
        )


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Supervisor

    def supervisor(kernel: Kernel, **options: Any) -> Supervisor:
        return original(kernel, **{**options, "launcher": Programs()})

    monkeypatch.setattr(observe, "Supervisor", supervisor)


def plan(
    directory: Path, *names: str, kernels: tuple[str, ...] = ("one",), **fields: object
) -> Plan:
    traces = []
    for name in names:
        trace = trace_of("bring_up[N]")
        traces.append(
            msgspec.structs.replace(
                trace, header=msgspec.structs.replace(trace.header, scenario=name)
            )
        )
    return Plan(
        **{
            "traces": tuple(traces),
            "jobs": 2,
            "directory": directory / "guests",  # type: ignore[arg-type]
            "kernels": tuple(Kernel(name, SEEING_GUEST, directory) for name in kernels),
            "step_limit_s": 20.0,
            "boot_limit_s": 20.0,
            **fields,
        }
    )


@pytest.mark.usefixtures("programs")
def test_a_run_of_every_temper(tmp_path: Path) -> None:
    names = ["ok-1", "exit-1", "ok-2", "wrong-1", "fault-1", "leftover-1", "exit-once", "ok-3"]
    recorder = Recorder()
    report = execute(plan(tmp_path, *names), recorder)
    assert [result.scenario for result in report.results] == names
    assert {
        result.scenario: result.verdict
        for result in report.results
        if result.verdict is not Verdict.SAME
    } == {
        "exit-1": Verdict.LOST,
        "wrong-1": Verdict.DIVERGED,
        "fault-1": Verdict.BROKEN,
        "leftover-1": Verdict.DIVERGED,
    }
    by_name = {result.scenario: result for result in report.results}
    assert by_name["exit-1"].reason.startswith("vanished in step 1 (disk cow), line 3: ")
    assert "console of exit-1" in by_name["exit-1"].console
    assert by_name["wrong-1"].divergences[0].step == 0
    assert [by_name[name].attempts for name in ("ok-1", "exit-1", "exit-once")] == [1, 2, 2]
    assert not report.nothing_differs
    assert report.environment.kernels == {"one": "6.12.0-fake"}
    assert report.environment.jobs == 2
    # Each is told once, as it comes; the report keeps the order of the plan.
    assert recorder.calls == ["begin one 8", *["result"] * 8, "end", "close"]
    assert sorted(result.scenario for result in recorder.results) == sorted(names)
    assert ("one #1", "ok-1") in recorder.doing
    assert any("attempt 2" in doing for _, doing in recorder.doing)
    assert any(not doing for _, doing in recorder.doing), "a lost guest's line goes"


@pytest.mark.usefixtures("programs")
def test_kernels_run_one_after_another_and_old_files_go(tmp_path: Path) -> None:
    for _ in range(2):
        recorder = Recorder()
        report = execute(plan(tmp_path, "ok-1", "exit-once", kernels=("one", "two")), recorder)
        assert report.nothing_differs
        # `once` is once for each kernel and each run.
        assert [(r.kernel, r.scenario, r.attempts) for r in report.results] == [
            ("one", "ok-1", 1),
            ("one", "exit-once", 2),
            ("two", "ok-1", 1),
            ("two", "exit-once", 2),
        ]
        assert recorder.calls == ["begin one two 4", *["result"] * 4, "end", "close"]
        # Three guests, and a mark of what one of them has seen: nothing of the run before.
        left = [len(list(tmp_path.glob(f"guests/{name}/[!.]*"))) for name in ("one", "two")]
        assert left == [4, 4]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("name", ["{tmp}/build/linux", "..", "../../x"])
def test_a_kernel_that_is_named_by_its_path_keeps_its_files(tmp_path: Path, name: str) -> None:
    """Guests' files go below the report, whatever the kernel is called."""
    (tmp_path / "build/linux").mkdir(parents=True)
    (tmp_path / "build/linux/precious").touch()
    report = execute(plan(tmp_path, "ok-1", kernels=(name.format(tmp=tmp_path),)), Recorder())
    assert report.nothing_differs
    assert [path.name for path in (tmp_path / "build/linux").iterdir()] == ["precious"]
    assert [path.name for path in tmp_path.glob("guests/*/guest-*")] == ["guest-0001"]


@pytest.mark.usefixtures("programs")
def test_an_interrupt_reports_what_had_finished(tmp_path: Path) -> None:
    class Impatient(Recorder):
        def result(self, result: Result) -> None:
            super().result(result)
            raise KeyboardInterrupt

    impatient = Impatient()
    with pytest.raises(KeyboardInterrupt):
        execute(plan(tmp_path, "ok-1", "ok-2", jobs=1, kernels=("one", "two")), impatient)
    assert impatient.calls == ["begin one two 4", "result", "end", "close"]
    assert [result.scenario for result in impatient.report.results] == ["ok-1"]


@pytest.mark.usefixtures("programs")
def test_guests_that_cannot_be_had_are_no_verdict(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(ProvisioningError, match="never became ready"):
        execute(plan(tmp_path, "ok-1", driver="dies"), recorder)
    assert recorder.calls == ["begin one 1", "close"]


@pytest.mark.usefixtures("programs")
def test_a_full_disk_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ProvisioningError, match="No space left on device; free space"):
        execute(plan(tmp_path, "ok-1"), Recorder())


@pytest.mark.usefixtures("programs")
def test_one_kernel_that_never_comes_up_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        observe.Scenarios,
        "job",
        lambda self, kernel, names: encode(
            Job(
                modules="",
                driver="dies" if kernel.name == "bad" else "ioctl",
                scenarios=tuple(JobScenario(name, self.trace(name).steps, 7) for name in names),
            )
        ),
    )
    recorder = Recorder()
    with pytest.raises(ProvisioningError, match="never became ready"):
        execute(plan(tmp_path, "ok-1", kernels=("bad", "good")), recorder)
    assert recorder.calls == ["begin bad good 2", "result", "end", "close"]
    assert [result.kernel for result in recorder.report.results] == ["good"]


# -- the report of the run before ---------------------------------------------------------------


def reporters(directory: Path, whole: Plan) -> tuple[Ledger, Reporters]:
    ledger = Ledger(directory / "progress.jsonl", whole.keys())
    return ledger, Reporters(
        [
            JunitReporter(directory / "junit.xml"),
            KtapReporter(directory / "run.ktap"),
            JsonReporter(directory / "results.json"),
            ledger,
        ]
    )


def files_in(directory: Path) -> dict[str, bytes]:
    """Every file of a report and what is in it; those of a run that did not start apart."""
    return {
        name: path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(directory))).startswith(NOT_STARTED)
    }


@pytest.fixture
def before(tmp_path: Path, programs: None) -> dict[str, bytes]:  # noqa: ARG001
    """A run of before, stopped when it had two of its three results."""
    whole = plan(tmp_path, "ok-1", "wrong-1", "ok-2", jobs=1, kernels=("one", "two"))
    _, reporter = reporters(tmp_path, whole)
    begun = []

    class Stopping(Recorder):
        def result(self, result: Result) -> None:
            begun.append(result)
            if len(begun) == 2:
                raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        execute(whole, Reporters([reporter, Stopping()]))
    found = files_in(tmp_path)
    assert {
        "junit.xml",
        "run.ktap",
        "results.json",
        "progress.jsonl",
        "guests/one/guest-0001/console.log",
    } <= set(found)
    return found


class Interrupted(Recorder):
    """Somebody presses Ctrl-C while the first guest boots."""

    def progress(self, guest: str, doing: str) -> None:
        super().progress(guest, doing)
        raise KeyboardInterrupt


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "why", ["no guest comes up", "no process", "Ctrl-C", "the disk is full", "a defect"]
)
def test_a_run_that_comes_to_nothing_leaves_the_last_report(
    tmp_path: Path,
    before: dict[str, bytes],
    resume: bool,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("one",) if why == "Ctrl-C" else ("one", "two")
    whole = plan(tmp_path, "ok-1", "wrong-1", "ok-2", kernels=names)
    ledger, reporter = reporters(tmp_path, whole)
    finished = ledger.finished() if resume else []
    assert len(finished) == (2 if resume else 0)
    expected: type[BaseException] = ProvisioningError
    match why:
        case "no guest comes up":
            monkeypatch.setattr(
                observe.Scenarios,
                "job",
                lambda *_: encode(Job(modules="", driver="dies", scenarios=())),
            )
        case "no process":
            monkeypatch.setattr(observe, "Supervisor", refuse)
        case "Ctrl-C":
            reporter, expected = Reporters([reporter, Interrupted()]), KeyboardInterrupt
        case "the disk is full":
            full = OSError(errno.ENOSPC, "No space left on device")
            monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
        case "a defect":
            monkeypatch.setattr(observe.Scenarios, "job", lambda *_: 1 / 0)
            expected = ZeroDivisionError
    with pytest.raises(expected) as caught:
        execute(whole, reporter, finished)
    monkeypatch.undo()
    assert files_in(tmp_path) == before
    assert not (tmp_path / "guests/two").exists() or why == "Ctrl-C"
    if why == "no guest comes up":
        [named] = re.findall(r"its console is in (\S+),", str(caught.value))
        assert Path(named).read_text().startswith("no kernel for ")
        assert Path(named).is_relative_to(tmp_path / NOT_STARTED / "one")
    if why == "Ctrl-C":
        assert "the last report is unchanged" in str(caught.value)


def refuse(*_: object, **__: object) -> None:
    raise ProvisioningError("cannot start a process for a guest")


def test_the_first_result_is_the_end_of_the_last_report(
    tmp_path: Path, before: dict[str, bytes]
) -> None:
    there: list[set[str]] = []

    class Looking(Recorder):
        def begin(self, kernels: Sequence[str], total: int) -> None:  # noqa: ARG002
            there.append(set(files_in(tmp_path)))

        def result(self, result: Result) -> None:  # noqa: ARG002
            there.append(set(files_in(tmp_path)))

    mark_ours(tmp_path / NOT_STARTED)
    (tmp_path / NOT_STARTED / "one").mkdir()
    whole = plan(tmp_path, "ok-1", "ok-2", jobs=1)
    _, reporter = reporters(tmp_path, whole)
    execute(whole, Reporters([reporter, Looking()]))
    at_begin, first, _ = there
    assert at_begin == set(before)
    assert {"junit.xml", "run.ktap", "results.json"}.isdisjoint(first)
    old = {name for name in before if name.startswith("guests/one/guest-")}
    assert old
    assert old.isdisjoint(first)
    assert len((tmp_path / "progress.jsonl").read_bytes().splitlines()) == 2
    assert not (tmp_path / NOT_STARTED).exists()
    assert {each.scenario for each in recorded(tmp_path / "guests/one")} == {"ok-1", "ok-2"}


@pytest.mark.usefixtures("before")
def test_guests_of_a_run_that_goes_on_come_after_those_of_before(tmp_path: Path) -> None:
    """Of two journals with one scenario the later one counts."""
    (tmp_path / "guests/one/guest-0001").rename(tmp_path / "guests/one/guest-0007")
    whole = plan(tmp_path, "ok-1", "wrong-1", "ok-2", jobs=1)
    ledger, reporter = reporters(tmp_path, whole)
    execute(whole, reporter, ledger.finished())
    assert sorted(path.name for path in (tmp_path / "guests/one").iterdir()) == [
        OURS,
        "guest-0007",
        "guest-0008",
    ]


@pytest.mark.parametrize("place", ["guests/one", NOT_STARTED])
def test_what_dmsnap_did_not_make_is_not_replaced(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "precious").touch()
    recorder = Recorder()
    with pytest.raises(ProvisioningError, match="not a directory that dmsnap made"):
        execute(plan(tmp_path, "ok-1"), recorder)
    assert (tmp_path / place / "precious").exists()
    assert recorder.calls[-1] == "close"


# -- resume -------------------------------------------------------------------------------------


def resumed(directory: Path, whole: Plan, *, stop_after: int | None = None) -> Recorder:
    """Go on with a run; it is stopped after so many new results."""
    ledger = Ledger(directory / "progress.jsonl", whole.keys())
    finished = ledger.finished() if (directory / "progress.jsonl").exists() else []

    class Stopping(Recorder):
        def result(self, result: Result) -> None:
            super().result(result)
            if len(self.results) == len(finished) + (stop_after or 0) and stop_after:
                raise KeyboardInterrupt

    recorder = Stopping()
    with suppress(KeyboardInterrupt):
        execute(whole, Reporters([ledger, recorder]), finished)
    return recorder


@pytest.mark.usefixtures("programs")
def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole = plan(tmp_path, "ok-1", "wrong-1", "ok-2", jobs=1, kernels=("one", "two"))
    first = resumed(tmp_path, whole, stop_after=2)
    assert [(r.kernel, r.scenario) for r in first.report.results] == [
        ("one", "ok-1"),
        ("one", "wrong-1"),
    ]
    second = resumed(tmp_path, whole, stop_after=2)
    assert [doing for _, doing in second.doing if doing.startswith(("ok", "wrong"))][:2] == [
        "ok-2",
        "ok-1",
    ], "nothing that had finished runs again"
    third = resumed(tmp_path, whole)
    assert [(r.kernel, r.scenario, r.verdict) for r in third.report.results] == [
        (kernel, name, verdict)
        for kernel in ("one", "two")
        for name, verdict in (
            ("ok-1", Verdict.SAME),
            ("wrong-1", Verdict.DIVERGED),
            ("ok-2", Verdict.SAME),
        )
    ]
    assert third.report.environment.resumed == 4
    assert third.report.environment.kernels == {"one": "6.12.0-fake", "two": "6.12.0-fake"}
    # The files of guests whose results are taken over stay.  (A guest is ahead of what it is
    # told: what it did before it was stopped may be there twice.)
    assert {each.scenario for each in recorded(tmp_path / "guests/one")} == {
        "ok-1",
        "ok-2",
        "wrong-1",
    }
    assert len(list(tmp_path.glob("guests/one/guest-*"))) == 2
    last = resumed(tmp_path, whole)
    assert (last.report.results, last.doing) == (third.report.results, [])


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("change", ["scenario", "kernel", "module", "driver", "defects"])
def test_what_has_changed_runs_again(tmp_path: Path, change: str) -> None:
    module = tmp_path / "dm-snapshot.ko"
    module.write_bytes(b"one build")
    whole = plan(tmp_path, "ok-1", "ok-2")
    resumed(tmp_path, whole)
    again = whole
    match change:
        case "scenario":
            other = msgspec.structs.replace(whole.traces[0], steps=whole.traces[0].steps[:-1])
            again = dataclasses.replace(whole, traces=(other, whole.traces[1]))
        case "kernel":
            program = tmp_path / "linux"
            program.write_bytes(b"another build")
            again = dataclasses.replace(whole, kernels=(Kernel("one", program, tmp_path),))
        case "module":
            module.write_bytes(b"another build")
        case "driver":
            again = dataclasses.replace(whole, driver="dmsetup")
        case "defects":
            again = dataclasses.replace(whole, defects="fixed")
    recorder = resumed(tmp_path, again)
    assert recorder.report.environment.resumed == (1 if change == "scenario" else 0)
    assert len(recorder.report.results) == 2


@pytest.mark.usefixtures("programs")
def test_a_line_that_was_cut_short_is_not_there(tmp_path: Path) -> None:
    whole = plan(tmp_path, "ok-1", "ok-2", jobs=1)
    resumed(tmp_path, whole)
    file = tmp_path / "progress.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    recorder = resumed(tmp_path, whole)
    assert recorder.report.environment.resumed == 1
    assert [result.scenario for result in recorder.report.results] == ["ok-1", "ok-2"]


def test_without_a_run_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match=r"no run to resume in .*leave out --resume"):
        Ledger(tmp_path / "progress.jsonl", {}).finished()


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    recorder = Recorder()
    with (
        alone(tmp_path / "guests"),
        pytest.raises(ProvisioningError, match="another dmsnap is using"),
    ):
        execute(plan(tmp_path, "ok-1"), recorder)
    assert recorder.calls == ["close"], "the report of the other run must stay"
    with alone(tmp_path / "guests"):
        pass  # it is free again
