"""Scenarios and traces: ``dmsnap list``, ``trace``, ``replay``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import EXIT_CANNOT, EXIT_DIFFERS, kernel_options, note
from harness.errors import ProvisioningError
from harness.guest.choice import chosen_kernels

if TYPE_CHECKING:
    from harness.trace.files import Trace
    from harness.verdict.result import Result


@click.command("list")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--rows", is_flag=True, help="Show which rows of other test suites they cover.")
def list_scenarios(patterns: tuple[str, ...], rows: bool) -> None:
    """List the scenarios, by theme."""
    from rich.console import Console
    from rich.text import Text

    from harness.report.gate import guarded
    from harness.scenarios.registry import by_theme, choose

    console = guarded(Console(highlight=False, emoji=False))
    wanted = {scenario.name for scenario in choose(patterns)} if patterns else None
    for theme, scenarios in by_theme():
        shown = [scenario for scenario in scenarios if wanted is None or scenario.name in wanted]
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


@click.command()
@click.argument("name")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True)
def trace(name: str, seed: int) -> None:
    """Print one scenario as a trace (docs/trace-format.md)."""
    from harness.scenarios.registry import choose
    from harness.trace.files import dumps

    found = choose([name])
    if len(found) > 1:
        raise ProvisioningError(
            f"{name} has {len(found)} variants; give one of them: "
            f"{', '.join(scenario.name for scenario in found)}"
        )
    click.echo(dumps(found[0].trace(seed)), nl=False)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
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
    help="Directory for the observations of each side.",
)
@click.option(
    "--driver", type=click.Choice(["ioctl", "dmsetup"]), default="ioctl", show_default=True
)
def replay(
    file: Path,
    side: str,
    kernels: tuple[str, ...],
    modules: Path | None,
    profile: str | None,
    directory: Path,
    driver: str,
) -> None:
    """Run a trace on one side or on both.

    FILE is a trace, or a bundle that `dmsnap report` made, packed or not: of a bundle only the
    trace is used.

    The exit status is 0 if they are the same, or hang or die alike, 1 if not, 2 if one of them
    lacks what the trace needs.
    """
    from harness.campaign.replay import observe_kernel, observe_twin, require_answer
    from harness.files import check_writable, read_bounded
    from harness.fuzz import bundle
    from harness.trace import files as traces
    from harness.trace.bounds import TRACE_BYTES_MAX
    from harness.twin.profile import named
    from harness.verdict.foresight import foretell, not_modelled, told
    from harness.verdict.judge import judge, unsupported

    if str(file) == "-":
        document = traces.loads(read_bounded(sys.stdin.buffer, TRACE_BYTES_MAX))
    elif bundle.is_bundle(file):
        document = bundle.read_trace(file)
    else:
        document = traces.read(file)
    if profile is not None and side != "twin":
        raise ProvisioningError(
            "--profile needs --on twin; next to a kernel, the twin uses the "
            "profile that the guest's probe found"
        )
    if len(kernels) > 1:
        raise ProvisioningError("replay takes one kernel; give --kernel once")
    check_writable(directory)
    if side == "twin":
        alone = named(profile or "6.12")
        for crash in foretell(document, alone.facts()).crashes:
            click.echo(f"a kernel may die in {told(document, crash)}")
        seen = observe_twin(document, alone)
        _keep(directory / "twin.jsonl", seen)
        return
    if side == "both" and (unknown := not_modelled(document)):
        _tell_replay(document, unsupported(document, (*kernels, "any kernel")[0], unknown))
        return
    [kernel] = chosen_kernels(kernels, modules, one=True, progress=note)
    seen, outcome = observe_kernel(document, kernel, driver=driver)
    _keep(directory / "kernel.jsonl", seen)
    if side == "kernel":
        require_answer(document, outcome)
        return
    result, twin = judge(document, outcome, kernel.name)
    if twin is not None:
        _keep(directory / "twin.jsonl", twin)
    _tell_replay(document, result)


def _tell_replay(document: "Trace", result: "Result") -> None:
    """Print the outcome of a replay on both sides, and set the exit status."""
    from harness.compare.diff import AGREED, Verdict
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
    if result.verdict is Verdict.UNSUPPORTED:
        raise click.exceptions.Exit(EXIT_CANNOT)
    if result.verdict not in AGREED:
        raise click.exceptions.Exit(EXIT_DIFFERS)


def _keep(path: Path, seen: "Any") -> None:
    from harness.trace.files import write_observations

    path.parent.mkdir(parents=True, exist_ok=True)
    write_observations(path, seen)
    click.echo(f"{len(seen.observations)} observations: {path}")
