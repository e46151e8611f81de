"""Merges at rest, on a machine that is only played."""

from collections.abc import Sequence

import pytest

from harness.kernel.rest import Merges, let_events_come, runnable, total_sectors

SNAPSHOT = "0 128 snapshot 10/128 2"
HALF = "0 128 snapshot-merge 10/128 2"
OVER = "0 128 snapshot-merge 2/128 2"
FAILED = "0 128 snapshot-merge Merge failed"
PAUSES_MAX = 1000


class Machine:
    """Statuses and runnable workers, moment after moment; the last moment lasts."""

    def __init__(self, *moments: tuple[str, int]) -> None:
        self._moments = moments
        self.pauses = 0
        self.looks = 0
        self.merges = Merges(moved=lambda: 0, workers=lambda: self._now()[1], pause=self._pause)

    def _now(self) -> tuple[str, int]:
        return self._moments[min(self.pauses, len(self._moments) - 1)]

    def _pause(self, _: float) -> None:
        self.pauses += 1
        assert self.pauses < PAUSES_MAX, "it never rests"

    def _statuses(self) -> Sequence[str]:
        self.looks += 1
        return [SNAPSHOT, self._now()[0]]

    def rest(self) -> str:
        """The status that is seen at rest."""
        self.merges.rest(self._statuses, lambda: 0)
        return self._now()[0]


def test_without_a_merge_nothing_is_asked() -> None:
    machine = Machine((SNAPSHOT, 5))
    machine.rest()
    assert (machine.looks, machine.pauses) == (0, 0)


@pytest.mark.parametrize("end", [OVER, FAILED, "0 128 snapshot-merge Invalid"])
def test_a_merge_that_is_over_needs_no_pause(end: str) -> None:
    machine = Machine((end, 0))
    machine.merges.may_exist()
    assert (machine.rest(), machine.pauses) == (end, 0)


def test_numbers_that_say_over_wait_for_the_worker() -> None:
    """The commit is counted before the exceptions are forgotten, and there it can fail."""
    machine = Machine((OVER, 1), (OVER, 1), (FAILED, 1), (FAILED, 0))
    machine.merges.may_exist()
    assert (machine.rest(), machine.pauses) == (FAILED, 3)


def test_what_was_over_is_not_waited_for_again() -> None:
    machine = Machine((OVER, 0), (OVER, 7))
    machine.merges.may_exist()
    machine.rest()
    machine.pauses = 1
    assert (machine.rest(), machine.pauses) == (OVER, 1)


def test_a_merge_that_moves_is_not_at_rest() -> None:
    halves = [
        (f"0 128 snapshot-merge {left}/128 2", 0) for left in range(20, 2, -1) for _ in range(4)
    ]
    machine = Machine(*halves, (OVER, 0))
    machine.merges.may_exist()
    assert machine.rest() == OVER


def test_a_slow_worker_is_waited_for() -> None:
    machine = Machine(*[(HALF, 1)] * 100, (OVER, 0))
    machine.merges.may_exist()
    assert machine.rest() == OVER


def test_one_that_stopped_is_at_rest_after_several_looks_and_then_after_one() -> None:
    machine = Machine((HALF, 0))
    machine.merges.may_exist()
    assert (machine.rest(), machine.pauses) == (HALF, 5)
    assert (machine.rest(), machine.pauses) == (HALF, 6)
    machine.merges.may_start()
    assert (machine.rest(), machine.pauses) == (HALF, 11)


@pytest.mark.parametrize("status", [HALF, OVER])
def test_a_machine_that_is_always_busy_does_not_hold_it_for_ever(status: str) -> None:
    machine = Machine((status, 3))
    machine.merges.may_exist()
    assert (machine.rest(), machine.pauses < 300) == (status, True)


def test_a_scenario_that_is_over_is_forgotten() -> None:
    machine = Machine((HALF, 0))
    machine.merges.may_exist()
    machine.merges.forget()
    machine.rest()
    assert machine.looks == 0


def test_what_disks_have_moved_leaves_time_out() -> None:
    line = " 254       {n} dm-{n} 3 0 24 {ms} 5 0 40 {ms} 1 {ms} {ms} 0 0 0 0 0 0\n"
    before, later = (line.format(n=0, ms=ms) + line.format(n=1, ms=ms) for ms in (10, 5000))
    assert total_sectors(before) == total_sectors(later) == 2 * (24 + 40)


def test_tasks_that_could_run() -> None:
    assert runnable("0.20 0.18 0.12 1/80 11206\n") == 1
    assert runnable("9.99 5.00 1.00 12/1024 4194303\n") == 12


@pytest.mark.parametrize(
    ("status", "busy", "pauses"),
    [
        ("0 128 striped 2 253:0 253:1 1 AA", 5, 0),
        (HALF, 5, 0),
        ("", 5, 0),
        ("0 128 striped 2 253:0 253:1 1 AD", 0, 1),
        ("0 128 striped 2 253:0 253:1 1 AD", 3, 4),
        ("0 8 zero \n8 128 striped 2 253:0 253:1 1 DA", 2, 3),
    ],
)
def test_the_event_of_a_stripe_that_failed_is_waited_for(
    status: str, busy: int, pauses: int
) -> None:
    slept: list[float] = []
    let_events_come(
        lambda: [SNAPSHOT, status], workers=lambda: int(len(slept) <= busy), pause=slept.append
    )
    assert len(slept) == pauses
