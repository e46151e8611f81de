"""The pytest plugin: each scenario is a test item, wherever pytest runs.

A test that takes the fixture ``dmsnap_result`` is run once for each scenario and kernel, with the
`harness.verdict.result.Result` of the two.  On a host, the first such test starts the guests, which
then run all that was selected; each item waits for its own result.  Inside a guest, or with
``--guest here`` in a machine marked as disposable, each item runs its scenario in this very kernel.
"""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness.errors import CannotBoot, DmsnapError

if TYPE_CHECKING:
    from harness.trace.files import Trace
    from harness.verdict.result import Result

FIXTURE: Final = "dmsnap_result"
_PARAMETERS: Final = "dmsnap_case"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command, as far as they make sense here."""
    group = parser.getgroup("dmsnap", "dm-snapshot: a real kernel against the twin")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME|PATH",
        help="kernel to run scenarios on (see `dmsnap kernels`); may be repeated",
    )
    group.addoption(
        "--modules",
        default=None,
        metavar="DIR",
        help="modules of a kernel that is given as a path, or of this one",
    )
    group.addoption(
        "--guest",
        choices=("uml", "qemu", "here"),
        default=None,
        help="where the kernel lives: guests (default: what it is made for), or this machine",
    )
    group.addoption(
        "--dmsnap-jobs",
        type=int,
        default=None,
        metavar="N",
        help="guests at the same time (default: two for each core, one in QEMU)",
    )
    group.addoption(
        "--scenario",
        action="append",
        default=[],
        metavar="PATTERN",
        help="scenarios to run (default: all); may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Scenarios are known by a marker, for ``-m``."""
    config.addinivalue_line("markers", "scenario: a scenario in a real kernel and in the twin")


def _is_here(config: pytest.Config) -> bool:
    from harness.kernel import machine

    guest = config.getoption("--guest")
    return guest == "here" or (guest is None and machine.is_guest())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for each kernel and scenario."""
    if FIXTURE not in metafunc.fixturenames:
        return
    from harness.guest import catalogue
    from harness.scenarios.registry import choose

    config = metafunc.config
    kernels = (
        ["here"]
        if _is_here(config)
        else (list(dict.fromkeys(config.getoption("--kernel"))) or [catalogue.default()])
    )
    try:
        names = [scenario.name for scenario in choose(config.getoption("--scenario"))]
    except DmsnapError as fault:
        raise pytest.UsageError(str(fault)) from None
    cases = [
        pytest.param((kernel, name), id=f"{kernel}-{name}", marks=pytest.mark.scenario)
        for kernel in kernels
        for name in names
    ]
    metafunc.parametrize(_PARAMETERS, cases, scope="session")


@pytest.fixture(scope="session")
def _dmsnap_results(request: pytest.FixtureRequest) -> Iterator["_Guests | _Here"]:
    selected = [case for item in request.session.items if (case := _case_of(item)) is not None]
    with ExitStack() as stack:
        if _is_here(request.config):
            yield stack.enter_context(_Here(request.config))
        else:
            yield stack.enter_context(_Guests(request.config, selected))


def _case_of(item: pytest.Item) -> tuple[str, str] | None:
    call = getattr(item, "callspec", None)
    return call.params.get(_PARAMETERS) if call is not None else None


@pytest.fixture
def dmsnap_result(
    dmsnap_case: tuple[str, str], _dmsnap_results: "_Guests | _Here", request: pytest.FixtureRequest
) -> "Result":
    """The result of one scenario on one kernel (`harness.verdict.result.Result`)."""
    from harness.report.gate import printable

    try:
        result = _dmsnap_results.get(*dmsnap_case)
    except CannotBoot as fault:
        pytest.skip(printable(str(fault)))
    except DmsnapError as fault:
        pytest.fail(printable(str(fault)), pytrace=False)
    # Not record_property: beside --junit-xml it warns, and a warning may be an error.
    request.node.user_properties += [
        ("kernel release", printable(result.release)),
        ("seed", result.seed),
    ]
    return result


def check(result: "Result") -> None:
    """Fail, in the words of the report, unless both sides agree; skip what is *unsupported*."""
    from harness.compare.diff import AGREED, Verdict
    from harness.report.gate import printable
    from harness.report.words import details

    if result.verdict in AGREED:
        return
    said = printable(
        f"{result.scenario} on {result.kernel} ({result.release}): {result.verdict}\n"
        f"{details(result)}"
    )
    if result.verdict is Verdict.UNSUPPORTED:
        pytest.skip(said)
    pytest.fail(said, pytrace=False)


class _Here:
    """Runs scenarios in this kernel, one at a time."""

    def __init__(self, config: pytest.Config) -> None:
        modules = config.getoption("--modules") or os.environ.get("DMSNAP_MODULES")
        self._modules = Path(modules) if modules else None
        self._stack = ExitStack()

    def __enter__(self) -> "_Here":
        from harness.campaign.here import kernel_side

        self._backend, self._ready = self._stack.enter_context(kernel_side(modules=self._modules))
        return self

    def __exit__(self, *_rest: object) -> None:
        self._stack.close()

    def get(self, kernel: str, name: str) -> "Result":
        """Run one scenario."""
        from harness.campaign.here import run_one
        from harness.scenarios.registry import choose

        del kernel
        return run_one(self._backend, self._ready, choose([name])[0].trace())


class _Guests:
    """Runs all selected scenarios in guests, in a thread; items wait for their results."""

    def __init__(self, config: pytest.Config, selected: Sequence[tuple[str, str]]) -> None:
        self._config = config
        self._selected = list(dict.fromkeys(selected))
        self._results: dict[tuple[str, str], Result] = {}
        self._news = threading.Condition()
        self._faults: dict[str, BaseException] = {}
        self._over = False

    def __enter__(self) -> "_Guests":
        # A daemon: an interrupted session does not wait for it, and guests die with their parent.
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_rest: object) -> None:
        """Results that nobody waits for any more are left alone."""

    def _run(self) -> None:
        from harness.scenarios.registry import catalogue

        try:
            scenarios = catalogue()
            kernels = list(dict.fromkeys(kernel for kernel, _ in self._selected))
            # All are looked at before any of them is fetched.
            for kernel in [kernel for kernel in kernels if self._is_there(kernel)]:
                self._run_on(
                    kernel,
                    [
                        scenarios[scenario].trace()
                        for where, scenario in self._selected
                        if where == kernel
                    ],
                )
        finally:
            with self._news:
                self._over = True
                self._news.notify_all()

    @property
    def _modules(self) -> Path | None:
        modules = self._config.getoption("--modules")
        return Path(modules) if modules else None

    def _is_there(self, name: str) -> bool:
        """Whether a kernel can be had, as far as that is known without fetching it."""
        from harness.guest.choice import named_kernels

        try:
            named_kernels([name], self._modules, self._config.getoption("--guest"), progress=_note)
        except DmsnapError as fault:
            self._has_fault(name, fault)
            return False
        return True

    def _run_on(self, name: str, traces: Sequence["Trace"]) -> None:
        """All that was selected on one kernel; what keeps it from that is told who waits for it."""
        from harness.campaign.plan import Plan
        from harness.campaign.run import execute
        from harness.guest.choice import chosen_kernels
        from harness.guest.recording import GUESTS_DIRECTORY

        try:
            kernels = chosen_kernels(
                [name], self._modules, self._config.getoption("--guest"), progress=_note
            )
            execute(
                Plan(
                    traces=tuple(traces),
                    kernels=kernels,
                    jobs=self._config.getoption("--dmsnap-jobs"),
                    directory=Path("report") / GUESTS_DIRECTORY,
                ),
                _Follower(self, name),
            )
        except BaseException as fault:  # noqa: BLE001 - told to the items that wait
            self._has_fault(name, fault)

    def _has_fault(self, name: str, fault: BaseException) -> None:
        with self._news:
            self._faults[name] = fault
            self._news.notify_all()

    def put(self, kernel: str, result: "Result") -> None:
        """A result is there."""
        with self._news:
            self._results[kernel, result.scenario] = result
            self._news.notify_all()

    def get(self, kernel: str, name: str) -> "Result":
        """Wait for a result.

        Raises:
            CannotBoot: the kernel does not boot on this machine.
            ProvisioningError: there will be none.
        """
        from harness.errors import ProvisioningError

        with self._news:
            self._news.wait_for(
                lambda: self._over or kernel in self._faults or (kernel, name) in self._results
            )
        result = self._results.get((kernel, name))
        if result is None:
            fault = self._faults.get(kernel)
            if isinstance(fault, CannotBoot):
                raise fault
            raise ProvisioningError(f"no result: {fault}")
        return result


def _note(line: str) -> None:
    from harness.report.gate import printable

    print(printable(f"dmsnap: {line}"), file=sys.stderr)


class _Follower:
    """A reporter that hands results on."""

    def __init__(self, guests: _Guests, kernel: str) -> None:
        self._guests = guests
        self._kernel = kernel

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Nothing to do."""

    def progress(self, guest: str, doing: str) -> None:
        """Nothing to do."""

    def result(self, result: "Result") -> None:
        """To whoever waits."""
        self._guests.put(self._kernel, result)

    def end(self, report: object) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
