"""What surrounds a User-mode Linux guest: where its memory and its files may lie."""

import mmap
import sys
from pathlib import Path

import pytest

from harness.errors import ProvisioningError
from harness.guest.catalogue import Kernel
from harness.guest.uml import UmlGuest, memory_dir


@pytest.fixture
def guest(tmp_path):
    return UmlGuest(
        Kernel("k", tmp_path / "linux", tmp_path / "modules"),
        python=Path(sys.executable),
        argv=["-m", "an agent"],
        memory_mib=256,
    )


def test_memory_goes_where_there_is_room(tmp_path):
    assert memory_dir(1, [tmp_path / "nothing", tmp_path]) == tmp_path


def test_each_unfit_directory_is_named_with_its_reason(tmp_path, monkeypatch):
    full, noexec = tmp_path / "full", tmp_path / "noexec"
    full.mkdir()
    noexec.mkdir()
    # mmap refuses like this on a noexec mount: no file name in the error.
    real = mmap.mmap

    def mapped(*args, **named):
        if (noexec / "armed").exists():
            raise PermissionError(1, "Operation not permitted")
        return real(*args, **named)

    monkeypatch.setattr(mmap, "mmap", mapped)
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


def test_too_little_memory_is_refused(tmp_path):
    with pytest.raises(ProvisioningError, match="at least 64 MiB"):
        UmlGuest(Kernel("k", tmp_path, tmp_path), python=tmp_path, memory_mib=16)
