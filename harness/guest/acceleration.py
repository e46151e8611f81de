"""Which acceleration a QEMU guest gets, and how slow that makes it: proven by a boot, not assumed.

A /dev/kvm that opens proves nothing: there are hosts on which its guests never execute their
first instruction.  So KVM is used only after a small machine, which says one line and powers off,
did so within a time limit.  The same machine under the emulator tells how much slower than
User-mode Linux a guest will be, by which all its time limits are stretched.

The proof is kept until the host is booted anew, or has another CPU or QEMU.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from harness.errors import ProvisioningError
from harness.files import write_whole
from harness.guest.boots import this_host

KVM: Final = "kvm"
TCG: Final = "tcg"
KVM_DEVICE: Final = Path("/dev/kvm")

KVM_LIMIT_S: Final = 20.0
"""With KVM the small machine is over in one or two seconds."""
TCG_LIMIT_S: Final = 240.0
REFERENCE_S: Final = 1.5
"""What the small machine takes where a guest is as fast as User-mode Linux."""
SLOWNESS_MAX: Final = 20.0

Boot = Callable[[str, float], float | None]
"""Boots the small machine with an acceleration, within a limit in seconds; how long it took, None
where it did not say its line."""


class Proof(msgspec.Struct, frozen=True):
    """What was proven.

    Attributes:
        machine: what it was proven for (`this_machine`).
        name: ``kvm`` or ``tcg``.
        slowness: factor for time limits, at least 1.
        kvm: what came of KVM, in words.
    """

    machine: str
    name: str
    slowness: Annotated[float, msgspec.Meta(ge=1)]
    kvm: str


def this_machine(qemu_version: str) -> str:
    """What a proof holds for: this boot of this host, its processor, and the QEMU."""
    return f"{this_host()} / {qemu_version}"


def proven(machine: str, boot: Boot, *, cache: Path, device: Path = KVM_DEVICE) -> Proof:
    """The acceleration to use: from the cache, else by booting.

    Args:
        machine: `this_machine`.
        boot: boots the small machine.
        cache: file that keeps the proof.
        device: of KVM.

    Raises:
        ProvisioningError: the small machine does not even work under the emulator.
    """
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(cache.read_bytes(), type=Proof)
        if kept.machine == machine:
            return kept
    proof = _prove(machine, boot, device)
    with contextlib.suppress(OSError):  # a proof that cannot be kept is made again
        write_whole(cache, msgspec.json.encode(proof))
    return proof


def _prove(machine: str, boot: Boot, device: Path) -> Proof:
    if not os.access(device, os.R_OK | os.W_OK):
        kvm = f"{device} is not there or does not open"
    elif (seconds := boot(KVM, KVM_LIMIT_S)) is not None:
        return Proof(machine, KVM, slowness(seconds), "works")
    else:
        kvm = f"{device} opens, but a guest does not boot with it within {KVM_LIMIT_S:g} s"
    seconds = boot(TCG, TCG_LIMIT_S)
    if seconds is None:
        raise ProvisioningError(
            f"QEMU does not boot the kernel: no word from it within {TCG_LIMIT_S:g} s, not even "
            "emulated; is it an x86-64 kernel (bzImage or vmlinux) that can start from an "
            "initramfs and prints to a serial port (CONFIG_BLK_DEV_INITRD, "
            "CONFIG_SERIAL_8250_CONSOLE)?"
        )
    return Proof(machine, TCG, slowness(seconds), kvm)


def slowness(seconds: float) -> float:
    """The factor for time limits, from how long the small machine took."""
    return min(max(seconds / REFERENCE_S, 1.0), SLOWNESS_MAX)
