"""What a newcomer types: README, Makefile, CI and the package list agree with each other."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PACKAGES = [
    line
    for line in (ROOT / "vm/debian-packages.txt").read_text().split("\n")
    if line and not line.startswith("#")
]


def targets():
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_readme_installs_the_listed_packages():
    commands = re.findall(r"apt-get install -y ([a-z0-9 -]+)", README)
    assert [command.split() for command in commands] == [PACKAGES]


def test_exactly_two_commands_set_everything_up():
    block = re.search(r"## Set up.*?```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) == 2


def test_every_target_that_is_named_exists():
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | set(
        re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    )
    assert {"setup", "run", "test", "lint", "help"} <= named
    assert named <= targets()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_help_explains_every_target():
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    ).stdout
    for target in targets() - {"venv", "kernel"}:
        assert f"make {target} " in text


def test_scripts_parse_and_can_be_started():
    for script, shell in ((".ci/run", "bash"), ("vm/setup.sh", "sh")):
        assert (ROOT / script).stat().st_mode & 0o111
        subprocess.run([shell, "-n", ROOT / script], check=True, timeout=20)


def setup(tmp_path, path):
    """setup.sh in an empty place, with nothing but ``path`` to find programs in."""
    (tmp_path / "vm").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # This machine's own Python must not be found either: nothing is to be installed here.
    script = (ROOT / "vm/setup.sh").read_text()
    assert script.count(" /usr/bin/python3\n") == 1
    (tmp_path / "vm/setup.sh").write_text(
        script.replace(" /usr/bin/python3\n", "\n").replace(":/usr/sbin:/sbin", "")
    )
    return subprocess.run(
        ["/bin/sh", "vm/setup.sh"],
        cwd=tmp_path,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def tools(tmp_path, names):
    path = tmp_path / "bin"
    path.mkdir()
    for name in names:
        (path / name).symlink_to(shutil.which(name))
    return path


BASICS = ["dirname", "cat", "cksum", "head", "id", "rm", "mv", "stat", "flock", "sh"]


def test_setup_names_what_is_no_debian(tmp_path):
    result = setup(tmp_path, tools(tmp_path, BASICS))
    assert result.returncode == 1
    assert result.stderr.startswith("dmsnap setup: apt-get and dpkg-deb are missing")


@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt-get is not installed")
def test_setup_says_in_one_line_what_to_type(tmp_path):
    path = tools(tmp_path, [*BASICS, "apt-get", "dpkg-deb"])
    for name in ("3.14", "3.13", "3.12", "3.11", "3"):  # like a pyenv shim without a version
        (path / f"python{name}").write_text("#!/bin/sh\nexit 127\n")
        (path / f"python{name}").chmod(0o755)
    result = setup(tmp_path, path)
    assert result.returncode == 1
    assert re.fullmatch(
        r"dmsnap setup: missing: dmsetup python3-venv( ca-certificates)?\. Type: "
        r"(sudo )?apt-get install -y dmsetup python3-venv( ca-certificates)?\n",
        result.stderr,
    )


@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt-get is not installed")
def test_an_old_python_is_named(tmp_path):
    path = tools(tmp_path, [*BASICS, "apt-get", "dpkg-deb"])
    (path / "python3").write_text(f"""#!/bin/sh
if [ "$1" = -V ]; then echo Python 3.9.2; exit; fi
exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); $2"
""")
    (path / "python3").chmod(0o755)
    assert "(Python 3.9.2 is too old)" in setup(tmp_path, path).stderr
