"""The cage, from within: a program that has taken a guest's process over finds nothing.

The probe tries the same without a cage, and succeeds: so it is known that it tries well.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.users import USERS, command_as, environment

HOST = Path(__file__).with_name("cage_host.py")
DONE_BY_ALL = {"writes", "overwrites", "chmod", "utime", "unlinks", "secret", "processes", "kill",
               "unix socket", "abstract socket", "tcp", "udp", "/proc/version",
               "/sys", "user namespace"}
"""What even an ordinary user can do without a cage."""
DONE_BY_ROOT = {"shadow", "device", "mount", "capabilities", "remount", "core_pattern", "setuid"}
NEEDS = ["results", "null", "fork"]


@pytest.fixture
def place():
    # Not pytest's own: only root can get into that one.
    with tempfile.TemporaryDirectory(prefix="cage-test-") as directory:
        yield Path(directory)


def probe(user, kind, place):
    done = subprocess.run(command_as(user, [sys.executable, HOST, kind, place]),
                          capture_output=True, text=True, timeout=120, check=False,
                          env=environment(user, place))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("user", USERS)
def test_without_a_cage_the_probe_gets_everywhere(user, place):
    told = probe(user, "none", place)
    assert told["needs"] == NEEDS
    assert set(told["done"]) >= DONE_BY_ALL | (DONE_BY_ROOT if told["uid"] == 0 else set())


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("kind", ["namespaces", "landlock"])
def test_in_a_cage_it_gets_nowhere(user, kind, place):
    told = probe(user, kind, place)
    assert told["needs"] == NEEDS
    assert told["done"] == {}
    assert (place / "victim").read_text() == "mine"
