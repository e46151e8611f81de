"""Running a trace on the twin: in its first order, or in every one that a kernel may take.

What a kernel does in the background may overtake a process that submits several bios, or not.
The first order is that of a kernel that is not preemptible and has one CPU.  The second is that of
one whose workers overtake wherever they can.  Then come those with one such point, those in which
workers overtake up to a point or from one on, and those with two points, with three and so on, up
to a bound.  Of each kind the last point comes first: the one before the event that everybody sees
is what decides.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from harness.steps import AnyStep, Observation
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

ORDERS_MAX: Final = 600
"""How many orders are tried at most."""
STRETCHES_MAX: Final = 32
"""Of the orders in which workers overtake up to a point, or from one on, at most so many each."""

Run = tuple[Mapping[int, int], tuple[Observation, ...]]
"""The answers that make an order, and what was observed in it."""


def run(steps: Sequence[AnyStep], seed: int, profile: Profile,
        answers: Mapping[int, int] | None = None) -> tuple[Observation, ...]:
    """The observations of one order, the first unless ``answers`` say else.

    Raises:
        BadScenario: a step has no meaning.
        TwinInvariant: the twin contradicts itself.
    """
    return _run(steps, seed, profile, answers or {})[0]


def _run(steps: Sequence[AnyStep], seed: int, profile: Profile, answers: Mapping[int, int]
         ) -> tuple[tuple[Observation, ...], int]:
    backend = TwinBackend(profile, answers)
    backend.begin(seed)
    seen = tuple(backend.execute(index, step) for index, step in enumerate(steps))
    return seen, backend.choices.points


class Orders:
    """The permitted orders of a trace, the first one first, each run as it is asked for.

    A point is only offered where the order before it makes it appear.

    Attributes:
        complete: after the last one: there are no others.
    """

    def __init__(self, steps: Sequence[AnyStep], seed: int, profile: Profile) -> None:
        self._steps = steps
        self._seed = seed
        self._profile = profile
        self._points: dict[frozenset[int], int] = {}  # early points → points that there were
        self.complete = False

    @property
    def tried(self) -> int:
        """Orders run so far."""
        return len(self._points)

    def __iter__(self) -> Iterator[Run]:
        """Run them; at most `ORDERS_MAX`."""
        yield from self._run([()])
        points = self._points[frozenset()]
        yield from self._run([range(points)])
        # Each of the last round, with one more point behind its own.
        last: list[tuple[int, ...]] = [()]
        while last:
            grown = [(*early, point) for early in last for point in reversed(range(
                early[-1] + 1 if early else 0, self._points[frozenset(early)]))]
            yield from self._run(grown)
            if self.tried == ORDERS_MAX:
                return
            if last == [()]:
                yield from self._run(_stretches(points))
            last = grown
        self.complete = True

    def _run(self, wanted: Iterable[Sequence[int]]) -> Iterator[Run]:
        """Run those that are new, with these points early."""
        for early in wanted:
            if self.tried == ORDERS_MAX:
                return
            if frozenset(early) not in self._points:
                answers = dict.fromkeys(early, 1)
                seen, self._points[frozenset(early)] = _run(
                    self._steps, self._seed, self._profile, answers)
                yield answers, seen


def _stretches(points: int) -> Iterator[Sequence[int]]:
    """Workers overtake up to a point, and from one on: they change their mind once."""
    for length in range(points - 1, 1, min(-1, -points // STRETCHES_MAX)):
        yield range(length)
        yield range(points - length, points)


def answers_of(recorded: Sequence[int]) -> dict[int, int]:
    """Answers as a trace's header records them: one for each point, in order."""
    return {point: answer for point, answer in enumerate(recorded) if answer}


def recorded(answers: Mapping[int, int]) -> tuple[int, ...]:
    """The inverse of `answers_of`."""
    last = max(answers, default=-1)
    return tuple(answers.get(point, 0) for point in range(last + 1))
