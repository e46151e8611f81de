"""Real guests of both kinds, lost in every way.

A guest never boots, boots without the module, loses its disk, panics, hangs, or answers rubbish.
Each costs its own scenario and no other, ends within its time limit, is told with its cause, and
leaves nothing behind on the host.

They boot Debian's kernels, which are fetched if they are not cached; where that cannot be done
the tests fail, and say why.  Those in QEMU are skipped where it is not installed: dmsnap works
without it.
"""

import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.compare.diff import Verdict
from harness.errors import ProvisioningError
from harness.guest import catalogue, qemu, supervise
from harness.guest.catalogue import Kernel
from harness.guest.events import Event, GuestReady, GuestWasLost, ScenarioBegun, StepObserved
from harness.guest.fetch import initramfs
from harness.guest.host_root import AGENT
from harness.guest.process import KeptProcess
from harness.guest.qemu import QemuGuest
from harness.guest.supervise import Supervisor
from harness.guest.uml import UmlGuest
from harness.kernel.drivers.driver import UUID_PREFIX
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose
from harness.verdict.judge import judge

UML, QEMU = "uml-6.12", "deb-6.1"
LOSING_AGENT = Path(__file__).with_name("losing_agent.py")
BOOT_LIMIT_S = 5.0
STEP_LIMIT_S = {catalogue.UML: 5.0, catalogue.QEMU: 2.0}
"""Those of QEMU are stretched by how slow it is."""
END_LIMIT_S = 20.0
"""What it may take to find out that a guest is over its limit, and to end it."""


# -- nothing is left on the host --------------------------------------------------------------


def family(process):
    """A process and all below it, each with its start time: a number may be given again."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return set()
    below = (family(int(child)) for child in children)
    return {(process, stat.rpartition(")")[2].split()[19])}.union(*below)


def processes(word):
    """Command lines on this machine that contain ``word``, as ps prints them."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,stat,args"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    ).stdout
    return [line for line in listed.splitlines() if word in line]


def descriptors():
    """Pipes and processes that we hold open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(path.readlink()))
        except OSError:  # that of the directory itself
            continue
    return {name for name in found if name.startswith(("pipe:", "anon_inode:[pidfd]"))}


def texts(pattern):
    return [path.read_text() for path in Path("/sys/block").glob(pattern)]


def nothing_is_left(private, results=None):
    """No process, directory, mount or block device of a guest is on this machine."""
    assert private.startswith("/tmp/dmsnap-")
    places = [private, *([str(results)] if results else [])]
    assert processes(private) == []
    assert not Path(private).exists()
    mounts = Path("/proc/self/mountinfo").read_text().replace("\\040", " ")
    loops = texts("loop*/loop/backing_file")
    assert not [place for place in places for text in (mounts, *loops) if place in text]
    assert not [uuid for uuid in texts("dm-*/dm/uuid") if uuid.startswith(UUID_PREFIX)]


class LinkedGuest(UmlGuest):
    """A User-mode Linux that reaches its root through a link, which can go away."""

    root: Path | None = None

    def command(self, private):
        if self.root is None:
            return super().command(private)
        return [
            f"rootflags={self.root}/" if word == "rootflags=/" else word
            for word in super().command(private)
        ]


class Recording:
    """Starts guests and remembers them.

    Attributes:
        kernel: what is booted.
        root: where a User-mode Linux finds its root; a link to /.
    """

    def __init__(self, kernel, directory, argv=None):
        # What stands there is seen in the cage: the link, and what the tests put beside it.
        own = argv is None
        argv = argv or (str(LOSING_AGENT), str(directory))
        options = {"python": Path(sys.executable), "argv": argv}
        self.root = directory / "root"
        self._launcher: QemuGuest | LinkedGuest
        if kernel.guest == catalogue.QEMU:
            self._launcher = QemuGuest(kernel, memory_mib=384, **options)
        else:
            self._launcher = LinkedGuest(kernel, memory_mib=256, **options)
        if own and isinstance(self._launcher, LinkedGuest):
            self._launcher.root = self.root
        self.guests = []
        self.privates = []
        self._seen = set()
        self._results = []
        self._descriptors = descriptors()

    @property
    def slowness(self):
        return self._launcher.slowness

    @property
    def kernel(self):
        return self._launcher.kernel

    @kernel.setter
    def kernel(self, kernel):
        self._launcher.kernel = kernel

    def check(self, guests, results):
        self._launcher.check(guests, results)

    def start(self, results):
        guest = self._launcher.start(results)
        assert isinstance(guest, KeptProcess)
        self.guests.append(guest)
        self.privates.append(str(guest.private))
        self._results.append(results)
        self.look()
        return guest

    def look(self):
        """Remember every process that the guests consist of now."""
        for guest in self.guests:
            if guest.fileno() >= 0:
                self._seen |= family(guest.keeper_pid)

    def nothing_is_left(self):
        assert self.privates
        for private, results in zip(self.privates, self._results, strict=True):
            nothing_is_left(private, results)
        assert len(self._seen) >= len(self.guests)
        assert [seen for seen in self._seen if seen in family(seen[0])] == []
        assert descriptors() <= self._descriptors


# -- running ----------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        UML,
        pytest.param(
            QEMU,
            marks=pytest.mark.skipif(
                not qemu.installed(), reason=f"QEMU is not installed; type: {initramfs.INSTALL}"
            ),
        ),
    ],
)
def kernel(request, bootable):
    return bootable(request.param)


@pytest.fixture(scope="module")
def uml(bootable):
    return bootable(UML)


@pytest.fixture
def once(monkeypatch):
    """One attempt each: what a second one does is told elsewhere, and boots cost time."""
    monkeypatch.setattr(supervise, "ATTEMPTS_MAX", 1)
    monkeypatch.setattr(supervise, "BOOTS_MAX", 1)


@pytest.fixture
def recording(tmp_path):
    """Makes launchers, and sees that nothing is left of their guests."""
    made = []

    def make(kernel, **options):
        made.append(Recording(kernel, tmp_path, **options))
        made[-1].root.symlink_to("/")
        return made[-1]

    yield make
    for launcher in made:
        launcher.nothing_is_left()


def nothing(event):
    """Do nothing about an event."""


def run(kernel, launcher, results, names, on_event=nothing, **options):
    """Run scenarios of the losing agent; outcomes, events, and the times of these."""
    limit_s = options.setdefault("step_limit_s", STEP_LIMIT_S[kernel.guest])
    events: list[Event] = []
    heard: dict[int, float] = {}

    def note(event):
        launcher.look()
        now = time.monotonic()
        if isinstance(event, GuestWasLost) and event.scenario is not None:
            silent_s = now - heard[event.loss.guest]
            assert silent_s < limit_s * launcher.slowness + END_LIMIT_S
        elif isinstance(event, (GuestReady, ScenarioBegun, StepObserved)):
            heard[event.guest] = now
        events.append(event)
        on_event(event)

    supervisor = Supervisor(
        kernel,
        results=results,
        python=Path(sys.executable),
        launcher=launcher,
        job=lambda share: json.dumps({"scenarios": share}).encode(),
        **{"guests": 1, "steps": dict.fromkeys(names, 2), **options},
    )
    return supervisor.run(names, note), events


def whole(outcome):
    return outcome.lost is None and [each.step for each in outcome.observations] == [0, 1]


def check_losses(kernel, outcomes, lost):
    """See that the scenarios in ``lost`` went as it says, and all others to their end.

    Args:
        lost: name → (reason, what is told of it).
    """
    trace = choose(["bring_up[P]"])[0].trace()
    reasons = {name: outcome.lost.reason for name, outcome in outcomes.items() if outcome.lost}
    assert reasons == {name: reason for name, (reason, _) in lost.items()}
    for name, outcome in outcomes.items():
        assert outcome.attempts == 1
        if name not in lost:
            assert whole(outcome)
            continue
        reason, told = lost[name]
        assert outcome.lost.step == 1
        assert told in outcome.lost.detail + outcome.lost.console
        assert outcome.ready.release == kernel.release
        result, _ = judge(trace, outcome, kernel.name)
        assert result.verdict is Verdict.LOST
        assert result.reason.startswith(f"{reason} in step 1 ")


def kernel_of(guest):
    """Process id of the kernel itself: the keeper's first child."""
    keeper = guest.keeper_pid
    return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])


# -- it works ---------------------------------------------------------------------------------


def test_a_guest_boots_works_and_ends(kernel, recording, tmp_path):
    launcher = recording(kernel)
    results = tmp_path / "results, with 'spaces'"
    outcomes, events = run(kernel, launcher, results, ["ok-1", "ok-2", "ok-3"], guests=2)
    check_losses(kernel, outcomes, {})
    boots = [event for event in events if isinstance(event, GuestReady)]
    assert len(boots) == 2
    assert all(event.boot_s < BOOT_LIMIT_S * launcher.slowness for event in boots)
    assert {event.ready.release for event in boots} == {kernel.release}
    facts = json.loads(outcomes["ok-1"].observations[0].text)
    assert facts == {
        "host": "Read-only file system",
        "modules": ["dm-snapshot.ko"],
        "release": kernel.release,
        "guest": kernel.guest,
        "tmp": "/dev/shm",
        "panic_on_oops": "1",
    }
    # It powered itself off; nothing had to be killed.
    assert all(
        "reboot: Power down" in guest.console_tail().rstrip().splitlines()[-1]
        for guest in launcher.guests
    )


# -- it never boots ---------------------------------------------------------------------------


def entry_offset(image):
    """Where in a kernel's file its first instruction is."""
    if image[:4] != b"\x7fELF":
        return 0x200  # Documentation/arch/x86/boot.rst
    entry, headers = struct.unpack_from("<QQ", image, 24)
    size, count = struct.unpack_from("<HH", image, 54)
    for at in range(headers, headers + size * count, size):
        kind, _, offset, start, _, length = struct.unpack_from("<IIQQQQ", image, at)
        if kind == 1 and start <= entry < start + length:
            return entry - start + offset
    raise AssertionError("the kernel has no entry")


def no_kernel(kernel, directory):
    program = directory / "program"
    program.write_bytes(b"no kernel " * 1000)
    program.chmod(0o755)
    return program, kernel.modules


def silent(kernel, directory):
    """Its first instruction jumps to itself."""
    program = directory / "program"
    image = bytearray(kernel.program.read_bytes())
    at = entry_offset(image)
    image[at : at + 2] = b"\xeb\xfe"
    program.write_bytes(image)
    program.chmod(0o755)
    return program, kernel.modules


def no_root(kernel, directory):
    (directory / "root").unlink()  # where a User-mode Linux looks for it
    return kernel.program, modules_without(kernel, "9p.ko", directory)


def modules_without(kernel, name, directory):
    modules = directory / "modules"
    shutil.copytree(kernel.modules, modules)
    for path in modules.rglob(name):
        path.unlink()
    return modules


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            no_kernel,
            {
                catalogue.UML: "Exec format error",
                catalogue.QEMU: "linux kernel too old to load a ram disk",
            },
        ),
        (
            silent,
            {catalogue.UML: "not ready 1 s after its start", catalogue.QEMU: " s after its start"},
        ),
        (
            no_root,
            {
                catalogue.UML: "Unable to mount root fs",
                catalogue.QEMU: "cannot mount the host's file system",
            },
        ),
    ],
)
def test_a_guest_that_never_boots(kernel, recording, tmp_path, monkeypatch, spoil, told):
    # It is proven to boot, and does so no more.
    monkeypatch.setattr(UmlGuest, "prove", lambda _guest: "boots")
    launcher = recording(kernel)
    program, modules = spoil(kernel, tmp_path)
    launcher.kernel = Kernel("own", program, modules, guest=kernel.guest)
    limits = {"boot_limit_s": 1.0} if spoil is silent else {}
    with pytest.raises(ProvisioningError, match="guests in a row never became ready") as caught:
        run(kernel, launcher, tmp_path / "results", ["ok-1"], **limits)
    assert told[kernel.guest] in str(caught.value)
    assert "`dmsnap doctor` checks" in str(caught.value)


@pytest.mark.usefixtures("once")
def test_a_guest_without_the_module(kernel, recording, tmp_path):
    own = Kernel(
        "no module",
        kernel.program,
        modules_without(kernel, "dm-snapshot.ko*", tmp_path),
        guest=kernel.guest,
    )
    launcher = recording(own, argv=AGENT)
    trace = choose(["bring_up[P]"])[0].trace(1)
    with pytest.raises(
        ProvisioningError,
        match=r"module dm-snapshot is neither in this kernel .*"
        r"give the directory of its modules \(--modules\)",
    ):
        execute(
            Plan(
                traces=(trace,),
                kernels=(own,),
                jobs=1,
                directory=tmp_path / "guests",
                launchers={own.name: launcher},
            ),
            Reporters([]),
        )


# -- it boots, and is lost then ---------------------------------------------------------------


@pytest.mark.usefixtures("once")
def test_a_guest_that_loses_its_disk(kernel, recording, tmp_path):
    """Root: a link of the host, or a device.  Results: the host's directory, or a device."""
    launcher = recording(kernel)

    def take_away(event):
        if isinstance(event, StepObserved) and event.observation.step == 0:
            if event.scenario == "rootless-1":
                launcher.root.unlink()
            elif event.scenario == "removed-1":
                shutil.rmtree(tmp_path / f"guests/guest-{event.guest:04}")
        elif isinstance(event, GuestWasLost):
            launcher.root.unlink(missing_ok=True)
            launcher.root.symlink_to("/")

    removed = ("vanished", "its journal is lost (No such file or directory); do not touch ")
    lost = {
        catalogue.UML: {
            "rootless-1": ("vanished", "No such file or directory: '/'"),
            "removed-1": removed,
        },
        catalogue.QEMU: {
            "rootless-1": ("hang", "no progress within"),
            "removed-1": removed,
            "mute-1": ("hang", "no progress within"),
        },
    }[kernel.guest]
    names = ["ok-1", *(name for each in lost for name in (each, f"ok-after-{each}"))]
    outcomes, _ = run(kernel, launcher, tmp_path / "guests", names, take_away)
    check_losses(kernel, outcomes, lost)


@pytest.mark.usefixtures("once")
def test_results_that_are_removed_as_a_whole(uml, recording, tmp_path):
    """There is no place for another guest: the run ends, and says so."""

    def take_away(event):
        if isinstance(event, StepObserved) and event.scenario == "removed-1":
            shutil.rmtree(tmp_path / "guests")

    with pytest.raises(ProvisioningError, match="free space or choose another"):
        run(uml, recording(uml), tmp_path / "guests", ["removed-1", "ok-1"], take_away)


@pytest.mark.usefixtures("once")
def test_a_guest_that_panics_or_ends(kernel, recording, tmp_path):
    launcher = recording(kernel)

    def kill(event):
        if isinstance(event, StepObserved) and event.scenario == "killed-1":
            os.kill(kernel_of(launcher.guests[event.guest - 1]), signal.SIGKILL)

    lost = {
        "panic-1": ("panic", "Kernel panic - not syncing: sysrq triggered crash"),
        "exit-1": ("vanished", "status 4"),
        "killed-1": ("vanished", "its console may say why"),
    }
    outcomes, _ = run(
        kernel, launcher, tmp_path, ["panic-1", "exit-1", "ok-1", "killed-1"], kill, guests=2
    )
    check_losses(kernel, outcomes, lost)
    assert outcomes["panic-1"].lost.detail == lost["panic-1"][1]
    assert lost["panic-1"][1] in outcomes["panic-1"].lost.log.read_text()


@pytest.mark.usefixtures("once")
def test_a_guest_that_hangs(kernel, recording, tmp_path):
    """In an uninterruptible sleep, which SIGKILL does not end; or without ever sleeping."""
    names = ["stuck-1", "hang-1", "ok-1", "ok-2"]
    outcomes, _ = run(kernel, recording(kernel), tmp_path, names, guests=2)
    check_losses(
        kernel,
        outcomes,
        {"stuck-1": ("hang", "after SIGKILL in state D"), "hang-1": ("hang", "--step-limit")},
    )


@pytest.mark.usefixtures("once")
def test_a_guest_that_answers_rubbish(kernel, recording, tmp_path):
    lost = {
        "rubbish-bytes": ("rubbish", "no journal"),
        "rubbish-half": ("rubbish", "unreadable record"),
        "rubbish-latin1": ("rubbish", "can't decode byte 0xe9"),
        "rubbish-step": ("rubbish", "step 7 observed and not started"),
        "rubbish-name": ("rubbish", "another ended within rubbish-name"),
        "cut-half": ("vanished", "ended before its work was done"),
    }
    outcomes, _ = run(kernel, recording(kernel), tmp_path, [*lost, "ok-1", "ok-2"], guests=2)
    check_losses(kernel, outcomes, lost)


def test_a_guest_killed_once_costs_an_attempt_and_no_verdict(uml, recording, tmp_path):
    launcher = recording(uml)
    names = ["ok-1", "killed-1", "ok-2"]

    def kill(event):
        if isinstance(event, StepObserved) and event.scenario == "killed-1":
            if event.guest == 1:
                os.kill(kernel_of(launcher.guests[0]), signal.SIGKILL)
            else:
                (tmp_path / "spared").touch()

    outcomes, events = run(uml, launcher, tmp_path, names, kill)
    assert all(whole(outcome) for outcome in outcomes.values())
    assert [outcomes[name].attempts for name in names] == [1, 2, 1]
    assert [loss.reason for loss in outcomes["killed-1"].losses] == ["vanished"]
    begun = [
        event.attempt
        for event in events
        if isinstance(event, ScenarioBegun) and event.scenario == "killed-1"
    ]
    assert begun == [1, 2]


# -- dmsnap itself ends -----------------------------------------------------------------------


def test_an_interrupt_leaves_no_process(uml, recording, tmp_path):
    launcher = recording(uml)

    def interrupt(event):
        if isinstance(event, StepObserved) and event.scenario == "hang-1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(uml, launcher, tmp_path, ["ok-1", "ok-2", "hang-1", "ok-3"], interrupt, guests=2)
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


def private_of(keeper):
    """The private directory of a guest: it stands in the command line of each of its processes."""
    return Path(f"/proc/{keeper}/cmdline").read_text().split("\0")[5]


def test_no_process_outlives_a_supervisor_that_was_killed(uml, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISING, uml.name, tmp_path, LOSING_AGENT],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "hang-1\n"
        keepers = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(keepers) == 1
        private, end = private_of(keepers[0]), os.pidfd_open(int(keepers[0]))
        assert len(processes(private)) > 1
        parent.kill()
    assert select.select([end], [], [], 20)[0], "the keeper did not end within 20 s"
    os.close(end)
    nothing_is_left(private)
