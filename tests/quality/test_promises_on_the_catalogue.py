"""The promise model, and the store as a witness, on the whole catalogue, executed by the twin.

Two dangers: a break that is none (a user broke the rules, and the model did not notice), and a
model that promises nothing, and so finds nothing.
"""

from contextlib import suppress
from typing import NamedTuple

import msgspec
import pytest

from harness import store
from harness.errors import KernelCrash, MalformedStore
from harness.promises import check as promise
from harness.promises import witness
from harness.scenarios.registry import Scenario, catalogue, choose
from harness.trace import pattern
from harness.trace.backend import carry_out
from harness.trace.files import Trace
from harness.trace.observations import Observation, Stamped
from harness.trace.steps import Examine, Poke
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile
from harness.verdict.defects import Defect, register

BREAKS = (
    "origin_not_resumed",
    "snapshot_in_the_middle_of_a_merge[2]",
    "merge_commit_fails[True]",
    "link_in_a_merge[dies-clear]",
    "discard_of_several_chunks[200]",
    *(f"merge_metadata_write_fails[{nth}-True]" for nth in (1, 2, 3)),
    "written_after_merge_metadata_failed",
    "header_write_at_invalidation_fails",
    "a_disk_that_is_dead",
    "link_of_cow_in_a_copy[dies-P]",
    "links_of_both_in_a_copy[dies]",
    "link_in_a_commit[dies-",
    "link_in_an_overflow[dies]",
)
"""Scenarios in which real kernels break a promise, and the twin does as they do."""
PROMISED_MIN = 0.95
"""Of the stamped sectors that the last examine of each scenario shows on mapped devices.  Where a
store was written by hand, nothing of what it holds is promised."""

FOUND_OUT_MIN = {"header": 0.95, "entry": 0.6}
"""Of the stores with exceptions that the last examine of each scenario shows.  A lying header is
seen on any disk; an entry only where a snapshot stands on it that is neither Invalid nor full,
and a third of them are gone by then."""


class Lived(NamedTuple):
    """A scenario, what the twin saw of it, and the known defects that struck, with their steps."""

    trace: Trace
    seen: list[Observation]
    struck: dict[str, int]


def live(scenario: Scenario) -> Lived:
    trace, twin = scenario.trace(), TwinBackend(Profile())
    lived = Lived(trace, [], {})
    with suppress(KernelCrash):
        for observation in carry_out(twin, trace.steps, trace.header.seed):
            lived.seen.append(observation)
            lived.struck.update(twin.defects)
    lived.struck.update(twin.defects)
    return lived


@pytest.fixture(scope="module")
def lives() -> dict[str, Lived]:
    return {
        name: live(scenario) for name, scenario in catalogue().items() if not scenario.loses_guest
    }


def test_no_break_is_reported_where_there_is_none(lives: dict[str, Lived]) -> None:
    broken = {name for name, (trace, seen, _) in lives.items() if promise.check(trace, seen)}
    assert {name for name in broken if not name.startswith(BREAKS)} == set()
    assert len(broken) >= len(BREAKS)


def test_every_broken_promise_has_a_name(lives: dict[str, Lived]) -> None:
    """One that no known defect explains is news, and belongs into the register."""
    nameless = {
        name
        for name, (trace, seen, struck) in lives.items()
        if (promise.check(trace, seen) or witness.check(trace, seen)) and not struck
    }
    assert nameless == set()


@pytest.mark.parametrize("defect", register().values(), ids=register())
def test_a_defect_strikes_where_the_register_says(lives: dict[str, Lived], defect: Defect) -> None:
    for named in defect.scenarios:
        for scenario in choose([named]):
            struck = (lives.get(scenario.name) or live(scenario)).struck
            assert defect.name in struck, scenario.name


def test_only_what_needs_a_power_cut_strikes_nowhere() -> None:
    assert [each.name for each in register().values() if not each.scenarios] == [
        "invalid-not-durable"
    ]


def test_most_of_what_is_read_is_promised(lives: dict[str, Lived]) -> None:
    """With every stamp of the last examine made wrong, most of them are reported."""
    shown = found = 0
    for trace, seen, _ in lives.values():
        if not isinstance(trace.steps[-1], Examine) or any(
            isinstance(step, Poke) for step in trace.steps
        ):
            continue
        wrong = {
            device: tuple(
                Stamped("wrong", 1, 1, run.count) if isinstance(run, Stamped) else run
                for run in runs
            )
            for device, runs in seen[-1].content.items()
        }
        shown += sum(
            run.count for runs in wrong.values() for run in runs if isinstance(run, Stamped)
        )
        last = msgspec.structs.replace(seen[-1], content=wrong, image={})
        # Each place is reported once, so devices that show the same place are asked one by one.
        for device, runs in wrong.items():
            one = msgspec.structs.replace(last, content={device: runs})
            found += sum(
                b.sectors for b in promise.check(trace, [*seen[:-1], one]) if b.step == last.step
            )
    print(f"{found} of {shown} sectors are promised")
    assert found >= PROMISED_MIN * shown


def test_every_store_bears_its_snapshot_out(lives: dict[str, Lived]) -> None:
    found = {name: witness.check(trace, seen) for name, (trace, seen, _) in lives.items()}
    assert {name: broken for name, broken in found.items() if broken} == {}


def test_most_stores_that_lie_are_found_out(lives: dict[str, Lived]) -> None:
    """With one entry changed in a store, or its header made wrong, it no longer fits."""
    lies = {"entry": 0, "header": 0, "stores": 0}
    for trace, seen, _ in lives.values():
        last = seen[-1]
        if not isinstance(trace.steps[-1], Examine) or witness.check(trace, seen):
            continue
        for disk, image in last.image.items():
            data = bytearray(pattern.decode(trace.header.seed, image))
            try:
                found = store.parse(data)
            except MalformedStore:
                continue
            if not found.count:
                continue
            lies["stores"] += 1
            area = found.chunk_sectors * 512
            for lie in ("entry", "header"):
                wrong = bytearray(data)
                if lie == "entry":
                    wrong[area] ^= 1  # the chunk that the first exception stands for
                else:
                    wrong[0] ^= 1
                told = msgspec.structs.replace(
                    last, image=last.image | {disk: pattern.encode(trace.header.seed, bytes(wrong))}
                )
                lies[lie] += bool(witness.check(trace, [*seen[:-1], told]))
    print(lies)
    assert lies["stores"] > 0
    for lie, least in FOUND_OUT_MIN.items():
        assert lies[lie] >= least * lies["stores"]
