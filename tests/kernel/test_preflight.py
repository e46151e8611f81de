"""Preflight in real guests: a fit one, and ones that are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import GuestLost, ProvisioningError
from harness.guest import catalogue
from harness.guest.catalogue import Kernel
from harness.guest.uml import UmlGuest
from harness.measure import preflight


@pytest.fixture(scope="module")
def kernel(bootable: Callable[[str], Kernel]) -> Kernel:
    return bootable(catalogue.default())


def test_a_guest_is_fit(kernel: Kernel) -> None:
    found = preflight.of_guest(kernel)
    preflight.require(found, kernel.name)
    by_name = {finding.name: finding.detail for finding in found}
    assert by_name["kernel"] == kernel.release
    assert "snapshot-merge 1." in by_name["targets"]
    assert by_name["module parameters"] == "snapshot_cow_threshold 2048"


def test_without_its_modules_it_is_not(kernel: Kernel, tmp_path: Path) -> None:
    found = preflight.of_guest(replace(kernel, modules=tmp_path))
    wrong = {finding.name for finding in found if not finding.ok}
    assert wrong == {"targets", "dmsetup"}
    with pytest.raises(ProvisioningError, match=r"not fit to run scenarios.*modprobe dm_snapshot"):
        preflight.require(found, kernel.name)


def test_a_guest_that_never_boots_is_lost_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_BOOT_LIMIT_S", 1.0)
    # It did boot once.
    monkeypatch.setattr(UmlGuest, "prove", lambda _guest: "boots")
    program = tmp_path / "linux"
    program.write_text("#!/bin/sh\necho no kernel at all\nexec sleep 600\n")
    program.chmod(0o755)
    with pytest.raises(GuestLost, match=r"took more than 1 s to come up.*\nno kernel at all"):
        preflight.of_guest(Kernel("mine", program, tmp_path))
    program.write_text("#!/bin/sh\necho broken\n")
    with pytest.raises(GuestLost, match=r"ended when it was to come up.*\nbroken"):
        preflight.of_guest(Kernel("mine", program, tmp_path))
