"""Verdicts that change: the catalogue many times over, guests disturbed (``make flakes``).

A verdict is a function of the scenario and the kernel.  One that changes from run to run is a
fault: an order that the twin does not offer, or something of the harness that depends on time.
So each kernel carries everything out many times, under three conditions: a quiet machine; beside
processes that keep its processors busy; and with guests that are stopped at random moments and go
on a little later, as a host does that has no time for them.

Each run is a run as any other, into a directory of its own, and its ledger says what has finished
there: ``--resume`` goes on.  Whatever is not *same* is kept as it was observed, so that it can be
worked on: the trace, which ``dmsnap replay`` takes, and beside it the kernel's observations.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.compare import diff
from harness.errors import DmsnapError, ProvisioningError
from harness.files import write_whole
from harness.guest import keeper
from harness.guest.catalogue import get
from harness.guest.recording import GUESTS_DIRECTORY, kernel_observations, recorded
from harness.report.ledger import LEDGER_NAME, Ledger
from harness.report.reporter import Reporters
from harness.scenarios.registry import Scenario, choose
from harness.trace.files import Trace, dumps, dumps_observations
from harness.verdict.result import Result, RunReport

KERNELS: Final = ("uml-6.1", "uml-6.12", "uml-7.2")
BUSY_PROCESSES: Final = 6
STOPPED_MS: Final = (10.0, 300.0)
RUNNING_MS: Final = (10.0, 400.0)
"""A guest that is disturbed is stopped for so long, after it was left alone for so long."""
_TURN: Final = "#"
"""Behind the name of a scenario that a run does several times: which time."""
_FIT: Final = (diff.Verdict.SAME, diff.Verdict.UNSUPPORTED)


class Condition(StrEnum):
    """What goes on beside the guests."""

    QUIET = "quiet"
    LOADED = "loaded"
    SLOWED = "slowed"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One run that is over.

    Attributes:
        kernel, condition, number: which.
        verdicts: of its scenarios.
        by_other_order: how many took another than the twin's first order.
        repeated: how many took more than one guest.
        stops: how often a guest was stopped; ``stopped_s`` is for how long in all.
    """

    kernel: str
    condition: Condition
    number: int
    verdicts: dict[str, diff.Verdict]
    by_other_order: int
    repeated: tuple[str, ...]
    stops: int = 0
    stopped_s: float = 0.0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its directory."""
        return f"{self.kernel}-{self.condition}-{self.number}"


# -- conditions --


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep processors busy with ``count`` processes, which end with this one."""
    spin = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100000))"
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", spin, str(os.getpid())])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


class Slowness:
    """Stops guests of this process at random moments, one at a time; each goes on soon.

    Of a guest's family only those are stopped that nobody traces: a User-mode Linux would take
    the signal for one of its own process's.

    Attributes:
        stops: how often that was done; ``stopped_s`` is for how long in all.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._disturb, daemon=True)
        self.stops = 0
        self.stopped_s = 0.0

    def __enter__(self) -> "Slowness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _wait(self, between_ms: tuple[float, float]) -> float:
        """As often a short while as a long one: the bounds' logarithms are what is even."""
        low, high = between_ms
        seconds: float = low * (high / low) ** self._random.random() / 1000
        self._over.wait(seconds)
        return seconds

    def _disturb(self) -> None:
        while not self._over.is_set():
            self._wait(RUNNING_MS)
            families = guests_of(os.getpid())
            if not families:
                continue
            with ExitStack() as stack:
                stopped = [
                    pidfd
                    for pid in self._random.choice(families)
                    if (pidfd := _stop(pid)) is not None
                ]
                for pidfd in stopped:
                    stack.callback(os.close, pidfd)
                    stack.callback(_tell, pidfd, signal.SIGCONT)
                if stopped:
                    self.stops += 1
                    self.stopped_s += self._wait(STOPPED_MS)


def _stop(pid: int) -> int | None:
    """Stop a process; what to tell it by that it may go on.  None if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if _tell(pidfd, signal.SIGSTOP):
        return pidfd
    os.close(pidfd)
    return None


def _tell(pidfd: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
        return True
    return False


def guests_of(pid: int) -> list[list[int]]:
    """The families of the guests that ``pid`` has started, without keepers and traced processes."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = path.read_text(errors="replace")
            parent = int(text[text.rindex(")") + 1 :].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    keepers = [child for child in children.get(pid, ()) if _is_keeper(child)]
    families = (
        [each for each in _below(keeper_pid, children) if not _is_traced(each)]
        for keeper_pid in keepers
    )
    return [family for family in families if family]


def _below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    for child in children.get(pid, ()):
        yield child
        yield from _below(child, children)


def _is_keeper(pid: int) -> bool:
    with suppress(OSError):
        return os.fsencode(keeper.__file__) in Path(f"/proc/{pid}/cmdline").read_bytes().split(
            b"\0"
        )
    return False


def _is_traced(pid: int) -> bool:
    """Whether it has a tracer, or is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "TracerPid":
                return value.strip() != "0"
    return True


# -- runs --


class _Progress:
    """A reporter that counts on one line, and keeps the results."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._total = 0
        self.results: list[Result] = []

    def begin(self, kernels: Sequence[str], total: int) -> None:
        self._total = total
        del kernels

    def progress(self, guest: str, doing: str) -> None: ...

    def result(self, result: Result) -> None:
        self.results.append(result)
        done = len(self.results)
        if sys.stderr.isatty():
            print(f"\r{self._name}: {done}/{self._total}", end="", file=sys.stderr, flush=True)
        elif done % 200 == 0:
            print(f"{self._name}: {done}/{self._total}", file=sys.stderr, flush=True)

    def end(self, report: RunReport) -> None: ...

    def close(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)


class Hunt:
    """Runs under every condition, and what has come of them.

    Args:
        traces: what to run.
        directory: where all of it goes.
        jobs: guests at a time.
    """

    def __init__(self, traces: Sequence[Trace], directory: Path, jobs: int | None) -> None:
        self._traces = {trace.header.scenario: trace for trace in traces}
        self._directory = directory
        self._jobs = jobs
        self.made: list[Made] = []

    def run(self, kernel: str, condition: Condition, number: int, *, resume: bool) -> Made:
        """One run; what was not *same* in it is kept.

        Raises:
            ProvisioningError: there are no guests to be had, or the condition could not be.
        """
        name = f"{kernel}-{condition}-{number}"
        directory = self._directory / name
        plan = Plan(
            traces=tuple(self._traces.values()),
            kernels=(get(kernel),),
            jobs=self._jobs,
            directory=directory / GUESTS_DIRECTORY,
        )
        ledger = Ledger(directory / LEDGER_NAME, plan.keys())
        finished = ledger.finished() if resume and (directory / LEDGER_NAME).exists() else []
        progress = _Progress(name)
        slowness = Slowness(number)
        started = time.monotonic()
        with ExitStack() as stack:
            if len(finished) < len(self._traces):
                match condition:
                    case Condition.LOADED:
                        stack.enter_context(busy(BUSY_PROCESSES))
                    case Condition.SLOWED:
                        stack.enter_context(slowness)
            execute(plan, Reporters([progress, ledger]), finished)
        if condition is Condition.SLOWED and not finished and not slowness.stops:
            raise ProvisioningError(f"{name}: no guest could be stopped: nothing was slowed")
        results = {result.scenario: result for result in progress.results}
        made = Made(
            kernel=kernel,
            condition=condition,
            number=number,
            verdicts={scenario: result.verdict for scenario, result in results.items()},
            by_other_order=sum(result.by_other_order for result in results.values()),
            repeated=tuple(scenario for scenario, result in results.items() if result.attempts > 1),
            stops=slowness.stops,
            stopped_s=round(slowness.stopped_s, 1),
            seconds=round(time.monotonic() - started, 1),
        )
        self._keep(made, results, directory / GUESTS_DIRECTORY / kernel)
        shutil.rmtree(directory / GUESTS_DIRECTORY, ignore_errors=True)
        self.made.append(made)
        write_whole(
            self._directory / "flakes.json",
            msgspec.json.format(
                msgspec.json.encode({"runs": self.made, "changed": self.changed()})
            ),
        )
        return made

    def _keep(self, made: Made, results: dict[str, Result], guests: Path) -> None:
        """Traces and observations of what was not *same*."""
        odd = {scenario for scenario, verdict in made.verdicts.items() if verdict not in _FIT}
        for scenario in odd:
            path = self._directory / made.name / f"{scenario}.jsonl"
            write_whole(path, dumps(self._traces[scenario]))
            write_whole(path.with_suffix(".result.json"), msgspec.json.encode(results[scenario]))
        for each in recorded(guests) if odd and guests.is_dir() else ():
            if each.scenario in odd:
                write_whole(
                    self._directory / made.name / f"{each.scenario}.kernel.jsonl",
                    dumps_observations(
                        kernel_observations(
                            made.kernel, each.scenario, each.seed, each.ready, each.observations
                        )
                    ),
                )

    def changed(self) -> dict[str, dict[str, list[str]]]:
        """``SCENARIO on KERNEL`` → verdict → the runs that gave it, where there are several."""
        found: dict[str, dict[str, list[str]]] = {}
        for made in self.made:
            for scenario, verdict in made.verdicts.items():
                name = f"{scenario.partition(_TURN)[0]} on {made.kernel}"
                found.setdefault(name, {}).setdefault(verdict.value, []).append(made.name)
        return {name: verdicts for name, verdicts in found.items() if len(verdicts) > 1}


def _turn(scenario: Scenario, turn: int) -> Trace:
    """A scenario for the first time (0), or again, by another seed."""
    trace = scenario.trace(1 + turn)
    if not turn:
        return trace
    return Trace(
        msgspec.structs.replace(trace.header, scenario=f"{trace.header.scenario}{_TURN}{turn}"),
        trace.steps,
    )


def _line(made: Made) -> str:
    """One run in a line."""
    counts = ", ".join(
        f"{count} {verdict.value}"
        for verdict, count in sorted(Counter(made.verdicts.values()).items())
    )
    more = [f"{made.by_other_order} by another permitted order"] if made.by_other_order else []
    if made.repeated:
        more.append(f"{len(made.repeated)} in a second guest")
    if made.stops:
        more.append(f"{made.stops} stops, {made.stopped_s} s in all")
    said = f" ({'; '.join(more)})" if more else ""
    return f"{made.name}: {counts}{said}, {made.seconds} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", help="scenarios; the whole catalogue without any")
    parser.add_argument("--kernel", action="append", choices=KERNELS, default=[])
    parser.add_argument(
        "--condition", action="append", type=Condition, choices=list(Condition), default=[]
    )
    parser.add_argument("--runs", type=int, default=10, help="under each condition")
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help="do each scenario so often in each run, by another seed each time",
    )
    parser.add_argument("-j", "--jobs", type=int)
    parser.add_argument("--report", type=Path, default=Path("report/flakes"))
    parser.add_argument("--resume", action="store_true", help="what had finished is not run again")
    options = parser.parse_args()
    traces = [
        _turn(scenario, turn)
        for turn in range(options.repeat)
        for scenario in choose(options.patterns)
    ]
    hunt = Hunt(traces, options.report, options.jobs)
    # Round by round: a run that is cut short has seen some of every kind.
    for number in range(1, options.runs + 1):
        for condition in options.condition or [Condition.LOADED, Condition.SLOWED]:
            for kernel in options.kernel or KERNELS:
                made = hunt.run(kernel, condition, number, resume=options.resume)
                print(_line(made), flush=True)
                for scenario, verdict in made.verdicts.items():
                    if verdict not in _FIT:
                        print(f"  {scenario}: {verdict.value}", flush=True)
    changed = hunt.changed()
    for name, verdicts in changed.items():
        print(
            f"{name}: "
            + "; ".join(
                f"{verdict} in {len(runs)}" + (f" ({', '.join(runs)})" if len(runs) < 4 else "")
                for verdict, runs in verdicts.items()
            )
        )
    print(f"{len(hunt.made)} runs, {len(changed)} verdicts that changed")
    return 1 if changed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("flakes: interrupted; --resume goes on")
    except DmsnapError as fault:
        sys.exit(f"flakes: {fault}")
