"""Kernels and this machine: ``dmsnap kernels``, ``doctor``."""


import click

from harness.cli.options import EXIT_DIFFERS, note
from harness.guest import catalogue
from harness.guest.choice import matching
from harness.guest.fetch import provision


@click.group(invoke_without_command=True)
@click.pass_context
def kernels(ctx: click.Context) -> None:
    """List the kernels of the catalogue, and which are cached."""
    if ctx.invoked_subcommand is not None:
        return
    default = catalogue.default()
    for entry in catalogue.entries():
        kernel = catalogue.find(entry.name)
        if kernel is None or kernel.record is None:
            state = f"not cached: dmsnap kernels fetch {entry.name}"
        else:
            record = kernel.record
            state = (f"cached: {record.release} ({record.package} {record.version}, fetched "
                     f"{record.fetched_at[:10]})")
        mark = " (default)" if entry.name == default else ""
        click.echo(f"{entry.name + mark:<20}  {entry.suite:<9}  {state}")
    click.echo(f"cache: {catalogue.cache_dir()}")


@kernels.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--refresh", is_flag=True, help="Fetch again, for what the suite holds today.")
def fetch(names: tuple[str, ...], refresh: bool) -> None:
    """Bring kernels into the cache; NAME may have * in it.

    Packages come through apt, with signatures checked, in directories of dmsnap's own: neither
    root nor the system's configuration is touched.
    """
    known = [entry.name for entry in catalogue.entries()]
    wanted = [name for pattern in names
              for name in (matching(known, pattern) or [catalogue.entry_of(pattern).name])]
    catalogue.check_room([catalogue.entry_of(name) for name in wanted], refresh=refresh)
    for name in dict.fromkeys(wanted):
        cached = catalogue.find(name) is not None
        kernel = provision.fetch(name, progress=lambda line, name=name: note(  # type: ignore[misc]
            f"{name}: {line}"), refresh=refresh)
        if cached and not refresh:
            click.echo(f"{name}: cached, {kernel.release}")


@click.command()
def doctor() -> None:
    """Say what this machine can run, and what to type where it cannot."""
    from harness.guest.doctor import able, examine, render

    findings = examine()
    click.echo(render(findings))
    if not able(findings):
        raise click.exceptions.Exit(EXIT_DIFFERS)
