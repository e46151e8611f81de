"""One trace on one side or both (``dmsnap replay``)."""

import sys
import tempfile
from pathlib import Path

from harness.errors import (
    BadScenario,
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
from harness.wire.job import Job, JobScenario

# -- one trace, for replay ------------------------------------------------------------------------


def observe_twin(trace: Trace, profile: Profile) -> Observations:
    """A trace on the twin, in the order that its header records.

    Raises:
        BadScenario: a step has no meaning.
    """
    header = trace.header
    seen = explore.run(trace.steps, header.seed, profile, explore.answers_of(header.answers))
    return Observations(ObservationsHeader(scenario=header.scenario, seed=header.seed, side="twin",
                                           targets=profile.targets, profile=profile.facts()), seen)


def observe_kernel(trace: Trace, kernel: Kernel, *, driver: str = "ioctl"
                   ) -> tuple[Observations, Outcome]:
    """A trace in a guest of its own.

    Raises:
        ProvisioningError: there is no guest, or it was lost.
        BadScenario: a step has no meaning.
    """
    name = trace.header.scenario
    job = Job(modules=str(kernel.modules), driver=driver,
              scenarios=(JobScenario(name, trace.steps, trace.header.seed),))
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
        supervisor = Supervisor(kernel, guests=1, results=Path(directory),
                                job=lambda _names: encode(job), python=Path(sys.executable),
                                steps={name: len(trace.steps)})
        outcome = supervisor.run([name])[name]
    if outcome.fault:
        raise BadScenario(outcome.fault)
    if outcome.lost or outcome.ready is None:
        lost = outcome.lost
        raise ProvisioningError(
            f"the guest was lost ({lost.reason}: {lost.detail})" if lost else "no guest came up")
    ready = outcome.ready
    return Observations(ObservationsHeader(
        scenario=name, seed=trace.header.seed, side="kernel", kernel=kernel.name,
        release=ready.release, version=ready.version, driver=ready.driver, targets=ready.targets,
        profile=ready.probe), outcome.observations), outcome
