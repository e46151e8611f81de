"""What several commands share: how a kernel is named, and how a user is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from harness.guest import catalogue, confinement

EXIT_DIFFERS: Final = 1
EXIT_CANNOT: Final = 2
EXIT_INTERRUPTED: Final = 130

Command = Callable[..., Any]


def kernel_options(command: Command) -> Command:
    """``--kernel``, ``--modules`` and ``--no-cage``."""
    command = no_cage_option(command)
    command = click.option(
        "--modules",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Modules of a kernel that is given as a path; for another, those that are to take the "
        "place of its own.  A build tree, or what `make modules_install` filled.",
    )(command)
    return click.option(
        "--kernel",
        "kernels",
        multiple=True,
        metavar="NAME|PATH",
        help="A kernel of `dmsnap kernels` (`all`, or with * in it, for several), or one that you "
        "built (User-mode Linux, bzImage); may be repeated.  "
        f"[default: {catalogue.default()}]",
    )(command)


def no_cage_option(command: Command) -> Command:
    """``--no-cage``."""

    def forgo(_context: click.Context, _parameter: click.Parameter, said: bool) -> None:
        if said:
            confinement.forgo()

    return click.option(
        confinement.NO_CAGE,
        is_flag=True,
        expose_value=False,
        callback=forgo,
        help="Let guests see and touch of this host what you may: you trust their kernels.  "
        "(docs/SECURITY.md)",
    )(command)


def note(line: str) -> None:
    """A line for the user, beside what a command prints."""
    click.echo(f"dmsnap: {line}", err=True)
