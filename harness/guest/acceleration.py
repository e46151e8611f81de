"""Which acceleration a QEMU guest gets, and how slow that makes it; proven by a boot.

A /dev/kvm that opens proves nothing: on some hosts its guests never execute their first
instruction.  So KVM is used only after a small machine, which prints one line and powers off, did
so within a time limit.  The same machine under the emulator shows how much slower than User-mode
Linux a guest will be; all its time limits are stretched by that factor.

The proof is kept until the host reboots, or its CPU or QEMU changes.
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
"""With KVM the small machine takes one or two seconds."""
TCG_LIMIT_S: Final = 240.0
REFERENCE_S: Final = 1.5
"""Time of the small machine if a guest is as fast as User-mode Linux."""
SLOWNESS_MAX: Final = 20.0

Boot = Callable[[str, float], float | None]
"""Boots the small machine with an acceleration, within a limit in seconds; returns how long it
took, None if it did not print its line."""


class Proof(msgspec.Struct, frozen=True):
    """What was proven.

    Attributes:
        machine: what it was proven for (`this_machine`).
        name: ``kvm`` or ``tcg``.
        slowness: factor for time limits, at least 1.
        kvm: the result for KVM, in words.
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
        ProvisioningError: the small machine does not work even under the emulator.
    """
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(cache.read_bytes(), type=Proof)
        if kept.machine == machine:
            return kept
    proof = _prove(machine, boot, device)
    with contextlib.suppress(OSError):  # a proof that cannot be saved is made again
        write_whole(cache, msgspec.json.encode(proof))
    return proof


def _prove(machine: str, boot: Boot, device: Path) -> Proof:
    if not os.access(device, os.R_OK | os.W_OK):
        kvm = f"{device} does not exist or does not open"
    elif (seconds := boot(KVM, KVM_LIMIT_S)) is not None:
        return Proof(machine, KVM, slowness(seconds), "works")
    else:
        kvm = f"{device} opens, but a guest does not boot with it within {KVM_LIMIT_S:g} s"
    seconds = boot(TCG, TCG_LIMIT_S)
    if seconds is None:
        raise ProvisioningError(
            f"QEMU does not boot the kernel: no output within {TCG_LIMIT_S:g} s, even "
            "emulated; is it an x86-64 kernel (bzImage or vmlinux) that can start from an "
            "initramfs and prints to a serial port (CONFIG_BLK_DEV_INITRD, "
            "CONFIG_SERIAL_8250_CONSOLE)?"
        )
    return Proof(machine, TCG, slowness(seconds), kvm)


def slowness(seconds: float) -> float:
    """The factor for time limits, from how long the small machine took."""
    return min(max(seconds / REFERENCE_S, 1.0), SLOWNESS_MAX)
