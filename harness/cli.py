"""The command ``dmsnap``.

Exit status: 0 all was well, 1 something differs or is broken, 2 the request cannot be carried out
(one line says why and what to do), 130 interrupted.
"""

import fnmatch
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from harness import __version__
from harness.errors import DmsnapError, ProvisioningError
from harness.guest import catalogue
from harness.guest.catalogue import VAGRANT, Kernel

if TYPE_CHECKING:
    from harness.guest.process import Launcher
    from harness.guest.vagrant import Machine, VagrantGuest

EXIT_DIFFERS: Final = 1
EXIT_CANNOT: Final = 2
EXIT_INTERRUPTED: Final = 130

Command = Callable[..., Any]


class _Group(click.Group):
    """Errors of ours become one line; none of Python's inner life reaches a user."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DmsnapError as fault:
            click.echo(f"dmsnap: {fault}", err=True)
            ctx.exit(EXIT_CANNOT)
        except KeyboardInterrupt:
            more = ("; `dmsnap run --resume` with the same arguments goes on from there"
                    if ctx.invoked_subcommand == "run" else "")
            click.echo(f"dmsnap: interrupted; what had finished is in the report{more}", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()  # a reader that had enough, such as head
            ctx.exit(0)
        except OSError as fault:
            where = f"{fault.filename}: " if fault.filename else ""
            click.echo(f"dmsnap: {where}{fault.strerror or fault}", err=True)
            ctx.exit(EXIT_CANNOT)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dmsnap")
def main() -> None:
    """Does this kernel's dm-snapshot behave exactly as it should?

    Runs the same scenarios in a real kernel and in a userspace twin, and compares everything that
    a user of the device can see, down to every byte of the exception store.
    """


def _kernel_options(command: Command) -> Command:
    command = click.option(
        "--modules", type=click.Path(path_type=Path), metavar="DIR",
        help="Modules of a kernel that is given as a path.")(command)
    return click.option(
        "--kernel", "kernels", multiple=True, metavar="NAME|PATH",
        help="A kernel of `dmsnap kernels` (`all`, or with * in it, for several), or one that you "
             "built (User-mode Linux, bzImage); may be repeated.  "
             f"[default: {catalogue.default()}]")(command)


def chosen_kernels(names: Sequence[str], modules: Path | None, guest: str | None = None
                   ) -> tuple[Kernel, ...]:
    """The kernels that a command line names; those of the catalogue are fetched if need be.

    Args:
        names: of the catalogue, or paths.
        modules: of kernels given as a path.
        guest: what is to boot them; by default what each is made for.

    Raises:
        ProvisioningError: one of them cannot be had.
    """
    found = []
    known = [entry.name for entry in catalogue.entries()]
    wanted = [name for pattern in names or [catalogue.default()]
              for name in (_all() if pattern == "all" else _matching(known, pattern) or [pattern])]
    for name in dict.fromkeys(wanted):
        if name in known:
            if modules is not None:
                raise ProvisioningError(f"--modules belongs to a kernel given as a path, and "
                                        f"{name} is one of the catalogue: leave it out")
            entry = catalogue.entry_of(name)
            if guest not in (None, entry.guest):
                raise ProvisioningError(f"{name} is a kernel for guest {entry.guest}: leave "
                                        f"--guest {guest} out")
            found.append(catalogue.fetch(name, progress=_note))
        elif "/" in name or Path(name).exists():
            if modules is None:
                raise ProvisioningError(f"--kernel {name} is a program of your own: say where its "
                                        "modules are, with --modules DIR")
            found.append(catalogue.custom(Path(name), modules, guest))
        else:
            catalogue.entry_of(name)  # which says what there is
    return tuple(found)


def _all() -> list[str]:
    """The kernels of the catalogue that this machine has the guests for."""
    from harness.guest import qemu

    there = [entry.name for entry in catalogue.entries()
             if entry.guest != catalogue.QEMU or qemu.installed()]
    if len(there) < len(catalogue.entries()):
        _note("QEMU is not installed, so its kernels are left out (dmsnap doctor says what to "
              "type)")
    return there


def _vagrant_machine() -> "Machine":
    """The machine of this repository's Vagrantfile, up.

    Raises:
        ProvisioningError: it cannot be had.
    """
    from harness.guest.vagrant import Machine

    machine = Machine(Path(__file__).parents[1], _note)
    machine.up()
    return machine


def _fit_vagrant_guest() -> "VagrantGuest":
    """That machine, up and fit.

    Raises:
        ProvisioningError: it cannot be had, or is not fit even when it was booted anew.
    """
    from harness import preflight as asks
    from harness.guest.vagrant import VagrantGuest

    machine = _vagrant_machine()
    if not all(finding.ok for finding in asks.of_vagrant(machine)):
        machine.boot_again()  # which is the cure of most
        asks.require(asks.of_vagrant(machine), "the Vagrant machine")
    return VagrantGuest(machine)


def _matching(known: Sequence[str], pattern: str) -> list[str]:
    """Kernels of the catalogue that ``pattern`` names; a path names none."""
    return [] if "/" in pattern else fnmatch.filter(known, pattern)


def _note(line: str) -> None:
    click.echo(f"dmsnap: {line}", err=True)


# -- run ------------------------------------------------------------------------------------------


@main.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@_kernel_options
@click.option("--guest", type=click.Choice(["uml", "qemu", "vagrant", "here"]), default=None,
              help="Where the kernel lives: in guests of that kind, or this disposable machine "
              "itself.  Beside other kernels, Vagrant's is --kernel vagrant.  [default: what the "
              "kernel is made for]")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), metavar="N",
              help="Guests at the same time; there is one Vagrant machine.  [default: two for "
              "each core, one in QEMU]")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True,
              help="Goes into the contents of every sector.")
@click.option("--driver", type=click.Choice(["ioctl", "dmsetup"]), default="ioctl",
              show_default=True, help="How the kernel is driven.")
@click.option("--defects", type=click.Choice(["faithful", "fixed"]), default="faithful",
              show_default=True, help="Where kernels are known to break a promise: the twin does "
              "as they do, or as promised.")
@click.option("--report", "directory", type=click.Path(path_type=Path, file_okay=False),
              default=Path("report"), show_default=True, metavar="DIR",
              help="Where junit.xml, run.ktap and results.json go.")
@click.option("--resume", is_flag=True,
              help="Go on where a run into the same report was stopped: what had finished there "
              "is not run again.")
@click.option("--step-limit", type=click.FloatRange(min=1), default=30.0, show_default=True,
              metavar="SECONDS", help="A guest that is silent for longer is lost.")
def run(patterns: tuple[str, ...], kernels: tuple[str, ...], modules: Path | None,
        guest: str | None, jobs: int | None, seed: int, driver: str, defects: str,
        directory: Path, resume: bool,
        step_limit: float) -> None:
    """Run scenarios in a kernel and in the twin, and compare.

    A PATTERN is the name of a scenario, with or without its parameters, or has * in it; without
    one, all are run.  The exit status is 0 only if all of them are the same on both
    sides; those that the kernel lacks something for are counted, and do not change it.
    """
    from harness.report.junit import JunitReporter
    from harness.report.ktap import KtapReporter
    from harness.report.ledger import LEDGER_NAME, Ledger
    from harness.report.model import JsonReporter, Reporter, Reporters
    from harness.report.terminal import Terminal
    from harness.run import GUESTS_DIRECTORY, Plan, execute
    from harness.scenarios.registry import choose

    traces = tuple(scenario.trace(seed) for scenario in choose(patterns))
    reporters: list[Reporter] = [
        Terminal(), JunitReporter(directory / "junit.xml"), KtapReporter(directory / "run.ktap"),
        JsonReporter(directory / "results.json")]
    if guest == "here":
        from harness.here import execute_here
        if kernels:
            raise ProvisioningError("--guest here runs the kernel of this machine: leave --kernel "
                                    "out")
        if resume:
            raise ProvisioningError("--guest here starts anew each time: leave --resume out")
        report = execute_here(traces, Reporters(reporters), modules=modules, driver=driver)
    else:
        if guest == VAGRANT and (kernels or modules):
            raise ProvisioningError("--guest vagrant runs the kernel of that machine: leave "
                                    "--kernel and --modules out, or name it as one of several "
                                    "(--kernel vagrant)")
        own = guest == VAGRANT or VAGRANT in kernels
        others = [name for name in kernels if name != VAGRANT]
        chosen: tuple[Kernel, ...] = ()
        if others or not own:
            chosen = chosen_kernels(others, modules, guest)
        launchers: dict[str, Launcher] = {}
        if own:
            launcher = _fit_vagrant_guest()
            chosen += (launcher.kernel(),)
            launchers[launcher.kernel().name] = launcher
        plan = Plan(
            traces=traces, kernels=chosen, driver=driver, launchers=launchers, defects=defects,
            jobs=jobs, directory=directory / GUESTS_DIRECTORY, step_limit_s=step_limit)
        ledger = Ledger(directory / LEDGER_NAME, plan.keys())
        finished = ledger.finished() if resume else []
        report = execute(plan, Reporters([*reporters, ledger]), finished)
    click.echo(f"report: {directory}/junit.xml, run.ktap, results.json")
    if not report.nothing_differs:
        raise click.exceptions.Exit(EXIT_DIFFERS)


@main.command()
@_kernel_options
@click.option("--guest", type=click.Choice(["uml", "qemu", "vagrant", "here"]), default=None,
              help="Ask guests of that kind, or this disposable machine itself.  [default: what "
              "the kernel is made for]")
def preflight(kernels: tuple[str, ...], modules: Path | None, guest: str | None) -> None:
    """Ask guests whether they are fit to run scenarios, and say what to do where they are not."""
    from harness import preflight as asks

    found = {}
    if guest == "here":
        found[guest] = asks.of_this_machine(modules or Path("/lib/modules") / os.uname().release)
    elif guest == "vagrant":
        found[guest] = asks.of_vagrant(_vagrant_machine())
    else:
        for kernel in chosen_kernels(kernels, modules, guest):
            _note(f"{kernel.name}: booting")
            found[kernel.name] = asks.of_guest(kernel)
    for name, findings in found.items():
        click.echo(asks.render(findings, name))
    if not all(finding.ok for findings in found.values() for finding in findings):
        raise click.exceptions.Exit(EXIT_DIFFERS)


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
def compare(a: str, b: str) -> None:
    """Put two runs beside each other: verdicts, status lines, times.

    A and B are directories that `dmsnap run --report` wrote, each with :KERNEL behind it to look
    at one kernel only; `dmsnap compare report:uml-6.1 report:uml-6.12` compares two kernels of
    one run.  The exit status is 0 if nothing differs but times.
    """
    from harness import compare as sides

    left, right = sides.open_side(a), sides.open_side(b)
    found = [sides.compare(left, right, kernels) for kernels in sides.pairs(left, right)]
    click.echo(f"A  {a}: {left.report.environment.started or 'start unknown'}\n"
               f"B  {b}: {right.report.environment.started or 'start unknown'}")
    for pair in found:
        click.echo(sides.render(pair))
    if not all(pair.same for pair in found):
        raise click.exceptions.Exit(EXIT_DIFFERS)


@main.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--kernel", "name", default="deb-6.1", show_default=True, metavar="NAME",
              help="A kernel of the catalogue whose guest is qemu.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), metavar="N",
              help="Guests at the same time.  [default: two for each core, one in QEMU]")
@click.option("--report", "directory", type=click.Path(path_type=Path, file_okay=False),
              default=Path("report/coverage"), show_default=True, metavar="DIR",
              help="Where results.json and coverage.json go.")
@click.option("--update", is_flag=True, help="Write docs/TRACEABILITY.md anew, in a checkout.")
def coverage(patterns: tuple[str, ...], name: str, jobs: int | None, directory: Path,
             update: bool) -> None:
    """Count which functions of the module the scenarios reach, by the kernel's own word.

    The module is built without inlining, of the very source of that kernel, and compared with the
    twin like any other.  The exit status is 0 if all is the same and each function of the seed is
    reached, or is known not to be reachable.
    """
    from harness.coverage import dump, measure, unreached
    from harness.files import write_whole
    from harness.report.model import JsonReporter, Reporters
    from harness.report.terminal import Terminal
    from harness.scenarios.registry import choose
    from harness.traceability import DATA, NAMES, PAGE, SEED, page

    if update and (patterns or not PAGE.parent.is_dir()):
        raise ProvisioningError("--update writes the page of the whole catalogue in a checkout: "
                                "leave patterns out, and start dmsnap there")
    [kernel] = chosen_kernels([name], None, catalogue.QEMU)
    report, recorded = measure(
        kernel, NAMES,
        [scenario.trace() for scenario in choose(patterns)], jobs=jobs,
        directory=directory, progress=_note,
        reporter=Reporters([Terminal(), JsonReporter(directory / "results.json")]))
    write_whole(directory / "coverage.json", dump(recorded))
    if update:
        write_whole(DATA, dump(recorded))
        write_whole(PAGE, page(recorded).encode())
    missed = unreached(recorded, {each.name: each.note for each in SEED if each.note})
    click.echo(f"{len(recorded.functions)} of the seed's {len(NAMES)} functions are in this "
               f"kernel; reached by nothing: {', '.join(missed) or 'none'}")
    click.echo(f"report: {PAGE if update else directory / 'coverage.json'}")
    if missed or not report.nothing_differs:
        raise click.exceptions.Exit(EXIT_DIFFERS)


# -- scenarios and traces -------------------------------------------------------------------------


@main.command("list")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--rows", is_flag=True, help="Show which rows of other test suites they answer.")
def list_scenarios(patterns: tuple[str, ...], rows: bool) -> None:
    """List the scenarios, by theme."""
    from harness.scenarios.registry import by_theme, choose

    wanted = {scenario.name for scenario in choose(patterns)} if patterns else None
    for theme, scenarios in by_theme():
        shown = [scenario for scenario in scenarios if wanted is None or scenario.name in wanted]
        if shown:
            click.secho(theme, bold=True)
        for base in dict.fromkeys(scenario.name.partition("[")[0] for scenario in shown):
            variants = [s for s in shown if s.name.partition("[")[0] == base]
            count = f" ×{len(variants)}" if len(variants) > 1 else ""
            apart = "  (only when named)" if variants[0].loses_guest else ""
            click.echo(f"  {base}{count}{apart}")
            click.echo(f"      {variants[0].about}")
            if rows and variants[0].rows:
                click.echo(f"      answers: {'; '.join(variants[0].rows)}")


@main.command()
@click.argument("name")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True)
def trace(name: str, seed: int) -> None:
    """Print one scenario as a trace (docs/trace-format.md)."""
    from harness.scenarios.registry import choose
    from harness.trace import dumps

    found = choose([name])
    if len(found) > 1:
        raise ProvisioningError(f"{name} has {len(found)} variants, name one of them: "
                                f"{', '.join(scenario.name for scenario in found)}")
    click.echo(dumps(found[0].trace(seed)), nl=False)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--on", "side", type=click.Choice(["twin", "kernel", "both"]), default="both",
              show_default=True)
@_kernel_options
@click.option("--profile", default=None, metavar="NAME",
              help="Profile of the twin when it runs alone: 6.1, 6.12, 7.2 or seed.  "
                   "[default: 6.12]")
@click.option("--output", "directory", type=click.Path(path_type=Path, file_okay=False),
              default=Path("report/replay"), show_default=True, metavar="DIR",
              help="Where the observations of each side go.")
@click.option("--driver", type=click.Choice(["ioctl", "dmsetup"]), default="ioctl",
              show_default=True)
def replay(file: Path, side: str, kernels: tuple[str, ...], modules: Path | None,
           profile: str | None, directory: Path, driver: str) -> None:
    """Run a trace on one side or on both; exit status 1 if they differ."""
    from harness import trace as traces
    from harness.report.words import details
    from harness.run import judge, observe_kernel, observe_twin
    from harness.twin.profile import named

    document = traces.loads(sys.stdin.buffer.read()) if str(file) == "-" else traces.read(file)
    if profile is not None and side != "twin":
        raise ProvisioningError("--profile belongs to --on twin: beside a kernel, the twin takes "
                                "what the guest's probe found")
    if len(kernels) > 1:
        raise ProvisioningError("a replay runs on one kernel: name it once")
    if side == "twin":
        seen = observe_twin(document, named(profile or "6.12"))
        _keep(directory / "twin.jsonl", seen)
        return
    kernel = chosen_kernels(kernels, modules)[0]
    seen, outcome = observe_kernel(document, kernel, driver=driver)
    _keep(directory / "kernel.jsonl", seen)
    if side == "kernel":
        return
    result, twin = judge(document, outcome, kernel.name)
    if twin is not None:
        _keep(directory / "twin.jsonl", twin)
    text = details(result)
    if text:
        click.echo(text)
    click.echo(f"{document.header.scenario} on {kernel.name} ({result.release}): {result.verdict}")
    if result.verdict != "same":
        raise click.exceptions.Exit(EXIT_DIFFERS)


def _keep(path: Path, seen: "Any") -> None:
    from harness.trace import write_observations

    path.parent.mkdir(parents=True, exist_ok=True)
    write_observations(path, seen)
    click.echo(f"{len(seen.observations)} observations: {path}")


# -- measuring ------------------------------------------------------------------------------------


@main.command("headline")
@_kernel_options
def measure_headline(kernels: tuple[str, ...], modules: Path | None) -> None:
    """Measure copy jobs in flight and their memory, with a limit and without, on both sides.

    Eight snapshots on slow COW devices; 32 MiB of their origin are written through the page cache
    of a guest of 2 GiB.  Takes about a minute for each kernel.
    """
    import tempfile

    from harness.headline import measure, seed_rows, table

    for kernel in chosen_kernels(kernels, modules):
        with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
            release, rows = measure(kernel, Path(directory), tell=_note)
        click.echo("\n".join(table(kernel.name, release, rows, seed_rows(rows[0].delay_ms))))
        if any(row.differs or not row.kept for row in rows):
            raise click.exceptions.Exit(EXIT_DIFFERS)


# -- other programs -------------------------------------------------------------------------------


@main.command("lvm")
@click.argument("names", nargs=-1, metavar="[SITUATION]...")
@_kernel_options
@click.option("-j", "--jobs", type=click.IntRange(1, 8), metavar="N",
              help="Guests at the same time.  [default: two for each core, one in QEMU]")
@click.option("--output", "directory", type=click.Path(path_type=Path, file_okay=False),
              default=Path("report/lvm"), show_default=True, metavar="DIR",
              help="Where the traces and LVM's logs go, by kernel.")
def lvm_situations(names: tuple[str, ...], kernels: tuple[str, ...], modules: Path | None,
                   jobs: int | None, directory: Path) -> None:
    """Let the real LVM2 work in a guest, and replay what it did in the twin.

    Each SITUATION becomes an ordinary trace, which `dmsnap replay` takes; without one, all are
    run.  The exit status is 0 only if everything that LVM's devices said is what the twin says.
    """
    from harness.lvm import chosen, run, table
    from harness.run import default_jobs, files_of

    situations = chosen(names)
    differs = False
    for kernel in chosen_kernels(kernels, modules):
        place = files_of(directory, kernel.name)
        release, rows = run(kernel, situations, place, jobs=jobs or default_jobs(kernel),
                            tell=_note)
        click.echo("\n".join(table(kernel.name, release, rows)))
        click.echo(f"\ntraces: {place}")
        differs |= any(row.faults for row in rows)
    if differs:
        raise click.exceptions.Exit(EXIT_DIFFERS)


# -- kernels and the machine ----------------------------------------------------------------------


@main.group(invoke_without_command=True)
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
              for name in (_matching(known, pattern) or [catalogue.entry_of(pattern).name])]
    for name in dict.fromkeys(wanted):
        cached = catalogue.find(name) is not None
        kernel = catalogue.fetch(name, progress=lambda line, name=name: _note(  # type: ignore[misc]
            f"{name}: {line}"), refresh=refresh)
        if cached and not refresh:
            click.echo(f"{name}: cached, {kernel.release}")


@main.command()
def doctor() -> None:
    """Say what this machine can run, and what to type where it cannot."""
    from harness.doctor import able, examine, render

    findings = examine()
    click.echo(render(findings))
    if not able(findings):
        raise click.exceptions.Exit(EXIT_DIFFERS)


if __name__ == "__main__":
    main()
