"""The summary of a GitHub job: read by a reader of Markdown, whatever a kernel said."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt

from harness.compare.diff import Layer, LayerLeftOut, Verdict
from harness.report import github
from harness.report.github import BYTES_MAX, StepSummary, render, step_summary
from harness.verdict.result import Environment, Result, RunReport

EVERY = "".join(
    map(chr, [*range(128), 0x85, 0x9B, 0x200B, 0x202E, 0x2028, 0xD800, 0xFFFF, 0x1F600])
)
NASTY = (
    "a | b \\| c ||",
    "`code` ``",
    "</code></td></table><img src=x onerror=y>",
    "&#124; &amp;",
    "one\ntwo\n\n# three\n| x | y |",
    "*b* _i_ ~~s~~ [l](http://x.example)",
    "@user #12 :x: $y$",
    "<!--",
    "\\",
    "|",
    EVERY,
)


def result(scenario: str, verdict: Verdict = Verdict.SAME, **fields: Any) -> Result:
    kernel = fields.pop("kernel", "uml-6.12")
    return Result(scenario=scenario, kernel=kernel, verdict=verdict, **fields)


def tables(text: bytes) -> list[list[list[str]]]:
    """Every table: its rows of cells, as a reader of Markdown sees them."""
    html = MarkdownIt("commonmark").enable("table").render(text.decode())
    root = ET.fromstring(f"<x>{html}</x>")
    assert {each.tag for each in root.iter()} <= {
        "x",
        "h2",
        "h3",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
    }, html
    return [
        [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
        for table in root.iter("table")
    ]


def seen(text: str) -> str:
    """What must be read of ``text``."""
    return " ".join(
        "".join(
            each if each.isprintable() else f"\\x{ord(each):02x}" for each in " ".join(text.split())
        ).split()
    )


def test_totals_differences_and_what_was_left_out() -> None:
    left = LayerLeftOut(Layer.LOG, "the log is shared | with others", 12, 3)
    report = RunReport(
        environment=Environment(kernels={"uml-6.12": "6.12.107"}, guests={"uml-6.12": "uml"}),
        results=(
            result("a", not_compared=(left,), compared={Layer.ERROR: 9}),
            result("b", Verdict.DIVERGED, reason="it | differs"),
            result("c", Verdict.UNSUPPORTED, reason="no discards"),
            result("d", kernel="uml-7.2"),
        ),
    )
    text = render(report)
    totals, differs, not_compared = tables(text)
    assert totals == [
        ["kernel", "release", "guest", *map(str, Verdict)],
        [
            "uml-6.12",
            "6.12.107",
            "uml",
            *(
                str({Verdict.SAME: 1, Verdict.DIVERGED: 1, Verdict.UNSUPPORTED: 1}.get(verdict, 0))
                for verdict in Verdict
            ),
        ],
        ["uml-7.2", "", "", *("1" if verdict is Verdict.SAME else "0" for verdict in Verdict)],
    ]
    assert differs[1:] == [
        ["uml-6.12", "b", "diverged", "it | differs"],
        ["uml-6.12", "c", "unsupported", "no discards"],
    ]
    assert not_compared[1:] == [["log in 1 result (12 values): the log is shared | with others"]]
    assert text.startswith(b"## dm-snapshot: not everything is the same\n")
    assert render(RunReport(results=report.results[:1])).startswith(
        b"## dm-snapshot: nothing differs\n"
    )


@pytest.mark.parametrize("text", NASTY)
def test_nothing_breaks_out_of_its_cell(text: str) -> None:
    left = LayerLeftOut(Layer.LOG, text, 1, 1)
    report = RunReport(
        environment=Environment(kernels={text: text}, guests={text: text}),
        results=(result(text, Verdict.LOST, kernel=text, reason=text, not_compared=(left,)),),
    )
    totals, differs, not_compared = tables(render(report))
    assert totals[1][:3] == [seen(text)] * 3
    assert differs[1:] == [[seen(text), seen(text), "guest lost", seen(text)]]
    assert not_compared[1:] == [[f"log in 1 result (1 values): {seen(text)}"]]


def test_it_is_no_larger_than_github_takes() -> None:
    many = RunReport(
        results=tuple(
            result(f"scenario[{number}]", Verdict.DIVERGED, reason="|" * 5000)
            for number in range(1000)
        )
    )
    text = render(many)
    assert BYTES_MAX - 20_000 < len(text) <= BYTES_MAX
    rows = len(tables(text)[1]) - 1
    [more] = re.findall(r"^… and (\d+) more; see the report\.$", text.decode(), re.MULTILINE)
    assert rows + int(more) == 1000
    for room in (0, 1, 300, 700, 1000, 5000, 50_000):
        assert len(render(many, room)) <= max(0, room)
    assert render(many, -5) == b""


def test_it_is_added_to_what_other_programs_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = RunReport(results=(result("a"),))
    file = tmp_path / "summary.md"
    file.write_text("# of another program\n")
    monkeypatch.setenv(github.VARIABLE, str(file))
    told: list[str] = []
    [reporter] = step_summary(told.append)
    reporter.begin(["uml-6.12"], 1)
    reporter.result(report.results[0])
    assert file.read_text() == "# of another program\n"
    reporter.end(report)
    reporter.close()
    assert file.read_bytes() == b"# of another program\n" + render(report)
    file.write_bytes(b"x" * (BYTES_MAX - 100))
    reporter.end(report)
    assert file.stat().st_size <= BYTES_MAX
    assert told == []


def test_without_a_place_there_is_none_and_a_bad_place_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(github.VARIABLE, raising=False)
    assert step_summary(print) == []
    told: list[str] = []
    StepSummary(tmp_path / "no/such/place", told.append).end(RunReport(results=(result("a"),)))
    assert len(told) == 1
    assert "No such file or directory; the report is complete" in told[0]
