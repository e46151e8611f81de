"""Known defects that kill a kernel: where it dies, the twin comes to a crash in the same step.

Some kernels survive some of them; then all that they show is compared.
"""

from harness.guest import catalogue
from harness.report.model import Reporters
from harness.run import Plan, execute
from harness.scenarios.registry import choose

DYING = ("store_kills_kernel", "discard_small_chunks", "merge_of_transient_crashes",
         "written_after_a_failed_merge")
ALWAYS = {"store_kills_kernel", "merge_of_transient_crashes", "written_after_a_failed_merge"}
"""On these three kernels."""


def test_both_sides_crash_or_none(kernel_name, tmp_path):
    report = execute(Plan(
        traces=tuple(scenario.trace() for scenario in choose(DYING)),
        kernels=(catalogue.fetch(kernel_name),), jobs=1, directory=tmp_path), Reporters([]))
    results = {result.scenario: result for result in report.results}
    assert {name: result.verdict for name, result in results.items()} == dict.fromkeys(
        DYING, "same")
    for name in ALWAYS:
        assert results[name].reason.startswith("both sides crash in step"), results[name]


def test_freed_memory_kills_or_shows(kernel_name, tmp_path):
    """What it holds cannot be known: a kernel dies of it, or lives on and may show rubbish."""
    [result] = execute(Plan(
        traces=(choose(["origin_named_again"])[0].trace(),),
        kernels=(catalogue.fetch(kernel_name),), jobs=1, directory=tmp_path),
        Reporters([])).results
    print(kernel_name, result.verdict, result.reason)
    assert result.verdict in {"same", "diverged"}
    assert result.verdict == "same" or {each.layer for each in result.divergences} <= {
        "table", "log", "error", "content", "status"}
