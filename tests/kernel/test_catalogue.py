"""Every scenario of the catalogue, in a real kernel and in the twin."""

from dmsnap_pytest import ScenarioResult, check


def test_scenario(dmsnap_result: ScenarioResult) -> None:
    check(dmsnap_result)
    data = dmsnap_result.data
    if data.get("kernel_promises") or data.get("twin_promises"):
        assert data.get("defects"), "a promise is broken that no known defect explains"
