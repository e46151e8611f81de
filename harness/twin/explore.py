"""Running a trace on the twin: in its first order, or in every one that a kernel may take.

What a kernel does in the background may overtake a process that submits several bios, or not.
The first order is that of a kernel that is not preemptible and has one CPU.  The second is that of
one whose workers overtake wherever they can.  Then come those with one such point, those in which
workers overtake up to a point or from one on, those in which a worker is stopped in the midst of
its work once, and those with two points, with three and so on, up to a bound.  Of each kind the
last point comes first: the one before the event that everybody sees is what decides.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from harness.steps import AnyStep, Observation
from harness.twin.backend import TwinBackend
from harness.twin.clock import Choices
from harness.twin.profile import Profile

ORDERS_MAX: Final = 600
"""How many orders are tried at most."""
STRETCHES_MAX: Final = 32
"""Of the orders in which workers overtake up to a point, or from one on, at most so many each."""
EVENTS_MAX: Final = 24
"""A worker that is stopped in its midst has run for so many events at most."""

Answers = frozenset[tuple[int, int]]
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
         ) -> tuple[tuple[Observation, ...], Choices]:
    backend = TwinBackend(profile, answers)
    backend.begin(seed)
    seen = tuple(backend.execute(index, step) for index, step in enumerate(steps))
    return seen, backend.choices


class Orders:
    """The permitted orders of a trace, the first one first, each run as it is asked for.

    A point is only offered where the order before it makes it appear.

    Attributes:
        complete: after the last one: there are no others in which workers run until they rest.
    """

    def __init__(self, steps: Sequence[AnyStep], seed: int, profile: Profile) -> None:
        self._steps = steps
        self._seed = seed
        self._profile = profile
        self._met: dict[Answers, Choices] = {}
        self.complete = False

    @property
    def tried(self) -> int:
        """Orders run so far."""
        return len(self._met)

    def __iter__(self) -> Iterator[Run]:
        """Run them; at most `ORDERS_MAX`."""
        yield from self._run([{}])
        points = self._met[frozenset()].points
        yield from self._run([dict.fromkeys(range(points), 1)])
        # Each of the last round, with one more point behind its own.
        last: list[dict[int, int]] = [{}]
        while last:
            grown = [{**early, point: 1} for early in last for point in reversed(range(
                max(early, default=-1) + 1, self._met[frozenset(early.items())].points))]
            yield from self._run(grown)
            if last == [{}]:
                yield from self._run(_stretches(points))
                yield from self._stop_in_the_midst(points)
            if self.tried == ORDERS_MAX:
                return
            last = grown
        self.complete = True

    def _stop_in_the_midst(self, points: int) -> Iterator[Run]:
        """Workers run for some events at one point, and not until they rest."""
        for point in reversed(range(points)):
            for events in range(1, EVENTS_MAX + 1):
                answers = {point: events + 1}
                yield from self._run([answers])
                met = self._met.get(frozenset(answers.items()))
                if met is None or met.rested:
                    break

    def _run(self, wanted: Iterable[dict[int, int]]) -> Iterator[Run]:
        """Run those that are new."""
        for answers in wanted:
            if self.tried == ORDERS_MAX:
                return
            key = frozenset(answers.items())
            if key not in self._met:
                seen, self._met[key] = _run(self._steps, self._seed, self._profile, answers)
                yield answers, seen


def _stretches(points: int) -> Iterator[dict[int, int]]:
    """Workers overtake up to a point, and from one on: they change their mind once."""
    for length in range(points - 1, 1, min(-1, -points // STRETCHES_MAX)):
        yield dict.fromkeys(range(length), 1)
        yield dict.fromkeys(range(points - length, points), 1)


def answers_of(recorded: Sequence[int]) -> dict[int, int]:
    """Answers as a trace's header records them: one for each point, in order."""
    return {point: answer for point, answer in enumerate(recorded) if answer}


def recorded(answers: Mapping[int, int]) -> tuple[int, ...]:
    """The inverse of `answers_of`."""
    last = max(answers, default=-1)
    return tuple(answers.get(point, 0) for point in range(last + 1))
