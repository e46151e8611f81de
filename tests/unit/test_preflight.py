"""Preflight on made-up guests: what is not as it should be is found, with its cure."""

from types import SimpleNamespace

import pytest

from harness.errors import ProvisioningError
from harness.measure.preflight import examine, render, require

FIT = {
    "uname -r": "6.12.101",
    "dmsetup targets": "snapshot         v1.17.0\nsnapshot-merge   v1.6.0\n"
    "snapshot-origin  v1.10.0\nlinear           v1.5.0\n",
    "dmsetup version": "Library version:   1.02.185 (2022-05-18)\nDriver version:    4.48.0\n",
    "cat /sys/module/dm_snapshot/parameters/snapshot_cow_threshold": "2048",
    "PYTHON -c 'import sys, harness; print(*sys.version_info[:3])'": "3 11 2",
    "cat /proc/meminfo": "MemTotal:  500000 kB\nMemFree: 1 kB\nMemAvailable:  400000 kB\n",
    "df -k --output=avail /dev/shm": " Avail\n250000\n",
    "dmsetup info -c --noheadings --separator ' ' -o uuid,name": "No devices found\n",
    "cat /proc/uptime; sleep 0.05; cat /proc/uptime": "1.50 1.00\n1.57 1.00\n",
}


class FakeGuest:
    """A guest that is fit, but for what a test changes; an answer of None is a failure."""

    def __init__(self, **changes):
        self.answers = {**FIT, **changes.pop("answers", {})}
        self.files = {"/sys/module/dm_snapshot/parameters/snapshot_cow_threshold"}
        assert not changes

    def run(self, command):
        text = self.answers[command]
        if text is None:
            return SimpleNamespace(rc=1, stdout="", stderr="trouble: no such thing")
        return SimpleNamespace(rc=0, stdout=text, stderr="")

    def file(self, path):
        return SimpleNamespace(exists=path in self.files)


def findings(release="", **answers):
    return examine(FakeGuest(answers=answers), python="PYTHON", release=release)


def test_a_fit_guest():
    found = findings("6.12.101")
    assert [each.name for each in found if not each.ok] == []
    assert all(not each.cure for each in found)
    require(found, "uml-6.12")
    text = render(found, "uml-6.12")
    assert text.startswith("uml-6.12: fit\n")
    assert "snapshot 1.17.0, snapshot-origin 1.10.0, snapshot-merge 1.6.0" in text
    assert "390 of 488 MiB available" in text


@pytest.mark.parametrize(
    ("command", "answer", "name", "detail", "cure"),
    [
        ("uname -r", "6.1.0", "kernel", "6.1.0, not 6.12.101", "give --modules"),
        (
            "dmsetup targets",
            "snapshot v1.1.1\n",
            "targets",
            "no snapshot-origin, snapshot-merge",
            "modprobe dm_snapshot",
        ),
        ("dmsetup version", None, "dmsetup", "trouble", "apt-get install -y dmsetup"),
        (
            "cat /sys/module/dm_snapshot/parameters/snapshot_cow_threshold",
            "7",
            "module parameters",
            "snapshot_cow_threshold 7",
            "echo 2048 >",
        ),
        (
            "PYTHON -c 'import sys, harness; print(*sys.version_info[:3])'",
            None,
            "python",
            "trouble",
            "make setup",
        ),
        (
            "PYTHON -c 'import sys, harness; print(*sys.version_info[:3])'",
            "3 9 2",
            "python",
            "3.9.2",
            "3.11 or newer",
        ),
        (
            "cat /proc/meminfo",
            "MemTotal: 90000 kB\nMemAvailable: 80000 kB\n",
            "memory",
            "78 of 87",
            "Give the guest more",
        ),
        ("df -k --output=avail /dev/shm", "Avail\n900\n", "/dev/shm", "0 MiB free", "remount"),
        (
            "dmsetup info -c --noheadings --separator ' ' -o uuid,name",
            "DMSNAP-disk-cow cow\nLVM-x y\n",
            "nothing left over",
            "devices of an earlier run: cow",
            "dmsetup remove -f cow",
        ),
        (
            "cat /proc/uptime; sleep 0.05; cat /proc/uptime",
            "1.50 1\n1.50 1\n",
            "clock",
            "stands at 1.50 s",
            "Reboot the guest",
        ),
        (
            "cat /proc/uptime; sleep 0.05; cat /proc/uptime",
            "rubbish",
            "clock",
            "meaningless answer",
            "Reboot",
        ),
    ],
)
def test_what_is_not_fit_names_its_cure(command, answer, name, detail, cure):
    found = findings("6.12.101", **{command: answer})
    [wrong] = [each for each in found if not each.ok]
    assert wrong.name == name
    assert detail in wrong.detail
    assert cure in wrong.cure
    with pytest.raises(ProvisioningError) as caught:
        require(found, "vagrant")
    assert str(caught.value).startswith("vagrant is not fit to run scenarios. ")
    assert wrong.cure in str(caught.value)
    assert "UNFIT" in render(found, "vagrant")
    assert render(found, "vagrant").startswith("vagrant: not fit\n")
