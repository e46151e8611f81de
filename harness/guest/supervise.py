"""The supervisor: scenarios in, outcomes out, whatever happens to the guests in between.

Scenarios are dealt to the guests round robin.  A guest gets its share as its job when it starts
and asks the host for nothing; the host reads its journal as it grows and watches its process.
If a guest panics, hangs, vanishes or writes rubbish, the scenario in progress (or the next one) is
lost.  It is tried once more as the first of a fresh guest, which then continues with the rest; if
lost again, its outcome is *lost*.  A guest with devices that could not be removed is replaced,
without blame.

A scenario has exactly one outcome.  Its results come from a single attempt with both `Begin` and
`End`.  Every loss uses up an attempt of some scenario, or one of two tries to get a guest up at
all, so a run always ends.

If it is foretold in which step a scenario hangs, a guest that is silent there is given up sooner,
and no fresh one is tried: it does what is expected.  Nor is one tried if it is foretold that the
kernel may die in the step in which it did.
"""

import os
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.errors import BadScenario, ProvisioningError
from harness.files import mark_ours
from harness.guest.catalogue import QEMU, Kernel
from harness.guest.events import (
    Event,
    GuestReady,
    GuestStarted,
    GuestWasLost,
    Loss,
    Outcome,
    Reason,
    ScenarioBegun,
    ScenarioEnded,
    StepObserved,
)
from harness.guest.follow import Finished, Follower, Rubbish
from harness.guest.host_root import AGENT
from harness.guest.process import (
    CONSOLE_NAME,
    GUEST_PREFIX,
    JOB_NAME,
    JOURNAL_NAME,
    Guest,
    Launcher,
)
from harness.guest.qemu import QemuGuest
from harness.guest.uml import UmlGuest
from harness.trace.observations import Observation
from harness.wire.journal import Begin, JournalReader, Observed, Ready, Record

ATTEMPTS_MAX: Final = 2
"""Attempts of one scenario; a guest can die for reasons outside the scenario."""
BOOTS_MAX: Final = 2
"""How many guests in a row may fail to become ready."""
STEP_LIMIT_S: Final = 30.0
BOOT_LIMIT_S: Final = 60.0
FORETOLD_LIMIT_S: Final = 2.0
"""Limit of silence in a step that is foretold never to return."""

_JOURNAL_POLL_S: Final = 0.02
_POWER_OFF_LIMIT_S: Final = 5.0
_CONSOLE_CHARACTERS: Final = 8000
_PANIC: Final = "Kernel panic"
_ROOM_BYTES: Final = 1 << 20
"""With less space than this the disk counts as full."""


@dataclass(slots=True, eq=False)
class _Slot:
    """A slot for one guest, with the work it has yet to do."""

    queue: list[str]
    boots_failed: int = 0
    number: int = 0
    results: Path = Path()
    guest: Guest | None = None
    follower: Follower = field(default_factory=lambda: Follower([], {}))
    reader: JournalReader = field(default_factory=lambda: JournalReader(Path()))
    hangs_in: tuple[str, int | None] | None = None
    started_at: float = 0.0
    heard_at: float = 0.0


class Supervisor:
    """Runs scenarios in parallel guests of one kernel.

    Args:
        kernel: the kernel that the guests boot.
        guests: how many at a time.
        results: directory, one subdirectory per guest (job, journal, console); made if missing.
        job: makes the agent's job file from the scenarios of one guest, in order.
        python: interpreter that runs in the guest.
        step_limit_s: longest time without a new record in the journal; like the other limits,
            stretched by how slow this machine's guests of that kind are.
        boot_limit_s: longest time until `Ready`.
        memory_mib: memory of each guest; None for the default of their kind.
        argv: what Python runs in the guest.
        launcher: starts the guests; by default the kind the kernel needs.
        steps: how many steps a scenario has; a guest that reports more or fewer is lost.
        first_number: guests are numbered from here on, skipping numbers that are taken.
        hangs_in: called for a scenario whose guest (`Ready`) has been silent for a while; returns
            the step that is known to hang this kernel, None if there is none.
        dies_in: called for a scenario whose guest has panicked in a step; returns whether it is
            known that this kernel may die there.

    Attributes:
        outcomes: of the scenarios that have one so far; complete when `run` returns, partial when
            it raises.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        guests: int,
        results: Path,
        job: Callable[[list[str]], bytes],
        python: Path,
        step_limit_s: float = STEP_LIMIT_S,
        boot_limit_s: float = BOOT_LIMIT_S,
        memory_mib: int | None = None,
        argv: Sequence[str] = AGENT,
        launcher: Launcher | None = None,
        steps: Mapping[str, int] | None = None,
        first_number: int = 1,
        hangs_in: Callable[[str, Ready], int | None] = lambda _name, _ready: None,
        dies_in: Callable[[str, Ready, int], bool] = lambda _name, _ready, _step: False,
    ) -> None:
        if guests < 1:
            raise ProvisioningError(f"{guests} guests cannot run anything; give 1 or more (-j)")
        self.outcomes: dict[str, Outcome] = {}
        self._guests = guests
        self._results = results.absolute()
        self._job = job
        self._steps = steps or {}
        self._hangs_in = hangs_in
        self._dies_in = dies_in
        self._step_limit_s = step_limit_s
        self._boot_limit_s = boot_limit_s
        self._launcher = launcher or launcher_of(
            kernel, python=python, argv=argv, memory_mib=memory_mib
        )
        self._slowness = 1.0
        self._on_event: Callable[[Event], None] = lambda _event: None
        self._losses: dict[str, list[Loss]] = {}
        self._next_number = first_number
        self._selector: selectors.BaseSelector

    def run(
        self, scenarios: Sequence[str], on_event: Callable[[Event], None] = lambda _event: None
    ) -> dict[str, Outcome]:
        """Run each scenario once; returns outcomes in the order of ``scenarios``.

        In any case no process of a guest is left.

        Raises:
            ProvisioningError: this machine cannot run guests.
            BadScenario: a name occurs twice.
        """
        if len(set(scenarios)) != len(scenarios):
            twice = sorted({name for name in scenarios if scenarios.count(name) > 1})
            raise BadScenario(f"named more than once: {', '.join(twice)}; name each scenario once")
        self.outcomes.clear()
        self._losses.clear()
        self._on_event = on_event
        count = min(self._guests, len(scenarios))
        slots = [_Slot(list(scenarios[index::count])) for index in range(count)]
        try:
            mark_ours(self._results)
        except OSError as fault:
            raise ProvisioningError(
                f"cannot create the results directory {self._results}: "
                f"{fault.strerror}; choose another"
            ) from fault
        if slots:
            self._launcher.check(count, self._results)
            self._slowness = self._launcher.slowness
        try:
            with selectors.DefaultSelector() as self._selector:
                for slot in slots:
                    self._start(slot)
                while any(slot.guest for slot in slots):
                    self._selector.select(_JOURNAL_POLL_S)
                    for slot in slots:
                        if slot.guest is not None:
                            self._advance(slot, slot.guest)
        finally:
            _end_all(slots)
        assert self.outcomes.keys() == set(scenarios)
        return {name: self.outcomes[name] for name in scenarios}

    # -- one guest ----------------------------------------------------------------------------

    def _start(self, slot: _Slot) -> None:
        """Start a guest for what is in the slot's queue."""
        try:
            slot.number, slot.results = self._new_directory()
            (slot.results / JOB_NAME).write_bytes(self._job(slot.queue))
        except OSError as fault:
            raise ProvisioningError(
                f"cannot write into the results directory {self._results}: "
                f"{fault.strerror}; free space or choose another"
            ) from fault
        slot.follower = Follower(slot.queue, self._steps)
        slot.reader = JournalReader(slot.results / JOURNAL_NAME)
        slot.started_at = slot.heard_at = time.monotonic()
        slot.guest = self._launcher.start(slot.results)
        self._selector.register(slot.guest, selectors.EVENT_READ)
        self._on_event(GuestStarted(slot.number, tuple(slot.queue), slot.results))

    def _new_directory(self) -> tuple[int, Path]:
        """A directory that no earlier run used, as journals are only appended to."""
        while True:
            number = self._next_number
            self._next_number += 1
            directory = self._results / f"{GUEST_PREFIX}{number:04}"
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            return number, directory

    def _advance(self, slot: _Slot, guest: Guest) -> None:
        """Handle news from one guest."""
        ended = guest.ended()  # before the journal is read, so that it is complete
        try:
            records = slot.reader.new()
        except OSError as fault:
            self._lose(
                slot,
                guest,
                "vanished",
                f"its journal is lost ({fault.strerror}); do not touch "
                f"{slot.results} while dmsnap runs",
            )
            return
        now_s = time.monotonic()
        if records:
            slot.heard_at = now_s
        try:
            self._take(slot, records, now_s)
        except Rubbish as fault:
            self._lose(
                slot,
                guest,
                "rubbish",
                f"{fault}; its journal is in {slot.results / JOURNAL_NAME}",
            )
            return
        # In the time of a guest of the speed the limits were made for.
        follower, silent_s = slot.follower, (now_s - slot.heard_at) / self._slowness
        booting_s = (now_s - slot.started_at) / self._slowness
        if follower.over:
            if ended or follower.spoilt or silent_s > _POWER_OFF_LIMIT_S:
                self._replace(slot, follower.remaining)
        elif ended:
            self._lose(
                slot,
                guest,
                "vanished",
                "the guest ended before its work was done; its console may say why",
            )
        elif follower.ready is None and booting_s > self._boot_limit_s:
            self._lose(
                slot,
                guest,
                "hang",
                f"not ready {self._boot_limit_s * self._slowness:.3g} s after its start",
            )
        elif silent_s > min(FORETOLD_LIMIT_S, self._step_limit_s) and self._foretold(slot):
            self._lose(slot, guest, "hang", "as was foretold", foretold=True)
        elif follower.ready is not None and silent_s > self._step_limit_s:
            self._lose(
                slot,
                guest,
                "hang",
                f"no progress within {self._step_limit_s * self._slowness:.3g} s; if the "
                "machine is only slow, raise --step-limit",
            )

    def _foretold(self, slot: _Slot) -> bool:
        """Whether a silent guest is in a step that was foretold to hang."""
        ready, attempt = slot.follower.ready, slot.follower.attempt
        if ready is None or attempt is None or attempt.observed:
            return False
        if slot.hangs_in is None:
            # Asked once: it takes as long as the scenario takes in the twin.
            slot.hangs_in = attempt.begin.scenario, self._hangs_in(attempt.begin.scenario, ready)
        return slot.hangs_in == (attempt.begin.scenario, attempt.step)

    def _take(self, slot: _Slot, records: list[Record], now_s: float) -> None:
        """Follow records, and report them.

        Raises:
            Rubbish: one of them is not allowed; those before it are handled.
        """
        follower = slot.follower
        for record in records:
            finished = follower.feed(record, now_s)
            match record:
                case Ready():
                    slot.boots_failed = 0
                    self._on_event(GuestReady(slot.number, record, now_s - slot.started_at))
                case Begin(scenario=name):
                    slot.hangs_in = None
                    self._on_event(ScenarioBegun(slot.number, name, self._attempt_of(name)))
                case Observed(observation=observation) if follower.attempt is not None:
                    self._on_event(
                        StepObserved(slot.number, follower.attempt.begin.scenario, observation)
                    )
            if finished is not None:
                self._finish(finished, follower.ready, now_s)
            if follower.spoilt:
                return
        if slot.reader.faults:
            raise Rubbish(f"unreadable record: {slot.reader.faults[0]}")

    def _attempt_of(self, scenario: str) -> int:
        return len(self._losses.get(scenario, [])) + 1

    def _finish(self, finished: Finished, ready: Ready | None, now_s: float) -> None:
        """A scenario's attempt is complete."""
        attempt, end = finished.attempt, finished.end
        self._conclude(
            Outcome(
                scenario=end.scenario,
                seed=attempt.begin.seed,
                attempts=self._attempt_of(end.scenario),
                observations=tuple(attempt.observations),
                ready=ready,
                losses=tuple(self._losses.get(end.scenario, [])),
                fault=end.fault,
                unsupported=end.unsupported,
                step=None if attempt.observed else attempt.step,
                leftovers=end.leftovers,
                elapsed_s=now_s - attempt.begun_at,
            )
        )

    def _conclude(self, outcome: Outcome) -> None:
        assert outcome.scenario not in self.outcomes
        self.outcomes[outcome.scenario] = outcome
        self._on_event(ScenarioEnded(outcome))

    def _lose(
        self, slot: _Slot, guest: Guest, reason: Reason, detail: str, *, foretold: bool = False
    ) -> None:
        """A guest is lost: end what is left of it, count, and continue with the rest."""
        self._stop(slot)
        follower = slot.follower
        console = guest.console_tail()
        if _PANIC in console and reason != "rubbish":
            reason, detail = "panic", console[console.rindex(_PANIC) :].splitlines()[0]
        if _full(slot.results):
            # Its records are all read; without their space the next guest could not even start.
            (slot.results / JOURNAL_NAME).unlink(missing_ok=True)
            detail += f"; the disk of {self._results} is full"
        if follower.ready is None:
            detail = f"rubbish: {detail}" if reason == "rubbish" else detail
            reason = "never ready"
        attempt = follower.attempt
        loss = Loss(
            reason,
            detail,
            attempt.step if attempt else None,
            slot.number,
            console[-_CONSOLE_CHARACTERS:],
            slot.results / CONSOLE_NAME,
        )
        if follower.ready is None:
            slot.boots_failed += 1
            again = slot.boots_failed < BOOTS_MAX
            self._on_event(GuestWasLost(loss, None, again))
            if not again:
                raise ProvisioningError(
                    f"{BOOTS_MAX} guests in a row never became ready: {detail}; its console is "
                    f"in {loss.log}, and ends with:\n{_last_lines(console)}\n"
                    "`dmsnap doctor` checks what this machine can run"
                )
            self._replace(slot, follower.remaining)
        elif not follower.remaining:
            # Every result is there; only the final record is missing.
            self._on_event(GuestWasLost(loss, None, again=False))
            self._replace(slot, [])
        else:
            if reason == "panic":
                foretold = loss.step is not None and self._dies_in(
                    follower.remaining[0], follower.ready, loss.step
                )
            else:
                foretold = foretold and reason == "hang"
            seen = tuple(attempt.observations) if foretold and attempt else None
            self._blame(follower.remaining[0], loss, follower.ready, seen)
            self._replace(slot, [name for name in follower.remaining if name not in self.outcomes])

    def _blame(
        self, name: str, loss: Loss, ready: Ready, foretold: tuple[Observation, ...] | None
    ) -> None:
        """A scenario has lost its guest; ``foretold``: observations, if it was foretold."""
        losses = self._losses.setdefault(name, [])
        losses.append(loss)
        again = foretold is None and len(losses) < ATTEMPTS_MAX
        self._on_event(GuestWasLost(loss, name, again))
        if not again:
            self._conclude(
                Outcome(
                    scenario=name,
                    seed=0,
                    attempts=len(losses),
                    observations=foretold or (),
                    ready=ready,
                    lost=loss,
                    losses=tuple(losses),
                )
            )

    def _replace(self, slot: _Slot, queue: list[str]) -> None:
        """End the guest, and start another one if there is work left."""
        self._stop(slot)
        slot.queue = queue
        if queue:
            self._start(slot)

    def _stop(self, slot: _Slot) -> None:
        """End the guest of a slot, if it has one."""
        if slot.guest is not None:
            guest, slot.guest = slot.guest, None
            self._selector.unregister(guest)  # before `end`, which closes the descriptor
            guest.end()


def launcher_of(
    kernel: Kernel, *, python: Path, argv: Sequence[str] = AGENT, memory_mib: int | None = None
) -> QemuGuest | UmlGuest:
    """The launcher for guests of a kernel."""
    guest = QemuGuest if kernel.guest == QEMU else UmlGuest
    return guest(
        kernel,
        python=python,
        argv=argv,
        memory_mib=guest.memory_mib if memory_mib is None else memory_mib,
    )


def free_bytes(directory: Path) -> int:
    """Bytes that can still be written in ``directory`` by this user."""
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize


def _full(directory: Path) -> bool:
    try:
        return free_bytes(directory) < _ROOM_BYTES
    except OSError:
        return False  # the directory itself was lost, with the guest


def _last_lines(console: str, count: int = 15) -> str:
    return "\n".join(console.splitlines()[-count:]) or "(nothing)"


def _end_all(slots: list[_Slot]) -> None:
    """End every guest, even if ending one of them fails."""
    faults: list[ProvisioningError] = []
    for slot in slots:
        if slot.guest is not None:
            try:
                slot.guest.end()
            except ProvisioningError as fault:
                faults.append(fault)
    if faults:
        raise faults[0]
