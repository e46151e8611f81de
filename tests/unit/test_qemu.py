"""What surrounds a QEMU guest: its initramfs, its command line, its acceleration, its kernel."""

import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ProvisioningError
from harness.guest import acceleration, built, catalogue, qemu
from harness.guest.acceleration import KVM, TCG, proven
from harness.guest.catalogue import Kernel
from harness.guest.fetch import image, initramfs
from harness.guest.fetch.initramfs import Modules, cpio, decompressed, depends
from harness.guest.qemu import QemuGuest
from harness.kernel import machine

BUSYBOX = shutil.which("busybox")

# -- the archive ------------------------------------------------------------------------------


def members(archive):
    """Name → (mode, data) of a newc archive, read by the letter of its documentation."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        assert archive[at + 110 + length - 1] == 0
        at = -(-(at + 110 + length) // 4) * 4
        if name == "TRAILER!!!":
            assert size == 0
            assert at == len(archive)
            return found
        found[name] = mode, archive[at : at + size]
        at = -(-(at + size) // 4) * 4


def test_an_archive_is_what_its_format_says():
    entries = [("bin", 0o40755, b""), ("bin/a", 0o100755, b"12345"), ("ü", 0o100644, b"1234")]
    assert members(cpio(entries)) == {name: (mode, data) for name, mode, data in entries}


@pytest.mark.skipif(BUSYBOX is None, reason="busybox is not installed: no second reader")
def test_another_program_reads_the_archive(tmp_path):
    archive = cpio([("d", 0o40755, b""), ("d/x", 0o100755, b"#!/bin/sh\n"), ("e", 0o100644, b"")])
    assert BUSYBOX is not None
    subprocess.run([BUSYBOX, "cpio", "-id"], input=archive, cwd=tmp_path, check=True, timeout=20)
    assert (tmp_path / "d/x").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "d/x", os.X_OK)
    assert (tmp_path / "e").read_bytes() == b""


# -- modules ----------------------------------------------------------------------------------


def module(name, *needs):
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=" + name + b"\0"


@pytest.fixture
def tree(tmp_path):
    """Modules as a distribution has them: below kernel/, some compressed, some built in."""
    tree = tmp_path / "lib/modules/6.99-amd64"
    files = {
        "kernel/fs/9p/9p.ko.xz": module(b"9p", "9pnet", "netfs"),
        "kernel/fs/netfs/netfs.ko.xz": module(b"netfs"),
        "kernel/net/9p/9pnet.ko": module(b"9pnet"),
        "kernel/net/9p/9pnet_virtio.ko": module(b"9pnet_virtio", "virtio", "9pnet"),
        "kernel/drivers/md/dm-mod.ko": module(b"dm_mod", "helper-of-dm"),
        "kernel/drivers/md/dm-bufio.ko": module(b"dm_bufio", "dm-mod"),
        "kernel/drivers/md/dm-snapshot.ko.xz": module(b"dm_snapshot", "dm-mod", "dm-bufio"),
        "kernel/lib/helper-of-dm.ko": module(b"helper_of_dm"),
        "kernel/drivers/net/e1000.ko": module(b"e1000"),
    }
    for name, data in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    return tree


def test_a_module_says_what_it_needs():
    assert depends(module(b"a", "b", "c-d")) == ["b", "c-d"]
    assert depends(module(b"a")) == []
    assert depends(b"no module") == []


def test_modules_come_after_what_they_need(tree):
    modules = Modules(tree)
    assert modules.order(["9p", "9pnet_virtio", "virtio_pci"]) == [
        "9pnet",
        "netfs",
        "9p",
        "9pnet_virtio",
    ]
    assert modules.order(["dm-snapshot"]) == ["helper_of_dm", "dm_mod", "dm_bufio", "dm_snapshot"]
    assert modules.path("helper-of-dm") == tree / "kernel/lib/helper-of-dm.ko"


def test_a_circle_of_modules_ends(tmp_path):
    (tmp_path / "a.ko").write_bytes(module(b"a", "b"))
    (tmp_path / "b.ko").write_bytes(module(b"b", "a"))
    assert Modules(tmp_path).order(["a"]) == ["b", "a"]


def test_the_initramfs_loads_the_way_to_the_root_and_what_the_guest_cannot_find(tree):
    assert [name for name, _ in initramfs.early(Modules(tree))] == [
        "00-9pnet.ko",
        "01-9pnet_virtio.ko",
        "02-netfs.ko",
        "03-9p.ko",
        "04-helper_of_dm.ko",
    ]


def test_a_module_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "9p.ko.xz"
    path.write_bytes(b"no xz")
    with pytest.raises(ProvisioningError, match=r"9p\.ko\.xz cannot be read .*complete modules"):
        decompressed(path)


def test_zstd_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    (tmp_path / "9p.ko.zst").touch()
    with pytest.raises(ProvisioningError, match="sudo apt-get install -y zstd"):
        decompressed(tmp_path / "9p.ko.zst")


def test_an_initramfs_holds_all_that_its_script_wants(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(initramfs, "BUSYBOX", tmp_path / "busybox")
    initramfs.BUSYBOX.write_bytes(b"\x7fELF static")
    held = members(initramfs.build(tree, Path("/tmp/dmsnap-1/init")))
    assert held["init"][1] == catalogue.vm_file("initramfs-init").read_bytes()
    assert held["init"][0] & 0o111
    assert held["bin/busybox"] == (0o100755, b"\x7fELF static")
    assert held["next"][1] == b"/tmp/dmsnap-1/init\n"
    assert held["modules/03-9p.ko"][1] == module(b"9p", "9pnet", "netfs")
    small = members(initramfs.build(None, None))
    assert "next" not in small
    assert not [name for name in small if name.startswith("modules/")]


@pytest.mark.parametrize("content", [None, b"\x7fELF /lib64/ld-linux-x86-64.so.2\0"])
def test_a_busybox_that_does_not_serve_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(initramfs, "BUSYBOX", tmp_path / "busybox")
    if content:
        initramfs.BUSYBOX.write_bytes(content)
    with pytest.raises(ProvisioningError, match="install -y qemu-system-x86 busybox-static"):
        initramfs.busybox()


# -- the acceleration -------------------------------------------------------------------------


class Boots:
    """Stands in for booting: what each acceleration takes, None where it hangs."""

    def __init__(self, **seconds):
        self.seconds = seconds
        self.asked = []

    def __call__(self, name, limit_s):
        self.asked.append((name, limit_s))
        return self.seconds[name]


@pytest.fixture
def device(tmp_path):
    (tmp_path / "kvm").touch()
    return tmp_path / "kvm"


def prove(tmp_path, boots, device, machine="here"):
    return proven(machine, boots, cache=tmp_path / "cache/acceleration.json", device=device)


def test_kvm_is_used_where_it_boots(tmp_path, device):
    boots = Boots(kvm=1.2)
    proof = prove(tmp_path, boots, device)
    assert (proof.name, proof.slowness, proof.kvm) == (KVM, 1.0, "works")
    assert [name for name, _ in boots.asked] == [KVM]


def test_a_kvm_that_opens_and_hangs_is_not_used(tmp_path, device):
    boots = Boots(kvm=None, tcg=9.0)
    proof = prove(tmp_path, boots, device)
    assert (proof.name, proof.slowness) == (TCG, 6.0)
    assert "opens, but a guest does not boot" in proof.kvm
    assert boots.asked[0] == (KVM, acceleration.KVM_LIMIT_S)


def test_without_a_kvm_nothing_waits_for_it(tmp_path):
    boots = Boots(tcg=3.0)
    assert prove(tmp_path, boots, tmp_path / "nothing").name == TCG
    assert [name for name, _ in boots.asked] == [TCG]


def test_a_proof_holds_for_its_machine_only(tmp_path, device):
    boots = Boots(kvm=1.0)
    first = prove(tmp_path, boots, device)
    assert prove(tmp_path, boots, device) == first
    assert len(boots.asked) == 1
    prove(tmp_path, boots, device, machine="after a reboot")
    assert len(boots.asked) == 2


@pytest.mark.parametrize("rubbish", [b"", b"{", b'{"machine":"here","name":"tcg","slowness":0.1}'])
def test_a_damaged_proof_is_made_again(tmp_path, device, rubbish):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/acceleration.json").write_bytes(rubbish)
    assert prove(tmp_path, Boots(kvm=1.0), device).name == KVM


def test_a_machine_on_which_nothing_boots_is_told(tmp_path, device):
    with pytest.raises(ProvisioningError, match="even emulated; is it an x86-64 kernel"):
        prove(tmp_path, Boots(kvm=None, tcg=None), device)
    assert not (tmp_path / "cache").exists()


def test_slowness_is_bounded():
    assert acceleration.slowness(0.1) == 1
    assert acceleration.slowness(1e6) == acceleration.SLOWNESS_MAX


def test_a_proof_is_for_one_boot_and_one_qemu():
    one, other = acceleration.this_machine("QEMU 7"), acceleration.this_machine("QEMU 8")
    assert one != other
    assert one.startswith(Path("/proc/sys/kernel/random/boot_id").read_text().strip())


# -- the command line -------------------------------------------------------------------------


@pytest.fixture
def guest(tmp_path, monkeypatch):
    monkeypatch.setattr(qemu, "program", lambda: "/usr/bin/qemu-system-x86_64")
    return QemuGuest(
        Kernel("k", tmp_path / "linux", tmp_path / "modules", guest="qemu"),
        python=Path(sys.executable),
        memory_mib=300,
    )


def test_a_machine_is_all_our_own(guest, tmp_path):
    command = guest.command(TCG, tmp_path / "initramfs", tmp_path / "a,b")
    for words in (
        ["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"],
        ["-accel", "tcg", "-cpu", "max,la57=off"],
        ["-m", "300M", "-serial", "stdio"],
    ):
        at = command.index(words[0])
        assert command[at : at + len(words)] == words
    shares = [word for word in command if word.startswith("local,")]
    assert shares == [
        "local,id=root,path=/,security_model=none,multidevs=remap,readonly=on",
        f"local,id=results,path={tmp_path}/a,,b,security_model=none,multidevs=remap",
    ]
    words = command[command.index("-append") + 1].split()
    assert {"console=ttyS0", "panic=-1", "oops=panic"} <= set(words)


def test_the_guest_knows_that_it_is_one(guest, tmp_path):
    command = guest.command(KVM, tmp_path / "initramfs", tmp_path)
    assert command[command.index("-cpu") + 1] == "host"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text(command[command.index("-append") + 1] + "\n")
    assert machine.is_guest(tmp_path)
    machine.check(root=tmp_path)
    (tmp_path / "proc/cmdline").write_text("root=/dev/sda1 dmsnap.guests\n")
    assert not machine.is_guest(tmp_path)


def test_without_qemu_one_line_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    guest = QemuGuest(Kernel("k", tmp_path, tmp_path, guest="qemu"), python=tmp_path)
    with pytest.raises(
        ProvisioningError,
        match=(
            r"qemu-system-x86_64 is missing .*sudo apt-get install -y qemu-system-x86 "
            r"busybox-static"
        ),
    ):
        guest.check(1, tmp_path)


def test_memory_that_is_not_there_is_told(guest, tmp_path, monkeypatch):
    monkeypatch.setattr(initramfs, "busybox", lambda: tmp_path)
    monkeypatch.setattr(qemu, "_available_mib", lambda: 900)
    with pytest.raises(ProvisioningError, match=r"2 QEMU guests need 984 MiB .* fewer guests"):
        guest.check(2, tmp_path)


def test_too_little_memory_is_refused(tmp_path):
    with pytest.raises(ProvisioningError, match="at least 256 MiB"):
        QemuGuest(Kernel("k", tmp_path, tmp_path), python=tmp_path, memory_mib=128)


# -- the kernel -------------------------------------------------------------------------------


def elf(address):
    """The head of an ELF program whose second segment is loaded at ``address``."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    note = struct.pack("<IIQQQQQQ", 4, 4, 0, 0, 0, 0, 0, 4)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, address, 0, 0, 0, 4)
    return (header + note + load).ljust(4096, b"\0")


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        (bytes(0x202) + b"HdrS" + bytes(5000), True),
        (elf(0xFFFFFFFF81000000), True),
        (elf(0x60000000), False),
        (b"\x7fELF\x02", False),
        (b"#!/bin/sh\n", False),
    ],
    ids=["bzImage", "vmlinux", "program", "cut", "script"],
)
def test_kernels_for_machines_are_told_from_programs(tmp_path, content, is_one):
    (tmp_path / "k").write_bytes(content)
    assert built.is_image(tmp_path / "k") is is_one


def test_an_image_of_ones_own(tmp_path, tree):
    (tmp_path / "bzImage").write_bytes(bytes(0x202) + b"HdrS")
    kernel = built.custom(tmp_path / "bzImage", tmp_path)
    assert (kernel.guest, kernel.modules, kernel.release) == ("qemu", tree, "6.99-amd64")
    with pytest.raises(ProvisioningError, match="not executable"):
        built.custom(tmp_path / "bzImage", tree, "uml")


def test_of_thousands_of_modules_those_stay_that_guests_need(tree, tmp_path):
    image.keep_modules(tree, tmp_path / "kept")
    kept = sorted(
        str(path.relative_to(tmp_path / "kept"))
        for path in (tmp_path / "kept").rglob("*")
        if path.is_file()
    )
    assert kept == [
        "kernel/drivers/md/dm-bufio.ko",
        "kernel/drivers/md/dm-mod.ko",
        "kernel/drivers/md/dm-snapshot.ko",
        "kernel/fs/9p/9p.ko",
        "kernel/fs/netfs/netfs.ko",
        "kernel/lib/helper-of-dm.ko",
        "kernel/net/9p/9pnet.ko",
        "kernel/net/9p/9pnet_virtio.ko",
    ]
    assert (tmp_path / "kept/kernel/fs/9p/9p.ko").read_bytes() == module(b"9p", "9pnet", "netfs")


class Packages:
    """A suite whose packages unpack as told."""

    def __init__(self, parts, tree):
        self.expired = False
        self.packages = []
        self.parts = parts
        self.tree = tree

    def update(self):
        pass

    def dependencies(self, package, pattern):
        return [name for name in self.parts.get(package, []) if re.fullmatch(pattern, name)]

    def download(self, package):
        return Path(package)

    def unpack(self, _deb, into):
        shutil.copytree(self.tree, into, dirs_exist_ok=True)


@pytest.mark.parametrize("layout", ["boot/vmlinuz-6.99", "usr/lib/modules/6.99-amd64/vmlinuz"])
def test_a_kernel_from_packages_is_laid_out(tmp_path, tree, monkeypatch, layout):
    packages = Packages(
        {
            "linux-image-amd64": ["linux-image-6.99-amd64"],
            "linux-image-6.99-amd64": ["linux-base-6.99", "linux-modules-6.99-amd64"],
        },
        tmp_path / "package",
    )
    home = tmp_path / "package" / ("usr" if layout.startswith("usr") else "")
    shutil.copytree(tree.parents[1], home / "lib")
    (tmp_path / "package" / layout).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "package" / layout).write_bytes(b"image")
    monkeypatch.setattr(image, "PrivateApt", lambda *_rest: packages)
    monkeypatch.setattr(image, "unpack", packages.unpack)
    monkeypatch.setattr(image, "debian_mirror", lambda: "file:/x")
    monkeypatch.setattr(image, "deb_version", lambda deb: f"version of {deb}")
    monkeypatch.setattr(image, "sha256_of", lambda deb: f"sum of {deb}")
    (tmp_path / "into").mkdir()
    got = image.fetch_image(
        suite="s",
        package="linux-image-amd64",
        into=tmp_path / "into",
        work=tmp_path,
        progress=lambda _line: None,
    )
    assert got is not None
    assert (got.version, got.release) == ("version of linux-image-6.99-amd64", "6.99-amd64")
    assert (tmp_path / "into/linux").read_bytes() == b"image"
    assert (tmp_path / "into/modules/6.99-amd64/kernel/drivers/md/dm-snapshot.ko").is_file()
    with pytest.raises(ProvisioningError, match="linux-image-cloud of suite s names no kernel"):
        image.fetch_image(
            suite="s",
            package="linux-image-cloud",
            into=tmp_path / "into",
            work=tmp_path / "again",
            progress=lambda _line: None,
        )
