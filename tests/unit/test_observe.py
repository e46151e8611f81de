"""The primitive that carries work out: on this machine, and what is asked of an outcome."""

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import harness
from harness.campaign.observe import Here, Scenarios, answered, observe
from harness.compare.diff import Verdict
from harness.errors import BadScenario, GuestLost, ProvisioningError, Unsupported
from harness.guest.catalogue import UML, VAGRANT, Guest, Kernel
from harness.guest.events import Event, Loss, Outcome, ScenarioEnded
from harness.guest.recording import kernel_observations
from harness.scenarios.registry import choose
from harness.trace.backend import carry_out
from harness.trace.files import (
    Header,
    ObservationsHeader,
    Trace,
    dumps_observations,
    loads_observations,
)
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep, Disk, Examine, Write
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile
from harness.verdict.judge import judge
from harness.wire.job import decode_job
from harness.wire.journal import Ready

HARNESS = Path(harness.__file__).parent
READY = Ready(release="6.12.0-fake", version="#1", probe=Profile().facts())


class Machine(TwinBackend):
    """A machine that does as the twin does, and keeps a device if it is told to."""

    def __init__(self, *, keeps: bool = False) -> None:
        super().__init__(Profile())
        self._keeps = keeps
        self.spoilt = False

    def end(self) -> list[str]:
        super().end()
        self.spoilt = self._keeps
        return ["snap"] if self._keeps else []


# -- the loop -----------------------------------------------------------------------------------


def test_each_step_is_done_when_it_is_asked_for() -> None:
    steps = (Disk(name="a", sectors=8), Write(device="a", sector=0, sectors=8), Examine())
    told: list[tuple[int, AnyStep]] = []
    going = carry_out(TwinBackend(Profile()), steps, 7, lambda *each: told.append(each))
    assert told == []
    assert next(going).step == 0
    assert told == [(0, steps[0])]
    assert [seen.step for seen in going] == [1, 2]
    assert told == list(enumerate(steps))


def test_a_second_world_is_empty() -> None:
    twin = TwinBackend(Profile())
    for _ in range(2):
        assert [seen.error for seen in carry_out(twin, (Disk(name="a", sectors=8),), 7)] == [None]


# -- this machine -------------------------------------------------------------------------------


def test_this_machine_does_one_after_another_and_tells() -> None:
    traces = [scenario.trace(7) for scenario in choose(["bring_up"])]
    heard: list[Event] = []
    outcomes = observe(Scenarios(traces), Here(Machine(), READY), heard.append)
    assert list(outcomes) == [trace.header.scenario for trace in traces]
    assert heard == [ScenarioEnded(outcome) for outcome in outcomes.values()]
    for trace in traces:
        outcome = outcomes[trace.header.scenario]
        assert answered(outcome) is READY
        assert judge(trace, outcome, "fake")[0].verdict is Verdict.SAME


def test_a_step_that_cannot_be_carried_out_is_told_and_what_came_before_stays() -> None:
    steps = (Disk(name="a", sectors=8), Write(device="b", sector=0, sectors=8), Examine())
    [outcome] = observe(
        Scenarios([Trace(Header(scenario="x", seed=7), steps)]), Here(Machine(), READY)
    ).values()
    assert [seen.step for seen in outcome.observations] == [0]
    assert outcome.step == 1
    with pytest.raises(BadScenario, match=r"^x: step 1: BadScenario: there is no device") as caught:
        answered(outcome)
    assert caught.value.step == 1


def test_nothing_is_done_where_something_stayed() -> None:
    traces = [scenario.trace(7) for scenario in choose(["bring_up"])]
    heard: list[Event] = []
    with pytest.raises(ProvisioningError, match="reboot this machine"):
        observe(Scenarios(traces), Here(Machine(keeps=True), READY), heard.append)
    assert len(heard) == 1


# -- what a guest is told, and what it answered -------------------------------------------------


@pytest.mark.parametrize("guest", [UML, VAGRANT])
def test_a_guest_is_told_of_some_of_the_scenarios(guest: Guest) -> None:
    traces = [scenario.trace(7) for scenario in choose(["bring_up"])]
    work = Scenarios(traces, driver="dmsetup", functions=("snapshot_map",))
    kernel = Kernel("fake", Path("vmlinux"), Path("modules"), guest=guest)
    names = [work.names()[2], work.names()[0]]
    job = decode_job(work.job(kernel, names))
    assert [each.name for each in job.scenarios] == names
    assert [each.steps for each in job.scenarios] == [traces[2].steps, traces[0].steps]
    assert {each.seed for each in job.scenarios} == {7}
    assert (job.modules, job.driver, job.functions) == ("modules", "dmsetup", ("snapshot_map",))
    assert job.here == (guest == VAGRANT)
    assert work.steps() == {trace.header.scenario: len(trace.steps) for trace in traces}


def outcome_of(**fields: object) -> Outcome:
    return Outcome(
        **{
            "scenario": "x",
            "seed": 7,
            "attempts": 1,  # type: ignore[arg-type]
            "observations": (),
            "ready": READY,
            **fields,
        }
    )


def test_a_lost_guest_is_an_error_of_who_needs_its_answer() -> None:
    loss = Loss("vanished", "it ended", 3, 1, "", Path("console.log"))
    with pytest.raises(GuestLost) as caught:
        answered(outcome_of(lost=loss))
    assert str(caught.value) == (
        "x: the guest was lost in step 3 (vanished: it ended); its console: console.log"
    )
    with pytest.raises(GuestLost) as caught:
        answered(outcome_of(lost=loss), lambda step: f"line {step + 2}", kept=False)
    assert str(caught.value) == "x: the guest was lost in line 5 (vanished: it ended)"


def test_a_kernel_that_lacks_something_is_not_a_bad_scenario() -> None:
    with pytest.raises(Unsupported, match=r"^x: step 2: no such target$"):
        answered(outcome_of(fault="no such target", unsupported=True, step=2))
    with pytest.raises(BadScenario, match=r"^x: a full disk$"):
        answered(outcome_of(fault="a full disk"))


def test_what_a_kernel_did_is_kept_with_what_the_guest_said_of_itself() -> None:
    ready = Ready(
        "6.12.1",
        "#2",
        targets={"snapshot": "1.16.0"},
        probe={"cow_threshold": 2048},
        driver="dmsetup",
    )
    seen = (Observation(step=0, error="EIO"),)
    kept = loads_observations(
        dumps_observations(kernel_observations("uml-6.12", "x", 7, ready, seen))
    )
    assert kept.observations == seen
    assert msgspec.structs.asdict(kept.header) == msgspec.structs.asdict(
        ObservationsHeader(
            scenario="x",
            seed=7,
            side="kernel",
            kernel="uml-6.12",
            release="6.12.1",
            version="#2",
            driver="dmsetup",
            targets={"snapshot": "1.16.0"},
            profile={"cow_threshold": 2048},
        )
    )


# -- written once -------------------------------------------------------------------------------


def calls(name: str) -> list[str]:
    """Places in harness/ where ``name`` is called."""
    return [
        str(path.relative_to(HARNESS))
        for path in sorted(HARNESS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and name in {getattr(node.func, "id", None), getattr(node.func, "attr", None)}
    ]


def test_a_supervisor_is_made_in_one_place() -> None:
    assert calls("Supervisor") == ["campaign/observe.py"]


def test_a_lost_guest_becomes_an_error_in_one_place() -> None:
    # The channel of preflight and the Vagrant machine carry out no work; the others read what a
    # guest left beside its journal, or said of LVM's boots, which may be rubbish.
    assert {place for place in calls("GuestLost") if place.partition("/")[0] not in {"guest"}} == {
        "campaign/observe.py",
        "kernel/function_counts.py",
        "lvm/enact.py",
        "lvm/sound.py",
        "measure/headline.py",
    }
    assert calls("GuestLost").count("campaign/observe.py") == 1


def test_a_world_is_begun_and_steps_are_done_in_one_place() -> None:
    """Exceptions: backends that hand on to another, the probe, which has no scenario, and lives,
    whose next step depends on what the last one did."""
    wrapping = {"kernel/gauge.py", "kernel/lvm_agent.py"}
    assert set(calls("execute")) & {
        place for place in calls("begin") if not place.startswith("report/")
    } - wrapping <= {"trace/backend.py", "kernel/probe.py", "fuzz/lives.py"}


@pytest.mark.parametrize(
    "module",
    [
        "campaign.run",
        "campaign.replay",
        "campaign.observe",
        "lvm.enact",
        "lvm.situations",
        "measure.headline",
        "measure.coverage",
        "measure.preflight",
        "measure.bench",
        "cli.main",
    ],
)
def test_a_host_needs_no_pytest(module: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-c",
            f"import sys, harness.{module}; sys.exit('pytest' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"harness.{module}" in done.stderr
