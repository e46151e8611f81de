"""Every scenario of the catalogue, in a real kernel and in the twin."""

from dmsnap_pytest import ScenarioResult, check


def test_scenario(dmsnap_result: ScenarioResult) -> None:
    check(dmsnap_result)
