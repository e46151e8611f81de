"""Running in this machine: the twin takes the place of its kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.campaign import here
from harness.compare.diff import Verdict
from harness.errors import ProvisioningError
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose
from harness.trace.backend import Backend
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile
from harness.verdict.result import RunReport
from harness.wire.journal import Ready


class Spoiling:
    """A kernel that does as the twin does, and keeps a device of its second scenario."""

    def __init__(self) -> None:
        self._twin: Backend = TwinBackend(Profile())
        self._number = 0
        self.spoilt = False

    def begin(self, seed: int) -> None:
        self._number += 1
        self._twin.begin(seed)

    def __getattr__(self, name: str) -> object:
        return getattr(self._twin, name)

    def end(self) -> list[str]:
        self._twin.end()
        self.spoilt = self._number == 2
        return ["snap"] if self.spoilt else []


class Listener(Reporters):
    """Keeps the report."""

    report: RunReport | None = None

    def end(self, report: RunReport) -> None:
        self.report = report


def test_what_would_hang_this_machine_is_not_run() -> None:
    ready = Ready("6.12.0", "#1", "x86_64", targets={}, probe=Profile().facts())
    [hangs] = choose(["write_while_a_store_is_suspended"])
    kernel = Spoiling()
    result = here.run_one(kernel, ready, hangs.trace())  # type: ignore[arg-type]
    assert result.verdict is Verdict.UNSUPPORTED
    assert result.reason == (
        "step 15 (write org), line 17: it waits for I/O on cow, which is suspended (write 16+8): "
        "this machine would hang"
    )
    kernel.begin(0)
    assert not kernel.spoilt, "it was never begun"


def test_after_one_that_stays_no_other_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def kernel_side(**_: object) -> Iterator[tuple[Spoiling, Ready]]:
        yield Spoiling(), Ready("6.12.0", "#1", "x86_64", targets={}, probe=Profile().facts())

    monkeypatch.setattr(here, "kernel_side", kernel_side)
    traces = [scenario.trace() for scenario in choose(["bring_up"])]
    assert len(traces) == 3
    listener = Listener([])
    with pytest.raises(ProvisioningError, match=r"could not be removed.* reboot this machine"):
        here.execute_here(traces, listener, modules=None, driver="ioctl")
    assert listener.report is not None
    assert [result.verdict for result in listener.report.results] == [
        Verdict.SAME,
        Verdict.DIVERGED,
    ]
    assert listener.report.results[1].reason == "devices could not be removed: snap"
    assert listener.report.environment.guests == {"here": "here"}


@pytest.mark.parametrize("finished", [0, 1])
def test_an_interrupt_reports_what_had_finished(
    finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def kernel_side(**_: object) -> Iterator[tuple[Spoiling, Ready]]:
        yield Spoiling(), Ready("6.12.0", "#1", "x86_64", targets={}, probe=Profile().facts())

    original, asked = here.run_one, []

    def run_one(*arguments: object) -> object:
        asked.append(arguments)
        if len(asked) > finished:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(here, "kernel_side", kernel_side)
    monkeypatch.setattr(here, "run_one", run_one)
    listener = Listener([])
    with pytest.raises(KeyboardInterrupt):
        here.execute_here(
            [scenario.trace() for scenario in choose(["bring_up"])],
            listener,
            modules=None,
            driver="ioctl",
        )
    if finished:
        assert listener.report is not None
        assert len(listener.report.results) == finished
    else:
        assert listener.report is None, "the last report stays"
