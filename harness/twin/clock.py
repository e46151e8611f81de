"""The twin's clock: what happens next, in integer time.

Events are ordered by (time, sequence): two events of the same tick run in the order in which they
were queued, like work items of a single-CPU kernel.  Work for the current tick, which is nearly all
of it, goes through a plain queue; the heap is only used for what lies ahead.  Time never runs
backwards and only moves when nothing is left to do now.

Where the kernel may switch from the process that submits bios to a worker, and the order is
visible, there is a *choice point* (`Clock.may_preempt`).  `Choices` answers it.  With 0, the
default, the process goes on.  With 1, workers run until they rest.  With a larger answer they run
for that many, less one, events and places where a worker may be stopped (`Clock.stops`); then the
process goes on while they are unfinished.  `harness.twin.explore` tries many answers.

A task that submits several requests may gather them in a *plug* (`harness.twin.plug`); the clock
holds the plug of the running task.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from harness.units import Ticks

TICKS_PER_MS: Final = 1000

Work = Callable[..., Any]


class WouldBlockForever(Exception):
    """Nothing is left to do, and the awaited event has not happened."""


class Choices:
    """Answers to the choice points of one run, by their number; 0 where none is given.

    ``points`` counts the choice points that were met; ``rested`` says that at one of them workers
    came to rest before they had run as far as the answer said.  ``wide`` says how many answers
    besides 0 a point has, where they are a choice of another kind (`up_to`).  ``requests`` counts
    what was sent to disks that count; ``before`` says for each point how many there were by then.
    """

    __slots__ = ("_answers", "before", "points", "requests", "rested", "wide")

    def __init__(self, answers: Mapping[int, int]) -> None:
        self._answers = answers
        self.points = 0
        self.rested = False
        self.wide: dict[int, int] = {}
        self.requests = 0
        self.before: list[int] = []

    def choose(self) -> int:
        """The answer to the next choice point."""
        self.points += 1
        self.before.append(self.requests)
        return self._answers.get(self.points - 1, 0)

    def either(self) -> bool:
        """The answer to the next choice point, one with two outcomes: whether it is the second."""
        answer = self.choose()
        self.rested |= answer > 1  # it has no further outcome
        return answer > 0

    def up_to(self, most: int) -> int:
        """The answer to the next choice point, one with ``most`` outcomes besides the first."""
        self.wide[self.points] = most
        answer = self.choose()
        self.rested |= answer > most
        return min(answer, most)

    def pass_points(self, count: int) -> bool:
        """Meet ``count`` points at once; if the answer to one is 1, False, and none is met."""
        met = range(self.points, self.points + count)
        if any(answer and point in met for point, answer in self._answers.items()):
            return False
        self.points += count
        self.before += [self.requests] * count
        return True


class Gathers(Protocol):
    """In what a task gathers requests (`harness.twin.plug.Plug`)."""

    def add(self, disk: str, send: Callable[[], None]) -> None:
        """Gather a request for a disk."""

    def sleep(self) -> None:
        """The task goes to sleep."""

    def finish(self) -> None:
        """Send what is there."""


class Clock:
    """Runs events; see the module docstring for their order.

    Attributes:
        now: the time.
        plug: in what the running task gathers its requests, if it does (``current->plug``).
    """

    __slots__ = ("_ahead", "_choices", "_left", "_running", "_sequence", "_soon", "now", "plug")

    def __init__(self, choices: Choices | None = None) -> None:
        self.now = Ticks(0)
        self.plug: Gathers | None = None
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

        A non-preemptible kernel on one CPU never lets them; any other may.
        """
        if not self._soon or self._running:
            return
        answer = self._choices.choose()
        if not answer:
            return
        # A preempted task keeps its plug; only one that sleeps sends what is in it.
        plug, self.plug = self.plug, None
        if answer == 1:
            self.run_until_idle()
        else:
            self._run_for(answer - 1)
        self.plug = plug

    def either(self) -> bool:
        """A race with two outcomes: whether it takes the second (`Choices.either`)."""
        return self._choices.either()

    def up_to(self, most: int) -> int:
        """A race with ``most`` outcomes besides the first: which one it takes (`Choices.up_to`)."""
        return self._choices.up_to(most)

    @contextmanager
    def plugged(self, plug: Gathers) -> Iterator[None]:
        """The running task gathers requests inside, and sends them at the end.

        If it already has a plug, it keeps using that one (kernel: ``blk_start_plug``).
        """
        if self.plug is not None:
            yield
            return
        self.plug = plug
        yield
        self.plug = None
        plug.finish()

    @contextmanager
    def another_task(self) -> Iterator[None]:
        """What is started inside is done by another task, while the running one sleeps."""
        plug, self.plug = self.plug, None
        if plug is not None:
            plug.sleep()
        yield
        self.plug = plug

    def _run_for(self, count: int) -> None:
        """Run this tick's events until so many events and stops were met, or none is left."""
        self._running += 1
        self._left = count
        while self._left and self._soon:
            self._left -= 1
            self.step()
        self._choices.rested |= self._left > 0
        self._left = None
        self._running -= 1

    def stops(self) -> bool:
        """Whether the calling worker is to be stopped here; it continues in a separate event."""
        if self._left is None:
            return False
        self._left = max(0, self._left - 1)
        return not self._left

    def pass_points(self, count: int) -> bool:
        """Pass points where workers wait and none overtakes; False if one is to overtake."""
        return self._choices.pass_points(count)

    def requested(self) -> None:
        """A disk that counts was sent a request (`Choices.requests`)."""
        self._choices.requests += 1

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
