"""Plugs: when what a task has gathered is sent, and in which order."""

from collections.abc import Iterable
from functools import partial

import msgspec
import pytest

from harness.compare.diff import Verdict
from harness.guest.events import Outcome
from harness.scenarios.registry import choose
from harness.trace.files import Trace
from harness.trace.observations import Observation
from harness.trace.steps import Parallel
from harness.twin import explore
from harness.twin.clock import Choices, Clock
from harness.twin.plug import PLUGGED_MAX, Plug
from harness.twin.profile import PROFILES, Profile
from harness.verdict.judge import judge
from harness.verdict.result import Result
from harness.wire.journal import Ready


class Task:
    """A task with a plug, and what it has sent."""

    def __init__(self, *, reverses: bool, answers: dict[int, int] | None = None) -> None:
        self.choices = Choices(answers or {})
        self.clock = Clock(self.choices)
        self.plug = Plug(self.clock, reverses=reverses)
        self.sent: list[str] = []

    def gather(self) -> None:
        """What it sends from now on is gathered."""
        self.clock.plug = self.plug

    def begin(self, *requests: str) -> None:
        for request in requests:
            self.plug.add(request[0], partial(self.sent.append, request))


@pytest.mark.parametrize(
    ("reverses", "answers", "sent"),
    [(False, {}, "a1 a2 a3"), (True, {}, "a3 a2 a1"), (True, {0: 1}, "a1 a2 a3")],
)
def test_a_plug_is_a_queue_or_a_stack(reverses: bool, answers: dict[int, int], sent: str) -> None:
    task = Task(reverses=reverses, answers=answers)
    task.begin("a1", "a2", "a3")
    assert task.sent == []
    task.plug.finish()
    assert " ".join(task.sent) == sent
    assert task.choices.points == reverses, "a queue leaves no choice"
    assert not task.plug


def test_requests_for_several_disks_are_sent_in_their_order() -> None:
    task = Task(reverses=True)
    task.begin("a1", "b1", "a2")
    task.plug.finish()
    assert " ".join(task.sent) == "a1 b1 a2"
    assert task.choices.points == 0
    task.begin("a3", "a4")
    task.plug.finish()
    assert " ".join(task.sent[3:]) == "a4 a3", "that was another plug"


@pytest.mark.parametrize("disks", ["a", "ab"])
def test_a_full_plug_is_emptied_before_the_next_request(disks: str) -> None:
    task = Task(reverses=False)
    most = PLUGGED_MAX * len(disks)
    task.begin(*(disks[number % len(disks)] for number in range(most)))
    assert task.sent == []
    task.begin("a")
    assert len(task.sent) == most
    task.plug.finish()
    assert len(task.sent) == most + 1


@pytest.mark.parametrize(("answers", "sent"), [({}, "a1 a2 x"), ({0: 1}, "x a1 a2")])
def test_who_sleeps_sends_in_order_and_perhaps_late(answers: dict[int, int], sent: str) -> None:
    task = Task(reverses=True, answers=answers)
    task.gather()
    task.begin("a1", "a2")
    with task.clock.another_task():
        meanwhile = task.clock.plug
        assert meanwhile is None
        task.sent.append("x")
    assert task.clock.plug is task.plug
    task.clock.run_until_idle()
    assert " ".join(task.sent) == sent


def test_who_is_preempted_keeps_what_was_gathered() -> None:
    task = Task(reverses=False, answers={0: 1})
    with task.clock.plugged(task.plug):
        task.begin("a1")
        task.clock.soon(task.sent.append, "worker")
        task.clock.may_preempt()
        assert task.sent == ["worker"]
    assert task.sent == ["worker", "a1"]
    assert task.clock.plug is None


def test_a_worker_may_run_between_two_requests_that_are_sent() -> None:
    task = Task(reverses=False, answers={0: 1})
    task.begin("a1", "a2")
    task.clock.soon(task.sent.append, "worker")
    task.plug.finish()
    assert task.sent == ["a1", "worker", "a2"]


def test_a_race_with_two_outcomes_has_no_more_answers() -> None:
    choices = Choices({0: 5})
    assert choices.either()
    assert choices.rested


# -- in scenarios --


def trace_of(name: str) -> Trace:
    [scenario] = choose([name])
    return scenario.trace(7)


def judged(trace: Trace, seen: Iterable[Observation], profile: Profile) -> Result:
    ready = Ready(release="fake", version="#1", probe=profile.facts())
    result, _ = judge(
        trace,
        Outcome(
            scenario=trace.header.scenario,
            seed=7,
            attempts=1,
            observations=tuple(seen),
            ready=ready,
        ),
        "fake",
    )
    return result


def sent_in(trace: Trace, seen: Iterable[Observation]) -> list[str]:
    """The requests of the step that begins several."""
    at = next(index for index, step in enumerate(trace.steps) if isinstance(step, Parallel))
    return list(tuple(seen)[at].requests["disk"])


ORDERS = {
    "queue": ["write 0+8 EIO", "write 8+8", "write 16+8"],
    "stack": ["write 16+8 EIO", "write 8+8", "write 0+8"],
}


@pytest.mark.parametrize(
    ("kernel", "permitted"), [("6.12", {"queue"}), ("6.1", {"stack", "queue"}), ("seed", {"queue"})]
)
def test_the_orders_of_a_process_that_begins_several(kernel: str, permitted: set[str]) -> None:
    trace = trace_of("requests_begun_together[3]")
    profile = PROFILES[kernel]
    found = [sent_in(trace, seen) for _, seen in explore.Orders(trace.steps, 7, profile)]
    assert found[0] == ORDERS["stack" if profile.plug_reverses else "queue"]
    assert all(found.count(ORDERS[name]) for name in permitted)
    assert all(order in [ORDERS[name] for name in permitted] for order in found)


def as_if_sent(trace: Trace, requests: list[str], error_of: int) -> list[Observation]:
    """What a kernel shows that sends those requests, of which the first fails."""
    seen = list(explore.run(trace.steps, 7, PROFILES["6.12"]))
    other = list(explore.run(trace.steps, 7, PROFILES["6.1"]))
    at = next(index for index, step in enumerate(trace.steps) if isinstance(step, Parallel))
    base = other if error_of else seen
    text = "\n".join("EIO" if number == error_of else "ok" for number in range(3))
    base[at] = msgspec.structs.replace(base[at], requests={"disk": tuple(requests)}, text=text)
    return base


def test_an_order_that_no_plug_gives_differs() -> None:
    trace = trace_of("requests_begun_together[3]")
    for name, error_of in (("queue", 0), ("stack", 2)):
        seen = as_if_sent(trace, ORDERS[name], error_of)
        assert judged(trace, seen, PROFILES["6.1"]).verdict is Verdict.SAME, name
    mixed = as_if_sent(trace, ["write 16+8 EIO", "write 0+8", "write 8+8"], 2)
    result = judged(trace, mixed, PROFILES["6.1"])
    assert result.verdict is Verdict.DIVERGED
    assert "request to disk 2" in result.divergences[0].what
    # Nor does a queue go backwards.
    backwards = as_if_sent(trace, ORDERS["stack"], 2)
    assert judged(trace, backwards, PROFILES["6.12"]).verdict is Verdict.DIVERGED


def test_copies_of_one_run_of_the_worker_are_sent_in_both_orders() -> None:
    """The second read of two ends the disk: what the first one got is on the COW device."""
    trace = trace_of("link_under_queued_writes[dies]")
    at = next(index for index, step in enumerate(trace.steps) if isinstance(step, Parallel))
    first = {
        seen[at].requests["base"][0] for _, seen in explore.Orders(trace.steps, 7, PROFILES["6.1"])
    }
    assert first == {"read 40+8", "read 16+8 lost"}
