"""How large a trace may be: the same bounds for both sides, known before either runs.

Traces are untrusted.  `harness.trace.steps` bounds each field by its type; here are the bounds on
steps taken together: how many disks there are, how large they are, how deep devices are stacked,
and how much is moved.  A trace within these bounds runs in a guest's memory and in the twin's, in
minutes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from harness.trace.rules import EXAMINE_SECTORS_MAX, RESERVED
from harness.trace.steps import (
    REQUEST_SECTORS_MAX,
    AnyStep,
    Clear,
    Create,
    Discard,
    Disk,
    Examine,
    Image,
    Load,
    Parallel,
    Poke,
    Read,
    Remove,
    Rename,
    Resume,
    Write,
    Zeroout,
    references,
)
from harness.units import SECTOR_BYTES

TRACE_BYTES_MAX: Final = 64 << 20
LINE_BYTES_MAX: Final = 12 << 20
"""Limit of a trace line: the longest `Poke` in base64, and more."""
STEPS_MAX: Final = 20_000
LINES_MAX: Final = 5 * STEPS_MAX
"""Including empty ones."""
OBSERVATIONS_BYTES_MAX: Final = 128 << 20

DISKS_MAX: Final = 256
DISK_SECTORS_MAX: Final = 8 << 20
"""All disks of a scenario together, each rounded up to MiB; a guest's ram disk has 4 GiB."""
DEVICES_MAX: Final = 1024
"""Mapped devices at a time."""
STACK_MAX: Final = 32
"""Mapped devices stacked on each other."""
WRITTEN_SECTORS_MAX: Final = 1 << 21
"""Data on all disks at a time: 1 GiB.  A disk uses memory only where it was written."""
BUFFERED_SECTORS_MAX: Final = 1 << 18
"""Limit of one step through the page cache: 128 MiB."""
MOVED_SECTORS_MAX: Final = 1 << 24
"""All data that the steps of a scenario read, write and examine: 8 GiB."""


class Excess(NamedTuple):
    """A bound exceeded: the step, the path of the field, and the bound in words."""

    step: int
    field: str
    message: str


def excess(steps: Iterable[AnyStep]) -> Excess | None:
    """The first step that exceeds a bound, None if none does."""
    world = _World()
    for index, step in enumerate(steps):
        for field, message in world.take(step):
            return Excess(index, field, message)
    return None


class _Device:
    """A mapped device as its tables describe it: the devices below, and its length."""

    __slots__ = ("inactive", "live", "loaded_sectors", "sectors")

    def __init__(self) -> None:
        self.live: frozenset[str] = frozenset()
        self.inactive: frozenset[str] = frozenset()
        self.sectors = self.loaded_sectors = 0

    @property
    def below(self) -> frozenset[str]:
        """The devices below it, now or once it is resumed."""
        return self.live | self.inactive


class _World:
    def __init__(self) -> None:
        self.disks: dict[str, int] = {}
        self.devices: dict[str, _Device] = {}
        self.users: dict[str, set[str]] = {}
        self.taken = self.stamped = self.moved = 0

    def take(self, step: AnyStep) -> Iterator[tuple[str, str]]:
        """Do a step, and report bounds it exceeds."""
        for field in ("name", "to"):
            name = getattr(step, field, "")
            if name in RESERVED and isinstance(step, Disk | Create | Rename):
                yield f"$.{field}", f"a device cannot be called {name}"
        match step:
            case Disk():
                yield from self._disk(step)
            case Create(name=name):
                self.devices.setdefault(name, _Device())
                if len(self.devices) > DEVICES_MAX:
                    yield "$.name", f"there may be {DEVICES_MAX} mapped devices at a time"
            case Load(name=name):
                yield from self._load(step)
            case Clear(name=name) if name in self.devices:
                self.devices[name].inactive = frozenset()
            case Resume(name=name) if name in self.devices:
                device = self.devices[name]
                if device.loaded_sectors:
                    device.live, device.inactive = device.inactive, frozenset()
                    device.sectors, device.loaded_sectors = device.loaded_sectors, 0
            case Remove(name=name):
                self.devices.pop(name, None)
            case Rename(name=name, to=to) if name in self.devices and to not in self.devices:
                self._rename(name, to)
            case _:
                yield from self._moves(step)
        if self.moved > MOVED_SECTORS_MAX:
            yield (
                "",
                (
                    f"up to here {self.moved} sectors are read, written and examined; the "
                    f"limit for a scenario is {MOVED_SECTORS_MAX}"
                ),
            )

    def _disk(self, step: Disk) -> Iterator[tuple[str, str]]:
        self.disks[step.name] = step.sectors
        self.taken += -(-step.sectors // REQUEST_SECTORS_MAX) * REQUEST_SECTORS_MAX
        if len(self.disks) > DISKS_MAX:
            yield "$.name", f"there may be {DISKS_MAX} disks"
        if self.taken > DISK_SECTORS_MAX:
            yield (
                "$.sectors",
                (f"disks of {self.taken} sectors together; the limit is {DISK_SECTORS_MAX}"),
            )
        if step.fill == "stamp":
            self.stamped += step.sectors
            self.moved += step.sectors
            if self.stamped > WRITTEN_SECTORS_MAX:
                yield (
                    "$.fill",
                    (
                        f"{self.stamped} sectors are stamped; disks may hold "
                        f"{WRITTEN_SECTORS_MAX} that are not zeros"
                    ),
                )

    def _load(self, step: Load) -> Iterator[tuple[str, str]]:
        device = self.devices.get(step.name)
        if device is None:
            return
        device.inactive = frozenset(references(step))
        device.loaded_sectors = max((line.start + line.length for line in step.table), default=0)
        for below in device.inactive:
            self.users.setdefault(below, set()).add(step.name)
        if self._is_too_high(step.name):
            yield (
                "$.table",
                (f"more than {STACK_MAX} mapped devices are stacked, or some form a cycle"),
            )

    def _is_too_high(self, name: str) -> bool:
        """Whether a device is in a stack of more than `STACK_MAX`, or in a cycle."""
        below = self._levels(name, lambda each: self.devices[each].below)
        return below + self._levels(name, self._users_of) - 1 > STACK_MAX

    def _levels(self, name: str, following: Callable[[str], Iterable[str]]) -> int:
        """Devices on the longest path down from one; in a cycle, more than `STACK_MAX`."""
        level, height = {name}, 0
        while level and height <= STACK_MAX:
            height += 1
            # A device on itself is left to the kernel to refuse.
            level = {
                each
                for one in level
                for each in following(one)
                if each in self.devices and each != one
            }
        return height

    def _users_of(self, name: str) -> list[str]:
        return [
            user
            for user in self.users.get(name, ())
            if user in self.devices and name in self.devices[user].below
        ]

    def _rename(self, name: str, to: str) -> None:
        self.devices[to] = self.devices.pop(name)
        users = self._users_of(name)
        for user in users:
            device = self.devices[user]
            if name in device.live:
                device.live = device.live - {name} | {to}
            if name in device.inactive:
                device.inactive = device.inactive - {name} | {to}
        self.users[to] = set(users)
        for below in self.devices[to].below:
            self.users.setdefault(below, set()).add(to)

    def _moves(self, step: AnyStep) -> Iterator[tuple[str, str]]:
        match step:
            case Write(sectors=sectors) | Read(sectors=sectors):
                self.moved += sectors
                if step.buffered and sectors > BUFFERED_SECTORS_MAX:
                    yield (
                        "$.sectors",
                        (
                            f"a step through the page cache moves up to "
                            f"{BUFFERED_SECTORS_MAX} sectors"
                        ),
                    )
            case Discard(sectors=sectors) | Zeroout(sectors=sectors):
                self.moved += sectors
            case Poke(data=data):
                self.moved += len(data) // SECTOR_BYTES
            case Parallel(ios=ios):
                self.moved += sum(io.sectors for io in ios)
            case Image(device=device):
                self.moved += self.disks.get(device, 0)
            case Examine():
                self.moved += sum(self.disks.values()) + sum(
                    min(device.sectors, EXAMINE_SECTORS_MAX) for device in self.devices.values()
                )
            case _:
                pass
