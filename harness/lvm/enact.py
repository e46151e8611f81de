"""LVM2 itself as the user of the snapshot targets: what it does is replayed in the twin.

In the guest the real ``lvm`` carries out a situation (`harness.kernel.lvm_agent`).  Its debug log
says which ioctls it made (`harness.lvm.log`); with our own I/O between its commands they are an
ordinary trace.  The twin executes it, with the facts that the guest's probe found, and after every
command and every step of ours the two are compared in all layers: status and table lines, events,
uevents, log lines, contents, and every byte of the disk on which LVM keeps its volumes.

In addition, the store that LVM leaves is read (`harness.store`) and must explain what the snapshot
shows.  After a power cut only the image of the disk is left: the store on it must be the one from
before, with exceptions missing only from its end, and what was merged must be the snapshot's.

LVM's own metadata, in front of the first extent, is copied into the trace, not simulated.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from harness.campaign.observe import Guests, answered, observe
from harness.compare import diff
from harness.errors import BadScenario, GuestLost, ProvisioningError
from harness.files import ours_or_empty, read_stranger, write_whole
from harness.guest.catalogue import Kernel
from harness.guest.events import Outcome
from harness.guest.recording import NOT_STARTED, Earlier, next_number
from harness.kernel.disks.disks import file_of
from harness.lvm import sound
from harness.lvm import store as lvm_store
from harness.lvm.log import LogReader, name_events
from harness.lvm.situations import DATA_SECTOR, DISK, ORIGIN, SITUATIONS, SNAPSHOT, Situation
from harness.trace import pattern
from harness.trace.files import Header, Trace, dumps, loads
from harness.trace.observations import DeviceState, Observation, Runs
from harness.trace.steps import AnyStep, Disk, Examine, Image, Poke, encode
from harness.twin import explore
from harness.twin.profile import Profile
from harness.units import SECTOR_BYTES, bytes_of_sectors
from harness.wire.journal import Ready
from harness.wire.lvm import DISKS, PV, Action, Boot, Lvm, LvmJob, PowerCut, log_name

CURE: Final = "lvm2 is missing. Type: sudo apt-get install -y lvm2"
SEED: Final = 1
GUESTS: Final = "guests"
"""Directory of the guests' files, next to the traces."""
_LOG_BYTES_MAX: Final = 16 << 20
_DISK_BYTES_MAX: Final = 1 << 30
LVM_AGENT: Final = ("-m", "harness.kernel.lvm_agent")
_SBIN: Final = ("/usr/sbin", "/sbin")
_STEP_LIMIT_S: Final = 120.0
_BOOT_LIMIT_S: Final = 120.0

Simulate = Callable[[Sequence[AnyStep], int, Profile], Sequence[Observation]]


@dataclass(frozen=True, slots=True)
class Part:
    """The steps that an action became.

    Attributes:
        words: the action, for humans.
        first, end: its steps in the trace.
        shown: how the comparison names it.
    """

    words: str
    first: int
    end: int
    shown: AnyStep


@dataclass(slots=True)
class Findings:
    """The outcome of a situation.

    Attributes:
        commands: LVM commands that were run.
        calls: their ioctls that change something.
        values: values compared with the twin.
        store: what was read from its stores, in words.
        faults: everything that is not as it should be; empty means *same*.
    """

    situation: Situation
    commands: int = 0
    calls: int = 0
    values: int = 0
    store: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    traces: list[Path] = field(default_factory=list)


def check_installed() -> None:
    """Make sure that LVM2 is installed; a guest sees the host's files.

    Raises:
        ProvisioningError: it is not; says what to type.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SBIN))
    if shutil.which("lvm", path=path) is None:
        raise ProvisioningError(CURE)


def chosen(names: Sequence[str]) -> tuple[Situation, ...]:
    """The situations called ``names``; all of them if there are no names.

    Raises:
        BadScenario: a name is unknown.
    """
    known = {situation.name: situation for situation in SITUATIONS}
    for name in names:
        if name not in known:
            raise BadScenario(f"there is no situation {name}: choose from {', '.join(known)}")
    return tuple(situation for situation in SITUATIONS if not names or situation.name in names)


# -- running --------------------------------------------------------------------------------------


def run(
    kernel: Kernel,
    situations: Sequence[Situation],
    directory: Path,
    *,
    jobs: int = 1,
    tell: Callable[[str], None] = lambda _: None,
    simulate: Simulate = explore.run,
) -> tuple[str, list[Findings]]:
    """Carry out situations in guests of ``kernel``; its release and a row for each.

    Args:
        kernel: the kernel that the guests boot.
        situations: what to do.
        directory: where the guests' files and the traces go.
        jobs: number of guests at the same time.
        tell: called with progress.
        simulate: the simulation that the kernel is compared with.

    Raises:
        ProvisioningError: LVM2 is missing, or a guest cannot be provided.
        GuestLost: a guest did not survive what was asked of it.
        BadScenario: a command failed, or one of our steps has no meaning.
    """
    check_installed()
    directory = directory.absolute()
    earlier, aside = Earlier([directory / GUESTS]), directory / NOT_STARTED
    ours_or_empty(aside)
    try:
        return _run(kernel, situations, directory, jobs, tell, simulate, earlier)
    except ProvisioningError as fault:
        fault.args = (earlier.as_left(str(fault), aside),)
        raise
    finally:
        earlier.bring_back(aside)


def _run(
    kernel: Kernel,
    situations: Sequence[Situation],
    directory: Path,
    jobs: int,
    tell: Callable[[str], None],
    simulate: Simulate,
    earlier: Earlier,
) -> tuple[str, list[Findings]]:
    rows = {situation.name: Findings(situation) for situation in situations}
    release = ""
    last: dict[str, _Replay] = {}
    for number in range(max(len(situation.boots) for situation in situations)):
        booting = [situation for situation in situations if len(situation.boots) > number]
        # After a power cut, nothing more can run in the same guest.
        alone = [[each] for each in booting if len(each.boots) > number + 1]
        together = [each for each in booting if len(each.boots) == number + 1]
        for group in (*alone, *([together] if together else [])):
            boots = {
                each.name: Boot(
                    each.name, each.boots[number], SEED, str(last[each.name].left) if number else ""
                )
                for each in group
            }
            tell(f"{kernel.name}: {', '.join(boots)}{f', boot {number + 1}' if number else ''}")
            for name, outcome, results in _outcomes(kernel, boots, directory, jobs, earlier):
                ready = answered(outcome)
                release = ready.release
                replay = _Replay(
                    rows[name],
                    boots[name],
                    outcome.observations,
                    results,
                    Profile.from_probe(ready.probe),
                )
                replay.compare(simulate)
                replay.keep(directory / f"{name}{f'-{number + 1}' if number else ''}.jsonl")
                if number:
                    last[name].check_end(replay)
                last[name] = replay
    return release, list(rows.values())


class Boots:
    """Boots of situations as work, by the situations' names."""

    def __init__(self, boots: Sequence[Boot]) -> None:
        self._boots = {boot.name: boot for boot in boots}

    def names(self) -> list[str]:
        """The names of the situations."""
        return list(self._boots)

    def steps(self) -> dict[str, int]:
        """Number of actions in each boot."""
        return {name: len(boot.actions) for name, boot in self._boots.items()}

    def job(self, kernel: Kernel, names: Sequence[str]) -> bytes:
        """See `harness.wire.lvm`."""
        return encode(LvmJob(str(kernel.modules), tuple(self._boots[name] for name in names)))

    def hangs_in(self, _name: str, _ready: Ready) -> None:
        """Nothing is predicted: what LVM does is found out."""

    def dies_in(self, _name: str, _ready: Ready, _step: int) -> bool:
        """Nor is this."""
        return False


def _outcomes(
    kernel: Kernel, boots: dict[str, Boot], directory: Path, jobs: int, earlier: Earlier
) -> Iterator[tuple[str, Outcome, Path]]:
    """Name, outcome and results directory of each boot."""
    results = directory / GUESTS
    outcomes = observe(
        Boots(list(boots.values())),
        Guests(
            kernel=kernel,
            results=results,
            count=jobs,
            argv=LVM_AGENT,
            step_limit_s=_STEP_LIMIT_S,
            boot_limit_s=_BOOT_LIMIT_S,
            first_number=next_number(results.glob("*")),
        ),
    )
    earlier.forget()
    for name, outcome in outcomes.items():
        answered(outcome)
        # Of several attempts, only the last one ran to the end.
        logs = results.glob(f"guest-*/{name}-[0-9]*.log")
        directories = [log.parent for log in logs]
        if not directories:
            raise GuestLost(f"{name}: the guest left no LVM log in {results}")
        yield name, outcome, max(directories)


# -- one boot -------------------------------------------------------------------------------------


class _Replay:
    """One boot: its trace, and both sides of it."""

    def __init__(
        self,
        row: Findings,
        boot: Boot,
        seen: Sequence[Observation],
        results: Path,
        profile: Profile,
    ) -> None:
        self._row = row
        self._boot = boot
        sound.check(boot, seen)
        self._seen = list(seen)
        self._results = results
        self._profile = profile
        self._steps: list[AnyStep] = []
        self._parts: list[Part] = []
        self._head = bytes(bytes_of_sectors(DATA_SECTOR))
        self._states: dict[str, DeviceState] = {}
        self._origin = b""
        self._before: lvm_store.Volumes | None = None
        self._places: dict[str, str] = {}
        reader = LogReader()
        for index, action in enumerate(boot.actions):
            self._append(index, action, reader)
        self._written = dumps(self.trace)

    @property
    def left(self) -> Path:
        """The disk, as the guest left it."""
        return file_of(self._results / DISKS, DISK)

    def _append(self, index: int, action: Action, reader: LogReader) -> None:
        """Add the steps of an action, and note which were refused."""
        first = len(self._steps)
        if isinstance(action, PowerCut):
            self._row.commands += 1
            return
        shown: AnyStep
        if isinstance(action, Lvm):
            self._row.commands += 1
            before = reader.names
            log = read_stranger(self._results / log_name(self._boot.name, index), _LOG_BYTES_MAX)
            calls = reader.read(log.decode(errors="replace"))
            self._row.calls += len(calls)
            self._steps += [call.step for call in calls]
            shown = Image(device=DISK)
            self._steps += [*self._metadata(self._seen[index].image[DISK]), shown]
            error = next((call.error for call in calls if call.error), None)
            seen = self._seen[index]
            self._seen[index] = msgspec.structs.replace(
                seen, error=error, uevents=name_events(seen.uevents, calls, before, reader.names)
            )
            words = f"lvm {' '.join(action.words)}"
        else:
            self._steps.append(action)
            shown, words = action, diff.words(action)
            if isinstance(action, Disk) and self._boot.image:
                self._steps += self._image(_disk(Path(self._boot.image)))
        self._parts.append(Part(words, first, len(self._steps), shown))

    def _metadata(self, image: Runs) -> Iterator[Poke]:
        """What LVM wrote in front of the first extent."""
        head = pattern.decode(SEED, image)[: len(self._head)]
        yield from _pokes(self._head, head)
        self._head = head

    def _image(self, image: bytes) -> Iterator[Poke]:
        """What was on the disk before this boot."""
        yield from _pokes(bytes(len(image)), image)
        self._head = image[: len(self._head)]

    @property
    def trace(self) -> Trace:
        """The whole boot as an ordinary trace."""
        name = f"lvm {self._boot.name}"
        return Trace(
            Header(scenario=name, seed=SEED, about=self._row.situation.about), tuple(self._steps)
        )

    def keep(self, path: Path) -> None:
        """Write the trace to a file."""
        write_whole(path, self._written)
        self._row.traces.append(path)

    def compare(self, simulate: Simulate) -> None:
        """Compare both sides, action by action; then check the stores."""
        # LVM's log comes from a guest: the trace made from it keeps to the bounds of any trace.
        twin = simulate(loads(self._written).steps, SEED, self._profile)
        parts = self._parts
        view = Trace(self.trace.header, tuple(part.shown for part in parts))
        comparison = diff.compare(
            view,
            self._seen[: len(parts)],
            [_sum(index, twin[part.first : part.end]) for index, part in enumerate(parts)],
        )
        self._row.values += sum(comparison.compared.values())
        self._row.faults += [
            diff.render(msgspec.structs.replace(divergence, verb=parts[divergence.step].words))
            for divergence in comparison.divergences
        ]
        for part, observation in zip(parts, self._seen, strict=False):
            self._learn(part, observation)
        if len(parts) < len(self._seen):
            self._check_cut()

    # -- stores -----------------------------------------------------------------------------------

    def _learn(self, part: Part, seen: Observation) -> None:
        """Keep what was seen; if a snapshot was read completely, its store must explain it."""
        for name, state in seen.state.items():
            if state is None:
                self._states.pop(name, None)
            else:
                self._states[name] = state
        content = {
            name: pattern.decode(SEED, runs)
            for name, runs in seen.content.items()
            if isinstance(part.shown, Examine)
        }
        if ORIGIN in content:
            self._origin = content[ORIGIN]
        for name, whole in content.items():
            status = self._states[name].status or ""
            if f"{name}-cow" not in content or status.split()[2] != "snapshot":
                continue
            shown = b"" if "Invalid" in status else whole
            volumes = lvm_store.Volumes(content[f"{name}-cow"], content[f"{ORIGIN}-real"], shown)
            self._say(f"{name} at {part.words}", lvm_store.check(volumes, status))
            if name == SNAPSHOT:
                self._before = volumes
                self._places = {
                    each: self._states[each].table or ""
                    for each in (f"{name}-cow", f"{ORIGIN}-real")
                }

    def _say(self, where: str, report: lvm_store.Report) -> None:
        self._row.store.append(report.words)
        self._row.faults += [f"store of {where}: {fault}" for fault in report.faults]

    def _check_cut(self) -> None:
        if self._before is None:
            raise self._unseen()
        disk = _disk(self.left)
        cow, origin = (lvm_store.cut_out(table, disk, PV) for table in self._places.values())
        self._say("the disk after the power cut", lvm_store.check_cut(self._before, cow, origin))

    def _unseen(self) -> GuestLost:
        return GuestLost(f"{self._boot.name}: the guest showed no snapshot before it lost power")

    def check_end(self, after: "_Replay") -> None:
        """The next boot must end with what the snapshot showed before this one lost power."""
        if self._before is None:
            raise self._unseen()
        if after._origin != self._before.shown:
            self._row.faults.append("after the merge the origin is not what the snapshot showed")


def _disk(path: Path) -> bytes:
    """A disk as a guest left it, in its own directory within the guest's results."""
    return read_stranger(path, _DISK_BYTES_MAX, below=path.parents[1])


def _sum(index: int, seen: Sequence[Observation]) -> Observation:
    """A part of the twin's observations, with the changes added up."""
    state: dict[str, DeviceState | None] = {}
    for observation in seen:
        state |= observation.state
    last = seen[-1]
    return Observation(
        step=index,
        error=next((each.error for each in seen if each.error), None),
        text=last.text,
        content=last.content,
        image=last.image,
        state=state,
        uevents=tuple(event for each in seen for event in each.uevents),
        log=tuple(line for each in seen for line in each.log),
    )


def _pokes(before: bytes, after: bytes) -> Iterator[Poke]:
    """Steps that turn ``before`` into ``after``: the sectors that differ, run by run."""
    old, new = (np.frombuffer(data, np.uint8).reshape(-1, SECTOR_BYTES) for data in (before, after))
    changed = np.flatnonzero((old != new).any(axis=1))
    for run in np.split(changed, np.flatnonzero(np.diff(changed) != 1) + 1):
        if len(run):
            first, end = int(run[0]), int(run[-1]) + 1
            yield Poke(device=DISK, sector=first, data=new[first:end].tobytes())


# -- telling --------------------------------------------------------------------------------------


def table(kernel: str, release: str, rows: Sequence[Findings]) -> list[str]:
    """A Markdown table, and below it everything that differs."""
    lines = [
        f"{kernel} ({release})",
        "",
        "| situation | LVM commands | ioctls | values compared | its store | verdict |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.situation.name} | {row.commands} | {row.calls} | {row.values:,} | "
        f"{', '.join(row.store)} | {'DIFFERENT' if row.faults else 'same'} |"
        for row in rows
    ]
    for row in rows:
        lines += [f"\n{row.situation.name}: {fault}" for fault in row.faults]
    return lines
