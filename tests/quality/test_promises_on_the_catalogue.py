"""The promise model on the whole catalogue, executed by the twin.

Two dangers: a break that is none (a user broke the rules, and the model did not notice), and a
model that promises nothing, and so finds nothing.
"""

import msgspec
import pytest

from harness import promise
from harness.scenarios.registry import catalogue
from harness.steps import Examine, Observation, Poke, Stamped
from harness.trace import Trace
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

BREAKS = ("origin_not_resumed", "snapshot_in_the_middle_of_a_merge[2]",
          "merge_commit_fails[True]", "discard_of_several_chunks[200]",
          *(f"merge_metadata_write_fails[{nth}-True]" for nth in (1, 2, 3)))
"""Scenarios in which real kernels break a promise, and the twin does as they do."""
PROMISED_MIN = 0.95
"""Of the stamped sectors that the last examine of each scenario shows on mapped devices.  Where a
store was written by hand, nothing of what it holds is promised."""

Lived = tuple[Trace, list[Observation]]


@pytest.fixture(scope="module")
def lives() -> dict[str, Lived]:
    found = {}
    for name, scenario in catalogue().items():
        if scenario.loses_guest:
            continue
        trace, twin = scenario.trace(), TwinBackend(Profile())
        twin.begin(trace.header.seed)
        found[name] = (trace, [twin.execute(i, step) for i, step in enumerate(trace.steps)])
    return found


def test_no_break_is_reported_where_there_is_none(lives: dict[str, Lived]) -> None:
    broken = {name for name, (trace, seen) in lives.items() if promise.check(trace, seen)}
    assert {name for name in broken if not name.startswith(BREAKS)} == set()
    assert len(broken) >= len(BREAKS)


def test_most_of_what_is_read_is_promised(lives: dict[str, Lived]) -> None:
    """With every stamp of the last examine made wrong, most of them are reported."""
    shown = found = 0
    for trace, seen in lives.values():
        if (not isinstance(trace.steps[-1], Examine)
                or any(isinstance(step, Poke) for step in trace.steps)):
            continue
        wrong = {device: tuple(Stamped("wrong", 1, 1, run.count) if isinstance(run, Stamped)
                               else run for run in runs)
                 for device, runs in seen[-1].content.items()}
        shown += sum(run.count for runs in wrong.values() for run in runs
                     if isinstance(run, Stamped))
        last = msgspec.structs.replace(seen[-1], content=wrong, image={})
        # Each place is reported once, so devices that show the same place are asked one by one.
        for device, runs in wrong.items():
            one = msgspec.structs.replace(last, content={device: runs})
            found += sum(b.sectors for b in promise.check(trace, [*seen[:-1], one])
                         if b.step == last.step)
    print(f"{found} of {shown} sectors are promised")
    assert found >= PROMISED_MIN * shown
