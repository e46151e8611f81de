"""What a run will do: scenarios, kernels, options, and the key of each result."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import harness
from harness.guest.catalogue import UML, VAGRANT, Kernel
from harness.guest.process import Launcher
from harness.guest.supervise import BOOT_LIMIT_S, STEP_LIMIT_S
from harness.trace.files import Trace, dumps
from harness.twin.profile import FAITHFUL
from harness.verdict.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        traces: the scenarios, in order; names are unique.
        kernels: each gets all of them.
        jobs: guests at a time; None for as many as suit each kernel.
        driver: ``ioctl`` or ``dmsetup``.
        defects: whether the twin follows the kernels or the promise, where they differ.
        launchers: kernel → launcher of its guests; by default the kind the kernel needs.
        directory: where the guests' files stay; once there is a result, only those previous files
            remain whose results are taken over.
        traces_directory: where the traces of scenarios that differ go; None for nowhere.
        enough: says of a result that the run can stop there.
        functions: module functions to count by scenario (`harness.measure.coverage`).
    """

    traces: tuple[Trace, ...]
    kernels: tuple[Kernel, ...]
    directory: Path
    jobs: int | None = None
    driver: str = "ioctl"
    defects: str = FAITHFUL
    launchers: Mapping[str, Launcher] = field(default_factory=dict)
    step_limit_s: float = STEP_LIMIT_S
    boot_limit_s: float = BOOT_LIMIT_S
    traces_directory: Path | None = None
    enough: Callable[[Result], bool] | None = None
    functions: tuple[str, ...] = ()

    def guests(self, kernel: Kernel) -> int:
        """How many guests of a kernel run at a time."""
        return 1 if kernel.guest == VAGRANT else self.jobs or default_jobs(kernel)

    def keys(self) -> dict[tuple[str, str], str]:
        """(kernel, scenario) → a digest of everything its result follows from.

        That is dmsnap's own code, the kernel's program and device-mapper modules, the scenario,
        and the options that change what is run; not the number of guests or a time limit.
        """
        code = _digest(
            path.read_bytes() for path in sorted(Path(harness.__file__).parent.rglob("*.py"))
        )
        scenarios = {trace.header.scenario: dumps(trace) for trace in self.traces}
        found: dict[tuple[str, str], str] = {}
        for kernel in self.kernels:
            files = [kernel.program, *sorted(kernel.modules.rglob("dm-*.ko*"))]
            words = (kernel.name, kernel.release, self.driver, self.defects)
            base = _digest(
                [code, *(word.encode() for word in words), *(path.read_bytes() for path in files)]
            )
            found |= {
                (kernel.name, name): _digest([base, text]).hex() for name, text in scenarios.items()
            }
        return found


def _digest(parts: Iterable[bytes]) -> bytes:
    """One digest of several byte strings; their boundaries matter."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def default_jobs(kernel: Kernel) -> int:
    """Guests of a kernel for the cores that this process may use.

    Two per core in User-mode Linux, since a guest often waits for a slow disk or for a merge to
    settle; an emulated machine keeps its core busy.
    """
    cores = len(os.sched_getaffinity(0))
    return 2 * cores if kernel.guest == UML else cores
