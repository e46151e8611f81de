"""The summary of a GitHub Actions job: Markdown that is added to ``$GITHUB_STEP_SUMMARY``.

GitHub shows the file above the log of the job; all programs of a step add to the same one, and
one that is larger than a mebibyte is not shown at all.  So there is as much in it as there is room
for: totals, and of what differs the first lines, with the number of those that are missing.

Names, reasons and console lines come from strangers.  Each stands in a code element, with every
character that means something to Markdown or HTML written as a numeric reference, which by both
their rules can never be more than a character.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from harness.compare.diff import Verdict
from harness.report.gate import printable
from harness.report.words import compared, defects, headline, left_out, verdicts
from harness.verdict.result import Result, RunReport

VARIABLE: Final = "GITHUB_STEP_SUMMARY"
BYTES_MAX: Final = 1 << 20
"""Of the summary of a step, by all that write to it."""
_CELL_MAX: Final = 2000
"""Characters of one cell; the report has all."""
_PLAIN: Final = frozenset(" ,-/()=%")
"""Characters beside letters and digits that mean nothing to Markdown within a line of ours."""
_MORE_BYTES: Final = 200
"""Kept free for the line that says how much is missing."""


def render(report: RunReport, room: int = BYTES_MAX) -> bytes:
    """The summary, in ``room`` bytes at most; nothing where there is no room for its head."""
    head = [
        "## dm-snapshot: "
        + ("nothing differs" if report.nothing_differs else "not everything is the same"),
        "",
        plain(verdicts(report)),
        "",
        f"Values compared: {plain(compared(report))}",
        "",
        *_table(
            ("kernel", "release", "guest", *map(str, Verdict)),
            (
                (
                    code(kernel),
                    code(report.release(kernel)),
                    code(report.guest(kernel)),
                    *(
                        str(sum(result.verdict is verdict for result in results))
                        for verdict in Verdict
                    ),
                )
                for kernel, results in report.by_kernel().items()
            ),
        ),
        "",
    ]
    text = _lines(head)
    if len(text) > room:
        return b""
    for title, columns, rows in (
        (
            "Not plainly the same",
            ("kernel", "scenario", "verdict", "why"),
            [
                (
                    code(result.kernel),
                    code(result.scenario),
                    plain(result.verdict),
                    code(headline(result)),
                )
                for result in report.results
                if _told(result)
            ],
        ),
        ("Not compared", ("layer and reason",), [(code(line),) for line in left_out(report)]),
        ("Known defects", ("defect",), [(code(line),) for line in defects(report)]),
    ):
        if rows:
            text += _bounded([f"### {title}", ""], _table(columns, rows), room - len(text))
    return text


def _told(result: Result) -> bool:
    return result.verdict is not Verdict.SAME or result.promise_broken


def _bounded(head: list[str], table: list[str], room: int) -> bytes:
    """A table with its title, or as much of it as there is room for."""
    rows, text = table[2:], _lines([*head, *table[:2]])
    if len(text) + _MORE_BYTES > room:
        return b""
    for number, row in enumerate(rows):
        line = _lines([row])
        if len(text) + len(line) + _MORE_BYTES > room:
            return text + _lines(["", f"… and {len(rows) - number} more: see the report.", ""])
        text += line
    return text + b"\n"


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    names = tuple(columns)
    return [_row(names), _row(("---",) * len(names)), *map(_row, rows)]


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def plain(text: str) -> str:
    r"""``text`` in one line that is no markup; what cannot be seen is written as ``\x1b``."""
    line = " ".join(text.split())
    if len(line) > _CELL_MAX:
        line = line[:_CELL_MAX] + " …"
    return "".join(_character(each) for each in line)


def code(text: str) -> str:
    """The same in a code element, where GitHub makes no links of names and numbers either."""
    return f"<code>{plain(text)}</code>" if text else ""


def _character(one: str) -> str:
    if one.isalnum() or one in _PLAIN or (one.isprintable() and not one.isascii()):
        return one
    if not one.isprintable():
        return plain(printable(one))
    return f"&#{ord(one)};"


class StepSummary:
    """The reporter that adds the summary of a run.

    Args:
        path: the file.
        tell: hears of it in one line where the summary cannot be written: a run is not spoilt by
            that.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell

    def begin(self, kernels: Iterable[str], total: int) -> None:
        """Nothing to do."""

    def progress(self, guest: str, doing: str) -> None:
        """Nothing to do."""

    def result(self, result: Result) -> None:
        """Nothing to do."""

    def end(self, report: RunReport) -> None:
        """Add it to what is there."""
        try:
            with self._path.open("ab") as file:
                file.write(render(report, BYTES_MAX - file.tell()))
        except OSError as fault:
            self._tell(
                f"the summary cannot be written to {self._path} ({VARIABLE}): "
                f"{fault.strerror}; the report is whole"
            )

    def close(self) -> None:
        """Nothing to do."""


def step_summary(tell: Callable[[str], None]) -> list[StepSummary]:
    """The reporter, where GitHub asks for a summary; else none."""
    path = os.environ.get(VARIABLE, "")
    return [StepSummary(Path(path), tell)] if path else []
