"""The twin as a backend: steps in, observations out."""

import errno
import string
import time
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Final

import msgspec

from harness.errors import (
    BadScenario,
    DmsnapError,
    KernelCrash,
    NeverReturns,
    TwinInvariant,
    errno_name,
)
from harness.trace import pattern, rules
from harness.trace.observations import (
    SUSPENDED,
    TIMEOUT,
    DeviceState,
    Observation,
    Run,
    Runs,
    Unreadable,
    Zeros,
)
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
    Wait,
    Write,
    Zeroout,
)
from harness.twin.bio import Bio, BlockDevice, is_suspended
from harness.twin.blockio import BlockIO
from harness.twin.clock import Choices, WouldBlockForever
from harness.twin.device_mapper import DeviceMapper
from harness.twin.fallible import FallibleDisk
from harness.twin.mapped_device import MappedDevice
from harness.twin.profile import Profile
from harness.twin.table import Table as LoadedTable
from harness.units import SECTOR_BYTES

_UINT_PARAMETERS: Final = ("snapshot_cow_threshold", "snapshot_copy_throttle")
_DIGITS: Final = {8: string.octdigits, 10: string.digits, 16: string.hexdigits}
_TOO_LARGE: Final = 1 << 64


class TwinBackend:
    """`harness.trace.backend.Backend` on a simulated world.

    ``answers`` are given to the choice points of each world that begins (`harness.twin.clock`);
    ``choices`` tells which points the present one has met, ``crashes`` where it has announced by
    now that the kernel dies, or may, and ``defects`` which known defects have struck, each with the
    step in which it first did.
    """

    def __init__(self, profile: Profile, answers: Mapping[int, int] | None = None) -> None:
        self._profile = profile
        self._answers = answers or {}
        self.begin(0)

    def begin(self, seed: int) -> None:
        """A new, empty world."""
        self._seed = seed
        self.choices = Choices(self._answers)
        self.crashes: list[KernelCrash] = []
        self.defects: dict[str, int] = {}
        self.world = DeviceMapper(self._profile, self.choices)
        self._io = BlockIO(self.world.clock, self._profile)
        self._states: dict[str, DeviceState] = {}

    def end(self) -> list[str]:
        """Forget the world; nothing is ever left over."""
        self.begin(self._seed)
        return []

    def execute(self, index: int, step: AnyStep) -> Observation:
        """Do one step; see `harness.trace.backend.Backend`.

        Raises:
            Unsupported: the step needs what the twin does not model.
            NeverReturns: it waits forever.
            KernelCrash: the kernel crashes in it.
            TwinInvariant: the twin contradicts itself.
        """
        started = time.perf_counter_ns()
        try:
            result = self._do(step)
            self.world.clock.run_until_idle()
        except WouldBlockForever:
            stuck = self._stuck()
            stuck.step = index
            raise stuck from None
        except DmsnapError as fault:
            fault.step = index
            if isinstance(fault, KernelCrash):
                self.crashes.append(fault)
            raise
        except (MemoryError, RecursionError):
            full = BadScenario("the twin has no room for this step: make the scenario smaller")
            full.step = index
            raise full from None
        finally:
            for crash in self.world.take_crashes():
                crash.step = index
                self.crashes.append(crash)
            for name in (
                *self.world.take_defects(),
                *(crash.defect for crash in self.crashes if crash.defect),
            ):
                self.defects.setdefault(name, index)
        return Observation(
            step=index,
            error=result.error,
            text=result.text,
            content=result.content,
            image=result.image,
            state=self._changed_states(),
            uevents=self.world.take_uevents(),
            log=self.world.take_log(),
            requests=self._requests(),
            elapsed_us=(time.perf_counter_ns() - started) // 1000,
        )

    def _stuck(self) -> DmsnapError:
        """Why the world came to rest before the step could return."""
        held = [(name, md.held) for name, md in sorted(self.world.mapped.items()) if md.held]
        if not held:
            return TwinInvariant("the step would never return, and nothing is held back")
        return NeverReturns(
            "it waits for "
            + ", and for ".join(
                f"I/O on {name}, which is suspended ({_request(bios[0])}"
                + (f" and {len(bios) - 1} more)" if len(bios) > 1 else ")")
                for name, bios in held
            )
        )

    def _requests(self) -> dict[str, tuple[str, ...]]:
        """What reached the disks that can fail since the last step."""
        taken = {name: disk.take_requests() for name, disk in self.world.fallible_disks().items()}
        return {name: lines for name, lines in taken.items() if lines}

    # -- one step --

    def _do(self, step: AnyStep) -> "_Result":
        world = self.world
        name = getattr(step, "name", None)
        if name is not None and not isinstance(step, Disk | Parameter):
            rules.check_command(name, is_disk=name in world.disks)
        match step:
            case Disk():
                return self._make_disk(step)
            case Create(name=name):
                rules.check_name(name)
                return _result(world.create(name))
            case Load(name=name, table=table, read_only=read_only):
                # libdevmapper quotes backslashes, so that the target gets what the user wrote.
                lines = tuple(
                    msgspec.structs.replace(line, args=line.args.replace("\\", "\\\\"))
                    for line in table
                )
                return _result(world.load(name, lines, read_only))
            case Clear(name=name):
                return _result(world.clear(name))
            case Resume(name=name):
                return _result(world.resume(name))
            case Suspend(name=name):
                return _result(world.suspend(name))
            case Remove(name=name):
                return _result(world.remove(name))
            case Rename(name=name, to=to):
                rules.check_name(to)
                return _result(world.rename(name, to))
            case Message(name=name, sector=sector, text=text):
                error, answer = world.message(name, sector, text)
                return _Result(errno_name(error) if error else None, text=answer or None)
            case Status(name=name, inactive=inactive):
                return self._lines(name, inactive, "status")
            case Table(name=name, inactive=inactive):
                return self._lines(name, inactive, "table")
            case Wait(name=name, event=event):
                return self._wait(name, event)
            case Examine():
                return self._examine()
            case Parallel():
                return self._parallel(step)
            case Fault():
                return self._fault(step)
            case Heal(device=device):
                self._fallible(device).heal()
                return _Result()
            case Image(device=device):
                return _Result(image={device: self._image(device)})
            case Parameter(name=name, value=value):
                rules.check_parameter(step)
                return _result(self._set_parameter(name, value))
            case Crash():
                raise BadScenario("a crash has no meaning in the twin: run it on a kernel")
            case _:
                return self._do_io(step)

    def _fallible(self, name: str) -> FallibleDisk:
        disk = self.world.fallible_disks().get(name)
        if disk is None:
            raise rules.no_fallible_disk(name)
        return disk

    def _fault(self, step: Fault) -> "_Result":
        disk = self._fallible(step.device)
        sectors = disk.sectors - step.sector if step.sectors is None else step.sectors
        rules.check_fault(step, linked=disk.linked)
        disk.plan.add(step.op, step.sector, sectors, nth=step.nth, count=step.count, how=step.how)
        return _Result()

    def _set_parameter(self, name: str, value: str) -> int:
        """Write a parameter of dm_snapshot (``param_set_uint``, ``param_set_int``)."""
        if name not in _UINT_PARAMETERS:
            return errno.ENOENT
        if not value:
            return 0  # an empty write
        signed = self._profile.threshold_semaphore and name == "snapshot_cow_threshold"
        lowest, end = (-1 << 31, 1 << 31) if signed else (0, 1 << 32)
        number = _number(value, signed=signed)
        if number is None:
            return errno.EINVAL
        if not lowest <= number < end:
            return errno.ERANGE
        if name == "snapshot_cow_threshold":
            self.world.cow_threshold = number
        return 0

    def _do_io(self, step: Write | Poke | Read | Flush | Discard | Zeroout) -> "_Result":
        device = self.world.device(step.device)
        if device is None:
            raise rules.no_device(step.device)
        if isinstance(step, Poke):
            rules.check_poke(step)
        if is_suspended(device):
            return _Result(SUSPENDED)
        if not device.announced:
            return _result(errno.ENXIO)
        match step:
            case Write():
                return self._write(device, step)
            case Poke(sector=sector, data=data):
                return _result(self._io.write_direct(device, sector, memoryview(data)))
            case Read():
                return self._read(device, step)
            case Flush():
                return _result(self._io.flush(device))
            case Discard(sector=sector, sectors=sectors):
                return _result(self._io.discard(device, sector, sectors))
            case Zeroout(sector=sector, sectors=sectors):
                return _result(self._io.zeroout(device, sector, sectors))

    def _parallel(self, step: Parallel) -> "_Result":
        rules.check_parallel(step)
        devices = []
        for io in step.ios:
            device = self.world.device(io.device)
            if device is None:
                raise rules.no_device(io.device)
            if is_suspended(device, but=step.resume):
                return _Result(SUSPENDED)
            if not device.announced:
                return _result(errno.ENXIO)
            devices.append(device)
        for name in step.resume:
            md = self.world.mapped.get(name)
            rules.check_resumable(
                name,
                suspended=md is not None and md.suspended,
                loaded=md is not None and md.inactive is not None,
            )

        def resume() -> None:
            for name in step.resume:
                self.world.resume(name)

        buffers = [
            bytearray(io.sectors * SECTOR_BYTES)
            if isinstance(io, Read)
            else self._data(io, io.sector, io.sectors)
            for io in step.ios
        ]
        errors = self._io.parallel(
            [
                (device, isinstance(io, Write), io.sector, memoryview(data))
                for device, io, data in zip(devices, step.ios, buffers, strict=True)
            ],
            resume,
        )
        content = {
            io.device: pattern.encode(self._seed, data)
            for io, data, error in zip(step.ios, buffers, errors, strict=True)
            if isinstance(io, Read) and not error
        }
        said = [errno_name(error) if error else "ok" for error in errors]
        return _Result(
            next((word for word in said if word != "ok"), None),
            text="\n".join(said),
            content=content,
        )

    def _data(self, step: Write, sector: int, sectors: int) -> memoryview:
        """What a step writes to a range."""
        if step.fill == "zero":
            return memoryview(bytes(sectors * SECTOR_BYTES))
        return pattern.fill(self._seed, step.device, sector, sectors, step.generation).data

    def _make_disk(self, step: Disk) -> "_Result":
        rules.check_disk(step, taken=self.world.device(step.name) is not None)
        block_sectors = step.block_size // SECTOR_BYTES
        disk = (
            self.world.add_fallible_disk(step.name, step.sectors, linked=step.linked)
            if step.can_fail
            else self.world.add_disk(step.name, step.sectors, block_sectors)
        )
        if step.fill == "stamp":
            for sector, sectors in rules.requests(0, step.sectors):
                disk.view(sector, sectors)[:] = pattern.fill(
                    self._seed, step.name, sector, sectors, step.generation
                ).data
        return _Result()

    def _write(self, device: BlockDevice, step: Write) -> "_Result":
        pieces = []
        for sector, sectors in rules.requests(step.sector, step.sectors):
            data = self._data(step, sector, sectors)
            if not step.buffered:
                error = self._io.write_direct(device, sector, data)
                if error:
                    return _result(error)
            pieces.append(data)
        if step.buffered:
            return _result(self._io.write_buffered(device, step.sector, pieces))
        return _Result()

    def _read(self, device: BlockDevice, step: Read) -> "_Result":
        parts: list[Runs] = []
        error = 0
        cache = self._io.page_cache(device) if step.buffered else None
        for sector, sectors in rules.requests(step.sector, step.sectors):
            data, error = (
                cache.read(sector, sectors)
                if cache
                else self._io.read_direct(device, sector, sectors)
            )
            parts.append(pattern.encode(self._seed, data))
            if len(data) < sectors * SECTOR_BYTES:
                break
        content = pattern.join(parts)
        return _Result(
            errno_name(error) if error else None,
            content={step.device: content} if content or not error else {},
        )

    def _lines(self, name: str, inactive: bool, kind: str) -> "_Result":
        md = self.world.mapped.get(name)
        if md is None:
            return _result(errno.ENXIO)
        table = md.inactive if inactive else md.live
        if table is None:
            return _Result(text="")
        return _Result(text=_status_lines(table) if kind == "status" else _table_lines(table))

    def _wait(self, name: str, event: int) -> "_Result":
        md = self.world.mapped.get(name)
        if md is None:
            return _result(errno.ENXIO)
        return _Result(TIMEOUT) if md.event == event else _Result(text=str(md.event))

    # -- contents --

    def _examine(self) -> "_Result":
        content = {}
        for name, md in sorted(self.world.mapped.items()):
            if md.live is None or is_suspended(md):
                continue
            content[name] = pattern.join(list(self._examined(md)))
        return _Result(
            content=content, image={name: self._image(name) for name in sorted(self.world.disks)}
        )

    def _examined(self, md: MappedDevice) -> Iterator[Runs]:
        for first, count in rules.examined(md.sectors):
            for sector, sectors in rules.requests(first, count):
                data, error = self._io.read_direct(md, sector, sectors)
                if error:
                    lost: Run = Unreadable(errno_name(error), sectors)
                    yield (lost,)
                else:
                    yield pattern.encode(self._seed, data)

    def _image(self, name: str) -> Runs:
        disk = self.world.disks.get(name)
        if disk is None:
            raise rules.no_disk(name)
        parts: list[Runs] = []
        for sectors, data in disk.regions():
            parts.append((Zeros(sectors),) if data is None else pattern.encode(self._seed, data))
        return pattern.join(parts)

    # -- state --

    def _changed_states(self) -> dict[str, DeviceState | None]:
        now = {name: _state(md) for name, md in sorted(self.world.mapped.items())}
        changed: dict[str, DeviceState | None] = {
            name: None for name in self._states if name not in now
        }
        changed.update(
            (name, state) for name, state in now.items() if self._states.get(name) != state
        )
        self._states = now
        return changed


class _Result:
    """The result of a step, before the world is asked what else happened."""

    __slots__ = ("content", "error", "image", "text")

    def __init__(
        self,
        error: str | None = None,
        *,
        text: str | None = None,
        content: dict[str, Runs] | None = None,
        image: dict[str, Runs] | None = None,
    ) -> None:
        self.error = error
        self.text = text
        self.content = content or {}
        self.image = image or {}


def _request(bio: Bio) -> str:
    """A bio that is held back, in words."""
    what = bio.op.name.lower()
    return f"{what} {bio.sector}+{bio.sectors}" if bio.sectors else what


def _result(error: int) -> _Result:
    return _Result(errno_name(error) if error else None)


def _status_lines(table: LoadedTable) -> str:
    return "\n".join(
        f"{target.start} {target.sectors} {target.type_name} {target.status()}"
        for target in table.targets
    )


def _table_lines(table: LoadedTable) -> str:
    return "\n".join(
        f"{target.start} {target.sectors} {target.type_name} {target.table_line()}"
        for target in table.targets
    )


def _state(md: MappedDevice) -> DeviceState:
    live, inactive = md.live, md.inactive
    return DeviceState(
        status=None if live is None else _status_lines(live),
        table=None if live is None else _table_lines(live),
        inactive=None if inactive is None else _table_lines(inactive),
        suspended=md.suspended,
        read_only=md.read_only,
        event=md.event,
        open=md.openers,
    )


def _number(text: str, *, signed: bool) -> int | None:
    """A number as the kernel reads it (lib/kstrtox.c): also hex or octal; None if invalid.

    Digits beyond 64 bits are out of range whatever follows them: `_TOO_LARGE`.
    """
    negative = signed and text.startswith("-")
    if negative or text.startswith("+"):
        text = text[1:]
    base = 10
    if text.startswith("0"):
        base = 8
        if text[1:2] in ("x", "X") and text[2:3] and text[2] in string.hexdigits:
            base, text = 16, text[2:]
    digits = "".join(takewhile(lambda each: each in _DIGITS[base], text))
    if not digits:
        return None
    number = int(digits, base)
    if number >> 64:
        return _TOO_LARGE
    if text[len(digits) :] not in ("", "\n"):
        return None
    return -number if negative else number
