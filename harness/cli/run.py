"""``dmsnap run`` and ``compare``."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import ProvisioningError
from harness.guest.catalogue import VAGRANT, Kernel

if TYPE_CHECKING:
    from harness.guest.process import Launcher
    from harness.trace.files import Trace
    from harness.verdict.result import Result
from harness.cli.complete import complete_scenarios
from harness.cli.options import (
    EXIT_DIFFERS,
    EXIT_GONE,
    defects_option,
    driver_option,
    kernel_options,
    note,
    scenarios_option,
    seed_option,
    step_limit_option,
)
from harness.cli.source import EXIT_CANNOT_BE_JUDGED, judged, source_options, sourced_kernels
from harness.cli.vagrant import fit_vagrant_guest, the_machine
from harness.guest.choice import chosen_kernels


def bundle_offer(results: "Sequence[Result]") -> str:
    """What to type for a bundle of the first divergence; empty if nothing diverged."""
    from harness.compare.diff import Verdict

    for result in results:
        if result.verdict in (Verdict.DIVERGED, Verdict.NONDETERMINISTIC):
            words = ["dmsnap", "report", result.scenario, "--kernel", result.kernel]
            words += ["--seed", str(result.seed)] if result.seed != 1 else []
            return f"to hand this to a maintainer: {shlex.join(words)}"
    return ""


@click.command()
@click.argument(
    "patterns",
    nargs=-1,
    metavar="[PATTERN|FILE.jsonl|DIR]...",
    shell_complete=complete_scenarios,
)
@scenarios_option
@kernel_options
@source_options
@click.option(
    "--guest",
    type=click.Choice(["uml", "qemu", "vagrant", "here"]),
    default=None,
    help="Where to run: in guests of that kind, or on this disposable machine "
    "itself.  To mix Vagrant's kernel with others, use --kernel vagrant.  [default: the kind "
    "the kernel needs]",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Guests at a time; there is one Vagrant machine.  [default: two per core; one with QEMU]",
)
@seed_option
@driver_option
@defects_option
@click.option(
    "--report",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("report"),
    show_default=True,
    metavar="DIR",
    help="Where index.html, junit.xml, run.ktap and results.json go.",
)
@click.option("--open", "show", is_flag=True, help="Show index.html in a browser at the end.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue a stopped run into the same report; what had finished is not run again.",
)
@click.option(
    "--known",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="What is known to differ: a baseline (.toml), or the results.json of an earlier run.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="Run each scenario so often, and say how often it passed.",
)
@click.option(
    "-x", "--stop-at-first", "first_only", is_flag=True, help="Stop at the first that is news."
)
@click.option(
    "--shuffle",
    type=click.IntRange(0, (1 << 63) - 1),
    metavar="SEED",
    help="Run the scenarios in an order that SEED gives.",
)
@step_limit_option
def run(
    patterns: tuple[str, ...],
    kernels: tuple[str, ...],
    modules: Path | None,
    source: str | None,
    replaced: tuple[str, ...],
    presets: tuple[str, ...],
    guest: str | None,
    jobs: int | None,
    seed: int,
    driver: str,
    defects: str,
    directory: Path,
    show: bool,
    resume: bool,
    step_limit: float,
    places: tuple[str, ...],
    known: Path | None,
    repeat: int,
    first_only: bool,
    shuffle: int | None,
) -> None:
    """Run scenarios in a kernel and in the twin, and compare.

    A PATTERN is the name of a scenario, with or without its parameters, or has * in it; without
    one, all are run.  A FILE or a DIR with traces is run like a scenario.  The exit status is 0
    only if all are the same on both sides; scenarios that need something the kernel lacks are
    counted, and do not change it.  With --known, only a new difference gives 1; if there is none,
    and a known one is gone, it is 3.  With --source it is 125 if there is no verdict, because the
    kernel cannot be built or booted: `git bisect run dmsnap run --source . PATTERN`.
    """
    from datetime import UTC, datetime

    from harness.campaign.plan import Plan
    from harness.campaign.run import IN_REPORT, TRACES_DIRECTORY, execute
    from harness.files import check_writable
    from harness.guest.recording import GUESTS_DIRECTORY
    from harness.report.github import step_summary
    from harness.report.html.page import PAGE_NAME, HtmlReporter
    from harness.report.junit import JunitReporter
    from harness.report.ktap import KtapReporter
    from harness.report.ledger import LEDGER_NAME, Ledger
    from harness.report.reporter import AgainstBaseline, JsonReporter, Reporter, Reporters
    from harness.report.terminal import Terminal
    from harness.scenarios.elsewhere import chosen as chosen_traces
    from harness.verdict import baseline
    from harness.verdict.result import Result

    # A PATTERN that names nothing must not make a bisection blame a commit.
    with judged(source):
        traces = arranged(chosen_traces(patterns, places, seed), repeat, shuffle)
    entries = baseline.read(known) if known else ()
    today = datetime.now(UTC).date()
    check_writable(directory)
    if source is None and (replaced or presets):
        raise ProvisioningError("--replace and --preset need --source TREE; name the tree")
    if source is not None and (guest in (VAGRANT, "here") or modules):
        raise ProvisioningError(
            "--source builds what guests of dmsnap run; leave out --modules and --guest"
        )

    def is_news(result: Result) -> bool:
        return baseline.differs(baseline.marked(result, entries, today)) and not (
            baseline.marked(result, entries, today).known
        )

    def following(reporters: list[Reporter]) -> Reporter:
        several = Reporters(reporters)
        return AgainstBaseline(several, entries, today) if known else several

    reporters: list[Reporter] = [
        Terminal(),
        JunitReporter(directory / "junit.xml"),
        KtapReporter(directory / "run.ktap"),
        JsonReporter(directory / "results.json"),
        HtmlReporter(directory / PAGE_NAME, traces, defects),
        *step_summary(note),
    ]
    if guest == "here":
        from harness.campaign.here import execute_here

        if kernels:
            raise ProvisioningError(
                "--guest here runs the kernel of this machine; leave out --kernel"
            )
        if resume:
            raise ProvisioningError("--guest here cannot resume a run; leave out --resume")
        report = execute_here(traces, following(reporters), modules=modules, driver=driver)
    else:
        if guest == VAGRANT and (kernels or modules):
            raise ProvisioningError(
                "--guest vagrant runs the kernel of that machine; leave out "
                "--kernel and --modules, or use --kernel vagrant to run it "
                "among several"
            )
        own = guest == VAGRANT or VAGRANT in kernels
        others = [name for name in kernels if name != VAGRANT]
        if resume:
            Ledger.check(directory / LEDGER_NAME)
        if own:
            the_machine().check_installed()
        chosen: tuple[Kernel, ...] = ()
        if source is not None:
            with judged(source):
                chosen = sourced_kernels(source, others, replaced, presets, traces)
        elif others or not own:
            chosen = chosen_kernels(others, modules, guest, progress=note)
        launchers: dict[str, Launcher] = {}
        if own:
            launcher = fit_vagrant_guest()
            chosen += (launcher.kernel(),)
            launchers[launcher.kernel().name] = launcher
        plan = Plan(
            traces=traces,
            kernels=chosen,
            driver=driver,
            launchers=launchers,
            defects=defects,
            jobs=jobs,
            directory=directory / GUESTS_DIRECTORY,
            traces_directory=directory / TRACES_DIRECTORY,
            enough=is_news if first_only else None,
            step_limit_s=step_limit,
        )
        ledger = Ledger(directory / LEDGER_NAME, plan.keys())
        finished = ledger.finished() if resume else []
        try:
            with judged(source):
                report = execute(plan, following([*reporters, ledger]), finished)
        except KeyboardInterrupt as fault:
            if fault.args == (IN_REPORT,):
                fault.args += ("`dmsnap run --resume` with the same arguments continues it",)
            raise
    click.echo(f"report: {directory}/{PAGE_NAME}, junit.xml, run.ktap, results.json")
    if show:
        open_page(directory / PAGE_NAME)
    if source is not None and not report.judged:
        raise click.exceptions.Exit(EXIT_CANNOT_BE_JUDGED)
    if known:
        report = baseline.applied(report, entries, today)
    if not report.nothing_differs:
        if offer := bundle_offer(report.results):
            click.echo(offer)
        raise click.exceptions.Exit(EXIT_DIFFERS)
    if report.known and report.known.gone:
        raise click.exceptions.Exit(EXIT_GONE)


def arranged(traces: Sequence["Trace"], repeat: int, shuffle: int | None) -> tuple["Trace", ...]:
    """The traces as often as they are to run, each turn with a name of its own, and in which order.

    Args:
        traces: with names of their own.
        repeat: how often.
        shuffle: gives the order; None for the one that they are in.
    """
    import random

    import msgspec

    from harness.verdict.result import turn

    found = list(traces)
    if repeat > 1:
        found = [
            msgspec.structs.replace(
                trace,
                header=msgspec.structs.replace(
                    trace.header, scenario=turn(trace.header.scenario, number)
                ),
            )
            for number in range(1, repeat + 1)
            for trace in traces
        ]
    if shuffle is not None:
        random.Random(shuffle).shuffle(found)  # noqa: S311 - an order, and no secret
    return tuple(found)


def open_page(page: Path) -> None:
    """Show a page in the user's browser; where there is none, say where it is."""
    import webbrowser

    address = page.absolute().as_uri()
    if not webbrowser.open(address):
        note(f"no browser was found to open {address}")


@click.command(short_help="Compare two runs: verdicts, status lines, times.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--html", is_flag=True, help="Write a page with both sides of every step, too.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report/compare.html"),
    show_default=True,
    metavar="FILE",
    help="Where that page goes.",
)
@click.option("--open", "show", is_flag=True, help="Show that page in a browser.")
def compare(a: str, b: str, html: bool, output: Path, show: bool) -> None:
    """Put two runs beside each other: verdicts, status lines, times.

    A and B are directories written by `dmsnap run --report`; append :KERNEL to look at one kernel
    only.  `dmsnap compare report:uml-6.1 report:uml-6.12` compares two kernels of one run.  The
    exit status is 0 if nothing but times differs.
    """
    from harness.report import beside as sides

    left, right = sides.open_run(a), sides.open_run(b)
    found = [sides.compare(left, right, kernels) for kernels in sides.pairs(left, right)]
    click.echo(
        f"A  {a}: {left.report.environment.started or 'start unknown'}\n"
        f"B  {b}: {right.report.environment.started or 'start unknown'}"
    )
    for pair in found:
        click.echo(sides.render(pair))
    if html or show:
        from harness.files import write_whole
        from harness.report.html.beside import page

        write_whole(output, page(left, right))
        click.echo(f"page: {output}")
        if show:
            open_page(output)
    if not all(pair.same for pair in found):
        raise click.exceptions.Exit(EXIT_DIFFERS)
