"""Kernels and this machine: ``dmsnap kernels``, ``doctor``."""

from contextlib import suppress

import click

from harness.cli.complete import complete_kernels
from harness.cli.options import EXIT_DIFFERS, note
from harness.errors import CannotBoot
from harness.guest import catalogue, fallback
from harness.guest.build import kept
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
            state = (
                f"cached: {record.release} ({record.package} {record.version}, fetched "
                f"{record.fetched_at[:10]}), {mebibytes(size_of(entry.name))}"
            )
            if age := record.age():
                state += f"; {age}"
        mark = " (default)" if entry.name == default else ""
        click.echo(f"{entry.name + mark:<20}  {entry.suite:<9}  {state}")
    for name in kept.names():
        click.echo(f"{name:<20}  {'own':<9}  {kept.get(name).built}")
    total = sum(size_of(entry.name) for entry in catalogue.entries())
    click.echo(f"cache: {catalogue.cache_dir()}, {mebibytes(total)}")


def mebibytes(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size / (1 << 20):.0f} MiB"


def size_of(name: str) -> int:
    """What a kernel takes in the cache, in bytes."""
    found = 0
    for path in (catalogue.cache_dir() / name).rglob("*"):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink():
                found += path.stat().st_size
    return found


@kernels.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_kernels)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(names: tuple[str, ...], dry_run: bool) -> None:
    """Remove kernels from the cache; NAME may contain *.

    Without a NAME, all but the default one are removed.  A kernel is fetched again when needed.
    """
    known = [entry.name for entry in catalogue.entries()]
    wanted = [
        name
        for pattern in names
        for name in (matching(known, pattern) or [catalogue.entry_of(pattern).name])
    ] or [name for name in known if name != catalogue.default()]
    freed = 0
    for name in dict.fromkeys(wanted):
        if size := size_of(name):
            freed += size
            if not dry_run:
                provision.forget(name)
            click.echo(f"{name}: {mebibytes(size)} {'would be removed' if dry_run else 'removed'}")
    click.echo(f"{mebibytes(freed)} {'would be' if dry_run else 'are'} free")


@kernels.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--refresh", is_flag=True, help="Fetch again, to get the suite's current version.")
def fetch(names: tuple[str, ...], refresh: bool) -> None:
    """Fetch kernels into the cache; NAME may contain *.

    Packages come through apt, with signatures checked, in directories of dmsnap's own; neither
    root nor the system's configuration is involved.  Without a NAME, the default kernel is fetched,
    or the best one that boots here if the default does not.  A User-mode Linux is booted once; the
    exit status is 1 if one does not boot.
    """
    known = [entry.name for entry in catalogue.entries()]
    wanted = [
        name
        for pattern in names or [catalogue.default()]
        for name in (matching(known, pattern) or [catalogue.entry_of(pattern).name])
    ]
    catalogue.check_room([catalogue.entry_of(name) for name in wanted], refresh=refresh)
    fails = False
    for name in dict.fromkeys(wanted):
        cached = catalogue.find(name) is not None
        kernel = provision.fetch(
            name,
            progress=lambda line, name=name: note(  # type: ignore[misc]
                f"{name}: {line}"
            ),
            refresh=refresh,
        )
        if not names:
            kernel = fallback.best(note)
        if cached and not refresh and kernel.name == name:
            click.echo(f"{name}: cached, {kernel.release}")
        if names and kernel.guest == catalogue.UML:
            try:
                fallback.prove(kernel, progress=note)
            except CannotBoot as fault:
                note(str(fault))
                fails = True
    if fails:
        raise click.exceptions.Exit(EXIT_DIFFERS)


@click.command(short_help="Boot the cached kernels; say what is missing here.")
def doctor() -> None:
    """Show what this machine can run, and what to type where it cannot.

    Each cached kernel is booted once, which takes a few seconds.
    """
    from harness.guest.doctor import able, boot_all, examine, render

    findings, boots = examine(), boot_all(note)
    click.echo(render(findings, boots))
    if not able(findings, boots):
        raise click.exceptions.Exit(EXIT_DIFFERS)
