"""``dmsnap lvm``."""

from pathlib import Path

import click

from harness.cli.options import EXIT_DIFFERS, kernel_options, note
from harness.guest.choice import chosen_kernels


@click.command("lvm", short_help="Run the real LVM2 in a guest, and replay it.")
@click.argument("names", nargs=-1, metavar="[SITUATION]...")
@kernel_options
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 8),
    metavar="N",
    help="Guests at a time.  [default: two per core; one with QEMU]",
)
@click.option(
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("report/lvm"),
    show_default=True,
    metavar="DIR",
    help="Directory for the traces and LVM's logs, by kernel.",
)
def lvm_situations(
    names: tuple[str, ...],
    kernels: tuple[str, ...],
    modules: Path | None,
    jobs: int | None,
    directory: Path,
) -> None:
    """Run the real LVM2 in a guest, and replay what it did in the twin.

    Each SITUATION becomes an ordinary trace, which `dmsnap replay` takes; without one, all are
    run.  The exit status is 0 only if LVM's devices report exactly what the twin does.
    """
    from harness.campaign.plan import default_jobs
    from harness.files import check_writable
    from harness.guest.recording import files_of
    from harness.lvm.enact import check_installed, chosen, run, table

    situations = chosen(names)
    check_installed()
    check_writable(directory)
    differs = False
    for kernel in chosen_kernels(kernels, modules, progress=note):
        place = files_of(directory, kernel.name)
        release, rows = run(kernel, situations, place, jobs=jobs or default_jobs(kernel), tell=note)
        click.echo("\n".join(table(kernel.name, release, rows)))
        click.echo(f"\ntraces: {place}")
        differs |= any(row.faults for row in rows)
    if differs:
        raise click.exceptions.Exit(EXIT_DIFFERS)
