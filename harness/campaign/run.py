"""A run: scenarios × kernels, each executed in a guest and in the twin, and compared.

The guests of one kernel run in parallel, the kernels one after another.  As soon as a guest has
finished a scenario, the twin executes the same steps with the facts that this guest's probe
found, and the two are compared.  Where they differ and the kernel had a choice of order, the twin
tries the other permitted orders (`harness.twin.explore`).
"""

import platform
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from harness import __version__
from harness.campaign.observe import Guests, Scenarios, observe
from harness.campaign.plan import Plan
from harness.errors import ProvisioningError
from harness.files import alone, ours_or_empty, remove_ours
from harness.guest.catalogue import VAGRANT, Kernel
from harness.guest.confinement import told
from harness.guest.events import (
    Event,
    GuestReady,
    GuestStarted,
    GuestWasLost,
    ScenarioBegun,
    ScenarioEnded,
)
from harness.guest.recording import NOT_STARTED, Earlier, files_of, keep_twin
from harness.report.reporter import Reporter
from harness.trace.files import file_name, write
from harness.twin.profile import FAITHFUL
from harness.verdict.baseline import differs
from harness.verdict.foresight import not_modelled
from harness.verdict.judge import judge, unsupported
from harness.verdict.result import Environment, Result, RunReport, alike, without_turn

TRACES_DIRECTORY: Final = "traces"
"""In the report: the trace of each scenario that differs."""
IN_REPORT: Final = "finished results are in the report"
"""Message of Ctrl-C in a run with results."""


def execute(plan: Plan, reporter: Reporter, finished: Sequence[Result] = ()) -> RunReport:
    """Run everything that is not ``finished``; the reporter gets everything as it happens.

    Ctrl-C, or a signal treated as such, ends the guests and reports what had finished.  A kernel
    whose guests are not available does not keep the others from running.  A run without a result
    of its own leaves the last report unchanged, and the files of its guests in
    `NOT_STARTED`.

    Raises:
        ProvisioningError: guests of a kernel are not available; finished results are reported.  Or
            another run is using that directory.
        KeyboardInterrupt: after Ctrl-C; its text says what became of the report.
    """
    started = time.monotonic()
    cage = told(kernel for kernel in plan.kernels if kernel.name not in plan.launchers)
    about = platform.uname()
    environment = Environment(
        dmsnap=__version__,
        command=tuple(sys.argv),
        machine=f"{about.system} {about.release} {about.machine}",
        python=platform.python_version(),
        jobs=max(map(plan.guests, plan.kernels), default=1),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        cage=cage,
    )
    interrupted = False
    faults: list[ProvisioningError] = []
    with ExitStack() as stack:
        stack.callback(reporter.close)
        try:
            stack.enter_context(alone(plan.directory))
        except OSError as fault:
            raise ProvisioningError(
                f"cannot create the directory {plan.directory}: {fault.strerror}; choose another"
            ) from fault
        reporter.begin(
            [kernel.name for kernel in plan.kernels], len(plan.traces) * len(plan.kernels)
        )
        run = _Campaign(plan, reporter, finished)
        stack.callback(run.leave_no_start)
        try:
            if run.complete:
                run.begin()
            for kernel in plan.kernels:
                try:
                    run.on_kernel(kernel)
                except ProvisioningError as fault:
                    faults.append(fault)
        except KeyboardInterrupt:
            interrupted = True
        except _Enough:
            pass
        if not run.begun:
            if interrupted:
                raise KeyboardInterrupt("nothing had finished; the last report is unchanged")
            faults[0].args = (run.as_left(str(faults[0])),)
            raise faults[0]
        report = RunReport(
            environment=msgspec.structs.replace(
                environment,
                seconds=time.monotonic() - started,
                kernels=run.releases,
                guests={kernel.name: kernel.guest for kernel in plan.kernels},
                instead={kernel.name: kernel.instead for kernel in plan.kernels if kernel.instead},
                built={kernel.name: kernel.built for kernel in plan.kernels if kernel.built},
                resumed=len(finished),
            ),
            results=run.results(),
        )
        reporter.end(report)
    if interrupted:
        raise KeyboardInterrupt(IN_REPORT)
    if faults:
        raise faults[0]
    return report


class _Enough(Exception):
    """What came is all that was wanted (``Plan.enough``)."""


def kernel_words(kernel: Kernel) -> list[str]:
    """How a kernel is named on a command line."""
    if kernel.record is not None or kernel.guest == VAGRANT:
        return ["--kernel", kernel.name]
    return ["--kernel", str(kernel.program), "--modules", str(kernel.modules)]


class _Campaign:
    """The state of a run.

    Attributes:
        begun: it has a result of its own, or needs none.
    """

    def __init__(self, plan: Plan, reporter: Reporter, finished: Sequence[Result]) -> None:
        self._plan = plan
        self._reporter = reporter
        self._finished = finished
        self._aside = plan.directory.with_name(NOT_STARTED)
        ours_or_empty(self._aside)
        self._earlier = Earlier(
            (files_of(plan.directory, kernel.name) for kernel in plan.kernels),
            (files_of(plan.directory, result.kernel) for result in finished),
        )
        self.begun = False
        self._traces = {trace.header.scenario: trace for trace in plan.traces}
        self._found = {(result.kernel, result.scenario): result for result in finished}
        self.releases = {result.kernel: result.release for result in finished if result.release}

    @property
    def complete(self) -> bool:
        """Whether every result was taken over."""
        return not any(map(self._missing, self._plan.kernels))

    def begin(self) -> None:
        """From here on this run replaces the previous one; results taken over are reported."""
        if not self.begun:
            self.begun = True
            self._earlier.forget()
            remove_ours(self._aside)
            for result in self._finished:
                self._reporter.result(result)

    def leave_no_start(self) -> None:
        """Remove what this run wrote, if it has no result."""
        with suppress(OSError, ProvisioningError):  # then it stays
            self._earlier.bring_back(self._aside)

    def as_left(self, text: str) -> str:
        """A message with its paths changed to where `leave_no_start` puts the files."""
        return self._earlier.as_left(text, self._aside)

    def _missing(self, kernel: Kernel) -> list[str]:
        return [name for name in self._traces if (kernel.name, name) not in self._found]

    def results(self) -> tuple[Result, ...]:
        """Finished results, in the order of the plan."""
        return tuple(
            self._found[kernel.name, name]
            for kernel in self._plan.kernels
            for name in self._traces
            if (kernel.name, name) in self._found
        )

    def on_kernel(self, kernel: Kernel) -> None:
        """Run all scenarios without a result yet on one kernel."""
        plan = self._plan
        missing = self._missing(kernel)
        if not missing:
            return
        for name in list(missing):
            trace = self._traces[name]
            if fault := not_modelled(trace):
                missing.remove(name)
                self._has(unsupported(trace, kernel.name, fault))
        if not missing:
            return
        keep = files_of(plan.directory, kernel.name)

        def hear(event: Event) -> None:
            self._tell(kernel, event)
            if isinstance(event, ScenarioEnded):
                outcome = event.outcome
                result, twin = judge(
                    self._traces[outcome.scenario], outcome, kernel.name, self._plan.defects
                )
                self._has(result)
                if twin and not alike(result):
                    keep_twin(keep, twin)

        observe(
            Scenarios(
                (self._traces[name] for name in missing),
                driver=plan.driver,
                defects=plan.defects,
                functions=plan.functions,
            ),
            Guests(
                kernel=kernel,
                results=keep,
                count=plan.guests(kernel),
                first_number=self._earlier.first_number(keep),
                step_limit_s=plan.step_limit_s,
                boot_limit_s=plan.boot_limit_s,
                launcher=plan.launchers.get(kernel.name),
            ),
            hear,
        )

    def _has(self, result: Result) -> None:
        """A result has arrived.

        Raises:
            _Enough: it is the last one that was wanted.
        """
        self.begin()
        if differs(result) and self._plan.traces_directory:
            result = self._with_trace(result, self._plan.traces_directory)
        self._found[result.kernel, result.scenario] = result
        self._reporter.result(result)
        if self._plan.enough and self._plan.enough(result):
            raise _Enough

    def _with_trace(self, result: Result, directory: Path) -> Result:
        """The result, with the file of its trace and the commands that repeat it."""
        trace = self._traces[result.scenario]
        path = directory / f"{file_name(without_turn(result.scenario))}.jsonl"
        with suppress(OSError):  # a full disk costs the trace, not the run
            write(path, trace)
            [kernel] = [each for each in self._plan.kernels if each.name == result.kernel]
            options = kernel_words(kernel)
            if self._plan.driver != "ioctl":
                options += ["--driver", self._plan.driver]
            if self._plan.defects != FAITHFUL:
                options += ["--defects", self._plan.defects]
            command = ["dmsnap", "replay", str(path), *options]
            name, seed = (
                without_turn(result.scenario),
                ([] if result.seed == 1 else ["--seed", str(result.seed)]),
            )
            scenario = [] if trace.file else [shlex.join(["dmsnap", "run", name, *seed, *options])]
            return msgspec.structs.replace(
                result,
                trace=str(path),
                again=(*scenario, shlex.join(command)),
            )
        return result

    def _tell(self, kernel: Kernel, event: Event) -> None:
        """Progress, in words."""
        match event:
            case GuestStarted(guest=guest):
                self._reporter.progress(f"{kernel.name} #{guest}", "boots")
            case GuestReady(guest=guest, ready=ready, boot_s=boot_s):
                self.releases[kernel.name] = ready.release
                self._reporter.progress(
                    f"{kernel.name} #{guest}", f"ready after {boot_s:.1f} s: {ready.release}"
                )
            case ScenarioBegun(guest=guest, scenario=scenario, attempt=attempt):
                again = f", attempt {attempt}" if attempt > 1 else ""
                self._reporter.progress(f"{kernel.name} #{guest}", f"{scenario}{again}")
            case GuestWasLost(loss=loss):
                self._reporter.progress(f"{kernel.name} #{loss.guest}", "")
