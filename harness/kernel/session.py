"""The pytest session inside a guest: each scenario of the job is an item.

A small plugin; nothing is collected from files.  Items come from the job, in its order, so ``-k``
and the like work on scenario names, and everything that pytest reports is a scenario.  What the
host learns does not depend on pytest's output: every item writes its records into the journal,
each of them on disk before the next thing happens.

An item passes if its scenario was carried out, whatever the kernel answered: the verdict is the
host's.  Two things end the whole session, as no later record could be trusted: a device that
cannot be removed, and a journal that cannot be written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.errors import Unsupported
from harness.trace.backend import Backend, carry_out, fault_of, put_away
from harness.trace.steps import AnyStep
from harness.wire.job import JobScenario
from harness.wire.journal import Begin, End, JournalWriter, Observed, Record, Started


class JournalLost(Exception):
    """The journal cannot be written: nothing more can be reported."""


class Runner:
    """Drives a backend through scenarios and keeps the journal.

    Args:
        backend: carries out steps.
        journal: that of the guest.
        seed: for scenarios without their own.
        after: called with the name of each finished scenario.
    """

    def __init__(
        self,
        backend: Backend,
        journal: JournalWriter,
        seed: int,
        after: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._seed = seed
        self._after = after

    def record(self, *records: Record) -> None:
        """Write records.

        Raises:
            JournalLost: it could not be written.
        """
        try:
            self._journal.write(*records)
        except OSError as fault:
            raise JournalLost(
                f"the journal cannot be written ({fault.strerror}): free space where the results "
                "go, and run again"
            ) from fault

    def run(self, scenario: JobScenario) -> End:
        """Carry out one scenario from `Begin` to `End`."""
        seed = self._seed if scenario.seed is None else scenario.seed
        self.record(Begin(scenario.name, seed))
        fault = ""
        unsupported = False
        # The result of a step and the start of the next one are a single write.
        given: tuple[Record, ...] = ()

        def starts(index: int, _step: AnyStep) -> None:
            self.record(*given, Started(index))

        try:
            for seen in carry_out(self._backend, scenario.steps, seed, starts):
                given = (Observed(seen),)
            if given:
                self.record(*given)
        except JournalLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the next scenario can run
            fault, unsupported = fault_of(error), isinstance(error, Unsupported)
        try:
            left, fault = put_away(self._backend, fault)
        except Exception as error:  # noqa: BLE001 - the guest cannot be trusted any more
            left = (f"unknown: {fault_of(error)}",)
        self._after(scenario.name)
        end = End(scenario.name, left, fault, unsupported)
        self.record(end)
        return end


class ScenarioItem(pytest.Item):
    """A scenario as a test."""

    def __init__(self, *, scenario: JobScenario, runner: Runner, **rest: Any) -> None:
        super().__init__(**rest)
        self._scenario = scenario
        self._runner = runner

    def runtest(self) -> None:
        """Carry out the scenario."""
        end = self._runner.run(self._scenario)
        if end.leftovers:
            self.session.shouldstop = f"devices would not go away: {', '.join(end.leftovers)}"
        if end.unsupported:
            pytest.skip(end.fault)
        if end.fault:
            pytest.fail(end.fault, pytrace=False)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """The location that pytest reports: the scenario, not a file."""
        return self._scenario.name, None, self._scenario.name


class ScenarioPlugin:
    """Gives the session its items."""

    def __init__(self, scenarios: Sequence[JobScenario], runner: Runner) -> None:
        self._scenarios = scenarios
        self._runner = runner
        self.lost: str = ""
        """Why the journal ended, if it did."""

    def pytest_collection(self, session: pytest.Session) -> bool:
        """One item for each scenario."""
        session.items = [
            ScenarioItem.from_parent(
                session, name=scenario.name, scenario=scenario, runner=self._runner
            )
            for scenario in self._scenarios
        ]
        session.config.hook.pytest_collection_modifyitems(
            session=session, config=session.config, items=session.items
        )
        session.config.hook.pytest_collection_finish(session=session)
        session.testscollected = len(session.items)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """A lost journal ends the session."""
        try:
            return (yield)
        except JournalLost as lost:
            self.lost = str(lost)
            item.session.shouldstop = self.lost
            raise


UNUSED = (
    "cacheprovider",
    "stepwise",
    "doctest",
    "junitxml",
    "pastebin",
    "setuponly",
    "setupplan",
    "faulthandler",
    "unraisableexception",
    "threadexception",
    "warnings",
    "legacypath",
    "tmpdir",
    "monkeypatch",
    "recwarn",
    "nose",
    "unittest",
    "pytester_assertions",
    "debugging",
    "logging",
)
"""Pytest plugins that a session of scenarios does not need; each import costs a guest time."""


def run_session(plugin: ScenarioPlugin, arguments: Sequence[str], root: str) -> int:
    """Run pytest over the scenarios; its exit status."""
    # Importing third-party plugins that happen to be installed would cost a guest time.
    fixed = [
        "--disable-plugin-autoload",
        "-c",
        "/dev/null",
        f"--rootdir={root}",
        "--assert=plain",
        "--capture=no",
        "-q",
        "--no-header",
        "--tb=short",
        "--color=no",
    ]
    unused = [word for name in UNUSED for word in ("-p", f"no:{name}")]
    return int(pytest.main([*fixed, *unused, *arguments], plugins=[plugin]))
