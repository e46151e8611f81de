"""Real guests, lost in every way: panic, hang, SIGKILL from outside.

They boot the default kernel of the catalogue, which is fetched if it is not cached; where that
cannot be done the tests fail, and say why.
"""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.guest import catalogue
from harness.guest.events import GuestReady, GuestWasLost, ScenarioBegun, StepObserved
from harness.guest.process import KeptProcess
from harness.guest.supervise import Supervisor
from harness.guest.uml import UmlGuest

AGENT = Path(__file__).with_name("losing_agent.py")
BOOT_LIMIT_S = 5.0


class Recording:
    """Starts User-mode Linux guests and remembers them."""

    slowness = 1.0

    def __init__(self, kernel):
        self._launcher = UmlGuest(kernel, python=Path(sys.executable), argv=[str(AGENT)],
                                  memory_mib=256)
        self.guests = []
        self.privates = []

    def check(self, guests, results):
        self._launcher.check(guests, results)

    def start(self, results):
        guest = self._launcher.start(results)
        assert isinstance(guest, KeptProcess)
        self.guests.append(guest)
        self.privates.append(str(guest.private))
        return guest


@pytest.fixture(scope="module")
def kernel():
    return catalogue.fetch("uml-6.12")


@pytest.fixture
def launcher(kernel):
    launcher = Recording(kernel)
    yield launcher
    for private in launcher.privates:
        nothing_is_left(private)


def processes(word):
    """Command lines on this machine that contain ``word``, as ps prints them."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,stat,args"], capture_output=True,
                            text=True, check=True, timeout=20).stdout
    return [line for line in listed.splitlines() if word in line]


def private_of(keeper):
    """The private directory of a guest: it stands in the command line of each of its processes."""
    return Path(f"/proc/{keeper}/cmdline").read_text().split("\0")[5]


def nothing_is_left(private):
    assert private.startswith("/tmp/dmsnap-")
    assert processes(private) == []
    assert not Path(private).exists()


def nothing(event):
    """Do nothing about an event."""


def run(kernel, launcher, results, names, on_event=nothing, **options):
    events = []

    def note(event):
        events.append(event)
        on_event(event)

    supervisor = Supervisor(
        kernel, results=results, python=Path(sys.executable), launcher=launcher,
        job=lambda share: json.dumps({"scenarios": share}).encode(),
        **{"guests": 2, "step_limit_s": 15, **options})
    return supervisor.run(names, note), events


def whole(outcome):
    return outcome.lost is None and [each.step for each in outcome.observations] == [0, 1]


def kernel_of(guest):
    """Process id of the kernel itself: the keeper's first child."""
    keeper = guest.keeper_pid
    return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])


def test_a_guest_boots_works_and_ends(kernel, launcher, tmp_path):
    results = tmp_path / "results, with 'spaces'"
    outcomes, events = run(kernel, launcher, results, ["ok-1", "ok-2", "ok-3"])
    assert all(whole(outcome) and outcome.attempts == 1 for outcome in outcomes.values())
    boots = [event for event in events if isinstance(event, GuestReady)]
    assert len(boots) == 2
    assert all(event.boot_s < BOOT_LIMIT_S for event in boots)
    assert {event.ready.release for event in boots} == {kernel.release}
    facts = json.loads(outcomes["ok-1"].observations[0].text)
    assert facts == {"host": "Read-only file system", "modules": ["dm-snapshot.ko"],
                     "release": kernel.release, "guest": "uml", "tmp": "/dev/shm",
                     "panic_on_oops": "1"}
    # It powered itself off; nothing had to be killed.
    assert [guest.console_tail().rstrip().splitlines()[-1] for guest in launcher.guests] == [
        "reboot: Power down"] * 2


def test_guests_lost_in_every_way(kernel, launcher, tmp_path):
    # The even ones are the first guest's, the odd ones the second's.
    names = ["ok-1", "ok-2", "panic-1", "exit-1", "ok-3", "ok-4", "hang-1", "killed-1", "ok-5"]

    def kill(event):
        if isinstance(event, StepObserved) and event.scenario == "killed-1":
            os.kill(kernel_of(launcher.guests[event.guest - 1]), signal.SIGKILL)

    outcomes, events = run(kernel, launcher, tmp_path, names, kill, step_limit_s=5)
    assert list(outcomes) == names
    assert all(whole(outcomes[name]) and outcomes[name].attempts == 1
               for name in names if name.startswith("ok"))
    lost = {name: outcome.lost for name, outcome in outcomes.items() if outcome.lost}
    assert {name: loss.reason for name, loss in lost.items()} == {
        "panic-1": "panic", "exit-1": "vanished", "hang-1": "hang", "killed-1": "vanished"}
    assert all(loss.step == 1 for loss in lost.values())
    assert all(outcomes[name].attempts == 2 for name in lost)
    assert all(outcomes[name].ready.release == kernel.release for name in lost)
    assert len([event for event in events if isinstance(event, GuestWasLost)]) == 8
    assert lost["panic-1"].detail == "Kernel panic - not syncing: sysrq triggered crash"
    assert "Kernel panic" in lost["panic-1"].log.read_text()
    assert "status 4" in lost["exit-1"].console


def test_a_guest_killed_once_costs_an_attempt_and_no_verdict(kernel, launcher, tmp_path):
    names = ["ok-1", "killed-1", "ok-2"]

    def kill(event):
        if isinstance(event, StepObserved) and event.scenario == "killed-1":
            if event.guest == 1:
                os.kill(kernel_of(launcher.guests[0]), signal.SIGKILL)
            else:
                (tmp_path / "spared").touch()

    outcomes, events = run(kernel, launcher, tmp_path, names, kill, guests=1)
    assert all(whole(outcome) for outcome in outcomes.values())
    assert [outcomes[name].attempts for name in names] == [1, 2, 1]
    assert [loss.reason for loss in outcomes["killed-1"].losses] == ["vanished"]
    begun = [event.attempt for event in events
             if isinstance(event, ScenarioBegun) and event.scenario == "killed-1"]
    assert begun == [1, 2]


def test_an_interrupt_leaves_no_process(kernel, launcher, tmp_path):
    def interrupt(event):
        if isinstance(event, StepObserved) and event.scenario == "hang-1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(kernel, launcher, tmp_path, ["ok-1", "ok-2", "hang-1", "ok-3"], interrupt)
    assert len(launcher.privates) == 2


SUPERVISING = """
import json, pathlib, sys
from harness.guest import catalogue
from harness.guest.events import StepObserved
from harness.guest.supervise import Supervisor

def tell(event):
    if isinstance(event, StepObserved):
        print(event.scenario, flush=True)

Supervisor(catalogue.get(sys.argv[1]), guests=1, results=pathlib.Path(sys.argv[2]),
           python=pathlib.Path(sys.executable), argv=[sys.argv[3]], memory_mib=256,
           job=lambda names: json.dumps({"scenarios": names}).encode()).run(["hang-1"], tell)
"""


def test_no_process_outlives_a_supervisor_that_was_killed(kernel, tmp_path):
    with subprocess.Popen(
            [sys.executable, "-c", SUPERVISING, kernel.name, tmp_path, AGENT],
            stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "hang-1\n"
        keepers = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(keepers) == 1
        private, end = private_of(keepers[0]), os.pidfd_open(int(keepers[0]))
        assert len(processes(private)) > 1
        parent.kill()
    assert select.select([end], [], [], 20)[0], "the keeper did not end within 20 s"
    os.close(end)
    nothing_is_left(private)
