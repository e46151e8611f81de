"""The documentation's promises to a user, checked against what one side returned.

The promises: a snapshot shows its origin as it was when the snapshot became active, plus its own
writes; origin and disks keep what was written to them; a persistent snapshot that is activated
again shows what it showed; a finished merge leaves exactly the snapshot on the origin.  The model
knows nothing of chunks, exceptions, stores or copies, so it cannot share an error with twin or
kernel.

A promise holds only for users who keep the rules.  Where a rule is broken (a write below an origin,
to a COW device, past the snapshot-origin target), a write failed, or the model cannot follow,
sectors become *unknown* and are not promised.  So a reported break is a real one.  From the
observations the model takes only what succeeded, and which snapshots the side calls Invalid; while
it does, nothing is promised for them.  One that is valid again has to show what it would have
shown all the time.

Left out on purpose: the page cache (buffered I/O), tables whose snapshot does not start at sector
0, and what a crash of the machine leaves.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from harness.promises import lifecycle
from harness.promises.extents import Breach, Content, Stamp, breaches
from harness.promises.pieces import Snapshot
from harness.promises.world import World
from harness.trace import pattern, rules
from harness.trace import steps as do
from harness.trace.files import Trace
from harness.trace.observations import Observation, Runs
from harness.trace.steps import AnyStep

SNAPSHOT_RULE: Final = (
    "a snapshot shows its origin as it was when it became active, plus its own writes"
)
OWN_RULE: Final = "a device keeps what was written to it"


class BrokenPromise(Struct, frozen=True, kw_only=True):
    """One place where a side returned something other than was promised.

    Attributes:
        step: index of the step that read it.
        device: what was read.
        sector, sectors: first sector that breaks the promise, and how many that were read do.
        promised, read: that sector's contents in words.
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
        return (
            f"step {self.step}: sector {self.sector} of {self.device} "
            f"({self.sectors} break it in all)\n"
            f"  promised  {self.promised}\n"
            f"  read      {self.read}\n"
            f"  ({self.rule})"
        )


def check(trace: Trace, observations: Sequence[Observation]) -> tuple[BrokenPromise, ...]:
    """The promises that one side broke; each broken place is reported once.

    Observations end where a guest was lost: nothing after the first missing one is checked.
    """
    checker = _Checker(trace.header.seed)
    found: list[BrokenPromise] = []
    for index, (step, observation) in enumerate(zip(trace.steps, observations, strict=False)):
        if observation.step != index:
            break
        found += checker.take_in(step, observation)
    return tuple(found)


class _Checker:
    """Checks observations against the world."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)

    def take_in(self, step: AnyStep, observation: Observation) -> Iterator[BrokenPromise]:
        """Do a step in the world, and compare everything read with what was promised."""
        lifecycle.act(self.world, step, observation)
        self._believe(step, observation)
        if isinstance(step, do.Parallel) or (isinstance(step, do.Read) and step.buffered):
            return
        for part in (observation.content, observation.image):
            for name, runs in part.items():
                yield from self._verify(step, observation.step, name, runs)

    # -- what a side reports of its snapshots -------------------------------------------------

    def _believe(self, step: AnyStep, observation: Observation) -> None:
        """Learn from status lines that a snapshot is invalid, or that a merge has finished."""
        texts = {name: state.status for name, state in observation.state.items() if state}
        if isinstance(step, do.Status) and not step.inactive:
            texts[step.name] = observation.text
        for name, text in texts.items():
            said = (text or "").splitlines()
            for words, line in zip(said, self.world.live(name), strict=False):
                if line.snapshot and line.snapshot.active_in == name:
                    self._believe_line(line.snapshot, words.split())

    def _believe_line(self, snapshot: Snapshot, words: Sequence[str]) -> None:
        """A status line of a snapshot: start, length, type, then ``Invalid`` or its numbers."""
        if len(words) < 4:
            return
        snapshot.invalid = words[3] == "Invalid"
        # A merge has finished when only metadata is allocated: "16/4096 16".
        if snapshot.merge_pending and len(words) == 5 and words[3].split("/")[0] == words[4]:
            snapshot.merged = True
            shown = snapshot.content.within(0, snapshot.sectors)
            self.world.write_merging(snapshot, shown)

    # -- what was read ------------------------------------------------------------------------

    def _verify(self, step: AnyStep, index: int, name: str, runs: Runs) -> Iterator[BrokenPromise]:
        """Compare what was read from one device."""
        for start, part in self._ranges(step, name, runs):
            end = start + pattern.sectors_of(part)
            found = list(breaches(self.world.content(name, start, end), start, part))
            if found:
                yield self._report(index, name, found)
                self._settle(name, found)

    def _ranges(self, step: AnyStep, name: str, runs: Runs) -> list[tuple[int, Runs]]:
        """What was read as (first sector, runs); a large device shows only its two ends."""
        if isinstance(step, do.Read):
            return [(step.sector, runs)]
        size = max((line.end for line in self.world.live(name)), default=0)
        ranges = rules.examined(size)
        if len(ranges) == 1:
            return [(0, runs)]
        read, found, at = pattern.Contents(self.world.seed, runs), [], 0
        for first, count in ranges:
            found.append((first, read.cut(at, at + count)))
            at += count
        return found

    def _report(self, step: int, name: str, found: Sequence[Breach]) -> BrokenPromise:
        """The first place that breaks a promise, in words, and the number of sectors that do."""
        first = found[0]
        sector, content = first.promised.start, first.promised.content
        leaf = next((piece.leaf for piece in self.world.pieces(name, sector, sector + 1)), None)
        return BrokenPromise(
            step=step,
            device=name,
            sector=sector,
            sectors=sum(breach.promised.sectors for breach in found),
            promised=_words(content, sector),
            read=first.read,
            rule=SNAPSHOT_RULE if isinstance(leaf, Snapshot) else OWN_RULE,
        )

    def _settle(self, name: str, found: Sequence[Breach]) -> None:
        """Promise nothing more for what is broken; one report is enough."""
        for breach in found:
            start, end = breach.promised.start, breach.promised.end
            for piece in self.world.pieces(name, start, end):
                if piece.leaf:
                    piece.leaf.content.drop(piece.at, piece.at_end)


def _words(content: Content, sector: int) -> str:
    if isinstance(content, Stamp):
        return (
            f"sector {sector + content.shift} of {content.device}, generation {content.generation}"
        )
    return "zeros"
