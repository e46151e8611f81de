"""What the documentation promises a user, checked against what one side returned.

The promises: a snapshot shows its origin as it was when the snapshot became active, plus its own
writes; origin and disks keep what was written to them; a persistent snapshot that is activated
again shows what it showed; a finished merge leaves exactly the snapshot on the origin.  The model
knows nothing of chunks, exceptions, stores or copies, so twin and kernel cannot be wrong with it.

A promise holds only for users who keep the rules.  Where one is broken (a write below an origin, to
a COW device, past the snapshot-origin target), where a write failed, or where the model cannot
follow, sectors become *unknown* and are not promised: a break that is reported is one.  It takes
from the observations only what succeeded, and which snapshots the side itself calls Invalid: as
long as it does, nothing is promised of them.  One that is called valid again has to show what it
would have shown all the time.

Left out on purpose: the page cache (buffered I/O), tables whose snapshot does not start at sector
0, and what a crash of the machine leaves.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from harness.promises.extents import UNKNOWN, Content, Stamp, broken
from harness.promises.world import Image, World
from harness.trace import pattern, rules
from harness.trace import steps as do
from harness.trace.files import Trace
from harness.trace.observations import Observation, Runs
from harness.trace.steps import AnyStep

SNAPSHOT_RULE: Final = (
    "a snapshot shows its origin as it was when it became active, plus its own writes")
OWN_RULE: Final = "a device keeps what was written to it"


class BrokenPromise(Struct, frozen=True, kw_only=True):
    """One place where a side returned something else than what was promised.

    Attributes:
        step: index of the step that read it.
        device: what was read.
        sector, sectors: first sector in question, and how many that were read break the promise.
        promised, read: that sector in words.
        rule: the promise in words.
    """

    step: int
    device: str
    sector: int
    sectors: int
    promised: str
    read: str
    rule: str

    def __str__(self) -> str:
        return (f"step {self.step}: sector {self.sector} of {self.device} "
                f"({self.sectors} break it in all)\n"
                f"  promised  {self.promised}\n"
                f"  read      {self.read}\n"
                f"  ({self.rule})")


def check(trace: Trace, observations: Sequence[Observation]) -> tuple[BrokenPromise, ...]:
    """The promises that one side broke; each broken place is reported once.

    Observations end where a guest was lost: what comes after the first missing one is not checked.
    """
    world = World(trace.header.seed)
    checker = _Checker(world)
    found: list[BrokenPromise] = []
    for index, (step, observation) in enumerate(zip(trace.steps, observations, strict=False)):
        if observation.step != index:
            break
        world.act(step, observation)
        checker.believe(step, observation)
        found += checker.verify(step, observation)
    return tuple(found)


class _Checker:
    """Reads observations against the world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def believe(self, step: AnyStep, observation: Observation) -> None:
        """Take from a status line that a snapshot is invalid, or that a merge has finished."""
        texts = {name: state.status for name, state in observation.state.items() if state}
        if isinstance(step, do.Status) and not step.inactive:
            texts[step.name] = observation.text
        for name, text in texts.items():
            lines = self.world.live(name)
            for words, line in zip(map(str.split, (text or "").splitlines()), lines, strict=False):
                image = line.image
                if image is None or image.owner != name or len(words) < 4:
                    continue
                image.invalid = words[3] == "Invalid"
                if (image.merging and not image.merged and len(words) == 5
                      and words[3].split("/")[0] == words[4]):
                    image.merged = True
                    self.world.write(image.origin, image.content.within(0, image.sectors),
                                     (image, *self.world.registered(image.origin)))

    def verify(self, step: AnyStep, observation: Observation) -> Iterator[BrokenPromise]:
        """Compare everything that was read with what was promised."""
        if isinstance(step, do.Parallel) or (isinstance(step, do.Read) and step.buffered):
            return
        for part in (observation.content, observation.image):
            for name, runs in part.items():
                for start, some in self.ranges(step, name, runs):
                    yield from self.compare(observation.step, name, start, some)

    def ranges(self, step: AnyStep, name: str, runs: Runs) -> list[tuple[int, Runs]]:
        """What was read as (first sector, runs); a large device shows only both of its ends."""
        if isinstance(step, do.Read):
            return [(step.sector, runs)]
        lines = self.world.live(name)
        size = max((line.start + line.length for line in lines), default=0)
        ranges = rules.examined(size)
        if len(ranges) == 1:
            return [(0, runs)]
        read, found, at = pattern.Contents(self.world.seed, runs), [], 0
        for first, count in ranges:
            found.append((first, read.cut(at, at + count)))
            at += count
        return found

    def compare(self, step: int, name: str, start: int, runs: Runs) -> Iterator[BrokenPromise]:
        end = start + pattern.sectors_of(runs)
        found = list(broken(self.world.content(name, start, end), start, runs))
        if not found:
            return
        sector, _, promised, read = found[0]
        leaf = next((piece[2] for piece in self.world.pieces(name, sector, sector + 1)), None)
        yield BrokenPromise(
            step=step, device=name, sector=sector, sectors=sum(count for _, count, *_ in found),
            promised=_words(promised, sector), read=read,
            rule=SNAPSHOT_RULE if isinstance(leaf, Image) else OWN_RULE)
        for at, count, *_ in found:  # said once is enough
            for a, b, below, where in self.world.pieces(name, at, at + count):
                if below:
                    below.content.put(where, where + b - a, UNKNOWN)


def _words(what: Content, sector: int) -> str:
    if isinstance(what, Stamp):
        return f"sector {sector + what.shift} of {what.device}, generation {what.generation}"
    return "zeros"
