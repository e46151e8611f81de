"""The kernel as a backend: executes steps on the real device-mapper and observes everything.

A step is one call of a driver, or requests on one device.  Before it, a marker goes to the kernel
log; after it, log lines, uevents and the state of every mapped device of the scenario are
collected, and what changed becomes part of the observation.

Names.  A device has the same name in the kernel as in the scenario, so ``{name}`` in a table is
``/dev/mapper/name``, known or not: what the kernel says about an unknown one is an observation.
Numbers in its words (``254:3``, ``dm-3``) are translated back to ``{name}`` with the devices that
exist before or after the step; after a rename the new name counts.

Commands on devices that do not exist are passed on (ENXIO), and so is a name that is taken
(EBUSY).  Requests need a device that exists; commands on a disk are refused, since what a disk is
made of is the harness's own business.

An I/O step on a device that is suspended, or that has a suspended one below it, is not issued: it
would wait forever.
"""

import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from harness.errors import BadScenario, ProvisioningError, Unsupported
from harness.kernel import aio, machine, removal
from harness.kernel.blockio import BLKDISCARD, BLKZEROOUT, BlockIO, Source, error_name
from harness.kernel.disks.disks import Disks
from harness.kernel.drivers.driver import UUID_PREFIX, Driver, Info, Line, node
from harness.kernel.kmsg import KernelLog, normalise
from harness.kernel.modules import Parameters
from harness.kernel.rest import Merges, let_events_come
from harness.kernel.uevents import Listener, kernel_uevents, numbered, select
from harness.trace import observations, pattern, rules, steps
from harness.trace.observations import DeviceState, Observation, Runs
from harness.trace.steps import (
    REFERENCE,
    REQUEST_SECTORS_MAX,
    AnyStep,
)
from harness.units import SECTOR_BYTES, bytes_of_sectors, sectors_of_bytes

_DEVICE_NUMBER: Final = re.compile(r"(\d+):(\d+)")


class _Found:
    """What a step yielded, until it becomes an observation."""

    def __init__(self) -> None:
        self.error: str | None = None
        self.text: str | None = None
        self.content: dict[str, Runs] = {}
        self.image: dict[str, Runs] = {}


class KernelBackend:
    """The real device-mapper of this guest (harness.trace.backend.Backend).

    Args:
        driver: how commands reach it.
        module_directory: where modules are loaded from.
        log, events: sources to use instead of the kernel's.
        files: if given, disks are files there that outlive the guest, rather than memory.
        targets: those that this kernel has; None until it has been asked.

    Attributes:
        spoilt: something could not be removed after a scenario, and is in the way of the next one.
    """

    def __init__(
        self,
        driver: Driver,
        module_directory: Path,
        *,
        log: KernelLog | None = None,
        events: Listener | None = None,
        files: Path | None = None,
        targets: Collection[str] | None = None,
    ) -> None:
        self._driver = driver
        self._targets = targets
        self._block = BlockIO()
        self._disks = Disks(driver, module_directory, files)
        self._log = log if log is not None else KernelLog()
        self._events: Listener = events if events is not None else kernel_uevents()
        self._parameters = Parameters()
        self._seed = 0
        self._mapped: list[str] = []
        self._merges = Merges(on_files=files is not None)
        self._created = 0
        self._info: dict[str, Info] = {}
        self._states: dict[str, DeviceState] = {}
        self._numbers: dict[str, str] = {}  # major:minor → name, disks too
        self._disk_numbers: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}  # major:minor → every name it had
        self.spoilt = False

    def close(self) -> None:
        """Release everything borrowed from the guest."""
        self._disks.close()
        self._log.close()
        self._events.close()

    # -- the life of a scenario ---------------------------------------------------------------

    def begin(self, seed: int) -> None:
        """Start an empty world."""
        self._seed = seed
        self._log.skip()
        self._events.drain()

    def end(self) -> list[str]:
        """Remove every device, restore the parameters of the module, forget the disks.

        Raises:
            WitnessesDisagree: all of that was done, but the scenario's uevents are in doubt.
        """
        left = removal.remove_all(self._driver, self._mapped)
        left += self._parameters.restore()
        left += self._disks.reset()
        self._mapped = []
        self._merges.forget()
        self._info, self._states, self._numbers, self._disk_numbers = {}, {}, {}, {}
        names, self._names = self._names, {}
        self.spoilt = bool(left)
        if not left:
            self._events.finish(names)
        return left

    def number_of(self, name: str) -> str:
        """``major:minor`` of a device of the scenario.

        Raises:
            KeyError: there is no such device.
        """
        return {device: number for number, device in self._numbers.items()}[name]

    # -- one step -----------------------------------------------------------------------------

    def execute(self, index: int, step: AnyStep) -> Observation:
        """Do one step and observe."""
        if isinstance(step, steps.Resume) or (isinstance(step, steps.Parallel) and step.resume):
            self._merges.may_start()
        return self._observe(
            index, str(step.__struct_config__.tag), lambda found: self._do(step, found)
        )

    def watch(self, index: int, label: str, work: Callable[[], None], prefix: str) -> Observation:
        """Observe what another program does to device-mapper, in place of step ``index``.

        Devices whose UUID starts with ``prefix`` are the program's: from now on they belong to
        the scenario, but the program removes them.  The image of every disk is part of what is
        seen, since nobody reports what the program writes.  Uevents carry numbers, not names.
        """
        self._merges.may_start()

        def do(found: _Found) -> None:
            work()
            own = [name for name, uuid in self._driver.devices().items() if uuid.startswith(prefix)]
            self._mapped += [name for name in own if name not in self._mapped]
            if any(
                "snapshot-merge" in (info.table or "") for info in self._driver.survey(own).values()
            ):
                self._merges.may_exist()
            self._let_merges_rest()
            found.image = {disk: self._image(disk) for disk in self._disks.all}

        return self._observe(index, label, do, named=False)

    def _observe(
        self, index: int, label: str, work: Callable[[_Found], None], *, named: bool = True
    ) -> Observation:
        """Do something and observe everything around it."""
        found = _Found()
        self._log.mark(f"step {index} {label}")
        started = time.perf_counter_ns()
        try:
            work(found)
        except TimeoutError as fault:
            found.error = error_name(fault) if fault.errno is not None else observations.TIMEOUT
        except OSError as fault:
            found.error = error_name(fault)
        self._let_links_recover()
        self._let_merges_rest()
        if any(" striped " in (info.table or "") for info in self._info.values()):
            let_events_come(
                lambda: [info.status or "" for info in self._driver.survey(self._mapped).values()]
            )
        elapsed_us = (time.perf_counter_ns() - started) // 1000
        numbers, state = self._look()
        mapped = {
            number: name for number, name in numbers.items() if number not in self._disk_numbers
        }
        events = self._events.drain()
        return Observation(
            step=index,
            error=found.error,
            text=None if found.text is None else normalise(found.text, numbers),
            content=found.content,
            image=found.image,
            state=state,
            uevents=select(events, mapped) if named else numbered(events, self._disk_numbers),
            log=self._log.lines(numbers),
            requests=self._requests(),
            elapsed_us=elapsed_us,
        )

    def _requests(self) -> dict[str, tuple[str, ...]]:
        """What reached the disks that can fail since the last step."""
        taken = {name: server.take_requests() for name, server in self._disks.servers().items()}
        return {name: lines for name, lines in taken.items() if lines}

    def _let_links_recover(self) -> None:
        """Wait until every answer that an outage kept back has arrived."""
        for server in self._disks.servers().values():
            if server.linked:
                server.served()

    def _let_merges_rest(self) -> None:
        self._merges.rest(
            lambda: [
                info.status or ""
                for info in self._driver.survey(self._mapped).values()
                if not info.suspended
            ],
            lambda: [server.served() for server in self._disks.servers().values()],
        )

    def _look(self) -> tuple[dict[str, str], dict[str, DeviceState | None]]:
        """Survey the mapped devices: numbers → names for this step, and what changed."""
        before, self._info = self._info, self._driver.survey(self._mapped)
        self._mapped = list(self._info)
        now = {info.number: name for name, info in self._info.items()} | self._disk_numbers
        same_names = now == self._numbers
        if not same_names:
            for number, name in now.items():
                self._names.setdefault(number, set()).add(name)
        numbers = self._numbers | now
        self._numbers = now
        states = {
            name: self._states[name]
            if same_names and before.get(name) == info
            else state_of(info, numbers)
            for name, info in self._info.items()
        }
        changed: dict[str, DeviceState | None] = {
            name: state for name, state in states.items() if self._states.get(name) != state
        }
        changed.update((name, None) for name in self._states if name not in states)
        self._states = states
        return numbers, changed

    def _do(self, step: AnyStep, found: _Found) -> None:
        match step:
            case steps.Disk():
                self._disk(step)
            case steps.Create(name=name):
                rules.check_command(name, is_disk=name in self._disks.all)
                rules.check_name(name)
                # A UUID is for life, and a name is not: a renamed device would keep its first name
                # from being used again.
                self._created += 1
                self._driver.create(name, f"{UUID_PREFIX}{name}-{self._created}")
                self._mapped.append(name)
            case steps.Load(name=name, table=table, read_only=read_only):
                device = self._command(name)
                self._own(table)
                self._check_targets(table)
                if any(line.type == "snapshot-merge" for line in table):
                    self._merges.may_exist()
                self._driver.load(device, [line_of(line) for line in table], read_only=read_only)
            case steps.Clear(name=name):
                self._driver.clear(self._command(name))
            case steps.Resume(name=name):
                self._driver.resume(self._command(name))
            case steps.Suspend(name=name, flush=flush, lockfs=lockfs):
                self._driver.suspend(self._command(name), flush=flush, lockfs=lockfs)
            case steps.Remove(name=name):
                self._driver.remove(self._command(name))
            case steps.Rename(name=name, to=to):
                self._rename(name, to)
            case steps.Message(name=name, text=text, sector=sector):
                found.text = self._driver.message(self._command(name), sector, text) or None
            case steps.Status(name=name, inactive=inactive):
                found.text = self._driver.status(self._command(name), inactive=inactive)
            case steps.Table(name=name, inactive=inactive):
                found.text = self._driver.table(self._command(name), inactive=inactive)
            case steps.Wait(name=name, event=event):
                found.text = str(self._driver.wait(self._command(name), event))
            case steps.Parameter(name=name, value=value):
                rules.check_parameter(step)
                self._parameters.set(name, value)
            case steps.Parallel():
                self._parallel(step, found)
            case steps.Fault(device=device, op=op, sector=sector):
                server = self._disks.server(device)
                rules.check_fault(step, linked=server.linked)
                to_end = self._disks.all[device].sectors - sector
                server.fail(
                    op,
                    sector,
                    to_end if step.sectors is None else step.sectors,
                    nth=step.nth,
                    count=step.count,
                    how=step.how,
                )
            case steps.Heal(device=device):
                self._disks.heal(device)
            case steps.Image(device=device):
                if device not in self._disks.all:
                    raise rules.no_disk(device)
                found.image[device] = self._image(device)
            case steps.Examine():
                self._examine(found)
            case steps.Crash(how=how):
                machine.crash(how, self._driver)
            case _:
                self._request(step, found)

    def _disk(self, step: steps.Disk) -> None:
        name = step.name
        rules.check_disk(step, taken=name in self._disks.all or name in self._mapped)
        self._disks.add(
            name, step.sectors, step.block_size, can_fail=step.can_fail, linked=step.linked
        )
        info = self._driver.survey([name])[name]
        self._disk_numbers[info.number] = name
        if step.can_fail:
            self._check_queue(name, info.number)
            if step.fill == "stamp":
                stamps = self._stamps(name, step.generation)
                server = self._disks.server(name)
                for sector, sectors in rules.requests(0, step.sectors):
                    server.write(sector, bytes(stamps(sector, sectors)))
        elif step.fill == "stamp":
            self._block.write(node(name), 0, step.sectors, self._stamps(name, step.generation))

    def _command(self, name: str) -> str:
        """``name``, if a command may be sent to it."""
        rules.check_command(name, is_disk=name in self._disks.all)
        if name not in self._mapped and self._driver.survey([name]):
            raise BadScenario(
                f"mapped device {name} belongs to something else: choose another name"
            )
        return name

    def _check_targets(self, table: tuple[steps.TargetLine, ...]) -> None:
        """Raise if this kernel lacks a target; a name that no kernel has is for it to refuse."""
        for line in table:
            if (
                self._targets is not None
                and line.type not in self._targets
                and (not line.type.startswith(steps.NO_TARGET))
            ):
                raise Unsupported(
                    f"this kernel has no target {line.type}: no module that dmsnap "
                    "loads brings it, and none is built in"
                )

    def _own(self, table: tuple[steps.TargetLine, ...]) -> None:
        """Refuse a table that names a block device outside the scenario.

        Words that name nothing, or something other than a block device, are for the kernel to
        refuse.
        """
        for word in (word for line in table for word in line.args.split()):
            if (match := REFERENCE.fullmatch(word)) and (
                match[1] in self._disks.all or match[1] in self._mapped
            ):
                continue
            path = Path("/dev", line_path(word))
            number = number_of(word)
            if number and Path("/sys/dev/block", number).exists():
                foreign = number not in self._numbers
            else:
                foreign = path.is_block_device()
            if foreign:
                raise BadScenario(
                    f"{word} is a block device that no step created: a table may name "
                    "only devices of its scenario"
                )

    def _rename(self, name: str, to: str) -> None:
        name = self._command(name)
        rules.check_name(to)
        self._driver.rename(name, to)
        self._mapped[self._mapped.index(name)] = to

    # -- requests -----------------------------------------------------------------------------

    def _stamps(self, device: str, generation: int) -> Source:
        return lambda sector, sectors: pattern.fill(self._seed, device, sector, sectors, generation)

    def _request(self, step: AnyStep, found: _Found) -> None:
        assert isinstance(
            step,
            steps.Write | steps.Poke | steps.Read | steps.Flush | steps.Discard | steps.Zeroout,
        )
        device = step.device
        if device not in self._disks.all and device not in self._info:
            raise rules.no_device(device)
        if isinstance(step, steps.Poke):
            rules.check_poke(step)
        if self._waits(device):
            found.error = observations.SUSPENDED
            return
        path = node(device)
        match step:
            case steps.Write(sector=sector, sectors=sectors, fill=fill):
                source: Source = self._stamps(device, step.generation)
                if fill == "zero":
                    source = zeros
                self._block.write(path, sector, sectors, source, buffered=step.buffered)
            case steps.Poke(sector=sector, data=data):
                self._block.write(path, sector, sectors_of_bytes(len(data)), literal(data, sector))
            case steps.Read(sector=sector, sectors=sectors, buffered=buffered):
                runs, fault = self._block.read(path, self._seed, sector, sectors, buffered=buffered)
                if runs or fault is None:
                    found.content[device] = runs
                if fault is not None:
                    raise fault
            case steps.Flush():
                self._block.flush(path)
            case steps.Discard(sector=sector, sectors=sectors):
                self._block.control(path, BLKDISCARD, sector, sectors)
            case steps.Zeroout(sector=sector, sectors=sectors):
                self._block.control(path, BLKZEROOUT, sector, sectors)

    def _parallel(self, step: steps.Parallel, found: _Found) -> None:
        rules.check_parallel(step)
        requests = []
        for io in step.ios:
            if io.device not in self._disks.all and io.device not in self._info:
                raise rules.no_device(io.device)
            if self._waits(io.device, but=step.resume):
                found.error = observations.SUSPENDED
                return
            data = None
            if isinstance(io, steps.Write):
                source = zeros if io.fill == "zero" else self._stamps(io.device, io.generation)
                data = source(io.sector, io.sectors)
            requests.append(aio.Request(node(io.device), io.sector, io.sectors, data))
        for name in step.resume:
            info = self._info.get(name)
            rules.check_resumable(
                name,
                suspended=info is not None and info.suspended,
                loaded=info is not None and info.inactive is not None,
            )

        def resume() -> None:
            for name in step.resume:
                self._driver.resume(name)

        answers = aio.submit_all(requests, resume)
        said = [error_name(answer) if isinstance(answer, OSError) else "ok" for answer in answers]
        found.text = "\n".join(said)
        found.error = next((word for word in said if word != "ok"), None)
        for io, answer in zip(step.ios, answers, strict=True):
            if isinstance(io, steps.Read) and isinstance(answer, memoryview):
                found.content[io.device] = pattern.encode(self._seed, answer)

    def _waits(self, device: str, but: Sequence[str] = ()) -> bool:
        """Whether I/O on ``device`` waits: it, or one below, is suspended, ``but`` for some."""
        if not any(info.suspended for info in self._info.values()):
            return False
        seen: set[str] = set()
        queue = [device]
        while queue:
            name = queue.pop()
            if name in seen or name not in self._info:
                continue
            seen.add(name)
            if self._info[name].suspended and name not in but:
                return True
            queue += [
                self._numbers[number]
                for number in self._driver.dependencies(name)
                if number in self._numbers
            ]
        return False

    @staticmethod
    def _check_queue(name: str, number: str) -> None:
        """Check that a disk that can fail has the queue that the twin assumes.

        Raises:
            ProvisioningError: it does not.
        """
        queue = Path("/sys/dev/block", number, "queue")
        for key, wanted in {
            "max_sectors_kb": bytes_of_sectors(REQUEST_SECTORS_MAX) >> 10,
            "logical_block_size": SECTOR_BYTES,
            "physical_block_size": SECTOR_BYTES,
            "minimum_io_size": SECTOR_BYTES,
            "fua": 1,
        }.items():
            found = (queue / key).read_text().strip()
            if found != str(wanted):
                raise ProvisioningError(
                    f"disk {name}, which can fail, has {key} {found} and not "
                    f"{wanted}: this kernel's nbd driver is not like others"
                )

    def _image(self, disk: str) -> Runs:
        info = self._disks.all[disk]
        if info.server is not None:
            # Not through the kernel: looking must not be a request.
            return pattern.join(
                [
                    pattern.encode(self._seed, info.server.read(sector, sectors))
                    for sector, sectors in rules.requests(0, info.sectors)
                ]
            )
        return self._block.examine(node(disk), self._seed, [(0, info.sectors)])

    def _examine(self, found: _Found) -> None:
        # In the same order on both sides: disks that can fail count what reaches them.
        for name, info in sorted(self._info.items()):
            if info.table is None or self._waits(name):
                continue
            found.content[name] = self._block.examine(
                node(name), self._seed, rules.examined(self._block.size(node(name)))
            )
        for disk in self._disks.all:
            found.image[disk] = self._image(disk)


def zeros(_sector: int, sectors: int) -> bytes:
    """A source of zeros."""
    return bytes(bytes_of_sectors(sectors))


def literal(data: bytes, first: int) -> Source:
    """A source of the given bytes, which start at sector ``first``."""
    view = memoryview(data)

    def source(sector: int, sectors: int) -> memoryview:
        at = bytes_of_sectors(sector - first)
        return view[at : at + bytes_of_sectors(sectors)]

    return source


def number_of(word: str) -> str:
    """The device number that the kernel reads from a word of a table, or an empty string.

    It reads 32 bits of each half and drops the rest.
    """
    numbers = _DEVICE_NUMBER.fullmatch(word)
    return (
        ""
        if numbers is None
        else ":".join(str(int(number) & (1 << 32) - 1) for number in numbers.groups())
    )


def line_path(args: str) -> str:
    """Table arguments with the path of each device in place of its ``{name}``."""
    return REFERENCE.sub(lambda match: node(match[1]), args)


def line_of(line: steps.TargetLine) -> Line:
    """A table line as the kernel takes it."""
    return Line(line.start, line.length, line.type, line_path(line.args))


def state_of(info: Info, numbers: dict[str, str]) -> DeviceState:
    """The state of a device as an observation has it."""

    def named(text: str | None) -> str | None:
        return None if text is None else normalise(text, numbers)

    return DeviceState(
        status=named(info.status),
        table=named(info.table),
        inactive=named(info.inactive),
        suspended=info.suspended,
        read_only=info.read_only,
        event=info.event,
        open=info.open,
    )
