"""Measurements: ``dmsnap coverage``, ``headline``, ``preflight``."""

import os
from pathlib import Path

import click

from harness.cli.options import EXIT_DIFFERS, kernel_options, no_cage_option, note
from harness.cli.vagrant import vagrant_machine
from harness.errors import ProvisioningError
from harness.guest import catalogue
from harness.guest.choice import chosen_kernels


@click.command(short_help="Check that guests can run scenarios.")
@kernel_options
@click.option(
    "--guest",
    type=click.Choice(["uml", "qemu", "vagrant", "here"]),
    default=None,
    help="Check guests of that kind, or this disposable machine itself.  [default: the kind "
    "the kernel needs]",
)
def preflight(kernels: tuple[str, ...], modules: Path | None, guest: str | None) -> None:
    """Check that guests can run scenarios, and say what to do where they cannot."""
    from harness.measure import preflight as asks

    found = {}
    if guest == "here":
        found[guest] = asks.of_this_machine(modules or Path("/lib/modules") / os.uname().release)
    elif guest == "vagrant":
        found[guest] = asks.of_vagrant(vagrant_machine())
    else:
        for kernel in chosen_kernels(kernels, modules, guest, progress=note):
            note(f"{kernel.name}: booting")
            found[kernel.name] = asks.of_guest(kernel)
    for name, findings in found.items():
        click.echo(asks.render(findings, name))
    if not all(finding.ok for findings in found.values() for finding in findings):
        raise click.exceptions.Exit(EXIT_DIFFERS)


@click.command(short_help="Count the module's functions that scenarios reach.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option(
    "--kernel",
    "name",
    default="deb-6.1",
    show_default=True,
    metavar="NAME",
    help="A catalogue kernel that runs in QEMU.",
)
@no_cage_option
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Guests at a time.  [default: two per core; one with QEMU]",
)
@click.option(
    "--report",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("report/coverage"),
    show_default=True,
    metavar="DIR",
    help="Directory for results.json and coverage.json.",
)
@click.option("--update", is_flag=True, help="Rewrite docs/TRACEABILITY.md, in a checkout.")
def coverage(
    patterns: tuple[str, ...], name: str, jobs: int | None, directory: Path, update: bool
) -> None:
    """Count which functions of the module the scenarios reach, as the kernel traces them.

    The module is built without inlining from the source of that kernel, and compared with the
    twin like any other.  The exit status is 0 if everything is the same and each function of the
    seed is reached, or is known to be unreachable.
    """
    from harness.files import check_writable, write_whole
    from harness.guest.build import noinline
    from harness.measure.coverage import dump, measure, unreached
    from harness.measure.traceability import DATA, NAMES, PAGE, SEED, page
    from harness.report.github import step_summary
    from harness.report.reporter import JsonReporter, Reporters
    from harness.report.terminal import Terminal
    from harness.scenarios.registry import choose

    if update and (patterns or not PAGE.parent.is_dir()):
        raise ProvisioningError(
            "--update writes the page of the whole catalogue in a checkout; "
            "give no patterns, and start dmsnap in the checkout"
        )
    traces = [scenario.trace() for scenario in choose(patterns)]
    check_writable(directory)
    noinline.check(catalogue.entry_of(name))
    [kernel] = chosen_kernels([name], None, one=True, progress=note)
    report, recorded = measure(
        kernel,
        NAMES,
        traces,
        jobs=jobs,
        directory=directory,
        progress=note,
        reporter=Reporters(
            [Terminal(), JsonReporter(directory / "results.json"), *step_summary(note)]
        ),
    )
    write_whole(directory / "coverage.json", dump(recorded))
    if update:
        write_whole(DATA, dump(recorded))
        write_whole(PAGE, page(recorded).encode())
    missed = unreached(recorded, {each.name: each.note for each in SEED if each.note})
    click.echo(
        f"{len(recorded.functions)} of the seed's {len(NAMES)} functions are in this "
        f"kernel; not reached: {', '.join(missed) or 'none'}"
    )
    click.echo(f"report: {PAGE if update else directory / 'coverage.json'}")
    if missed or not report.nothing_differs:
        raise click.exceptions.Exit(EXIT_DIFFERS)


@click.command("headline", short_help="Measure copy jobs in flight and their memory.")
@kernel_options
def measure_headline(kernels: tuple[str, ...], modules: Path | None) -> None:
    """Measure copy jobs in flight and their memory, with and without a limit, on both sides.

    Eight snapshots on slow COW devices; 32 MiB of their origin are written through the page cache
    of a guest with 2 GiB.  Takes about a minute per kernel.
    """
    import tempfile

    from harness.measure.headline import measure, seed_rows, table

    for kernel in chosen_kernels(kernels, modules, progress=note):
        with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
            release, rows = measure(kernel, Path(directory), tell=note)
        click.echo("\n".join(table(kernel.name, release, rows, seed_rows(rows[0].delay_ms))))
        if any(row.differs or not row.kept for row in rows):
            raise click.exceptions.Exit(EXIT_DIFFERS)
