"""Every scenario of the catalogue, in a real kernel and in the twin."""

from harness.plugin import check
from harness.verdict.result import Result


def test_scenario(dmsnap_result: Result) -> None:
    check(dmsnap_result)
