"""Running a trace on the twin: in its first order, or in every one that a kernel may take.

What a kernel does in the background may overtake a process that submits several bios, or not.
The first order is that of a kernel that is not preemptible and has one CPU.  The second is that of
one whose workers overtake wherever they can.  Then come those with one such point, then with two,
up to a bound, since the last one before the event that everybody sees is what decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from harness.steps import AnyStep, Observation
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

ORDERS_MAX: Final = 600
"""How many orders are tried at most."""
PREEMPTIONS_MAX: Final = 2
"""Early points in one order, at most."""

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

    A point is only offered where the order before it makes it appear, so no two orders have the
    same answers.

    Attributes:
        tried: orders run so far.
        complete: after the last one: there are no others.
    """

    def __init__(self, steps: Sequence[AnyStep], seed: int, profile: Profile) -> None:
        self._steps = steps
        self._seed = seed
        self._profile = profile
        self.tried = 0
        self.complete = False

    def _run(self, answers: Mapping[int, int]) -> tuple[tuple[Observation, ...], int]:
        self.tried += 1
        return _run(self._steps, self._seed, self._profile, answers)

    def __iter__(self) -> Iterator[Run]:
        """Run them; at most `ORDERS_MAX`, with at most `PREEMPTIONS_MAX` early points each."""
        seen, points = self._run({})
        yield {}, seen
        if points > PREEMPTIONS_MAX:
            always = dict.fromkeys(range(points), 1)
            yield always, self._run(always)[0]
        frontier: list[tuple[dict[int, int], int]] = [({}, points)]
        for _ in range(PREEMPTIONS_MAX):
            grown: list[tuple[dict[int, int], int]] = []
            for answers, met in frontier:
                # From the end: what ran early just before the end leaves the most behind.
                for point in range(met - 1, max(answers, default=-1), -1):
                    if self.tried == ORDERS_MAX:
                        return
                    wanted = {**answers, point: 1}
                    seen, points = self._run(wanted)
                    yield wanted, seen
                    grown.append((wanted, points))
            frontier = grown
        self.complete = all(max(answers) == met - 1 for answers, met in frontier)


def answers_of(recorded: Sequence[int]) -> dict[int, int]:
    """Answers as a trace's header records them: one for each point, in order."""
    return {point: answer for point, answer in enumerate(recorded) if answer}


def recorded(answers: Mapping[int, int]) -> tuple[int, ...]:
    """The inverse of `answers_of`."""
    last = max(answers, default=-1)
    return tuple(answers.get(point, 0) for point in range(last + 1))
