"""The pen that scenarios are written with: each call appends steps, nothing runs.

Defaults are chosen so that more is visible: a write takes a new generation, a device gets a table
and is resumed, a snapshot is as long as its origin.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from harness.errors import BadScenario
from harness.trace.faults import How, Op
from harness.trace.files import Layer, NotCompared
from harness.trace.steps import (
    AnyStep,
    Clear,
    Crash,
    Create,
    Discard,
    Disk,
    Examine,
    Fault,
    Flush,
    Heal,
    Image,
    Load,
    Message,
    Parallel,
    Parameter,
    Poke,
    Read,
    Remove,
    Rename,
    Resume,
    Status,
    Suspend,
    Table,
    TargetLine,
    Wait,
    Write,
    Zeroout,
)
from harness.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class Segment:
    """One target of a table, of ``sectors`` sectors; it begins where the one before it ends.

    In ``args`` ``{name}`` stands for a device.  A segment of no sectors is left out, so callers
    need not check whether anything lies before or after a place.
    """

    sectors: int
    type: str
    args: str = ""


def linear(device: str, sectors: int, offset: int = 0) -> Segment:
    """Sectors of ``device`` from ``offset`` on."""
    return Segment(sectors, "linear", f"{{{device}}} {offset}")


def error(sectors: int) -> Segment:
    """Nothing works here."""
    return Segment(sectors, "error")


def zero(sectors: int) -> Segment:
    """Reads zeros, forgets writes."""
    return Segment(sectors, "zero")


def delay(
    device: str, sectors: int, ms: int, offset: int = 0, *, write_ms: int | None = None
) -> Segment:
    """As `linear`, but everything arrives ``ms`` milliseconds later; writes, ``write_ms``."""
    args = f"{{{device}}} {offset} {ms}"
    if write_ms is not None:
        args += f" {{{device}}} {offset} {write_ms}"
    return Segment(sectors, "delay", args)


def patched(device: str, sectors: int, at: int, patch: Segment) -> tuple[Segment, ...]:
    """``sectors`` sectors of ``device``, but with ``patch`` in its place from sector ``at`` on."""
    end = at + patch.sectors
    return linear(device, at), patch, linear(device, sectors - end, end)


def reading(device: str, sector: int, sectors: int) -> Read:
    """A read among the requests of `Script.parallel`."""
    return Read(device=device, sector=sector, sectors=sectors)


def writing(device: str, sector: int, sectors: int, generation: int) -> Write:
    """A write among the requests of `Script.parallel`, with an explicit generation."""
    return Write(device=device, sector=sector, sectors=sectors, generation=generation)


class _Steps(list[AnyStep]):
    """Steps, and on which line of a file each was written."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: list[int] = []

    def append(self, step: AnyStep) -> None:
        super().append(step)
        self._note()

    def __iadd__(self, steps: Iterable[AnyStep]) -> Self:  # type: ignore[misc, override]
        super().extend(steps)
        self._note()
        return self

    def _note(self) -> None:
        line = self.line()
        self.lines += [line] * (len(self) - len(self.lines))

    def line(self) -> int:
        """The line of the file that runs now; 0 if none does."""
        frame = sys._getframe(1)
        while frame.f_code.co_filename != self.file:
            if frame.f_back is None:
                return self.lines[-1] if self.lines else 0
            frame = frame.f_back
        return frame.f_lineno


class Script:
    """Collects the steps of one scenario.

    Args:
        file: where it is written, if the line of each step is to be known.
    """

    def __init__(self, file: str = "") -> None:
        self.steps: list[AnyStep] = _Steps(file) if file else []
        self.names: dict[str, str] = {}
        self.not_compared: list[NotCompared] = []
        self._sectors: dict[str, int] = {}
        self._generation = 0

    def line_of(self, step: int) -> int:
        """On which line of its file a step was written; 0 where that is not known."""
        lines = self.steps.lines if isinstance(self.steps, _Steps) else []
        return lines[step] if 0 <= step < len(lines) else 0

    def call(self, name: str, known_as: str) -> None:
        """Say how people know a device; its own name must fit into a sector."""
        self.names[name] = known_as

    def leave_out(self, layer: Layer, reason: str) -> None:
        """Declare that ``layer`` cannot be compared here, and why."""
        self.not_compared.append(NotCompared(layer, reason))

    def _sectors_of(self, name: str) -> int:
        try:
            return self._sectors[name]
        except KeyError:
            raise BadScenario(
                f"the size of {name} is not known: create it with disk() or device(), "
                "or say how many sectors"
            ) from None

    def _new_generation(self) -> int:
        self._generation += 1
        return self._generation

    # -- devices --

    def disk(
        self,
        name: str,
        sectors: int,
        *,
        stamped: bool = False,
        block_size: int = 512,
        can_fail: bool = False,
        linked: bool = False,
    ) -> None:
        """Make a disk; ``stamped`` fills it with sectors that describe themselves.

        One that ``can_fail`` takes faults, and every request that reaches it is compared.  One that
        is ``linked`` can fail, too, and its faults may stop it.
        """
        self._sectors[name] = sectors
        self.steps.append(
            Disk(
                name=name,
                sectors=sectors,
                fill="stamp" if stamped else "zero",
                block_size=block_size,  # type: ignore[arg-type]
                can_fail=can_fail or linked,
                linked=linked,
            )
        )

    def create(self, name: str) -> None:
        """Make a mapped device without a table."""
        self.steps.append(Create(name=name))

    def load(self, name: str, *lines: Segment | TargetLine, read_only: bool = False) -> None:
        """Load a table; segments lie end to end, a `TargetLine` says where it begins."""
        table: list[TargetLine] = []
        end = 0
        for line in lines:
            if isinstance(line, TargetLine):
                table.append(line)
            elif line.sectors:
                table.append(TargetLine(end, line.sectors, line.type, line.args))
            end = table[-1].start + table[-1].length if table else 0
        if table:
            self._sectors[name] = end
        self.steps.append(Load(name=name, table=tuple(table), read_only=read_only))

    def resume(self, *names: str) -> None:
        """Resume, which makes a loaded table live."""
        self.steps += [Resume(name=name) for name in names]

    def suspend(self, *names: str, flush: bool = True, lockfs: bool = True) -> None:
        """Suspend; ``flush`` waits for I/O in flight, ``lockfs`` freezes a file system above."""
        self.steps += [Suspend(name=name, flush=flush, lockfs=lockfs) for name in names]

    def clear(self, name: str) -> None:
        """Drop the inactive table."""
        self.steps.append(Clear(name=name))

    def remove(self, *names: str) -> None:
        """Remove mapped devices."""
        self.steps += [Remove(name=name) for name in names]

    def rename(self, name: str, to: str) -> None:
        """Give a mapped device another name."""
        if name in self._sectors:
            self._sectors[to] = self._sectors.pop(name)
        self.steps.append(Rename(name=name, to=to))

    def prepare(self, name: str, *lines: Segment | TargetLine, read_only: bool = False) -> None:
        """Create and load; nothing is live yet."""
        self.create(name)
        self.load(name, *lines, read_only=read_only)

    def device(self, name: str, *lines: Segment | TargetLine, read_only: bool = False) -> None:
        """Create, load and resume."""
        self.prepare(name, *lines, read_only=read_only)
        self.resume(name)

    def reload(self, name: str, *lines: Segment | TargetLine, read_only: bool = False) -> None:
        """Load, suspend and resume: another table for a device that has one."""
        self.load(name, *lines, read_only=read_only)
        self.suspend(name)
        self.resume(name)

    def snapshot_line(
        self,
        origin: str,
        cow: str,
        store: str,
        chunk: int,
        *,
        sectors: int | None = None,
        features: str = "",
    ) -> Segment:
        """The table line of a snapshot, as long as its origin unless ``sectors`` says otherwise."""
        args = f"{{{origin}}} {{{cow}}} {store} {chunk} {features}".rstrip()
        return Segment(sectors or self._sectors_of(origin), "snapshot", args)

    def origin_line(self, device: str, *, sectors: int | None = None) -> Segment:
        """The table line of a snapshot-origin, as long as its device."""
        return Segment(sectors or self._sectors_of(device), "snapshot-origin", f"{{{device}}}")

    def snapshot(
        self,
        name: str,
        origin: str,
        cow: str,
        store: str,
        chunk: int,
        *,
        sectors: int | None = None,
        read_only: bool = False,
    ) -> None:
        """Create, load and resume a snapshot."""
        self.device(
            name,
            self.snapshot_line(origin, cow, store, chunk, sectors=sectors),
            read_only=read_only,
        )

    def reactivate(self, name: str, origin: str, cow: str, store: str, chunk: int) -> None:
        """Remove a snapshot, and recreate it over the present contents of its COW device."""
        self.remove(name)
        self.snapshot(name, origin, cow, store, chunk)

    def origin(self, name: str, device: str) -> None:
        """Create, load and resume a snapshot-origin."""
        self.device(name, self.origin_line(device))

    def merge_line(
        self, origin: str, cow: str, store: str, chunk: int, *, sectors: int | None = None
    ) -> Segment:
        """The table line of a snapshot-merge."""
        args = f"{{{origin}}} {{{cow}}} {store} {chunk}"
        return Segment(sectors or self._sectors_of(origin), "snapshot-merge", args)

    def merge(
        self, name: str, snapshot: str, origin: str, cow: str, chunk: int, *, store: str = "P"
    ) -> None:
        """Merge ``snapshot`` into ``origin`` through device ``name``, as LVM does it.

        Before this, other snapshots must run; afterwards ``snapshot`` is an error target.
        """
        self.load(name, self.merge_line(origin, cow, store, chunk))
        self.suspend(snapshot, name)
        self.resume(name)
        self.load(snapshot, error(self._sectors_of(origin)))
        self.resume(snapshot)

    def snapshot_and_origin(
        self, store: str, chunk: int, *, origin_sectors: int = 256, cow_sectors: int = 512
    ) -> None:
        """The usual cast: disks ``base`` (stamped), ``cow``; snapshot ``snap``, origin ``org``."""
        self.disk("base", origin_sectors, stamped=True)
        self.disk("cow", cow_sectors)
        self.snapshot("snap", "base", "cow", store, chunk)
        self.origin("org", "base")

    # -- asking --

    def status(self, name: str, *, inactive: bool = False) -> None:
        """Ask for the status lines (they are compared after every step anyway)."""
        self.steps.append(Status(name=name, inactive=inactive))

    def table(self, name: str, *, inactive: bool = False) -> None:
        """Ask for the table lines."""
        self.steps.append(Table(name=name, inactive=inactive))

    def message(self, name: str, text: str, *, sector: int = 0) -> None:
        """Send a target message."""
        self.steps.append(Message(name=name, text=text, sector=sector))

    def wait(self, name: str, event: int) -> None:
        """Wait for an event number other than ``event``."""
        self.steps.append(Wait(name=name, event=event))

    # -- I/O --

    def write(
        self, device: str, sector: int, sectors: int, *, zeros: bool = False, buffered: bool = False
    ) -> None:
        """Write sectors of a new generation."""
        self.steps.append(
            Write(
                device=device,
                sector=sector,
                sectors=sectors,
                generation=self._new_generation(),
                fill="zero" if zeros else "stamp",
                buffered=buffered,
            )
        )

    def poke(self, device: str, sector: int, data: bytes) -> None:
        """Write literal bytes, filled up with zeros to whole sectors."""
        self.steps.append(
            Poke(device=device, sector=sector, data=data + bytes(-len(data) % SECTOR_BYTES))
        )

    def read(self, device: str, sector: int, sectors: int, *, buffered: bool = False) -> None:
        """Read."""
        self.steps.append(Read(device=device, sector=sector, sectors=sectors, buffered=buffered))

    def parallel(
        self, *ios: tuple[str, int, int] | Read | Write, resume: tuple[str, ...] = ()
    ) -> None:
        """Several requests in flight at once, submitted in this order.

        A write of a new generation is (device, sector, sectors); `reading` and `writing` make other
        requests.  Devices to ``resume`` are suspended; they are resumed once everything is
        submitted.
        """
        made = tuple(
            writing(*io, self._new_generation()) if isinstance(io, tuple) else io for io in ios
        )
        self.steps.append(Parallel(ios=made, resume=resume))

    def flush(self, device: str) -> None:
        """Flush."""
        self.steps.append(Flush(device=device))

    def discard(self, device: str, sector: int, sectors: int) -> None:
        """Discard."""
        self.steps.append(Discard(device=device, sector=sector, sectors=sectors))

    def zeroout(self, device: str, sector: int, sectors: int) -> None:
        """Zero a range (BLKZEROOUT)."""
        self.steps.append(Zeroout(device=device, sector=sector, sectors=sectors))

    def fault(
        self,
        disk: str,
        op: Op,
        sector: int = 0,
        sectors: int | None = None,
        *,
        nth: int = 1,
        count: int = 1,
        how: How = "error",
    ) -> None:
        """The ``nth`` request of a kind to a range of a disk fails, and ``count`` in all.

        ``count`` 0: until it is healed; no ``sectors``: to the end of the disk; ``how``: the disk
        may stop there, for a while or until it is healed.
        """
        self.steps.append(
            Fault(device=disk, op=op, sector=sector, sectors=sectors, nth=nth, count=count, how=how)
        )

    def heal(self, *disks: str) -> None:
        """Remove all faults."""
        self.steps += [Heal(device=disk) for disk in disks]

    def image(self, *disks: str) -> None:
        """Observe every byte of a disk in the middle of a scenario."""
        self.steps += [Image(device=disk) for disk in disks]

    def examine(self) -> None:
        """Read everything; each scenario ends with this automatically."""
        self.steps.append(Examine())

    def parameter(self, name: str, value: str) -> None:
        """Set a parameter of module dm_snapshot."""
        self.steps.append(Parameter(name=name, value=value))

    def crash(self, how: str) -> None:
        """Lose the guest deliberately."""
        self.steps.append(Crash(how=how))  # type: ignore[arg-type]
