"""The pytest plugin: each scenario is a test item, in whatever project pytest runs.

A test that takes the fixture ``dmsnap_result`` is run once for each kernel and scenario that was
asked for, and `check` fails it in the words of the report::

    from dmsnap_pytest import check

    def test_scenario(dmsnap_result):
        check(dmsnap_result)

This module stands on its own, outside the package: it imports nothing of ``harness``.  A project
may have a package of that name, and one interpreter holds one package of a name; so all that is
known of scenarios and kernels is asked of a process (``harness.plugin``), which is also where the
guests hang.  The first test starts it with all that was selected; its answers are lines of a file,
and each item waits for its own.  Workers of pytest-xdist read one file: whoever locks it first
starts the process for all of them.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import pytest

FIXTURE: Final = "dmsnap_result"
_PARAMETERS: Final = "dmsnap_case"
_SHORT: Final = {
    "--kernel": "--dmsnap-kernel",
    "--modules": "--dmsnap-modules",
    "--guest": "--dmsnap-guest",
    "--scenario": "--dmsnap-scenario",
}
"""Short names, for as long as no conftest and no other plugin has them."""
_LOOKS_AGAIN_S: Final = 0.05
_ENDS_S: Final = 60.0
"""A process that was told to end has guests to end first."""
_LOG: Final = "dmsnap.log"
_cases_key = pytest.StashKey[list[tuple[str, str]]]()


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """What came of one scenario on one kernel.

    Attributes:
        scenario, kernel, release: names, and what the guest's own uname gave.
        seed: that it ran with.
        verdict: in words, as in every report (``same``, ``diverged``, …).
        outcome: ``passed``, ``failed`` or ``skipped``, as `check` has it.
        text: what there is to say of it; printable.
        data: the result as it stands in ``results.json``.
    """

    scenario: str
    kernel: str
    release: str
    seed: int
    verdict: str
    outcome: str
    text: str
    data: dict[str, Any] = field(repr=False)


def check(result: ScenarioResult) -> None:
    """Fail, in the words of the report, unless both sides agree; skip what is *unsupported*."""
    if result.outcome == "skipped":
        pytest.skip(result.text)
    if result.outcome != "passed":
        pytest.fail(result.text, pytrace=False)


# -- options --------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``dmsnap run``."""
    group = parser.getgroup("dmsnap", "dm-snapshot: a real kernel against the twin")

    def option(name: str, **how: Any) -> None:
        short = next((s for s, full in _SHORT.items() if full == f"--dmsnap-{name}"), None)
        if short:
            how["help"] += f" (also {short}, unless somebody else has that)"
        group.addoption(f"--dmsnap-{name}", **how)

    option(
        "kernel",
        action="append",
        default=[],
        metavar="NAME|PATH",
        help="kernel to run scenarios on (see `dmsnap kernels`); may be repeated",
    )
    option(
        "modules",
        metavar="DIR",
        help="modules of a kernel that is given as a path, or of this one",
    )
    option(
        "guest",
        choices=("uml", "qemu", "vagrant", "here"),
        help="where the kernel lives: guests (default: what it is made for), or this machine",
    )
    option(
        "scenario",
        action="append",
        default=[],
        metavar="PATTERN",
        help="scenarios to run (default: all); may be repeated",
    )
    option(
        "scenarios",
        action="append",
        default=[],
        metavar="PATH",
        help="Python files, traces, or directories of them, with scenarios of your own",
    )
    option(
        "jobs",
        type=int,
        metavar="N",
        help="guests at the same time (default: two for each core, one in QEMU)",
    )
    option("seed", type=int, default=1, metavar="N", help="goes into every sector (default: 1)")
    option("driver", choices=("ioctl", "dmsetup"), default="ioctl", help="how kernels are driven")
    option(
        "defects",
        choices=("faithful", "fixed"),
        default="faithful",
        help="where kernels are known to break a promise: the twin does as they do, or as promised",
    )
    option(
        "step-limit",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="a guest that is silent for longer is lost (default: 30)",
    )
    option(
        "report",
        metavar="DIR",
        help="where junit.xml, run.ktap and results.json go (default: report/pytest)",
    )
    option("no-cage", action="store_true", help="let guests touch of this host what you may")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Iterator[None]:
    """Short names become long ones, now that all who may have options of their own were heard."""
    yield
    del early_config
    try:
        unknown = parser.parse_known_and_unknown_args(list(args))[1]
    except Exception:  # noqa: BLE001 - bad options; pytest says which
        return
    free = {short for short in _SHORT if any(_is_option(word, short) for word in unknown)}
    args[:] = [
        next((_SHORT[s] + word[len(s) :] for s in free if _is_option(word, s)), word)
        for word in args
    ]


def _is_option(word: str, name: str) -> bool:
    return word == name or word.startswith(f"{name}=")


def pytest_configure(config: pytest.Config) -> None:
    """Scenarios have a marker, for ``-m``; what was asked for is looked at before anything runs."""
    config.addinivalue_line("markers", "scenario: a scenario in a real kernel and in the twin")
    asked = (_option(config, name) for name in ("kernel", "scenario", "scenarios", "modules"))
    if any(asked) and not hasattr(config, "workerinput"):
        _cases(config)


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(f"--dmsnap-{name}")


def _asked(config: pytest.Config) -> dict[str, Any]:
    """What the process is told of the options."""
    names = ("modules", "guest", "jobs", "seed", "driver", "defects", "step-limit", "no-cage")
    return {
        "kernels": _option(config, "kernel"),
        "patterns": _option(config, "scenario"),
        "paths": _option(config, "scenarios"),
        **{name.replace("-", "_"): _option(config, name) for name in names},
    }


# -- items ----------------------------------------------------------------------------------------


def _cases(config: pytest.Config) -> list[tuple[str, str]]:
    """(kernel, scenario) of all that was asked for.

    Raises:
        pytest.UsageError: it cannot be had.
    """
    if _cases_key not in config.stash:
        done = subprocess.run(
            _command(),
            check=False,
            env=_environment(),
            input=json.dumps({"do": "cases", **_asked(config)}) + "\n",
            capture_output=True,
            text=True,
        )
        try:
            answer = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            answer = {"error": f"dmsnap does not start: {_last_line(done.stderr)}"}
        if "error" in answer:
            raise pytest.UsageError(answer["error"])
        config.stash[_cases_key] = [tuple(case) for case in answer["cases"]]
    return config.stash[_cases_key]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for each kernel and scenario."""
    if FIXTURE not in metafunc.fixturenames:
        return
    cases = [
        pytest.param((kernel, name), id=f"{kernel}-{name}", marks=pytest.mark.scenario)
        for kernel, name in _cases(metafunc.config)
    ]
    metafunc.parametrize(_PARAMETERS, cases, scope="session")


def _case_of(item: pytest.Item) -> tuple[str, str] | None:
    call = getattr(item, "callspec", None)
    return call.params.get(_PARAMETERS) if call is not None else None


@pytest.fixture(scope="session")
def _dmsnap_run(request: pytest.FixtureRequest) -> Iterator["_Run"]:
    selected = [case for item in request.session.items if (case := _case_of(item)) is not None]
    with _Run(request.config, dict.fromkeys(selected)) as run:
        yield run


@pytest.fixture
def dmsnap_result(
    dmsnap_case: tuple[str, str], _dmsnap_run: "_Run", request: pytest.FixtureRequest
) -> ScenarioResult:
    """The result of one scenario on one kernel."""
    result = _dmsnap_run.get(*dmsnap_case)
    # Not record_property: beside --junit-xml it warns, and a warning may be an error.
    request.node.user_properties += [("kernel release", result.release), ("seed", result.seed)]
    return result


# -- the process ----------------------------------------------------------------------------------


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "harness.plugin"]


def _environment() -> dict[str, str]:
    """Where the process looks first is where dmsnap's own package is."""
    here = Path(__file__).resolve()
    # Beside it in an installation; in a checkout it is two directories up.
    home = here.parent if (here.parent / "harness").is_dir() else here.parents[2]
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


class _Run:
    """One run of all that was selected, which this process or another worker has started."""

    def __init__(self, config: pytest.Config, cases: Iterable[tuple[str, str]]) -> None:
        report = _option(config, "report")
        self._stack = ExitStack()
        self._cases = list(cases)
        self._process: subprocess.Popen[str] | None = None
        self._results: dict[tuple[str, str], ScenarioResult] = {}
        self._faults: dict[str, dict[str, str]] = {}
        self._begun = ""
        self._end: str | None = None
        self._told = 0
        worker = getattr(config, "workerinput", None)
        if worker is None:
            self._place = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dmsnap-pytest-"))
            )
            name = uuid.uuid4().hex
        else:
            self._place = config.rootpath / (report or "report/pytest")
            self._place.mkdir(parents=True, exist_ok=True)
            name = worker["testrunuid"]
        self._answers = self._place / f".workers-{name}.jsonl"
        self._request = {
            "do": "run",
            **_asked(config),
            "cases": self._cases,
            "report": report and str(config.rootpath / report),
            "usual_report": str(config.rootpath / "report/pytest"),
        }

    def __enter__(self) -> "_Run":
        self._reader = self._stack.enter_context(self._answers.open("a+"))
        self._reader.seek(0)
        # Who holds the first lock has the process; all hold the second while they may wait for it.
        self._lock = self._stack.enter_context(self._answers.with_suffix(".lock").open("w"))
        self._users = self._stack.enter_context(self._answers.with_suffix(".users").open("w"))
        fcntl.flock(self._users, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_rest: object) -> None:
        """The process ends with the last who may wait for it."""
        with self._stack:
            process = self._process
            fcntl.flock(self._users, fcntl.LOCK_UN)
            if process is None:
                return
            while process.poll() is None and not _locked(self._users):
                time.sleep(_LOOKS_AGAIN_S)
            assert process.stdin is not None
            process.stdin.close()  # which it takes for the order to end
            try:
                process.wait(_ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for suffix in (".jsonl", ".lock", ".users"):
                self._answers.with_suffix(suffix).unlink(missing_ok=True)

    def _start(self) -> None:
        log: IO[str] = self._stack.enter_context((self._place / _LOG).open("w"))
        answers = self._stack.enter_context(self._answers.open("a"))
        self._process = subprocess.Popen(
            _command(),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=answers,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C comes to pytest, which closes its standard input
        )
        left = [case for case in self._cases if case not in self._results]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._request | {"cases": left}) + "\n")
        self._process.stdin.flush()

    def get(self, kernel: str, name: str) -> ScenarioResult:
        """Wait for a result; where there will be none, the test fails, or is skipped."""
        while True:
            gone = self._process is not None and self._process.poll() is not None
            self._read()
            if found := self._results.get((kernel, name)):
                return found
            if fault := self._faults.get(kernel):
                if fault["kind"] == "CannotBoot":
                    pytest.skip(fault["error"])
                pytest.fail(f"no result: {fault['error']}", pytrace=False)
            if self._end is None and gone:
                self._end = _last_line((self._place / _LOG).read_text(errors="replace"))
            if self._end is not None and (self._process is None or gone):
                pytest.fail(f"no result: {self._end}", pytrace=False)
            if self._process is None and self._end is None and _locked(self._lock):
                self._read()  # the one before may have ended in peace
                self._start()
            time.sleep(_LOOKS_AGAIN_S)

    def _read(self) -> None:
        """Take in the lines that are whole."""
        *lines, self._begun = (self._begun + self._reader.read()).split("\n")
        for line in lines:
            answer = json.loads(line)
            if "result" in answer:
                result = ScenarioResult(**answer["result"])
                self._results[result.kernel, result.scenario] = result
            elif "error" in answer:
                self._faults[answer["kernel"]] = answer
            elif "note" in answer and self._process is not None:
                print(f"dmsnap: {answer['note']}", file=sys.stderr)
            elif "end" in answer:
                self._end = answer["end"]


def _locked(file: IO[str]) -> bool:
    """Whether this process has the lock of a file, or got it just now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
