"""Reports: what is written can be read back, by the rules of those who read it."""

import os
import re
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import junitparser
import msgspec
import pytest
from dmsnap_pytest import ScenarioResult, check
from rich.console import Console

from harness import files
from harness.compare.diff import Divergence, Layer, LayerLeftOut, Verdict
from harness.compare.place import Place
from harness.errors import BadTrace
from harness.plugin import answer
from harness.promises.check import SNAPSHOT_RULE, BrokenPromise
from harness.report import junit, ktap, words
from harness.report.gate import printable
from harness.report.junit import JunitReporter
from harness.report.ktap import KtapReporter
from harness.report.reporter import JsonReporter, Reporter, Reporters
from harness.report.terminal import LINES_MAX, Terminal
from harness.verdict import result as model
from harness.verdict.result import Environment, Result, RunReport

COMPARED = dict.fromkeys(Layer, 12) | {Layer.STORE: 2, Layer.EVENT: 0}
PLACE = Place(
    device="cow",
    byte=4120,
    sector=8,
    chunk=1,
    chunk_sectors=8,
    differ=1,
    of=256,
    left="bytes without a stamp",
    right="bytes without a stamp",
    hex_at=4112,
    left_hex="00 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00",
    right_hex="00 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00",
    store="metadata area 0, entry 1, new chunk\nentry: kernel 0 → 3, twin 0 → 4",
)
STORE = Divergence(
    step=9,
    verb="examine",
    layer=Layer.STORE,
    what="image of cow",
    left=PLACE.left,
    right=PLACE.right,
    place=PLACE,
)
STATUS = Divergence(
    step=9,
    verb="examine",
    layer=Layer.STATUS,
    what="status of s",
    left="0 2048 snapshot 32/512 16",
    right="0 2048 snapshot 40/512 16",
)
STRANGE = """\
Subtest: another
KTAP version 1
1..3
ok 1 another
not ok 2 another # SKIP
List of all partitions:
Kernel panic - not syncing: VFS: Unable to mount root fs
reboot: System halted
"""
"""Last lines of a console that mean something to a reader of KTAP."""
BROKEN = BrokenPromise(
    step=8,
    device="s",
    sector=8,
    sectors=24,
    rule=SNAPSHOT_RULE,
    promised="sector 8 of base, generation 0",
    read="sector 8 of o, generation 1",
)


def result(
    scenario: str, verdict: Verdict = Verdict.SAME, kernel: str = "uml-6.12", **fields: object
) -> Result:
    release = {"uml-6.12": "6.12.107", "uml-7.2": "7.2.13"}[kernel]
    return msgspec.structs.replace(
        Result(
            scenario=scenario,
            kernel=kernel,
            verdict=verdict,
            release=release,
            seed=7,
            compared=COMPARED,
            steps=12,
            kernel_us=123_456,
            twin_us=1_234,
        ),
        **fields,
    )


RESULTS = (
    result("create-persistent"),
    result("write-over-the-end-of-an-area-by-one-sector-too-many"),
    result("origin-split", kernel_promises=(BROKEN,), twin_promises=(BROKEN,)),
    result("overflow-by-origin", Verdict.DIVERGED, divergences=(STATUS, STORE), later=2),
    result(
        "crash-panic",
        Verdict.LOST,
        reason="the guest panicked in step 3 (write s)",
        attempts=2,
        release="",
        compared={},
        console="[    1.0] ok\n\x1b[31mKernel panic\x00 - not syncing: sysrq <&]]>\n",
    ),
    result("discard", Verdict.UNSUPPORTED, reason="this kernel has no discards", compared={}),
    result("typo # SKIP [red]", Verdict.BROKEN, reason="unknown device 'x'", compared={}),
    result(
        "race",
        Verdict.NONDETERMINISTIC,
        reason="the kernel did one of the 6 permitted orders\nand the twin another",
    ),
    result(
        "log-shared",
        not_compared=(
            LayerLeftOut(Layer.LOG, "the log of this guest is shared with others", 12, 3),
        ),
        compared={k: v for k, v in COMPARED.items() if k != Layer.LOG},
    ),
)
REPORT = RunReport(
    environment=Environment(
        dmsnap="0.1.0",
        command=("dmsnap", "run"),
        machine="Linux 6.1.0 x86_64",
        python="3.11.7",
        started="2026-01-02T03:04:05+00:00",
        seconds=12.34,
        jobs=2,
        kernels={"uml-6.12": "6.12.107"},
        guests={"uml-6.12": "uml"},
    ),
    results=RESULTS,
)
TWO = msgspec.structs.replace(
    REPORT,
    results=(
        *RESULTS,
        *(msgspec.structs.replace(r, kernel="uml-7.2", release="7.2.13") for r in RESULTS[:3]),
    ),
)


# -- results.json -------------------------------------------------------------------------------


def test_results_survive_their_file(tmp_path: Path) -> None:
    reporter = JsonReporter(tmp_path / "report" / "results.json")
    reporter.end(TWO)
    data = reporter.path.read_bytes()
    assert model.loads(data) == TWO
    assert model.dumps(model.loads(data)) == data
    assert data.startswith(b'{\n "dmsnap-results": 1,')
    assert not TWO.nothing_differs
    assert RunReport(results=RESULTS[:3]).nothing_differs
    lacking = msgspec.structs.replace(RESULTS[0], verdict=Verdict.UNSUPPORTED)
    assert RunReport(results=(RESULTS[0], lacking)).nothing_differs
    assert not RunReport(results=(lacking,)).nothing_differs, "nothing was compared"
    assert not RunReport().nothing_differs, "no results are not good results"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a results file"),
        (b"[]", "is missing"),
        (b"{}", "is missing"),
        (b'{"dmsnap-results":2}', "reads version 1"),
        (b'{"dmsnap-results":1,"results":1}', "array"),
        (b"\xff", "not a results file"),
        (b"[" * 100_000, "not a results file"),
    ],
)
def test_other_files_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadTrace, match=says):
        model.loads(data)


# -- junit --------------------------------------------------------------------------------------


def facts(case: ET.Element) -> set[str]:
    return set((case.findtext("system-out") or "").splitlines())


def test_junit_can_be_read_back() -> None:
    root = ET.fromstring(junit.render(TWO))
    assert [s.get("name") for s in root] == ["uml-6.12", "uml-7.2"]
    first = root[0]
    assert {key: first.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "9",
        "failures": "2",
        "errors": "2",
        "skipped": "1",
    }
    assert root.get("tests") == "12"
    assert first.get("timestamp") == "2026-01-02T03:04:05+00:00"
    cases = first.findall("testcase")
    assert [case.get("name") for case in cases] == [r.scenario for r in RESULTS]
    for case, wanted in zip(cases, RESULTS, strict=True):
        assert facts(case) >= {
            f"verdict: {wanted.verdict}",
            "seed: 7",
            f"kernel.release: {wanted.release}",
        }
        assert case.get("classname") == "dmsnap.uml-6_12"
        assert float(case.get("time", "")) == pytest.approx(0.125)
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        assert (
            kinds
            == {
                Verdict.SAME: [],
                Verdict.DIVERGED: ["failure"],
                Verdict.LOST: ["error"],
                Verdict.UNSUPPORTED: ["skipped"],
                Verdict.BROKEN: ["error"],
                Verdict.NONDETERMINISTIC: ["failure"],
            }[wanted.verdict]
        )
    failure = cases[3].find("failure")
    assert failure is not None
    assert "header" not in (failure.text or "")
    assert "metadata area 0, entry 1, new chunk" in (failure.text or "")
    assert failure.get("message") == "step 9 (examine): status: status of s and 1 more"
    assert "promise broken by both sides" in (cases[2].findtext("system-out") or "")
    assert "not compared: log: the log of this guest is shared with others" in facts(cases[8])


def test_junit_escapes_what_xml_cannot_hold() -> None:
    text = junit.render(REPORT)
    case = ET.fromstring(text)[0].findall("testcase")[4]
    console = case.findtext("system-err") or ""
    assert "\\x1b[31mKernel panic\\x00 - not syncing: sysrq <&]]>" in console
    odd = "".join(map(chr, [*range(32), 0x7F, 0xD800, 0xFFFE, 0xFFFF, 0x1F600]))
    again = RunReport(results=(result(odd, Verdict.LOST, reason=odd, console=odd),))
    case = ET.fromstring(junit.render(again))[0].findall("testcase")[0]
    assert case.get("name") == printable(odd)
    assert "\\xd800" in printable(odd)


@pytest.mark.parametrize(
    "kernels",
    [
        ("uml-6.1", "uml-6.12"),
        ("vagrant", "here"),
        ("/a/b.c/x", "/a/b_c/x", "/a/b_c/x-2"),
        ("", ".", "..", "_"),
        ("\0", "\\x00"),
    ],
)
def test_jenkins_splits_no_release(kernels: tuple[str, ...]) -> None:
    """It takes what stands before the last dot of a class name for its package."""
    found = junit.class_names(kernels)
    assert list(found) == list(kernels)
    parts = [name.rpartition(".") for name in found.values()]
    assert {package for package, _, _ in parts} == {"dmsnap"}
    classes = [name for *_, name in parts]
    assert len(set(classes)) == len(kernels), "two kernels of one name are one in GitLab"
    if "uml-6.1" in kernels:
        assert classes == ["uml-6_1", "uml-6_12"]


@pytest.mark.parametrize("report", [REPORT, TWO, RunReport()])
def test_junitparser_reads_what_was_written(report: RunReport) -> None:
    found = junitparser.JUnitXml.fromstring(junit.render(report))
    assert (found.tests, found.failures, found.errors) == tuple(
        sum(result.verdict in verdicts for result in report.results)
        for verdicts in (
            tuple(Verdict),
            (Verdict.DIVERGED, Verdict.NONDETERMINISTIC),
            (Verdict.LOST, Verdict.BROKEN),
        )
    )
    suites = {suite.name: list(suite) for suite in found}
    assert list(suites) == list(report.by_kernel())
    for kernel, results in report.by_kernel().items():
        for case, one in zip(suites[kernel], results, strict=True):
            assert case.name == one.scenario
            assert [type(each).__name__ for each in case.result] == {
                Verdict.SAME: [],
                Verdict.DIVERGED: ["Failure"],
                Verdict.LOST: ["Error"],
                Verdict.UNSUPPORTED: ["Skipped"],
                Verdict.BROKEN: ["Error"],
                Verdict.NONDETERMINISTIC: ["Failure"],
            }[one.verdict]
            assert all(each.message and each.text for each in case.result)
            assert one.verdict is Verdict.UNSUPPORTED or all(
                each.type == one.verdict for each in case.result
            )
            assert f"verdict: {one.verdict}\n" in case.system_out
            assert (case.system_err or "") == printable(one.console)


@pytest.mark.parametrize("report", [REPORT, TWO])
def test_gitlab_shows_every_result(report: RunReport) -> None:
    """What its page on unit test reports says is read: of a test case its classname (shown as the
    suite), name (a pair counts once), time, and the text of a failure, an error, or skipped.
    """
    root = ET.fromstring(junit.render(report))
    assert root.tag == "testsuites"
    cases = root.findall("testsuite/testcase")
    assert (
        len({(case.get("classname"), case.get("name")) for case in cases})
        == len(cases)
        == len(report.results)
    )
    for case, one in zip(cases, report.results, strict=True):
        assert case.get("classname")
        assert case.get("name")
        assert float(case.get("time", "")) >= 0
        said = [each for each in case if each.tag in ("failure", "error", "skipped")]
        assert len(said) == (one.verdict is not Verdict.SAME)
        assert all((each.text or "").strip() for each in said)


# -- ktap ---------------------------------------------------------------------------------------

LINE = re.compile(
    r"(?P<ok>ok|not ok) (?P<number>\d+)(?: (?P<name>[^#]*?))?"
    r"(?: #(?: (?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b)?(?: ?(?P<data>.*))?)?"
)


def parse(lines: list[str], depth: int = 0) -> list[tuple[str, str, str, list[object]]]:
    """Tests as (result, name, directive, subtests), by the rules of ktap.rst; eats ``lines``."""
    indent = "  " * depth
    assert lines.pop(0) == f"{indent}KTAP version 1"
    if depth:  # optional by the page; kunit.py wants it here and nowhere else
        assert re.fullmatch(rf"{indent}# Subtest: \S.*", lines.pop(0))
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines.pop(0))
    assert plan, "the plan follows the version line"
    tests: list[tuple[str, str, str, list[object]]] = []
    inner: list[object] = []
    while lines and lines[0].startswith(indent) and len(tests) <= int(plan[1]):
        line = lines[0][len(indent) :]
        if line == "  KTAP version 1":
            inner = list(parse(lines, depth + 1))
            continue
        if line.startswith("  ") or (depth and not line.startswith(("ok", "not ok", "#"))):
            break
        lines.pop(0)
        if line.startswith("#"):
            assert not line.startswith("# Subtest:"), "kunit.py takes it for the head of a test"
            continue
        match = LINE.fullmatch(line)
        assert match, line
        assert int(match["number"]) == len(tests) + 1
        tests.append((match["ok"], match["name"], match["directive"] or "", inner))
        inner = []
    assert len(tests) == int(plan[1])
    return tests


def test_ktap_can_be_read_by_its_rules() -> None:
    text = ktap.render(TWO).decode()
    lines = text.splitlines()
    [first, second] = parse(lines)
    assert lines == []
    assert (first[0], first[1], second[0], second[1]) == ("not ok", "uml-6.12", "ok", "uml-7.2")
    assert [test[:3] for test in first[3]] == [  # type: ignore[index]
        ("ok", "create-persistent", ""),
        ("ok", "write-over-the-end-of-an-area-by-one-sector-too-many", ""),
        ("ok", "origin-split", ""),
        ("not ok", "overflow-by-origin", ""),
        ("not ok", "crash-panic", "ERROR"),
        ("ok", "discard", "SKIP"),
        ("not ok", "typo _ SKIP [red]", "ERROR"),
        ("not ok", "race", ""),
        ("ok", "log-shared", ""),
    ]
    assert (
        "  not ok 5 crash-panic # ERROR guest lost: the guest panicked in step 3 (write s)"
        in text.splitlines()
    )
    assert "  ok 3 origin-split # a promise is broken" in text.splitlines()
    assert "\x1b" not in text
    assert "\0" not in text


def test_ktap_of_nothing_and_of_nothing_supported() -> None:
    assert parse(ktap.render(RunReport()).decode().splitlines()) == []
    none = RunReport(results=(result("discard", Verdict.UNSUPPORTED, reason="no"),))
    [test] = parse(ktap.render(none).decode().splitlines())
    assert (test[0], test[2]) == ("ok", "SKIP")


def test_what_a_guest_says_is_no_word_of_the_report() -> None:
    """The kernel's reader stops at a kernel's last words, and reads SKIP behind any ``#``."""
    kernel = "/home/x/linux #1"
    odd = RunReport(
        results=tuple(
            msgspec.structs.replace(one, kernel=kernel)
            for one in (
                result("a", Verdict.LOST, reason=STRANGE, console=STRANGE),
                result("b", Verdict.DIVERGED, reason="the kernel says # SKIP # TODO"),
                result("c", Verdict.UNSUPPORTED, reason="no # SKIP here"),
                result("d", reason="# SKIP"),
            )
        )
    )
    text = ktap.render(odd).decode()
    [test] = parse(text.splitlines())
    assert [each[:3] for each in test[3]] == [  # type: ignore[index]
        ("not ok", "a", "ERROR"),
        ("not ok", "b", ""),
        ("ok", "c", "SKIP"),
        ("ok", "d", ""),
    ]
    [head] = [line for line in text.splitlines() if "# Subtest:" in line]
    assert head == f"  # Subtest: {test[1]}", "the head names the test as its result does"
    assert not re.search(
        "List of all partitions:|Kernel panic - not syncing: VFS:|reboot: System halted", text
    )
    results = [line for line in text.splitlines() if line.lstrip().startswith(("ok", "not ok"))]
    assert [line for line in results if "# SKIP" in line] == ["  ok 3 c # SKIP no _ SKIP here"]


# -- files --------------------------------------------------------------------------------------


def test_no_report_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(JsonReporter):
        def render(self, _: RunReport) -> bytes:
            raise RuntimeError

    target = tmp_path / "results.json"
    target.write_text("old")
    reporter = Bad(target)
    reporter.begin(["k"], 1)
    assert target.read_text() == "old", "nothing has come of this run yet"
    reporter.result(RESULTS[0])
    assert not target.exists(), "an old report is not taken for this run's"
    with pytest.raises(RuntimeError):
        reporter.end(REPORT)
    assert list(tmp_path.iterdir()) == []

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    target.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(target, b"new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("results.json", "old")]


def test_one_reporter_that_fails_does_not_keep_the_others(tmp_path: Path) -> None:
    class Bad(JsonReporter):
        def end(self, _: RunReport) -> None:
            raise OSError(28, "No space left on device")

    reporters: list[Reporter] = [
        JunitReporter(tmp_path / "junit.xml"),
        Bad(tmp_path / "a"),
        KtapReporter(tmp_path / "run.ktap"),
    ]
    together = Reporters(reporters)
    together.begin(["uml-6.12"], 9)
    together.progress("1", "boots")
    together.result(RESULTS[0])
    with pytest.raises(OSError, match="No space"):
        together.end(REPORT)
    together.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["junit.xml", "run.ktap"]
    umask_mode = (tmp_path / "run.ktap").stat().st_mode & 0o777
    (tmp_path / "plain").touch()
    assert umask_mode == (tmp_path / "plain").stat().st_mode & 0o777


# -- terminal -----------------------------------------------------------------------------------

GOLDEN = Path(__file__).parents[1] / "golden" / "report"


def follow(report: RunReport, width: int, *, tty: bool) -> str:
    out = StringIO()
    terminal = Terminal(
        Console(
            file=out,
            width=width,
            force_terminal=tty,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            _environ={"TERM": "xterm"},
        )
    )
    terminal.begin(list(report.by_kernel()), len(report.results))
    terminal.progress("guest 1", "uml-6.12 boots")
    for one in report.results:
        terminal.result(one)
    if tty:
        with Console(file=out, width=width, force_terminal=True) as console:
            console.print(terminal._moving())
    terminal.progress("guest 1", "")
    terminal.end(report)
    terminal.close()
    return out.getvalue()


@pytest.mark.parametrize(("name", "report"), [("one-kernel", REPORT), ("two-kernels", TWO)])
def test_the_terminal_at_80_columns(
    name: str, report: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden text: to accept a change, look at it and write it into the file."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = "".join(f"{line.rstrip()}\n" for line in follow(report, 80, tty=False).splitlines())
    assert "\x1b" not in text
    # One result is one line, for grep; everything else keeps to the width.
    assert max(len(line) for line in text.splitlines() if not line.startswith("[")) <= 80
    golden = GOLDEN / f"{name}.txt"
    assert text == golden.read_text()


def test_the_terminal_moves_on_a_tty_and_knows_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = follow(REPORT, 80, tty=True)
    assert "guest 1  uml-6.12 boots" in text
    assert "9/9" in text
    assert "\x1b[32m" in text
    monkeypatch.setenv("NO_COLOR", "1")
    out = StringIO()
    terminal = Terminal(Console(file=out, width=80, force_terminal=True, highlight=False))
    terminal.end(REPORT)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", out.getvalue())


def table_of(*results: Result) -> dict[str, list[str]]:
    """The table of a report: name → the other words of its row."""
    text = follow(RunReport(results=results), 80, tty=False)
    header, *rows = text[text.index("scenario ") :].split("\n\n")[0].splitlines()
    at = header.index(header.split()[1])
    return {row[:at].strip(): row[at:].split() for row in rows}


def test_variants_share_a_row_while_nothing_tells_them_apart() -> None:
    names = [f"fill[{store}-{chunk}]" for store in ("P", "PO") for chunk in (1, 8)]
    alike = [result(name) for name in names]
    assert table_of(*alike, result("full"), result("one[P]")) == {
        "fill ×4": ["same", "9/9", "48", "0.49", "s", "4.9", "ms"],
        "full": ["same", "9/9", "12", "0.12", "s", "1.2", "ms"],
        "one[P]": ["same", "9/9", "12", "0.12", "s", "1.2", "ms"],
    }
    worst = [msgspec.structs.replace(one, verdict=Verdict.DIVERGED) for one in alike]
    assert {name: rest[0] for name, rest in table_of(*worst).items()} == {"fill ×4": "diverged"}


def test_variants_that_differ_have_rows_of_their_own() -> None:
    alike = [result(f"fill[{number}]") for number in range(6)]
    marked = msgspec.structs.replace(alike[3], twin_promises=(BROKEN,))
    bad = msgspec.structs.replace(alike[1], verdict=Verdict.DIVERGED)
    less = msgspec.structs.replace(alike[0], compared={Layer.LOG: 1})
    also = msgspec.structs.replace(alike[5], kernel_promises=(BROKEN,))
    rows = table_of(less, bad, alike[2], marked, alike[4], also)
    assert {name: rest[:3] for name, rest in rows.items()} == {
        "fill ×3": ["same", "1/9", "36"],
        "fill[1]": ["diverged", "9/9", "12"],
        "fill[3]": ["same*", "9/9", "12"],
        "fill[5]": ["same*", "9/9", "12"],
    }
    assert list(table_of(alike[0], bad)) == ["fill[0]", "fill[1]"]


def test_variants_are_told_apart_by_any_kernel() -> None:
    alike = [
        result(f"fill[{number}]", kernel=kernel)
        for number in range(3)
        for kernel in ("uml-6.12", "uml-7.2")
    ]
    assert {name: rest[:4] for name, rest in table_of(*alike).items()} == {
        "fill ×3": ["same", "same", "9/9", "36"]
    }
    alike[3] = msgspec.structs.replace(alike[3], verdict=Verdict.LOST)
    assert {name: rest[:4] for name, rest in table_of(*alike).items()} == {
        "fill ×2": ["same", "same", "9/9", "24"],
        "fill[1]": ["same", "lost", "9/9", "12"],
    }
    assert table_of(*alike[:5])["fill[2]"][:3] == ["same", "–", "9/9"]


def test_a_long_run_in_plain_lines_says_what_is_not_plainly_same() -> None:
    many = [result(f"s{number}") for number in range(2 * LINES_MAX)]
    many[6] = msgspec.structs.replace(many[6], verdict=Verdict.DIVERGED)
    many[9] = msgspec.structs.replace(many[9], kernel_promises=(BROKEN,))
    lines = [
        line
        for line in follow(RunReport(results=tuple(many)), 80, tty=False).splitlines()
        if line.startswith("[")
    ]
    assert lines == [
        "[ 4/40] 4 same",
        "[ 7/40] diverged         uml-6.12  s6",
        "[ 8/40] 7 same, 1 diverged",
        "[10/40] same             uml-6.12  s9  promise broken",
        *(f"[{done}/40] {done - 1} same, 1 diverged" for done in range(12, 41, 4)),
    ]
    few = follow(RunReport(results=tuple(many[:LINES_MAX])), 80, tty=False)
    assert sum(line.startswith("[") for line in few.splitlines()) == LINES_MAX


def test_another_permitted_order_is_counted() -> None:
    other = [
        result("a", orders=3, reason="the kernel took another permitted order"),
        result("b"),
        result("c", Verdict.DIVERGED, orders=9),
    ]
    report = RunReport(results=tuple(other))
    assert words.verdicts(report) == "2 same (1 by another permitted order), 1 diverged"
    assert "2 same (1 by another permitted order), 1 diverged" in follow(report, 80, tty=False)
    assert b"# 2 same (1 by another permitted order), 1 diverged" in ktap.render(report)
    assert "permitted" not in words.verdicts(REPORT)


def test_markup_and_controls_of_others_are_only_text() -> None:
    text = follow(REPORT, 80, tty=False)
    assert "typo # SKIP [red]" in text
    assert "\x1b" not in text
    assert "\0" not in text


def test_the_display_ends_however_the_run_does() -> None:
    terminal = Terminal(Console(file=StringIO(), force_terminal=True, width=80))
    terminal.begin(["uml-6.12"], 3)
    assert terminal._live is not None
    live = terminal._live
    terminal.close()
    assert not live.is_started
    terminal.close()
    terminal.end(RunReport())


# -- pytest's own --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict.UNSUPPORTED, pytest.skip.Exception),
        (Verdict.DIVERGED, pytest.fail.Exception),
        (Verdict.BROKEN, pytest.fail.Exception),
        (Verdict.LOST, pytest.fail.Exception),
    ],
)
def test_pytest_skips_what_the_kernel_lacks_something_for(verdict, outcome):
    check(ScenarioResult(**answer(result("bring_up[P]"))))
    with pytest.raises(outcome, match="bring_up"):
        check(ScenarioResult(**answer(result("bring_up[P]", verdict))))


@pytest.mark.parametrize("kernels", [("uml-6.12",), ("uml-6.12", "uml-7.2")])
def test_a_table_holds_at_40_columns(kernels):
    """Seen before: names were folded to a few letters a line."""
    out = StringIO()
    terminal = Terminal(Console(file=out, width=40, highlight=False, emoji=False))
    terminal.end(
        RunReport(
            results=tuple(
                result(name, Verdict.NONDETERMINISTIC, kernel=kernel)
                for kernel in kernels
                for name in ("bring_up", "origin_write")
            )
        )
    )
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert any(re.match(r"bring_up +nondet", line) for line in lines)
    assert any(re.match(r"origin_write +nondet", line) for line in lines)
