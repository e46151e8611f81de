"""Running a trace on the twin: in its first order, or in every one that a kernel may take.

What a kernel does in the background may overtake a process that submits several bios, or not.
The first order is that of a kernel that is not preemptible and has one CPU.  The others differ
from it by the points at which the workers ran early; they are tried with one such point, then with
two, up to a bound, since the last one before the event that everybody sees is what decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from harness.steps import AnyStep, Observation
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

ORDERS_MAX: Final = 600
"""How many orders are tried at most."""
PREEMPTIONS_MAX: Final = 2

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
         ) -> tuple[tuple[Observation, ...], list[int]]:
    backend = TwinBackend(profile, answers)
    backend.begin(seed)
    seen = tuple(backend.execute(index, step) for index, step in enumerate(steps))
    return seen, backend.choices.options


def orders(steps: Sequence[AnyStep], seed: int, profile: Profile) -> Iterator[Run]:
    """The permitted orders, the first one first; at most `ORDERS_MAX`.

    A point is only offered where the order before it makes it appear, so no two orders have the
    same answers.
    """
    seen, options = _run(steps, seed, profile, {})
    yield {}, seen
    left = ORDERS_MAX - 1
    frontier: list[tuple[dict[int, int], list[int]]] = [({}, options)]
    for _ in range(PREEMPTIONS_MAX):
        grown: list[tuple[dict[int, int], list[int]]] = []
        for answers, met in frontier:
            first = max(answers, default=-1) + 1
            # From the end: what ran early just before the scenario's end leaves the most behind.
            for point in range(len(met) - 1, first - 1, -1):
                for answer in range(1, met[point]):
                    if not left:
                        return
                    left -= 1
                    wanted = {**answers, point: answer}
                    seen, options = _run(steps, seed, profile, wanted)
                    yield wanted, seen
                    grown.append((wanted, options))
        frontier = grown


def answers_of(recorded: Sequence[int]) -> dict[int, int]:
    """Answers as a trace's header records them: one for each point, in order."""
    return {point: answer for point, answer in enumerate(recorded) if answer}


def recorded(answers: Mapping[int, int]) -> tuple[int, ...]:
    """The inverse of `answers_of`."""
    last = max(answers, default=-1)
    return tuple(answers.get(point, 0) for point in range(last + 1))
