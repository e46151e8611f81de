"""A room uses only rooms below it: the contracts in pyproject.toml, and that they can break."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
LINT_IMPORTS = (
    "import sys; from importlinter.cli import lint_imports_command; "
    "sys.path.insert(0, '.'); lint_imports_command()"
)


def lint_imports(root):
    result = subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache", "--no-logo"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stdout + result.stderr


TRIPLE = {"harness.twin.target", "harness.twin.table", "harness.twin.mapped_device"}
"""The one circle, which the kernel itself has."""

UPSTREAM = """
import json, sys
import grimp
sys.path.insert(0, ".")
graph = grimp.build_graph("harness", cache_dir=None)
json.dump({module: sorted(graph.find_upstream_modules(module)) for module in graph.modules},
          sys.stdout)
"""


def in_circles(root):
    """Every file that, by imports of any kind, leads back to itself."""
    found = subprocess.run(
        [sys.executable, "-c", UPSTREAM],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    upstream = json.loads(found.stdout)
    return {
        module
        for module, above in upstream.items()
        if any(module in upstream[other] for other in above)
    }


@pytest.fixture
def house(tmp_path):
    shutil.copytree(
        ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_room_uses_only_rooms_below_it(house):
    status, output = lint_imports(house)
    assert status == 0, output
    assert "0 broken" in output


@pytest.mark.parametrize(
    ("room", "line", "contract"),
    [
        ("units", "import harness.trace.steps", "A room uses only rooms below it"),
        ("trace/steps", "import harness.twin", "A room uses only rooms below it"),
        (
            "errors",
            "import harness.units\nimport harness.wire.journal",
            "A room uses only rooms below it",
        ),
        ("promises/extents", "import harness.verdict.judge", "A room uses only rooms below it"),
        ("twin/clock", "import harness.kernel", "A room uses only rooms below it"),
        ("guest/uml", "import harness.twin", "A room uses only rooms below it"),
        ("store/layout", "import harness.trace.steps", "A room uses only rooms below it"),
        ("plugin", "import harness.cli.main", "A room uses only rooms below it"),
        ("twin/clock", "import time", "no process, no clock"),
        ("trace/steps", "import harness.trace.files", "No circle of imports"),
        ("scenarios/script", "import harness.scenarios.merging", "No circle of imports"),
        ("guest/catalogue", "import harness.guest.uml", "No circle of imports"),
        ("twin/snapshot", TYPES + "import harness.twin.origin", "No circle of imports"),
        ("twin/world", TYPES + "import harness.twin.mapped_device", "No circle of imports"),
        ("twin/world", TYPES + "import harness.twin.table", "No circle of imports"),
        ("twin/target", TYPES + "import harness.twin.snapshot", "No circle of imports"),
        ("compare/place", TYPES + "import harness.compare.diff", "No circle of imports"),
        ("wire/job", TYPES + "import harness.campaign.plan", "A room uses only rooms below it"),
        ("attic", "", "not listed as layers"),
    ],
)
def test_a_wrong_import_is_found(house, room, line, contract):
    path = house / "harness" / f"{room}.py"
    path.write_text((path.read_text() if path.exists() else '"""New."""\n') + f"\n{line}\n")
    status, output = lint_imports(house)
    assert status == 1, output
    assert contract in output.split("Broken contracts")[1]


def test_the_only_circle_is_the_one_that_the_kernel_has(house):
    assert in_circles(house) == TRIPLE


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("world", "table"),
        ("world", "target"),
        ("arguments", "mapped_device"),
    ],
)
def test_a_fourth_file_in_that_circle_is_found(house, lower, upper):
    path = house / "harness" / "twin" / f"{lower}.py"
    path.write_text(f"{path.read_text()}\n{TYPES}import harness.twin.{upper}\n")
    assert f"harness.twin.{lower}" in in_circles(house) - TRIPLE


def test_a_fourth_file_that_is_new_is_found(house):
    """One that the two imports which the contract leaves out would hide from it."""
    twin = house / "harness" / "twin"
    (twin / "fourth.py").write_text('"""New."""\n\nimport harness.twin.table\n')
    path = twin / "mapped_device.py"
    path.write_text(f"{path.read_text()}\nimport harness.twin.fourth\n")
    assert in_circles(house) == TRIPLE | {"harness.twin.fourth"}
