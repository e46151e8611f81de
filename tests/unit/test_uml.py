"""What surrounds a User-mode Linux guest: where its memory and its files may lie."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ProvisioningError
from harness.guest import uml
from harness.guest.catalogue import Kernel
from harness.guest.uml import UmlGuest, memory_dir


@pytest.fixture
def guest(tmp_path):
    return UmlGuest(Kernel("k", tmp_path / "linux", tmp_path / "modules"),
                    python=Path(sys.executable), argv=["-m", "an agent"], memory_mib=256)


def test_memory_goes_where_there_is_room(tmp_path):
    assert memory_dir(1, [tmp_path / "nothing", tmp_path]) == tmp_path


def test_each_unfit_directory_is_named_with_its_reason(tmp_path, monkeypatch):
    full, noexec = tmp_path / "full", tmp_path / "noexec"
    full.mkdir()
    noexec.mkdir()
    # mmap refuses like this on a noexec mount: no file name in the error.
    real = uml.mmap.mmap

    def mmap(*args, **named):
        if (noexec / "armed").exists():
            raise PermissionError(1, "Operation not permitted")
        return real(*args, **named)

    monkeypatch.setattr(uml.mmap, "mmap", mmap)
    with pytest.raises(ProvisioningError, match=r"\d+ MiB free.*nothing: No such file") as caught:
        memory_dir(1 << 40, [full, tmp_path / "nothing"])
    assert "run fewer guests (-j)" in str(caught.value)
    (noexec / "armed").touch()
    with pytest.raises(ProvisioningError, match=r"noexec: mounted noexec.*remount,exec"):
        memory_dir(1, [noexec])


def test_no_word_of_the_command_line_has_a_space(guest, tmp_path):
    private = tmp_path / "private"
    command = guest.command(private)
    assert not [word for word in command[1:] if " " in word]
    assert "ro" in command
    assert f"init={private}/init" in command


def test_any_path_reaches_the_guest(guest, tmp_path):
    results = tmp_path / "it's \"$HOME\" `here`, \\ and\nthere"
    guest._write_init(tmp_path, results)
    show = '. "$0/env"; printf "%s" "$RESULTS"; eval "set -- $GUEST_ARGV"; printf "|%s" "$@"'
    shown = subprocess.run(
        ["sh", "-c", show, tmp_path],
        capture_output=True, text=True, check=True, timeout=20).stdout
    assert shown == f"{results}|{sys.executable}|-m|an agent|{results}"


@pytest.mark.parametrize("hidden", ["/dev/shm/results", "/proc/results", "/sys/x"])
def test_paths_that_the_guest_cannot_see_are_refused(guest, hidden):
    with pytest.raises(ProvisioningError, match="cannot see the results directory"):
        guest.check(1, Path(hidden))


def test_too_little_memory_is_refused(tmp_path):
    with pytest.raises(ProvisioningError, match="at least 64 MiB"):
        UmlGuest(Kernel("k", tmp_path, tmp_path), python=tmp_path, memory_mib=16)


def test_a_place_for_the_private_directory_is_short(monkeypatch):
    monkeypatch.setattr(uml, "_SOCKET_PATH_MAX", 3)
    made = []
    real = uml.tempfile.mkdtemp
    monkeypatch.setattr(uml.tempfile, "mkdtemp",
                        lambda **named: made.append(real(**named)) or made[-1])
    with pytest.raises(ProvisioningError, match="at most 3 bytes"):
        uml._private_dir()
    assert made
    assert not [path for path in made if Path(path).exists()]
