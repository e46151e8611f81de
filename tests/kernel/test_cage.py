"""The cage around real guests: one that looks for a way out finds none, whoever runs dmsnap.

The same guest without a cage finds many, so it is known that it looks well.  Guests boot Debian's
kernels, which are fetched if they are not cached.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.guest import qemu
from harness.guest.fetch import initramfs, provision
from tests.users import USERS, command_as, environment

UML, QEMU = "uml-6.12", "deb-6.1"
RUN = Path(__file__).with_name("probing_run.py")


@pytest.fixture
def place():
    # Not pytest's own: only root can get into that one.
    with tempfile.TemporaryDirectory(prefix="cage-test-") as directory:
        yield Path(directory)


def probe(user, name, place, *options):
    provision.fetch(name)
    done = subprocess.run(
        command_as(user, [sys.executable, RUN, name, place, *options]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(user, place),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("user", USERS)
def test_without_a_cage_a_guest_gets_out(user, place):
    """As it was before there were cages."""
    told = probe(user, UML, place, "--no-cage")
    assert told["cage"] == "none"
    assert set(told["done"]) >= {
        "victim",
        f"touch {place}",
        "hostfs /proc processes",
        "hostfs /sys kernel",
        "hostfs /dev devices",
    }
    assert (place / "victim").read_text() == "owned"


@pytest.mark.parametrize("user", USERS)
def test_in_its_cage_a_guest_finds_no_way_out(user, place):
    told = probe(user, UML, place)
    assert told == {"done": {}, "cage": "namespaces"}
    assert (place / "victim").read_text() == "mine"


@pytest.mark.skipif(
    not qemu.installed(), reason=f"QEMU is not installed; type: {initramfs.INSTALL}"
)
@pytest.mark.parametrize("user", USERS)
def test_a_virtual_machine_finds_no_way_out(user, place):
    told = probe(user, QEMU, place)
    assert told == {"done": {}, "cage": "namespaces"}
    assert (place / "victim").read_text() == "mine"
