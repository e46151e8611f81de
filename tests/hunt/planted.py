"""Bugs that can be switched on in the twin, and how long the fuzzer takes to find each.

``make planted`` prints ``docs/PLANTED-BUGS.md``: for each bug, how many lives and seconds it took,
and how many steps were left after shrinking.  The sound twin stands in for the kernel, since the
two do the same (that is what the catalogue shows): a bug that is found so would be found on one.

A bug is data (``planted.toml``): a function, the words in it that are changed, and what they are
changed to.  They are of the kind that is made when such code is changed.
"""

import argparse
import importlib
import inspect
import statistics
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.fuzz.hunt import Lives
from harness.fuzz.shrink import Budget, shrink
from harness.fuzz.sides import OnTwin, signatures, sound
from harness.fuzz.signature import Signature, signature_of
from harness.guest.events import Outcome
from harness.trace.files import Trace
from harness.twin.profile import named
from harness.verdict.judge import judge

PAGE = Path(__file__).parents[2] / "docs/PLANTED-BUGS.md"
SEED = 1
SECONDS_MAX = 120.0
"""Of processor time, for each bug."""
SHRINK_SECONDS = 30.0


@dataclass(frozen=True)
class Bug:
    """A bug: in which function what becomes what."""

    name: str
    where: str
    before: str
    after: str


def bugs() -> tuple[Bug, ...]:
    """All of them."""
    document = tomllib.loads(Path(__file__).with_name("planted.toml").read_text())
    return tuple(Bug(**each) for each in document["bug"])


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The twin with a bug in it."""
    module_name, *path = bug.where.split(".")
    module = importlib.import_module(f"harness.twin.{module_name}")
    owner = module
    for part in path[:-1]:
        owner = getattr(owner, part)
    function = getattr(owner, path[-1])
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(bug.before) != 1:
        raise ValueError(
            f"{bug.name}: {source.count(bug.before)} times in {bug.where}: {bug.before}"
        )
    # A zero-argument super() would need its class; none of these functions has one.
    names: dict[str, object] = {}
    code = compile(source.replace(bug.before, bug.after), f"<{bug.name}>", "exec")
    exec(code, module.__dict__, names)
    setattr(owner, path[-1], names[path[-1]])
    try:
        yield
    finally:
        setattr(owner, path[-1], function)


@dataclass(frozen=True)
class Measured:
    """What became of one bug."""

    bug: Bug
    lives: int
    seconds: float
    signature: Signature | None = None
    steps: int = 0
    left: int = 0
    trace: Trace | None = None


def lives_of(seed: int, weights: tuple[str, ...]) -> Iterator[Trace]:
    """Lives by each of several weights in turns."""
    rounds = [Lives(seed, weights=each).rounds() for each in weights]
    while True:
        for each in rounds:
            for life, _ in next(each):
                yield life.trace


class Pool:
    """Lives that were written once, for all bugs; with what they cost, in seconds."""

    def __init__(self, seed: int) -> None:
        self._lives = lives_of(seed, ("everything", "parallel", "discards"))
        self._side = OnTwin(named("6.12"))
        self._known: list[tuple[Trace, Outcome | None, float]] = []

    def __iter__(self) -> Iterator[tuple[Trace, Outcome | None, float]]:
        at = 0
        while True:
            if at == len(self._known):
                started = time.process_time()
                trace = next(self._lives)
                outcome = self._side.outcome(trace)
                self._known.append((trace, outcome, time.process_time() - started))
            yield self._known[at]
            at += 1


def measure(bug: Bug, pool: Pool, limit_s: float) -> Measured:
    """Look for one bug, and shrink what shows it."""
    profile = named("6.12")
    seconds = 0.0
    for number, (life, outcome, cost) in enumerate(pool, 1):
        seconds += cost
        started = time.process_time()
        signature = None
        if outcome is not None:
            with planted(bug):
                signature = signature_of(judge(life, outcome, "twin", orders_max=1)[0])
        seconds += time.process_time() - started
        if signature is not None and signature.layer != "promise":
            short = shrink(
                life,
                signatures(OnTwin(profile, lambda: planted(bug))),
                sound=sound(profile),
                confirmations=1,
                budget=Budget(seconds=SHRINK_SECONDS, clock=time.process_time),
            )
            return Measured(
                bug,
                number,
                seconds,
                signature,
                len(life.steps),
                len(short.trace.steps),
                short.trace,
            )
        if seconds > limit_s:
            return Measured(bug, number, seconds)
    raise AssertionError("lives never end")


def page(found: list[Measured], limit_s: float) -> str:
    """The page."""
    shown = [each for each in found if each.signature]
    times = sorted(each.seconds if each.signature else float("inf") for each in found)
    short = sum(each.left <= 8 for each in shown)
    about = (
        "How long the fuzzer takes to find a bug that was planted in the twin, and how short it "
        "makes what shows it. Written by `make planted`; the bugs are in "
        "`tests/hunt/planted.toml`. The sound twin stands in for the kernel. Times are of one "
        "processor, with the writing of the lives; a bug that is not found is given up after "
        f"{limit_s:.0f} s."
    )
    counts = (
        f"Found {len(shown)} of {len(found)}, of {len(bugs())} that there are; "
        f"median {statistics.median(times):.1f} s; "
        f"{short} of {len(shown)} are left with 8 steps or fewer."
    )
    lines = [
        "# Planted bugs",
        "",
        about,
        "",
        counts,
        "",
        "| bug | in | lives | seconds | steps | left | why it is a find |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        why = str(each.signature).replace("|", "/") if each.signature else "*not found*"
        lines.append(
            f"| {each.bug.name} | `{each.bug.where}` | {each.lives} | {each.seconds:.1f} | "
            f"{each.steps or ''} | {each.left or ''} | {why} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of bugs; by default all")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--seconds", type=float, default=SECONDS_MAX, help="for each bug")
    parser.add_argument("--page", action="store_true", help="write docs/PLANTED-BUGS.md")
    options = parser.parse_args()
    pool = Pool(options.seed)
    found = []
    for bug in bugs():
        if options.names and bug.name not in options.names:
            continue
        found.append(measure(bug, pool, options.seconds))
        last = found[-1]
        print(
            f"{bug.name}: {last.lives} lives, {last.seconds:.1f} s, "
            + (
                f"{last.steps} → {last.left} steps: {last.signature}"
                if last.signature
                else "not found"
            ),
            flush=True,
        )
        if options.page:
            PAGE.write_text(page(found, options.seconds))
    return 0 if all(each.signature for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
