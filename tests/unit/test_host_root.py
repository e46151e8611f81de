"""What a guest on the host's root gets: its private directory, and what it has to know."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.errors import ProvisioningError
from harness.guest import host_root
from harness.guest.catalogue import Kernel, vm_file
from harness.guest.host_root import check_seen, private_dir, write_init

MOUNT = {"TYPE": "9p", "SOURCE": "results", "OPTIONS": "trans=virtio,cache=none"}


@pytest.fixture
def kernel(tmp_path):
    return Kernel("k", tmp_path / "linux", tmp_path / "modules", guest="qemu")


def test_any_path_reaches_the_guest(kernel, tmp_path):
    results = tmp_path / 'it\'s "$HOME" `here`, \\ and\nthere'
    write_init(
        tmp_path,
        kernel=kernel,
        python=Path(sys.executable),
        argv=["-m", "an agent"],
        results=results,
        mount=MOUNT,
    )
    show = (
        '. "$0/env"; printf "%s" "$RESULTS|$RESULTS_TYPE|$RESULTS_SOURCE|$RESULTS_OPTIONS";'
        'printf "|%s" "$DMSNAP_GUEST"; eval "set -- $GUEST_ARGV"; printf "|%s" "$@"'
    )
    shown = subprocess.run(
        ["sh", "-c", show, tmp_path], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert shown == (
        f"{results}|9p|results|trans=virtio,cache=none|qemu|{sys.executable}|-m|an agent|{results}"
    )


def test_init_mounts_what_its_file_says():
    init = vm_file("init").read_text()
    for name in MOUNT:
        assert f'"$RESULTS_{name}"' in init


@pytest.mark.parametrize("hidden", ["/dev/shm/results", "/proc/results", "/sys/x"])
def test_paths_that_the_guest_cannot_see_are_refused(kernel, hidden):
    with pytest.raises(ProvisioningError, match="cannot see the results directory"):
        check_seen(kernel, Path(sys.executable), Path(hidden))


def test_a_place_for_the_private_directory_is_short(monkeypatch):
    monkeypatch.setattr(host_root, "_SOCKET_PATH_MAX", 3)
    made = []
    real = tempfile.mkdtemp

    def mkdtemp(**named):
        made.append(real(**named))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(ProvisioningError, match="at most 3 bytes"):
        private_dir()
    assert made
    assert not [path for path in made if Path(path).exists()]
