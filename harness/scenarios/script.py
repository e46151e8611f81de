"""The pen that scenarios are written with: each call appends steps, nothing runs.

What a scenario leaves out is chosen so that more is seen: a write takes a new generation, a device
gets a table and is resumed, a snapshot is as long as its origin.
"""

import msgspec

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


class Script:
    """Collects the steps of one scenario."""

    def __init__(self) -> None:
        self.steps: list[AnyStep] = []
        self.not_compared: list[NotCompared] = []
        self._sectors: dict[str, int] = {}
        self._generation = 0

    def leave_out(self, layer: Layer, reason: str) -> None:
        """Declare that ``layer`` cannot be compared here, and why."""
        self.not_compared.append(NotCompared(layer, reason))

    def _sectors_of(self, name: str) -> int:
        try:
            return self._sectors[name]
        except KeyError:
            raise BadScenario(f"the size of {name} is not known: make it with disk() or device(), "
                              "or say how many sectors") from None

    # -- devices --

    def disk(self, name: str, sectors: int, *, stamped: bool = False,
             block_size: int = 512, can_fail: bool = False, linked: bool = False) -> None:
        """Make a disk; ``stamped`` fills it with sectors that describe themselves.

        One that ``can_fail`` takes faults, and every request that reaches it is compared.  One that
        is ``linked`` can fail, too, and its faults may stop it.
        """
        self._sectors[name] = sectors
        made = Disk(name=name, sectors=sectors, fill="stamp" if stamped else "zero")
        if block_size != made.block_size:  # a default that is given is not left out in JSON
            made = msgspec.structs.replace(made, block_size=block_size)
        if can_fail or linked:
            made = msgspec.structs.replace(made, can_fail=True)
        if linked:
            made = msgspec.structs.replace(made, linked=True)
        self.steps.append(made)

    def create(self, name: str) -> None:
        """Make a mapped device without a table."""
        self.steps.append(Create(name=name))

    def load(self, name: str, *lines: TargetLine, read_only: bool = False) -> None:
        """Load a table."""
        if lines:
            self._sectors[name] = lines[-1].start + lines[-1].length
        self.steps.append(Load(name=name, table=lines, read_only=read_only))

    def resume(self, *names: str) -> None:
        """Resume, which makes a loaded table live."""
        self.steps += [Resume(name=name) for name in names]

    def suspend(self, *names: str) -> None:
        """Suspend."""
        self.steps += [Suspend(name=name) for name in names]

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

    def device(self, name: str, *lines: TargetLine, read_only: bool = False) -> None:
        """Create, load and resume."""
        self.create(name)
        self.load(name, *lines, read_only=read_only)
        self.resume(name)

    def reload(self, name: str, *lines: TargetLine, read_only: bool = False) -> None:
        """Load, suspend and resume: another table for a device that has one."""
        self.load(name, *lines, read_only=read_only)
        self.suspend(name)
        self.resume(name)

    def snapshot_line(self, origin: str, cow: str, store: str, chunk: int, *,
                      sectors: int | None = None, features: str = "") -> TargetLine:
        """The table line of a snapshot, as long as its origin unless ``sectors`` says else."""
        args = f"{{{origin}}} {{{cow}}} {store} {chunk} {features}".rstrip()
        return TargetLine(0, sectors or self._sectors_of(origin), "snapshot", args)

    def origin_line(self, device: str) -> TargetLine:
        """The table line of a snapshot-origin."""
        return TargetLine(0, self._sectors_of(device), "snapshot-origin", f"{{{device}}}")

    def snapshot(self, name: str, origin: str, cow: str, store: str, chunk: int, *,
                 sectors: int | None = None, read_only: bool = False) -> None:
        """Create, load and resume a snapshot."""
        self.device(name, self.snapshot_line(origin, cow, store, chunk, sectors=sectors),
                    read_only=read_only)

    def origin(self, name: str, device: str) -> None:
        """Create, load and resume a snapshot-origin."""
        self.device(name, self.origin_line(device))

    def merge_line(self, origin: str, cow: str, store: str, chunk: int, *,
                   sectors: int | None = None) -> TargetLine:
        """The table line of a snapshot-merge."""
        args = f"{{{origin}}} {{{cow}}} {store} {chunk}"
        return TargetLine(0, sectors or self._sectors_of(origin), "snapshot-merge", args)

    def merge(self, name: str, snapshot: str, origin: str, cow: str, chunk: int, *,
              store: str = "P") -> None:
        """Merge ``snapshot`` into ``origin`` through device ``name``, as LVM does it.

        Before this, other snapshots must run; afterwards ``snapshot`` is an error target.
        """
        self.load(name, self.merge_line(origin, cow, store, chunk))
        self.suspend(snapshot, name)
        self.resume(name)
        self.load(snapshot, TargetLine(0, self._sectors_of(origin), "error"))
        self.resume(snapshot)

    def snapshot_and_origin(self, store: str, chunk: int, *, origin_sectors: int = 256,
                            cow_sectors: int = 512) -> None:
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

    def write(self, device: str, sector: int, sectors: int, *, zeros: bool = False,
              buffered: bool = False) -> None:
        """Write sectors of a new generation."""
        self._generation += 1
        self.steps.append(Write(device=device, sector=sector, sectors=sectors,
                                generation=self._generation, fill="zero" if zeros else "stamp",
                                buffered=buffered))

    def poke(self, device: str, sector: int, data: bytes) -> None:
        """Write literal bytes, filled up with zeros to whole sectors."""
        self.steps.append(Poke(device=device, sector=sector,
                               data=data + bytes(-len(data) % 512)))

    def read(self, device: str, sector: int, sectors: int, *, buffered: bool = False) -> None:
        """Read."""
        self.steps.append(Read(device=device, sector=sector, sectors=sectors, buffered=buffered))

    def parallel(self, *ios: tuple[str, int, int], reads: tuple[tuple[str, int, int], ...] = (),
                 resume: tuple[str, ...] = ()) -> None:
        """Several writes in flight at once, each (device, sector, sectors), and reads after them.

        Devices to ``resume`` are suspended; they are resumed once everything is submitted.
        """
        writes: list[Write | Read] = []
        for device, sector, sectors in ios:
            self._generation += 1
            writes.append(Write(device=device, sector=sector, sectors=sectors,
                                generation=self._generation))
        for device, sector, sectors in reads:
            writes.append(Read(device=device, sector=sector, sectors=sectors))
        # A default that is given is not left out in JSON.
        made = Parallel(ios=tuple(writes))
        self.steps.append(msgspec.structs.replace(made, resume=resume) if resume else made)

    def flush(self, device: str) -> None:
        """Flush."""
        self.steps.append(Flush(device=device))

    def discard(self, device: str, sector: int, sectors: int) -> None:
        """Discard."""
        self.steps.append(Discard(device=device, sector=sector, sectors=sectors))

    def zeroout(self, device: str, sector: int, sectors: int) -> None:
        """Zero a range (BLKZEROOUT)."""
        self.steps.append(Zeroout(device=device, sector=sector, sectors=sectors))

    def fault(self, disk: str, op: Op, sector: int = 0, sectors: int | None = None, *,
              nth: int = 1, count: int = 1, how: How = "error") -> None:
        """The ``nth`` request of a kind to a range of a disk fails, and ``count`` in all.

        ``count`` 0: until it is healed; no ``sectors``: to the end of the disk; ``how``: the disk
        may stop there, for a while or until it is healed.
        """
        made = Fault(device=disk, op=op, sector=sector, sectors=sectors, nth=nth, count=count)
        if how != made.how:
            made = msgspec.structs.replace(made, how=how)
        self.steps.append(made)

    def heal(self, *disks: str) -> None:
        """Nothing fails any more."""
        self.steps += [Heal(device=disk) for disk in disks]

    def image(self, *disks: str) -> None:
        """Every byte of a disk, in the middle of things."""
        self.steps += [Image(device=disk) for disk in disks]

    def examine(self) -> None:
        """Read everything; each scenario ends with one without being told."""
        self.steps.append(Examine())

    def parameter(self, name: str, value: str) -> None:
        """Set a parameter of module dm_snapshot."""
        self.steps.append(Parameter(name=name, value=value))

    def crash(self, how: str) -> None:
        """Lose the guest on purpose."""
        self.steps.append(Crash(how=how))  # type: ignore[arg-type]
