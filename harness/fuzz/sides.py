"""Who judges candidates: a real kernel beside the twin, or one twin beside another.

Both give results as a run does (`harness.verdict.judge`).  The second is for bugs that are planted
in the twin: what the sound twin does stands in for the kernel, and costs no guest.  It takes its
first order, so no other one is asked for.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from harness.campaign.observe import Guests, Scenarios, observe
from harness.compare.diff import Verdict
from harness.errors import BadScenario, DmsnapError, KernelCrash, NeverReturns, Unsupported
from harness.fuzz.signature import Signature, signature_of
from harness.guest.catalogue import Kernel
from harness.guest.events import Event, Outcome, ScenarioEnded
from harness.trace.backend import carry_out
from harness.trace.files import Trace
from harness.trace.observations import Observation
from harness.trace.steps import Crash
from harness.twin.backend import TwinBackend
from harness.twin.profile import FAITHFUL, Profile
from harness.verdict.foresight import not_modelled
from harness.verdict.judge import judge, unsupported
from harness.verdict.result import Result
from harness.wire.journal import Ready

STEP_LIMIT_S: Final = 20.0
ORDERS_MAX: Final = 40
"""Of a life or a candidate so many orders are tried: the kernel's own mostly is early."""

Results = Callable[[Sequence[Trace]], list[Result]]
"""Results of traces, in their order; their names are unique."""


def signatures(results: Results) -> Callable[[Sequence[Trace]], list[Signature | None]]:
    """A judge for `harness.fuzz.shrink`."""
    return lambda traces: [signature_of(result) for result in results(traces)]


class OnKernel:
    """Traces in guests of a kernel, each judged as soon as it has ended.

    Args:
        kernel: the kernel.
        guests: at the same time.
        defects: how the twin is.
        orders_max: of the twin's orders that are tried where its first is not the kernel's.
        directory: for the guests' files, of each batch in one of their own; by default they go.
        hear: told of what happens.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        guests: int = 1,
        defects: str = FAITHFUL,
        orders_max: int = ORDERS_MAX,
        directory: Path | None = None,
        hear: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self.kernel = kernel
        self.outcomes: Mapping[str, Outcome] = {}
        self._guests = guests
        self._defects = defects
        self._orders_max = orders_max
        self._directory = directory
        self._batches = 0
        self._hear = hear

    def __call__(self, traces: Sequence[Trace]) -> list[Result]:
        """See `Results`.

        Raises:
            ProvisioningError: there are no guests.
        """
        by_name = {trace.header.scenario: trace for trace in traces}
        found: dict[str, Result] = {}
        for name, trace in by_name.items():
            if fault := not_modelled(trace):
                found[name] = unsupported(trace, self.kernel.name, fault)

        def hear(event: Event) -> None:
            self._hear(event)
            if isinstance(event, ScenarioEnded):
                outcome = event.outcome
                trace = by_name[outcome.scenario]
                found[outcome.scenario], _ = judge(
                    trace, outcome, self.kernel.name, self._defects, self._orders_max
                )

        known = [trace for name, trace in by_name.items() if name not in found]
        place: AbstractContextManager[str] = (
            tempfile.TemporaryDirectory(prefix="dmsnap-")
            if self._directory is None
            else nullcontext(str(self._directory / f"batch-{self._batches}"))
        )
        self._batches += 1
        if known:
            with place as directory:
                self.outcomes = observe(
                    Scenarios(known, defects=self._defects),
                    Guests(
                        kernel=self.kernel,
                        results=Path(directory),
                        count=min(self._guests, len(known)),
                        step_limit_s=STEP_LIMIT_S,
                    ),
                    hear,
                )
        return [found[trace.header.scenario] for trace in traces]


class OnTwin:
    """Traces on a sound twin, and beside it on one that ``planted`` has changed."""

    def __init__(
        self,
        profile: Profile,
        planted: Callable[[], AbstractContextManager[object]] = nullcontext,
        name: str = "twin",
    ) -> None:
        self._profile = profile
        self._planted = planted
        self._name = name

    def __call__(self, traces: Sequence[Trace]) -> list[Result]:
        """See `Results`."""
        outcomes = [self.outcome(trace) for trace in traces]
        with self._planted():
            return [
                Result(scenario=trace.header.scenario, kernel=self._name, verdict=Verdict.BROKEN)
                if outcome is None
                else judge(trace, outcome, self._name, orders_max=1)[0]
                for trace, outcome in zip(traces, outcomes, strict=True)
            ]

    def outcome(self, trace: Trace) -> Outcome | None:
        """What the sound twin does, as if a guest had; None where it does not come to the end."""
        seen: list[Observation] = []
        try:
            seen.extend(carry_out(TwinBackend(self._profile), trace.steps, trace.header.seed))
        except (DmsnapError, RecursionError):
            return None
        return Outcome(
            scenario=trace.header.scenario,
            seed=trace.header.seed,
            attempts=1,
            observations=tuple(seen),
            ready=Ready(release=self._name, version="", probe=dict(self._profile.facts())),
        )


def sound(profile: Profile, *, may_end: bool = False) -> Callable[[Trace], bool]:
    """Whether the twin carries a trace out, so that it is worth a guest's time.

    Args:
        profile: of the twin.
        may_end: whether it may hang, or kill the kernel: for a find that does.
    """

    def is_sound(trace: Trace) -> bool:
        if any(isinstance(step, Crash) for step in trace.steps):
            return False
        try:
            for _ in carry_out(TwinBackend(profile), trace.steps, trace.header.seed):
                pass
        except (BadScenario, Unsupported):
            return False
        except (NeverReturns, KernelCrash):
            return may_end
        except Exception:  # noqa: BLE001 - a twin that breaks may be what is looked for
            return True
        return True

    return is_sound


def facts_of(result: Sequence[Outcome], otherwise: Profile) -> Profile:
    """The profile of the guest that did some traces."""
    for outcome in result:
        if outcome.ready:
            return Profile.from_probe(outcome.ready.probe)
    return otherwise


__all__ = ["OnKernel", "OnTwin", "Results", "facts_of", "signatures", "sound"]
