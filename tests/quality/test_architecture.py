"""A room uses only rooms below it: the contracts in pyproject.toml, and that they can break."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = ("import sys; from importlinter.cli import lint_imports_command; "
                "sys.path.insert(0, '.'); lint_imports_command()")


def lint_imports(root):
    result = subprocess.run([sys.executable, "-c", LINT_IMPORTS, "--no-cache", "--no-logo"],
                            cwd=root, capture_output=True, text=True, timeout=120)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def house(tmp_path):
    shutil.copytree(ROOT / "harness", tmp_path / "harness",
                    ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_room_uses_only_rooms_below_it(house):
    status, output = lint_imports(house)
    assert status == 0, output
    assert "0 broken" in output


@pytest.mark.parametrize(("room", "line", "contract"), [
    ("units", "import harness.trace.steps", "A room uses only rooms below it"),
    ("trace/steps", "import harness.twin", "A room uses only rooms below it"),
    ("errors", "import harness.units\nimport harness.wire.journal",
     "A room uses only rooms below it"),
    ("promises/extents", "import harness.verdict.judge", "A room uses only rooms below it"),
    ("twin/clock", "import harness.kernel", "A room uses only rooms below it"),
    ("guest/uml", "import harness.twin", "A room uses only rooms below it"),
    ("store/layout", "import harness.trace.steps", "A room uses only rooms below it"),
    ("plugin", "import harness.cli.main", "A room uses only rooms below it"),
    ("twin/clock", "import time", "no process, no clock"),
    ("trace/steps", "import harness.trace.files", "No circle of imports"),
    ("attic", "", "not listed as layers"),
])
def test_a_wrong_import_is_found(house, room, line, contract):
    path = house / "harness" / f"{room}.py"
    path.write_text((path.read_text() if path.exists() else '"""New."""\n') + f"\n{line}\n")
    status, output = lint_imports(house)
    assert status == 1, output
    assert contract in output.split("Broken contracts")[1]
