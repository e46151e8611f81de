"""What follows a run and reports it: the protocol, a silent base, and several as one."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Protocol

from harness.files import write_whole
from harness.verdict.baseline import Entry, applied, marked
from harness.verdict.result import Result, RunReport, dumps


class Reporter(Protocol):
    """Follows a run.  Calls come from one thread, in this order; `close` is always called."""

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """A run of ``total`` results over ``kernels`` starts."""

    def progress(self, guest: str, doing: str) -> None:
        """What a guest does now; empty if it is gone."""

    def result(self, result: Result) -> None:
        """One result; after the first one the previous run may be dropped."""

    def end(self, report: RunReport) -> None:
        """All results are there; not called for a run without any."""

    def close(self) -> None:
        """Clean up, however the run ended; may be called more than once."""


class FileReporter:
    """A reporter that writes one file at the end; subclasses say what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._old = True

    def render(self, report: RunReport) -> bytes:
        """The contents of the file."""
        raise NotImplementedError

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Nothing to do: the previous report stays until this run has a result."""

    def progress(self, guest: str, doing: str) -> None:
        """Nothing to do."""

    def result(self, result: Result) -> None:  # noqa: ARG002
        """Remove the previous run's report at the first result."""
        if self._old:
            self._old = False
            self.path.unlink(missing_ok=True)

    def end(self, report: RunReport) -> None:
        """Write the file, atomically."""
        write_whole(self.path, self.render(report))

    def close(self) -> None:
        """Nothing to do."""


class JsonReporter(FileReporter):
    """``results.json``."""

    def render(self, report: RunReport) -> bytes:
        """The report itself."""
        return dumps(report)


class AgainstBaseline:
    """Reporters that hear of each result, and of the report, as a baseline has it.

    Args:
        below: hear of it.
        entries: of the baseline.
        today: decides what has expired.
    """

    def __init__(self, below: Reporter, entries: Sequence[Entry], today: date) -> None:
        self._below = below
        self._entries = entries
        self._today = today
        self.begin, self.progress, self.close = below.begin, below.progress, below.close

    def result(self, result: Result) -> None:
        """With why it is not news."""
        self._below.result(marked(result, self._entries, self._today))

    def end(self, report: RunReport) -> None:
        """With what is new, known and gone."""
        self._below.end(applied(report, self._entries, self._today))


class Reporters:
    """Several reporters as one; an error in one does not keep calls from the others."""

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._all = tuple(reporters)

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Tell all."""
        self._each(lambda reporter: reporter.begin(kernels, total))

    def progress(self, guest: str, doing: str) -> None:
        """Tell all."""
        self._each(lambda reporter: reporter.progress(guest, doing))

    def result(self, result: Result) -> None:
        """Tell all."""
        self._each(lambda reporter: reporter.result(result))

    def end(self, report: RunReport) -> None:
        """Tell all."""
        self._each(lambda reporter: reporter.end(report))

    def close(self) -> None:
        """Tell all."""
        self._each(lambda reporter: reporter.close())

    def _each(self, call: "_Call") -> None:
        with ExitStack() as stack:  # runs in reverse, whatever fails; the last error is raised
            for reporter in reversed(self._all):
                stack.callback(call, reporter)


class _Call(Protocol):
    def __call__(self, reporter: Reporter, /) -> None: ...
