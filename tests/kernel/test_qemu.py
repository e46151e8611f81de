"""QEMU guests: a distribution's kernel is compared like any other, and is lost like any other.

They boot Debian 12's own kernel, which is fetched if it is not cached.  Only where QEMU is not
installed they are skipped: dmsnap works without it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ProvisioningError
from harness.guest import catalogue, initramfs, qemu, supervise
from harness.guest.catalogue import Kernel
from harness.guest.events import GuestReady, StepObserved
from harness.guest.qemu import QemuGuest
from harness.guest.supervise import Supervisor
from harness.report.model import Reporters
from harness.run import Plan, execute
from harness.scenarios.registry import choose

pytestmark = pytest.mark.skipif(
    not qemu.installed(),
    reason=f"QEMU is not installed; type: {initramfs.INSTALL}")

KERNEL = "deb-6.1"
AGENT = Path(__file__).with_name("losing_agent.py")
SCENARIOS = ("bring_up[P]", "ctr_features", "overflow_in_flight[P]", "merge_overflows_another[PO]",
             "blocks_of_4096_io", "every_status_line[invalid]", "largest_chunk")


class Recording:
    """Starts QEMU guests and remembers them."""

    def __init__(self, kernel):
        self._launcher = QemuGuest(kernel, python=Path(sys.executable), argv=[str(AGENT)],
                                   memory_mib=384)
        self.guests = []
        self.privates = []

    @property
    def slowness(self):
        return self._launcher.slowness

    def check(self, guests, results):
        self._launcher.check(guests, results)

    def start(self, results):
        guest = self._launcher.start(results)
        self.guests.append(guest)
        self.privates.append(guest.private)
        return guest


@pytest.fixture(scope="module")
def kernel():
    return catalogue.fetch(KERNEL)


@pytest.fixture
def once(monkeypatch):
    """One attempt each: what a second one does is told elsewhere, and boots cost time."""
    monkeypatch.setattr(supervise, "ATTEMPTS_MAX", 1)
    monkeypatch.setattr(supervise, "BOOTS_MAX", 1)


def nothing_is_left(launcher):
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True,
                            check=True, timeout=20).stdout
    mounts = Path("/proc/mounts").read_text()
    assert launcher.privates
    for private in launcher.privates:
        assert str(private) not in listed
        assert str(private) not in mounts
        assert not private.exists()


def run(kernel, results, names, on_event=lambda _event: None, **options):
    launcher = options.setdefault("launcher", Recording(kernel))
    events = []

    def note(event):
        events.append(event)
        on_event(event)

    supervisor = Supervisor(
        kernel, results=results, python=Path(sys.executable),
        job=lambda share: json.dumps({"scenarios": share}).encode(), **{"guests": 1, **options})
    try:
        return supervisor.run(names, note), events
    finally:
        nothing_is_left(launcher)


def test_a_distribution_s_kernel_is_the_same(kernel, tmp_path):
    traces = tuple(scenario.trace(1) for scenario in choose(SCENARIOS))
    report = execute(Plan(traces=traces, kernels=(kernel,), jobs=2, directory=tmp_path),
                     Reporters([]))
    assert {result.scenario: result.verdict for result in report.results} == dict.fromkeys(
        SCENARIOS, "same")
    assert {result.release for result in report.results} == {kernel.release}


@pytest.mark.usefixtures("once")
def test_guests_lost_in_every_way(kernel, tmp_path):
    launcher = Recording(kernel)
    names = ["ok-1", "panic-1", "ok-2", "hang-1", "killed-1"]

    def kill(event):
        if isinstance(event, StepObserved) and event.scenario == "killed-1":
            keeper = launcher.guests[-1].keeper_pid
            child = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0]
            os.kill(int(child), signal.SIGKILL)

    results = tmp_path / "results, with 'spaces'"
    outcomes, events = run(kernel, results, names, kill, launcher=launcher, step_limit_s=1.5)
    assert {name: outcome.lost.reason for name, outcome in outcomes.items() if outcome.lost} == {
        "panic-1": "panic", "hang-1": "hang", "killed-1": "vanished"}
    assert outcomes["panic-1"].lost.detail == "Kernel panic - not syncing: sysrq triggered crash"
    assert all(outcomes[name].lost is None for name in ("ok-1", "ok-2"))
    boots = [event for event in events if isinstance(event, GuestReady)]
    assert {event.ready.release for event in boots} == {kernel.release}
    facts = json.loads(outcomes["ok-1"].observations[0].text)
    assert facts == {"host": "Read-only file system", "modules": ["dm-snapshot.ko"],
                     "release": kernel.release, "guest": "qemu", "tmp": "/dev/shm",
                     "panic_on_oops": "1"}


def never_ready(kernel, tmp_path, **options):
    with pytest.raises(ProvisioningError, match="never became ready") as caught:
        run(kernel, tmp_path / "results", ["ok-1"], **options)
    return str(caught.value)


@pytest.mark.usefixtures("once")
def test_a_kernel_that_is_none_is_told(kernel, tmp_path):
    rubbish = tmp_path / "bzImage"
    rubbish.write_bytes(b"no kernel " * 1000)
    own = Kernel("rubbish", rubbish, kernel.modules, guest="qemu")
    assert "linux kernel too old to load a ram disk" in never_ready(own, tmp_path)


@pytest.mark.usefixtures("once")
def test_an_image_that_never_says_a_word_ends_at_its_limit(kernel, tmp_path):
    """Its first instruction jumps to itself."""
    silent = tmp_path / "bzImage"
    image = kernel.program.read_bytes()
    silent.write_bytes(image[:0x200] + b"\xeb\xfe" + image[0x202:])
    own = Kernel("silent", silent, kernel.modules, guest="qemu")
    assert "not ready" in never_ready(own, tmp_path, boot_limit_s=0.5)


@pytest.mark.usefixtures("once")
def test_a_guest_that_cannot_reach_the_root_says_so(kernel, tmp_path):
    modules = tmp_path / "modules"
    shutil.copytree(kernel.modules, modules)
    next(modules.rglob("9p.ko")).unlink()
    own = Kernel("no 9p", kernel.program, modules, guest="qemu")
    assert "cannot mount the host's file system" in never_ready(own, tmp_path)


@pytest.mark.usefixtures("once")
def test_a_guest_without_the_module_says_so(kernel, tmp_path):
    modules = tmp_path / "modules"
    shutil.copytree(kernel.modules, modules)
    next(modules.rglob("dm-snapshot.ko")).unlink()
    own = Kernel("no module", kernel.program, modules, guest="qemu")
    trace = choose(["bring_up[P]"])[0].trace(1)
    with pytest.raises(ProvisioningError, match=r"module dm-snapshot is neither in this kernel"):
        execute(Plan(traces=(trace,), kernels=(own,), jobs=1, directory=tmp_path / "guests"),
                Reporters([]))
