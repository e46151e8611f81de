"""One trace on one side or both (``dmsnap replay``)."""

import sys
import tempfile
from pathlib import Path

from harness.errors import (
    BadScenario,
    DmsnapError,
    ProvisioningError,
)
from harness.guest.catalogue import Kernel
from harness.guest.events import (
    Outcome,
)
from harness.guest.supervise import Supervisor
from harness.trace.files import Observations, ObservationsHeader, Trace
from harness.trace.steps import encode
from harness.twin import explore
from harness.twin.profile import Profile
from harness.verdict.foresight import place, with_place
from harness.verdict.judge import hangs_in
from harness.wire.job import Job, JobScenario

# -- one trace, for replay ------------------------------------------------------------------------


def observe_twin(trace: Trace, profile: Profile) -> Observations:
    """A trace on the twin, in the order that its header records.

    Raises:
        BadScenario: a step has no meaning.
        Unsupported: a step needs what the twin does not model.
        NeverReturns: a step waits for ever.
        KernelCrash: the kernel crashes in a step.
    """
    header = trace.header
    try:
        seen = explore.run(trace.steps, header.seed, profile, explore.answers_of(header.answers))
    except DmsnapError as fault:
        raise with_place(trace, fault) from None
    return Observations(ObservationsHeader(scenario=header.scenario, seed=header.seed, side="twin",
                                           targets=profile.targets, profile=profile.facts()), seen)


def observe_kernel(trace: Trace, kernel: Kernel, *, driver: str = "ioctl"
                   ) -> tuple[Observations, Outcome]:
    """A trace in a guest of its own, which may be lost, or lack what a step asks for.

    Raises:
        ProvisioningError: there is no guest.
        BadScenario: a step has no meaning.
    """
    name = trace.header.scenario
    job = Job(modules=str(kernel.modules), driver=driver,
              scenarios=(JobScenario(name, trace.steps, trace.header.seed),))
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
        supervisor = Supervisor(kernel, guests=1, results=Path(directory),
                                job=lambda _names: encode(job), python=Path(sys.executable),
                                steps={name: len(trace.steps)},
                                hangs_in=lambda _name, ready: hangs_in(trace, ready))
        outcome = supervisor.run([name])[name]
    if outcome.fault and not outcome.unsupported:
        fault = BadScenario(outcome.fault)
        fault.step = outcome.step
        raise with_place(trace, fault)
    ready = outcome.ready
    if ready is None:
        raise ProvisioningError("no guest came up")
    return Observations(ObservationsHeader(
        scenario=name, seed=trace.header.seed, side="kernel", kernel=kernel.name,
        release=ready.release, version=ready.version, driver=ready.driver, targets=ready.targets,
        profile=ready.probe), outcome.observations), outcome


def lost_words(trace: Trace, outcome: Outcome) -> str:
    """How a guest was lost, and where."""
    loss = outcome.lost
    assert loss is not None
    where = "" if loss.step is None else f" in {place(trace, loss.step)}"
    return f"the guest was lost{where} ({loss.reason}: {loss.detail})"
