"""Every order of a small scenario: what may never happen does not happen in any of them.

The twin answers its choice points in every way that there is (`harness.twin.clock.Choices`), step
by step.  After a step the world is at rest; worlds that are equal then are one *state*, and only
one of them goes on, so that the number of orders does not multiply from step to step.  Whether two
worlds are equal, `digest` says from everything that is in them.

In each state these are checked (`Broken.rule`):

- no write that was acknowledged is lost, and no snapshot's content changes: what the promise model
  says of everything that can be read then (`harness.promises`);
- no chunk of a store is used twice, and none that holds metadata;
- exceptions are committed in the order of their allocation;
- every bio that was queued ends, and every step returns, unless it does not in the first order;
- the twin does not contradict itself, and the kernel dies in no order but one in which it always
  does.

The search goes by steps, and within a step by how many points are answered otherwise: the first
order that is bad is the shortest.
"""

import functools
import hashlib
import itertools
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from harness.errors import (
    BadTrace,
    DmsnapError,
    KernelCrash,
    MalformedStore,
    NeverReturns,
    TwinInvariant,
)
from harness.promises import check as promise
from harness.promises import witness
from harness.store.check import check as check_store
from harness.store.layout import SNAP_MAGIC
from harness.store.parse import parse
from harness.trace import pattern
from harness.trace.backend import carry_out
from harness.trace.files import Trace
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep, Examine, Poke, Write
from harness.twin.backend import TwinBackend
from harness.twin.clock import Choices
from harness.twin.explore import EVENTS_MAX, recorded
from harness.twin.profile import Profile
from harness.twin.snapshot import Snapshot

RUNS_MAX: Final = 20_000
_NO_STATE: Final = frozenset(
    {"_choices", "now", "_sequence", "_answers", "jobs_peak", "peak", "exceptions_done"}
    | {"_start", "_map"}  # where a disk has its memory
)
"""Attributes in which two worlds may differ that will do the same."""
_REUSED: Final = ("duplicate-new-chunk", "new-chunk-in-metadata")

Answers = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Broken:
    """What happened that may not, and the order in which it did.

    Attributes:
        rule: which of the rules was broken.
        detail: how.
        step: after which step.
        trace: the steps to there, with the answers that make the order.
        always: it is so in the first order as well.
    """

    rule: str
    detail: str
    step: int
    trace: Trace
    always: bool


@dataclass(slots=True)
class Explored:
    """What there is of a scenario.

    Attributes:
        states: different worlds, over all steps.
        orders: orders of single steps that were run.
        merged: orders that ended in a world that was known.
        complete: all were run; else a bound was met, or a bad one was found.
        stopped_at: the step where the bound was met.
        broken: the shortest bad order.
    """

    states: int = 0
    orders: int = 0
    merged: int = 0
    complete: bool = False
    stopped_at: int | None = None
    broken: Broken | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """How much is run: orders of single steps, and seconds by ``clock``."""

    runs: int = RUNS_MAX
    seconds: float = 600.0
    clock: Callable[[], float] = field(default=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Run:
    """One order of the steps up to one of them.

    Attributes:
        points: choice points met after it.
        wide: as `Choices.wide`.
        rested: as `Choices.rested`.
        digest: of the world after it.
        broken: (rule, detail), if something was.
    """

    points: int
    wide: Mapping[int, int]
    rested: bool
    digest: bytes
    broken: tuple[str, str] | None


def exhaust(
    trace: Trace,
    profile: Profile,
    bound: Bound | None = None,
    hear: Callable[[int, Explored], None] = lambda _step, _found: None,
    *,
    merge: bool = True,
) -> Explored:
    """Run every order of ``trace``.

    Args:
        trace: what is done.
        profile: of the twin.
        bound: how much is run at most.
        hear: told before each step.
        merge: whether equal states are merged.

    Raises:
        BadScenario, Unsupported: the trace has no meaning, or the twin does not know it.
    """
    bound = bound or Bound()
    found = Explored()
    ends = bound.clock() + bound.seconds
    frontier: list[tuple[dict[int, int], int]] = [({}, 0)]
    for at in range(len(trace.steps)):
        hear(at, found)
        known: set[bytes] = set()
        after: list[tuple[dict[int, int], int]] = []
        first_broken: tuple[str, str] | None = None
        for order, (answers, met) in enumerate(frontier):
            for own, run in _orders_of_step(trace, profile, at, answers, met):
                found.orders += 1
                if order == 0 and not own:
                    first_broken = run.broken
                if run.broken is not None and (own or answers or not _ends(run.broken)):
                    always = first_broken is not None and first_broken[0] == run.broken[0]
                    found.broken = Broken(
                        *run.broken, at, _as_trace(trace, at, {**answers, **own}), always
                    )
                    return found
                if run.digest in known and merge:
                    found.merged += 1
                elif not _ends(run.broken):
                    known.add(run.digest)
                    after.append(({**answers, **own}, run.points))
                if found.orders >= bound.runs or bound.clock() > ends:
                    found.stopped_at = at
                    found.states += len(after)
                    return found
        found.states += len(after)
        frontier = after
        if not frontier:
            break
    found.complete = True
    return found


_ENDED: Final = ("every step returns", "no kernel dies")


def _ends(broken: tuple[str, str] | None) -> bool:
    """Whether an order goes no further."""
    return broken is not None and broken[0] in _ENDED


def _orders_of_step(
    trace: Trace, profile: Profile, at: int, answers: Answers, met: int
) -> Iterator[tuple[dict[int, int], _Run]]:
    """Every order of one step, from one state on; the fewest changes first."""
    waiting: deque[dict[int, int]] = deque([{}])
    while waiting:
        own = waiting.popleft()
        run = _run(trace, profile, at, {**answers, **own})
        last = max(own, default=met - 1)
        answer = own.get(last, 0)
        if answer > 1 and run.rested:
            continue  # the workers came to rest before: it is an order that was run already
        yield own, run
        if answer and answer < run.wide.get(last, EVENTS_MAX + 1):
            waiting.append({**own, last: answer + 1})
        waiting.extend({**own, point: 1} for point in range(last + 1, run.points))


def _run(trace: Trace, profile: Profile, at: int, answers: Answers) -> _Run:
    """The steps up to ``at`` in one order, and what is to be said of the world then."""
    backend = TwinBackend(profile, answers)
    seen: list[Observation] = []
    steps = trace.steps[: at + 1]
    broken: tuple[str, str] | None = None
    try:
        seen.extend(carry_out(backend, steps, trace.header.seed))
    except NeverReturns as fault:
        broken = "every step returns", str(fault)
    except KernelCrash as fault:
        broken = "no kernel dies", str(fault)
    except TwinInvariant as fault:
        broken = "the twin does not contradict itself", str(fault)
    choices = backend.choices
    points, wide, rested = choices.points, dict(choices.wide), choices.rested
    state = digest(backend.world)
    if broken is None:
        broken = _queued(backend) or _looked_at(trace, steps, backend, seen)
    return _Run(points, wide, rested, state, broken)


def _queued(backend: TwinBackend) -> tuple[str, str] | None:
    """A bio that has not ended, though nothing is going to happen."""
    devices = backend.world.mapped.values()
    if any(md.suspended for md in devices):
        return None
    for md in devices:
        for target in md.live.targets if md.live else ():
            if isinstance(target, Snapshot) and not target.at_rest():
                return "every queued bio ends", f"{md.name} has exceptions pending"
    return None


def _looked_at(
    trace: Trace, steps: Sequence[AnyStep], backend: TwinBackend, seen: list[Observation]
) -> tuple[str, str] | None:
    """Read everything that can be read, and see that it is as it must be."""
    steps = (*steps, Examine())
    try:
        seen = [*seen, backend.execute(len(steps) - 1, steps[-1])]
    except DmsnapError as fault:
        return "everything can be read", str(fault)
    looked = Trace(trace.header, tuple(steps))
    for broken in (*promise.check(looked, seen), *witness.check(looked, seen)):
        return "no acknowledged write is lost, no snapshot changes", str(broken)
    written = {step.device for step in steps if isinstance(step, Write | Poke)}
    for device, runs in seen[-1].image.items():
        if device in written:
            continue  # what stands there need not be what a snapshot wrote
        try:
            data = pattern.decode(trace.header.seed, runs)
            store = parse(data) if data[:4] == SNAP_MAGIC.to_bytes(4, "little") else None
        except (BadTrace, MalformedStore):
            continue
        if store is None:
            continue
        for finding in check_store(store):
            if finding.code in _REUSED:
                return "no chunk is used twice", f"{device}: {finding.message}"
        new = [number for block in store.exceptions() for number in block["new"].tolist()]
        for one, other in itertools.pairwise(new):
            if one > other:
                return (
                    "commits come in the order of allocation",
                    f"{device}: chunk {other} was committed behind chunk {one}",
                )
    return None


def _as_trace(trace: Trace, at: int, answers: Answers) -> Trace:
    header = msgspec.structs.replace(trace.header, answers=recorded(answers))
    return Trace(header, (*trace.steps[: at + 1], Examine()))


# -- when two worlds are equal -------------------------------------------------------------------


def digest(world: object) -> bytes:
    """A digest of everything that a world holds; equal worlds have equal ones.

    Objects are numbered as they are met, so that what refers to what counts, and not where in
    memory it is.  Work that waits is a function with what it holds.
    """
    walk = _Walk()
    walk.take(world)
    return walk.hash.digest()


class _Walk:
    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []

    def take(self, root: object) -> None:
        """Go through everything that ``root`` leads to."""
        waiting: list[object] = [root]
        while waiting:
            waiting.extend(reversed(self._one(waiting.pop())))

    def _one(self, what: object) -> list[object]:
        """Hash what an object is by itself; returns what it leads to."""
        put = self.hash.update
        if what is None or isinstance(what, bool | int | float | str | bytes | type):
            put(repr(what).encode() + b";")
            return []
        if id(what) in self._numbers:
            put(b"@%d;" % self._numbers[id(what)])
            return []
        self._numbers[id(what)] = len(self._numbers)
        self._kept.append(what)  # while it lives, no other one has its number
        kind = type(what)
        put(f"{kind.__module__}.{kind.__qualname__}(".encode())
        if isinstance(what, Choices | Profile):
            return []
        if isinstance(what, bytearray | memoryview):
            put(bytes(what))
            return []
        if isinstance(what, np.ndarray):
            put(repr((what.shape, what.dtype)).encode())
            put(what.tobytes())
            return []
        return self._parts(what)

    def _parts(self, what: Any) -> list[object]:
        put = self.hash.update
        if isinstance(what, Mapping):
            put(b"%d" % len(what))
            return [part for pair in what.items() for part in pair]
        if isinstance(what, list | tuple | deque):
            put(b"%d" % len(what))
            return list(what)
        if isinstance(what, set | frozenset):
            return [sorted(map(repr, what))]
        if isinstance(what, types.FunctionType | types.BuiltinFunctionType):
            put(what.__qualname__.encode())
            cells = getattr(what, "__closure__", None) or ()
            return [cell.cell_contents for cell in cells if cell != types.CellType()]
        if isinstance(what, types.MethodType):
            return [what.__func__.__qualname__, what.__self__]
        if isinstance(what, functools.partial):
            return [what.func, what.args, what.keywords]
        names = [name for kind in type(what).__mro__ for name in _slots(kind)]
        names += getattr(what, "__dict__", {})
        parts: list[object] = []
        for name in dict.fromkeys(names):
            if name not in _NO_STATE and hasattr(what, name):
                parts += (name, getattr(what, name))
        return parts


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(
        f"_{kind.__name__.lstrip('_')}{name}"
        if name.startswith("__") and not name.endswith("__")
        else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    )
