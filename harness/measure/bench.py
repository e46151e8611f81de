"""How fast the two sides are, as ratios of times taken in one run (``make bench``).

Machines differ and are noisy; a ratio from one run says more than a time.  What is compared is
measured in turn, and the fastest round counts.  Nothing here is a test: it prints, and exits
with 0.

Each figure is printed and saved (``report/bench.json``) as soon as it is known, so a stopped
bench loses only the measurement in progress.
"""

import argparse
import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from harness import store
from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.errors import DmsnapError
from harness.files import check_writable, write_whole
from harness.guest import catalogue, choice
from harness.guest.catalogue import Kernel
from harness.scenarios.registry import choose
from harness.scenarios.script import Script
from harness.trace.backend import carry_out
from harness.trace.files import Header, Trace
from harness.trace.steps import (
    AnyStep,
    Clear,
    Create,
    Disk,
    Examine,
    Load,
    Resume,
    TargetLine,
    encode,
)
from harness.twin.backend import TwinBackend
from harness.twin.blockio import BlockIO
from harness.twin.exceptions.table import ExceptionTable, table_slots
from harness.twin.profile import named
from harness.units import bytes_of_sectors, sectors_of_bytes
from harness.verdict.result import Result

_WRITES: Final = 4000
_STORE_EXCEPTIONS: Final = 1_000_000
_CHUNK_SECTORS: Final = 8
_SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
_OPERATIONS: Final = 2000
_ROUNDS: Final = 7
_STREAM_MIB: Final = 64
_REQUEST_BYTES: Final = 1 << 20

Chunks = npt.NDArray[np.int64]
KINDS: Final[dict[str, Callable[[int], Chunks]]] = {
    "dense": np.arange,
    "one in each group of 256": lambda count: np.arange(count) * 256,
    "at random, a quarter of all": lambda count: np.random.default_rng(1).permutation(4 * count)[
        :count
    ],
}
"""Old chunks of a number of exceptions, in order of creation."""


class Figure(Struct, frozen=True):
    """Something measured.

    Attributes:
        name: what was measured.
        words: the figures as text, one or more lines.
        values: name with unit → figure.
    """

    name: str
    words: str
    values: dict[str, float]


class Figures(Struct, frozen=True, kw_only=True):
    """Everything measured so far.

    Attributes:
        kernel, release: of the kernel side.
        whole: whether nothing is missing.
    """

    schema: int = msgspec.field(default=1, name="dmsnap-bench")
    started: str
    kernel: str
    release: str = ""
    whole: bool = False
    figures: tuple[Figure, ...] = ()


class _Book:
    """Prints figures and saves them; the file is complete after each of them."""

    def __init__(self, path: Path, kernel: str) -> None:
        self._path = path
        self._now = Figures(started=datetime.now(UTC).isoformat(timespec="seconds"), kernel=kernel)

    def add(self, figure: Figure) -> None:
        """Add a figure."""
        print(figure.words, flush=True)
        self.note(figures=(*self._now.figures, figure))

    def note(self, **fields: object) -> None:
        """Set other fields."""
        self._now = msgspec.structs.replace(self._now, **fields)
        if self._now.figures:  # an earlier bench's results stay until there are new ones
            write_whole(self._path, msgspec.json.format(encode(self._now), indent=1) + b"\n")


class _Shown:
    """Progress of the measurements: a bar on a terminal, elsewhere a line for each part.

    It is drawn when something has happened, never by a thread while the clock runs.  Also a
    reporter of the kernel's part.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            expand=True,
            auto_refresh=False,
            transient=True,
            # Figures go above the bar, or to standard output if that is piped.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_Shown":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_rest: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def part(self, name: str, total: int) -> None:
        """A new part, of ``total`` steps, begins."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total)
        if self._console.is_terminal:
            self._bar.refresh()
        else:
            self._console.print(f"dmsnap: bench: {name}", highlight=False, soft_wrap=True)

    def step(self) -> None:
        """A step of the part has ended."""
        if self._task is not None:
            self._bar.advance(self._task)
        if self._console.is_terminal:
            self._bar.refresh()

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """The kernel's part begins."""
        self.part(f"scenarios on {', '.join(kernels)}", total)

    def progress(self, guest: str, doing: str) -> None:
        """Nothing."""

    def result(self, result: Result) -> None:  # noqa: ARG002
        """A result has arrived."""
        self.step()

    def end(self, report: object) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def small_writes() -> Trace:
    """Copy-on-write writes of 4 KiB, one step each, each to a new chunk."""
    script = Script()
    sectors = _WRITES * _CHUNK_SECTORS
    script.disk("base", sectors, stamped=True)
    script.disk("cow", 2 * sectors)
    script.snapshot("snap", "base", "cow", "P", _CHUNK_SECTORS)
    for index in range(_WRITES):
        script.write("snap", index * _CHUNK_SECTORS, _CHUNK_SECTORS)
    return Trace(Header(scenario="small_writes"), (*script.steps, Examine()))


def best(work: Callable[[], object], rounds: int = 5) -> float:
    """Processor seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def bench_store() -> Figure:
    """Parsing a store of a million exceptions, against copying its bytes."""
    image = store.build(_CHUNK_SECTORS, store.allocate(range(_STORE_EXCEPTIONS), _CHUNK_SECTORS))
    metadata = b"".join(
        data
        for _, data in store.pieces(
            _CHUNK_SECTORS, store.allocate(range(_STORE_EXCEPTIONS), _CHUNK_SECTORS)
        )
    )
    source = np.frombuffer(metadata, dtype=np.uint8)
    parse_s = best(lambda: store.parse(image))
    copy_s = best(source.copy)
    size = len(metadata) / 1e6
    return Figure(
        "store",
        (
            f"store, {_STORE_EXCEPTIONS:,} exceptions, {size:.1f} MB of metadata: parsed at "
            f"{size / parse_s:,.0f} MB/s, plain copy {size / copy_s:,.0f} MB/s, "
            f"ratio {parse_s / copy_s:.1f}"
        ),
        {"parse_s": parse_s, "copy_s": copy_s, "metadata_bytes": len(metadata)},
    )


def _world(steps: Sequence[AnyStep]) -> TwinBackend:
    twin = TwinBackend(named("6.12"))
    for seen in carry_out(twin, steps, 0):
        assert seen.error is None, (steps[seen.step], seen.error)
    return twin


class _Loaded:
    """A snapshot in the twin with a number of exceptions in its store, and the cost of using it."""

    def __init__(self, olds: Chunks) -> None:
        self.olds = olds
        self.best: dict[str, float] = {}
        count = len(olds)
        # Room for the writes of the rounds.
        free = 2 * _ROUNDS * _OPERATIONS
        self._free = int(olds.max()) + 1
        sectors = (self._free + free) * _CHUNK_SECTORS
        self._twin = _world(
            (
                Disk(name="base", sectors=sectors),
                Create(name="snap"),
                Disk(name="cow", sectors=(count + count // 256 + free) * _CHUNK_SECTORS),
            )
        )
        cow = self._twin.world.disks["cow"]
        for offset, data in store.pieces(_CHUNK_SECTORS, store.allocate(olds, _CHUNK_SECTORS)):
            cow.view(sectors_of_bytes(offset), sectors_of_bytes(len(data)))[:] = data
        self._load = Load(
            name="snap",
            table=(TargetLine(0, sectors, "snapshot", f"{{base}} {{cow}} P {_CHUNK_SECTORS}"),),
        )
        # The same ones in each round, so that the disk's memory is allocated when it counts.
        self._some: list[int] = np.random.default_rng(2).choice(olds, _OPERATIONS).tolist()
        self._row: list[int] = np.sort(olds)[:_OPERATIONS].tolist()
        # What the machine can do: a random lookup in a plain dict, and in an array of numbers.
        self._dict = dict(zip(olds.tolist(), range(count), strict=True))
        self._array = np.arange(count).data
        self._places: list[int] = np.random.default_rng(3).integers(0, count, _OPERATIONS).tolist()
        self._io = BlockIO(self._twin.world.clock, self._twin.world.profile)

    def load(self) -> None:
        """Load the table."""
        self._twin.execute(0, Clear(name="snap"))
        gc.collect()
        self._time("load", len(self.olds), lambda: self._twin.execute(0, self._load))

    def use(self) -> None:
        """Read and write through the device, and look up in the table alone."""
        device = self._twin.world.mapped["snap"]
        if device.live is None:
            self._twin.execute(0, Resume(name="snap"))
        self._time(
            "read, random",
            _OPERATIONS,
            lambda: [
                self._io.read_direct(device, chunk * _CHUNK_SECTORS, _CHUNK_SECTORS)
                for chunk in self._some
            ],
        )
        self._free += _OPERATIONS
        buffer = memoryview(bytes(bytes_of_sectors(_CHUNK_SECTORS)))
        chunks = range(self._free - _OPERATIONS, self._free)
        self._time(
            "write",
            _OPERATIONS,
            lambda: [
                self._io.write_direct(device, chunk * _CHUNK_SECTORS, buffer) for chunk in chunks
            ],
        )
        table = self._twin.world.origins.snapshots(self._twin.world.disks["base"])[0].complete
        self._time("lookup, random", _OPERATIONS, lambda: [table.lookup(old) for old in self._some])
        self._time(
            "lookup, in a row", _OPERATIONS, lambda: [table.lookup(old) for old in self._row]
        )
        plain = self._dict.get
        self._time("plain dict, random", _OPERATIONS, lambda: [plain(old) for old in self._some])
        self._time(
            "array, random", _OPERATIONS, lambda: [self._array[place] for place in self._places]
        )

    def _time(self, what: str, operations: int, work: Callable[[], object]) -> None:
        started = time.process_time()
        work()
        each = (time.process_time() - started) / operations
        self.best[what] = min(self.best.get(what, each), each)


def bench_exceptions(sizes: Sequence[int], shown: _Shown) -> Iterator[Figure]:
    """Cost of an operation, and memory, by number of exceptions; a figure for each kind."""
    for kind, chunks in KINDS.items():
        shown.part(f"exceptions, {kind}", 2 * _ROUNDS * len(sizes))
        loaded = [_Loaded(chunks(count)) for count in sizes]
        for turn in range(_ROUNDS):
            for one in loaded:
                # The largest takes seconds.
                if turn < 3 or len(one.olds) < sizes[-1]:
                    one.load()
                shown.step()
        for _ in range(_ROUNDS):
            for one in loaded:
                one.use()
                shown.step()
        lines = [f"exceptions, {kind}: ns for each of {', '.join(f'{size:,}' for size in sizes)}"]
        for what, base in loaded[0].best.items():
            figures = "  ".join(f"{one.best[what] * 1e9:8,.0f}" for one in loaded)
            lines.append(
                f"  {what:18} {figures}   largest/smallest {loaded[-1].best[what] / base:.2f}"
            )
        values = {
            f"{what}, {size} exceptions, s": each
            for size, one in zip(sizes, loaded, strict=True)
            for what, each in one.best.items()
        }
        del loaded
        memory = {count: _memory(chunks(count)) for count in sizes if count <= 1_000_000}
        lines.append(
            "  memory (tracemalloc), bytes for each: "
            + ", ".join(f"{each:.1f} of {count:,}" for count, each in memory.items())
        )
        values |= {f"memory, {count} exceptions, bytes": each for count, each in memory.items()}
        yield Figure(f"exceptions, {kind}", "\n".join(lines), values)


def _memory(olds: Chunks) -> float:
    """Bytes of a table per exception."""
    entries = store.allocate(olds, _CHUNK_SECTORS)
    pairs = entries.view(np.uint64).reshape(-1, 2)
    tracemalloc.start()
    table = ExceptionTable(table_slots(2 * len(olds) * _CHUNK_SECTORS, _CHUNK_SECTORS))
    table.load(pairs)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(olds)


def bench_stream(shown: _Shown) -> Figure:
    """Copy-on-write in requests of 1 MiB, through a snapshot and through an origin."""
    size = _STREAM_MIB << 20
    sectors = sectors_of_bytes(size)
    source = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    data = source.data

    def stream(device: str) -> float:
        twin = _world(
            (
                Disk(name="base", sectors=sectors),
                Disk(name="cow", sectors=sectors + sectors // 64),
                Create(name="snap"),
                Load(
                    name="snap",
                    table=(
                        TargetLine(0, sectors, "snapshot", f"{{base}} {{cow}} P {_CHUNK_SECTORS}"),
                    ),
                ),
                Resume(name="snap"),
                Create(name="origin"),
                Load(name="origin", table=(TargetLine(0, sectors, "snapshot-origin", "{base}"),)),
                Resume(name="origin"),
            )
        )
        twin.world.disks["base"].view(0, sectors)[:] = data
        io = BlockIO(twin.world.clock, twin.world.profile)
        target = twin.world.mapped[device]
        return best(
            lambda: [
                io.write_direct(target, sectors_of_bytes(at), data[at : at + _REQUEST_BYTES])
                for at in range(0, size, _REQUEST_BYTES)
            ],
            1,
        )

    copy_s = snap_s = origin_s = float("inf")
    for _ in range(_ROUNDS):
        copy_s = min(copy_s, best(source.copy, 1))
        snap_s = min(snap_s, stream("snap"))
        origin_s = min(origin_s, stream("origin"))
        shown.step()
    speed = size / 1e6
    return Figure(
        "stream",
        (
            f"streaming copy-on-write, chunks of 4 KiB: snapshot {speed / snap_s:,.0f} MB/s, "
            f"origin {speed / origin_s:,.0f} MB/s, plain copy {speed / copy_s:,.0f} MB/s; ratio "
            f"{copy_s / snap_s:.2f} and {copy_s / origin_s:.2f}"
        ),
        {"snapshot_s": snap_s, "origin_s": origin_s, "copy_s": copy_s, "bytes": size},
    )


def _sides(label: str, results: Sequence[Result]) -> Figure:
    steps = sum(result.steps for result in results)
    kernel_s = sum(result.kernel_us for result in results) / 1e6
    twin_s = sum(result.twin_us for result in results) / 1e6
    return Figure(
        label,
        (
            f"{label}: {steps:,} steps; kernel {kernel_s:.2f} s ({steps / kernel_s:,.0f} steps/s), "
            f"twin {twin_s:.2f} s ({steps / twin_s:,.0f} steps/s), twin/kernel "
            f"{twin_s / kernel_s:.2f}"
        ),
        {"steps": steps, "kernel_s": kernel_s, "twin_s": twin_s},
    )


def _size(text: str) -> int:
    size = int(text)
    if size < _SIZES[0]:
        raise argparse.ArgumentTypeError(
            f"{size:,} exceptions are too few; the smallest table measured has {_SIZES[0]:,}"
        )
    return size


def _tell(line: str) -> None:
    print(f"dmsnap: {line}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="dmsnap bench", description=__doc__)
    parser.add_argument(
        "--kernel",
        help=f"a catalogue kernel  [default: {catalogue.default()}, or the best that boots here]",
    )
    parser.add_argument(
        "--exceptions",
        type=_size,
        default=_SIZES[-1],
        metavar="N",
        help="size of the largest table; ten million exceptions take 6 GB",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report/bench.json"),
        metavar="FILE",
        help="also save the figures here",
    )
    options = parser.parse_args(arguments)
    try:
        check_writable(options.output.parent)
        [kernel] = choice.chosen_kernels(
            [options.kernel] if options.kernel else [], None, one=True, progress=_tell
        )
        sizes = [size for size in _SIZES if size <= options.exceptions]
        book = _Book(options.output, kernel.name)
        with _Shown(Console(stderr=True)) as shown:
            for figure in _all(kernel, sizes, book, shown):
                book.add(figure)
        book.note(whole=True)
    except DmsnapError as fault:
        print(f"dmsnap: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dmsnap: interrupted; what was measured is in {options.output}", file=sys.stderr)
        return 130
    print(f"figures: {options.output}")
    return 0


def _all(kernel: Kernel, sizes: Sequence[int], book: _Book, shown: _Shown) -> Iterator[Figure]:
    """All measurements, each when it is ready."""
    traces = tuple(scenario.trace() for scenario in choose([]))
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
        started = time.perf_counter()
        report = execute(
            Plan(
                traces=(*traces, small_writes()),
                kernels=(kernel,),
                jobs=1,
                directory=Path(directory),
            ),
            shown,
        )
        wall_s = time.perf_counter() - started
    release = report.release(kernel.name)
    book.note(release=release)
    yield Figure(
        "run", f"{kernel.name} ({release}), one guest, {wall_s:.1f} s in all", {"wall_s": wall_s}
    )
    yield _sides("catalogue", report.results[:-1])
    yield _sides(f"{_WRITES:,} copy-on-write writes of 4 KiB", report.results[-1:])
    shown.part("store", 1)
    yield bench_store()
    shown.part("streaming copy-on-write", _ROUNDS)
    yield bench_stream(shown)
    yield from bench_exceptions(sizes, shown)


if __name__ == "__main__":
    sys.exit(main())
