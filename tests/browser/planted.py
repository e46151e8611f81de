"""A run that needs no kernel: the twin is its kernel, and lies where a plant says.

What a guest would have written, its journal and its job, is written; verdicts are those of the
judge; the page is the reporter's.  So all of a page is real but the kernel.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import msgspec

from harness.guest.events import Loss, Outcome
from harness.guest.process import JOB_NAME, JOURNAL_NAME
from harness.guest.recording import GUESTS_DIRECTORY, files_of, keep_twin
from harness.report.html.page import PAGE_NAME, HtmlReporter
from harness.report.reporter import JsonReporter
from harness.scenarios.registry import choose
from harness.trace import pattern
from harness.trace.files import Layer, Trace
from harness.trace.observations import DeviceState, Observation, Runs, Stamped, UEvent
from harness.trace.steps import encode
from harness.twin import explore
from harness.twin.profile import named
from harness.units import SECTOR_BYTES
from harness.verdict.judge import judge
from harness.verdict.result import Environment, Result, RunReport, alike
from harness.wire.job import Job, JobScenario
from harness.wire.journal import Begin, End, JournalWriter, Observed, Ready, Started

PROFILES = {"uml-6.1": "6.1", "uml-6.12": "6.12", "uml-7.2": "7.2"}
"""Kernel → whose facts its twin has."""
Seen = list[Observation]
CONSOLE = "[    1.0] device-mapper: \x1b[31mred\n[    2.0] Kernel panic - not syncing\n"
_ORDERS = 4
replace = msgspec.structs.replace


@dataclass(frozen=True)
class Plant:
    """One lie of a kernel.

    Attributes:
        layer: where it is.
        step: of which observation.
        device: of which device, where that matters.
        byte: of its contents; which were ``was``, and are ``now``.
    """

    layer: Layer
    step: int
    device: str = ""
    byte: int = -1
    was: str = ""
    now: str = ""


Lie = Callable[[Trace, Seen, random.Random], Plant]


def _observed(seen: Seen, has: Callable[[Observation], object], dice: random.Random) -> int:
    found = [number for number, each in enumerate(seen) if has(each)]
    assert found, "this scenario has nothing of that layer"
    return dice.choice(found)


def in_bytes(layer: Layer, *, copied: bool = False) -> Lie:
    """One byte of what was read is another one; or one sector is the copy of another."""
    part = "image" if layer is Layer.STORE else "content"

    def lie(trace: Trace, seen: Seen, dice: random.Random) -> Plant:
        at = _observed(seen, lambda each: getattr(each, part), dice)
        contents: dict[str, Runs] = getattr(seen[at], part)
        names = [name for name in contents if layer is not Layer.STORE or name == "cow"]
        name = dice.choice(names or list(contents))
        data = bytearray(pattern.decode(trace.header.seed, contents[name]))
        if copied:
            to, of = dice.sample(range(len(data) // SECTOR_BYTES), 2)
            byte = to * SECTOR_BYTES
            data[byte : byte + SECTOR_BYTES] = data[of * SECTOR_BYTES : (of + 1) * SECTOR_BYTES]
            was, now = str(to), str(of)
        else:
            byte = dice.randrange(len(data))
            was, now = f"{data[byte]:02x}", f"{data[byte] ^ 0x5A:02x}"
            data[byte] ^= 0x5A
        runs = pattern.encode(trace.header.seed, bytes(data))
        seen[at] = replace(seen[at], **{part: contents | {name: runs}})
        return Plant(layer, at, name, byte, was, now)

    return lie


def in_state(layer: Layer, part: str, change: Callable[[str], object]) -> Lie:
    """What device-mapper says of one device is something else."""

    def lie(trace: Trace, seen: Seen, dice: random.Random) -> Plant:
        del trace

        def names(each: Observation) -> list[str]:
            return [
                name
                for name, state in each.state.items()
                if state and getattr(state, part) and " snapshot " in f"{state.status}"
            ]

        at = _observed(seen, names, dice)
        name = dice.choice(names(seen[at]))
        state = seen[at].state[name]
        assert state is not None
        was = getattr(state, part)
        changed = replace(state, **{part: change(was)})
        seen[at] = replace(seen[at], state=seen[at].state | {name: changed})
        return Plant(layer, at, name, was=str(was), now=str(getattr(changed, part)))

    return lie


def _more_allocated(status: str) -> str:
    used, slash, rest = status.partition("/")
    head, _, number = used.rpartition(" ")
    return f"{head} {int(number) + 8}{slash}{rest}" if number.isdecimal() else f"{status} ?"


def in_error(trace: Trace, seen: Seen, dice: random.Random) -> Plant:
    """A step that succeeded fails."""
    at = _observed(seen, lambda each: each.error is None and each.step < len(seen) - 1, dice)
    seen[at] = replace(seen[at], error="EIO")
    del trace
    return Plant(Layer.ERROR, at, was="success", now="EIO")


def in_list(layer: Layer, part: str) -> Lie:
    """The first event, log line or request is missing."""

    def lie(trace: Trace, seen: Seen, dice: random.Random) -> Plant:
        del trace
        at = _observed(seen, lambda each: getattr(each, part), dice)
        value = getattr(seen[at], part)
        if isinstance(value, dict):
            name = dice.choice(list(value))
            less: object = value | {name: value[name][1:]}
        else:
            name, less = "", value[1:]
        seen[at] = replace(seen[at], **{part: less})
        return Plant(layer, at, name)

    return lie


LIES: Mapping[Layer, Lie] = {
    Layer.ERROR: in_error,
    Layer.CONTENT: in_bytes(Layer.CONTENT),
    Layer.STATUS: in_state(Layer.STATUS, "status", _more_allocated),
    Layer.TABLE: in_state(Layer.TABLE, "table", lambda table: f"{table} 0"),
    Layer.EVENT: in_state(Layer.EVENT, "event", lambda event: int(event) + 1),
    Layer.UEVENT: in_list(Layer.UEVENT, "uevents"),
    Layer.LOG: in_list(Layer.LOG, "log"),
    Layer.STORE: in_bytes(Layer.STORE),
    Layer.REQUESTS: in_list(Layer.REQUESTS, "requests"),
}
SCENARIOS: Mapping[Layer, str] = {
    Layer.ERROR: "tail_chunk[P-5]",
    Layer.CONTENT: "write_part_of_chunk[P-8]",
    Layer.STATUS: "one_by_one_through_areas[1]",
    Layer.TABLE: "mixed_chunk_sizes[P]",
    Layer.EVENT: "events_of_invalidation[P]",
    Layer.UEVENT: "bring_up[N]",
    Layer.LOG: "overflow_by_origin[N]",
    Layer.STORE: "stale_area",
    Layer.REQUESTS: "merged_data_is_flushed_first[8]",
}
"""Layer → a scenario in which it has something to say."""


@dataclass
class PlantedRun:
    """A run in a directory.

    Attributes:
        plants: (kernel, scenario) → what was planted.
    """

    directory: Path
    plants: dict[tuple[str, str], Plant] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    traces: dict[str, Trace] = field(default_factory=dict)

    def kernel(
        self,
        kernel: str,
        scenarios: Sequence[str],
        lies: Mapping[str, Lie] | None = None,
        *,
        lost: str = "",
        seed: int = 1,
    ) -> None:
        """A kernel does scenarios, and lies in some; its guest is lost in the midst of ``lost``."""
        profile = named(PROFILES[kernel])
        ready = Ready(release=profile_release(kernel), version="#1", probe=profile.facts())
        guests = files_of(self.directory / GUESTS_DIRECTORY, kernel)
        guest = guests / "guest-0001"
        guest.mkdir(parents=True)
        traces = [scenario.trace(seed) for scenario in choose(scenarios)]
        job = Job(
            "/lib/modules", tuple(JobScenario(t.header.scenario, t.steps, seed) for t in traces)
        )
        (guest / JOB_NAME).write_bytes(encode(job))
        with JournalWriter(guest / JOURNAL_NAME) as journal:
            journal.write(ready)
            for trace in traces:
                name = trace.header.scenario
                self.traces[name] = trace
                seen = list(explore.run(trace.steps, seed, profile))
                if lies and name in lies:
                    dice = random.Random(f"{seed} {kernel} {name}")
                    self.plants[kernel, name] = lies[name](trace, seen, dice)
                loss = None
                if name == lost:
                    seen = seen[: len(seen) // 2]
                    loss = Loss("vanished", "its process ended", len(seen), 1, CONSOLE, guest)
                journal.write(Begin(name, seed))
                for each in seen:
                    journal.write(Started(each.step), Observed(each))
                if loss is None:
                    journal.write(End(name))
                outcome = Outcome(
                    name, seed, 2 if loss else 1, () if loss else tuple(seen), ready, loss
                )
                # That no other order is the kernel's need not be found out 900 times.
                with patch.object(explore, "ORDERS_MAX", _ORDERS):
                    result, twin = judge(trace, outcome, kernel)
                self.results.append(result)
                if twin and not alike(result):
                    keep_twin(guests, twin)

    @property
    def report(self) -> RunReport:
        """The report of all kernels so far."""
        return RunReport(
            environment=Environment(
                dmsnap="0.0",
                command=("dmsnap", "run"),
                machine="Linux",
                python="3.11",
                started="2026-01-02T03:04:05+00:00",
                seconds=12.3,
                kernels={result.kernel: result.release for result in self.results},
                guests={result.kernel: "uml" for result in self.results},
            ),
            results=tuple(self.results),
        )

    def page(self) -> Path:
        """Write ``results.json`` and the page; returns where that is."""
        report = self.report
        for reporter in (
            JsonReporter(self.directory / "results.json"),
            HtmlReporter(self.directory / PAGE_NAME, tuple(self.traces.values())),
        ):
            reporter.end(report)
        return self.directory / PAGE_NAME


def profile_release(kernel: str) -> str:
    """A release that such a kernel could have."""
    return f"{PROFILES[kernel]}.1"


def every_layer(directory: Path) -> PlantedRun:
    """A divergence of every layer on one kernel, a lost guest, and two kernels that do not lie."""
    run = PlantedRun(directory)
    names = [*SCENARIOS.values(), "merge_commit_fails[True]", "write_one_sector", "bring_up"]
    run.kernel(
        "uml-6.12",
        names,
        {SCENARIOS[layer]: lie for layer, lie in LIES.items()},
        lost="write_one_sector[P-16]",
    )
    for kernel in ("uml-6.1", "uml-7.2"):
        run.kernel(kernel, names)
    return run


MARKUP = '</script><script>window.theirs = 3</script><img src=x onerror="window.theirs = 4"><b>'


def hostile(directory: Path) -> tuple[Path, str, list[str]]:
    """The page of a run all of whose strings are a stranger's: itself, its scenario, what is there
    to be read on it."""
    trace = choose(["bring_up[P]"])[0].trace()
    name = f"\u202e{MARKUP}"
    header = replace(trace.header, scenario=name, about=f"about {MARKUP}")
    trace = replace(trace, header=header)
    profile = named("6.12")
    kernel = f"kernel {MARKUP}"
    seen = list(explore.run(trace.steps, 1, profile))
    last = seen[-1]
    seen[-1] = replace(
        last,
        log=(f"log {MARKUP} \x1b[31m \u202e",),
        error=f"E{MARKUP}",
        state={MARKUP: DeviceState(status=f"0 8 snapshot {MARKUP}", table=MARKUP)},
        requests={MARKUP: (MARKUP,)},
        uevents=(UEvent(MARKUP, MARKUP, {MARKUP: MARKUP}),),
        content={MARKUP: (Stamped(MARKUP[:16], 1, 1, 1),)},
    )
    run = PlantedRun(directory, traces={name: trace})
    guest = files_of(directory / GUESTS_DIRECTORY, kernel) / "guest-0001"
    guest.mkdir(parents=True)
    ready = Ready(release=MARKUP, version="#1", probe=profile.facts())
    with JournalWriter(guest / JOURNAL_NAME) as journal:
        journal.write(ready, Begin(name, 1), *map(Observed, seen), End(name))
    result, twin = judge(trace, Outcome(name, 1, 1, tuple(seen), ready), kernel)
    assert twin is not None
    keep_twin(guest.parent, twin)
    run.results.append(
        replace(result, console=f"console {MARKUP}\x1b[2J", reason=f"reason {MARKUP}")
    )
    said = [
        f"about {MARKUP}",
        f"log {MARKUP} \\x1b[31m \\x202e",
        f"reason {MARKUP}",
        f"console {MARKUP}\\x1b[2J",
        f"E{MARKUP}",
    ]
    return run.page(), name, said
