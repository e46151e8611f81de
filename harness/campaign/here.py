"""Running scenarios in this machine: a disposable guest that dmsnap did not start.

There is no supervisor: a kernel that panics takes dmsnap with it, and no journal keeps what had
finished.  Everything else is the same, including the comparison.
"""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness import __version__
from harness.campaign.observe import Here, Scenarios, observe
from harness.errors import NeverReturns, ProvisioningError, Unsupported
from harness.kernel import agent
from harness.kernel.backend import KernelBackend
from harness.report.reporter import Reporter
from harness.trace.files import Trace
from harness.verdict.foresight import foretell, not_modelled, told
from harness.verdict.judge import judge, unsupported
from harness.verdict.result import Environment, Result, RunReport
from harness.wire.journal import Ready

NAME: Final = "here"
"""The kernel's name in reports; its release says which it is."""


@contextmanager
def kernel_side(
    *, modules: Path | None = None, driver: str = "ioctl"
) -> Iterator[tuple[KernelBackend, Ready]]:
    """The kernel side in this machine.

    Raises:
        UnsafeMachine: this machine is not marked as disposable.
        ProvisioningError: a module or a driver is missing.
    """
    directory = modules or Path("/lib/modules") / os.uname().release
    with agent.bring_up(directory, driver, here=True) as (backend, ready):
        yield backend, ready


def run_one(backend: KernelBackend, ready: Ready, trace: Trace) -> Result:
    """One scenario, start to end, and its verdict.

    Raises:
        ProvisioningError: the previous scenario left something behind.
    """
    if fault := not_modelled(trace) or cannot_be_run(trace, ready):
        return unsupported(trace, NAME, fault)
    [outcome] = observe(Scenarios([trace]), Here(backend, ready)).values()
    return judge(trace, outcome, NAME)[0]


def cannot_be_run(trace: Trace, ready: Ready) -> Unsupported | None:
    """Why a scenario cannot run in this machine, where nothing would replace a lost guest."""
    foretold = foretell(trace, ready.probe)
    if isinstance(foretold.end, Unsupported):
        return foretold.end
    if isinstance(foretold.end, NeverReturns):
        return Unsupported(f"{told(trace, foretold.end)}: this machine would hang")
    if foretold.crashes:
        return Unsupported(f"{told(trace, foretold.crashes[0])}: this machine may die")
    return None


def execute_here(
    traces: Sequence[Trace], reporter: Reporter, *, modules: Path | None, driver: str
) -> RunReport:
    """Run scenarios one after another in this machine.

    Raises:
        UnsafeMachine: this machine is not marked as disposable.
        ProvisioningError: a module or a driver is missing, or a scenario left something behind;
            finished results are reported.
    """
    fault: ProvisioningError | KeyboardInterrupt | None = None
    started = time.monotonic()
    results: list[Result] = []
    with kernel_side(modules=modules, driver=driver) as (backend, ready):
        reporter.begin([NAME], len(traces))
        try:
            for trace in traces:
                reporter.progress(NAME, trace.header.scenario)
                try:
                    results.append(run_one(backend, ready, trace))
                except (ProvisioningError, KeyboardInterrupt) as error:
                    fault = error
                    break
                reporter.result(results[-1])
            if fault and not results:
                raise fault
            report = RunReport(
                environment=Environment(
                    dmsnap=__version__,
                    machine=" ".join(platform.uname()[:3]),
                    python=platform.python_version(),
                    kernels={NAME: ready.release},
                    guests={NAME: NAME},
                    seconds=time.monotonic() - started,
                ),
                results=tuple(results),
            )
            reporter.end(report)
        finally:
            reporter.close()
    if fault:
        raise fault
    return report
