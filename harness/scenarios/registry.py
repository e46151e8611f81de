"""The catalogue: every scenario by name, with its parameters.

A scenario is a function that writes steps with a `Script`.  Parameters are given as lists, and
each combination is a separate scenario: ``write_one_sector[P-8]``.
"""

import inspect
import itertools
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.errors import BadScenario, BadTrace, DmsnapError
from harness.scenarios.script import Script
from harness.trace.files import Header, Trace, dumps, loads
from harness.trace.steps import Examine

THEMES: Final = (
    "creation",
    "writes",
    "origins",
    "stores",
    "crafted",
    "overflow",
    "tables",
    "merging",
    "io_errors",
    "metadata_faults",
    "merge_faults",
    "links",
    "rotten_disks",
    "discards",
    "stacks",
    "striped",
    "hangs",
    "requests",
    "parallel",
    "in_flight",
    "workloads",
    "lvm_tables",
    "android",
    "fixes",
    "defects",
)
"""Modules of this package that hold scenarios, in the order of the catalogue."""
DEFAULT_SEED: Final = 1
_TOLD_MAX: Final = 8
"""Variants that are named to somebody who mistyped one."""

Author = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario: a name, what it is about, and how its steps are written.

    Attributes:
        rows: rows of other test suites that it covers (``dmtest: bring_up_snapshot_target_P``).
        loses_guest: it crashes its guest on purpose, and is run only when named.
        file: where it is written, if that is not in the catalogue.
    """

    name: str
    theme: str
    about: str
    author: Author
    parameters: dict[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    loses_guest: bool = False
    file: str = ""

    def trace(self, seed: int = DEFAULT_SEED) -> Trace:
        """The scenario as data; it ends with `Examine`.

        Raises:
            BadScenario: a step has a field that no trace may have.
        """
        script = Script(self.file)
        try:
            self.author(script, **self.parameters)
        except Exception as fault:  # noqa: BLE001 - a user's own code
            placed = in_file(Path(self.file or _file_of(self.author)), fault)
            raise BadScenario(f"scenario {self.name}, step {len(script.steps)}, {placed}") from None
        steps = script.steps
        if not steps or not isinstance(steps[-1], Examine):
            steps.append(Examine())
        written = Trace(
            Header(
                scenario=self.name,
                seed=seed,
                about=self.about,
                not_compared=tuple(script.not_compared),
                names=script.names or msgspec.UNSET,
            ),
            tuple(steps),
        )
        try:
            read = loads(dumps(written))  # which checks every field
        except BadTrace as fault:
            at = None if fault.step is None else script.line_of(fault.step)
            raise BadScenario(f"{self._at(at)}, {fault}") from None
        if not self.file:
            return read
        lines = tuple(script.line_of(index) for index in range(len(steps)))
        return msgspec.structs.replace(read, file=self.file, lines=lines)

    def _at(self, line: int | None) -> str:
        """The scenario, and where it is written, if that is in a user's file."""
        where = f" ({self.file}:{line})" if self.file and line else ""
        return f"scenario {self.name}{where}"


def _file_of(author: Author) -> str:
    return inspect.getsourcefile(inspect.unwrap(author)) or ""


def in_file(path: Path, fault: Exception) -> BadScenario:
    """What went wrong in somebody's Python, with its place in their file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(fault.__traceback__)
        if Path(frame.filename).name == path.name and frame.lineno
    ]
    line = getattr(fault, "lineno", None) or (lines[-1] if lines else None)
    where = f"{path}:{line}" if line else str(path)
    kind = "" if isinstance(fault, DmsnapError) else f"{type(fault).__name__}: "
    return BadScenario(f"{where}: {kind}{fault}")


_scenarios: dict[str, Scenario] = {}
_LITERAL: Final = re.compile(r"[^*?]*")
"""A pattern that is a name; most are, and there may be as many as scenarios."""


def scenario(
    *, rows: Iterable[str] = (), loses_guest: bool = False, **parameters: Iterable[Any]
) -> Callable[[Author], Author]:
    """Add a function to the catalogue, once for each combination of ``parameters``.

    ``rows`` may name parameters: ``create_lots_of_snaps_{store}``.
    """

    def enter(author: Author) -> Author:
        about = " ".join((author.__doc__ or "").split())
        if not about:
            raise BadScenario(
                f"scenario {author.__name__} says nothing about itself: it needs a docstring"
            )
        theme = author.__module__.rpartition(".")[2]
        own = author.__module__.startswith(f"{__package__}.")
        file = "" if own else _file_of(author)
        for values in itertools.product(*parameters.values()):
            chosen = dict(zip(parameters, values, strict=True))
            label = "-".join(str(value) for value in values)
            name = f"{author.__name__}[{label}]" if label else author.__name__
            if name in _scenarios:
                raise BadScenario(f"two scenarios are named {name}: give one of them another name")
            _scenarios[name] = Scenario(
                name=name,
                theme=theme,
                about=about,
                author=author,
                parameters=chosen,
                rows=tuple(row.format(**chosen) for row in rows),
                loses_guest=loses_guest,
                file=file,
            )
        return author

    return enter


def catalogue() -> dict[str, Scenario]:
    """Every scenario by name, in order."""
    for theme in THEMES:
        import_module(f"harness.scenarios.{theme}")
    return _scenarios


def matching(pattern: str) -> list[str]:
    """Names of the catalogue that match a pattern."""
    return [name for name in catalogue() if _matches(name, pattern)]


def _matches(name: str, pattern: str) -> bool:
    """A name, a name without its parameters, or a shell pattern (where ``[`` is literal)."""
    return (
        name == pattern
        or name.partition("[")[0] == pattern
        or (not _LITERAL.fullmatch(pattern) and fnmatchcase(name, pattern.replace("[", "[[]")))
    )


def choose(patterns: Iterable[str]) -> list[Scenario]:
    """Matching scenarios in catalogue order; without patterns, all that keep their guest.

    Raises:
        BadScenario: a pattern matches nothing.
    """
    entries = catalogue()
    wanted = list(patterns)
    if not wanted:
        return [entry for entry in entries.values() if not entry.loses_guest]
    found = {pattern: [name for name in entries if _matches(name, pattern)] for pattern in wanted}
    if unmatched := [pattern for pattern, names in found.items() if not names]:
        raise BadScenario(_no_match(unmatched, entries))
    matched = set(itertools.chain.from_iterable(found.values()))
    return [
        entry
        for name, entry in entries.items()
        if name in matched
        and (
            not entry.loses_guest
            or any(name == pattern or name.startswith(f"{pattern}[") for pattern in wanted)
        )
    ]


def _no_match(unmatched: Sequence[str], names: Iterable[str]) -> str:
    """What was meant, perhaps; a scenario that is there has other variants."""
    told = []
    bases: dict[str, list[str]] = {}
    for name in names:
        bases.setdefault(name.partition("[")[0], []).append(name)
    for pattern in unmatched:
        base = pattern.partition("[")[0]
        if base in bases:
            variants = bases[base]
            more = f" and {len(variants) - _TOLD_MAX} more" if len(variants) > _TOLD_MAX else ""
            told.append(f"{base} has these variants: {', '.join(variants[:_TOLD_MAX])}{more}")
        elif close := get_close_matches(base, bases, 3, 0.6):
            told.append(f"did you mean {' or '.join(close)}?")
    return f"no scenario matches {', '.join(unmatched)}: " + "; ".join(told or ["see dmsnap list"])


def by_theme() -> Iterator[tuple[str, list[Scenario]]]:
    """(theme, its scenarios) in catalogue order."""
    for theme, entries in itertools.groupby(catalogue().values(), key=lambda entry: entry.theme):
        yield theme, list(entries)
