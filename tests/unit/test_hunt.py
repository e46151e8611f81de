"""The hunt: the same lives from the same seed, whatever the number of workers; what it keeps."""

import hashlib
import subprocess
import sys
from itertools import islice

import pytest
from click.testing import CliRunner
from rich.console import Console

from harness.cli import run as run_command
from harness.cli.main import main
from harness.compare.diff import Divergence, Layer, Verdict
from harness.fuzz import hunt as hunting
from harness.fuzz.features import features
from harness.fuzz.lives import written
from harness.fuzz.weights import WEIGHTS
from harness.report.hunt import HuntDisplay
from harness.trace.files import Header, Trace, dumps
from harness.trace.steps import Disk, Flush
from harness.verdict.result import Result


def digest(rounds, count):
    found = hashlib.sha256()
    for lives in islice(rounds, count):
        for life, kept in lives:
            found.update(dumps(life.trace) + b"+-"[kept : kept + 1])
    return found.hexdigest()


def test_the_same_seed_gives_the_same_lives_with_any_number_of_workers(monkeypatch):
    monkeypatch.setattr(hunting, "ROUND", 16)
    alone = digest(hunting.Lives(7, steps=8).rounds(), 3)
    assert digest(hunting.Lives(7, steps=8).rounds(), 3) == alone
    with hunting.workers(2) as pool:
        assert pool is not None
        assert digest(hunting.Lives(7, steps=8, pool=pool).rounds(), 3) == alone
    assert digest(hunting.Lives(8, steps=8).rounds(), 3) != alone


ELSEWHERE = """
from harness.fuzz import hunt
import hashlib
hunt.ROUND = 8
[lives] = [lives for lives, _ in zip(hunt.Lives(3, steps=8).rounds(), range(1))]
from harness.trace.files import dumps
print(hashlib.sha256(b"".join(dumps(life.trace) for life, _ in lives)).hexdigest())
"""


def test_nothing_of_a_process_goes_into_its_lives(tmp_path):
    """Another order of sets, another directory, another environment: the same lives."""
    found = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            env={"PYTHONHASHSEED": hashes, "HOME": str(tmp_path), "USER": hashes},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for hashes in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop()) == 65


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_kind_of_life_can_be_lived(name):
    for seed in range(4):
        trace, seen = written(seed, 15, weights=WEIGHTS[name])
        assert len(trace.steps) == len(seen) > 5


def test_a_life_goes_on_from_another_one():
    first, _ = written(1, 10, weights=WEIGHTS["everything"])
    second, _ = written(2, 20, weights=WEIGHTS["everything"], before=first.steps[:8])
    assert second.steps[:8] == first.steps[:8]
    assert len(second.steps) > 8


def test_features_tell_outcomes_apart():
    trace, seen = written(1, 15, weights=WEIGHTS["everything"])
    found = features(trace.steps, seen)
    assert found == features(trace.steps, seen)
    import msgspec

    other = [msgspec.structs.replace(each, error="EIO") for each in seen]
    assert features(trace.steps, other) - found


def differing(trace, step="flush"):
    return Result(
        scenario=trace.header.scenario,
        kernel="k",
        verdict=Verdict.DIVERGED,
        divergences=(
            Divergence(
                step=0, verb=f"{step} d", layer=Layer.ERROR, what="error", left="EIO",
                right="success",
            ),
        ),
    )  # fmt: skip


def same(trace):
    return Result(scenario=trace.header.scenario, kernel="k", verdict=Verdict.SAME)


def test_a_find_is_kept_once_for_each_signature():
    lives = hunting.Lives(1, steps=5)
    caught: list = []
    count = hunting.hunt(
        lives,
        [("k", lambda traces: [differing(each) for each in traces])],
        enough=lambda count: count.lives >= 64,
        caught=caught.append,
    )
    assert len(caught) == 1
    assert count.repeated == 63
    assert count.lives == 64


def test_the_corpus_is_tried_first(tmp_path):
    trace = Trace(Header(scenario="old"), (Disk(name="d", sectors=8), Flush(device="d")))
    path = hunting.add_to_corpus(tmp_path, trace)
    assert hunting.add_to_corpus(tmp_path, trace) == path
    (tmp_path / "0.jsonl").write_text("a vocabulary of another time\n")
    told: list = []
    corpus = hunting.read_corpus(tmp_path, told.append)
    assert [each.steps for each in corpus] == [trace.steps]
    assert told[0].startswith("0.jsonl is left out: ")

    asked = []

    def side(traces):
        asked.append([each.steps for each in traces])
        return list(map(same, traces))

    hunting.hunt(
        hunting.Lives(1, steps=5, corpus=corpus),
        [("k", side)],
        first=corpus,
        enough=lambda count: count.lives >= 1,
    )
    assert asked[0] == [trace.steps]
    assert len(asked) == 2


def test_lives_with_something_new_are_kept():
    kept: list = []
    lives = hunting.Lives(1, steps=5)
    count = hunting.hunt(
        lives,
        [("k", lambda traces: list(map(same, traces)))],
        enough=lambda count: count.lives >= 128,
        keep=kept.append,
    )
    assert 0 < len(kept) == count.kept < 128
    assert count.features == len(lives.seen)


def test_what_is_shown_is_printable_and_says_how_far_it_is(capsys):
    console = Console(width=200, color_system=None)
    with HuntDisplay(["uml\x1b[2J"], 5, console) as display:
        display.show(10, 200, 30, 1, 2)
        display.find("k", "life\x1b]0;x\x07", "why", "where")
    assert "\x1b" not in capsys.readouterr().out
    assert "10 lives, 200 steps" in display.summary()
    assert "2 guests lost" in display.summary()


def test_the_command_refuses_an_unknown_kernel():
    done = CliRunner().invoke(main, ["fuzz", "--kernel", "nosuch", "--cases", "1"])
    assert done.exit_code == 2
    assert "nosuch" in done.output


def test_a_run_that_differs_offers_the_bundle():
    trace = Trace(Header(scenario="a[b]"), ())
    offer = run_command.bundle_offer([same(trace), differing(trace)])
    assert offer.endswith("dmsnap report 'a[b]' --kernel k --seed 0")
    assert run_command.bundle_offer([same(trace)]) == ""
