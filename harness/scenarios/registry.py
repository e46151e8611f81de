"""The catalogue: every scenario by name, with its parameters.

A scenario is a function that writes steps with a `Script`.  Parameters are given as lists, and
each combination is a scenario of its own: ``write_one_sector[P-8]``.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Final

from harness.errors import BadScenario, BadTrace
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

Author = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario: a name, what it is about, and how its steps are written.

    Attributes:
        rows: rows of other test suites that it answers (``dmtest: bring_up_snapshot_target_P``).
        loses_guest: it crashes its guest on purpose, and is run only when named.
    """

    name: str
    theme: str
    about: str
    author: Author
    parameters: dict[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    loses_guest: bool = False

    def trace(self, seed: int = DEFAULT_SEED) -> Trace:
        """The scenario as data; it ends with `Examine`.

        Raises:
            BadScenario: a step has a field that no trace may have.
        """
        script = Script()
        self.author(script, **self.parameters)
        steps = script.steps
        if not steps or not isinstance(steps[-1], Examine):
            steps.append(Examine())
        written = Trace(
            Header(
                scenario=self.name,
                seed=seed,
                about=self.about,
                not_compared=tuple(script.not_compared),
            ),
            tuple(steps),
        )
        try:
            return loads(dumps(written))  # which checks every field
        except BadTrace as fault:
            raise BadScenario(f"scenario {self.name}, {fault}") from None


_scenarios: dict[str, Scenario] = {}


def scenario(
    *, rows: Iterable[str] = (), loses_guest: bool = False, **parameters: Iterable[Any]
) -> Callable[[Author], Author]:
    """Enter a function into the catalogue, once for each combination of ``parameters``.

    ``rows`` may name parameters: ``create_lots_of_snaps_{store}``.
    """

    def enter(author: Author) -> Author:
        about = " ".join((author.__doc__ or "").split())
        assert about, f"{author.__name__} says nothing about itself"
        theme = author.__module__.rpartition(".")[2]
        for values in itertools.product(*parameters.values()):
            chosen = dict(zip(parameters, values, strict=True))
            label = "-".join(str(value) for value in values)
            name = f"{author.__name__}[{label}]" if label else author.__name__
            assert name not in _scenarios, f"two scenarios are named {name}"
            _scenarios[name] = Scenario(
                name=name,
                theme=theme,
                about=about,
                author=author,
                parameters=chosen,
                rows=tuple(row.format(**chosen) for row in rows),
                loses_guest=loses_guest,
            )
        return author

    return enter


def catalogue() -> dict[str, Scenario]:
    """Every scenario by name, in order."""
    for theme in THEMES:
        import_module(f"harness.scenarios.{theme}")
    return _scenarios


def _matches(name: str, pattern: str) -> bool:
    """A name, a name without its parameters, or a shell pattern (where ``[`` is literal)."""
    return (
        name == pattern
        or name.partition("[")[0] == pattern
        or fnmatchcase(name, pattern.replace("[", "[[]"))
    )


def choose(patterns: Iterable[str]) -> list[Scenario]:
    """Scenarios that match any pattern, in catalogue order; all that keep their guest if none.

    Raises:
        BadScenario: a pattern matches nothing.
    """
    entries = catalogue()
    wanted = list(patterns)
    if not wanted:
        return [entry for entry in entries.values() if not entry.loses_guest]
    unmatched = [
        pattern for pattern in wanted if not any(_matches(name, pattern) for name in entries)
    ]
    if unmatched:
        raise BadScenario(f"no scenario matches {', '.join(unmatched)}: see dmsnap list")
    return [
        entry
        for name, entry in entries.items()
        if any(_matches(name, pattern) for pattern in wanted)
        and (
            not entry.loses_guest
            or any(name == pattern or name.startswith(f"{pattern}[") for pattern in wanted)
        )
    ]


def by_theme() -> Iterator[tuple[str, list[Scenario]]]:
    """(theme, its scenarios) in catalogue order."""
    for theme, entries in itertools.groupby(catalogue().values(), key=lambda entry: entry.theme):
        yield theme, list(entries)
