"""Running a trace on the twin: in its first order, or in every one that a kernel may take.

What a kernel does in the background may or may not overtake a process that submits several bios.
The first order is that of a non-preemptible kernel with one CPU.  The second is that of one whose
workers overtake wherever they can.

A caller that looks for the order of one kernel, and says how far each order agrees with it, is led
there race by race: the outcome in the first differing step, or shortly before it, is changed until
that step matches the kernel; then the next differing step follows.  Where one step holds several
races, the number of its requests that agree leads from one to the next.

Then come the orders with one point at which workers overtake, those in which they do so up to a
point or from one on, those in which a worker is stopped once in the middle of its work, and those
with two points, with three and so on, up to a bound.  In each group the last point comes first: the
one just before a visible event decides.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.errors import KernelCrash, NeverReturns
from harness.trace.backend import carry_out
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

ORDERS_MAX: Final = 900
"""Maximum number of orders tried."""
LED_MAX: Final = 300
"""Maximum number of them before the general plan takes over."""
STRETCHES_MAX: Final = 32
"""Maximum number of orders in which workers overtake up to a point, or from one on, each."""
EVENTS_MAX: Final = 24
"""Maximum number of events that a stopped worker has run for."""

Answers = frozenset[tuple[int, int]]
Tried = tuple[Mapping[int, int], tuple[Observation, ...]]
"""An order that was tried: the answers that make it, and what was observed."""


def run(
    steps: Sequence[AnyStep], seed: int, profile: Profile, answers: Mapping[int, int] | None = None
) -> tuple[Observation, ...]:
    """The observations of one order, the first unless ``answers`` say otherwise.

    Raises:
        BadScenario: a step has no meaning.
        Unsupported: a step needs what the twin does not model.
        NeverReturns: a step waits forever.
        KernelCrash: the kernel dies in a step.
        TwinInvariant: the twin contradicts itself.
    """
    seen, met = _run(steps, seed, profile, answers or {})
    if met.end:
        raise met.end
    return seen


@dataclass(frozen=True, slots=True)
class _Met:
    """The choice points of one order.

    Attributes:
        ends: for each step, how many had been met after it.
        rested: at one of them workers rested before they had run for as long as they were to.
        wide: how many answers a point has, where that is known.
        before: how many requests had been sent when each was met.
        sent: how many had been after each step.
        end: why the last step that was begun has no observation.
        crashes: where the kernel dies in this order, or may.
        defects: known defects that strike in this order, with the step in which each first does.
    """

    ends: tuple[int, ...]
    rested: bool
    wide: Mapping[int, int]
    before: Sequence[int] = ()
    sent: tuple[int, ...] = ()
    end: NeverReturns | KernelCrash | None = None
    crashes: tuple[KernelCrash, ...] = ()
    defects: Mapping[str, int] = field(default_factory=dict)

    @property
    def points(self) -> int:
        return self.ends[-1] if self.ends else 0

    def points_of(self, step: int) -> range:
        return range(self.ends[step - 1] if step else 0, self.ends[step])

    def points_until(self, step: int, requests: int) -> range:
        """Those of a step that were met before it had sent more than ``requests``."""
        points = self.points_of(step)
        most = (self.sent[step - 1] if step else 0) + requests
        return range(points.start, bisect_right(self.before, most, points.start, points.stop))


def _run(
    steps: Sequence[AnyStep], seed: int, profile: Profile, answers: Mapping[int, int]
) -> tuple[tuple[Observation, ...], _Met]:
    backend = TwinBackend(profile, answers)
    seen: list[Observation] = []
    ends: list[int] = []
    sent: list[int] = []
    end: NeverReturns | KernelCrash | None = None
    try:
        for observation in carry_out(backend, steps, seed):
            seen.append(observation)
            ends.append(backend.choices.points)
            sent.append(backend.choices.requests)
    except (NeverReturns, KernelCrash) as fault:
        end = fault
        ends.append(backend.choices.points)
        sent.append(backend.choices.requests)
    choices = backend.choices
    return tuple(seen), _Met(
        tuple(ends),
        choices.rested,
        choices.wide,
        choices.before,
        tuple(sent),
        end,
        tuple(backend.crashes),
        backend.defects,
    )


class Orders:
    """The permitted orders of a trace, starting with the first, each run on demand.

    A point is only offered if the preceding order makes it appear.  An order in which a step
    never returns, or the kernel dies, ends with what was observed before.

    Args:
        steps, seed: of the trace.
        profile: of the twin.
        orders_max: how many are run at most, by default `ORDERS_MAX`.

    Attributes:
        end: why the first order ends before the trace does; None if it does not.
        complete: after the last one: there are no more in which workers run until they rest.
    """

    def __init__(
        self,
        steps: Sequence[AnyStep],
        seed: int,
        profile: Profile,
        orders_max: int | None = None,
    ) -> None:
        self._most = ORDERS_MAX if orders_max is None else orders_max
        self._steps = steps
        self._seed = seed
        self._profile = profile
        self._met: dict[Answers, _Met] = {}
        self._limit = self._most
        self._last = Answers()
        self._differs: dict[Answers, tuple[int, int]] = {}
        self.end: NeverReturns | KernelCrash | None = None
        self.complete = False

    @property
    def tried(self) -> int:
        """Orders run so far."""
        return len(self._met)

    def dies_in(self, step: int) -> KernelCrash | None:
        """The announcement, in the order run last, that the kernel may die in ``step``, if any."""
        return next((crash for crash in self._met[self._last].crashes if crash.covers(step)), None)

    @property
    def defects(self) -> Mapping[str, int]:
        """Known defects that strike in the order that was run last, with their first steps."""
        return self._met[self._last].defects

    @property
    def first_defects(self) -> Mapping[str, int]:
        """The same of the first order."""
        return next(iter(self._met.values())).defects

    def differs_in(self, step: int, agreed: int = 0) -> None:
        """The order run last is not the wanted one: ``step`` is the first that differs.

        The first ``agreed`` of that step's requests are alike.
        """
        self._differs[self._last] = step, agreed

    def __iter__(self) -> Iterator[Tried]:
        """Run them; at most ``orders_max``."""
        yield from self._run([{}])
        self.end = self._met[frozenset()].end
        points = self._met[frozenset()].points
        everywhere = dict.fromkeys(range(points), 1)
        yield from self._run([everywhere])
        self._limit = min(LED_MAX, self._most)
        yield from self._led({})
        yield from self._led(everywhere)
        self._limit = min(2 * LED_MAX, self._most)
        yield from self._led_within({})
        self._limit = self._most
        # Each of the last round, with one more point behind its own.
        last: list[dict[int, int]] = [{}]
        while last:
            grown = [
                {**early, point: 1}
                for early in last
                for point in reversed(
                    range(max(early, default=-1) + 1, self._met[frozenset(early.items())].points)
                )
            ]
            yield from self._run(grown)
            if last == [{}]:
                yield from self._run(_stretches(range(points)))
                yield from self._stops({}, range(points))
            if self.tried >= self._limit:
                return
            last = grown
        self.complete = True

    def _led(self, answers: dict[int, int]) -> Iterator[Tried]:
        """Starting from one order, change the first step that differs, then the next one."""
        while (differs := self._differs.get(frozenset(answers.items()))) is not None:
            step = differs[0]
            for tried in self._changed_before(answers, step):
                yield tried
                if self._differs.get(frozenset(tried[0].items()), (-1, 0))[0] > step:
                    answers = dict(tried[0])
                    break
            else:
                return

    def _led_within(self, answers: dict[int, int]) -> Iterator[Tried]:
        """From one order on, change the point before the request that differs first.

        One step may hold several races: each is taken as it was once its requests are alike, and
        then comes the next.
        """
        while (differs := self._differs.get(frozenset(answers.items()))) is not None:
            met = self._met[frozenset(answers.items())]
            points = met.points_until(min(differs[0], len(met.ends) - 1), differs[1])
            ends = {point: met.wide.get(point, EVENTS_MAX + 1) + 1 for point in points}
            for point, changed in _changes(answers, points, ends):
                key = frozenset(changed.items())
                yield from self._run([changed])
                if changed.get(point, 0) > 1 and key in self._met and self._met[key].rested:
                    ends[point] = changed[point]
                if self._differs.get(key, (-1, 0)) > differs:
                    answers = changed
                    break
                if self.tried >= self._limit:
                    return
            else:
                return

    def _changed_before(self, answers: dict[int, int], step: int) -> Iterator[Tried]:
        """Orders that differ from this one in ``step``, or else in a step before it."""
        met = self._met[frozenset(answers.items())]
        for changed in range(min(step, len(met.ends) - 1), -1, -1):
            points = met.points_of(changed)
            others = [
                {**answers, point: 0 if answers.get(point) else 1} for point in reversed(points)
            ]
            others += [{**answers, **more} for more in _stretches(points)]
            yield from self._run(others)
            yield from self._stops(answers, points)
            if self.tried >= self._limit:
                return

    def _stops(self, answers: dict[int, int], points: range) -> Iterator[Tried]:
        """Orders in which workers run for some events at one point, and not until they rest.

        Few events at an early point are as likely as many at a late one.
        """
        wide = self._met[frozenset(answers.items())].wide
        ends = {point: wide.get(point, EVENTS_MAX + 1) for point in points}
        for together in range(1, len(points) + max(ends.values(), default=0)):
            for events, point in zip(range(together, 0, -1), reversed(points), strict=False):
                if events < ends[point]:
                    stopped = {**answers, point: events + 1}
                    yield from self._run([stopped])
                    met = self._met.get(frozenset(stopped.items()))
                    if met is None or met.rested:
                        ends[point] = events

    def _run(self, wanted: Iterable[dict[int, int]]) -> Iterator[Tried]:
        """Run the new ones, until the limit for this stage is reached."""
        for each in wanted:
            if self.tried >= self._limit:
                return
            answers = {point: answer for point, answer in each.items() if answer}
            key = frozenset(answers.items())
            if key not in self._met:
                seen, self._met[key] = _run(self._steps, self._seed, self._profile, answers)
                self._last = key
                yield answers, seen


def _changes(
    answers: Mapping[int, int], points: range, ends: Mapping[int, int]
) -> Iterator[tuple[int, dict[int, int]]]:
    """A point of ``points`` and another answer to it: the last points, and few events, first.

    ``ends`` holds for each point the answers from which on there is nothing more to be had.
    """
    most = EVENTS_MAX + 1
    for together in range(len(points) + most):
        for answer, point in zip(
            range(min(together, most), -1, -1),
            reversed(points[: len(points) - max(0, together - most)]),
            strict=False,
        ):
            if answer != answers.get(point, 0) and answer < ends[point]:
                changed = {**answers, point: answer}
                yield point, {at: each for at, each in changed.items() if each}


def _stretches(points: range) -> Iterator[dict[int, int]]:
    """Orders in which workers overtake up to a point, or from one on."""
    for length in range(len(points) - 1, 1, min(-1, -len(points) // STRETCHES_MAX)):
        yield dict.fromkeys(points[:length], 1)
        yield dict.fromkeys(points[-length:], 1)


def answers_of(recorded: Sequence[int]) -> dict[int, int]:
    """Answers as a trace's header records them: one for each point, in order."""
    return {point: answer for point, answer in enumerate(recorded) if answer}


def recorded(answers: Mapping[int, int]) -> tuple[int, ...]:
    """The inverse of `answers_of`."""
    last = max(answers, default=-1)
    return tuple(answers.get(point, 0) for point in range(last + 1))
