"""``dmsnap reduce`` and ``report``: the shortest trace of a find, and the bundle for others."""

from pathlib import Path

import click

from harness.cli.options import EXIT_DIFFERS, kernel_options, note
from harness.errors import ProvisioningError
from harness.guest.choice import chosen_kernels


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@kernel_options
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Where the shortest trace goes.  [default: the name of FILE with .short.jsonl]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1),
    default=15.0,
    show_default=True,
    help="Time that it may take; what is shortest by then is the result.",
)
@click.option(
    "--times",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    metavar="N",
    help="How often the first and the last trace are carried out, to see how flaky they are.",
)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=1, show_default=True)
def reduce(
    file: Path,
    kernels: tuple[str, ...],
    modules: Path | None,
    output: Path | None,
    minutes: float,
    times: int,
    jobs: int,
) -> None:
    """Make the trace in FILE as short as it can be and still differ for the same reason.

    The reason is the verdict, the layer, the kind of step and what differs; where a kernel dies,
    the function in which it does.  A trace on which both sides agree is reduced to the promise
    that it breaks.  The exit status is 1 if the trace differs every time, 2 if there is nothing
    to reduce.
    """
    from harness.files import check_writable
    from harness.fuzz import shrink
    from harness.fuzz.sides import OnKernel, signatures, sound
    from harness.trace import files as traces
    from harness.twin.profile import named

    if len(kernels) > 1:
        raise ProvisioningError("a trace is reduced on one kernel: name it once")
    document = traces.read(file)
    output = output or file.with_name(f"{file.stem}.short.jsonl")
    check_writable(output.parent)
    [kernel] = chosen_kernels(kernels, modules, one=True, progress=note)
    best = document

    def hear(told: shrink.Round, shortest: "traces.Trace") -> None:
        nonlocal best
        best = shortest
        note(f"{told.name}: {told.candidates} tried, {told.before} → {told.after} steps")

    side = OnKernel(kernel, guests=jobs)
    try:
        found = shrink.shrink(
            document,
            signatures(side),
            sound=sound(named("6.12"), may_end=True),
            budget=shrink.Budget(seconds=60 * minutes),
            confirmations=times,
            hear=hear,
        )
    except KeyboardInterrupt as fault:
        if best is not document:
            traces.write(output, best)
            fault.args += (f"the shortest trace so far is {output}",)
        raise
    traces.write(output, found.trace)
    click.echo(f"{found.signature}")
    click.echo(
        f"{len(document.steps)} → {len(found.trace.steps)} steps, {found.candidates} tried, "
        f"shown {found.shown} of {found.asked} times: {output}"
    )
    if not found.complete:
        click.echo(f"the {minutes:g} minutes were over before nothing more could be left out")
    raise click.exceptions.Exit(EXIT_DIFFERS)


@click.command()
@click.argument("find", metavar="FIND")
@kernel_options
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    default=1,
    show_default=True,
    help="Of a scenario that is given by its name.",
)
@click.option(
    "--defects",
    type=click.Choice(["faithful", "fixed"]),
    default="faithful",
    show_default=True,
    help="What is expected where kernels are known to break a promise: what they do, or what was "
    "promised.",
)
@click.option(
    "--times",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    metavar="N",
    help="How often it is carried out on each kernel.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="The directory that is made; a packed one goes beside it.  [default: report/bundle-NAME]",
)
def report(
    find: str,
    kernels: tuple[str, ...],
    modules: Path | None,
    seed: int,
    defects: str,
    times: int,
    output: Path | None,
) -> None:
    """Make a bundle of FIND, for whoever is to mend it.

    FIND is a file that holds a trace, or the name of a scenario.  The bundle holds the trace, a
    script that needs only dmsetup and coreutils, what both sides did, the stores, the kernel's
    log, the draft of a mail to dm-devel, and a test for blktests; nothing of this machine is in it.

    With several kernels it says which of them have it.  `dmsnap reduce` first makes it short.
    """
    import re
    import tempfile

    from harness.files import check_writable
    from harness.fuzz import bundle
    from harness.fuzz.find import investigate
    from harness.scenarios.registry import choose
    from harness.trace import files as traces

    if Path(find).is_file():
        document = traces.read(Path(find))
    else:
        named = choose([find])
        if len(named) > 1:
            raise ProvisioningError(
                f"{find} has {len(named)} variants, name one of them: "
                f"{', '.join(scenario.name for scenario in named)}"
            )
        document = named[0].trace(seed)
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", document.header.scenario).strip("-.")[:60] or "find"
    output = output or Path("report") / f"bundle-{plain}"
    check_writable(output)
    chosen = chosen_kernels(kernels, modules, progress=note)
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
        found = investigate(
            document, chosen, Path(directory), times=times, defects=defects, hear=note
        )
    made, packed = bundle.write(found, output)
    click.echo(f"{found.signature}")
    for one in found.kernels:
        click.echo(f"  {one.kernel} ({one.release}): shown {one.shown} of {one.asked} times")
    click.echo(f"bundle: {made}, {packed}")
