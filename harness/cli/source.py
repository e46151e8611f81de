"""From source to verdict: ``--source``, ``dmsnap kernels build``, ``dmsnap config``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from harness.cli.kernels import kernels
from harness.cli.options import note
from harness.errors import DmsnapError, ProvisioningError
from harness.guest.build import config as configuration
from harness.guest.catalogue import Kernel
from harness.trace.files import Trace

EXIT_CANNOT_BE_JUDGED: Final = 125
"""What `git bisect run` takes for: this commit can be neither good nor bad."""

Command = Callable[..., Any]


def preset_option(command: Command) -> Command:
    """``--preset``."""
    return click.option(
        "--preset",
        "presets",
        multiple=True,
        type=click.Choice(configuration.PRESETS),
        help="Build with these of the kernel's own detectors; may be repeated.",
    )(command)


def replace_option(command: Command) -> Command:
    """``--replace``."""
    return click.option(
        "--replace",
        "replaced",
        multiple=True,
        metavar="NAME=FILE",
        help="Build with FILE in the place of that file of the tree, which stays as it is; may be "
        "repeated.",
    )(command)


def source_options(command: Command) -> Command:
    """``--source``, ``--replace`` and ``--preset``."""
    return click.option(
        "--source",
        metavar="TREE|debian:VERSION",
        help="Build a User-mode Linux of this kernel tree, or of Debian's linux-source package, "
        "and run that; with --kernel, only the device-mapper modules, for that kernel.",
    )(replace_option(preset_option(command)))


def tree_of(source: str, progress: Callable[[str], None]) -> tuple[Path, str]:
    """The directory that ``--source`` means, and what it is called."""
    from harness.guest.fetch import debian_source

    if source.startswith(debian_source.PREFIX):
        tree = debian_source.fetch(source.removeprefix(debian_source.PREFIX), progress)
        return tree, debian_source.origin(tree)
    return Path(source), source


def replacements(words: Sequence[str]) -> dict[str, Path]:
    """What ``--replace`` says: file of the tree → the one in its place.

    Raises:
        ProvisioningError: one of the words is not NAME=FILE.
    """
    found = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not (name and equals and file):
            raise ProvisioningError(
                f"--replace {word}: say NAME=FILE, such as drivers/md/dm-snap.c=my-dm-snap.c"
            )
        found[name] = Path(file)
    return found


def built_kernel(
    source: str, replaced: Sequence[str], presets: Sequence[str], name: str = ""
) -> Kernel:
    """The kernel that is built of ``--source``.

    Raises:
        ProvisioningError: it cannot be; cause and cure.
    """
    from harness.guest.build import kbuild, shims
    from harness.guest.build.source import build
    from harness.guest.build.tree import open_tree

    kbuild.check()
    files = replacements(replaced)
    path, called = tree_of(source, note)
    tree, fitting = shims.fit(open_tree(path, files))
    for line in fitting.words:
        note(line)
    return build(
        tree,
        presets=presets,
        flags=fitting.flags,
        shims=fitting.words,
        source=called,
        name=name,
        progress=note,
    )


def sourced_kernels(
    source: str,
    names: Sequence[str],
    replaced: Sequence[str],
    presets: Sequence[str],
    traces: Sequence[Trace],
) -> tuple[Kernel, ...]:
    """The kernels that ``--source`` means: one that is built, or ready ones with its modules.

    Raises:
        ProvisioningError: they cannot be had; cause and cure.
    """
    from harness.guest.build import headers, needs
    from harness.guest.build.tree import open_tree
    from harness.guest.choice import chosen_kernels, named_kernels

    if not names:
        kernel = built_kernel(source, replaced, presets)
        if said := needs.told(kernel.lacks, traces):
            note(f"{kernel.name}: {said}")
        return (kernel,)
    if presets:
        raise ProvisioningError(
            "--preset belongs to a kernel that is built: leave --kernel out, or the preset"
        )
    wanted = named_kernels(names, None, progress=note)
    for each in wanted:
        headers.check(each.guest, each.name)
    path, called = tree_of(source, note)
    tree = open_tree(path, replacements(replaced))
    return tuple(
        headers.with_source(kernel, tree, called, note)
        for kernel in chosen_kernels(names, None, progress=note)
    )


@contextmanager
def judged(source: str | None) -> Iterator[None]:
    """While a kernel of ``source`` is built and run: what keeps it from a verdict is told, and
    the exit status says that there is none.
    """
    try:
        yield
    except DmsnapError as fault:
        if source is None:
            raise
        click.echo(f"dmsnap: {fault}", err=True)
        raise click.exceptions.Exit(EXIT_CANNOT_BE_JUDGED) from None


@kernels.command("build", short_help="Build a User-mode Linux of a kernel tree.")
@click.argument("tree")
@click.option("--name", default="", help="What it is called then.  [default: after the tree]")
@preset_option
@replace_option
def build_kernel(tree: str, name: str, presets: tuple[str, ...], replaced: tuple[str, ...]) -> None:
    """Build a User-mode Linux of a kernel tree (or debian:VERSION), and keep it.

    The tree stays as it is: kbuild works in dmsnap's cache.  `dmsnap run --kernel NAME` runs the
    kernel then, whatever becomes of the tree.
    """
    from harness.guest import fallback
    from harness.guest.build import kept

    if name:
        kept.check_name(name)
    with judged(tree):
        kernel = built_kernel(tree, replaced, presets, name)
        kernel = kept.keep(kernel, name or kernel.name)
        how = fallback.prove(kernel, progress=note)
    click.echo(f"{kernel.name}: {kernel.built}; release {kernel.release}, {how}")


@click.command("config", short_help="Print what a kernel's .config must have.")
@preset_option
def print_config(presets: tuple[str, ...]) -> None:
    """Print what a kernel's .config must have, each option with its reason.

    For a User-mode Linux of your own: make ARCH=um KCONFIG_ALLCONFIG=FILE allnoconfig; for
    another kernel: scripts/kconfig/merge_config.sh .config FILE, without the parts about the root.
    """
    click.echo(configuration.fragment(presets), nl=False)
