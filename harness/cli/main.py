"""The command ``dmsnap``.

Exit status: 0 all was well, 1 something differs or is broken, 2 the request cannot be carried out
(one line says why and what to do), 3 nothing is new and something known is gone (``--known``), 125
a kernel of ``--source`` cannot be judged, 130 interrupted, by Ctrl-C, SIGTERM or SIGHUP.  A reader
that stops early (``| head``) does not change it.
"""

from typing import Any

import click

from harness import __version__
from harness.cli.fuzz import explore, fuzz, reduce, report
from harness.cli.kernels import doctor, kernels
from harness.cli.lvm import lvm_situations
from harness.cli.measure import coverage, measure_headline, preflight
from harness.cli.options import EXIT_CANNOT, EXIT_INTERRUPTED
from harness.cli.run import compare, run
from harness.cli.source import print_config
from harness.cli.store import store
from harness.cli.streams import interrupts, patient
from harness.cli.traces import list_scenarios, replay, trace
from harness.errors import DmsnapError
from harness.report.gate import gated


class _Group(click.Group):
    """Our errors become one line; no traceback reaches a user."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; closed pipes are tolerated, and all output passes the gate."""
        with patient(), gated():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with interrupts():
                return super().invoke(ctx)
        except DmsnapError as fault:
            click.echo(f"dmsnap: {fault}", err=True)
            ctx.exit(EXIT_CANNOT)
        except KeyboardInterrupt as fault:
            # A run says what became of its report.
            click.echo("; ".join(["dmsnap: interrupted", *map(str, fault.args)]), err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except (MemoryError, RecursionError):
            click.echo("dmsnap: out of memory; free some, or give a smaller input", err=True)
            ctx.exit(EXIT_CANNOT)
        except OSError as fault:
            where = f"{fault.filename}: " if fault.filename else ""
            click.echo(f"dmsnap: {where}{fault.strerror or fault}", err=True)
            ctx.exit(EXIT_CANNOT)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dmsnap")
def main() -> None:
    """Does this kernel's dm-snapshot behave exactly as it should?

    Runs the same scenarios in a real kernel and in a userspace twin, and compares everything
    a user of the device can see, down to every byte of the exception store.
    """


for command in (
    run,
    compare,
    list_scenarios,
    trace,
    replay,
    fuzz,
    reduce,
    report,
    explore,
    coverage,
    measure_headline,
    preflight,
    lvm_situations,
    store,
    kernels,
    print_config,
    doctor,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
