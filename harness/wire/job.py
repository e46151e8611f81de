"""A guest's orders: ``job.json`` in its results directory."""

import msgspec
from msgspec import Struct

from harness.trace.steps import AnyStep


class JobScenario(Struct, frozen=True, forbid_unknown_fields=True):
    """One scenario of a job."""

    name: str
    steps: tuple[AnyStep, ...]
    seed: int | None = None


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """A guest's orders (``job.json`` in its results directory).

    Attributes:
        modules: directory of the kernel's modules, as in /lib/modules/RELEASE.
        driver: ``ioctl`` or ``dmsetup``.
        seed: part of every stamp, unless a scenario has its own.
        pytest: additional arguments for the session.
        here: the user said that this machine is the guest.
        functions: functions of the module to count, by scenario (`harness.kernel.function_counts`).
    """

    modules: str
    scenarios: tuple[JobScenario, ...] = ()
    driver: str = "ioctl"
    seed: int = 0
    pytest: tuple[str, ...] = ()
    here: bool = False
    functions: tuple[str, ...] = ()


decode_job = msgspec.json.Decoder(Job).decode
