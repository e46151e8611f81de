"""QEMU: any x86-64 kernel, as distributions build it, in a virtual machine.

The guest's root is the host's own file system, read-only (9p), so Python and dmsnap run in it
unchanged and no image is ever built; its results directory is a second share, read-write, mounted
over itself.  A distribution's kernel needs an initramfs to get there
(`harness.guest.fetch.initramfs`); `vm/init` is then its first process, as in User-mode Linux.

The command line is entirely ours, from ``-no-user-config -nodefaults`` on: a machine with one CPU,
one serial line as console and two 9p devices, nothing else.  It runs in a cage
(`harness.guest.cage`) and with QEMU's own sandbox.  Any failure in the guest ends QEMU
(``-no-reboot``, ``panic=-1``, ``oops=panic``), and so does any end of dmsnap, as QEMU has a keeper
like every guest (`harness.guest.keeper`).

Left out on purpose: network, disks, a display, more than one CPU, machines other than x86-64.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from harness.errors import CannotBoot, ProvisioningError
from harness.guest import acceleration, boots
from harness.guest.catalogue import Kernel, Progress, cache_dir
from harness.guest.confinement import confine
from harness.guest.fetch import initramfs
from harness.guest.host_root import (
    AGENT,
    check_limits,
    check_seen,
    passing_dir,
    private_dir,
    write_init,
)
from harness.guest.process import KeptProcess
from harness.guest.programs import run

PROGRAM: Final = "qemu-system-x86_64"
WORKS: Final = "dmsnap: this machine works"
"""What `vm/initramfs-init` prints if nothing follows it."""
MARK: Final = "dmsnap.guest"
"""On the kernel's command line: this machine was made by dmsnap (`harness.kernel.machine`)."""
MEMORY_MIB_MIN: Final = 256
"""A distribution's kernel and Python do not both fit in less."""

_HOST_MIB: Final = 192
"""Memory of QEMU itself, most of it translated code."""
_PROOF_MIB: Final = 256
_VERSION_LIMIT_S: Final = 20.0
_KVM: Final = "/dev/kvm"
_MEMINFO: Final = Path("/proc/meminfo")


def installed() -> bool:
    """Whether this machine has what QEMU guests need."""
    return shutil.which(PROGRAM) is not None and initramfs.BUSYBOX.exists()


def check_installed() -> None:
    """Check that this machine has what QEMU guests need, before anything is fetched for them.

    Raises:
        ProvisioningError: something is missing; what to type.
    """
    program()
    initramfs.busybox()


def program() -> str:
    """Path of QEMU.

    Raises:
        ProvisioningError: it is not installed.
    """
    found = shutil.which(PROGRAM)
    if found is None:
        raise ProvisioningError(
            f"{PROGRAM} is missing on this machine; kernels that run in QEMU "
            f"need it; type: {initramfs.INSTALL}"
        )
    return found


def machine(accelerator: str, memory_mib: int) -> list[str]:
    """The virtual machine, without the kernel it boots."""
    # The emulated `max` has 5-level page tables, which cost time and gain nothing here.
    cpu = "host" if accelerator == acceleration.KVM else "max,la57=off"
    return [
        program(),
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine",
        "q35,usb=off,vmport=off",
        "-accel",
        accelerator,
        "-cpu",
        cpu,
        "-smp",
        "1",
        "-m",
        f"{memory_mib}M",
        "-serial",
        "stdio",
    ]


def booting(kernel: Path, initramfs_file: Path) -> list[str]:
    """The kernel that the machine boots."""
    words = (
        "console=ttyS0",
        "quiet",
        "panic=-1",
        "oops=panic",
        MARK,
        # Nobody attacks the guest from within, and emulated retpolines are slow.
        "mitigations=off",
        # A kernel's watchdogs take a waiting emulator for a hung CPU.
        "nowatchdog",
        "rcupdate.rcu_cpu_stall_suppress=1",
    )
    return ["-kernel", str(kernel), "-initrd", str(initramfs_file), "-append", " ".join(words)]


def share(tag: str, path: Path, *, writable: bool) -> list[str]:
    """A directory of the host as a 9p device."""
    # Commas separate options; in a name, a comma is doubled.
    name = str(path).replace(",", ",,")
    # "none": files belong to the user who runs QEMU; changing their owner may fail.
    access = "security_model=none,multidevs=remap" + ("" if writable else ",readonly=on")
    return [
        "-fsdev",
        f"local,id={tag},path={name},{access}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


class QemuGuest:
    """Starts QEMU guests of one kernel; a `harness.guest.process.Launcher`.

    Args:
        kernel: the kernel to boot.
        python: interpreter that runs in the guest; a venv's, so that it finds its packages.
        argv: its arguments; the results directory is appended.
        memory_mib: memory of the guest.
    """

    memory_mib = 768
    """Enough for the catalogue, and for a kernel with many more drivers than User-mode Linux."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        python: Path,
        argv: Iterable[str] = AGENT,
        memory_mib: int = memory_mib,
    ) -> None:
        if memory_mib < MEMORY_MIB_MIN:
            raise ProvisioningError(
                f"a guest needs at least {MEMORY_MIB_MIN} MiB of memory, {memory_mib} were given"
            )
        self.kernel = kernel
        self._python = python
        self._argv = tuple(argv)
        self._memory_mib = memory_mib
        self._proof: acceleration.Proof | None = None

    @property
    def slowness(self) -> float:
        """How much slower a guest is than User-mode Linux; time limits are stretched by it."""
        return self._proven().slowness

    def check(self, guests: int, results: Path) -> None:
        """Check that ``guests`` guests have memory, and can see every path they need.

        Raises:
            ProvisioningError: cause and cure.
        """
        program()
        initramfs.busybox()
        need_mib, free_mib = (self._memory_mib + _HOST_MIB) * guests, _available_mib()
        if free_mib < need_mib:
            raise ProvisioningError(
                f"{guests} QEMU guests need {need_mib} MiB of memory, {free_mib} MiB are free; "
                "run fewer guests (-j)"
            )
        check_limits()
        check_seen(self.kernel, self._python, results)
        self._proven()

    def start(self, results: Path) -> KeptProcess:
        """Boot a guest; it reads its job from ``results`` and writes its journal there.

        Raises:
            ProvisioningError: the guest cannot be started; cause and cure.
        """
        accelerator = self.accelerator
        private = private_dir()
        try:
            write_init(
                private,
                kernel=self.kernel,
                python=self._python,
                argv=self._argv,
                results=results,
                mount={
                    "TYPE": "9p",
                    "SOURCE": "results",
                    # The guest does not cache it; the host sees each record at once.
                    "OPTIONS": "trans=virtio,version=9p2000.L,msize=512000,cache=none",
                },
            )
            first = private / "initramfs"
            first.write_bytes(initramfs.build(self.kernel.modules, private / "init"))
            command = self.command(accelerator, first, results)
            cage = confine(
                command[0],
                self.kernel,
                self._python,
                self._argv,
                results=results,
                private=private,
                devices=(_KVM,),
                procfs=True,
            )
        except OSError as fault:
            shutil.rmtree(private, ignore_errors=True)
            raise ProvisioningError(
                f"cannot prepare a guest in {private}: {fault.strerror}; free space there"
            ) from fault
        except BaseException:  # Ctrl-C too
            shutil.rmtree(private, ignore_errors=True)
            raise
        return KeptProcess(
            command,
            results=results,
            private=private,
            cage=cage,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )

    def command(self, accelerator: str, first: Path, results: Path) -> list[str]:
        """QEMU and its arguments."""
        return [
            *machine(accelerator, self._memory_mib),
            *booting(self.kernel.program, first),
            *share("root", Path("/"), writable=False),
            *share("results", results, writable=True),
        ]

    # -- the proof --

    def prove(self, *, fresh: bool = False, progress: Progress = lambda _line: None) -> str:
        """Check that the kernel boots here; returns the result in words.

        Args:
            fresh: ignored; it always boots, as no proof is kept.
            progress: called with a line for each thing that happens.

        Raises:
            CannotBoot: it does not boot.
            ProvisioningError: no guest at all can be started here; cause and cure.
        """
        del fresh, progress
        small = QemuGuest(
            self.kernel, python=self._python, argv=boots.ARGV, memory_mib=MEMORY_MIB_MIN
        )
        limit_s = boots.LIMIT_S * small.slowness
        with passing_dir() as results:
            small.check(1, results)
            seen = boots.watch(small.start(results), boots.SAYS, limit_s)
        if not seen.works:
            raise CannotBoot(
                f"{self.kernel.name} does not boot on this machine: {boots.cause(seen, limit_s)}"
            )
        return f"boots in {seen.seconds:.1f} s ({small.accelerator})"

    @property
    def accelerator(self) -> str:
        """``kvm`` or ``tcg``, as proven."""
        return self._proven().name

    def _proven(self) -> acceleration.Proof:
        if self._proof is None:
            status, said = run([program(), "--version"], limit_s=_VERSION_LIMIT_S)
            version = said.splitlines()[0] if said and not status else ""
            self._proof = acceleration.proven(
                acceleration.this_machine(version),
                self._boot_small,
                cache=cache_dir().parent / "acceleration.json",
            )
        return self._proof

    def _boot_small(self, accelerator: str, limit_s: float) -> float | None:
        """Boot a machine that only prints that it works; returns how long it took, or None."""
        private = private_dir()
        console = private / "console"
        console.mkdir()
        first = private / "initramfs"
        first.write_bytes(initramfs.build(None, None))
        command = [*machine(accelerator, _PROOF_MIB), *booting(self.kernel.program, first)]
        seen = boots.watch(
            KeptProcess(
                command, results=console, private=private, env={"PATH": os.defpath, "LC_ALL": "C"}
            ),
            WORKS,
            limit_s,
        )
        return seen.seconds if seen.works else None


def _available_mib() -> int:
    for line in _MEMINFO.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) >> 10
    return 0
