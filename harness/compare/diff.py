"""The diff: two sides' observations of one trace, layer by layer; a divergence is a value.

Every observation of every step is compared, and every comparison is counted, so that *same* can
never mean "nothing was compared".  Device-mapper state arrives as changes; they are accumulated on
each side, and the accumulated states are compared whenever either side reports a change.

Runs are compared as they are; their encoding is a function of the bytes alone, so equal runs mean
equal bytes.  Where runs differ both are walked in step, and only the first differing sector is
turned into bytes, so a difference in a device of gigabytes costs no memory.

What a byte *is* (chunk, place in the exception store) is in `harness.compare.place`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import takewhile, zip_longest
from typing import Final

from msgspec import Struct, field

from harness.compare.place import SIDES, Geometry, Place, locate
from harness.trace.files import Layer, NotCompared, Trace
from harness.trace.observations import DeviceState, Observation, Runs
from harness.trace.steps import AnyStep, Examine, Parallel, Read, Wait, encode
from harness.trace.steps import Table as TableStep

__all__ = [
    "AGREED",
    "Comparison",
    "Divergence",
    "Layer",
    "LayerLeftOut",
    "Verdict",
    "compare",
    "render",
    "words",
]

_STATE: Final = (
    ("status", Layer.STATUS),
    ("table", Layer.TABLE),
    ("inactive", Layer.TABLE),
    ("suspended", Layer.TABLE),
    ("read_only", Layer.TABLE),
    ("open", Layer.TABLE),
    ("event", Layer.EVENT),
)


class Verdict(StrEnum):
    """The outcome of one scenario on one kernel."""

    SAME = "same"
    HANGS = "hangs on both sides"
    DIES = "dies on both sides"
    DIVERGED = "diverged"
    NONDETERMINISTIC = "nondeterministic"
    LOST = "guest lost"
    UNSUPPORTED = "unsupported"
    BROKEN = "broken scenario"


AGREED: Final = frozenset({Verdict.SAME, Verdict.HANGS, Verdict.DIES})
"""Verdicts where both sides did the same."""


class Divergence(Struct, frozen=True, kw_only=True):
    """One thing that the two sides saw differently.

    Attributes:
        step: index of the step.
        verb: the step in words (``write o``).
        layer: the layer.
        what: field and device (``status of s``), or what is missing.
        left, right: the value of each side, in words; in JSON ``kernel`` and ``twin``.
        place: for contents and images, where the first differing byte is.
    """

    step: int
    verb: str
    layer: Layer
    what: str
    left: str = field(name="kernel")
    right: str = field(name="twin")
    place: Place | None = None


class LayerLeftOut(Struct, frozen=True):
    """A layer that was not compared: why, how many values it had, and how many differed."""

    layer: Layer
    reason: str
    values: int
    differing: int


class Comparison(Struct, frozen=True, kw_only=True):
    """The result of comparing two sides.

    Attributes:
        divergences: everything that differs in the first differing step.
        first: the first divergence of each layer in the whole trace.
        later: how many steps after the first diverging one also differ.
        compared: layer → number of values compared; 0 if neither side had any.
        not_compared: layers left out.
        steps: number of steps in the trace.
    """

    divergences: tuple[Divergence, ...]
    first: dict[Layer, Divergence]
    later: int
    compared: dict[Layer, int]
    not_compared: tuple[LayerLeftOut, ...]
    steps: int

    @property
    def same(self) -> bool:
        """True if nothing compared differs."""
        return not self.divergences


_Compared = tuple[Layer, Divergence | None]
"""One comparison and its result."""
_Plain = Callable[[Layer, str, str | None, str | None], _Compared]


def compare(
    trace: Trace,
    left: Sequence[Observation],
    right: Sequence[Observation],
    *,
    not_compared: Sequence[NotCompared] | None = None,
    sides: tuple[str, str] = SIDES,
) -> Comparison:
    """Compare what two sides saw of ``trace``.

    Args:
        trace: what both executed.
        left: observations of the one side.
        right: observations of the other.
        not_compared: layers to leave out; those of the trace's header when None.
        sides: names of left and right in the text about a place in a store.

    Raises:
        BadTrace: a raw run does not have the length it names.
    """
    left_out = {
        entry.layer: entry.reason
        for entry in (trace.header.not_compared if not_compared is None else not_compared)
    }
    values = dict.fromkeys(Layer, 0)
    differing = dict.fromkeys(Layer, 0)
    first: dict[Layer, Divergence] = {}
    steps: dict[int, list[Divergence]] = {}
    for layer, divergence in _Comparer(trace, sides).run(left, right):
        # A missing observation counts, whatever layers a scenario leaves out.
        missing = divergence is not None and divergence.what in _MISSING
        values[layer] += 1
        if divergence is None:
            continue
        differing[layer] += 1
        if layer in left_out and not missing:
            continue
        first.setdefault(layer, divergence)
        steps.setdefault(divergence.step, []).append(divergence)
    at = min(steps, default=-1)
    return Comparison(
        divergences=tuple(steps.get(at, ())),
        first=first,
        later=max(0, len(steps) - 1),
        compared={layer: count for layer, count in values.items() if layer not in left_out},
        not_compared=tuple(
            LayerLeftOut(layer, reason, values[layer], differing[layer])
            for layer, reason in left_out.items()
        ),
        steps=len(trace.steps),
    )


_MISSING: Final = (
    "an observation of this step",
    "one observation of this step",
    "a step that the trace does not have",
)


class _Comparer:
    """Walks both sides in step; keeps each side's device state so far."""

    def __init__(self, trace: Trace, sides: tuple[str, str]) -> None:
        self.trace = trace
        self.sides = sides
        self.states: tuple[dict[str, DeviceState], dict[str, DeviceState]] = ({}, {})
        self.geometry = Geometry()

    def run(self, left: Sequence[Observation], right: Sequence[Observation]) -> Iterator[_Compared]:
        both = tuple(_by_step(side) for side in (left, right))
        for index, step in enumerate(self.trace.steps):
            lists = [side.pop(index, []) for side in both]
            verb = words(step)
            if any(len(found) != 1 for found in lists):
                what = _MISSING[0 if any(not found for found in lists) else 1]
                yield (
                    Layer.ERROR,
                    Divergence(
                        step=index,
                        verb=verb,
                        layer=Layer.ERROR,
                        what=what,
                        left=_count(lists[0]),
                        right=_count(lists[1]),
                    ),
                )
            if all(lists):
                yield from self.step(index, step, verb, lists[0][0], lists[1][0])
        for index in sorted(both[0].keys() | both[1].keys()):
            yield (
                Layer.ERROR,
                Divergence(
                    step=index,
                    verb="beyond the trace",
                    layer=Layer.ERROR,
                    what=_MISSING[2],
                    left=_count(both[0].get(index, [])),
                    right=_count(both[1].get(index, [])),
                ),
            )

    def step(
        self, index: int, step: AnyStep, verb: str, left: Observation, right: Observation
    ) -> Iterator[_Compared]:
        def plain(layer: Layer, what: str, one: str | None, other: str | None) -> _Compared:
            if one == other:
                return layer, None
            return layer, Divergence(
                step=index, verb=verb, layer=layer, what=what, left=_shown(one), right=_shown(other)
            )

        yield plain(Layer.ERROR, "error", left.error or "success", right.error or "success")
        if left.text is not None or right.text is not None:
            yield plain(_text_layer(step), "the answer", left.text, right.text)
        touched = self.update(left, right)
        for name in touched:
            for part, layer in _STATE:
                yield plain(
                    layer,
                    f"{part} of {name}",
                    *(_part(side.get(name), part) for side in self.states),
                )
        for layer, part, one, other in (
            (Layer.CONTENT, "content", left.content, right.content),
            (Layer.STORE, "image", left.image, right.image),
        ):
            for name in _keys(one, other):
                yield (
                    layer,
                    self.contents(
                        index,
                        step,
                        verb,
                        layer,
                        f"{part} of {name}",
                        name,
                        one.get(name),
                        other.get(name),
                    ),
                )
        yield self.sequence(
            plain,
            Layer.UEVENT,
            "uevent",
            [encode(event).decode() for event in left.uevents],
            [encode(event).decode() for event in right.uevents],
        )
        yield self.sequence(plain, Layer.LOG, "log line", list(left.log), list(right.log))
        for name in _keys(left.requests, right.requests):
            yield self.sequence(
                plain,
                Layer.REQUESTS,
                f"request to {name}",
                list(left.requests.get(name, ())),
                list(right.requests.get(name, ())),
            )

    def update(self, left: Observation, right: Observation) -> list[str]:
        """Apply the changes of one step; returns the names that either side mentions."""
        for side, changes in zip(self.states, (left.state, right.state), strict=True):
            for name, state in changes.items():
                if state is None:
                    side.pop(name, None)
                else:
                    side[name] = state
        touched = _keys(left.state, right.state)
        for name in touched:
            state = self.states[0].get(name) or self.states[1].get(name)
            self.geometry.table(name, state.table if state else None)
        return touched

    @staticmethod
    def sequence(
        plain: _Plain, layer: Layer, what: str, left: list[str], right: list[str]
    ) -> _Compared:
        """The first entry in which two sequences differ."""
        for number, (one, other) in enumerate(zip_longest(left, right), 1):
            if one != other:
                sizes = f"{what} {number} (of {len(left)} and {len(right)})"
                return plain(layer, sizes, one, other)
        return layer, None

    def contents(
        self,
        index: int,
        step: AnyStep,
        verb: str,
        layer: Layer,
        what: str,
        name: str,
        left: Runs | None,
        right: Runs | None,
    ) -> Divergence | None:
        if left == right:
            return None
        if left is None or right is None:
            return Divergence(
                step=index,
                verb=verb,
                layer=layer,
                what=what,
                left="nothing was read" if left is None else "was read",
                right="nothing was read" if right is None else "was read",
            )
        start = step.sector if isinstance(step, Read) else 0
        place = locate(
            self.trace.header.seed,
            self.geometry,
            name,
            left,
            right,
            start=start,
            both_ends=isinstance(step, Examine) and layer is Layer.CONTENT,
            store=layer is Layer.STORE,
            sides=self.sides,
        )
        if place is None:  # different runs with the same bytes: a file not written by dmsnap
            return None
        return Divergence(
            step=index,
            verb=verb,
            layer=layer,
            what=what,
            left=place.left,
            right=place.right,
            place=place,
        )


def words(step: AnyStep) -> str:
    """A step in words: its verb and its device (``write o``)."""
    name = getattr(step, "device", None) or getattr(step, "name", None)
    verb = type(step).__name__.lower()
    return f"{verb} {name}" if name else verb


def render(divergence: Divergence, sides: tuple[str, str] = SIDES) -> str:
    """A divergence as a few lines of text, at most 80 columns where names allow it.

    ``sides`` are the names of left and right.
    """
    width = max(map(len, sides))
    head = f"step {divergence.step} ({divergence.verb}), {divergence.layer}: {divergence.what}"
    place = divergence.place
    lines = [f"{head} differs" if not place else f"{head} differs at byte {place.byte}"]
    if place:
        lines += [f"  {line}" for line in place.describe()]
    for name, value in zip(sides, (divergence.left, divergence.right), strict=True):
        first, *more = value.split("\n")
        lines.append(f"  {name:<{width}}  {first}")
        lines += [" " * (width + 4) + line for line in more]
    if place and place.hex_at >= 0:
        lines.append(f"  bytes from {place.hex_at}:")
        lines += [
            f"  {name:<{width}}  {dump}"
            for name, dump in zip(sides, (place.left_hex, place.right_hex), strict=True)
        ]
    return "\n".join(lines)


def _by_step(side: Iterable[Observation]) -> dict[int, list[Observation]]:
    found: dict[int, list[Observation]] = {}
    for observation in side:
        found.setdefault(observation.step, []).append(observation)
    return found


def _count(found: Sequence[Observation]) -> str:
    return (
        ("no observation", "one observation")[len(found)]
        if len(found) < 2
        else f"{len(found)} observations"
    )


def _keys(left: Iterable[str], right: Iterable[str]) -> list[str]:
    return sorted({*left, *right})


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value or "an empty text"


def _part(state: DeviceState | None, part: str) -> str | None:
    if state is None:
        return "no such device"
    value = getattr(state, part)
    return value if value is None or isinstance(value, str) else str(value)


def _text_layer(step: AnyStep) -> Layer:
    if isinstance(step, TableStep):
        return Layer.TABLE
    if isinstance(step, Parallel):
        return Layer.ERROR
    return Layer.EVENT if isinstance(step, Wait) else Layer.STATUS


def requests_alike(kernel: Observation, twin: Observation) -> int:
    """How many requests of a step are alike, on each disk before one differs."""
    return sum(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lines, others, strict=False)))
        for lines, others in (
            (kernel.requests.get(name, ()), twin.requests.get(name, ()))
            for name in _keys(kernel.requests, twin.requests)
        )
    )
