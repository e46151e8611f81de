"""Known, new, gone; turns; and what is told of a divergence."""

import datetime

import pytest

from harness.cli.run import arranged
from harness.compare import history
from harness.compare.diff import Divergence, Layer, Verdict
from harness.errors import ProvisioningError
from harness.report import junit, ktap, words
from harness.scenarios.elsewhere import chosen
from harness.trace.steps import Read
from harness.verdict import baseline
from harness.verdict import result as model
from harness.verdict.result import Result, RunReport

TODAY = datetime.date(2026, 11, 27)
TEXT = """
[[known]]
scenario = "bring_up"
kernel = "uml-*"
reason = "reported"

[[known]]
scenario = "tail_chunk*"
reason = "for a while"
until = 2026-11-26
"""


def result(scenario, verdict=Verdict.SAME, kernel="uml-6.12"):
    return Result(scenario=scenario, kernel=kernel, verdict=verdict)


def held(tmp_path, *results, text=TEXT):
    path = tmp_path / "known.toml"
    path.write_text(text)
    return baseline.applied(RunReport(results=results), baseline.read(path), TODAY)


def test_what_is_known_is_not_news(tmp_path):
    report = held(tmp_path, result("bring_up[P]", Verdict.DIVERGED), result("bring_up[N]"))
    assert report.nothing_differs
    assert report.known.new == report.known.gone == ()
    assert report.known.known == ("bring_up on uml-*: reported",)
    assert "0 new, 1 known, 0 gone" in words.against_baseline(report)
    assert b'failures="0"' in junit.render(report)
    assert "ok 1 bring_up[P] # XFAIL bring_up on uml-*: reported" in ktap.render(report).decode()


def test_what_is_not_known_is_new(tmp_path):
    report = held(
        tmp_path,
        result("bring_up[P]", Verdict.DIVERGED, "deb-6.1"),
        result("tail_chunk[N-5]", Verdict.LOST),
    )
    assert not report.nothing_differs
    assert report.known.new == (
        "bring_up[P] on deb-6.1: diverged",
        "tail_chunk[N-5] on uml-6.12: guest lost",
    )
    [expired] = report.known.expired
    assert expired == "tail_chunk* on *: for a while, until 2026-11-26"


def test_what_differs_no_more_is_gone(tmp_path):
    report = held(tmp_path, result("bring_up[P]"), result("bring_up[N]"))
    assert report.known.gone == ("bring_up on uml-*: reported",)
    # Not where it did not run.
    assert held(tmp_path, result("first_write")).known.gone == ()


def test_an_earlier_run_is_a_baseline(tmp_path):
    path = tmp_path / "results.json"
    earlier = RunReport(results=(result("bring_up[P] #2", Verdict.DIVERGED), result("bring_up[N]")))
    path.write_bytes(model.dumps(earlier))
    [entry] = baseline.read(path)
    assert (entry.scenario, entry.kernel) == ("bring_up[P]", "uml-6.12")


@pytest.mark.parametrize("text", ["[[known]]\nscenario = 'x'", "known = 3", "=", "[[other]]"])
def test_what_is_no_baseline_is_refused(tmp_path, text):
    with pytest.raises(ProvisioningError, match="not a baseline"):
        held(tmp_path, text=text)


def test_turns_have_names_and_a_rate():
    traces = arranged(chosen(["bring_up"]), 2, None)
    names = [trace.header.scenario for trace in traces]
    assert names[:4] == ["bring_up[P] #1", "bring_up[PO] #1", "bring_up[N] #1", "bring_up[P] #2"]
    report = RunReport(results=(*map(result, names[:-1]), result(names[-1], Verdict.LOST)))
    assert words.pass_rates(report) == [
        "bring_up[N] on uml-6.12: passed 1 of 2 (50%)",
        "2 of 3 passed each time",
    ]


def test_a_seed_gives_the_order():
    traces = chosen(["bring_up", "tail_chunk"])
    one, same, other = (arranged(traces, 1, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert sorted(one, key=str) == sorted(traces, key=str)


def test_what_touched_the_place_of_a_divergence():
    [trace] = chosen(["write_part_of_chunk[P-8]"])
    last = max(i for i, step in enumerate(trace.steps) if isinstance(step, Read))
    step = trace.steps[last]
    assert isinstance(step, Read)
    told = history.before(
        trace,
        Divergence(
            step=last,
            verb="",
            layer=Layer.CONTENT,
            what=f"content of {step.device}",
            left="",
            right="",
        ),
    )
    assert told[-1] == f"step {last} ({history.told(step)})"
    assert any("write" in line and "sector" in line for line in told[:-1])
    assert len(told) <= history.STEPS_MAX + 1
