"""``dmsnap fuzz``, ``reduce``, ``report``, ``explore``: finding what nobody wrote down."""

from pathlib import Path

import click

from harness.cli.options import (
    EXIT_CANNOT,
    EXIT_DIFFERS,
    defects_option,
    kernel_options,
    note,
    seed_option,
)
from harness.errors import ProvisioningError
from harness.guest.choice import chosen_kernels


@click.command(short_help="Run random lives on kernels and in the twin.")
@kernel_options
@click.option("--minutes", type=click.FloatRange(min=0), default=None, help="How long it goes on.")
@click.option("--cases", type=click.IntRange(min=1), default=None, help="Or how many lives.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True, help="Of all."
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Guests at the same time, and processes that write lives.",
)
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=20, show_default=True, help="Of each life."
)
@click.option(
    "--weights",
    type=click.Choice(["snapshots", "discards", "everything", "parallel", "small-discards"]),
    default="everything",
    show_default=True,
    help="What lives are made of; the last one is not for kernels that small discards kill.",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Traces that are tried first; lives that saw something new go there.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("report/fuzz"),
    show_default=True,
    metavar="DIR",
    help="Where finds go, each as a trace.",
)
def fuzz(
    kernels: tuple[str, ...],
    modules: Path | None,
    minutes: float | None,
    cases: int | None,
    seed: int,
    jobs: int,
    steps: int,
    weights: str,
    corpus: Path | None,
    output: Path,
) -> None:
    """Run random lives on kernels and in the twin until something differs, and go on.

    The same seed gives the same lives on every machine, with any number of jobs, as long as the
    corpus is the same.  Without --minutes or --cases it goes on until Ctrl-C.  The exit status is
    0 if nothing differs, 1 if something does.
    """
    import time

    from harness.files import check_writable
    from harness.fuzz import hunt as hunting
    from harness.fuzz.sides import OnKernel
    from harness.report.hunt import HuntDisplay

    check_writable(output)
    if corpus is not None:
        check_writable(corpus)
    chosen = chosen_kernels(kernels, modules, progress=note)
    first = hunting.read_corpus(corpus, note) if corpus is not None else []
    started = time.monotonic()
    written: list[Path] = []

    def enough(count: hunting.Count) -> bool:
        if cases is not None and count.lives >= cases:
            return True
        return minutes is not None and time.monotonic() - started >= 60 * minutes

    def keep(life: hunting.Born) -> None:
        if corpus is not None:
            hunting.add_to_corpus(corpus, life.trace)

    def caught(find: hunting.Caught) -> None:
        path = hunting.add_to_corpus(output, find.trace)
        written.append(path)
        display.find(find.kernel, find.trace.header.scenario, str(find.signature), str(path))

    sides = [(kernel.name, OnKernel(kernel, guests=jobs)) for kernel in chosen]
    try:
        with (
            HuntDisplay(sorted(name for name, _ in sides), seed) as display,
            hunting.workers(jobs) as pool,
        ):
            lives = hunting.Lives(seed, weights=weights, steps=steps, pool=pool, corpus=first)
            count = hunting.hunt(
                lives,
                sides,
                first=first,
                enough=enough,
                keep=keep,
                caught=caught,
                hear=lambda count: display.show(
                    count.lives, count.steps, count.features, len(count.caught), count.lost
                ),
            )
    except KeyboardInterrupt as fault:
        fault.args = (*fault.args, display.summary(), *(f"a find: {path}" for path in written))
        raise
    click.echo(display.summary())
    if count.caught:
        for path in written:
            click.echo(f"dmsnap reduce {path} makes it short; dmsnap report makes a bundle of it")
        raise click.exceptions.Exit(EXIT_DIFFERS)


@click.command(short_help="Shorten a trace that differs.")
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
        note(
            f"{', '.join(told.names)}: {told.candidates} tried, {told.before} → {told.after} steps"
        )

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


@click.command(short_help="Make a bundle of a find for its maintainer.")
@click.argument("find", metavar="FIND")
@kernel_options
@seed_option
@defects_option
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


@click.command(short_help="Run a small scenario in every permitted order.")
@click.argument("what", metavar="NAME|FILE")
@click.option(
    "--profile",
    default="6.12",
    show_default=True,
    metavar="NAME",
    help="Of the twin: 6.1, 6.12, 7.2 or seed.",
)
@click.option(
    "--orders",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    metavar="N",
    help="Orders of single steps that are run at most.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.01),
    default=10.0,
    show_default=True,
    help="Time that it may take.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Where the trace of a bad order goes.  [default: standard output]",
)
def explore(what: str, profile: str, orders: int, minutes: float, output: Path | None) -> None:
    """Run a small scenario in every order that a kernel may take, in the twin.

    Worlds that are equal after a step are merged.  In each it is checked that no acknowledged
    write is lost, that no snapshot changes, that no chunk is used twice, that commits come in
    order, and that every queued bio ends.  The shortest order in which that is not so is printed
    as a trace, whose `answers` make the order.  The exit status is 0 if every order was run and
    keeps the rules, 1 if one does not, 2 if a bound was met before.
    """
    from harness.fuzz.exhaust import Bound, Explored, exhaust
    from harness.scenarios.registry import choose
    from harness.trace import files as traces
    from harness.twin.profile import named
    from harness.verdict.foresight import place

    if Path(what).is_file():
        document = traces.read(Path(what))
    else:
        chosen = choose([what])
        if len(chosen) > 1:
            raise ProvisioningError(
                f"{what} has {len(chosen)} variants, name one of them: "
                f"{', '.join(scenario.name for scenario in chosen)}"
            )
        document = chosen[0].trace(1)

    def hear(step: int, so_far: Explored) -> None:
        if step and so_far.orders > len(document.steps):
            note(f"{place(document, step)}: {so_far.states} states, {so_far.orders} orders so far")

    found = exhaust(document, named(profile), Bound(runs=orders, seconds=60 * minutes), hear)
    counts = (
        f"{found.states} states, {found.orders} orders of single steps, {found.merged} of them "
        "merged"
    )
    if found.broken is not None:
        broken = found.broken
        when = "in the first order as well" if broken.always else "not in the first order"
        note(f"{place(document, broken.step)}, {when}: {broken.rule}\n{broken.detail}")
        note(counts)
        if output is None:
            click.echo(traces.dumps(broken.trace), nl=False)
        else:
            traces.write(output, broken.trace)
            click.echo(f"the order: {output}")
        raise click.exceptions.Exit(EXIT_DIFFERS)
    if not found.complete:
        click.echo(f"no bad order up to the bound, met in step {found.stopped_at}: {counts}")
        raise click.exceptions.Exit(EXIT_CANNOT)
    click.echo(f"every order keeps the rules: {counts}")
