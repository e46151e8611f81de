"""Known defects that kill a kernel: where it dies, the twin has announced it.

Some kernels survive some of them; then all that they show is compared.
"""

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.guest.fetch import provision
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose
from harness.trace.files import Layer
from tests.kernel.register import REGISTER

DEFECT_OF = {
    "store_kills_kernel": "store-kills-kernel",
    "discard_small_chunks": "discard-divide-error",
    "merge_of_transient_crashes": "merge-transient-crash",
    "written_after_a_failed_merge": "write-after-failed-merge",
}
"""Scenario → its entry in the register, which says on which releases a kernel dies of it."""


def test_a_kernel_dies_where_it_was_announced_or_is_the_same(kernel_name, tmp_path):
    report = execute(
        Plan(
            traces=tuple(scenario.trace() for scenario in choose(DEFECT_OF)),
            kernels=(provision.fetch(kernel_name),),
            jobs=1,
            directory=tmp_path,
        ),
        Reporters([]),
    )
    assert report.nothing_differs
    assert {result.scenario for result in report.results} == {*DEFECT_OF}
    for result in report.results:
        assert result.verdict in {"same", "dies on both sides"}, result
        dies = result.verdict == "dies on both sides"
        said = REGISTER[DEFECT_OF[result.scenario]].get(result.release)
        # The verdict stands; a release that has no column yet may die or not.
        assert said is None or dies == ("dies" in said), result
        if dies:
            assert ", kills the kernel: " in result.reason
            assert result.attempts == 1, "a death that was announced is not tried again"
        # All steps before the death were compared, and so was all where there was none.
        assert result.compared[Layer.ERROR] == result.steps


def test_freed_memory_kills_or_shows(kernel_name, tmp_path):
    """What it holds cannot be known: a kernel dies of it, or lives on and may show rubbish."""
    [result] = execute(
        Plan(
            traces=(choose(["origin_named_again"])[0].trace(),),
            kernels=(provision.fetch(kernel_name),),
            jobs=1,
            directory=tmp_path,
        ),
        Reporters([]),
    ).results
    print(kernel_name, result.verdict, result.reason)
    assert result.verdict in {"same", "dies on both sides", "diverged"}
    assert "did not announce" not in result.reason
    assert result.verdict != "diverged" or {each.layer for each in result.divergences} <= {
        "table",
        "log",
        "error",
        "content",
        "status",
    }
    assert result.verdict != "diverged" or result.divergences
