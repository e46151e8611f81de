"""An agent that also measures kcopyd's copy jobs in flight and the memory they take.

Run in a guest as ``python -m harness.kernel.gauge RESULTS_DIR``; it does a job just as
`harness.kernel.agent` does.  While a buffered write runs, a second thread reads the line
``kcopyd_job`` of /proc/slabinfo (kernel: ``_job_cache`` in dm-kcopyd.c), and the peak goes to
``gauge.json``, by scenario.

One object of that cache is one job with room for the eight pieces it may be cut into
(``SPLIT_COUNT``), so it takes more than 3 KB.  Each client of kcopyd, that is each snapshot, keeps
eight of them in reserve (``MIN_JOBS``); they exist before the write, so ``before`` tells
them apart.

Deliberately left out: the pages that a job copies through.  kcopyd takes them from the page
allocator, where they cannot be distinguished from others.
"""

import contextlib
import mmap
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import DmsnapError, ProvisioningError
from harness.files import write_whole
from harness.kernel import agent
from harness.kernel.session import JournalLost, Runner
from harness.trace.backend import Backend
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep, Write
from harness.wire.gauged import NAME, Gauged, Slab
from harness.wire.journal import Done, JournalWriter

CACHE: Final = "kcopyd_job"
_SLABINFO: Final = Path("/proc/slabinfo")
_WRITEBACK: Final = Path("/proc/sys/vm/dirty_writeback_centisecs")
_PERIOD_S: Final = 0.02


def read_slab(text: str, page_bytes: int) -> Slab:
    """The cache's line of /proc/slabinfo.

    Raises:
        ProvisioningError: there is no such line.
    """
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == CACHE:
            active, _, size, _, pages = (int(word) for word in words[1:6])
            slabs = int(words[words.index("slabdata") + 2])
            return Slab(active, size, slabs * pages * page_bytes)
    raise ProvisioningError(
        f"/proc/slabinfo has no line {CACHE}: the kernel has merged the cache with another one of "
        "its size (boot it with slab_nomerge), or shows none (CONFIG_SLUB_DEBUG)"
    )


def _read() -> Slab:
    try:
        return read_slab(_SLABINFO.read_text(), mmap.PAGESIZE)
    except OSError as fault:
        raise ProvisioningError(
            f"{_SLABINFO}: {fault.strerror}; the gauge needs a kernel that has it, and root"
        ) from None


class GaugedBackend:
    """A backend whose buffered writes are measured."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.gauged: Gauged | None = None

    def begin(self, seed: int) -> None:
        """Forget what was measured."""
        self.gauged = None
        self._backend.begin(seed)

    def end(self) -> list[str]:
        """See `harness.trace.backend.Backend`."""
        return self._backend.end()

    def execute(self, index: int, step: AnyStep) -> Observation:
        """Do one step; a second thread watches a buffered write."""
        if not (isinstance(step, Write) and step.buffered):
            return self._backend.execute(index, step)
        readings = [_read()]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_PERIOD_S):
                readings.append(_read())

        watcher = threading.Thread(target=watch, name="gauge")
        watcher.start()
        try:
            seen = self._backend.execute(index, step)
        finally:
            over.set()
            watcher.join()
        self.gauged = Gauged(
            readings[0],
            max(readings, key=lambda reading: reading.jobs),
            seen.elapsed_us,
            len(readings),
        )
        return seen


def serve(directory: Path) -> None:
    """Do the job in ``directory``, and leave what was measured there."""
    job = agent.read_job(directory)
    found: dict[str, Gauged] = {}
    # The flusher looks at a new device this long after its first dirty page, and would write
    # alongside the fsync: which submitter comes first is a race.  (0 means at once.)
    _WRITEBACK.write_text("360000")
    with contextlib.ExitStack() as stack:
        backend, ready = stack.enter_context(agent.bring_up(Path(job.modules), job.driver))
        journal = stack.enter_context(JournalWriter(directory / agent.JOURNAL))
        gauged = GaugedBackend(backend)
        runner = Runner(gauged, journal, job.seed)
        runner.record(ready)
        for scenario in job.scenarios:
            runner.run(scenario)
            if gauged.gauged is not None:
                found[scenario.name] = gauged.gauged
            # Before the journal says that it is over, since the host looks then.
            write_whole(directory / NAME, msgspec.json.encode(found))
        runner.record(Done())


def main(arguments: list[str]) -> int:
    """Entry point; errors become one line on the console."""
    if len(arguments) != 1:
        agent.say("usage: python -m harness.kernel.gauge RESULTS_DIR")
        return 2
    try:
        serve(Path(arguments[0]))
    except (DmsnapError, OSError, JournalLost) as fault:
        agent.say(f"cannot measure: {fault}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
