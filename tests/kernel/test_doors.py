"""The doors, from outside: what a user types, with real kernels behind it.

Each test starts the command or pytest as a process of its own in an empty directory.
"""

import json
import select
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.guest.process import CONSOLE_NAME
from harness.guest.uml import UmlGuest
from harness.trace import files as traces
from harness.trace.steps import Crash
from harness.twin.snapshot import Snapshot
from harness.verdict import result as model
from harness.verdict.result import RunReport
from harness.wire.journal import JournalReader, Ready

CATALOGUE = Path(__file__).with_name("test_catalogue.py")
KERNEL = "uml-6.12"
LIMIT_S = 240
BRING_UP = ["bring_up[P]", "bring_up[PO]", "bring_up[N]"]


@pytest.fixture(scope="module")
def kernel(bootable):
    return bootable(KERNEL)


@pytest.fixture
def typed(kernel, tmp_path):
    """Run a module of Python in an empty directory; it must never show its inner life."""
    assert kernel.release

    def run(module, *words):
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_S,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def dmsnap(typed):
    return lambda *words: typed("harness.cli.main", *words)


def results(directory: Path) -> RunReport:
    return model.loads((directory / "results.json").read_bytes())


def test_run_end_to_end(dmsnap, kernel, tmp_path):
    done = dmsnap("run", "bring_up", "--kernel", KERNEL, "--seed", 11)
    assert (done.returncode, done.stderr) == (0, "")
    report = results(tmp_path / "report")
    assert [(r.scenario, r.verdict, r.seed, r.attempts) for r in report.results] == [
        (name, "same", 11, 1) for name in BRING_UP
    ]
    # Whoever says the release, it is what the guest's own uname gave.
    journals = list((tmp_path / "report/guests" / KERNEL).glob("*/journal.jsonl"))
    released = {
        record.release
        for journal in journals
        for record in JournalReader(journal).new()
        if isinstance(record, Ready)
    }
    assert released == {kernel.release} == {r.release for r in report.results}
    assert report.environment.kernels == {KERNEL: kernel.release}
    assert f"{KERNEL}: guest uml, release {kernel.release}" in done.stdout
    assert "3 same, 0 diverged" in done.stdout
    assert "bring_up ×3 same" in " ".join(done.stdout.split())
    junit = ET.parse(tmp_path / "report/junit.xml").getroot()
    cases = junit.findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == BRING_UP
    for case in cases:
        said = case.findtext("system-out", "").splitlines()
        assert {f"kernel.release: {kernel.release}", "seed: 11"} <= set(said)
    ktap = (tmp_path / "report/run.ktap").read_text().splitlines()
    assert ktap[:2] == ["KTAP version 1", "1..1"]
    assert [line for line in ktap if line.startswith("  ok ")] == [
        f"  ok {number} {name}" for number, name in enumerate(BRING_UP, 1)
    ]
    assert f"ok 1 {KERNEL}" in ktap


def test_guests_that_are_lost_on_purpose_cost_no_other_verdict(dmsnap, tmp_path):
    done = dmsnap("run", "lost", "bring_up", "-j", 2, "--step-limit", 6)
    assert done.returncode == 1
    found = {result.scenario: result for result in results(tmp_path / "report").results}
    assert {name for name, result in found.items() if result.verdict == "same"} == {*BRING_UP}
    lost = {name: result for name, result in found.items() if result.verdict == "guest lost"}
    assert {*lost} == {"lost[panic]", "lost[hang]", "lost[exit]"}
    trace = traces.loads(dmsnap("trace", "lost[panic]").stdout)
    [crash] = [at for at, step in enumerate(trace.steps) if isinstance(step, Crash)]
    for name, reason in (("panic", "panic"), ("hang", "hang"), ("exit", "vanished")):
        result = lost[f"lost[{name}]"]
        assert result.reason.startswith(f"{reason} in step {crash} (crash), line {crash + 2}: "), (
            result.reason
        )
        assert result.attempts == 2
        assert result.console
        assert f"lost[{name}]" in done.stdout
    assert "sysrq triggered crash" in lost["lost[panic]"].reason
    assert "3 same, 0 diverged, 3 guest lost" in done.stdout


@pytest.fixture
def file(dmsnap, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(dmsnap("trace", "write_part_of_chunk[P-8]").stdout)
    return path


def test_replay_on_both_sides(dmsnap, kernel, file, tmp_path):
    done = dmsnap("replay", file, "--on", "both", "--kernel", KERNEL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"write_part_of_chunk[P-8] on {KERNEL} ({kernel.release}): same\n")
    sides = [
        traces.read_observations(tmp_path / f"report/replay/{side}.jsonl")
        for side in ("kernel", "twin")
    ]
    assert [side.header.side for side in sides] == ["kernel", "twin"]
    assert sides[0].header.release == kernel.release
    steps = len(traces.read(file).steps)
    assert [len(side.observations) for side in sides] == [steps, steps]


def test_replay_tells_where_a_wrong_twin_differs(file, tmp_path, monkeypatch):
    """In this process, since the bug must be here: the product has no door for one."""
    monkeypatch.chdir(tmp_path)
    right = Snapshot.status

    def wrong(self):
        return f"{right(self)}0"

    monkeypatch.setattr(Snapshot, "status", wrong)
    done = CliRunner().invoke(main, ["replay", str(file), "--kernel", KERNEL])
    assert done.exit_code == 1, done.output
    assert "status: status of snap differs" in done.stdout
    # What it says of its store, the store does not bear out.
    assert done.stdout.endswith(": diverged, promise broken\n")


def test_a_kernel_of_ones_own(dmsnap, kernel, tmp_path):
    done = dmsnap("run", "bring_up[N]", "--kernel", kernel.program, "--modules", kernel.modules)
    assert (done.returncode, done.stderr) == (0, "")
    [result] = results(tmp_path / "report").results
    assert (result.verdict, result.release) == ("same", kernel.release)
    assert result.kernel != KERNEL


# -- pytest -------------------------------------------------------------------------------------


def test_pytest_shows_each_scenario_as_an_item(typed, kernel, tmp_path):
    done = typed(
        "pytest",
        CATALOGUE,
        "--scenario",
        "bring_up",
        "--kernel",
        KERNEL,
        "-v",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={tmp_path / 'items.xml'}",
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert items(tmp_path / "items.xml") == {
        f"test_scenario[{KERNEL}-{name}]": ("passed", kernel.release) for name in BRING_UP
    }


def test_pytest_fails_in_the_words_of_the_report(typed, tmp_path):
    done = typed(
        "pytest",
        CATALOGUE,
        "--scenario",
        "lost[exit]",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={tmp_path / 'items.xml'}",
    )
    assert done.returncode == 1
    assert f"lost[exit] on {KERNEL}" in done.stdout
    assert "vanished in step" in done.stdout
    assert [outcome for outcome, _ in items(tmp_path / "items.xml").values()] == ["failure"]


def test_pytest_refuses_a_scenario_that_is_none(typed):
    done = typed("pytest", CATALOGUE, "--scenario", "nosuch", "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no scenario matches nosuch" in done.stdout + done.stderr


def test_the_same_file_runs_directly_inside_a_guest(kernel, tmp_path):
    """A guest whose one program is pytest: no job, no agent, no journal."""
    junit = tmp_path / "items.xml"
    # The results directory comes last in a guest's argv: here it is what is not collected.
    guest = UmlGuest(
        kernel,
        python=Path(sys.executable),
        argv=[
            "-m",
            "pytest",
            str(CATALOGUE),
            "--scenario",
            "bring_up",
            "-p",
            "no:cacheprovider",
            f"--junit-xml={junit}",
            "--ignore",
        ],
    ).start(tmp_path)
    try:
        assert select.select([guest], [], [], LIMIT_S)[0], "the guest did not end in time"
        assert guest.ended()
        console = guest.console_tail()
    finally:
        guest.end()
    assert "3 passed" in console
    assert "init: the program ended with status" not in console
    assert (tmp_path / CONSOLE_NAME).exists()
    assert items(junit) == {
        f"test_scenario[here-{name}]": ("passed", kernel.release) for name in BRING_UP
    }


def items(path):
    """Item → (outcome, kernel release), as pytest's JUnit file tells."""
    found = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        outcome = [child.tag for child in case if child.tag != "properties"] or ["passed"]
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        found[case.get("name")] = (outcome[0], properties["kernel release"])
    return found


def test_results_are_plain_json(dmsnap, tmp_path):
    """For whoever reads them without dmsnap."""
    assert dmsnap("run", "bring_up[N]", "--driver", "dmsetup").returncode == 0
    document = json.loads((tmp_path / "report/results.json").read_bytes())
    assert document["dmsnap-results"] == 1
    assert [result["verdict"] for result in document["results"]] == ["same"]
