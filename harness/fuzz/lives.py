"""Random lives: traces that nobody wrote.

Disks of odd sizes, devices between them and the snapshots, tables good and bad, I/O of every kind,
reloads, handovers, merges, overflows, stores that are activated again, crafted or rotten.  Each
step is chosen by what the twin's world looks like just then, so that most of them do something.
The twin also says which steps must not be: those that would never return, and those that crash the
kernel.

What a life is made of is data (`harness.fuzz.weights`).  A life is a function of its seed, its
weights, and the life that it goes on from, if any: nothing else, so that it comes out the same on
every machine.
"""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Literal

from harness.errors import BadScenario, DmsnapError
from harness.fuzz.weights import (
    BAD_WORDS,
    CHUNKS,
    COW_SECTORS,
    DISCARD_CHUNK,
    NAMES,
    PARALLEL_MAX,
    STORES,
    WEIGHTS,
    Weights,
)
from harness.store.layout import SNAP_MAGIC, area_chunk, entries_per_area
from harness.trace.bounds import excess
from harness.trace.files import Header, Trace, dumps, loads
from harness.trace.observations import Observation
from harness.trace.steps import (
    AnyStep,
    Clear,
    Create,
    Discard,
    Disk,
    Examine,
    Fault,
    Fill,
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
from harness.twin.backend import TwinBackend
from harness.twin.bio import BlockDevice
from harness.twin.fallible import QUEUE_DEPTH
from harness.twin.mapped_device import MappedDevice
from harness.twin.profile import Profile, named
from harness.twin.snapshot import Snapshot


class Life:
    """Writes the steps of one life."""

    def __init__(
        self,
        seed: int,
        profile: Profile,
        *,
        weights: Weights,
        parallel: bool = False,
        before: Sequence[AnyStep] = (),
    ) -> None:
        self.observations: list[Observation] = []
        self._before = before
        self._weights = weights
        self._random = random.Random(seed)  # noqa: S311 - a life must come out the same each time
        self._seed = seed
        self._profile = profile
        self._parallel = parallel
        self.steps: list[AnyStep] = []
        self.refused: list[str] = []
        self._backend = TwinBackend(profile)
        self._backend.begin(seed)
        self._generation = 0

    # -- the world as it is --

    @property
    def _mapped(self) -> dict[str, MappedDevice]:
        return self._backend.world.mapped

    def _any(self, kind: Callable[[str], bool] = lambda _name: True) -> str | None:
        world = self._backend.world
        names = [name for name in (*world.disks, *world.mapped) if kind(name)]
        return self._random.choice(names) if names else None

    def _device(self, name: str) -> BlockDevice:
        device = self._backend.world.device(name)
        assert device is not None
        return device

    def _stands_on(self, name: str, what: str) -> bool:
        """Whether a table of ``name``, live or not, leads to ``what``."""
        if name == what:
            return True
        md = self._mapped.get(name)
        if md is None:
            return False
        return any(
            self._stands_on(below.name, what)
            for table in (md.live, md.inactive)
            if table is not None
            for below in table.devices()
        )

    def try_step(self, step: AnyStep) -> bool:
        """Add a step, unless the twin says that it must not be."""
        try:
            seen = self._backend.execute(len(self.steps), step)
        except BadScenario:
            return False
        except (DmsnapError, RecursionError) as fault:
            self.refused.append(f"{step}: {fault}")
            self._again()
            return False
        if any(
            disk.plugged_peak > QUEUE_DEPTH
            for disk in self._backend.world.fallible_disks().values()
        ):
            # Two tasks send what does not fit into the queue: whose is first, is a race.
            self._again()
            return False
        if min(self._weights.feature_chunks) >= DISCARD_CHUNK and self._divides_by_zero():
            self._again()
            return False
        self.steps.append(step)
        self.observations.append(seen)
        return True

    def _divides_by_zero(self) -> bool:
        """Discards of small chunks crash 7.2 (docs/KERNEL-DEFECTS.md, discard-divide-error)."""
        for md in self._mapped.values():
            for table in (md.live, md.inactive):
                for target in table.targets if table else ():
                    if (
                        isinstance(target, Snapshot)
                        and target.discard_zeroes_cow
                        and (target.discard_sectors_max() < DISCARD_CHUNK)
                    ):
                        return True
        return False

    def _again(self) -> None:
        self._backend = TwinBackend(self._profile)
        self._backend.begin(self._seed)
        for index, step in enumerate(self.steps):
            self._backend.execute(index, step)

    # -- the cast --

    def begin(self) -> None:
        """Disks, something between, and a snapshot or three; or what another life began with."""
        for step in self._before:
            self.try_step(step)
        if self._before:
            self._generation = len(self._before)
            return
        r = self._random
        self._disk("base", r.choice(self._weights.bases), "stamp")
        for number in range(r.randint(1, 3)):
            self._disk(
                f"cow{number}", r.choice(COW_SECTORS), r.choice(("zero", "zero", "zero", "stamp"))
            )
        while r.random() < self._weights.between and len(self._mapped) < 3:
            self._new_device(r.choice(self._weights.layers))
        for _ in range(r.randint(1, 3)):
            self._new_device("snapshot")
        if r.random() < 0.85:
            self._new_device("origin")

    def _disk(self, name: str, sectors: int, fill: Literal["zero", "stamp"]) -> None:
        """A disk of some kind."""
        draw = self._random.random()
        weights = self._weights
        if draw < weights.can_fail:
            linked = draw < weights.can_fail * weights.linked
            self.try_step(Disk(name=name, sectors=sectors, fill=fill, can_fail=True, linked=linked))
            return
        block: Literal[512, 4096] = 4096 if draw > 1 - weights.large_blocks else 512
        sectors += -sectors % (block // 512)
        self.try_step(Disk(name=name, sectors=sectors, fill=fill, block_size=block))

    def live(self, steps: int) -> None:
        """The life itself."""
        self.begin()
        weights = dict(self._weights.actions)
        if self._weights.parallel or self._parallel:
            weights["several"] = self._weights.parallel or 6
        actions: list[Callable[[], None]] = [getattr(self, f"_{name}") for name in weights]
        tries = 0
        while len(self.steps) < steps and tries < 5 * steps:
            tries += 1
            self._random.choices(actions, list(weights.values()))[0]()
        self._resume_all()
        self.try_step(Examine())

    # -- tables --

    def _line(self, kind: str, name: str) -> tuple[TargetLine, ...] | None:
        """A table for ``name``, most of them good."""
        r = self._random

        def free(other: str) -> bool:
            return not self._stands_on(other, name)

        if kind in ("snapshot", "snapshot-merge"):
            origin = "base" if r.random() < 0.7 else self._any(free)
            cow = self._any(
                lambda other: free(other) and (other.startswith("cow") or r.random() < 0.15)
            )
            if origin is None or cow is None:
                return None
            store, chunk = r.choice(STORES), str(r.choice(self._weights.chunks))
            if r.random() < 0.1:
                chunk = "0"
            if kind == "snapshot-merge" and store[0] == "N":
                store = "P"
            if r.random() < self._weights.features * 3 / 2:
                chunk = str(r.choice(self._weights.feature_chunks))
                chunk += r.choice(
                    (" 0", " 1 discard_zeroes_cow", " 2 discard_zeroes_cow discard_passdown_origin")
                )
            length = self._length(origin)
            line = TargetLine(0, length, kind, f"{{{origin}}} {{{cow}}} {store} {chunk}")
            if r.random() < 0.05 and length > 16:
                start = r.choice((1, 8, 16, 20))
                before = TargetLine(0, start, r.choice(("zero", "error")), "")
                return before, TargetLine(start, length - start, kind, line.args)
            return (line,)
        if kind == "origin":
            origin = "base" if r.random() < 0.8 else self._any(free)
            if origin is None:
                return None
            return (TargetLine(0, self._length(origin), "snapshot-origin", f"{{{origin}}}"),)
        below = self._any(free)
        if below is None:
            return None
        size = self._device(below).sectors
        if kind == "delay":
            # In which tick each bio of a request begins, and so their order, is a matter of speed.
            late = (0,) if self._backend.world.fallible_disks() else (0, 5, 20)
            args = f"{{{below}}} 0 {r.choice(late)}"
            return (TargetLine(0, max(1, size), "delay", args),)
        if kind == "linear":
            start = r.choice(self._weights.linear_starts)
            length = max(1, size - start - r.choice((0, 0, 3, 8)))
            return (TargetLine(0, length, "linear", f"{{{below}}} {start}"),)
        if kind == "striped":
            stripes, each = r.choice((1, 2, 2, 3)), r.choice((1, 3, 4, 8, 8, 16))
            row = stripes * each
            length = max(row, size // row * row // r.choice((1, 2)) // row * row)
            other = self._any(lambda name: free(name) and name != below) or below
            places = " ".join(
                f"{{{(below, other)[at % 2]}}} {r.choice((0, 0, 1, 8))}" for at in range(stripes)
            )
            return (TargetLine(0, length, "striped", f"{stripes} {each} {places}"),)
        if kind in ("zero", "error"):
            return (TargetLine(0, self._length("base"), kind),)
        parts: list[TargetLine] = []
        at = 0
        for _ in range(r.randint(2, 4)):
            length = r.choice((8, 16, 24, 50, 300))
            what = r.choice(("linear", "linear", "linear", "zero", "error"))
            args = f"{{{below}}} {at % max(1, size - length)}" if what == "linear" else ""
            parts.append(TargetLine(at, length, what, args))
            at += length
        return tuple(parts)

    def _length(self, name: str) -> int:
        device = self._backend.world.device(name)
        size = device.sectors if device else 64
        size = size or 64
        return max(1, size - self._random.choice((0,) * 12 + (1, 4, 8, 16, -8, size // 2)))

    def _new_device(self, kind: str) -> None:
        name = next((name for name in NAMES if name not in self._mapped), None)
        if name is None:
            return
        lines = self._line(kind, name)
        if lines is None:
            return
        self.try_step(Create(name=name))
        self.try_step(Load(name=name, table=lines, **self._read_only()))
        self.try_step(Resume(name=name))

    def _read_only(self) -> dict[str, bool]:
        return {"read_only": True} if self._random.random() < 0.05 else {}

    def _new(self) -> None:
        self._new_device(
            self._random.choice(
                (
                    "snapshot",
                    "snapshot",
                    "snapshot",
                    "origin",
                    "zero",
                    "error",
                    "snapshot-merge",
                    *self._weights.layers,
                )
            )
        )

    def _mapped_name(self) -> str | None:
        names = list(self._mapped)
        return self._random.choice(names) if names else None

    def _suspend(self, name: str) -> None:
        extra = (
            {}
            if self._random.random() < 0.7
            else {"flush": self._random.random() < 0.5, "lockfs": self._random.random() < 0.5}
        )
        extra = {key: value for key, value in extra.items() if not value}
        self.try_step(Suspend(name=name, **extra))

    def _reload(self) -> None:
        """Another table, or the same again."""
        name = self._mapped_name()
        if name is None:
            return
        lines = (
            self._same_lines(name)
            if self._random.random() < 0.6
            else self._line(
                self._random.choice(("snapshot", "origin", "linear", "error", "zero", "mixed")),
                name,
            )
        )
        if lines is None:
            return
        self.try_step(Load(name=name, table=lines, **self._read_only()))
        if self._random.random() < 0.7:
            self._suspend(name)
        if self._random.random() < 0.95:
            self.try_step(Resume(name=name))

    def _same_lines(self, name: str) -> tuple[TargetLine, ...] | None:
        table = self._mapped[name].live
        if table is None:
            return None
        return tuple(
            TargetLine(target.start, target.sectors, target.type_name, target.table_line())
            for target in table.targets
        )

    def _snapshot_names(self) -> list[str]:
        return [
            name
            for name, md in self._mapped.items()
            if md.live and isinstance(md.live.targets[0], Snapshot)
        ]

    def _handover(self) -> None:
        """The exceptions of one snapshot go to another table, of the same device or of another."""
        names = self._snapshot_names()
        if not names:
            return
        r = self._random
        source = r.choice(names)
        target = source if r.random() < 0.6 else self._mapped_name()
        lines = self._same_lines(source)
        assert target is not None
        if lines is None or any(
            self._stands_on(below.name, target) for below in self._device(source).below()
        ):
            return
        if r.random() < 0.4:
            words = lines[0].args.split()
            if len(words) >= 4:
                words[2] = r.choice(STORES)
                if r.random() < 0.4:
                    words[3] = str(r.choice(CHUNKS))
                length = lines[0].length if r.random() < 0.8 else self._length("base")
                kind = lines[0].type if r.random() < 0.7 else "snapshot-merge"
                lines = (TargetLine(0, length, kind, " ".join(words)),)
        self.try_step(Load(name=target, table=lines))
        for name in r.sample([source, target], r.randint(0, 2)):
            self._suspend(name)
        order = [target, source] if r.random() < 0.7 else [source, target]
        for name in order[: r.choice((1, 2, 2))]:
            self.try_step(Resume(name=name))
        if source != target and r.random() < 0.5:
            self.try_step(Remove(name=source))

    def _merge(self) -> None:
        """Merge a snapshot, as LVM does it or in some other order."""
        names = self._snapshot_names()
        if not names:
            return
        r = self._random
        source = r.choice(names)
        lines = self._same_lines(source)
        assert lines is not None
        snapshot = next((line for line in lines if line.type == "snapshot"), None)
        if snapshot is None:
            return
        target = r.choice([name for name in self._mapped if name != source] or [source])
        if r.random() < 0.2:
            target = source
        if any(self._stands_on(below.name, target) for below in self._device(source).below()):
            return
        self.try_step(
            Load(
                name=target,
                table=(TargetLine(0, snapshot.length, "snapshot-merge", snapshot.args),),
            )
        )
        if r.random() < 0.9:
            self._suspend(source)
        if r.random() < 0.8:
            self._suspend(target)
        self.try_step(Resume(name=target))
        if r.random() < 0.7 and source != target:
            self.try_step(Load(name=source, table=(TargetLine(0, snapshot.length, "error"),)))
            self.try_step(Resume(name=source))

    def _suspend_resume(self) -> None:
        name = self._mapped_name()
        if name is None:
            return
        choice = self._random.random()
        if choice < 0.8:
            self._suspend(name)
        if choice > 0.15:
            self.try_step(Resume(name=name))

    def _resume_all(self) -> None:
        for name in sorted(self._mapped, key=lambda _name: self._random.random()):
            md = self._mapped[name]
            if md.suspended and md.live is not None:
                self.try_step(Resume(name=name))

    def _load_or_clear(self) -> None:
        name = self._mapped_name()
        if name is None:
            return
        if self._random.random() < 0.4:
            self.try_step(Clear(name=name))
            return
        lines = self._line(
            self._random.choice(("snapshot", "origin", "linear", "zero", "snapshot-merge")), name
        )
        if lines is not None:
            self.try_step(Load(name=name, table=lines, **self._read_only()))

    def _bad_table(self) -> None:
        name = self._mapped_name()
        if name is None:
            return
        r = self._random
        kind = r.choice(
            ("snapshot", "snapshot-merge", "snapshot-origin", "linear", "nosuch", "zero", "delay")
        )
        words = [
            f"{{{self._any(lambda other: not self._stands_on(other, name)) or 'nosuch'}}}"
            if r.random() < 0.6
            else r.choice(BAD_WORDS)
            for _ in range(r.randint(0, 2))
        ]
        words += [r.choice((*STORES, *BAD_WORDS)) for _ in range(r.randint(0, 2))]
        words += [r.choice((*BAD_WORDS, "8", "16")) for _ in range(r.randint(0, 2))]
        if kind == "snapshot-merge" and any(word[:1] in "Nn" for word in words):
            return
        self.try_step(
            Load(
                name=name,
                table=(
                    TargetLine(
                        r.choice((0, 0, 0, 8)), r.choice((0, 8, 64, 1 << 50)), kind, " ".join(words)
                    ),
                ),
            )
        )

    def _remove(self) -> None:
        name = self._mapped_name()
        if name is not None and (len(self._mapped) > 2 or self._random.random() < 0.3):
            self.try_step(Remove(name=name))

    def _rename(self) -> None:
        name = self._mapped_name()
        if name is not None:
            self.try_step(
                Rename(
                    name=name, to=self._random.choice((*NAMES, "base", "h.1-x", "longest_name_16b"))
                )
            )

    def _ask(self) -> None:
        name = self._mapped_name() or "nosuch"
        r = self._random
        self.try_step(
            r.choice(
                (
                    Status(name=name),
                    Status(name=name, inactive=True),
                    Table(name=name),
                    Table(name=name, inactive=True),
                    Wait(name=name, event=r.randint(0, 1)),
                    Message(
                        name=name, text=r.choice(("", "merge", "a b")), sector=r.choice((0, 999999))
                    ),
                )
            )
        )

    def _parameter(self) -> None:
        values: tuple[str, ...] = ("1", "2", "8", "2048", "0", "", "x", "+7")
        if self._backend.world.fallible_disks():
            # What waits for the limit on its way to a disk that counts is a race in every piece.
            values = ("2048", "", "x", "+4096")
        self.try_step(Parameter(name="snapshot_cow_threshold", value=self._random.choice(values)))

    # -- I/O --

    def _range(self, name: str) -> tuple[int, int]:
        r = self._random
        size = max(1, self._device(name).sectors)
        block = self._device(name).block_sectors
        count = r.choice(self._weights.lengths)
        if self._weights.edges and r.random() < self._weights.edges:
            return self._edge(name, size)
        sector = r.randrange(size) if r.random() < 0.5 else 8 * r.randrange(size // 8 + 1)
        if block > 1 and r.random() < 0.9:
            sector -= sector % block
            count += -count % block
        if sector + count > size and r.random() < 0.9:
            count = max(1, size - sector)
        return sector, count

    def _edge(self, name: str, size: int) -> tuple[int, int]:
        """A range at an edge of a device, in its own chunks if it is a snapshot."""
        r = self._random
        md = self._mapped.get(name)
        target = md.live.targets[0] if md and md.live else None
        chunk = (target.store.chunk_sectors if isinstance(target, Snapshot) else 0) or r.choice(
            CHUNKS
        )
        last = (size - 1) // chunk * chunk
        area = area_chunk(1, entries_per_area(chunk)) * chunk if chunk else 0
        sector, count = r.choice(
            (
                (0, chunk),
                (last, size - last),
                (last, chunk),
                (size - 1, 1),
                (max(0, last - 1), 2),
                (max(0, size - chunk), chunk),
                (chunk - 1, 2),
                (chunk, chunk),
                (min(area, last), chunk),
                (size, 1),
            )
        )
        return sector, max(1, count)

    def _next_generation(self) -> int:
        self._generation += 1
        return self._generation

    def _io_on(self, name: str) -> None:
        r = self._random
        sector, count = self._range(name)
        kinds = self._weights.requests
        buffered = r.random() < self._weights.buffered
        match r.choices(list(kinds), list(kinds.values()))[0]:
            case "write":
                fill: Fill = "zero" if r.random() < 0.08 else "stamp"
                self.try_step(
                    Write(
                        device=name,
                        sector=sector,
                        sectors=count,
                        generation=self._next_generation(),
                        fill=fill,
                        buffered=buffered,
                    )
                )
            case "read":
                self.try_step(Read(device=name, sector=sector, sectors=count, buffered=buffered))
            case "flush":
                self.try_step(Flush(device=name))
            case "discard":
                self.try_step(Discard(device=name, sector=sector, sectors=count))
            case "zeroout":
                self.try_step(Zeroout(device=name, sector=sector, sectors=count))

    def _faults(self) -> None:
        """A disk that can fail is told to, or no longer."""
        disks = self._backend.world.fallible_disks()
        if not disks:
            return
        r = self._random
        name = r.choice(list(disks))
        if r.random() < 0.4:
            self.try_step(Heal(device=name))
            return
        sector = 8 * r.randrange(disks[name].sectors // 8 + 1)
        if sector >= disks[name].sectors:
            return
        self.try_step(
            Fault(
                device=name,
                op=r.choice(("read", "write", "discard")),
                sector=sector,
                sectors=min(r.choice((1, 8, 64)), disks[name].sectors - sector),
                nth=r.choice((1, 1, 2, 3)),
                count=r.choice((0, 1, 1, 2)),
                how="stalls" if disks[name].linked and r.random() < 0.3 else "error",
            )
        )

    def _io(self) -> None:
        name = self._mapped_name()
        if name is not None:
            self._io_on(name)

    def _io_on_origin(self) -> None:
        names = [
            name
            for name, md in self._mapped.items()
            if md.live
            and any(
                target.type_name in ("snapshot-origin", "snapshot-merge")
                for target in md.live.targets
            )
        ]
        if names:
            self._io_on(self._random.choice(names))

    def _raw_io(self) -> None:
        name = self._random.choice(list(self._backend.world.disks))
        self._io_on(name)

    def _fill(self) -> None:
        """Chunk after chunk, until something gives."""
        names = self._snapshot_names()
        if not names:
            return
        name = self._random.choice(names)
        size = self._device(name).sectors
        stride = self._random.choice((8, 16, 24))
        for sector in range(0, size, stride)[:10]:
            self.try_step(
                Write(
                    device=name,
                    sector=sector,
                    sectors=min(self._random.choice((1, 8)), size - sector),
                    generation=self._next_generation(),
                )
            )

    def _reactivate(self) -> None:
        """A snapshot is removed, or everything is, and comes up again from its store."""
        r = self._random
        names = self._snapshot_names()
        if not names:
            return
        name = r.choice(names)
        lines = self._same_lines(name)
        read_only = self._read_only()
        assert lines is not None
        if r.random() < 0.3:
            for other in [other for other in self._mapped if other != name]:
                self.try_step(Remove(name=other))
        if not self.try_step(Remove(name=name)) or name in self._mapped:
            return
        if r.random() < 0.2 and lines[0].args.split()[2:3] == ["N"]:
            words = lines[0].args.split()
            words[2] = "P"
            lines = (TargetLine(0, lines[0].length, lines[0].type, " ".join(words)),)
        self.try_step(Create(name=name))
        self.try_step(Load(name=name, table=lines, **read_only))
        self.try_step(Resume(name=name))

    def _crafted(self) -> None:
        """A store that no kernel wrote: sound or rotten entries behind a good header."""
        r = self._random
        cow = self._any(lambda name: name.startswith("cow"))
        if cow is None:
            return
        chunk = r.choice((1, 2, 4, 8, 16))
        size = self._device(cow).sectors
        if size < 3 * chunk:
            return
        self.try_step(
            Write(
                device=cow,
                sector=0,
                sectors=min(size, 3 * chunk),
                fill="zero",
                generation=self._next_generation(),
            )
        )
        header = struct.pack("<4I", SNAP_MAGIC, 1, 1, chunk)
        self.try_step(Poke(device=cow, sector=0, data=header.ljust(512, b"\0")))
        free = list(range(2, max(3, size // chunk)))
        if r.random() < 0.5:
            r.shuffle(free)
        entries = list(enumerate(free[: r.randint(0, 20)]))
        if r.random() < 0.3:
            r.shuffle(entries)
        if entries and r.random() < 0.2:
            entries.append(r.choice(entries))
        data = b"".join(struct.pack("<2Q", *entry) for entry in entries)[:512]
        self.try_step(Poke(device=cow, sector=chunk, data=data.ljust(512, b"\0")))

    def _exactly_full(self) -> None:
        """As many new chunks as there is room for, and one more or less."""
        name, target = self._one_snapshot()
        if target is not None:
            chunk = target.store.chunk_sectors or 1
            used, total, _ = target.store.usage()
            self._new_chunks(name, (total - used) // chunk, chunk)

    def _full_area(self) -> None:
        """As many new chunks as the area of the store has room for, and one more or less."""
        name, target = self._one_snapshot()
        if target is not None:
            chunk = target.store.chunk_sectors or 1
            used, _, metadata = target.store.usage()
            entries = entries_per_area(chunk)
            done = (used - metadata) // chunk % entries
            self._new_chunks(name, entries - done, chunk)

    def _one_snapshot(self) -> tuple[str, Snapshot | None]:
        names = self._snapshot_names()
        if not names:
            return "", None
        name = self._random.choice(names)
        md = self._mapped[name]
        target = md.live.targets[0] if md.live else None
        return name, target if isinstance(target, Snapshot) else None

    def _new_chunks(self, name: str, count: int, chunk: int) -> None:
        """Write to the beginning of so many chunks, or to all of them at once."""
        r = self._random
        count += r.choice((-1, 0, 0, 1))
        size = self._mapped[name].sectors
        first = r.choice((0, 0, r.randrange(size // chunk + 1)))
        if r.random() < 0.7 or count > 12:
            sectors = min(count * chunk, size - first * chunk)
            if sectors > 0 and count <= 300:
                self.try_step(
                    Write(
                        device=name,
                        sector=first * chunk,
                        sectors=sectors,
                        generation=self._next_generation(),
                    )
                )
            return
        for number in range(first, first + count):
            if number * chunk < size:
                self.try_step(
                    Write(
                        device=name,
                        sector=number * chunk,
                        sectors=1,
                        generation=self._next_generation(),
                    )
                )

    def _poke(self) -> None:
        """Something else on a COW device: another header, another entry."""
        r = self._random
        cow = self._any(lambda name: name.startswith("cow"))
        if cow is None:
            return
        if r.random() < 0.5:
            magic = r.choice((SNAP_MAGIC, SNAP_MAGIC, 0, 7))
            # Stamps behind it would be entries of 2^56 and more, which no kernel defines.
            self.try_step(
                Write(
                    device=cow,
                    sector=0,
                    sectors=min(40, self._device(cow).sectors),
                    fill="zero",
                    generation=self._next_generation(),
                )
            )
            data = struct.pack(
                "<4I",
                magic,
                r.choice((0, 1, 2)),
                r.choice((1, 1, 1, 2)),
                r.choice((1, 2, 4, 8, 16, 32, 0, 3)),
            )
            sector = 0
        else:
            data = b"".join(
                struct.pack("<2Q", r.randrange(40), r.choice((0, *range(2, 30))))
                for _ in range(r.randint(0, 12))
            )
            sector = r.choice((1, 2, 4, 8, 16))
        self.try_step(Poke(device=cow, sector=sector, data=data.ljust(512, b"\0")))

    def _several(self) -> None:
        names = [name for name, md in self._mapped.items() if md.live]
        if not names:
            return
        ios: list[Write | Read] = []
        for _ in range(self._random.randint(2, PARALLEL_MAX)):
            name = self._random.choice(names)
            sector, count = self._range(name)
            ios.append(
                Write(device=name, sector=sector, sectors=count, generation=self._next_generation())
            )
        self.try_step(Parallel(ios=tuple(ios)))

    def _image(self) -> None:
        self.try_step(Image(device=self._random.choice(list(self._backend.world.disks))))


def life(
    seed: int,
    steps: int,
    *,
    weights: Weights = WEIGHTS["snapshots"],
    parallel: bool = False,
    before: Sequence[AnyStep] = (),
) -> Trace:
    """One life as a trace; what the twin of 6.12 refuses is not in it."""
    return written(seed, steps, weights=weights, parallel=parallel, before=before)[0]


def written(
    seed: int,
    steps: int,
    *,
    weights: Weights,
    parallel: bool = False,
    before: Sequence[AnyStep] = (),
    name: str = "",
) -> tuple[Trace, tuple[Observation, ...]]:
    """One life, and what the twin saw in it.

    Args:
        seed: of all choices, and of the contents of every sector.
        steps: how many there are to be, about.
        weights: what it is made of.
        parallel: several I/Os are in flight at once, too.
        before: steps of another life, which it goes on from.
        name: of the trace; by default it says the seed.
    """
    one = Life(seed, named("6.12"), weights=weights, parallel=parallel, before=before)
    one.live(steps)
    header = Header(scenario=name or f"life-{seed}", seed=seed, about="random")
    # A trace has bounds of its own, such as how deep devices may stand on each other.
    beyond = excess(one.steps)
    end = len(one.steps) if beyond is None else beyond.step
    return loads(dumps(Trace(header, tuple(one.steps[:end])))), tuple(one.observations[:end])
