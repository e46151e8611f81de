"""The supervisor against guests of every temper: real processes, no kernels."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from harness.errors import BadScenario, ProvisioningError
from harness.guest import supervise
from harness.guest.catalogue import Kernel
from harness.guest.events import (
    Event,
    GuestReady,
    GuestStarted,
    GuestWasLost,
    ScenarioEnded,
    StepObserved,
)
from harness.guest.process import KeptProcess
from harness.guest.supervise import Supervisor
from harness.wire import journal
from harness.wire.journal import Begin, JournalReader, JournalWriter

FAKE = Path(__file__).with_name("fake_guest.py")
KERNEL = Kernel("fake", FAKE, FAKE.parent)


class FakeLauncher:
    """Starts fake guests, and can tell whether anything of them is left."""

    slowness = 1.0

    def __init__(self):
        self.mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
        self.guests = []

    def check(self, guests, results):
        pass

    def start(self, results):
        name, value = self.mark.split("=")
        guest = KeptProcess(
            [sys.executable, "-I", "-S", FAKE, results],
            results=results,
            env={"PATH": os.defpath, name: value},
        )
        self.guests.append(guest)
        return guest

    def left(self):
        """Processes of any guest, the keeper too."""
        return left(self.mark)


def left(mark):
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture
def launcher():
    launcher = FakeLauncher()
    yield launcher
    assert launcher.left() == []


@pytest.fixture
def run(tmp_path, launcher):
    class Run:
        """A run; afterwards, who supervised it, and the events of it."""

        supervisor: Supervisor
        events: list[Event]

        def __call__(self, *scenarios, guests=1, boot="ok", on_event=None, **options):
            self.supervisor = Supervisor(
                KERNEL,
                guests=guests,
                results=tmp_path / "results",
                python=Path(sys.executable),
                job=lambda names: json.dumps({"scenarios": names, "boot": boot}).encode(),
                launcher=launcher,
                **{"step_limit_s": 20, "boot_limit_s": 20, **options},
            )
            self.events = []

            def note(event):
                self.events.append(event)
                if on_event is not None:
                    on_event(event)

            return self.supervisor.run(scenarios, note)

    return Run()


def ended(events):
    return [event.outcome.scenario for event in events if isinstance(event, ScenarioEnded)]


def lost_guests(events):
    return [event for event in events if isinstance(event, GuestWasLost)]


def whole(outcome):
    """The outcome of a scenario that was carried out by one guest, start to end."""
    assert outcome.lost is None
    assert [each.step for each in outcome.observations] == [0, 1]
    assert outcome.ready.release == "1.2.3-fake"
    assert outcome.seed == 7
    return True


def test_shares_are_dealt_round_robin_and_outcomes_keep_the_order(run):
    names = [f"ok-{number}" for number in range(7)]
    outcomes = run(*names, guests=3)
    assert list(outcomes) == names
    assert all(whole(outcome) and outcome.attempts == 1 for outcome in outcomes.values())
    shares = [event.scenarios for event in run.events if isinstance(event, GuestStarted)]
    assert shares == [tuple(names[0::3]), tuple(names[1::3]), tuple(names[2::3])]
    assert len([event for event in run.events if isinstance(event, GuestReady)]) == 3
    assert sorted(ended(run.events)) == names


def test_nothing_to_do_starts_no_guest(run, launcher):
    assert run(guests=4) == {}
    assert launcher.guests == []


def test_more_guests_than_scenarios_start_no_idle_ones(run, launcher):
    run("ok-1", guests=4)
    assert len(launcher.guests) == 1


@pytest.mark.parametrize(
    ("kind", "reason", "step"),
    [
        ("panic", "panic", 1),
        ("exit", "vanished", 1),
        ("killed", "vanished", 1),
        ("hang", "hang", 1),
        ("rubbish", "rubbish", 1),
        ("cut", "vanished", 1),
        ("full", "vanished", 1),
        ("twice", "rubbish", None),
        ("skipped", "rubbish", 1),
        ("before", "vanished", None),
        ("early", "rubbish", None),
        ("swap", "rubbish", None),
        ("other", "rubbish", 0),
        ("latin1", "rubbish", 1),
        ("nested", "rubbish", 1),
        ("endless", "rubbish", 1),
        ("short", "rubbish", 0),
        ("gap", "rubbish", 0),
        ("more", "rubbish", 1),
    ],
)
def test_a_lost_scenario_is_named_and_every_other_has_its_verdict(
    run, kind, reason, step, monkeypatch
):
    monkeypatch.setattr(journal, "LINE_BYTES_MAX", 1 << 20)
    limits = {"step_limit_s": 1.0} if kind == "hang" else {}
    lost = f"{kind}-x"
    names = ("ok-1", lost, "ok-2", "ok-3")
    outcomes = run(*names, steps=dict.fromkeys(names, 2), **limits)
    for name in ("ok-1", "ok-2", "ok-3"):
        assert whole(outcomes[name])
    if kind == "twice":
        # Its own End was good; the second one is held against the scenario that was next.
        assert whole(outcomes[lost])
        assert outcomes["ok-2"].attempts == 2
        assert [loss.reason for loss in outcomes["ok-2"].losses] == [reason]
    else:
        outcome = outcomes[lost]
        assert (outcome.lost.reason, outcome.lost.step) == (reason, step)
        assert outcome.attempts == 2
        assert [loss.guest for loss in outcome.losses] == [1, 2]
        assert outcome.observations == ()
        assert "console of guest-0002" in outcome.lost.console
        assert outcome.lost.log.read_text().startswith("console of guest-0002")
        assert [(event.scenario, event.again) for event in lost_guests(run.events)] == [
            (lost, True),
            (lost, False),
        ]
    assert sorted(ended(run.events)) == sorted(outcomes)


def test_a_hang_that_was_foretold_is_not_waited_for(run, monkeypatch):
    """Nor is a second guest tried; what came before it is kept."""
    monkeypatch.setattr(supervise, "FORETOLD_LIMIT_S", 0.3)
    asked = []

    def hangs_in(name, ready):
        asked.append((name, ready.release))
        return 1

    outcomes = run("ok-1", "hang-x", "ok-2", hangs_in=hangs_in)
    outcome = outcomes["hang-x"]
    assert (outcome.lost.reason, outcome.lost.step, outcome.attempts) == ("hang", 1, 1)
    assert [each.step for each in outcome.observations] == [0]
    assert asked == [("hang-x", "1.2.3-fake")]
    assert whole(outcomes["ok-1"])
    assert whole(outcomes["ok-2"])
    assert [(event.scenario, event.again) for event in lost_guests(run.events)] == [
        ("hang-x", False)
    ]


def test_a_death_that_was_foretold_is_not_tried_again(run):
    """What came before it is kept."""
    asked = []

    def dies_in(name, ready, step):
        asked.append((name, ready.release, step))
        return step == 1

    outcomes = run("ok-1", "panic-x", "exit-x", "ok-2", dies_in=dies_in)
    outcome = outcomes["panic-x"]
    assert (outcome.lost.reason, outcome.lost.step, outcome.attempts) == ("panic", 1, 1)
    assert [each.step for each in outcome.observations] == [0]
    assert asked == [("panic-x", "1.2.3-fake", 1)], "and only of a death"
    assert (outcomes["exit-x"].lost.reason, outcomes["exit-x"].attempts) == ("vanished", 2)
    assert whole(outcomes["ok-1"])
    assert whole(outcomes["ok-2"])


def test_a_death_elsewhere_is_tried_again(run):
    outcome = run("panic-x", dies_in=lambda _name, _ready, step: step != 1)["panic-x"]
    assert (outcome.lost.reason, outcome.lost.step, outcome.attempts) == ("panic", 1, 2)
    assert outcome.observations == ()


def test_a_hang_elsewhere_is_tried_again(run, monkeypatch):
    monkeypatch.setattr(supervise, "FORETOLD_LIMIT_S", 0.1)
    outcome = run("hang-x", step_limit_s=1.0, hangs_in=lambda _name, _ready: 0)["hang-x"]
    assert (outcome.lost.reason, outcome.lost.step, outcome.attempts) == ("hang", 1, 2)
    assert outcome.observations == ()


def test_the_step_that_could_not_be_carried_out_is_told(run):
    assert [(each.fault, each.step) for each in run("fault-x", "ok-1").values()] == [
        ("no such device {x}", 1),
        ("", None),
    ]


def test_a_guest_whose_results_are_removed_is_lost(run, tmp_path):
    """It writes on into a file that nobody else sees: its time limit need not be waited for."""

    def remove(event):
        if isinstance(event, StepObserved) and event.scenario == "hang-x":
            shutil.rmtree(tmp_path / f"results/guest-{event.guest:04}")

    outcomes = run("ok-1", "hang-x", "ok-2", on_event=remove)
    assert whole(outcomes["ok-1"])
    assert whole(outcomes["ok-2"])
    loss = outcomes["hang-x"].lost
    assert loss.reason == "vanished"
    assert loss.detail == (
        f"its journal is lost (No such file or directory); do not touch "
        f"{tmp_path}/results/guest-0002 while dmsnap runs"
    )
    assert "console of guest-0002" in loss.console


def test_results_that_are_removed_while_a_guest_boots_are_told(run):
    def remove(event):
        if isinstance(event, GuestStarted):
            shutil.rmtree(event.results)

    with pytest.raises(ProvisioningError, match="never became ready: its journal is lost"):
        run("ok-1", boot="silent", on_event=remove)


def test_a_journal_is_read_whole_in_parts(tmp_path, monkeypatch):
    """Also where no part ends with a line."""
    monkeypatch.setattr(journal, "LINE_BYTES_MAX", 100)
    records = [Begin(f"scenario-{number}", number) for number in range(50)]
    with JournalWriter(tmp_path / "journal") as writer:
        writer.write(*records)
    reader = JournalReader(tmp_path / "journal")
    assert reader.new() == records
    assert (reader.new(), reader.faults) == ([], [])


def test_a_panic_is_told_in_the_detail(run):
    assert run("panic-x")["panic-x"].lost.detail == "Kernel panic - not syncing: for a test"


def test_a_full_disk_is_told_and_the_room_of_a_lost_journal_is_used_again(
    run, tmp_path, monkeypatch
):
    results = tmp_path / "results"
    monkeypatch.setattr(supervise, "free_bytes", lambda _directory: 4096)
    outcomes = run("ok-1", "full-x", "ok-2")
    assert f"the disk of {results} is full" in outcomes["full-x"].lost.detail
    assert "No space left" in outcomes["full-x"].lost.console
    assert whole(outcomes["ok-1"])
    assert whole(outcomes["ok-2"])
    assert sorted(path.parent.name for path in results.glob("*/journal.jsonl")) == ["guest-0003"]


@pytest.mark.parametrize("kind", ["panic", "killed", "rubbish", "cut", "before", "early"])
def test_a_loss_that_is_not_the_scenarios_is_retried_and_counted(run, kind):
    name = f"{kind}-once"
    outcomes = run("ok-1", name, "ok-2")
    assert all(whole(outcome) for outcome in outcomes.values())
    assert outcomes[name].attempts == 2
    assert len(outcomes[name].losses) == 1
    assert outcomes["ok-1"].attempts == outcomes["ok-2"].attempts == 1
    # Both observations are the second guest's: nothing is patched together from two attempts.
    assert outcomes[name].observations[0].text == "guest-0002"


def test_a_retry_is_the_first_thing_a_fresh_guest_does(run):
    run("ok-1", "panic-once", "ok-2")
    shares = [event.scenarios for event in run.events if isinstance(event, GuestStarted)]
    assert shares == [("ok-1", "panic-once", "ok-2"), ("panic-once", "ok-2")]


def test_losses_in_one_guest_leave_the_others_alone(run):
    outcomes = run("panic-1", "ok-1", "killed-2", "ok-2", "ok-3", "ok-4", guests=2)
    assert {name for name, outcome in outcomes.items() if outcome.lost} == {"panic-1", "killed-2"}


def test_a_guest_with_leftovers_is_replaced_without_blame(run):
    outcomes = run("leftover-1", "ok-1", "ok-2")
    assert outcomes["leftover-1"].leftovers == ("ghost",)
    assert all(whole(outcome) and outcome.attempts == 1 for outcome in outcomes.values())
    assert outcomes["ok-1"].observations[0].text == "guest-0002"
    assert lost_guests(run.events) == []
    # What the first guest went on to do is not told either.
    assert ended(run.events) == ["leftover-1", "ok-1", "ok-2"]


def test_a_fault_of_the_scenario_is_its_result(run):
    outcome = run("fault-1", "ok-1")["fault-1"]
    assert (outcome.lost, outcome.fault) == (None, "no such device {x}")
    assert [each.step for each in outcome.observations] == [0]


def test_a_guest_that_never_becomes_ready_is_no_verdict(run, launcher):
    with pytest.raises(ProvisioningError, match="no init found") as caught:
        run("ok-1", boot="dies")
    assert "dmsnap doctor" in str(caught.value)
    assert len(launcher.guests) == 2
    assert [event.loss.reason for event in lost_guests(run.events)] == ["never ready"] * 2


def test_a_silent_boot_has_its_own_limit(run):
    with pytest.raises(ProvisioningError, match=r"not ready 0\.5 s after its start"):
        run("ok-1", boot="silent", boot_limit_s=0.5)


def test_one_failed_boot_is_forgiven(run):
    assert whole(run("ok-1", boot="dies-once")["ok-1"])


def test_a_guest_that_will_not_power_off_is_ended(run, monkeypatch):
    monkeypatch.setattr(supervise, "_POWER_OFF_LIMIT_S", 0.2)
    assert whole(run("ok-1", boot="lingers")["ok-1"])
    assert lost_guests(run.events) == []


def test_an_interrupt_ends_all_guests_and_keeps_what_is_finished(run, launcher):
    def interrupt(event):
        if isinstance(event, ScenarioEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("ok-1", "hang-1", "hang-2", "hang-3", guests=2, on_event=interrupt)
    assert launcher.left() == []
    assert whole(run.supervisor.outcomes["ok-1"])


def test_the_results_of_an_earlier_run_are_left_alone(run, tmp_path):
    run("ok-1")
    journal = tmp_path / "results/guest-0001/journal.jsonl"
    before = journal.read_bytes()
    assert whole(run("ok-1")["ok-1"])
    assert journal.read_bytes() == before


def test_a_scenario_named_twice_is_refused(run):
    with pytest.raises(BadScenario, match="ok-1"):
        run("ok-1", "ok-2", "ok-1")


def test_results_that_cannot_be_written_are_named(run, tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ProvisioningError, match="choose another"):
        run("ok-1")


# -- the keeper -------------------------------------------------------------------------------

FAMILY = (
    "import subprocess, sys, signal\n"
    "subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import signal; signal.pause()'],"
    " start_new_session=True)\n"
    "print('up', flush=True)\n"
)


def kept(tmp_path, code, mark, private=None):
    name, value = mark.split("=")
    return KeptProcess(
        [sys.executable, "-I", "-S", "-c", code],
        results=tmp_path,
        private=private,
        env={"PATH": os.defpath, name: value},
    )


def wait_until_up(tmp_path):
    """Wait, within bounds, until FAMILY is complete; no sleep decides a verdict."""
    console = tmp_path / "console.log"
    pause = threading.Event()
    for _ in range(2000):
        if console.is_file() and console.read_text() == "up\n":
            return
        pause.wait(0.01)
    raise AssertionError("the family was not complete within 20 s")


@pytest.mark.parametrize("then", ["pass", "signal.pause()"])
def test_a_family_ends_with_its_first_process(tmp_path, then):
    mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
    guest = kept(tmp_path, FAMILY + then, mark)
    if then == "signal.pause()":
        guest.end()
    else:
        os.waitid(os.P_PIDFD, guest.fileno(), os.WEXITED | os.WNOWAIT)
        assert guest.ended()
        assert guest.console_tail() == "up\n"
        guest.end()
    assert left(mark) == []


def test_a_family_ends_when_its_keeper_is_killed(tmp_path):
    mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
    private = tmp_path / "private"
    private.mkdir()
    guest = kept(tmp_path, FAMILY + "signal.pause()", mark, private)
    wait_until_up(tmp_path)
    os.kill(guest.keeper_pid, signal.SIGKILL)
    os.waitid(os.P_PIDFD, guest.fileno(), os.WEXITED | os.WNOWAIT)
    assert guest.ended()
    guest.end()
    assert left(mark) == []
    assert not private.exists()


PARENT = """
import os, pathlib, signal, sys
from harness.guest.process import KeptProcess
guest = KeptProcess([sys.executable, "-I", "-S", "-c", sys.argv[2]],
                    results=pathlib.Path(sys.argv[1]), env=dict(os.environ))
print(guest.keeper_pid, flush=True)
signal.pause()
"""


def test_a_family_ends_when_dmsnap_is_killed(tmp_path):
    mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
    name, value = mark.split("=")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path, FAMILY + "signal.pause()"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, name: value},
    ) as parent:
        assert parent.stdout
        assert parent.stdout is not None
        keeper = os.pidfd_open(int(parent.stdout.readline()))
        wait_until_up(tmp_path)
        parent.kill()
    assert select.select([keeper], [], [], 20)[0]
    os.close(keeper)
    assert left(mark) == []


def test_a_family_ends_with_dmsnap_when_its_keeper_is_stopped(tmp_path):
    """The end of dmsnap wakes the keeper, which then sees that it is alone."""
    mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
    name, value = mark.split("=")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path, FAMILY + "signal.pause()"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, name: value},
    ) as parent:
        assert parent.stdout
        number = int(parent.stdout.readline())
        keeper = os.pidfd_open(number)
        wait_until_up(tmp_path)
        os.kill(number, signal.SIGSTOP)
        parent.kill()
    try:
        assert select.select([keeper], [], [], 20)[0]
    finally:
        signal.pidfd_send_signal(keeper, signal.SIGCONT)  # where this fails, it is not left behind
        os.close(keeper)
    assert left(mark) == []


def test_a_guest_can_be_ended_when_its_keeper_is_stopped(tmp_path):
    mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
    guest = kept(tmp_path, FAMILY + "signal.pause()", mark)
    wait_until_up(tmp_path)
    os.kill(guest.keeper_pid, signal.SIGSTOP)
    guest.end()
    assert guest.console_tail() == "up\n"
    assert left(mark) == []


def test_a_talkative_console_is_bounded_and_keeps_both_ends(tmp_path):
    mark = f"DMSNAP_TEST={uuid.uuid4().hex}"
    guest = kept(
        tmp_path, "print('first')\nfor i in range(200000): print('line', i)\nprint('last')", mark
    )
    os.waitid(os.P_PIDFD, guest.fileno(), os.WEXITED | os.WNOWAIT)
    guest.end()
    text = (tmp_path / "console.log").read_text()
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert "bytes left out" in text
    assert len(text) < 700_000
    assert guest.console_tail().endswith("last\n")


def test_a_program_that_is_not_there_says_so_on_the_console(tmp_path):
    guest = KeptProcess([tmp_path / "nothing"], results=tmp_path, env={})
    os.waitid(os.P_PIDFD, guest.fileno(), os.WEXITED | os.WNOWAIT)
    assert guest.ended()
    assert "cannot start" in guest.console_tail()
    guest.end()
