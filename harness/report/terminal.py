"""The terminal: progress during a run, then a table, then the results in words.

On a terminal a few lines move: one for each guest, and a bar with counts.  Elsewhere (a pipe, CI)
each result is one plain line; in a long run, only results that are not plainly *same*, and how far
it is.  Only such lines may be wider than the console, 80 columns if its width is unknown;
`NO_COLOR` is respected.

In the table the variants of a scenario share a row unless their verdicts differ.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness.compare.diff import Layer, Verdict
from harness.report.gate import guarded, printable
from harness.report.words import (
    AGAIN,
    against_baseline,
    compared,
    defects,
    details,
    left_out,
    pass_rates,
    verdicts,
)
from harness.verdict.result import Result, RunReport

STYLE: Final = {
    Verdict.SAME: "green",
    Verdict.HANGS: "green",
    Verdict.DIES: "green",
    Verdict.DIVERGED: "bold red",
    Verdict.NONDETERMINISTIC: "bold red",
    Verdict.LOST: "bold magenta",
    Verdict.UNSUPPORTED: "yellow",
    Verdict.BROKEN: "bold yellow",
}
SHORT: Final = {
    Verdict.HANGS: "hangs",
    Verdict.DIES: "dies",
    Verdict.NONDETERMINISTIC: "nondet.",
    Verdict.LOST: "lost",
    Verdict.UNSUPPORTED: "unsupp.",
    Verdict.BROKEN: "broken",
}
"""Verdicts as written in a table with a column for each kernel."""
MARK: Final = "*"
"""Follows a verdict if a promise of the documentation was broken."""
NARROW: Final = 60
"""Columns; a console with fewer shows names and verdicts only."""
LINES_MAX: Final = 20
"""Without a moving display, a run with more results prints only those not plainly *same*."""
_PROGRESS_PARTS: Final = 10
"""How often such a run prints how far it is."""
_CONSOLE_LINES: Final = 12


def counted(number: int, what: str) -> str:
    """``1 result``, ``2 results``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class Terminal:
    """The reporter that people look at."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = guarded(console or Console(highlight=False, emoji=False))
        self._live: Live | None = None
        self._guests: dict[str, str] = {}
        self._counts: dict[Verdict, int] = {}
        self._total = self._done = 0
        self._bar = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            expand=True,
        )

    # -- while the run goes on ------------------------------------------------------------------

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Start the display."""
        self._total = total
        self._say(f"{counted(total, 'result')} to come on {', '.join(kernels)}")
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._bar.add_task("scenarios", total=total)
            self._live = Live(
                get_renderable=self._moving,
                console=self.console,
                refresh_per_second=8,
                transient=True,
            )
            self._live.start()

    def progress(self, guest: str, doing: str) -> None:
        """Update the line of a guest."""
        if doing:
            self._guests[guest] = doing
        else:
            self._guests.pop(guest, None)

    def result(self, result: Result) -> None:
        """Count a result; print it if nothing moves, or if it is not *same*."""
        self._done += 1
        self._counts[result.verdict] = self._counts.get(result.verdict, 0) + 1
        if self._live:
            for task in self._bar.task_ids:
                self._bar.advance(task)
        same = result.verdict is Verdict.SAME
        short = self._live is None and self._total > LINES_MAX
        if (self._live is None and not short) or not same or (short and result.promise_broken):
            line = self._so_far()
            line.append(f"{result.verdict:<16} ", STYLE[result.verdict])
            line.append(printable(f"{result.kernel}  {result.scenario}"))
            if result.promise_broken:
                line.append("  promise broken")
            self.console.print(line, soft_wrap=self._live is None)
        if short and self._part(self._done) > self._part(self._done - 1):
            line = self._so_far()
            line.append_text(self._counted(", "))
            self.console.print(line, soft_wrap=True)

    def _part(self, done: int) -> int:
        return done * _PROGRESS_PARTS // self._total

    def _so_far(self) -> Text:
        return Text(f"[{self._done:>{len(str(self._total))}}/{self._total}] ")

    def _counted(self, between: str) -> Text:
        return Text(between).join(
            Text(f"{self._counts[verdict]} {verdict}", STYLE[verdict])
            for verdict in Verdict
            if verdict in self._counts
        )

    def _moving(self) -> RenderableType:
        guests = tuple(self._guests.items())  # copied at once; the run continues in another thread
        lines = [
            Text(printable(f"{guest}  {doing}"), no_wrap=True, overflow="ellipsis")
            for guest, doing in sorted(guests)
        ]
        counts = self._counted("  ")
        counts.no_wrap, counts.overflow = True, "ellipsis"
        return Group(*lines, self._bar, counts)

    # -- at the end -------------------------------------------------------------------------------

    def end(self, report: RunReport) -> None:
        """The table, the summary, and every result that is not plainly *same*."""
        self.close()
        kernels = report.by_kernel()
        if report.results:
            narrow = self.console.width < NARROW
            table = _one_kernel if len(kernels) == 1 else _matrix
            self.console.print(table(report, narrow=narrow))
        for result in report.results:
            text = details(result, console_lines=_CONSOLE_LINES)
            if text:
                self.console.print()
                title = Text(printable(f"{result.scenario} on {result.kernel}: "))
                title.append(str(result.verdict), STYLE[result.verdict])
                self.console.print(title)
                self._say(text, indent="  ")
        self.console.print()
        self._summary(report)

    def _summary(self, report: RunReport) -> None:
        for kernel in report.by_kernel():
            guest = f"guest {report.guest(kernel)}, " if report.guest(kernel) else ""
            self._say(
                f"{kernel}: {guest}release {report.release(kernel) or 'unknown (never came up)'}"
            )
            for what in (report.environment.instead, report.environment.built):
                if said := what.get(kernel):
                    self._say(said, indent="  ")
        if report.environment.cage not in ("", "namespaces"):
            self._say(f"cage: {report.environment.cage}")
        self._say(f"values compared: {compared(report)}")
        for line in left_out(report):
            self._say(f"not compared: {line}")
        for line in defects(report):
            self._say(line)
        if any(result.promise_broken for result in report.results):
            self._say(f"{MARK} a promise of the documentation is broken there")
        for line in pass_rates(report) + against_baseline(report):
            self._say(line)
        color = "green" if report.nothing_differs else "red"
        seconds = report.environment.seconds
        resumed = report.environment.resumed
        if resumed:
            said = counted(resumed, "result")
            self._say(f"{said} {'is' if resumed == 1 else 'are'} from an earlier start of this run")
        self._say(
            verdicts(report) + (f", in {seconds:.1f} s" if seconds else ""), style=f"bold {color}"
        )

    def close(self) -> None:
        """Stop the moving display."""
        live, self._live = self._live, None
        if live:
            live.stop()

    def _say(self, text: str, *, indent: str = "", style: str = "") -> None:
        """Print lines, folded to the width with a hanging indent."""
        for line in printable(text).split("\n"):
            if line.startswith(AGAIN):  # folded, it could not be copied
                self.console.print(Text(indent + line, style), soft_wrap=True)
                continue
            own = line[: len(line) - len(line.lstrip())]
            folded = textwrap.wrap(
                line.strip(),
                max(20, self.console.width - 1),
                initial_indent=indent + own,
                subsequent_indent=indent + own + "  ",
                break_on_hyphens=False,
            ) or [""]
            for part in folded:
                self.console.print(Text(part, style), soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _TableRow:
    """One row of a table: scenarios, each with its result by kernel."""

    name: str
    results: tuple[Mapping[str, Result], ...]

    def one_of(self, kernel: str) -> Result | None:
        """A result on ``kernel``; the others of this row have the same verdict and mark."""
        return self.results[0].get(kernel)

    def layers(self) -> str:
        """The fewest layers compared anywhere in this row."""
        fewest = min(
            len(result.compared) for by_kernel in self.results for result in by_kernel.values()
        )
        return f"{fewest}/{len(Layer)}"

    def steps(self) -> str:
        """Steps of all scenarios of this row."""
        return str(
            sum(max(result.steps for result in by_kernel.values()) for by_kernel in self.results)
        )


def _rows(report: RunReport) -> list[_TableRow]:
    """Rows in the order of the results.

    The variants of a scenario (``name[…]``) share one row, ``name ×6``, if all have the same
    verdict and mark.  If not, those that are plainly *same* share one, and each of the others has
    its own.
    """
    by_scenario: dict[str, dict[str, Result]] = {}
    for result in report.results:
        by_scenario.setdefault(result.scenario, {})[result.kernel] = result
    groups: dict[str, list[str]] = {}
    for name in by_scenario:
        groups.setdefault(name.partition("[")[0] if name.endswith("]") else name, []).append(name)

    def row(base: str, names: Sequence[str]) -> _TableRow:
        title = names[0] if len(names) == 1 else f"{base} ×{len(names)}"
        return _TableRow(title, tuple(by_scenario[name] for name in names))

    rows = []
    for base, names in groups.items():
        looks = {name: _looks(by_scenario[name]) for name in names}
        if len(set(looks.values())) == 1:
            rows.append(row(base, names))
            continue
        plain = [
            name
            for name in names
            if all(verdict is Verdict.SAME and not broken for _, verdict, broken in looks[name])
        ]
        # After an interrupt some may lack a kernel, which must not be hidden either.
        rows += [
            row(base, [name for name in plain if looks[name] == look])
            for look in dict.fromkeys(looks[name] for name in plain)
        ]
        rows += [row(base, [name]) for name in names if name not in plain]
    return rows


def _looks(results: Mapping[str, Result]) -> tuple[tuple[str, Verdict, bool], ...]:
    """The verdicts of one scenario, as a row shows them."""
    return tuple(
        (kernel, result.verdict, result.promise_broken) for kernel, result in results.items()
    )


def _one_kernel(report: RunReport, *, narrow: bool = False) -> Table:
    """One kernel, with all the columns there is room for."""
    table = _table()
    table.add_column("verdict")
    for name in () if narrow else ("layers", "steps", "kernel", "twin"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in _rows(report):
        results = [result for by_kernel in row.results for result in by_kernel.values()]
        if narrow:
            table.add_row(Text(printable(row.name)), _verdict(results[0], short=True))
            continue
        table.add_row(
            Text(printable(row.name)),
            _verdict(results[0], short=False),
            row.layers(),
            row.steps(),
            _time(sum(result.kernel_us for result in results)),
            _time(sum(result.twin_us for result in results)),
        )
    return table


def _matrix(report: RunReport, *, narrow: bool = False) -> Table:
    """Several kernels: a column of verdicts for each, and the slowest twin."""
    kernels = list(report.by_kernel())
    table = _table()
    for kernel in kernels:
        table.add_column(Text(printable(kernel)), overflow="fold")
    for name in () if narrow else ("layers", "steps", "twin"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in _rows(report):
        cells = [
            Text("–") if (result := row.one_of(kernel)) is None else _verdict(result, short=True)
            for kernel in kernels
        ]
        if narrow:
            table.add_row(Text(printable(row.name)), *cells)
            continue
        table.add_row(
            Text(printable(row.name)),
            *cells,
            row.layers(),
            row.steps(),
            _time(
                sum(
                    max(result.twin_us for result in by_kernel.values())
                    for by_kernel in row.results
                )
            ),
        )
    return table


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("scenario", overflow="fold", ratio=1)
    return table


def _verdict(result: Result, *, short: bool) -> Text:
    word = SHORT.get(result.verdict, result.verdict) if short else result.verdict
    return Text(word + (MARK if result.promise_broken else ""), STYLE[result.verdict])


def _time(microseconds: int) -> str:
    if microseconds < 10_000:
        return f"{microseconds / 1e3:.1f} ms"
    return f"{microseconds / 1e6:.2f} s"
