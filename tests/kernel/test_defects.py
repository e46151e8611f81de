"""The register of kernel defects is an expectation: every reproducer, in guests of its own.

`docs/KERNEL-DEFECTS.md` says in a table what each script of `docs/defects` shows on which release.
A release that has no column yet skips, and says so.
"""

import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from harness.guest.fetch import provision
from harness.guest.process import CONSOLE_NAME
from harness.guest.uml import UmlGuest
from tests.kernel.register import DOCS, REGISTER

GUEST = Path(__file__).with_name("defect_guest.py")
RUN_LIMIT_S = 120.0
OUTCOMES = {"shown", "not shown", "dies"}
MEMORY_MIB = 512


def run(kernel, name, results):
    """Run a reproducer in a guest: the release, the outcome, and all that was printed."""
    results.mkdir()
    launcher = UmlGuest(
        kernel,
        python=Path(sys.executable),
        memory_mib=MEMORY_MIB,
        argv=[str(GUEST), str(DOCS / "defects" / f"{name}.sh")],
    )
    guest = launcher.start(results)
    try:
        ended = select.select([guest], [], [], RUN_LIMIT_S)[0]
    finally:
        guest.end()
    console = (results / CONSOLE_NAME).read_text(errors="replace").replace("\r", "")
    assert ended, f"no end within {RUN_LIMIT_S:.0f} s\n{console}"
    release = re.search(r"^kernel (\S+)$", console, re.MULTILINE)
    status = re.search(r"^exit status: (\S+)$", console, re.MULTILINE)
    if status:
        outcome = {"0": "shown", "1": "not shown"}.get(status[1], f"exit status {status[1]}")
    else:
        outcome = "dies" if "Kernel panic" in console else "vanished"
    return release and release[1], outcome, console


@pytest.mark.parametrize("name", REGISTER)
def test_a_reproducer_shows_what_the_register_says(name, kernel_name, tmp_path):
    kernel = provision.fetch(kernel_name)
    release, outcome, console = run(kernel, name, tmp_path / "first")
    said = REGISTER[name].get(release or kernel.release)
    if said is None:
        pytest.skip(
            f"docs/KERNEL-DEFECTS.md has no column for {release} ({kernel_name}); "
            f"{name} there: {outcome}"
        )
    if outcome in {"dies", "vanished"} and outcome not in said:
        # Guests have died for no reason of ours; twice is no accident.
        release, outcome, console = run(kernel, name, tmp_path / "second")
    assert outcome in said, console
    # A kernel that dies must do so where the reproducer says that it may.
    assert outcome != "dies" or re.search(r"^NOW: ", console, re.MULTILINE), console
    assert (outcome == "shown") == ("\nDEFECT SHOWN: " in console)


def test_register_and_reproducers_name_each_other():
    assert sorted(REGISTER) == sorted(path.stem for path in (DOCS / "defects").glob("*.sh"))
    page = (DOCS / "KERNEL-DEFECTS.md").read_text()
    for name, said in REGISTER.items():
        assert f"\n## {name}\n" in page
        assert f"(defects/{name}.sh)" in page
        # The line of the entry repeats the row.
        line = ", ".join(
            f"{release} {' or '.join(sorted(outcomes, reverse=True))}"
            for release, outcomes in said.items()
        )
        assert f"- **Kernels:** {line}\n" in page
        assert all(outcomes and outcomes <= OUTCOMES for outcomes in said.values())


@pytest.mark.parametrize("name", REGISTER)
def test_a_reproducer_refuses_to_run_unasked(name):
    done = subprocess.run(
        ["/bin/sh", DOCS / "defects" / f"{name}.sh"],
        check=False,
        timeout=20,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--this-machine-is-disposable" in done.stderr
