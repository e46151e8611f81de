"""Every order of a small scenario: rules that hold, and bugs that only some orders show."""

import itertools

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.fuzz import exhaust as module
from harness.fuzz.exhaust import Bound, digest, exhaust
from harness.trace.backend import carry_out
from harness.trace.files import Header, Trace, loads
from harness.trace.steps import (
    Create,
    Disk,
    Load,
    Parallel,
    Resume,
    TargetLine,
    Write,
)
from harness.twin.backend import TwinBackend
from harness.twin.exceptions.table import ExceptionTable
from harness.twin.explore import answers_of
from harness.twin.persistent import PersistentStore
from harness.twin.profile import named
from harness.twin.world import World

PROFILE = named("6.12")


def two_writes(*ios):
    """A snapshot with chunks of two sectors, and I/O in flight at once."""
    return Trace(
        Header(scenario="two", seed=1),
        (
            Disk(name="base", sectors=8, fill="stamp"),
            Disk(name="cow", sectors=32),
            Create(name="snap"),
            Load(name="snap", table=(TargetLine(0, 8, "snapshot", "{base} {cow} P 2"),)),
            Resume(name="snap"),
            Parallel(ios=ios),
        ),
    )


SAME_CHUNK = two_writes(
    Write(device="snap", sector=0, sectors=1),
    Write(device="snap", sector=1, sectors=1, generation=2),
)
TWO_CHUNKS = two_writes(
    Write(device="snap", sector=0, sectors=1),
    Write(device="snap", sector=2, sectors=1, generation=2),
)


@pytest.mark.parametrize("trace", [SAME_CHUNK, TWO_CHUNKS])
def test_no_order_breaks_a_rule(trace):
    found = exhaust(trace, PROFILE)
    assert found.complete
    assert found.broken is None
    assert found.orders > len(trace.steps), "there was something to choose"


def outcomes(trace, monkeypatch, *, merge):
    """All that anybody could see at the end of any order."""
    seen = set()
    looked = module._looked_at

    def note(trace_, steps, backend, observations):
        if len(steps) == len(trace.steps):
            seen.add(digest(backend.world))
        return looked(trace_, steps, backend, observations)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_looked_at", note)
        found = exhaust(trace, PROFILE, merge=merge)
    assert found.complete
    return seen, found


def test_merging_loses_no_outcome(monkeypatch):
    trace = Trace(SAME_CHUNK.header, (*SAME_CHUNK.steps, SAME_CHUNK.steps[-1]))
    merged, fewer = outcomes(trace, monkeypatch, merge=True)
    every, more = outcomes(trace, monkeypatch, merge=False)
    assert merged == every
    assert fewer.merged > 0
    assert fewer.orders < more.orders


def world_after(trace, answers=()):
    backend = TwinBackend(PROFILE, answers_of(answers))
    for _ in carry_out(backend, trace.steps, trace.header.seed):
        pass
    return digest(backend.world)


def test_equal_worlds_have_equal_digests_and_others_have_not():
    assert world_after(SAME_CHUNK) == world_after(SAME_CHUNK)
    assert world_after(SAME_CHUNK) != world_after(TWO_CHUNKS)
    other = Trace(
        SAME_CHUNK.header,
        (*SAME_CHUNK.steps[:-1], Parallel(ios=(Write(device="snap", sector=0, sectors=1),))),
    )
    assert world_after(SAME_CHUNK) != world_after(other)


def stale_lookup(patch):
    """What was looked up before the process slept is used after: a race of its own."""
    stale = set()
    lookup, take = ExceptionTable.lookup, World.take_log

    def late(self, old):
        if (id(self), old) in stale:
            return -1
        found = lookup(self, old)
        if found < 0:
            stale.add((id(self), old))
        return found

    def forget(self):
        stale.clear()
        return take(self)

    patch.setattr(ExceptionTable, "lookup", late)
    patch.setattr(World, "take_log", forget)


def test_a_bug_that_only_another_order_shows_is_found(monkeypatch):
    stale_lookup(monkeypatch)
    found = exhaust(SAME_CHUNK, PROFILE)
    assert found.broken is not None
    assert not found.broken.always
    answers = found.broken.trace.header.answers
    assert any(answers)
    assert sum(map(bool, answers)) == 1, "the shortest bad order"
    assert found.broken.step == len(SAME_CHUNK.steps) - 1


def test_a_chunk_that_is_used_twice_is_found(monkeypatch):
    original = PersistentStore.prepare_exception
    counts = itertools.count()

    def twice(self):
        new = original(self)
        return new if next(counts) % 2 == 0 or new < 0 else 2

    monkeypatch.setattr(PersistentStore, "prepare_exception", twice)
    monkeypatch.setattr("harness.promises.check.check", lambda _trace, _seen: ())
    monkeypatch.setattr("harness.promises.witness.check", lambda _trace, _seen: ())
    found = exhaust(TWO_CHUNKS, PROFILE)
    assert found.broken is not None
    assert found.broken.rule == "no chunk is used twice"


def test_commits_out_of_order_are_found(monkeypatch):
    original = PersistentStore.prepare_exception
    handed = []

    def backwards(self):
        handed.append(original(self))
        return {2: 4, 4: 2}.get(handed[-1], handed[-1])

    monkeypatch.setattr(PersistentStore, "prepare_exception", backwards)
    trace = two_writes(*(Write(device="snap", sector=at, sectors=1) for at in (0, 2, 4)))
    found = exhaust(trace, PROFILE)
    assert found.broken is not None
    assert found.broken.rule == "commits come in the order of allocation"


def test_a_bound_is_reported():
    found = exhaust(SAME_CHUNK, PROFILE, Bound(runs=3))
    assert not found.complete
    assert found.orders == 3
    assert found.stopped_at is not None


def run(tmp_path, trace, *options):
    from harness.trace.files import write

    write(tmp_path / "t.jsonl", trace)
    return CliRunner().invoke(main, ["explore", str(tmp_path / "t.jsonl"), *options])


def test_the_command_says_that_all_orders_are_well(tmp_path):
    done = run(tmp_path, SAME_CHUNK)
    assert done.exit_code == 0, done.output
    assert "every order keeps the rules" in done.output


def test_the_command_prints_the_bad_order_as_a_trace(tmp_path, monkeypatch):
    stale_lookup(monkeypatch)
    done = run(tmp_path, SAME_CHUNK, "--output", str(tmp_path / "bad.jsonl"))
    assert done.exit_code == 1, done.output
    bad = loads((tmp_path / "bad.jsonl").read_bytes())
    assert any(bad.header.answers)
    assert "not in the first order" in done.output


def test_the_command_reports_its_bound(tmp_path):
    done = run(tmp_path, SAME_CHUNK, "--orders", "2")
    assert done.exit_code == 2, done.output
    assert "bound" in done.output
