"""`dmsnap compare`: two runs beside each other."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.cli.options import EXIT_CANNOT, EXIT_DIFFERS
from harness.compare.diff import Verdict
from harness.errors import ProvisioningError
from harness.report import beside as compare
from harness.trace.observations import DeviceState, Observation
from harness.verdict.result import Environment, Result, RunReport, dumps
from harness.wire.journal import Begin, End, JournalWriter, Observed, Ready, Started

STATUS = "0 64 snapshot 16/256 8"


def write_run(
    directory: Path,
    *results: Result,
    status: dict[tuple[str, str], str] | None = None,
    journal: bool = True,
) -> Path:
    """A report with the journals of its guests; ``status`` is by (kernel, scenario)."""
    directory.mkdir()
    (directory / "results.json").write_bytes(
        dumps(
            RunReport(environment=Environment(started="2026-01-01T00:00:00+00:00"), results=results)
        )
    )
    for kernel in {result.kernel for result in results} if journal else ():
        guest = directory / "guests" / kernel / "guest-0001"
        guest.mkdir(parents=True)
        with JournalWriter(guest / "journal.jsonl") as file:
            file.write(Ready("6.12", "#1"))
            for result in results:
                if result.kernel == kernel:
                    line = (status or {}).get((kernel, result.scenario), STATUS)
                    file.write(
                        Begin(result.scenario, 1),
                        Started(0),
                        Observed(
                            Observation(
                                step=0, state={"snap": DeviceState(status=line), "gone": None}
                            )
                        ),
                        End(result.scenario),
                    )
    return directory


def result(
    scenario: str, kernel: str = "one", verdict: Verdict = Verdict.SAME, us: int = 1000
) -> Result:
    return Result(scenario=scenario, kernel=kernel, verdict=verdict, kernel_us=us, twin_us=us)


def the_pair(a: Path | str, b: Path | str) -> compare.Pair:
    left, right = compare.open_run(str(a)), compare.open_run(str(b))
    [kernels] = compare.pairs(left, right)
    return compare.compare(left, right, kernels)


def test_equal_runs(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x"), result("y"))
    b = write_run(tmp_path / "b", result("x"), result("y", us=3000))
    pair = the_pair(a, b)
    assert pair.same
    assert (pair.both, pair.lines, pair.unknown, pair.kernel_us) == (2, 2, 0, (2000, 4000))
    assert not pair.times, "a change of 2 ms is noise"


def test_a_verdict_that_changed(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x"), result("y"))
    b = write_run(tmp_path / "b", result("x", verdict=Verdict.DIVERGED), result("y"))
    pair = the_pair(a, b)
    assert not pair.same
    assert pair.verdicts == {"x": ("same", "diverged")}
    assert "x: same → diverged" in compare.render(pair)


def test_a_status_line_that_changed(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x"))
    b = write_run(tmp_path / "b", result("x"), status={("one", "x"): "0 64 snapshot Invalid"})
    pair = the_pair(a, b)
    assert not pair.same
    assert pair.status == {"x": f"step 0, snap: A {STATUS!r}, B '0 64 snapshot Invalid'"}


def test_a_line_that_only_one_has() -> None:
    line = (3, "snap", "0 64 zero")
    assert compare._first_difference((line,), ()) == "only A has, at step 3, snap: '0 64 zero'"
    assert compare._first_difference((), (line,)) == "only B has, at step 3, snap: '0 64 zero'"


def test_scenarios_that_only_one_has(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", result("x")), write_run(tmp_path / "b", result("y"))
    pair = the_pair(a, b)
    assert (pair.both, pair.only_a, pair.only_b, pair.same) == (0, ("x",), ("y",), False)


def test_without_journals_it_says_so(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x"))
    b = write_run(tmp_path / "b", result("x"), journal=False)
    pair = the_pair(a, b)
    assert (pair.unknown, pair.lines) == (1, 0)
    assert "1 scenarios no longer have a journal" in compare.render(pair)


def test_slower_by_far(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x", us=100_000))
    b = write_run(tmp_path / "b", result("x", us=400_000))
    assert "x: 0.10 s → 0.40 s (×4.00)" in compare.render(the_pair(a, b))


def test_kernels_of_one_run(tmp_path: Path) -> None:
    both = write_run(tmp_path / "a", result("x"), result("x", "two", Verdict.LOST))
    assert compare.pairs(*[compare.open_run(str(both))] * 2) == [("one", "one"), ("two", "two")]
    pair = the_pair(f"{both}:one", f"{both}:two")
    assert pair.kernels == ("one", "two")
    assert pair.verdicts == {"x": ("same", "guest lost")}


def test_nothing_in_common(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x"), result("x", "two"))
    b = write_run(tmp_path / "b", result("x", "three"))
    with pytest.raises(ProvisioningError, match=r"no kernel in common .*give one of each"):
        compare.pairs(compare.open_run(str(a)), compare.open_run(str(b)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "there is no nowhere; give the directory"),
        ("a:four", "that run has no results of 'four'; it has one"),
        ("rubbish", "not a results file"),
    ],
)
def test_bad_sides_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    write_run(tmp_path / "a", result("x"))
    (tmp_path / "rubbish").write_bytes(os.urandom(64))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["compare", "a", name])
    assert done.exit_code == EXIT_CANNOT
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", result("x"))
    b = write_run(tmp_path / "b", result("x", verdict=Verdict.LOST))
    assert CliRunner().invoke(main, ["compare", str(a), str(a)]).exit_code == 0
    done = CliRunner().invoke(main, ["compare", str(a), str(b)])
    assert done.exit_code == EXIT_DIFFERS
    assert "x: same → guest lost" in done.stdout
