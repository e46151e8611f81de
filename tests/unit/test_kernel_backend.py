"""The kernel backend, its disks, guard and session, against a device-mapper of straw."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from harness.errors import (
    BadScenario,
    ProvisioningError,
    UnsafeMachine,
    Unsupported,
    WitnessesDisagree,
)
from harness.kernel import agent, backend, blockio, machine, modules, removal, session
from harness.kernel.disks import disks
from harness.kernel.drivers.driver import Driver, Info, Line
from harness.kernel.kmsg import KernelLog
from harness.trace import observations, steps
from harness.trace.observations import Observation
from harness.trace.steps import TargetLine
from harness.wire import job
from harness.wire.journal import Begin, End, JournalReader, JournalWriter, Observed, Started


class Straw:
    """Devices that hold each other open; only what removal needs."""

    label = "straw"

    def __init__(self, uses, suspended=(), stuck=()):
        self.uses = {name: list(below) for name, below in uses.items()}
        self.suspended = set(suspended)
        self.stuck = set(stuck)
        self.calls = []

    def survey(self, names):
        return {
            name: Info(
                name,
                f"DMSNAP-{name}",
                "254:0",
                self.open(name),
                0,
                name in self.suspended,
                False,
                "",
                "0 8 linear 1:0 0",
                None,
            )
            for name in names
            if name in self.uses
        }

    def open(self, name):
        return sum(name in below for below in self.uses.values()) + (name in self.stuck)

    def remove(self, name):
        self.calls.append(f"remove {name}")
        if self.open(name):
            raise OSError(errno.EBUSY, "busy")
        del self.uses[name]

    def load(self, name, lines):
        self.calls.append(f"load {name} {lines[0].type}")
        self.uses[name] = []

    def clear(self, name):
        self.calls.append(f"clear {name}")

    def suspend(self, name, **_):
        self.suspended.add(name)

    def resume(self, name):
        self.calls.append(f"resume {name}")
        self.suspended.discard(name)


def removed(straw, names):
    return removal.remove_all(cast("Driver", straw), names)


def test_devices_go_away_users_first():
    straw = Straw({"base": [], "top": ["base"], "middle": ["base"], "roof": ["top", "middle"]})
    assert removed(straw, ["base", "top", "middle", "roof"]) == []
    assert not straw.uses


def test_suspended_devices_below_others_are_woken_first():
    straw = Straw({"base": [], "top": ["base"]}, suspended=["base", "top"])
    assert removed(straw, ["base", "top"]) == []
    assert straw.calls[:2] == ["clear base", "resume base"]
    assert "resume top" not in straw.calls


def test_devices_that_hold_each_other_get_a_table_of_errors():
    straw = Straw({"a": ["b"], "b": ["a"]})
    assert removed(straw, ["a", "b"]) == []
    assert "load a error" in straw.calls


def test_what_will_not_go_away_is_named(monkeypatch):
    monkeypatch.setattr(removal, "_PATIENCE_S", 0.05)
    straw = Straw({"a": [], "b": []}, stuck=["a"])
    (left,) = removed(straw, ["a", "b"])
    assert left.startswith("a (open 1")


def test_foreign_devices_are_not_touched():
    straw = Straw({"a": []})
    foreign = Info("a", "LVM-x", "254:0", 0, 0, False, False, "", "", None)
    straw.survey = lambda _: {"a": foreign}  # type: ignore[method-assign]  # just this once
    assert removed(straw, ["a"]) == []
    assert straw.calls == []


def test_disks_follow_each_other_aligned():
    allocator = disks.Allocator(10_000)
    assert [allocator.take(n) for n in (1, 2048, 2049, 8)] == [0, 2048, 4096, 8192]
    with pytest.raises(BadScenario, match="make them smaller"):
        allocator.take(4096)
    with pytest.raises(BadScenario):
        disks.Allocator(100).take(101)
    allocator.reset()
    assert allocator.take(10_000) == 0


def test_lines_carry_paths():
    line = TargetLine(0, 8, "snapshot", "{org} {cow.1} P 8")
    assert backend.line_of(line) == Line(0, 8, "snapshot", "/dev/mapper/org /dev/mapper/cow.1 P 8")


def test_states_carry_names():
    info = Info(
        "s", "DMSNAP-s", "254:3", 1, 2, True, False, "0 8 linear ", "0 8 linear 254:0 0", None
    )
    assert backend.state_of(info, {"254:0": "org"}) == observations.DeviceState(
        status="0 8 linear ", table="0 8 linear {org} 0", suspended=True, event=2, open=1
    )


def test_requests_on_a_file(tmp_path):
    """O_DIRECT works on most file systems; the short ends of a device are only had on one."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * 512))
    block = blockio.BlockIO()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("no O_DIRECT here")
    block.write(str(path), 8, 8, backend.literal(b"x" * 4096, 8))
    assert path.read_bytes()[8 * 512 : 16 * 512] == b"x" * 4096
    runs, fault = block.read(str(path), 1, 0, 64)
    assert fault is None
    assert [run.count for run in runs] == [8, 8, 48]
    assert block.read(str(path), 1, 56, 16)[0] == (observations.Zeros(8),)


def test_errors_have_the_names_of_the_kernel():
    assert blockio.error_name(OSError(errno.ENOSPC, "")) == "ENOSPC"
    assert blockio.error_name(OSError(errno.ENOTSUP, "")) == "EOPNOTSUPP"
    assert blockio.error_name(OSError(errno.EWOULDBLOCK, "")) == "EAGAIN"
    assert blockio.error_name(OSError(4711, "")) == "E4711"


def test_literal_source_is_cut_by_sector():
    source = backend.literal(b"a" * 512 + b"b" * 512, 100)
    assert bytes(source(101, 1)) == b"b" * 512


# -- the guard ---------------------------------------------------------------------------------


def machine_at(root, cpuinfo="Intel", cmdline="quiet"):
    (root / "proc").mkdir()
    (root / "etc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/cmdline").write_text(cmdline)
    return root


def test_uml_is_a_guest_by_nature(tmp_path):
    machine.check(root=machine_at(tmp_path, "vendor_id\t: User Mode Linux\n"))


def test_nothing_runs_on_a_machine_that_may_be_somebodys(tmp_path):
    root = machine_at(tmp_path)
    with pytest.raises(UnsafeMachine, match="--guest here"):
        machine.check(root=root)
    with pytest.raises(UnsafeMachine, match="touch /etc/dmsnap-disposable"):
        machine.check(here=True, root=root)
    (root / machine.MARKER).touch()
    with pytest.raises(UnsafeMachine):
        machine.check(root=root)
    machine.check(here=True, root=root)


def test_the_command_line_marks_a_machine_too(tmp_path):
    machine.check(here=True, root=machine_at(tmp_path, cmdline="quiet dmsnap.disposable ro"))


def test_this_machine_is_refused():
    if machine.is_uml() or machine.is_marked():
        pytest.skip("this is a guest")
    with pytest.raises(UnsafeMachine):
        machine.check(here=True)


# -- modules and parameters --------------------------------------------------------------------


def test_parameters_are_restored(tmp_path):
    (tmp_path / "snapshot_cow_threshold").write_text("2048\n")
    parameters = modules.Parameters(tmp_path)
    parameters.set("snapshot_cow_threshold", "1")
    parameters.set("snapshot_cow_threshold", "7777")
    assert parameters.names() == {"snapshot_cow_threshold": "7777"}
    assert parameters.restore() == []
    assert parameters.names() == {"snapshot_cow_threshold": "2048"}
    with pytest.raises(FileNotFoundError):
        parameters.set("nosuch", "1")


def test_compressed_modules_are_found_and_said_plainly(tmp_path):
    (tmp_path / "kernel/drivers/md").mkdir(parents=True)
    (tmp_path / "kernel/drivers/md/dm-nosuch.ko.zst").touch()
    assert modules.find(tmp_path, "dm-other") is None
    with pytest.raises(ProvisioningError, match="zstd -d"):
        modules.load(tmp_path, "dm-nosuch")


# -- the session -------------------------------------------------------------------------------


class Scripted:
    """A backend that answers everything, refuses what is bad, and may leave devices behind."""

    def __init__(self, left=()):
        self.left = list(left)
        self.seeds = []

    def begin(self, seed):
        self.seeds.append(seed)

    def execute(self, index, step):
        if isinstance(step, steps.Crash):
            raise BadScenario("no such device")
        if isinstance(step, steps.Disk):
            raise Unsupported("there is no module nbd")
        return Observation(step=index)

    def end(self):
        return self.left


def records(path):
    reader = JournalReader(path)
    found = reader.new()
    assert not reader.faults
    return found


class Loader:
    """A driver that is only asked to load."""

    label = "loader"

    def __init__(self):
        self.loaded = []

    def survey(self, _names):
        return {}

    def load(self, name, lines, **_):
        self.loaded.append((name, [line.type for line in lines]))


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("linear", False),
        ("nosuch", False),
        ("nosuch-either", False),
        ("thin", True),
        ("striped", True),
        ("Linear", True),
        ("", True),
    ],
)
def test_a_table_needs_a_target_that_this_kernel_has(tmp_path, monkeypatch, kind, refused):
    class Silent:
        all = ()

        def __getattr__(self, _name):
            return lambda *_args: {}

    monkeypatch.setattr(backend, "Disks", lambda *_: Silent())
    driver = Loader()
    kernel = backend.KernelBackend(
        cast("Driver", driver),
        tmp_path,
        log=cast("KernelLog", Silent()),
        events=Silent(),
        targets={"linear": "1.4.0"},
    )
    step = steps.Load(name="d", table=(TargetLine(0, 8, "linear", ""), TargetLine(8, 8, kind, "")))
    if refused:
        with pytest.raises(Unsupported, match=f"^this kernel has no target {kind}:"):
            kernel.execute(0, step)
    else:
        kernel.execute(0, step)
    assert driver.loaded == ([] if refused else [("d", ["linear", kind])])


GOOD = job.JobScenario("good", (steps.Create(name="a"), steps.Examine()))
LACKING = job.JobScenario("lacking", (steps.Disk(name="a", sectors=8),))
BAD = job.JobScenario("bad", (steps.Create(name="a"), steps.Crash(how="exit")), 9)


def test_each_step_is_announced_before_it_runs(tmp_path):
    with JournalWriter(tmp_path / "j") as journal:
        session.Runner(Scripted(), journal, 3).run(GOOD)
    assert records(tmp_path / "j") == [
        Begin("good", 3),
        Started(0),
        Observed(Observation(step=0)),
        Started(1),
        Observed(Observation(step=1)),
        End("good"),
    ]


def test_a_bad_scenario_ends_with_its_fault_and_its_own_seed(tmp_path):
    with JournalWriter(tmp_path / "j") as journal:
        end = session.Runner(Scripted(), journal, 3).run(BAD)
    assert end == End("bad", fault="BadScenario: no such device")
    assert records(tmp_path / "j")[0] == Begin("bad", 9)


def test_what_the_kernel_lacks_is_told_apart(tmp_path):
    with JournalWriter(tmp_path / "j") as journal:
        end = session.Runner(Scripted(), journal, 3).run(LACKING)
    assert end == End("lacking", fault="there is no module nbd", unsupported=True)


@pytest.mark.parametrize(
    ("scenario", "fault"),
    [(GOOD, "WitnessesDisagree: udevd did not tell"), (BAD, "BadScenario: no such device")],
)
def test_a_disagreement_at_the_end_is_a_fault_unless_there_is_one(tmp_path, scenario, fault):
    class Doubtful(Scripted):
        def end(self):
            raise WitnessesDisagree("udevd did not tell")

    with JournalWriter(tmp_path / "j") as journal:
        end = session.Runner(Doubtful(), journal, 3).run(scenario)
    assert end.fault.startswith(fault)
    assert end.leftovers == ()


def test_a_journal_that_cannot_be_written_is_no_fault_of_the_scenario():
    with (
        JournalWriter(Path("/dev/full")) as journal,
        pytest.raises(session.JournalLost, match="free space"),
    ):
        session.Runner(Scripted(), journal, 3).run(GOOD)


SESSION = """
import sys
from pathlib import Path
from test_kernel_backend import BAD, GOOD, Scripted
from harness.wire.journal import JournalWriter
from harness.kernel import session
with JournalWriter(Path(sys.argv[1])) as journal:
    runner = session.Runner(Scripted(sys.argv[2].split()), journal, 1)
    plugin = session.ScenarioPlugin([GOOD, BAD, GOOD], runner)
    print("status", session.run_session(plugin, sys.argv[3:], "."))
"""


@pytest.mark.parametrize(
    ("left", "arguments", "said", "ends"),
    [
        (
            "",
            [],
            "1 failed, 2 passed",
            [End("good"), End("bad", (), "BadScenario: no such device"), End("good")],
        ),
        ("", ["-k", "bad"], "1 failed", [End("bad", (), "BadScenario: no such device")]),
        ("dm-stuck", [], "1 passed", [End("good", ("dm-stuck",))]),
    ],
)  # the session ended there
def test_pytest_runs_the_scenarios(tmp_path, left, arguments, said, ends):
    """In a process of its own: a session inside a session would share pytest's state."""
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(tmp_path / "j"), left, *arguments],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said in done.stdout, done.stdout + done.stderr
    assert [r for r in records(tmp_path / "j") if isinstance(r, End)] == ends


def test_jobs_are_checked(tmp_path):
    with pytest.raises(ProvisioningError, match=r"job\.json"):
        agent.read_job(tmp_path)
    (tmp_path / agent.JOB).write_text(json.dumps({"modules": "/m", "drivers": "x"}))
    with pytest.raises(ProvisioningError, match="same version"):
        agent.read_job(tmp_path)
    (tmp_path / agent.JOB).write_text(
        json.dumps(
            {
                "modules": "/m",
                "scenarios": [{"name": "a", "steps": [{"do": "create", "name": "s"}]}],
            }
        )
    )
    assert agent.read_job(tmp_path).scenarios[0].steps == (steps.Create(name="s"),)


def test_unknown_drivers_are_named():
    with pytest.raises(ProvisioningError, match="'ioctl' or 'dmsetup'"):
        agent.make_driver("telepathy")
