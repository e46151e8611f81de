"""What the pytest plugin has done in a process of its own: ``python -m harness.plugin``.

One line of JSON on standard input says what to do; the answers are lines of JSON on standard
output.  ``cases`` answers with all (kernel, scenario) that were asked for, ``run`` with each result
as soon as it is there.  When standard input ends, whoever asked is gone, and guests are ended.

The plugin is ``harness/entry/dmsnap_pytest.py``, a module that knows nothing of this package.
"""

import json
import os
import sys
import threading
from _thread import interrupt_main
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.campaign.here import NAME as HERE
from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.compare.diff import AGREED, Verdict
from harness.errors import DmsnapError
from harness.files import check_writable
from harness.guest import catalogue, confinement
from harness.guest.catalogue import VAGRANT, Kernel
from harness.guest.choice import named_kernels
from harness.guest.fetch import provision
from harness.guest.recording import GUESTS_DIRECTORY
from harness.kernel import machine
from harness.report.gate import printable
from harness.report.junit import JunitReporter
from harness.report.ktap import KtapReporter
from harness.report.reporter import FileReporter, JsonReporter
from harness.report.words import details
from harness.scenarios.elsewhere import chosen
from harness.trace.files import Trace
from harness.verdict.result import Environment, Result, RunReport


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is asked for; the fields are the options of ``dmsnap run``.

    Attributes:
        report: directory of the report; None if it was not said.
        usual_report: where it goes then, unless this machine is the guest, which may have no place
            to write to.
        cases: (kernel, scenario) of each result that is wanted, for ``run``.
    """

    do: str
    kernels: list[str] = []
    patterns: list[str] = []
    paths: list[str] = []
    modules: str | None = None
    guest: str | None = None
    jobs: int | None = None
    seed: int = 1
    driver: str = "ioctl"
    defects: str = "faithful"
    step_limit: float = 30.0
    no_cage: bool = False
    report: str | None = None
    usual_report: str = ""
    cases: list[tuple[str, str]] = []

    @property
    def here(self) -> bool:
        """Whether the kernel of this machine is asked for."""
        return self.guest == HERE or (self.guest is None and machine.is_guest())

    @property
    def modules_path(self) -> Path | None:
        """Where the modules are, if it was said."""
        named = self.modules or (os.environ.get("DMSNAP_MODULES") if self.here else None)
        return Path(named) if named else None


def answer(result: Result) -> dict[str, Any]:
    """A result as the plugin hands it to a test (``dmsnap_pytest.ScenarioResult``)."""
    skipped = result.verdict is Verdict.UNSUPPORTED
    return {
        "scenario": result.scenario,
        "kernel": result.kernel,
        "release": printable(result.release),
        "seed": result.seed,
        "verdict": str(result.verdict),
        "outcome": "passed" if result.verdict in AGREED else "skipped" if skipped else "failed",
        "text": printable(
            f"{result.scenario} on {result.kernel} ({result.release}): {result.verdict}\n"
            f"{details(result)}"
        ),
        "data": msgspec.to_builtins(result),
    }


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def _note(line: str) -> None:
    _say(note=printable(line))


def _traces(request: Request) -> tuple[Trace, ...]:
    return chosen(request.patterns, request.paths, request.seed)


def _kernels(request: Request) -> list[str]:
    """Names of the kernels that are asked for; nothing is fetched."""
    if request.here:
        return [HERE]
    others = [name for name in request.kernels if name != VAGRANT]
    own = [VAGRANT] if request.guest == VAGRANT or VAGRANT in request.kernels else []
    if own and not others:
        return own
    if not request.kernels and request.modules is None and request.guest is None:
        return [catalogue.default()]
    guest = None if own else request.guest
    found = named_kernels(others, request.modules_path, guest, progress=_note)
    return [each.name for each in found] + own


class _Follower:
    """A reporter that hands results on, and keeps them."""

    def __init__(self, renderers: Sequence[FileReporter]) -> None:
        self.results: list[Result] = []
        self._renderers = renderers

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Nothing to do."""

    def progress(self, guest: str, doing: str) -> None:
        """Nothing to do."""

    def result(self, result: Result) -> None:
        """To whoever waits."""
        self.results.append(result)
        for each in self._renderers:
            each.result(result)
        _say(result=answer(result))

    def end(self, report: RunReport) -> None:
        """Nothing to do: there may be more kernels."""

    def close(self) -> None:
        """Nothing to do."""


def _run(request: Request) -> None:
    """Everything that is wanted, one kernel after another; what keeps one from it is told."""
    traces = {trace.header.scenario: trace for trace in _traces(request)}
    wanted: dict[str, list[Trace]] = {}
    for kernel, name in request.cases:
        wanted.setdefault(kernel, []).append(traces[name])
    place = request.report or ("" if request.here else request.usual_report)
    directory = Path(place) if place else None
    renderers: list[FileReporter] = []
    if directory:
        check_writable(directory)
        renderers = [
            JunitReporter(directory / "junit.xml"),
            KtapReporter(directory / "run.ktap"),
            JsonReporter(directory / "results.json"),
        ]
    follower = _Follower(renderers)
    environment: Environment | None = None
    try:
        for kernel, chosen_traces in wanted.items():
            try:
                found = _on_kernel(request, kernel, chosen_traces, directory, follower).environment
            except Exception as fault:  # noqa: BLE001 - told to the items that wait
                _say(kernel=kernel, kind=type(fault).__name__, error=printable(str(fault)))
                continue
            environment = _together(environment, found)
    finally:
        if follower.results:
            report = RunReport(
                environment=environment or Environment(), results=tuple(follower.results)
            )
            for each in renderers:
                each.end(report)


def _together(one: Environment | None, other: Environment) -> Environment:
    """The environment of a run on several kernels."""
    if one is None:
        return other
    return msgspec.structs.replace(
        one,
        seconds=one.seconds + other.seconds,
        jobs=max(one.jobs, other.jobs),
        kernels=one.kernels | other.kernels,
        guests=one.guests | other.guests,
        instead=one.instead | other.instead,
    )


def _on_kernel(
    request: Request,
    name: str,
    traces: Sequence[Trace],
    directory: Path | None,
    follower: _Follower,
) -> RunReport:
    if name == HERE:
        from harness.campaign.here import execute_here

        return execute_here(traces, follower, modules=request.modules_path, driver=request.driver)
    assert directory is not None, "guests leave their files in the directory of the report"
    launchers = {}
    if name == VAGRANT:
        from harness.guest.vagrant import Machine
        from harness.measure.preflight import fit_vagrant

        launcher = fit_vagrant(Machine(Path(__file__).parents[1], _note))
        kernels = (launcher.kernel(),)
        launchers = {name: launcher}
    else:
        kernels = (_kernel(request, name),)
    return execute(
        Plan(
            traces=tuple(traces),
            kernels=kernels,
            jobs=request.jobs,
            driver=request.driver,
            defects=request.defects,
            step_limit_s=request.step_limit,
            launchers=launchers,
            directory=directory / GUESTS_DIRECTORY,
        ),
        follower,
    )


def _kernel(request: Request, name: str) -> Kernel:
    """The kernel of that name, on this machine."""
    asked = [kernel for kernel in request.kernels if kernel != VAGRANT] or [name]
    guest = None if request.guest == VAGRANT else request.guest
    known = named_kernels(asked, request.modules_path, guest, progress=_note)
    found = next(each for each in known if each.name == name)
    if isinstance(found, Kernel):
        return found
    return provision.fetch(name, progress=_note)


def _end_with_input() -> None:
    sys.stdin.read()
    interrupt_main()


def main() -> int:
    """Do what standard input says."""
    request = msgspec.json.decode(sys.stdin.readline(), type=Request)
    if request.no_cage:
        confinement.forgo()
    try:
        if request.do == "cases":
            names = [trace.header.scenario for trace in _traces(request)]
            _say(cases=[(kernel, name) for kernel in _kernels(request) for name in names])
            return 0
        threading.Thread(target=_end_with_input, daemon=True).start()
        _run(request)
        _say(end="the run is over")
    except KeyboardInterrupt:  # nobody waits any more
        return 1
    except (DmsnapError, OSError) as fault:
        _say(**{"error" if request.do == "cases" else "end": printable(str(fault))})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
