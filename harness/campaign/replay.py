"""One trace on one side or both (``dmsnap replay``)."""

import tempfile
from pathlib import Path

from harness.campaign.observe import Guests, Scenarios, answered, observe
from harness.errors import DmsnapError
from harness.guest.catalogue import Kernel
from harness.guest.events import Outcome
from harness.guest.recording import kernel_observations
from harness.guest.supervise import STEP_LIMIT_S
from harness.trace.files import Observations, ObservationsHeader, Trace
from harness.twin import explore
from harness.twin.profile import Profile
from harness.verdict.foresight import place, with_place


def observe_twin(trace: Trace, profile: Profile) -> Observations:
    """A trace on the twin, in the order that its header records.

    Raises:
        BadScenario: a step is meaningless.
        Unsupported: a step needs what the twin does not model.
        NeverReturns: a step waits for ever.
        KernelCrash: the kernel crashes in a step.
    """
    header = trace.header
    try:
        seen = explore.run(trace.steps, header.seed, profile, explore.answers_of(header.answers))
    except DmsnapError as fault:
        raise with_place(trace, fault) from None
    return Observations(
        ObservationsHeader(
            scenario=header.scenario,
            seed=header.seed,
            side="twin",
            targets=profile.targets,
            profile=profile.facts(),
        ),
        seen,
    )


def observe_kernel(
    trace: Trace, kernel: Kernel, *, driver: str = "ioctl", step_limit_s: float = STEP_LIMIT_S
) -> tuple[Observations, Outcome]:
    """A trace in its own guest, which may be lost, or lack what a step needs.

    Raises:
        ProvisioningError: there is no guest.
        BadScenario: a step is meaningless.
    """
    with tempfile.TemporaryDirectory(prefix="dmsnap-") as directory:
        [outcome] = observe(
            Scenarios([trace], driver=driver),
            Guests(kernel=kernel, results=Path(directory), step_limit_s=step_limit_s),
        ).values()
    if outcome.fault and not outcome.unsupported:
        require_answer(trace, outcome)
    ready = outcome.ready
    assert ready is not None, "a guest that never came up is a separate error"
    seen = kernel_observations(
        kernel.name, trace.header.scenario, trace.header.seed, ready, outcome.observations
    )
    return seen, outcome


def require_answer(trace: Trace, outcome: Outcome) -> None:
    """Check that the kernel reached the end of a trace (`answered`, with places in the trace).

    Raises:
        GuestLost, Unsupported, BadScenario: it did not.
    """
    # The guest's files are gone with its directory.
    answered(outcome, lambda step: place(trace, step), kept=False)
