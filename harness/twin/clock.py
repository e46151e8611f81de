"""The twin's clock: what happens next, in integer time.

Events are ordered by (time, sequence): two events of the same tick run in the order in which they
were asked for, as work items of one single-CPU kernel do.  Work for the current tick goes through
a plain queue, because nearly all of it is; the heap is only used for what lies ahead.  Time never
runs backwards and only moves when nothing is left to do now.

Where the kernel may switch from the process that submits bios to a worker, and the order can be
seen, there is a *choice point* (`Clock.may_preempt`).  `Choices` answers it: with 0, the process
goes on, unless it was given other answers: with 1 workers run until they rest, with more only as
far as the answer, less one, has events and places where a worker may be stopped (`Clock.stops`);
then the process goes on in their midst.  `harness.twin.explore` gives it many.
"""

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Any, Final

from harness.units import Ticks

TICKS_PER_MS: Final = 1000

Work = Callable[..., Any]


class WouldBlockForever(Exception):
    """Nothing is left to do, and what was waited for has not happened."""


class Choices:
    """Answers to the choice points of one run, by their number; 0 where none is given.

    ``points`` counts the choice points that were met; ``rested`` says that at one of them workers
    came to rest before they had run for as long as they were to.
    """

    __slots__ = ("_answers", "points", "rested")

    def __init__(self, answers: Mapping[int, int]) -> None:
        self._answers = answers
        self.points = 0
        self.rested = False

    def choose(self) -> int:
        """The answer to the next choice point."""
        self.points += 1
        return self._answers.get(self.points - 1, 0)

    def pass_points(self, count: int) -> bool:
        """Meet ``count`` points at once; False, and none is met, if the answer to one is 1."""
        met = range(self.points, self.points + count)
        if any(answer and point in met for point, answer in self._answers.items()):
            return False
        self.points += count
        return True


class Clock:
    """Runs events; see the module docstring for their order."""

    __slots__ = ("_ahead", "_choices", "_left", "_running", "_sequence", "_soon", "now")

    def __init__(self, choices: Choices | None = None) -> None:
        self.now = Ticks(0)
        self._choices = choices or Choices({})
        self._running = 0
        self._left: int | None = None
        self._soon: deque[tuple[Work, tuple[Any, ...]]] = deque()
        self._ahead: list[tuple[int, int, Work, tuple[Any, ...]]] = []
        self._sequence = 0

    def soon(self, work: Work, *args: Any) -> None:
        """Run ``work(*args)`` in this tick, after everything already queued for it."""
        self._soon.append((work, args))

    def after(self, ticks: int, work: Work, *args: Any) -> None:
        """Run ``work(*args)`` ``ticks`` later; 0 is the same as `soon`."""
        if not ticks:
            self._soon.append((work, args))
            return
        assert ticks > 0, "time does not run backwards"
        self._sequence += 1
        heappush(self._ahead, (self.now + ticks, self._sequence, work, args))

    def step(self) -> bool:
        """Run one event; False if there is none."""
        if self._soon:
            work, args = self._soon.popleft()
        elif self._ahead:
            time, _, work, args = heappop(self._ahead)
            self.now = Ticks(time)
        else:
            return False
        work(*args)
        return True

    def run_until_idle(self) -> None:
        """Run until nothing is left to do."""
        soon = self._soon
        self._running += 1
        while True:
            while soon:
                work, args = soon.popleft()
                work(*args)
            if not self.step():
                break
        self._running -= 1

    def may_preempt(self) -> None:
        """A process submits one bio of several: the workers may or may not run before the next.

        A kernel that is not preemptible, on one CPU, never lets them; any other may.
        """
        if not self._soon or self._running:
            return
        answer = self._choices.choose()
        if answer == 1:
            self.run_until_idle()
        elif answer:
            self._run_for(answer - 1)

    def _run_for(self, count: int) -> None:
        """Run events of this tick until so many, and places to stop, were met, or none is left."""
        self._running += 1
        self._left = count
        while self._left and self._soon:
            self._left -= 1
            self.step()
        self._choices.rested |= self._left > 0
        self._left = None
        self._running -= 1

    def stops(self) -> bool:
        """Whether the worker that asks is to be stopped here; it goes on in an event of its own."""
        if self._left is None:
            return False
        self._left = max(0, self._left - 1)
        return not self._left

    def pass_points(self, count: int) -> bool:
        """Go past points where workers wait and none may overtake; False if one is to."""
        return self._choices.pass_points(count)

    def idle(self) -> bool:
        """Whether nothing is left to do, now or later, and nothing is being done."""
        return not (self._soon or self._ahead or self._running)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """What a process does when it sleeps: run the world until ``happened()``.

        Raises:
            WouldBlockForever: the world came to rest first.
        """
        while not happened():
            if not self.step():
                raise WouldBlockForever
