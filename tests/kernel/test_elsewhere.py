"""Somebody else's cases, outside the repository: traces and Python, on two kernels, all reports."""

import subprocess
import sys
from xml.etree import ElementTree as ET

from harness.report.terminal import LINES_MAX
from harness.scenarios.elsewhere import chosen
from harness.trace import files
from harness.verdict import result as model

KERNELS = ("uml-6.12", "uml-7.2")
LIMIT_S = 300
OWN = """
from harness.scenarios.registry import scenario

@scenario()
def nightly(s):
    \"\"\"A backup.\"\"\"
    s.snapshot_and_origin("P", 8)
    s.write("org", 3, 9)
    s.read("snap", 0, 32)

@scenario()
def overwritten(s):
    \"\"\"A snapshot that is written.\"\"\"
    s.snapshot_and_origin("N", 16)
    s.write("snap", 3, 9)
"""


def test_a_folder_of_traces_and_two_scenarios_of_ones_own(bootable, tmp_path):
    for kernel in KERNELS:
        bootable(kernel)
    (tmp_path / "traces").mkdir()
    for number, trace in enumerate(chosen(["bring_up", "tail_chunk", "write_one_sector"])[:10]):
        files.write(tmp_path / "traces" / f"{number}.jsonl", trace)
    (tmp_path / "own.py").write_text(OWN)
    assert len(list((tmp_path / "traces").iterdir())) == 10

    done = subprocess.run(
        [
            *(sys.executable, "-m", "harness.cli.main", "run", "traces", "--scenarios", "own.py"),
            *(word for kernel in KERNELS for word in ("--kernel", kernel)),
            *("--shuffle", "3"),
        ],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT_S,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = model.loads((tmp_path / "report/results.json").read_bytes())
    assert {(result.verdict, result.kernel) for result in report.results} == {
        ("same", kernel) for kernel in KERNELS
    }
    names = {result.scenario for result in report.results}
    assert len(names) == 12
    assert names >= {"nightly", "overwritten", "bring_up[P]"}
    suites = ET.parse(tmp_path / "report/junit.xml").getroot()
    assert [len(suite.findall("testcase")) for suite in suites] == [12, 12]
    assert (tmp_path / "report/run.ktap").read_text().count("ok ") >= 24
    assert "24 results to come" in done.stdout
    assert LINES_MAX < 24
