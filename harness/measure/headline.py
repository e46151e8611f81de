"""The headline of the limit on copies: how many jobs pile up, and what memory they take.

kcopyd takes as many jobs as it is given.  When an origin is written through the page cache,
writeback gives it a job for each chunk and snapshot at once, and with slow COW devices none of
them ends soon.  `snapshot_cow_threshold` limits them (`harness.twin.throttle`).  Here the same
writes go through kernel and twin, with the limit and with a value that no run reaches: peak jobs,
their memory, the time, and every byte compared.

In the kernel the jobs are counted in kcopyd's slab cache (`harness.kernel.gauge`), for all
snapshots together.  The twin counts them per snapshot; the sum of these peaks is an upper bound
of the total.  Its time is simulated; reading and submitting take none of it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from harness.campaign.observe import Guests, Scenarios, answered, observe
from harness.compare import diff
from harness.errors import GuestLost, NotAFile
from harness.files import read_stranger
from harness.guest.catalogue import Kernel
from harness.guest.supervise import launcher_of
from harness.scenarios.script import Script
from harness.trace.backend import carry_out
from harness.trace.files import Header, Trace
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep, Examine, TargetLine, Write
from harness.twin.backend import TwinBackend
from harness.twin.clock import TICKS_PER_MS
from harness.twin.profile import Profile, named
from harness.wire import gauged

SNAPSHOTS: Final = 8
CHUNK_SECTORS: Final = 8
SECTORS: Final = 65536
"""32 MiB of origin: 8192 chunks, so 65,536 copies."""
DELAY_MS: Final = 2000
"""How late a COW device answers a write: longer than a guest needs to submit everything.
Stretched for slow guests, as time limits are."""
LIMIT: Final = 2048
"""The default of `snapshot_cow_threshold`."""
NO_LIMIT: Final = (1 << 31) - 1
"""No run reaches it; 0 would let one copy through at a time (the seed: 0 or less is no limit)."""
SLAB_JOBS: Final = 10
"""Jobs in a slab.  The kernel counts the free ones of its current slab as used, so a count may be
off by this many."""
MEMORY_MIB: Final = 2048
_STEP_LIMIT_S: Final = 110.0
_FIGURES_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Peak:
    """One side's peak and time.

    Attributes:
        jobs: peak of copy jobs in flight, of all snapshots.
        seconds: of the write, including its fsync.
    """

    jobs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of both sides for one limit.

    Attributes:
        bound: the most jobs that the limit permits.
        delay_ms: how late the COW devices answered.
        job_bytes: size of a job in the kernel.
        slab_bytes: memory of the kernel's jobs at their peak.
        differs: where contents differ; None if they are the same.
    """

    threshold: int
    bound: int
    delay_ms: int
    kernel: Peak
    twin: Peak
    job_bytes: int
    slab_bytes: int
    differs: str | None

    @property
    def kept(self) -> bool:
        """Whether both sides kept the bound."""
        return self.twin.jobs <= self.bound and self.kernel.jobs <= self.bound + SLAB_JOBS


def scenario(
    threshold: int, snapshots: int = SNAPSHOTS, sectors: int = SECTORS, delay_ms: int = DELAY_MS
) -> Trace:
    """The origin is overwritten through the page cache, under snapshots on slow COW devices."""
    s = Script()
    s.parameter("snapshot_cow_threshold", str(threshold))
    s.disk("base", sectors, stamped=True)
    for number in range(snapshots):
        s.disk(f"disk{number}", sectors)
        s.device(
            f"cow{number}",
            TargetLine(0, sectors, "delay", f"{{disk{number}}} 0 0 {{disk{number}}} 0 {delay_ms}"),
        )
        s.snapshot(f"snap{number}", "base", f"cow{number}", "N", CHUNK_SECTORS)
    s.origin("org", "base")
    s.write("org", 0, sectors, buffered=True)
    return Trace(Header(scenario=f"headline[{threshold}]"), (*s.steps, Examine()))


def bound(threshold: int, profile: Profile) -> int:
    """The most jobs that may be in flight; without a limit, the number of copies.

    Since 5.4 a write waits where *more* copies than the limit are in flight, so there may be one
    more; the seed's semaphore lets exactly as many through.
    """
    copies = SECTORS // CHUNK_SECTORS
    if threshold <= 0 and profile.threshold_semaphore:
        return SNAPSHOTS * copies
    return SNAPSHOTS * min(copies, threshold + (not profile.threshold_semaphore))


def simulate(trace: Trace, profile: Profile) -> tuple[list[Observation], Peak]:
    """Run the twin alone: its observations and its peak."""
    twin = TwinBackend(profile)
    seen: list[Observation] = []
    begun = ticks = 0

    def note(_index: int, _step: AnyStep) -> None:
        nonlocal begun
        begun = twin.world.clock.now

    for step, observation in zip(
        trace.steps, carry_out(twin, trace.steps, trace.header.seed, note), strict=True
    ):
        seen.append(observation)
        if isinstance(step, Write):
            ticks = twin.world.clock.now - begun
    jobs = sum(
        snapshot.kcopyd.jobs_peak
        for snapshot in twin.world.origins.snapshots(twin.world.disks["base"])
    )
    return seen, Peak(jobs, ticks / (1000 * TICKS_PER_MS))


def measure(
    kernel: Kernel,
    directory: Path,
    thresholds: tuple[int, ...] = (LIMIT, NO_LIMIT),
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[str, list[Measured]]:
    """Run both sides with each limit; returns the kernel's release and the rows.

    Raises:
        ProvisioningError: there is no guest to measure.
        GuestLost: the guest did not survive.
        BadScenario: the guest could not carry out a step.
    """
    launcher = launcher_of(
        kernel,
        python=Path(sys.executable),
        argv=("-m", "harness.kernel.gauge"),
        memory_mib=MEMORY_MIB,
    )
    delay_ms = round(DELAY_MS * launcher.slowness)
    traces = {
        trace.header.scenario: (threshold, trace)
        for threshold, trace in (
            (threshold, scenario(threshold, delay_ms=delay_ms)) for threshold in thresholds
        )
    }
    tell(f"{kernel.name}: {len(traces)} runs in a guest of {MEMORY_MIB} MiB")
    outcomes = observe(
        Scenarios(trace for _, trace in traces.values()),
        Guests(kernel=kernel, results=directory, launcher=launcher, step_limit_s=_STEP_LIMIT_S),
    )
    rows = []
    release = ""
    for name, (threshold, trace) in traces.items():
        outcome = outcomes[name]
        ready = answered(outcome)
        release = ready.release
        profile = Profile.from_probe(ready.probe)
        tell(f"{name}: the twin")
        seen, twin = simulate(trace, profile)
        comparison = diff.compare(trace, outcome.observations, seen)
        found = _gauged(directory).get(name)
        if found is None:
            raise GuestLost(f"{name}: the guest did not report its measurement")
        rows.append(
            Measured(
                threshold=threshold,
                bound=bound(threshold, profile),
                delay_ms=delay_ms,
                twin=twin,
                kernel=Peak(found.peak.jobs - found.before.jobs, found.elapsed_us / 1e6),
                job_bytes=found.peak.job_bytes,
                slab_bytes=found.peak.slab_bytes,
                differs=None if comparison.same else diff.render(comparison.divergences[0]),
            )
        )
    return release, rows


def _gauged(directory: Path) -> dict[str, gauged.Gauged]:
    """The measurements of the last guest; a lost guest takes its figures with it.

    Raises:
        GuestLost: they are missing, or rubbish.
    """
    found = sorted(directory.glob(f"guest-*/{gauged.NAME}"))
    try:
        return msgspec.json.decode(
            read_stranger(found[-1], _FIGURES_BYTES_MAX), type=dict[str, gauged.Gauged]
        )
    except (IndexError, NotAFile, msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        raise GuestLost(f"the guest's measurements are missing, or rubbish: {fault}") from None


@dataclass(frozen=True, slots=True)
class SeedMeasured:
    """One limit in the seed's way, twin alone; 0 means no limit there."""

    threshold: int
    bound: int
    twin: Peak


def seed_rows(delay_ms: int) -> list[SeedMeasured]:
    """The seed's semaphores, in the twin; there is no kernel of that age."""
    profile = named("seed")
    return [
        SeedMeasured(
            threshold,
            bound(threshold, profile),
            simulate(scenario(threshold, delay_ms=delay_ms), profile)[1],
        )
        for threshold in (LIMIT, 0)
    ]


def table(
    kernel: str, release: str, rows: Sequence[Measured], seed: Sequence[SeedMeasured] = ()
) -> list[str]:
    """A table in Markdown."""
    about = (
        f"{kernel} ({release}): {SNAPSHOTS} snapshots, chunks of 4 KiB, {SECTORS // 2048} MiB "
        f"written through the page cache, COW devices {rows[0].delay_ms} ms late"
    )
    lines = [
        about,
        "",
        "| limit | jobs at most | kernel: peak, memory, time | twin: peak, time | contents |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {_words(row.threshold)} | {row.bound:,} | {row.kernel.jobs:,} jobs of "
        f"{row.job_bytes:,} bytes, {row.slab_bytes / (1 << 20):.0f} MiB, "
        f"{row.kernel.seconds:.1f} s | {row.twin.jobs:,} jobs, {row.twin.seconds:.1f} s | "
        f"{'same' if row.differs is None else 'DIFFERENT'} |"
        for row in rows
    ]
    lines += [
        f"| {_words(row.threshold)}, as the seed | {row.bound:,} | no such kernel | "
        f"{row.twin.jobs:,} jobs, {row.twin.seconds:.1f} s | |"
        for row in seed
    ]
    lines += [f"\n{row.differs}" for row in rows if row.differs]
    return lines


def _words(threshold: int) -> str:
    return "none" if threshold in (0, NO_LIMIT) else f"{threshold:,}"
