"""A run: scenarios × kernels, each executed in a guest and in the twin, and compared.

The guests of one kernel work at the same time, the kernels one after another.  As soon as a guest
has finished a scenario, the twin executes the same steps with the facts that this guest's probe
found, and the two are compared.  Where they differ and the kernel had a choice of order, the twin
tries the other orders that are permitted (`harness.twin.explore`).
"""

import dataclasses
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from harness import __version__, diff, promise, witness
from harness.diff import Verdict
from harness.errors import (
    BadScenario,
    FreedMemory,
    KernelCrash,
    ProvisioningError,
    TwinInvariant,
)
from harness.files import alone
from harness.guest.catalogue import UML, VAGRANT, Kernel
from harness.guest.events import (
    Event,
    GuestReady,
    GuestStarted,
    GuestWasLost,
    Outcome,
    ScenarioBegun,
    ScenarioEnded,
)
from harness.guest.process import Launcher
from harness.guest.supervise import BOOT_LIMIT_S, STEP_LIMIT_S, Supervisor
from harness.journal import Ready
from harness.kernel.session import Job, JobScenario, fault_of
from harness.promise import BrokenPromise
from harness.report.model import Environment, Reporter, Result, RunReport, console_tail
from harness.steps import Observation, encode, faults_without_effect
from harness.trace import Observations, ObservationsHeader, Trace, dumps
from harness.twin import explore
from harness.twin.backend import TwinBackend
from harness.twin.profile import FAITHFUL, Profile

GUESTS_DIRECTORY: Final = "guests"
"""Below the report: journals and consoles of the guests, by kernel."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9.+-]+|^\.+")
_NAME_CHARACTERS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        traces: the scenarios, in order; names are unique.
        kernels: each gets all of them.
        jobs: guests at the same time; None for as many as suit each kernel.
        driver: ``ioctl`` or ``dmsetup``.
        defects: whether the twin does as kernels do, or as promised, where the two differ.
        launchers: kernel → what starts its guests; by default what it is made for.
        directory: where the guests' files stay; of a run before, only those of results that are
            taken over are left in it.
        functions: of the module, to be counted by scenario (`harness.coverage`).
    """

    traces: tuple[Trace, ...]
    kernels: tuple[Kernel, ...]
    directory: Path
    jobs: int | None = None
    driver: str = "ioctl"
    defects: str = FAITHFUL
    launchers: Mapping[str, Launcher] = field(default_factory=dict)
    step_limit_s: float = STEP_LIMIT_S
    boot_limit_s: float = BOOT_LIMIT_S
    functions: tuple[str, ...] = ()

    def guests(self, kernel: Kernel) -> int:
        """How many guests of a kernel run at the same time."""
        return 1 if kernel.guest == VAGRANT else self.jobs or default_jobs(kernel)

    def keys(self) -> dict[tuple[str, str], str]:
        """(kernel, scenario) → a digest of all that its result follows from.

        That is dmsnap's own code, the kernel's program and device-mapper modules, the scenario,
        and the options that change what is run; not the number of guests or a time limit.
        """
        code = _digest(path.read_bytes() for path in sorted(
            Path(__file__).parent.rglob("*.py")))
        scenarios = {trace.header.scenario: dumps(trace) for trace in self.traces}
        found: dict[tuple[str, str], str] = {}
        for kernel in self.kernels:
            files = [kernel.program, *sorted(kernel.modules.rglob("dm-*.ko*"))]
            words = (kernel.name, kernel.release, self.driver, self.defects)
            base = _digest([code, *(word.encode() for word in words),
                            *(path.read_bytes() for path in files)])
            found |= {(kernel.name, name): _digest([base, text]).hex()
                      for name, text in scenarios.items()}
        return found


def _digest(parts: Iterable[bytes]) -> bytes:
    """One digest of several byte strings; where one ends and the next begins matters."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def files_of(directory: Path, kernel: str) -> Path:
    """Where a run keeps the files of a kernel's guests.

    The name of a kernel of one's own is its path: it must not lead out of ``directory``.
    """
    return directory / _NOT_IN_A_NAME.sub("_", kernel)[-_NAME_CHARACTERS_MAX:]


def default_jobs(kernel: Kernel) -> int:
    """Guests of a kernel for the cores that this process may use.

    Two for each in User-mode Linux, since a guest often waits for a slow disk or for a merge to
    rest; an emulated machine keeps its core busy.
    """
    cores = len(os.sched_getaffinity(0))
    return 2 * cores if kernel.guest == UML else cores


def execute(plan: Plan, reporter: Reporter, finished: Sequence[Result] = ()) -> RunReport:
    """Run everything that is not ``finished``; the reporter hears of all as it happens.

    Ctrl-C ends the guests and reports what had finished.  A kernel whose guests cannot be had
    does not keep the others from their turn.

    Raises:
        ProvisioningError: guests of a kernel cannot be had; what had finished is reported.  Or
            another run is at work in that directory.
    """
    started = time.monotonic()
    about = platform.uname()
    run = _Run(plan, reporter, finished)
    environment = Environment(
        dmsnap=__version__, command=tuple(sys.argv),
        machine=f"{about.system} {about.release} {about.machine}",
        python=platform.python_version(), jobs=max(map(plan.guests, plan.kernels), default=1),
        started=datetime.now(UTC).isoformat(timespec="seconds"))
    interrupted = False
    faults: list[ProvisioningError] = []
    with ExitStack() as stack:
        stack.callback(reporter.close)
        try:
            stack.enter_context(alone(plan.directory))
        except OSError as fault:
            raise ProvisioningError(f"cannot make the directory {plan.directory}: "
                                    f"{fault.strerror}; choose another") from fault
        reporter.begin([kernel.name for kernel in plan.kernels],
                       len(plan.traces) * len(plan.kernels))
        try:
            for result in finished:
                reporter.result(result)
            for kernel in plan.kernels:
                try:
                    run.on_kernel(kernel)
                except ProvisioningError as fault:
                    faults.append(fault)
        except KeyboardInterrupt:
            interrupted = True
        report = RunReport(
            environment=msgspec.structs.replace(
                environment, seconds=time.monotonic() - started, kernels=run.releases,
                guests={kernel.name: kernel.guest for kernel in plan.kernels},
                resumed=len(finished)),
            results=run.results())
        if report.results or not faults:
            reporter.end(report)
    if interrupted:
        raise KeyboardInterrupt
    if faults:
        raise faults[0]
    return report


class _Run:
    """The state of a run."""

    def __init__(self, plan: Plan, reporter: Reporter, finished: Sequence[Result]) -> None:
        self._plan = plan
        self._reporter = reporter
        self._traces = {trace.header.scenario: trace for trace in plan.traces}
        self._found = {(result.kernel, result.scenario): result for result in finished}
        self.releases = {result.kernel: result.release for result in finished if result.release}

    def results(self) -> tuple[Result, ...]:
        """What has finished, in the order of the plan."""
        return tuple(self._found[kernel.name, name] for kernel in self._plan.kernels
                     for name in self._traces if (kernel.name, name) in self._found)

    def on_kernel(self, kernel: Kernel) -> None:
        """All scenarios on one kernel that have no result yet."""
        plan = self._plan
        missing = [name for name in self._traces if (kernel.name, name) not in self._found]
        if not missing:
            return
        keep = files_of(plan.directory, kernel.name)
        if len(missing) == len(self._traces):
            shutil.rmtree(keep, ignore_errors=True)
        keep.parent.mkdir(parents=True, exist_ok=True)

        def hear(event: Event) -> None:
            self._tell(kernel, event)
            if isinstance(event, ScenarioEnded):
                outcome = event.outcome
                result, _ = judge(self._traces[outcome.scenario], outcome, kernel.name,
                                  self._plan.defects)
                self._found[kernel.name, result.scenario] = result
                self._reporter.result(result)

        Supervisor(
            kernel, guests=plan.guests(kernel), results=keep,
            job=lambda names: self._job(kernel, names),
            python=Path(sys.executable), step_limit_s=plan.step_limit_s,
            boot_limit_s=plan.boot_limit_s, launcher=plan.launchers.get(kernel.name),
            steps={name: len(trace.steps) for name, trace in self._traces.items()},
        ).run(missing, hear)

    def _job(self, kernel: Kernel, names: list[str]) -> bytes:
        return encode(Job(
            modules=str(kernel.modules), driver=self._plan.driver,
            # Its provisioning has marked it as disposable.
            here=kernel.guest == VAGRANT,
            functions=self._plan.functions,
            scenarios=tuple(JobScenario(name, self._traces[name].steps,
                                        self._traces[name].header.seed) for name in names)))

    def _tell(self, kernel: Kernel, event: Event) -> None:
        """Progress, in words."""
        match event:
            case GuestStarted(guest=guest):
                self._reporter.progress(f"{kernel.name} #{guest}", "boots")
            case GuestReady(guest=guest, ready=ready, boot_s=boot_s):
                self.releases[kernel.name] = ready.release
                self._reporter.progress(f"{kernel.name} #{guest}",
                                        f"ready after {boot_s:.1f} s: {ready.release}")
            case ScenarioBegun(guest=guest, scenario=scenario, attempt=attempt):
                again = f", attempt {attempt}" if attempt > 1 else ""
                self._reporter.progress(f"{kernel.name} #{guest}", f"{scenario}{again}")
            case GuestWasLost(loss=loss):
                self._reporter.progress(f"{kernel.name} #{loss.guest}", "")


def judge(trace: Trace, outcome: Outcome, kernel: str, defects: str = FAITHFUL
          ) -> tuple[Result, Observations | None]:
    """The verdict of one scenario on one kernel, and what the twin saw, if it was asked."""
    ready = outcome.ready
    result = Result(
        scenario=outcome.scenario, kernel=kernel, release=ready.release if ready else "",
        seed=trace.header.seed, verdict=Verdict.SAME, attempts=outcome.attempts,
        steps=len(trace.steps), kernel_us=_time(outcome.observations))
    replace = msgspec.structs.replace
    if outcome.lost:
        loss = outcome.lost
        where = "" if loss.step is None else (
            f" in step {loss.step} ({diff.words(trace.steps[loss.step])})")
        if loss.reason == "panic" and ready and _twin_crashes(trace, loss.step, ready, defects):
            return replace(result, verdict=Verdict.SAME, console=console_tail(loss.console),
                           reason=f"both sides crash{where}: {loss.detail}"), None
        return replace(result, verdict=Verdict.LOST, console=console_tail(loss.console),
                       reason=f"{loss.reason}{where}: {loss.detail}"), None
    if outcome.unsupported:
        return replace(result, verdict=Verdict.UNSUPPORTED, reason=outcome.fault), None
    if outcome.fault:
        return replace(result, verdict=Verdict.BROKEN,
                       reason=f"the kernel side: {outcome.fault}"), None
    idle = faults_without_effect(trace.steps, outcome.observations)
    if idle:
        return replace(result, verdict=Verdict.BROKEN, reason=(
            f"the kernel side: step {idle[0]} ({diff.words(trace.steps[idle[0]])}) was to stop the "
            "disk, and no request met it")), None
    assert ready is not None, "a scenario that ended had a guest that was ready"
    try:
        result, twin = _compare(result, trace, outcome.observations, ready, defects)
    except BadScenario as fault:
        return replace(result, verdict=Verdict.BROKEN, reason=f"the twin: {fault}"), None
    except ProvisioningError as fault:  # no kernel answers like that: there is nothing to compare
        return replace(result, verdict=Verdict.LOST, reason=f"rubbish: {fault}"), None
    except (KernelCrash, TwinInvariant) as fault:
        return replace(result, verdict=Verdict.DIVERGED, reason=f"the twin: {fault}"), None
    except Exception as fault:  # noqa: BLE001 - a twin that breaks is a result, and not the last
        return replace(result, verdict=Verdict.DIVERGED, reason=(
            f"the twin broke: {fault_of(fault)}; please report it with the trace")), None
    if outcome.leftovers:
        result = replace(result, verdict=Verdict.DIVERGED, reason=(
            f"devices would not go away: {', '.join(outcome.leftovers)}"))
    return result, twin


def _twin_crashes(trace: Trace, step: int | None, ready: Ready, defects: str) -> bool:
    """Whether the twin comes to a crash of the kernel in this very step.

    What freed memory does to a kernel may come later.
    """
    try:
        probed = Profile.from_probe(ready.probe)
    except ProvisioningError:
        return False
    backend = TwinBackend(dataclasses.replace(probed, defects=defects, unprobed_crashes=True))
    backend.begin(trace.header.seed)
    for index, each in enumerate(trace.steps):
        try:
            backend.execute(index, each)
        except FreedMemory:
            return step is not None and index <= step
        except KernelCrash:
            return index == step
        except Exception:  # noqa: BLE001 - a twin that breaks in another way does not crash alike
            return False
    return False


def _compare(result: Result, trace: Trace, seen: Sequence[Observation], ready: Ready, defects: str
             ) -> tuple[Result, Observations]:
    """Compare with the twin's first order, and with the others where that differs."""
    profile = dataclasses.replace(Profile.from_probe(ready.probe), defects=defects)
    steps, seed = trace.steps, trace.header.seed
    orders = explore.Orders(steps, seed, profile)
    outcomes: set[bytes] = set()
    first: tuple[diff.Comparison, tuple[Observation, ...]] | None = None
    for answers, twin in orders:
        comparison = diff.compare(trace, seen, twin)
        outcomes.add(encode(comparison.divergences))
        if first is None:
            first = comparison, twin
        if comparison.same:
            verdict = Verdict.SAME
            reason = "" if not answers else (
                "the kernel took another of the permitted orders, number "
                f"{orders.tried} that was tried")
            break
        orders.differs_in(comparison.divergences[0].step)
    else:
        assert first is not None, "there is always a first order"
        comparison, twin = first
        reason, verdict = "", Verdict.DIVERGED
        if len(outcomes) > 1:
            reason = f"none of the {orders.tried} permitted orders that were tried is the kernel's"
            if not orders.complete:
                verdict = Verdict.NONDETERMINISTIC
                reason += ", and there are more"
    header = ObservationsHeader(scenario=result.scenario, seed=seed, side="twin",
                                profile=profile.facts())
    kernel_promises = _broken_promises(trace, seen)
    # Where the two saw the same, they broke the same promises.
    alike = comparison.same and not comparison.not_compared
    return msgspec.structs.replace(
        result.compared_with(comparison), verdict=verdict, reason=reason, orders=orders.tried,
        kernel_promises=kernel_promises,
        twin_promises=kernel_promises if alike else _broken_promises(trace, twin),
        twin_us=_time(twin)), Observations(header, twin)


def _broken_promises(trace: Trace, seen: Sequence[Observation]) -> tuple[BrokenPromise, ...]:
    return promise.check(trace, seen) + witness.check(trace, seen)


def _time(seen: Sequence[Observation]) -> int:
    return sum(observation.elapsed_us for observation in seen)


# -- one trace, for replay ------------------------------------------------------------------------


def observe_twin(trace: Trace, profile: Profile) -> Observations:
    """A trace on the twin, in the order that its header records.

    Raises:
        BadScenario: a step has no meaning.
    """
    header = trace.header
    seen = explore.run(trace.steps, header.seed, profile, explore.answers_of(header.answers))
    return Observations(ObservationsHeader(scenario=header.scenario, seed=header.seed, side="twin",
                                           targets=profile.targets, profile=profile.facts()), seen)


def observe_kernel(trace: Trace, kernel: Kernel, *, driver: str = "ioctl"
                   ) -> tuple[Observations, Outcome]:
    """A trace in a guest of its own.

    Raises:
        ProvisioningError: there is no guest, or it was lost.
        BadScenario: a step has no meaning.
    """
    name = trace.header.scenario
    job = Job(modules=str(kernel.modules), driver=driver,
              scenarios=(JobScenario(name, trace.steps, trace.header.seed),))
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
        supervisor = Supervisor(kernel, guests=1, results=Path(directory),
                                job=lambda _names: encode(job), python=Path(sys.executable),
                                steps={name: len(trace.steps)})
        outcome = supervisor.run([name])[name]
    if outcome.fault:
        raise BadScenario(outcome.fault)
    if outcome.lost or outcome.ready is None:
        lost = outcome.lost
        raise ProvisioningError(
            f"the guest was lost ({lost.reason}: {lost.detail})" if lost else "no guest came up")
    ready = outcome.ready
    return Observations(ObservationsHeader(
        scenario=name, seed=trace.header.seed, side="kernel", kernel=kernel.name,
        release=ready.release, version=ready.version, driver=ready.driver, targets=ready.targets,
        profile=ready.probe), outcome.observations), outcome
