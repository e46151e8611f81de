"""What is known to differ: a baseline, and what a run shows that is new, known, or gone.

A baseline is a TOML file that people write, or the results file of an earlier run:

    [[known]]
    scenario = "overflow_by_*"   # a name, a name without its variant, or a pattern
    kernel = "uml-6.*"           # by default any
    reason = "reported upstream, 2026-11-03"
    until = 2027-03-01           # afterwards it counts as new again
"""

import datetime
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from harness.compare.diff import AGREED, Verdict
from harness.errors import BadTrace, ProvisioningError
from harness.files import read_given
from harness.verdict import result as model
from harness.verdict.result import Known, Result, RunReport

_BYTES_MAX: Final = 1 << 20


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is known to differ.

    Attributes:
        scenario, kernel: names or patterns.
        reason: why it is not news.
        until: the last day on which it is not.
    """

    scenario: str
    kernel: str = "*"
    reason: Annotated[str, Meta(min_length=1, max_length=4096)]
    until: datetime.date | None = None

    def covers(self, result: Result) -> bool:
        """Whether it speaks of this scenario on this kernel."""
        name = model.without_turn(result.scenario)
        return _matches(name, self.scenario) and fnmatchcase(result.kernel, self.kernel)

    def __str__(self) -> str:
        until = f", until {self.until}" if self.until else ""
        return f"{self.scenario} on {self.kernel}: {self.reason}{until}"


class _Baseline(Struct, frozen=True, forbid_unknown_fields=True):
    known: tuple[Entry, ...]


def _matches(name: str, pattern: str) -> bool:
    literal = pattern.replace("[", "[[]")
    return pattern in (name, name.partition("[")[0]) or fnmatchcase(name, literal)


def differs(result: Result) -> bool:
    """Whether a result is what a baseline may know."""
    return result.verdict not in AGREED and result.verdict is not Verdict.UNSUPPORTED


def read(path: Path) -> tuple[Entry, ...]:
    """The entries of a baseline.

    Raises:
        ProvisioningError: it is neither form.
        OSError: it cannot be read.
    """
    try:
        if path.suffix == ".toml":
            text = read_given(path, _BYTES_MAX).decode()
            return msgspec.convert(tomllib.loads(text), _Baseline).known
        report = model.loads(read_given(path, model.RESULTS_BYTES_MAX))
    except (BadTrace, ValueError, msgspec.MsgspecError) as fault:
        raise ProvisioningError(
            f"{path} is not a baseline: {fault}; name a results.json, or a .toml with [[known]]"
        ) from None
    return tuple(
        Entry(
            scenario=model.without_turn(result.scenario),
            kernel=result.kernel,
            reason=f"{result.verdict} in {path}",
        )
        for result in report.results
        if differs(result)
    )


def marked(result: Result, entries: Sequence[Entry], today: datetime.date) -> Result:
    """The result, with the reason why it is not news, if it is not."""
    if not differs(result):
        return result
    for entry in entries:
        if entry.covers(result) and not (entry.until and entry.until < today):
            return msgspec.structs.replace(result, known=str(entry))
    return result


def applied(report: RunReport, entries: Sequence[Entry], today: datetime.date) -> RunReport:
    """The report, which says of each result that differs whether it is known, and what is gone."""
    results = tuple(marked(result, entries, today) for result in report.results)
    gone, expired = [], []
    for entry in entries:
        covered = [result for result in results if entry.covers(result)]
        if entry.until and entry.until < today:
            expired += [str(entry)] * any(map(differs, covered))
        elif covered and not any(map(differs, covered)):
            gone.append(str(entry))
    return msgspec.structs.replace(
        report,
        results=results,
        known=Known(
            new=tuple(
                f"{result.scenario} on {result.kernel}: {result.verdict}"
                for result in results
                if differs(result) and not result.known
            ),
            known=tuple(dict.fromkeys(result.known for result in results if result.known)),
            gone=tuple(gone),
            expired=tuple(expired),
        ),
    )
