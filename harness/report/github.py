"""The summary of a GitHub Actions job: Markdown that is added to ``$GITHUB_STEP_SUMMARY``.

GitHub shows the file above the log of the job.  All programs of a step append to the same file, and
one larger than a mebibyte is not shown at all.  So the summary has what fits: totals, and the first
lines of what differs, with the number of lines left out.

Names, reasons and console lines are untrusted.  Each is put in a code element, with every character
that means something to Markdown or HTML as a numeric reference, which in both can never be more
than a character.
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
"""Limit of a step's summary, for all that write to it."""
_CELL_MAX: Final = 2000
"""Characters in one cell; the report has everything."""
_PLAIN: Final = frozenset(" ,-/()=%")
"""Characters, besides letters and digits, without meaning in Markdown within our lines."""
_MORE_BYTES: Final = 200
"""Reserved for the line that says how much is left out."""


def render(report: RunReport, room: int = BYTES_MAX) -> bytes:
    """The summary, in at most ``room`` bytes; empty if its head does not fit."""
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
            "Not simply the same",
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
    """A table with its title, or as much of it as fits."""
    rows, text = table[2:], _lines([*head, *table[:2]])
    if len(text) + _MORE_BYTES > room:
        return b""
    for number, row in enumerate(rows):
        line = _lines([row])
        if len(text) + len(line) + _MORE_BYTES > room:
            return text + _lines(["", f"… and {len(rows) - number} more; see the report.", ""])
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
    r"""``text`` in one line without markup; invisible characters are escaped, as ``\x1b``."""
    line = " ".join(text.split())
    if len(line) > _CELL_MAX:
        line = line[:_CELL_MAX] + " …"
    return "".join(_character(each) for each in line)


def code(text: str) -> str:
    """The same in a code element, where GitHub also turns no names or numbers into links."""
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
        tell: called with a line if the summary cannot be written; that does not spoil the
            run.
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
        """Append the summary to the file."""
        try:
            with self._path.open("ab") as file:
                file.write(render(report, BYTES_MAX - file.tell()))
        except OSError as fault:
            self._tell(
                f"the summary cannot be written to {self._path} ({VARIABLE}): "
                f"{fault.strerror}; the report is complete"
            )

    def close(self) -> None:
        """Nothing to do."""


def step_summary(tell: Callable[[str], None]) -> list[StepSummary]:
    """The reporter, where GitHub asks for a summary; else None."""
    path = os.environ.get(VARIABLE, "")
    return [StepSummary(Path(path), tell)] if path else []
