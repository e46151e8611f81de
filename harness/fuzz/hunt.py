"""The hunt: life after life on real kernels, until time is up; what differs is a find.

Lives come in *rounds*.  A life is a function of the seed, of its number, and of the lives that were
kept in the rounds before it: so the same seed gives the same lives on every machine, with any
number of workers, however quick they are.  Which lives are kept, the twin says alone
(`harness.fuzz.features`).  While the guests do one round, workers write the next one.

A find is kept once for each signature (`harness.fuzz.signature`).  A corpus is a directory of
traces, which are tried first; kept lives and finds go into it.  They are traces like any other, so
a vocabulary that grows does not make them worthless; one that can no longer be read is left out,
and told.
"""

import ctypes
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import BadTrace
from harness.files import write_whole
from harness.fuzz.features import Feature, features
from harness.fuzz.lives import written
from harness.fuzz.sides import Results
from harness.fuzz.signature import Signature, signature_of
from harness.fuzz.weights import WEIGHTS
from harness.trace import files as traces
from harness.trace.files import Trace
from harness.trace.steps import AnyStep
from harness.verdict.result import Result

ROUND: Final = 64
"""Lives of a round."""
STEPS: Final = 20
CONTINUED: Final = 0.4
"""Of the lives, how many go on from one that was kept."""
KEPT_MAX: Final = 2000
_PREFIX_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Born:
    """A life that was written: its trace, and its features in the twin."""

    trace: Trace
    features: frozenset[Feature]


@dataclass(frozen=True, slots=True)
class Caught:
    """A find: the trace, on which kernel, and why it is one."""

    trace: Trace
    kernel: str
    signature: Signature
    result: Result


@dataclass(slots=True)
class Count:
    """How far a hunt has come.

    Attributes:
        lives: written and carried out.
        steps: of them, on all kernels.
        features: that were seen.
        kept: lives that had a new one.
        lost: guests that were lost.
        caught: finds, one for each signature and kernel.
        repeated: finds whose signature was known.
        writing_s, running_s: seconds that were spent waiting for new lives, and on the kernels.
    """

    lives: int = 0
    steps: int = 0
    features: int = 0
    kept: int = 0
    lost: int = 0
    repeated: int = 0
    writing_s: float = 0.0
    running_s: float = 0.0
    caught: list[Caught] = field(default_factory=list)


def seed_of(seed: int, number: int) -> int:
    """The seed of one life."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def born(
    seed: int, number: int, weights: str, steps: int, kept: Sequence[Sequence[AnyStep]]
) -> Born:
    """Life ``number``; it may go on from one of those that were ``kept``."""
    own = seed_of(seed, number)
    choose = random.Random(own)  # noqa: S311 - a life must come out the same each time
    before: Sequence[AnyStep] = ()
    if kept and choose.random() < CONTINUED:
        before = choose.choice(kept)
        before = before[: choose.randint(1, min(len(before), _PREFIX_MAX))]
    trace, seen = written(
        own,
        len(before) + steps,
        weights=WEIGHTS[weights],
        before=before,
        name=f"life-{seed}-{number}",
    )
    return Born(trace, frozenset(features(trace.steps, seen)))


class Lives:
    """The lives of one seed, round by round."""

    def __init__(
        self,
        seed: int,
        *,
        weights: str = "everything",
        steps: int = STEPS,
        pool: Executor | None = None,
        corpus: Sequence[Trace] = (),
    ) -> None:
        self.seen: set[Feature] = set()
        self.kept: list[tuple[AnyStep, ...]] = [trace.steps for trace in corpus]
        self._seed = seed
        self._weights = weights
        self._steps = steps
        self._pool = pool
        self._next = 0

    def rounds(self) -> Iterator[list[tuple[Born, bool]]]:
        """Each round, and of each of its lives whether it was kept."""
        coming = self._begin()
        while True:
            lives = [each() for each in coming]
            found = []
            for life in lives:
                new = not life.features <= self.seen
                self.seen |= life.features
                if new and len(self.kept) < KEPT_MAX:
                    self.kept.append(life.trace.steps)
                found.append((life, new))
            # The next round is written while somebody carries this one out.
            coming = self._begin()
            yield found

    def _begin(self) -> list[Callable[[], Born]]:
        numbers = range(self._next, self._next + ROUND)
        self._next += ROUND
        kept = tuple(self.kept)
        arguments = [(self._seed, number, self._weights, self._steps, kept) for number in numbers]
        if self._pool is None:
            return [lambda each=each: born(*each) for each in arguments]  # type: ignore[misc]
        parts = [arguments[at : at + 8] for at in range(0, ROUND, 8)]
        begun = [self._pool.submit(_several, part) for part in parts]
        return [
            lambda future=future, at=at: future.result()[at]  # type: ignore[misc]
            for future, part in zip(begun, parts, strict=True)
            for at in range(len(part))
        ]


def _several(
    arguments: Sequence[tuple[int, int, str, int, Sequence[Sequence[AnyStep]]]],
) -> list[Born]:
    return [born(*each) for each in arguments]


_PR_SET_PDEATHSIG: Final = 1


def _follow_parent() -> None:
    """A worker ends with who made it; Ctrl-C is that one's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)  # it is gone already


@contextmanager
def workers(count: int) -> Iterator[Executor | None]:
    """Processes that write lives; none where one is enough."""
    if count < 2:
        yield None
        return
    with ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_follow_parent
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def hunt(
    lives: Lives,
    sides: Sequence[tuple[str, Results]],
    *,
    first: Sequence[Trace] = (),
    enough: Callable[[Count], bool],
    keep: Callable[[Born], None] = lambda _born: None,
    caught: Callable[[Caught], None] = lambda _caught: None,
    hear: Callable[[Count], None] = lambda _count: None,
    clock: Callable[[], float] = time.monotonic,
) -> Count:
    """Carry lives out on each side until it is ``enough``.

    Args:
        lives: where they come from.
        sides: name of a kernel, and what carries traces out on it.
        first: traces that are tried before any new life.
        enough: asked after each round.
        keep: given each life that has a new feature.
        caught: given each find whose signature is new.
        hear: told after each round, and each side of it.
        clock: seconds.
    """
    count = Count()
    known: set[tuple[str, Signature]] = set()

    def carry_out(batch: Sequence[Trace]) -> None:
        started = clock()
        for name, side in sides:
            for trace, result in zip(batch, side(batch), strict=True):
                count.steps += len(trace.steps)
                count.lost += result.attempts - 1
                signature = signature_of(result)
                if signature is None or signature.layer == "promise":
                    continue  # known defects break promises on both sides alike
                if (name, signature) in known:
                    count.repeated += 1
                    continue
                known.add((name, signature))
                find = Caught(trace, name, signature, result)
                count.caught.append(find)
                caught(find)
            hear(count)
        count.running_s += clock() - started

    batch = list(first)
    for at in range(0, len(batch), ROUND):
        carry_out(_renamed(batch[at : at + ROUND]))
        if enough(count):
            return count
    rounds = lives.rounds()
    while True:
        started = clock()
        these = next(rounds)
        count.writing_s += clock() - started
        for life, new in these:
            if new:
                count.kept += 1
                keep(life)
        carry_out([life.trace for life, _ in these])
        count.lives += len(these)
        count.features = len(lives.seen)
        hear(count)
        if enough(count):
            return count


def _renamed(batch: Sequence[Trace]) -> list[Trace]:
    return [
        Trace(msgspec.structs.replace(trace.header, scenario=f"corpus-{at}"), trace.steps)
        for at, trace in enumerate(batch)
    ]


# -- the corpus ----------------------------------------------------------------------------------


def read_corpus(directory: Path, hear: Callable[[str], None]) -> list[Trace]:
    """The traces of a corpus, by name; those that cannot be read are told."""
    found = []
    for path in sorted(directory.glob("*.jsonl")):
        try:
            found.append(traces.read(path))
        except (BadTrace, OSError) as fault:
            hear(f"{path.name} is left out: {fault}")
    return found


def add_to_corpus(directory: Path, trace: Trace) -> Path:
    """Keep a trace in a corpus, under a name that its steps make."""
    steps = b"".join(msgspec.json.encode(step) for step in trace.steps)
    path = directory / f"{hashlib.sha256(steps).hexdigest()[:16]}.jsonl"
    write_whole(path, traces.dumps(trace))
    return path
