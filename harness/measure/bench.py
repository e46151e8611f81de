"""How fast the two sides are, as ratios of times taken in one run (``make bench``).

Machines differ and are noisy; a ratio from one run says more than a time.  What is compared is
measured in turns, and the quickest turn counts.  Nothing here is a test: it prints, and exits with
0.
"""

import argparse
import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from harness import store
from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.errors import DmsnapError
from harness.guest import catalogue
from harness.guest.fetch import provision
from harness.scenarios.registry import choose
from harness.scenarios.script import Script
from harness.trace.files import Header, Trace
from harness.trace.steps import AnyStep, Clear, Create, Disk, Examine, Load, Resume, TargetLine
from harness.twin.backend import TwinBackend
from harness.twin.blockio import BlockIO
from harness.twin.exceptions.table import ExceptionTable, table_slots
from harness.twin.profile import named
from harness.units import SECTOR_BYTES
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
    "at random, a quarter of all": lambda count: np.random.default_rng(1).permutation(
        4 * count)[:count],
}
"""Old chunks of so many exceptions, in the order in which they were made."""


class _Quiet:
    """A reporter that says nothing while the clock runs."""

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Nothing."""

    def progress(self, guest: str, doing: str) -> None:
        """Nothing."""

    def result(self, result: Result) -> None:
        """Nothing."""

    def end(self, report: object) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def small_writes() -> Trace:
    """Copy-on-write writes of 4 KiB, one step each, to as many new chunks."""
    script = Script()
    sectors = _WRITES * _CHUNK_SECTORS
    script.disk("base", sectors, stamped=True)
    script.disk("cow", 2 * sectors)
    script.snapshot("snap", "base", "cow", "P", _CHUNK_SECTORS)
    for index in range(_WRITES):
        script.write("snap", index * _CHUNK_SECTORS, _CHUNK_SECTORS)
    return Trace(Header(scenario="small_writes"), (*script.steps, Examine()))


def best(work: Callable[[], object], rounds: int = 5) -> float:
    """Processor seconds of the quickest of some rounds."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def bench_store() -> None:
    """Parsing a store of a million exceptions, against copying its bytes."""
    image = store.build(_CHUNK_SECTORS, store.allocate(range(_STORE_EXCEPTIONS), _CHUNK_SECTORS))
    metadata = b"".join(data for _, data in store.pieces(
        _CHUNK_SECTORS, store.allocate(range(_STORE_EXCEPTIONS), _CHUNK_SECTORS)))
    source = np.frombuffer(metadata, dtype=np.uint8)
    parse_s = best(lambda: store.parse(image))
    copy_s = best(source.copy)
    size = len(metadata) / 1e6
    print(f"store, {_STORE_EXCEPTIONS:,} exceptions, {size:.1f} MB of metadata: parsed at "
          f"{size / parse_s:,.0f} MB/s, plain copy {size / copy_s:,.0f} MB/s, "
          f"ratio {parse_s / copy_s:.1f}")


def _world(steps: Sequence[AnyStep]) -> TwinBackend:
    twin = TwinBackend(named("6.12"))
    for index, step in enumerate(steps):
        error = twin.execute(index, step).error
        assert error is None, (step, error)
    return twin


class _Loaded:
    """A snapshot in the twin whose store holds so many exceptions, and what it costs to use."""

    def __init__(self, olds: Chunks) -> None:
        self.olds = olds
        self.best: dict[str, float] = {}
        count = len(olds)
        # Room for what the rounds write.
        free = 2 * _ROUNDS * _OPERATIONS
        self._free = int(olds.max()) + 1
        sectors = (self._free + free) * _CHUNK_SECTORS
        self._twin = _world((
            Disk(name="base", sectors=sectors), Create(name="snap"),
            Disk(name="cow", sectors=(count + count // 256 + free) * _CHUNK_SECTORS)))
        cow = self._twin.world.disks["cow"]
        for offset, data in store.pieces(_CHUNK_SECTORS, store.allocate(olds, _CHUNK_SECTORS)):
            cow.view(offset // SECTOR_BYTES, len(data) // SECTOR_BYTES)[:] = data
        self._load = Load(name="snap", table=(TargetLine(
            0, sectors, "snapshot", f"{{base}} {{cow}} P {_CHUNK_SECTORS}"),))
        # The same ones in each turn, so that the disk's own memory is there when it counts.
        self._some: list[int] = np.random.default_rng(2).choice(olds, _OPERATIONS).tolist()
        self._row: list[int] = np.sort(olds)[:_OPERATIONS].tolist()
        # What the machine can do: a random look into a plain dict, and into an array of numbers.
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
        self._time("read, random", _OPERATIONS, lambda: [
            self._io.read_direct(device, chunk * _CHUNK_SECTORS, _CHUNK_SECTORS)
            for chunk in self._some])
        self._free += _OPERATIONS
        buffer = memoryview(bytes(_CHUNK_SECTORS * SECTOR_BYTES))
        chunks = range(self._free - _OPERATIONS, self._free)
        self._time("write", _OPERATIONS, lambda: [
            self._io.write_direct(device, chunk * _CHUNK_SECTORS, buffer) for chunk in chunks])
        table = self._twin.world.registry.snapshots(self._twin.world.disks["base"])[0].complete
        self._time("lookup, random", _OPERATIONS, lambda: [
            table.lookup(old) for old in self._some])
        self._time("lookup, in a row", _OPERATIONS, lambda: [
            table.lookup(old) for old in self._row])
        plain = self._dict.get
        self._time("plain dict, random", _OPERATIONS, lambda: [plain(old) for old in self._some])
        self._time("array, random", _OPERATIONS, lambda: [
            self._array[place] for place in self._places])

    def _time(self, what: str, operations: int, work: Callable[[], object]) -> None:
        started = time.process_time()
        work()
        each = (time.process_time() - started) / operations
        self.best[what] = min(self.best.get(what, each), each)


def bench_exceptions(sizes: Sequence[int]) -> None:
    """Cost of one operation, and memory, by the number of exceptions."""
    for kind, chunks in KINDS.items():
        loaded = [_Loaded(chunks(count)) for count in sizes]
        for turn in range(_ROUNDS):
            for one in loaded:
                # The largest takes seconds.
                if turn < 3 or len(one.olds) < sizes[-1]:
                    one.load()
        for _ in range(_ROUNDS):
            for one in loaded:
                one.use()
        print(f"exceptions, {kind}: ns for each of {', '.join(f'{size:,}' for size in sizes)}")
        for what, base in loaded[0].best.items():
            figures = "  ".join(f"{one.best[what] * 1e9:8,.0f}" for one in loaded)
            print(f"  {what:18} {figures}   largest/smallest {loaded[-1].best[what] / base:.2f}")
        del loaded
        print("  memory (tracemalloc), bytes for each: " + ", ".join(
            f"{_memory(chunks(count)):.1f} of {count:,}" for count in sizes if count <= 1_000_000))


def _memory(olds: Chunks) -> float:
    """Bytes of a table for each exception."""
    entries = store.allocate(olds, _CHUNK_SECTORS)
    pairs = entries.view(np.uint64).reshape(-1, 2)
    tracemalloc.start()
    table = ExceptionTable(table_slots(2 * len(olds) * _CHUNK_SECTORS, _CHUNK_SECTORS))
    table.load(pairs)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(olds)


def bench_stream() -> None:
    """Copy-on-write in requests of 1 MiB, through a snapshot and through an origin."""
    size = _STREAM_MIB << 20
    sectors = size // SECTOR_BYTES
    source = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    data = source.data

    def stream(device: str) -> float:
        twin = _world((
            Disk(name="base", sectors=sectors),
            Disk(name="cow", sectors=sectors + sectors // 64), Create(name="snap"),
            Load(name="snap", table=(TargetLine(
                0, sectors, "snapshot", f"{{base}} {{cow}} P {_CHUNK_SECTORS}"),)),
            Resume(name="snap"), Create(name="origin"),
            Load(name="origin", table=(TargetLine(0, sectors, "snapshot-origin", "{base}"),)),
            Resume(name="origin")))
        twin.world.disks["base"].view(0, sectors)[:] = data
        io = BlockIO(twin.world.clock, twin.world.profile)
        target = twin.world.mapped[device]
        return best(lambda: [io.write_direct(target, at // SECTOR_BYTES,
                                             data[at : at + _REQUEST_BYTES])
                             for at in range(0, size, _REQUEST_BYTES)], 1)

    copy_s = snap_s = origin_s = float("inf")
    for _ in range(_ROUNDS):
        copy_s = min(copy_s, best(source.copy, 1))
        snap_s = min(snap_s, stream("snap"))
        origin_s = min(origin_s, stream("origin"))
    speed = size / 1e6
    print(f"streaming copy-on-write, chunks of 4 KiB: snapshot {speed / snap_s:,.0f} MB/s, origin "
          f"{speed / origin_s:,.0f} MB/s, plain copy {speed / copy_s:,.0f} MB/s; ratio "
          f"{copy_s / snap_s:.2f} and {copy_s / origin_s:.2f}")


def _sides(label: str, results: Sequence[Result]) -> None:
    steps = sum(result.steps for result in results)
    kernel_s = sum(result.kernel_us for result in results) / 1e6
    twin_s = sum(result.twin_us for result in results) / 1e6
    print(f"{label}: {steps:,} steps; kernel {kernel_s:.2f} s ({steps / kernel_s:,.0f} steps/s), "
          f"twin {twin_s:.2f} s ({steps / twin_s:,.0f} steps/s), twin/kernel "
          f"{twin_s / kernel_s:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="dmsnap bench", description=__doc__)
    parser.add_argument("--kernel", default=catalogue.default())
    parser.add_argument("--exceptions", type=int, default=_SIZES[-1], metavar="N",
                        help="the largest table measured; ten million take 6 GB")
    options = parser.parse_args(arguments)
    try:
        kernel = provision.fetch(options.kernel, progress=lambda line: print(line, file=sys.stderr))
        traces = tuple(scenario.trace() for scenario in choose([]))
        with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
            started = time.perf_counter()
            report = execute(Plan(traces=(*traces, small_writes()), kernels=(kernel,), jobs=1,
                                  directory=Path(directory)), _Quiet())
            wall_s = time.perf_counter() - started
    except DmsnapError as fault:
        print(f"dmsnap: {fault}", file=sys.stderr)
        return 2
    print(f"{kernel.name} ({report.release(kernel.name)}), one guest, {wall_s:.1f} s in all")
    _sides("catalogue", report.results[:-1])
    _sides(f"{_WRITES:,} copy-on-write writes of 4 KiB", report.results[-1:])
    bench_store()
    bench_stream()
    bench_exceptions([size for size in _SIZES if size <= options.exceptions])
    return 0


if __name__ == "__main__":
    sys.exit(main())
