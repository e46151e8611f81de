"""What several commands share: options that name a kernel, and notes to the user."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from harness.cli.complete import complete_kernels
from harness.guest import catalogue, confinement

EXIT_DIFFERS: Final = 1
EXIT_CANNOT: Final = 2
EXIT_GONE: Final = 3
"""Nothing is new, and something that the baseline knows is gone."""
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
        shell_complete=complete_kernels,
        help="A kernel of `dmsnap kernels` (`all` or a pattern with * for several), or one you "
        "built (User-mode Linux, bzImage); may be repeated.  "
        f"[default: {catalogue.default()}]",
    )(command)


def scenarios_option(command: Command) -> Command:
    """``--scenarios``."""
    return click.option(
        "--scenarios",
        "places",
        multiple=True,
        metavar="PATH|PACKAGE",
        help="Scenarios of your own: a Python file, a directory of them and of traces, or a "
        "package with the entry point dmsnap.scenarios; Python is run as you.  May be repeated.",
    )(command)


def seed_option(command: Command) -> Command:
    """``--seed``."""
    return click.option(
        "--seed",
        type=click.IntRange(0, (1 << 63) - 1),
        default=1,
        show_default=True,
        help="Seed for the contents of every sector.",
    )(command)


def driver_option(command: Command) -> Command:
    """``--driver``."""
    return click.option(
        "--driver",
        type=click.Choice(["ioctl", "dmsetup"]),
        default="ioctl",
        show_default=True,
        help="How the kernel is driven.",
    )(command)


def defects_option(command: Command) -> Command:
    """``--defects``."""
    return click.option(
        "--defects",
        type=click.Choice(["faithful", "fixed"]),
        default="faithful",
        show_default=True,
        help="Where kernels are known to break a promise, the twin follows them, or the promise.",
    )(command)


def step_limit_option(command: Command) -> Command:
    """``--step-limit``."""
    return click.option(
        "--step-limit",
        type=click.FloatRange(min=1),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="A guest that is silent for longer is lost.",
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
        help="Run guests with your own access to this host; only for kernels you trust "
        "(docs/SECURITY.md).",
    )(command)


def note(line: str) -> None:
    """Print a note for the user on standard error."""
    click.echo(f"dmsnap: {line}", err=True)
