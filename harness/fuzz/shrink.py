"""The shortest trace that differs for the same reason.

A *pass* proposes edits of a trace, each of which makes it simpler in one way.  They are judged in
batches, since a batch costs a boot and a candidate a few milliseconds; a batch holds the edits of
the first passes first, and those of later ones as far as there is room.  Those that keep the
signature are then put together: as many of them as still keep it, again in one batch.  That is
repeated, from the first pass on, until none has an edit that was not tried:

1. *spans* leaves steps out, from half of them down to one at a time;
2. *devices* leaves out a device, with all that names it, or sends its I/O to another one;
3. *requests* makes I/O plainer: direct, one at a time, with stamps, a write in place of a poke;
4. *lengths* shortens I/O, disks and tables;
5. *numbers* brings sectors, generations and counts down;
6. *tables* takes features, lines and odd words out of tables;
7. *names* gives devices the names that a reader expects.

What a step may not be the twin knows at once (`Sound`), so that no guest need be asked about it.
A find is confirmed *k* of *n* times in the end, which says how flaky it is.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from harness.compare.diff import Verdict
from harness.errors import ProvisioningError
from harness.fuzz.signature import Signature
from harness.trace.files import Trace
from harness.trace.steps import (
    REFERENCE,
    AnyStep,
    Create,
    Discard,
    Disk,
    Fault,
    Load,
    Parallel,
    Poke,
    Read,
    Rename,
    Suspend,
    TargetLine,
    Write,
    Zeroout,
    references,
)
from harness.units import SECTOR_BYTES

Edit = Mapping[int, tuple[AnyStep, ...]]
"""Step → what stands in its place; steps that it does not name stay."""
Pass = tuple[str, Callable[[Sequence[AnyStep]], Iterator[Edit]]]
"""A name, and the edits that it proposes for some steps."""
Judge = Callable[[Sequence[Trace]], Sequence[Signature | None]]
"""Why each of some traces is a find, all asked for at once; None for one that is none."""
Sound = Callable[[Trace], bool]
"""Whether a trace is one that can be carried out at all."""

BATCH_MAX: Final = 64
"""Candidates that are judged together."""
DEADLY_BATCH_MAX: Final = 6
"""The same where each costs a guest."""
CONFIRMATIONS: Final = 5
_DEADLY: Final = (Verdict.LOST, Verdict.DIES, Verdict.HANGS)


@dataclass(slots=True)
class Budget:
    """How much may be spent; what is best so far is the result once it is.

    Attributes:
        candidates: to be judged at most.
        seconds: of time by ``clock``.
    """

    candidates: int = 4000
    seconds: float = 900.0
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def spent(self) -> bool:
        """Whether nothing is left of it."""
        return self.candidates <= 0 or self.clock() - self._started > self.seconds


@dataclass(frozen=True, slots=True)
class Round:
    """One batch: the passes it is of, candidates judged, steps of the trace before and after."""

    names: tuple[str, ...]
    candidates: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """What shrinking came to.

    Attributes:
        trace: the shortest that was found.
        signature: of it, and of what it was made from.
        shown, asked: how often it differed so, of how many times it was carried out.
        rounds: what was tried, in order.
        complete: whether no pass finds anything more; else the budget was spent.
    """

    trace: Trace
    signature: Signature
    shown: int
    asked: int
    rounds: tuple[Round, ...]
    complete: bool

    @property
    def candidates(self) -> int:
        """How many traces were judged on the way."""
        return sum(each.candidates for each in self.rounds)


class NotShown(ProvisioningError):
    """A trace does not differ, or not for the reason that was given."""


def shrink(
    trace: Trace,
    judge: Judge,
    *,
    sound: Sound = lambda _trace: True,
    wanted: Signature | None = None,
    budget: Budget | None = None,
    confirmations: int = CONFIRMATIONS,
    passes: Sequence[Pass] | None = None,
    hear: Callable[[Round, Trace], None] = lambda _round, _trace: None,
) -> Reduced:
    """Make ``trace`` as short as it can be and still have its signature.

    Args:
        trace: what differs.
        judge: says of traces why they are finds.
        sound: leaves out candidates without asking ``judge``.
        wanted: the signature; by default the one that ``trace`` has.
        budget: how much may be spent on it.
        confirmations: how often the first and the last trace are carried out.
        passes: to be tried, by default all of them (`PASSES`).
        hear: told of each round, with the shortest trace so far.

    Raises:
        NotShown: it has no signature, or not that one.
    """
    budget = budget or Budget()
    passes = PASSES if passes is None else passes
    first = judge([_numbered(trace, number) for number in range(max(1, confirmations))])
    if wanted is None:
        wanted = next((each for each in first if each is not None), None)
    if wanted is None or wanted not in first:
        raise NotShown(
            f"{trace.header.scenario}: "
            + (
                f"it was to be {wanted}, and was "
                f"{next((each for each in first if each), 'the same on both sides')}"
                if wanted
                else f"both sides are the same in {len(first)} of {len(first)} tries: there is "
                "nothing to reduce"
            )
        )
    work = _Shrinking(judge, sound, wanted, budget, hear, passes)
    trace, complete = work.run(trace)
    last = judge([_numbered(trace, number) for number in range(max(1, confirmations))])
    return Reduced(
        trace=trace,
        signature=wanted,
        shown=sum(each == wanted for each in last),
        asked=len(last),
        rounds=tuple(work.rounds),
        complete=complete,
    )


class _Shrinking:
    """One find on its way."""

    def __init__(
        self,
        judge: Judge,
        sound: Sound,
        wanted: Signature,
        budget: Budget,
        hear: Callable[[Round, Trace], None],
        passes: Sequence[Pass],
    ) -> None:
        self._passes = passes
        self._judge = judge
        self._sound = sound
        self._wanted = wanted
        self._budget = budget
        self._hear = hear
        self._batch = (
            DEADLY_BATCH_MAX if wanted.verdict in _DEADLY or wanted.function else BATCH_MAX
        )
        self._tried: set[tuple[AnyStep, ...]] = set()
        self.rounds: list[Round] = []

    def run(self, trace: Trace) -> tuple[Trace, bool]:
        """The shortest trace, and whether nothing more is to be tried."""
        while not self._budget.spent:
            proposed = self._propose(trace)
            if not proposed:
                return trace, True
            trace = self._try(trace, proposed)
        return trace, False

    def _propose(self, trace: Trace) -> list[tuple[str, Edit]]:
        """The edits of one batch that were not tried yet, those of the first passes first."""
        proposed: list[tuple[str, Edit]] = []
        for name, edits in self._passes:
            for edit in edits(trace.steps):
                steps = edited(trace.steps, edit)
                if steps in self._tried or steps == trace.steps or not steps:
                    continue
                self._tried.add(steps)
                proposed.append((name, edit))
                if len(proposed) == self._batch:
                    return proposed
        return proposed

    def _try(self, trace: Trace, proposed: Sequence[tuple[str, Edit]]) -> Trace:
        """``trace`` with as many of the edits as keep the signature together."""
        asked, keeps = self._keep(trace, [edit for _, edit in proposed])
        good = [edit for (_, edit), keep in zip(proposed, keeps, strict=True) if keep]
        best = good[0] if good else {}
        unions = _unions(good)
        if unions and not self._budget.spent:
            more, holds = self._keep(trace, unions)
            asked += more
            best = next((union for union, hold in zip(unions, holds, strict=True) if hold), best)
        after = with_steps(trace, edited(trace.steps, best)) if best else trace
        names = tuple(dict.fromkeys(name for name, _ in proposed))
        told = Round(names, asked, len(trace.steps), len(after.steps))
        self.rounds.append(told)
        self._hear(told, after)
        return after

    def _keep(self, trace: Trace, proposed: Sequence[Edit]) -> tuple[int, list[bool]]:
        """How many were judged, and which keep the signature."""
        traces = [with_steps(trace, edited(trace.steps, edit)) for edit in proposed]
        asked = [(at, _numbered(each, at)) for at, each in enumerate(traces) if self._sound(each)]
        self._budget.candidates -= len(asked)
        keeps = [False] * len(traces)
        if asked:
            answers = self._judge([each for _, each in asked])
            for (at, _), answer in zip(asked, answers, strict=True):
                keeps[at] = answer == self._wanted
        return len(asked), keeps


def _unions(good: Sequence[Edit]) -> list[Edit]:
    """Edits put together that do not touch the same step: the most of them first."""
    found: list[Edit] = []
    size = len(good)
    while size > 1:
        union: dict[int, tuple[AnyStep, ...]] = {}
        taken = 0
        for edit in good[:size]:
            if not union.keys() & edit.keys():
                union |= edit
                taken += 1
        if taken > 1 and union not in found:
            found.append(union)
        size //= 2
    return found


def edited(steps: Sequence[AnyStep], edit: Edit) -> tuple[AnyStep, ...]:
    """``steps`` as an edit leaves them."""
    return tuple(new for at, step in enumerate(steps) for new in edit.get(at, (step,)))


def with_steps(trace: Trace, steps: Sequence[AnyStep]) -> Trace:
    """``trace`` with other steps; its answers to choice points mean nothing to those."""
    return Trace(msgspec.structs.replace(trace.header, answers=()), tuple(steps))


def _numbered(trace: Trace, number: int) -> Trace:
    """``trace`` with a name that no other one of its batch has."""
    return Trace(
        msgspec.structs.replace(trace.header, scenario=f"try-{number}"), trace.steps, trace.lines
    )


# -- the passes ----------------------------------------------------------------------------------


def spans(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Steps left out: the first and second half, the quarters, … each one."""
    size = max(1, len(steps) // 2)
    while True:
        for at in range(0, len(steps), size):
            yield dict.fromkeys(range(at, min(at + size, len(steps))), ())
        if size == 1:
            return
        size //= 2


def devices(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Devices left out, with less I/O of their own, or with another one in their place."""
    for name in names_of(steps):
        yield {at: _without(step, name) for at, step in enumerate(steps) if name in _names_in(step)}
    # I/O goes to another device, so that its own is needed no more.
    for name in names_of(steps):
        for other in names_of(steps):
            moved = {
                at: (msgspec.structs.replace(step, device=other),)
                for at, step in enumerate(steps)
                if isinstance(step, Write | Read | Discard | Zeroout | Poke) and step.device == name
            }
            if moved and other != name:
                yield moved
    # A linear device goes away, and what stands on it goes to what is below.
    for step in steps:
        if isinstance(step, Load) and len(step.table) == 1:
            below = REFERENCE.findall(step.table[0].args)
            if step.table[0].type in ("linear", "delay", "striped") and below:
                yield _instead(steps, step.name, below[0])


def _instead(steps: Sequence[AnyStep], name: str, other: str) -> Edit:
    """``other`` wherever a device was used, and the device nowhere."""
    found: dict[int, tuple[AnyStep, ...]] = {}
    for at, step in enumerate(steps):
        if name == getattr(step, "name", None):
            found[at] = ()
        elif name in _names_in(step):
            found[at] = (renamed(step, {name: other}),)
    return found


def requests(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Plainer I/O."""
    for at, step in enumerate(steps):
        match step:
            case Parallel(ios=ios):
                if len(ios) > 1:
                    yield {at: tuple(ios)}
                    for gone in range(len(ios)):
                        left = (*ios[:gone], *ios[gone + 1 :])
                        yield {at: (msgspec.structs.replace(step, ios=left),)}
                else:
                    yield {at: tuple(ios)}
            case Write():
                if step.buffered:
                    yield {at: (msgspec.structs.replace(step, buffered=False),)}
                if step.fill != "stamp":
                    yield {at: (msgspec.structs.replace(step, fill="stamp"),)}
            case Read(buffered=True):
                yield {at: (msgspec.structs.replace(step, buffered=False),)}
            case Zeroout() | Discard():
                yield {
                    at: (
                        Write(
                            device=step.device,
                            sector=step.sector,
                            sectors=step.sectors,
                            fill="zero",
                        ),
                    )
                }
            case Poke(data=data):
                if len(data) > SECTOR_BYTES:
                    yield {at: (msgspec.structs.replace(step, data=data[:SECTOR_BYTES]),)}
                yield {
                    at: (
                        Write(
                            device=step.device,
                            sector=step.sector,
                            sectors=max(1, len(data) // SECTOR_BYTES),
                        ),
                    )
                }
            case Suspend() if not (step.flush and step.lockfs):
                yield {at: (Suspend(name=step.name),)}
            case Disk():
                plainer = msgspec.structs.replace(step, linked=False)
                if step.linked:
                    yield {at: (plainer,)}
                if step.can_fail:
                    yield {at: (msgspec.structs.replace(plainer, can_fail=False),)}
                if step.block_size != SECTOR_BYTES:
                    yield {at: (msgspec.structs.replace(step, block_size=SECTOR_BYTES),)}
                if step.fill != "zero":
                    yield {at: (msgspec.structs.replace(step, fill="zero"),)}
            case Load(read_only=True):
                yield {at: (msgspec.structs.replace(step, read_only=False),)}
            case _:
                pass


def _smaller(value: int, least: int = 0, grain: int = 1) -> Iterator[int]:
    """Values below ``value``, upwards: near the least one, halfway, and near ``value``."""
    gap = value - least
    parts = [gap >> shift for shift in range(1, gap.bit_length())]
    near = {least, *(least + part for part in parts), *(value - part for part in parts)}
    for each in sorted({each - (each - least) % grain for each in near}):
        if least <= each < value:
            yield each


def lengths(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Shorter I/O; smaller disks, and with them the tables that span them."""
    for at, step in enumerate(steps):
        match step:
            case Write() | Read() | Discard() | Zeroout():
                for sectors in _smaller(step.sectors, 1):
                    yield {at: (msgspec.structs.replace(step, sectors=sectors),)}
            case Parallel(ios=ios):
                for number, io in enumerate(ios):
                    for sectors in _smaller(io.sectors, 1):
                        shorter = msgspec.structs.replace(io, sectors=sectors)
                        together = (*ios[:number], shorter, *ios[number + 1 :])
                        yield {at: (msgspec.structs.replace(step, ios=together),)}
            case Disk():
                for sectors in _smaller(step.sectors, 8, 8 if step.sectors > 16 else 1):
                    yield {at: (msgspec.structs.replace(step, sectors=sectors),)}
                    yield _cut_to(steps, step.sectors, sectors)
            case Load(table=table):
                for number, line in enumerate(table):
                    for sectors in _smaller(line.length, 1, 8 if line.length > 16 else 1):
                        cut = replace_line(line, sectors)
                        yield {at: (_loads(step, (*table[:number], cut, *table[number + 1 :])),)}
            case _:
                pass


def replace_line(line: TargetLine, length: int) -> TargetLine:
    """A line of another length."""
    return msgspec.structs.replace(line, length=length)


def _cut_to(steps: Sequence[AnyStep], old: int, new: int) -> Edit:
    """Every disk and table of one size gets another."""
    found: dict[int, tuple[AnyStep, ...]] = {}
    for at, step in enumerate(steps):
        if isinstance(step, Disk) and step.sectors == old:
            found[at] = (msgspec.structs.replace(step, sectors=new),)
        elif isinstance(step, Load) and any(line.length == old for line in step.table):
            table = tuple(
                replace_line(line, new) if line.length == old else line for line in step.table
            )
            found[at] = (msgspec.structs.replace(step, table=table),)
    return found


def numbers(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Smaller sectors, generations, counts."""
    writes = [at for at, step in enumerate(steps) if isinstance(step, Write)]
    if writes:
        yield {
            at: (msgspec.structs.replace(step, generation=number),)
            for number, at in enumerate(writes, 1)
            if isinstance(step := steps[at], Write)
        }
    for at, step in enumerate(steps):
        match step:
            case Write() | Read() | Discard() | Zeroout() | Poke():
                for sector in _smaller(step.sector):
                    yield {at: (msgspec.structs.replace(step, sector=sector),)}
                if isinstance(step, Write) and step.generation > 1:
                    yield {at: (msgspec.structs.replace(step, generation=1),)}
            case Fault():
                if step.sector or step.sectors is not None:
                    yield {at: (msgspec.structs.replace(step, sector=0, sectors=None),)}
                for nth in _smaller(step.nth, 1):
                    yield {at: (msgspec.structs.replace(step, nth=nth),)}
                if step.count != 1:
                    yield {at: (msgspec.structs.replace(step, count=1),)}
            case Parallel(ios=ios):
                for number, io in enumerate(ios):
                    for sector in _smaller(io.sector):
                        lower = msgspec.structs.replace(io, sector=sector)
                        together = (*ios[:number], lower, *ios[number + 1 :])
                        yield {at: (msgspec.structs.replace(step, ios=together),)}
            case _:
                pass


_LIKED: Final = {2: ("P", "N", "PO"), 3: ("8", "1", "2", "4", "16")}
"""Word of a snapshot's arguments → what stands there in most tables, the plainest first."""


def tables(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Plainer tables: fewer lines, no features, the chunk size and store that everybody uses."""
    for at, step in enumerate(steps):
        if not isinstance(step, Load):
            continue
        table = step.table
        for gone in range(len(table) if len(table) > 1 else 0):
            yield {at: (_loads(step, (*table[:gone], *table[gone + 1 :])),)}
        for line in table:
            if len(table) > 1 or line.start:
                alone = msgspec.structs.replace(line, start=0)
                yield {at: (_loads(step, (alone,)),)}
        for number, line in enumerate(table):
            for args in _plainer(line):
                plainer = msgspec.structs.replace(line, args=args)
                yield {at: (_loads(step, (*table[:number], plainer, *table[number + 1 :])),)}
    # The same store, or chunk size, everywhere.
    for place, liked in _LIKED.items():
        for value in liked:
            yield {
                at: (_loads(step, tuple(_with_word(line, place, value) for line in step.table)),)
                for at, step in enumerate(steps)
                if isinstance(step, Load)
            }


def _loads(step: Load, table: tuple[TargetLine, ...]) -> Load:
    return msgspec.structs.replace(step, table=table)


def _with_word(line: TargetLine, place: int, value: str) -> TargetLine:
    words = line.args.split(" ")
    if line.type not in ("snapshot", "snapshot-merge") or len(words) <= place:
        return line
    liked = _LIKED[place]
    if words[place] in liked[: liked.index(value)]:
        return line
    words[place] = value
    return msgspec.structs.replace(line, args=" ".join(words))


def _plainer(line: TargetLine) -> Iterator[str]:
    words = line.args.split(" ") if line.args else []
    if line.type in ("snapshot", "snapshot-merge"):
        if len(words) > 4:
            yield " ".join(words[:4])
        if len(words) >= 4:
            for place, liked in _LIKED.items():
                rank = liked.index(words[place]) if words[place] in liked else len(liked)
                for value in liked[:rank]:
                    yield " ".join([*words[:place], value, *words[place + 1 :]])
    else:
        for gone in range(len(words) - 1, 0, -1):
            yield " ".join(words[:gone])
        for at, word in enumerate(words):
            if word.isdecimal() and word != "0":
                yield " ".join([*words[:at], "0", *words[at + 1 :]])


def names(steps: Sequence[AnyStep]) -> Iterator[Edit]:
    """Names that say what a device is: disks d0, d1 …, and what its first table makes of it."""
    known: dict[str, str] = {}
    taken: set[str] = set()
    kinds: dict[str, str] = {}
    for step in steps:
        if isinstance(step, Load) and step.table:
            kinds.setdefault(step.name, step.table[0].type)
    used = _uses(steps)
    for step in steps:
        name = getattr(step, "name", None) or getattr(step, "device", None)
        if isinstance(step, Disk | Create) and isinstance(name, str) and name not in known:
            base = used.get(name, "disk") if isinstance(step, Disk) else _short(kinds.get(name))
            fresh = next(
                each
                for each in (base, *(f"{base}{number}" for number in range(2, 99)))
                if each not in taken
            )
            taken.add(fresh)
            known[name] = fresh
    if any(isinstance(step, Rename) for step in steps):
        return
    changed = {old: new for old, new in known.items() if old != new}
    if changed:
        yield {
            at: (renamed(step, changed),)
            for at, step in enumerate(steps)
            if changed.keys() & _names_in(step)
        }


def _short(kind: str | None) -> str:
    return {
        "snapshot": "snap",
        "snapshot-merge": "merge",
        "snapshot-origin": "origin",
        None: "dev",
    }.get(kind, kind or "dev")[:12]


def _uses(steps: Sequence[AnyStep]) -> dict[str, str]:
    """What the first snapshot that names a disk takes it for."""
    found: dict[str, str] = {}
    for step in steps:
        for line in step.table if isinstance(step, Load) else ():
            if line.type in ("snapshot", "snapshot-merge"):
                for role, name in zip(("base", "cow"), REFERENCE.findall(line.args), strict=False):
                    found.setdefault(name, role)
            elif line.type == "snapshot-origin":
                for name in REFERENCE.findall(line.args):
                    found.setdefault(name, "base")
    return found


PASSES: Final[tuple[Pass, ...]] = (
    ("spans", spans),
    ("devices", devices),
    ("requests", requests),
    ("lengths", lengths),
    ("numbers", numbers),
    ("tables", tables),
    ("names", names),
)
"""By name, in their order."""


# -- names in steps ------------------------------------------------------------------------------


def _names_in(step: AnyStep) -> set[str]:
    """Of all devices that a step names."""
    found = set(references(step))
    found |= {
        name
        for name in (
            getattr(step, "name", None) if not _is_parameter(step) else None,
            getattr(step, "device", None),
            getattr(step, "to", None),
        )
        if name is not None
    }
    if isinstance(step, Parallel):
        found |= {io.device for io in step.ios} | set(step.resume)
    return found


def _is_parameter(step: AnyStep) -> bool:
    return type(step).__name__ == "Parameter"


def names_of(steps: Iterable[AnyStep]) -> list[str]:
    """Of all devices, the last made first: fewer things stand on those."""
    found: dict[str, None] = {}
    for step in steps:
        found |= dict.fromkeys(sorted(_names_in(step)))
    return list(reversed(found))


def _without(step: AnyStep, name: str) -> tuple[AnyStep, ...]:
    """What is left of a step without a device."""
    if isinstance(step, Parallel):
        ios = tuple(io for io in step.ios if io.device != name)
        resume = tuple(each for each in step.resume if each != name)
        return (msgspec.structs.replace(step, ios=ios, resume=resume),) if ios else ()
    return ()


def renamed(step: AnyStep, new: Mapping[str, str]) -> AnyStep:
    """A step with other names for devices."""
    changes: dict[str, object] = {}
    for each in ("name", "device", "to"):
        value = getattr(step, each, None)
        if isinstance(value, str) and value in new and not _is_parameter(step):
            changes[each] = new[value]
    if isinstance(step, Load):
        changes["table"] = tuple(
            msgspec.structs.replace(
                line,
                args=REFERENCE.sub(lambda found: f"{{{new.get(found[1], found[1])}}}", line.args),
            )
            for line in step.table
        )
    if isinstance(step, Parallel):
        changes["ios"] = tuple(
            msgspec.structs.replace(io, device=new.get(io.device, io.device)) for io in step.ios
        )
        changes["resume"] = tuple(new.get(each, each) for each in step.resume)
    return msgspec.structs.replace(step, **changes)
