"""Scenarios and traces: ``dmsnap list``, ``trace``, ``replay``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.complete import complete_scenarios
from harness.cli.options import (
    EXIT_CANNOT,
    EXIT_DIFFERS,
    defects_option,
    driver_option,
    kernel_options,
    note,
    scenarios_option,
    seed_option,
    step_limit_option,
)
from harness.errors import ProvisioningError
from harness.guest.choice import chosen_kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.scenarios.registry import Scenario
    from harness.trace.files import Trace
    from harness.verdict.result import Result


@click.command("list")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_scenarios)
@scenarios_option
@click.option("--rows", is_flag=True, help="Show which rows of other test suites they cover.")
@click.option("--names", is_flag=True, help="Only names, each variant on a line of its own.")
@click.option("--json", "as_json", is_flag=True, help="All that is known of them, as JSON.")
def list_scenarios(
    patterns: tuple[str, ...], places: tuple[str, ...], rows: bool, names: bool, as_json: bool
) -> None:
    """List the scenarios, by theme."""
    from harness.scenarios.elsewhere import load
    from harness.scenarios.registry import by_theme, choose

    own, _ = load(places)
    wanted = {scenario.name for scenario in (choose(patterns) if patterns else own)}
    everything = not (patterns or places)
    themes = [
        (theme, [entry for entry in scenarios if everything or entry.name in wanted])
        for theme, scenarios in by_theme()
    ]
    if as_json:
        _list_as_json(themes)
        return
    if names:
        for _, scenarios in themes:
            for entry in scenarios:
                click.echo(entry.name)
        return
    _list_by_theme(themes, rows=rows)


def _list_as_json(themes: "Iterable[tuple[str, list[Scenario]]]") -> None:
    import json

    listed = [
        {
            "name": entry.name,
            "theme": theme,
            "about": entry.about,
            "parameters": {name: str(value) for name, value in entry.parameters.items()},
            "rows": entry.rows,
            "only_when_named": entry.loses_guest,
            "file": entry.file,
        }
        for theme, scenarios in themes
        for entry in scenarios
    ]
    click.echo(json.dumps(listed, indent=1))


def _list_by_theme(themes: "Iterable[tuple[str, list[Scenario]]]", *, rows: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from harness.report.gate import guarded

    console = guarded(Console(highlight=False, emoji=False))
    for theme, shown in themes:
        if shown:
            console.print(Text(theme, "bold"), soft_wrap=True)
        for base in dict.fromkeys(scenario.name.partition("[")[0] for scenario in shown):
            variants = [s for s in shown if s.name.partition("[")[0] == base]
            count = f" ×{len(variants)}" if len(variants) > 1 else ""
            apart = "  (only when named)" if variants[0].loses_guest else ""
            click.echo(f"  {base}{count}{apart}")
            click.echo(f"      {variants[0].about}")
            if rows and variants[0].rows:
                click.echo(f"      covers: {'; '.join(variants[0].rows)}")


@click.command(short_help="Print a scenario as a trace, or write several.")
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_scenarios
)
@scenarios_option
@seed_option
@click.option(
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write a file for each scenario, instead of printing one.",
)
def trace(
    names: tuple[str, ...], places: tuple[str, ...], seed: int, directory: Path | None
) -> None:
    """Print a scenario as a trace, or write several into files (docs/trace-format.md)."""
    from harness.scenarios.elsewhere import load
    from harness.scenarios.registry import choose
    from harness.trace.files import dumps, file_name, write

    load(places)
    found = choose(names)
    if directory is None and len(found) > 1:
        raise ProvisioningError(
            f"{', '.join(names)} has {len(found)} variants; give one of them: "
            f"{', '.join(scenario.name for scenario in found)}; "
            "or write all of them with --output DIR"
        )
    for scenario in found:
        document = scenario.trace(seed)
        if directory is None:
            click.echo(dumps(document), nl=False)
        else:
            path = directory / f"{file_name(scenario.name)}.jsonl"
            write(path, document)
            click.echo(f"{scenario.name}: {path}")


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path, allow_dash=True),
)
@click.option(
    "--on", "side", type=click.Choice(["twin", "kernel", "both"]), default="both", show_default=True
)
@kernel_options
@click.option(
    "--profile",
    default=None,
    metavar="NAME",
    help="Profile of the twin if it runs alone: 6.1, 6.12, 7.2 or seed.  [default: 6.12]",
)
@click.option(
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("report/replay"),
    show_default=True,
    metavar="DIR",
    help="Directory for the observations of each side; with several files or kernels, each gets a "
    "directory of its own.",
)
@driver_option
@defects_option
@step_limit_option
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what both sides came to as JUnit XML, too.",
)
def replay(
    files: tuple[Path, ...],
    side: str,
    kernels: tuple[str, ...],
    modules: Path | None,
    profile: str | None,
    directory: Path,
    driver: str,
    defects: str,
    step_limit: float,
    junit: Path | None,
) -> None:
    """Run traces on one side or on both.

    FILE is a trace, or a bundle that `dmsnap report` made, packed or not: of a bundle only the
    trace is used.

    The exit status is 0 if they are the same, or hang or die alike, 1 if not, 2 if one of them
    lacks what a trace needs.
    """
    from harness.campaign.replay import observe_kernel, observe_twin, require_answer
    from harness.compare.diff import AGREED, Verdict
    from harness.files import check_writable, write_whole
    from harness.report.junit import render
    from harness.trace.files import file_name
    from harness.twin.profile import named
    from harness.verdict.foresight import foretell, not_modelled, told
    from harness.verdict.judge import judge, unsupported
    from harness.verdict.result import Result, RunReport

    if profile is not None and side != "twin":
        raise ProvisioningError(
            "--profile needs --on twin; next to a kernel, the twin uses the "
            "profile that the guest's probe found"
        )
    if junit is not None and side != "both":
        raise ProvisioningError("--junit reports verdicts, which need both sides; leave out --on")
    documents = [_document(file, len(files)) for file in files]
    check_writable(directory)
    if side == "twin":
        alone = named(profile or "6.12")
        for document, place in zip(documents, _places(directory, documents), strict=True):
            for crash in foretell(document, alone.facts()).crashes:
                click.echo(f"a kernel may die in {told(document, crash)}")
            _keep(place / "twin.jsonl", observe_twin(document, alone))
        return
    results: list[Result] = []
    lacks = [not_modelled(document) if side == "both" else None for document in documents]
    if all(lacks):
        for document, lack in zip(documents, lacks, strict=True):
            assert lack is not None
            results.append(unsupported(document, (*kernels, "any kernel")[0], lack))
            _tell_replay(document, results[-1])
    else:
        chosen = chosen_kernels(kernels, modules, progress=note)
        for kernel in chosen:
            home = directory if len(chosen) == 1 else directory / file_name(kernel.name)
            for document, place, lack in zip(
                documents, _places(home, documents), lacks, strict=True
            ):
                if lack is not None:
                    results.append(unsupported(document, kernel.name, lack))
                    _tell_replay(document, results[-1])
                    continue
                seen, outcome = observe_kernel(
                    document, kernel, driver=driver, step_limit_s=step_limit
                )
                _keep(place / "kernel.jsonl", seen)
                if side == "kernel":
                    require_answer(document, outcome)
                    continue
                result, twin = judge(document, outcome, kernel.name, defects)
                if twin is not None:
                    _keep(place / "twin.jsonl", twin)
                results.append(result)
                _tell_replay(document, result)
    if junit is not None:
        write_whole(junit, render(RunReport(results=tuple(results))))
    verdicts = {result.verdict for result in results}
    if verdicts - AGREED - {Verdict.UNSUPPORTED}:
        raise click.exceptions.Exit(EXIT_DIFFERS)
    if Verdict.UNSUPPORTED in verdicts:
        raise click.exceptions.Exit(EXIT_CANNOT)


def _document(file: Path, files: int) -> "Trace":
    """The trace in a file; of several, the one that cannot be read is named."""
    from harness.errors import BadScenario, BadTrace
    from harness.files import read_bounded
    from harness.fuzz import bundle
    from harness.trace import files as traces
    from harness.trace.bounds import TRACE_BYTES_MAX

    try:
        if str(file) == "-":
            return traces.loads(read_bounded(sys.stdin.buffer, TRACE_BYTES_MAX))
        if bundle.is_bundle(file):
            return bundle.read_trace(file)
        return traces.read(file)
    except BadTrace as fault:
        if files == 1:
            raise
        raise BadScenario(f"{file}: {fault}") from None


def _places(directory: Path, documents: "Sequence[Trace]") -> list[Path]:
    """Where the observations of each trace go."""
    from harness.trace.files import file_name

    if len(documents) == 1:
        return [directory]
    return [
        directory / f"{number:02}-{file_name(document.header.scenario)}"
        for number, document in enumerate(documents, 1)
    ]


def _tell_replay(document: "Trace", result: "Result") -> None:
    """Print the outcome of a replay on both sides."""
    from harness.report.words import details

    if text := details(result):
        click.echo(text)
    promises = result.kernel_promises + result.twin_promises
    named = {each.step for each in result.divergences} | {each.step for each in promises}
    for step in sorted(named):
        click.echo(f"step {step} is on line {document.line(step)} of the trace")
    release = f" ({result.release})" if result.release else ""
    click.echo(
        f"{document.header.scenario} on {result.kernel}{release}: {result.verdict}"
        + (", promise broken" if result.promise_broken else "")
    )


def _keep(path: Path, seen: "Any") -> None:
    from harness.trace.files import write_observations

    path.parent.mkdir(parents=True, exist_ok=True)
    write_observations(path, seen)
    click.echo(f"{len(seen.observations)} observations: {path}")
