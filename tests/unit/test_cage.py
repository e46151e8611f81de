"""The cage, from within: a program that has taken a guest's process over finds nothing.

The probe tries the same without a cage, and succeeds: so it is known that it tries well.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.errors import ProvisioningError
from harness.guest import confinement
from harness.guest.cage import Cage
from harness.guest.catalogue import Kernel
from harness.guest.process import KeptProcess
from tests.users import USERS, command_as, environment

HOST = Path(__file__).with_name("cage_host.py")
DONE_BY_ALL = {
    "writes",
    "overwrites",
    "chmod",
    "utime",
    "unlinks",
    "secret",
    "processes",
    "kill",
    "unix socket",
    "abstract socket",
    "tcp",
    "udp",
    "/proc/version",
    "/sys",
    "user namespace",
}
"""What even an ordinary user can do without a cage."""
DONE_BY_ROOT = {"shadow", "device", "mount", "capabilities", "remount", "core_pattern", "setuid"}
NEEDS = ["results", "null", "fork"]


@pytest.fixture
def place():
    # Not pytest's own: only root can get into that one.
    with tempfile.TemporaryDirectory(prefix="cage-test-") as directory:
        yield Path(directory)


def probe(user, kind, place):
    done = subprocess.run(
        command_as(user, [sys.executable, HOST, kind, place]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(user, place),
    )
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


# -- where a host allows less ---------------------------------------------------------------------


@pytest.fixture
def host(monkeypatch):
    """Makes a host that allows some kinds of cage."""

    def host(*kinds, uid=1000, wanted=True):
        confinement._tried.cache_clear()
        monkeypatch.setattr(confinement, "_wanted", wanted)
        monkeypatch.setattr(
            confinement,
            "_try",
            lambda kind, _procfs: (
                "entered\n" if kind in kinds else "keeper: cannot start sh: namespaces: not here\n"
            ),
        )
        monkeypatch.setattr(os, "geteuid", lambda: uid)

    yield host
    confinement._tried.cache_clear()


KERNELS = [Kernel("one", Path("/linux"), Path("/modules"), guest="uml")]


def test_the_best_cage_is_taken(host):
    host("namespaces", "landlock", uid=0)
    assert confinement.told(KERNELS) == "namespaces"
    host("landlock", uid=0)
    assert confinement.told(KERNELS).startswith("landlock; guests can see which files exist")
    assert "not here" in confinement.told(KERNELS)


def test_without_a_cage_a_user_is_told_and_root_is_refused(host):
    host(uid=1000)
    assert confinement.told(KERNELS).startswith("none: the guests' kernels may do on this host")
    host(uid=0)
    with pytest.raises(ProvisioningError, match=r"root may do everything .* with --no-cage"):
        confinement.told(KERNELS)
    host(uid=0, wanted=False)
    assert "switched off by --no-cage" in confinement.told(KERNELS)


def test_guests_that_do_not_live_here_need_no_cage(host):
    host(uid=0)
    assert confinement.told([Kernel("there", Path("/"), Path("/"), guest="vagrant")]) == ""


def test_a_cage_that_cannot_be_entered_starts_nothing(place):
    """It fails closed."""
    private = place / "private"
    (private / "root").mkdir(parents=True)
    cage = Cage("namespaces", str(private / "nothing"), ("/usr",), (str(private),))
    guest = KeptProcess(
        ["/bin/sh", "-c", "echo out"], results=place, private=private, cage=cage, env={}
    )
    os.waitid(os.P_PIDFD, guest.fileno(), os.WEXITED | os.WNOWAIT)
    guest.end()
    assert guest.console_tail().startswith("keeper: cannot start /bin/sh: mount ")
    assert not private.exists()
