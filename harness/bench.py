"""How fast the two sides are, as ratios of times taken in one run (``make bench``).

Machines differ and are noisy; a ratio from one run says more than a time.  Nothing here is a test:
it prints, and exits with 0.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from harness import store
from harness.errors import DmsnapError
from harness.guest import catalogue
from harness.report.model import Result
from harness.run import Plan, execute
from harness.scenarios.registry import choose
from harness.scenarios.script import Script
from harness.steps import Examine
from harness.trace import Header, Trace

_WRITES: Final = 4000
_STORE_EXCEPTIONS: Final = 1_000_000
_CHUNK_SECTORS: Final = 8


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
    """Seconds of the quickest of some rounds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
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
    options = parser.parse_args(arguments)
    try:
        kernel = catalogue.fetch(options.kernel, progress=lambda line: print(line, file=sys.stderr))
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
