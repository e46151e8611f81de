"""The doctor on made-up machines: what it finds, what it says to type."""

from types import SimpleNamespace

import pytest
import testinfra

from harness.errors import CannotBoot, ProvisioningError
from harness.guest import catalogue, doctor, fallback
from harness.guest.catalogue import Kernel
from harness.guest.doctor import Booted, able, examine, render

BOOTS = [Booted("uml-6.12", True, "boots in 1.2 s")]
MEMINFO = "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n"
MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw,nosuid 0 0
tmpfs /tmp tmpfs rw,noexec 0 0
"""


class FakeHost:
    """A machine that has everything, but for what a test takes away or changes."""

    def __init__(self, *, without=(), failing=(), outputs=None, files=None):
        self.without = set(without)
        self.failing = failing
        self.outputs = {
            "id -u": "1000",
            "printenv TMPDIR": "",
            "python3 -c 'import sys; print(*sys.version_info[:3])'": "3 11 2",
            **(outputs or {}),
        }
        self.files = {
            "/proc/meminfo": MEMINFO,
            "/proc/mounts": MOUNTS,
            "/dev/kvm": "",
            "/usr/share/keyrings/debian-archive-keyring.gpg": "",
            **(files or {}),
        }

    def run(self, command):
        failed = any(part in command for part in self.failing)
        return SimpleNamespace(rc=int(failed), stdout=self.outputs.get(command, "") + "\n")

    def exists(self, name):
        return name not in self.without | {"dmsetup"}  # dmsetup: only in sbin

    def file(self, path):
        there = (path in self.files or path == "/usr/sbin/dmsetup") and path not in self.without
        return SimpleNamespace(exists=there, content_string=self.files.get(path, ""))

    def package(self, name):
        if "packages" in self.without:
            raise NotImplementedError("no package manager")
        return SimpleNamespace(is_installed=name not in self.without, version="1.0")


def by_name(host):
    return {finding.name: finding for finding in examine(host)}


def test_a_complete_machine():
    findings = examine(FakeHost())
    assert [finding.name for finding in findings if not finding.ok] == []
    assert all(not finding.cure for finding in findings)
    assert able(findings, BOOTS)
    assert render(findings, BOOTS).endswith("This machine can run dmsnap.\n")


@pytest.mark.parametrize(
    ("host", "name", "cure"),
    [
        (FakeHost(without=["apt-get"]), "apt-get", "sudo apt-get install -y apt"),
        (FakeHost(without=["/usr/sbin/dmsetup"]), "dmsetup", "sudo apt-get install -y dmsetup"),
        (
            FakeHost(without=["/usr/sbin/dmsetup"], outputs={"id -u": "0"}),
            "dmsetup",
            "Type: apt-get install -y dmsetup",
        ),
        (FakeHost(failing=["ensurepip"]), "python", "sudo apt-get install -y python3-venv"),
        (
            FakeHost(outputs={"python3 -c 'import sys; print(*sys.version_info[:3])'": "3 9 2"}),
            "python",
            "python3-venv",
        ),
        (FakeHost(failing=["python3"]), "python", "python3 python3-venv"),
        (
            FakeHost(without=["/usr/share/keyrings/debian-archive-keyring.gpg"]),
            "Debian keys",
            "debian-archive-keyring",
        ),
        (
            FakeHost(files={"/proc/meminfo": "MemAvailable: 100000 kB\n"}),
            "memory",
            "dmsnap run -j 1",
        ),
        (FakeHost(files={"/proc/meminfo": ""}), "memory", "dmsnap doctor"),
        (
            FakeHost(files={"/proc/mounts": "x / ext4 rw,noexec 0 0\n"}),
            "executable memory files",
            "export TMPDIR",
        ),
        (FakeHost(failing=["test -w"]), "executable memory files", "export TMPDIR"),
        (FakeHost(without=["packages"]), "dpkg-deb", "dmsnap doctor"),
    ],
)
def test_what_is_missing_has_a_cure(host, name, cure):
    findings = examine(host)
    found = {finding.name: finding for finding in findings}[name]
    assert not found.ok
    assert cure in found.cure
    assert not able(findings, BOOTS)
    assert f"MISSING  {name}" in render(findings, BOOTS)
    assert found.cure in render(findings, BOOTS)
    assert "cannot run dmsnap yet" in render(findings, BOOTS)


@pytest.mark.parametrize(
    ("host", "name", "detail"),
    [
        (FakeHost(without=["qemu-system-x86_64"]), "qemu-system-x86_64", "not installed"),
        (FakeHost(without=["busybox"]), "busybox", "not installed"),
        (FakeHost(without=["vagrant"]), "vagrant", "not installed"),
        (FakeHost(without=["lvm"]), "lvm", "not installed"),
        (FakeHost(without=["/dev/kvm"]), "/dev/kvm", "missing"),
        (FakeHost(failing=["/dev/kvm"]), "/dev/kvm", "does not open"),
    ],
)
def test_what_dmsnap_can_do_without(host, name, detail):
    findings = examine(host)
    found = {finding.name: finding for finding in findings}[name]
    assert not found.ok
    assert detail in found.detail
    assert able(findings, BOOTS)
    assert f"absent   {name}" in render(findings, BOOTS)


def test_a_directory_counts_by_the_mount_it_lies_on():
    host = FakeHost(outputs={"printenv TMPDIR": "/tmp/deep/er"})
    assert by_name(host)["executable memory files"].detail == "/dev/shm"
    host = FakeHost(outputs={"printenv TMPDIR": "/tmpfoo"})  # on /, not on /tmp
    assert by_name(host)["executable memory files"].detail == "/tmpfoo"


def test_this_machine_can_be_asked():
    findings = examine(testinfra.get_host("local://"))
    assert {"python", "dmsetup", "/dev/kvm"} <= {finding.name for finding in findings}
    assert render(findings, BOOTS)


# -- boots ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boots", "can", "said"),
    [
        (
            [],
            False,
            (
                "Nothing is missing, but no kernel is cached that could be booted to prove that "
                "this machine can run dmsnap. Type: dmsnap kernels fetch uml-6.12; dmsnap doctor"
            ),
        ),
        (
            [Booted("uml-6.12", False, "does not boot")],
            False,
            "This machine cannot run dmsnap yet; no kernel boots, see FAILS above.",
        ),
        (
            [
                Booted("uml-6.12", False, "x"),
                Booted("uml-7.2", True, "y"),
                Booted("deb-6.1", True, "z"),
            ],
            True,
            "This machine can run dmsnap, not with uml-6.12 but with uml-7.2, deb-6.1.",
        ),
        (
            [Booted("uml-6.12", True, "x"), Booted("uml-7.2", False, "y")],
            True,
            "This machine can run dmsnap.",
        ),
    ],
)
def test_only_a_boot_says_that_a_machine_can(boots, can, said):
    findings = examine(FakeHost())
    assert able(findings, boots) is can
    assert render(findings, boots).splitlines()[-1] == said
    missing = examine(FakeHost(without=["apt-get"]))
    assert not able(missing, boots)
    assert "see MISSING above" in render(missing, boots).splitlines()[-1]


def test_each_cached_kernel_is_booted_anew(monkeypatch, tmp_path):
    answers = {
        "uml-6.1": "boots in 1.0 s",
        "uml-6.12": CannotBoot("uml-6.12 does not boot on this machine: it ended, and so on"),
        "deb-6.1": ProvisioningError("qemu-system-x86_64 is missing; type: apt-get"),
    }

    def prove(kernel, *, fresh):
        assert fresh
        answer = answers[kernel.name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(fallback, "prove", prove)
    monkeypatch.setattr(
        catalogue, "installed", lambda: [Kernel(name, tmp_path, tmp_path) for name in answers]
    )
    lines: list[str] = []
    found = doctor.boot_all(lines.append)
    assert lines == [f"{name}: booting" for name in answers]
    assert (
        render([], found)
        == """\
ok       uml-6.1   boots in 1.0 s
FAILS    uml-6.12  does not boot on this machine: it ended, and so on
FAILS    deb-6.1   was not booted: qemu-system-x86_64 is missing; type: apt-get
This machine can run dmsnap, not with uml-6.12 but with uml-6.1.
"""
    )
