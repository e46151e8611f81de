"""The workflow and the page on CI say what CI systems and dmsnap understand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.report.ledger import LEDGER_NAME

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/dmsnap.yml"
PAGE = ROOT / "docs/ci.md"
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def validated(kind: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", kind, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_workflow_is_one() -> None:
    done = validated("vendor.github-workflows", WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_workflow_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "run-on:"))
    assert validated("vendor.github-workflows", broken).returncode != 0


def test_the_gitlab_job_is_one(tmp_path: Path) -> None:
    [job] = re.findall(r"```yaml gitlab\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / ".gitlab-ci.yml"
    file.write_text(job)
    done = validated("vendor.gitlab-ci", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_workflow_installs_is_what_setup_needs() -> None:
    needed = {
        line
        for line in (ROOT / "vm/debian-packages.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    text = WORKFLOW.read_text().replace("\\\n", " ")
    installs = [
        set(re.sub(r"\s+", " ", words).split())
        for words in re.findall(
            r"apt-get install -y -q --no-install-recommends\s+((?:[a-z0-9-]+\s+)+)", text
        )
    ]
    assert len(installs) == 2
    assert all(needed <= words for words in installs), installs


@pytest.mark.parametrize("file", [WORKFLOW, PAGE], ids=lambda file: file.name)
def test_every_command_exists(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = set(re.findall(r"\bmake ([a-z-]+)\b", text)) - {"olddefconfig"}
    assert made <= targets, made - targets
    commands = re.findall(r"\.venv/bin/dmsnap ([a-z]+(?: fetch)?)((?: --[a-z]+)*)", text)
    assert commands
    for command, options in commands:
        helped = CliRunner().invoke(main, [*command.split(), "--help"])
        assert helped.exit_code == 0, command
        assert all(option in helped.output for option in options.split()), (command, options)


def test_the_shell_of_the_page_is_shell() -> None:
    for block in SHELL.findall(PAGE.read_text()):
        done = subprocess.run(
            ["sh", "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_files_it_names_are_those_of_a_run() -> None:
    named = set(re.findall(r"^\| `([a-z.]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert named == {"junit.xml", "run.ktap", "results.json", LEDGER_NAME}
    help_text = " ".join(CliRunner().invoke(main, ["run", "--help"]).output.split())
    assert "junit.xml, run.ktap and results.json" in help_text
