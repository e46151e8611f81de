"""QEMU guests: a distribution's kernel is compared like any other.

They boot Debian 12's own kernel, which is fetched if it is not cached.  Only where QEMU is not
installed they are skipped: dmsnap works without it.  How they are lost is in test_guest_loss.py.
"""

import pytest

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.guest import qemu
from harness.guest.fetch import initramfs, provision
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose

pytestmark = pytest.mark.skipif(
    not qemu.installed(), reason=f"QEMU is not installed; type: {initramfs.INSTALL}"
)

KERNEL = "deb-6.1"
SCENARIOS = (
    "bring_up[P]",
    "ctr_features",
    "overflow_in_flight[P]",
    "merge_overflows_another[PO]",
    "blocks_of_4096_io",
    "every_status_line[invalid]",
    "largest_chunk",
)


def test_a_distribution_s_kernel_is_the_same(tmp_path):
    kernel = provision.fetch(KERNEL)
    traces = tuple(scenario.trace(1) for scenario in choose(SCENARIOS))
    report = execute(
        Plan(traces=traces, kernels=(kernel,), jobs=2, directory=tmp_path), Reporters([])
    )
    assert {result.scenario: result.verdict for result in report.results} == dict.fromkeys(
        SCENARIOS, "same"
    )
    assert {result.release for result in report.results} == {kernel.release}
