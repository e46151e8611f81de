"""Shrinking: each pass works, in its order; the result is the shortest of the same signature."""

import pytest

from harness.compare.diff import Verdict
from harness.fuzz import shrink
from harness.fuzz.signature import Signature, died_in
from harness.trace.files import Header, Trace
from harness.trace.steps import (
    Create,
    Discard,
    Disk,
    Flush,
    Load,
    Parallel,
    Poke,
    Read,
    Resume,
    Suspend,
    TargetLine,
    Write,
    Zeroout,
)

REASON = Signature(verdict=Verdict.DIVERGED, layer="status", step="write", what="status")
OTHER = Signature(verdict=Verdict.DIVERGED, layer="log", step="load", what="log")


def trace(*steps):
    return Trace(Header(scenario="t", seed=1), tuple(steps))


class Judge:
    """Asks ``shows`` of each trace's steps, and keeps the sizes of its batches."""

    def __init__(self, shows):
        self.shows = shows
        self.batches: list[int] = []

    def __call__(self, traces):
        self.batches.append(len(traces))
        assert len({each.header.scenario for each in traces}) == len(traces)
        return [self.shows(each.steps) for each in traces]


def reduced(shows, *steps, **options):
    return shrink.shrink(trace(*steps), Judge(shows), confirmations=1, **options)


def writes(steps):
    return [step for step in steps if isinstance(step, Write)]


def snapshot(args="{base} {cow} P 8", length=64, **options):
    return Load(name="s", table=(TargetLine(0, length, "snapshot", args),), **options)


def only(shows, edits, *steps):
    """What one pass alone makes of some steps."""
    return reduced(
        lambda each: REASON if shows(each) else None, *steps, passes=[("one", edits)]
    ).trace.steps


def test_the_passes_have_a_stated_order():
    assert [name for name, _ in shrink.PASSES] == [
        "spans", "devices", "requests", "lengths", "numbers", "tables", "names",
    ]  # fmt: skip
    text = shrink.__doc__ or ""
    places = [text.index(f"*{name}*") for name, _ in shrink.PASSES]
    assert places == sorted(places)


def test_passes_are_tried_in_their_order():
    """What the first ones propose stands first in a batch, and is preferred."""
    asked: list = []

    def judge(traces):
        asked.extend(each.steps for each in traces)
        return [REASON if writes(each.steps) else None for each in traces]

    long = Write(device="q", sector=9, sectors=5, generation=4, buffered=True)
    found = shrink.shrink(
        trace(Disk(name="q", sectors=64), Flush(device="q"), long), judge, confirmations=1
    )
    order = [name for name, _ in shrink.PASSES]
    assert list(found.rounds[0].names) == [name for name in order if name in found.rounds[0].names]
    plain = Write(device="q", sector=9, sectors=5, generation=4)
    shorter, plainer = (
        (Flush(device="q"), long),
        (Disk(name="q", sectors=64), Flush(device="q"), plain),
    )
    assert asked.index(shorter) < asked.index(plainer)
    assert found.trace.steps == (Write(device="q", sector=0, sectors=1),)


def test_spans_keeps_the_two_steps_that_are_needed():
    steps = [Write(device="d", sector=at, sectors=1) for at in range(40)]
    left = only(lambda each: steps[7] in each and steps[31] in each, shrink.spans, *steps)
    assert left == (steps[7], steps[31])


def test_devices_leaves_one_out_with_all_that_names_it():
    left = only(
        lambda each: (
            any(getattr(step, "device", "") == "b" for step in each)
            and any(isinstance(step, Disk) and step.name == "b" for step in each)
        ),
        shrink.devices,
        Disk(name="a", sectors=8),
        Disk(name="b", sectors=8),
        Read(device="a", sector=0, sectors=1),
        Read(device="b", sector=0, sectors=1),
        Parallel(ios=(Read(device="a", sector=0, sectors=1),)),
    )
    assert left == (Disk(name="b", sectors=8), Read(device="b", sector=0, sectors=1))


def test_devices_sends_io_to_another_one():
    wanted = Write(device="s", sector=0, sectors=1)
    proposed = [
        shrink.edited((Disk(name="s", sectors=8), Write(device="o", sector=0, sectors=1)), edit)
        for edit in shrink.devices(
            (Disk(name="s", sectors=8), Write(device="o", sector=0, sectors=1))
        )
    ]
    assert any(wanted in steps for steps in proposed)


def test_a_device_in_between_goes():
    linear = Load(name="l", table=(TargetLine(0, 64, "linear", "{base} 0"),))
    left = only(
        lambda each: any(
            isinstance(s, Load)
            and s.name == "s"
            and (linear in each or "{base}" in s.table[0].args)
            for s in each
        ),
        shrink.devices,
        Create(name="l"),
        linear,
        snapshot("{l} {cow} P 8"),
    )
    assert left == (snapshot(),)


def test_requests_become_plain():
    left = only(
        lambda each: len(each) == 6,
        shrink.requests,
        Write(device="d", sector=0, sectors=1, buffered=True, fill="zero"),
        Read(device="d", sector=0, sectors=1, buffered=True),
        Zeroout(device="d", sector=0, sectors=1),
        Discard(device="d", sector=0, sectors=1),
        Poke(device="d", sector=3, data=bytes(1024)),
        Suspend(name="s", flush=False),
    )
    assert left == (
        Write(device="d", sector=0, sectors=1),
        Read(device="d", sector=0, sectors=1),
        Write(device="d", sector=0, sectors=1),
        Write(device="d", sector=0, sectors=1),
        Write(device="d", sector=3, sectors=1),
        Suspend(name="s"),
    )


def test_parallel_io_becomes_one_after_another():
    ios = tuple(Write(device="d", sector=at, sectors=1) for at in range(3))
    left = only(
        lambda each: any(ios[1] in getattr(step, "ios", (step,)) for step in each),
        shrink.requests,
        Parallel(ios=ios),
    )
    assert ios[1] in left
    assert not any(isinstance(step, Parallel) for step in left)


def test_lengths_finds_the_smallest_that_still_differs():
    left = only(
        lambda each: writes(each) and writes(each)[0].sectors >= 23,
        shrink.lengths,
        Write(device="d", sector=0, sectors=300),
    )
    assert left == (Write(device="d", sector=0, sectors=23),)


def test_a_disk_shrinks_with_the_table_that_spans_it():
    left = only(
        lambda each: each[0].sectors == each[1].table[0].length,
        shrink.lengths,
        Disk(name="base", sectors=4096),
        snapshot(length=4096),
    )
    assert left == (Disk(name="base", sectors=8), snapshot(length=8))


def test_numbers_come_down():
    left = only(
        lambda each: writes(each) and writes(each)[0].sector >= 5,
        shrink.numbers,
        Write(device="d", sector=100, sectors=1, generation=77),
    )
    assert left == (Write(device="d", sector=5, sectors=1),)


def test_tables_lose_lines_features_and_odd_words():
    two = Load(
        name="s",
        table=(
            TargetLine(0, 8, "zero", ""),
            TargetLine(8, 8, "snapshot", "{base} {cow} PO 16 1 discard_zeroes_cow"),
        ),
    )
    left = only(
        lambda each: any(line.type == "snapshot" for line in each[0].table), shrink.tables, two
    )
    assert left == (Load(name="s", table=(TargetLine(0, 8, "snapshot", "{base} {cow} P 8"),)),)


def test_names_say_what_a_device_is():
    left = only(
        lambda _each: True,
        shrink.names,
        Disk(name="xx", sectors=64),
        Disk(name="yy", sectors=64),
        Create(name="zz"),
        Load(name="zz", table=(TargetLine(0, 64, "snapshot", "{xx} {yy} P 8"),)),
        Resume(name="zz"),
        Write(device="zz", sector=0, sectors=1),
    )
    assert left == (
        Disk(name="base", sectors=64),
        Disk(name="cow", sectors=64),
        Create(name="snap"),
        Load(name="snap", table=(TargetLine(0, 64, "snapshot", "{base} {cow} P 8"),)),
        Resume(name="snap"),
        Write(device="snap", sector=0, sectors=1),
    )


def test_what_differs_for_another_reason_is_no_way_to_go():
    """A life that is cut down may end in another fault than it began with."""
    needed = Write(device="d", sector=3, sectors=1)

    def shows(steps):
        return REASON if needed in steps and len(steps) > 2 else (OTHER if steps else None)

    found = reduced(shows, *[Write(device="d", sector=at, sectors=1) for at in range(12)])
    assert found.signature == REASON
    assert shows(found.trace.steps) == REASON
    assert len(found.trace.steps) == 3


def test_edits_that_do_not_go_together_are_halved():
    """Any one of two may go, not both."""
    first, second = (Write(device="d", sector=at, sectors=1) for at in (1, 2))
    found = reduced(
        lambda steps: REASON if first in steps or second in steps else None, first, second
    )
    assert len(found.trace.steps) == 1


def test_a_flaky_find_says_how_flaky():
    calls = iter(range(10_000))

    def judge(traces):
        return [REASON if next(calls) % 3 else None for _ in traces]

    found = shrink.shrink(trace(Flush(device="d")), judge, confirmations=6)
    assert (found.shown, found.asked) == (4, 6)


def test_nothing_to_reduce_is_an_error_that_says_so():
    with pytest.raises(shrink.NotShown, match="the same in 3 of 3 tries"):
        shrink.shrink(
            trace(Flush(device="d")), lambda traces: [None] * len(traces), confirmations=3
        )


def test_another_signature_than_the_wanted_one_is_refused():
    with pytest.raises(shrink.NotShown, match="it was to be"):
        shrink.shrink(trace(Flush(device="d")), lambda traces: [OTHER] * len(traces), wanted=REASON)


def test_a_budget_that_is_spent_ends_it_with_what_is_shortest_so_far():
    now = iter(range(0, 10_000, 10))
    found = reduced(
        lambda steps: REASON if len(steps) > 1 else None,
        *[Write(device="d", sector=at, sectors=1) for at in range(40)],
        budget=shrink.Budget(seconds=45, clock=lambda: next(now)),
    )
    assert not found.complete
    assert 1 < len(found.trace.steps) < 40


def test_a_find_that_kills_the_kernel_is_judged_in_small_batches():
    deadly = Signature(verdict=Verdict.DIVERGED, function="snapshot_map")
    judge = Judge(lambda steps: deadly if len(steps) > 1 else None)
    shrink.shrink(
        trace(*[Write(device="d", sector=at, sectors=1) for at in range(40)]),
        judge,
        confirmations=1,
    )
    assert max(judge.batches) == shrink.DEADLY_BATCH_MAX


def test_what_the_twin_refuses_is_not_asked_of_a_kernel():
    asked: list = []

    def judge(traces):
        asked.extend(each.steps for each in traces)
        return [REASON] * len(traces)

    needed = Disk(name="d", sectors=8)
    shrink.shrink(
        trace(needed, Flush(device="d")),
        judge,
        sound=lambda each: needed in each.steps,
        confirmations=1,
    )
    assert all(needed in steps for steps in asked)


@pytest.mark.parametrize(
    ("console", "function"),
    [
        ("RIP: 0010:snapshot_map+0x12/0x40 [dm_snapshot]\n", "snapshot_map"),
        (
            "panic: x\nCall Trace:\n [<60>] panic+0x1\n [<6080>] snapshot_ctr.cold+0x12/0x9\n",
            "snapshot_ctr",
        ),
        ("kernel BUG at drivers/md/dm-snap.c:12!\n", "dm-snap.c"),
        ("all is well\n", ""),
    ],
)
def test_a_console_names_the_function(console, function):
    assert died_in(console) == function
