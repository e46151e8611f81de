"""Guest vagrant, with programs in place of Vagrant, ssh and the machine."""

import os
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.cli.main import main
from harness.compare.diff import Verdict
from harness.errors import ProvisioningError
from harness.guest import catalogue
from harness.guest.vagrant import Machine, VagrantGuest
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose
from harness.trace.files import Trace
from harness.wire.journal import Begin, Done, End, JournalWriter, Ready

ROOT = Path(__file__).parents[2]
SEEING_GUEST = Path(__file__).with_name("seeing_guest.py")

VAGRANT = """\
#!/bin/sh
echo "$@" >> "$HERE/said"
case $1 in
status) echo "1,dmsnap,state,$(cat "$HERE/state")" ;;
up) [ ! -e "$HERE/broken" ] || { echo "no provider"; exit 1; }; echo running > "$HERE/state" ;;
halt) echo poweroff > "$HERE/state" ;;
ssh-config) echo "Host dmsnap" ;;
esac
"""
SSH = """\
#!/bin/sh
# Options, the host, and then a command, which this machine carries out.
while [ "$1" != dmsnap ]; do shift; done
shift
[ "$1" != sudo ] || shift
[ -e "$HERE/gone" ] && { echo "Connection refused"; exit 255; }
case $* in
"uname -r") echo 6.1.0-fake ;;
sh\\ *) shift 2; exec sh "$HERE/machine/vm/agent-over-ssh" "$@" ;;
*) exec sh -c "$*" ;;
esac
"""
PYTHON = """\
#!/bin/sh
# In place of the agent: -m harness.kernel.agent RESULTS
exec {python} -P {guest} "$3"
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a Vagrantfile, and programs that play the rest."""
    program(tmp_path / "bin/vagrant", VAGRANT)
    program(tmp_path / "bin/ssh", SSH)
    program(tmp_path / "bin/rsync", "#!/bin/sh\n")
    program(
        tmp_path / "machine/vm/agent-over-ssh",
        (ROOT / "vm/agent-over-ssh")
        .read_text()
        .replace("/run/dmsnap.", f"{tmp_path}/run.")
        .replace("TMPDIR=/dev/shm", "X=1"),
    )
    program(
        tmp_path / "machine/.venv/bin/python",
        PYTHON.format(python=sys.executable, guest=SEEING_GUEST),
    )
    (tmp_path / "Vagrantfile").touch()
    (tmp_path / ".vagrant").mkdir()
    (tmp_path / "state").write_text("not_created\n")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    # What the guest's process gets of the environment is only what it needs.
    monkeypatch.setattr(
        "harness.guest.vagrant.environment",
        lambda: {name: os.environ[name] for name in ("PATH", "HERE", "PYTHONPATH")},
    )
    return tmp_path


def said(here: Path) -> list[str]:
    return (here / "said").read_text().splitlines()


def test_a_machine_that_is_down_is_brought_up(here: Path) -> None:
    told: list[str] = []
    machine = Machine(here, told.append)
    machine.up()
    assert said(here) == [
        "status --machine-readable",
        "up --no-tty --provision",
        "ssh-config dmsnap",
    ]
    assert machine.release == "6.1.0-fake"
    assert "takes minutes" in told[0]
    kernel = VagrantGuest(machine).kernel()
    assert (kernel.name, kernel.guest, str(kernel.modules)) == (
        "vagrant",
        catalogue.VAGRANT,
        "/lib/modules/6.1.0-fake",
    )


def test_a_machine_that_is_up_gets_todays_code(here: Path) -> None:
    (here / "state").write_text("running\n")
    Machine(here).up()
    assert said(here)[1:3] == ["rsync", "provision"]


def test_a_machine_that_does_not_come_up_says_why(here: Path) -> None:
    (here / "broken").touch()
    with pytest.raises(
        ProvisioningError,
        match=r"vagrant up --no-tty --provision failed in .*"
        r"\nno provider",
    ):
        Machine(here).up()


def test_a_machine_that_does_not_answer(here: Path) -> None:
    (here / "gone").touch()
    with pytest.raises(ProvisioningError, match=r"does not answer.*Connection refused.*reload"):
        Machine(here).up()


@pytest.mark.parametrize("name", ["vagrant", "ssh", "rsync"])
def test_a_program_that_is_missing(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None if program == name else program)
    with pytest.raises(ProvisioningError, match=f"^{name} is missing on this machine"):
        Machine(here).up()


def test_without_a_vagrantfile(here: Path) -> None:
    (here / "Vagrantfile").unlink()
    with pytest.raises(ProvisioningError, match="no Vagrantfile"):
        Machine(here).up()


def plan(here: Path, *names: str) -> Plan:
    machine = Machine(here)
    machine.up()
    guest = VagrantGuest(machine)
    [bring_up] = choose(["bring_up[N]"])
    traces: list[Trace] = []
    for name in names:
        trace = bring_up.trace(7)
        traces.append(
            msgspec.structs.replace(
                trace, header=msgspec.structs.replace(trace.header, scenario=name)
            )
        )
    return Plan(
        traces=tuple(traces),
        kernels=(guest.kernel(),),
        launchers={"vagrant": guest},
        directory=here / "guests",
        step_limit_s=20.0,
        boot_limit_s=20.0,
    )


def test_a_run_in_the_machine(here: Path) -> None:
    report = execute(plan(here, "ok-1", "wrong-1", "ok-2"), Reporters([]))
    assert [(result.kernel, result.verdict) for result in report.results] == [
        ("vagrant", Verdict.SAME),
        ("vagrant", Verdict.DIVERGED),
        ("vagrant", Verdict.SAME),
    ]
    assert list(here.glob("run.*")) == [], "nothing is left in the machine"
    assert "halt --force" not in said(here)


def test_a_lost_guest_costs_a_boot_and_no_scenario_but_its_own(here: Path) -> None:
    report = execute(plan(here, "ok-1", "exit-1", "ok-2"), Reporters([]))
    assert [result.verdict for result in report.results] == [
        Verdict.SAME,
        Verdict.LOST,
        Verdict.SAME,
    ]
    assert report.results[1].attempts == 2
    assert "console of exit-1" in report.results[1].console
    assert said(here).count("halt --force") == 2
    assert said(here).count("up --no-tty") == 2
    assert list(here.glob("run.*")) == []


def test_the_job_says_that_the_machine_is_marked(here: Path) -> None:
    execute(plan(here, "ok-1"), Reporters([]))
    [job] = here.glob("guests/vagrant/*/job.json")
    assert msgspec.json.decode(job.read_bytes())["here"] is True


def test_there_is_one_machine(here: Path) -> None:
    with pytest.raises(ProvisioningError, match="one guest at a time"):
        VagrantGuest(Machine(here)).check(2, here)


def test_slowness_is_measured(here: Path) -> None:
    machine = Machine(here)
    machine.up()
    assert 1.0 <= VagrantGuest(machine).slowness < 20.0


@pytest.mark.parametrize(
    ("records", "again"),
    [
        ((Done(),), False),
        ((Begin("x", 1), End("x"), Done()), False),
        ((Begin("x", 1), End("x", ("ghost",)), Done()), True),
        ((Begin("x", 1),), True),
    ],
)
def test_what_costs_a_boot(here: Path, records: tuple, again: bool) -> None:
    machine = Machine(here)
    machine.up()
    guest = VagrantGuest(machine)
    for number in (1, 2):
        results = here / f"guest-{number}"
        results.mkdir()
        (results / "job.json").write_bytes(b"{}")
        with JournalWriter(results / "journal.jsonl") as journal:
            journal.write(Ready("6.1", "#1"), *records)
        guest.start(results).end()
    assert ("halt --force" in said(here)) is again


def test_kernels_are_not_chosen_there() -> None:
    done = CliRunner().invoke(main, ["run", "--guest", "vagrant", "--kernel", "uml-6.12"])
    assert done.exit_code == 2
    assert "leave out --kernel and --modules" in done.stderr
