"""Scenarios and traces that live elsewhere: files of traces, Python files, packages.

A trace is data, whoever wrote it: it is read within its bounds and never executed here.  A Python
file is code, and runs as its user; so it is only loaded where it is named as such
(``--scenarios``), never because it lies in a directory of traces.
"""

import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import BadScenario, BadTrace
from harness.scenarios import registry
from harness.scenarios.registry import DEFAULT_SEED, Scenario
from harness.trace import files
from harness.trace.files import Trace

GROUP: Final = "dmsnap.scenarios"
"""Entry points of packages that hold scenarios: each names a module."""
TRACE_SUFFIX: Final = ".jsonl"
FILES_MAX: Final = 10_000
"""Traces that are taken from one directory."""


def chosen(
    words: Iterable[str], paths: Sequence[str] = (), seed: int = DEFAULT_SEED
) -> tuple[Trace, ...]:
    """The traces that a command line asks for, each with a name of its own.

    Args:
        words: patterns of scenarios, files of traces, and directories of them.
        paths: Python files, traces, directories of both, and entry points; see `load`.
        seed: of scenarios; a trace has its own.

    Raises:
        BadScenario: a word names nothing, or a scenario cannot be written.
        BadTrace: a file is no trace; it is named.
    """
    own, found = load(paths)
    patterns = []
    for word in words:
        if is_place(word):
            found += _traces_at(Path(word))
        else:
            patterns.append(word)
    scenarios: list[Scenario] = []
    if patterns or not (own or found):
        scenarios = registry.choose(patterns)
    elif own:
        scenarios = [entry for entry in own if not entry.loses_guest]
    return _apart([*(scenario.trace(seed) for scenario in scenarios), *found])


def is_place(word: str) -> bool:
    """Whether a word names a file or a directory, and no scenario."""
    return (
        word.endswith(TRACE_SUFFIX)
        or "/" in word
        or (Path(word).is_dir() and not registry.matching(word))
    )


def load(paths: Iterable[str]) -> tuple[list[Scenario], list[Trace]]:
    """Enter the scenarios at ``paths`` into the catalogue.

    Args:
        paths: Python files, which are run; traces; directories, of which both are taken; names of
            entry points (`GROUP`).

    Returns:
        The scenarios, and the traces.

    Raises:
        BadScenario: there is nothing, or a file cannot be run; file and line are named.
    """
    known = set(registry.catalogue())
    traces: list[Trace] = []
    for word in paths:
        path = Path(word)
        if path.is_dir():
            python = sorted(path.glob("*.py"))
            for file in python:
                _run(file)
            traces += _traces_at(path, may_be_empty=bool(python))
        elif word.endswith(TRACE_SUFFIX):
            traces += _traces_at(path)
        elif path.is_file():
            _run(path)
        else:
            _import(word)
    return [entry for name, entry in registry.catalogue().items() if name not in known], traces


def _traces_at(path: Path, *, may_be_empty: bool = False) -> list[Trace]:
    """The traces in a directory, by name, or the one in a file."""
    if not path.is_dir():
        return [_trace(path)]
    found = sorted(path.glob(f"*{TRACE_SUFFIX}"))
    if len(found) > FILES_MAX:
        raise BadScenario(f"{path} holds {len(found)} traces; {FILES_MAX} are taken at once")
    if not found and not may_be_empty:
        raise BadScenario(
            f"no trace (*{TRACE_SUFFIX}) is in {path}; Python files are named with --scenarios"
        )
    return [_trace(file) for file in found]


def _trace(path: Path) -> Trace:
    try:
        return msgspec.structs.replace(files.read(path), file=str(path))
    except BadTrace as fault:
        raise BadScenario(f"{path}: {fault}") from None
    except OSError as fault:
        raise BadScenario(f"{path}: {fault.strerror}") from None


def _run(path: Path) -> None:
    """Run a Python file, which enters its scenarios."""
    name = f"dmsnap_scenarios_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadScenario(f"{path} is not a Python file (*.py)")
    before = set(registry.catalogue())
    module = module_from_spec(spec)
    sys.modules[name] = module
    # What lies beside it may be imported, as where Python runs the file.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as fault:  # noqa: BLE001 - a user's own code
        raise registry.in_file(path, fault) from None
    finally:
        sys.path.remove(str(path.resolve().parent))
    if set(registry.catalogue()) == before:
        raise BadScenario(f"{path} holds no scenario: see docs/adding-a-scenario.md")


def _import(name: str) -> None:
    """Import what an entry point names."""
    found = metadata.entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none"
        raise BadScenario(
            f"{name} is neither a file, a directory, nor a package with scenarios "
            f"(entry point {GROUP}: {known})"
        )
    try:
        found[name].load()
    except Exception as fault:  # noqa: BLE001 - a user's own code
        raise registry.in_file(Path(found[name].module), fault) from None


def _apart(traces: Sequence[Trace]) -> tuple[Trace, ...]:
    """The same traces; those of one name are told apart by their files."""
    names = [trace.header.scenario for trace in traces]
    taken: set[str] = set()
    found = []
    for trace, name in zip(traces, names, strict=True):
        new = name
        if names.count(name) > 1 and trace.file:
            new = f"{name} ({Path(trace.file).name})"
        number = 2
        while new in taken:
            new, number = f"{name} ({number})", number + 1
        taken.add(new)
        header = msgspec.structs.replace(trace.header, scenario=new)
        found.append(msgspec.structs.replace(trace, header=header))
    return tuple(found)
