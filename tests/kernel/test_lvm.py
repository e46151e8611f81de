"""The real LVM2 in a guest: all seven situations, and that a difference is found."""

from pathlib import Path

import msgspec
import pytest

from harness.campaign.replay import observe_kernel
from harness.errors import ProvisioningError
from harness.guest.fetch import provision
from harness.lvm import enact as lvm
from harness.lvm.situations import SITUATIONS
from harness.trace import files as trace
from harness.trace.observations import Stamped
from harness.twin import explore
from harness.verdict.judge import judge

KERNEL = "uml-6.12"

try:
    lvm.check_installed()
except ProvisioningError as fault:
    pytest.skip(str(fault), allow_module_level=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lvm")


@pytest.fixture(scope="module")
def rows(place: Path) -> dict[str, lvm.Findings]:
    release, rows = lvm.run(provision.fetch(KERNEL), SITUATIONS, place, jobs=2)
    print("\n".join(lvm.table(KERNEL, release, rows)))
    return {row.situation.name: row for row in rows}


@pytest.mark.parametrize("name", [situation.name for situation in SITUATIONS])
def test_the_twin_does_what_lvm_sees(rows: dict[str, lvm.Findings], name: str) -> None:
    row = rows[name]
    assert row.faults == []
    assert row.calls > 20
    assert row.values > 200
    assert row.store
    assert len(row.traces) == len(row.situation.boots)


def test_the_merge_was_interrupted_in_the_middle(rows: dict[str, lvm.Findings]) -> None:
    [words] = [words for words in rows["merge-interrupted"].store if "power lost" in words]
    left, all_of_them = (int(word) for word in words.split() if word.isdigit())
    assert 0 < left < all_of_them


@pytest.mark.parametrize("number", [0, 1])
def test_its_traces_can_be_replayed_in_another_kernel(
    rows: dict[str, lvm.Findings], number: int
) -> None:
    document = trace.read(rows["merge-interrupted"].traces[number])
    _, outcome = observe_kernel(document, provision.fetch(KERNEL))
    result, _ = judge(document, outcome, KERNEL)
    assert result.verdict == "same", result


def _other_status(seen):
    """Another number of metadata sectors."""

    def change(state):
        if state is None or " snapshot " not in (state.status or ""):
            return state
        return msgspec.structs.replace(state, status=state.status.removesuffix("16") + "24")

    return msgspec.structs.replace(
        seen, state={name: change(state) for name, state in seen.state.items()}
    )


def _other_byte(seen):
    """Short runs of sectors that came from elsewhere."""

    def change(run):
        return (
            msgspec.structs.replace(run, sector=run.sector + 1)
            if isinstance(run, Stamped) and run.count < 64
            else run
        )

    return msgspec.structs.replace(
        seen, image={name: tuple(change(run) for run in runs) for name, runs in seen.image.items()}
    )


def _less_events(seen):
    return msgspec.structs.replace(seen, uevents=seen.uevents[1:])


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (_other_status, "status: status of vg-snap"),
        (_other_byte, "store: image of disk"),
        (_less_events, "uevent"),
    ],
)
def test_a_twin_that_lies_is_found(tmp_path, change, layer):
    def lying(steps, seed, profile):
        return [change(seen) for seen in explore.run(steps, seed, profile)]

    _, [row] = lvm.run(provision.fetch(KERNEL), lvm.chosen(["merge"]), tmp_path, simulate=lying)
    assert any(layer in fault for fault in row.faults), row.faults
