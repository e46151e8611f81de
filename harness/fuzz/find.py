"""A find as a value: a trace, why it is one, on which kernels it shows, and how often.

`investigate` carries the trace out several times on each kernel, so that the report can say *k of
n*, and which kernels have it and which do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from harness.campaign.observe import Guests, Scenarios, observe
from harness.fuzz.shrink import NotShown
from harness.fuzz.sides import STEP_LIMIT_S
from harness.fuzz.signature import Signature, signature_of
from harness.guest.catalogue import Kernel
from harness.guest.events import Outcome
from harness.guest.process import CONSOLE_NAME
from harness.guest.recording import kernel_observations
from harness.trace.files import Observations, Trace
from harness.twin.profile import FAITHFUL
from harness.verdict.judge import judge
from harness.verdict.result import Result

TIMES: Final = 5
CONSOLE_BYTES_MAX: Final = 1 << 20


class OnOne(Struct, frozen=True, kw_only=True):
    """How often a find shows on one kernel.

    Attributes:
        kernel, release, version: which; the latter two as its uname gave them.
        targets: target → version of its module.
        shown, asked: it differed so in that many of so many tries.
        verdict: of the first try.
    """

    kernel: str
    release: str
    version: str
    targets: dict[str, str]
    shown: int
    asked: int
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """A find, and what was seen of it.

    Attributes:
        trace: what shows it.
        signature: why it is one.
        kernels: where it was tried, the one that the rest is of first.
        result: the verdict there.
        outcome: what that kernel did.
        seen, twin: the observations of both sides, as files; None for a side that has none.
        console: what that guest printed.
        kernel: the kernel itself.
    """

    trace: Trace
    signature: Signature
    kernels: tuple[OnOne, ...]
    result: Result
    outcome: Outcome
    seen: Observations | None
    twin: Observations | None
    console: str
    kernel: Kernel


def investigate(
    trace: Trace,
    kernels: Sequence[Kernel],
    directory: Path,
    *,
    times: int = TIMES,
    defects: str = FAITHFUL,
    hear: Callable[[str], None] = lambda _line: None,
) -> Find:
    """Carry ``trace`` out on each kernel; the first one where it is a find is the one described.

    Args:
        trace: what is carried out.
        kernels: where.
        directory: for the files of the guests.
        times: how often on each.
        defects: how the twin is.
        hear: told of each kernel in one line.

    Raises:
        NotShown: both sides agree, everywhere and every time.
        ProvisioningError: a kernel has no guests.
    """
    found: Find | None = None
    ones: list[tuple[OnOne, list[Signature | None]]] = []
    for kernel in kernels:
        traces = [
            Trace(msgspec.structs.replace(trace.header, scenario=f"try-{number}"), trace.steps)
            for number in range(times)
        ]
        where = directory / f"kernel-{len(ones)}"
        outcomes = observe(
            Scenarios(traces, defects=defects),
            Guests(kernel=kernel, results=where, step_limit_s=STEP_LIMIT_S),
        )
        judged = []
        for one in traces:
            outcome = outcomes[one.header.scenario]
            result, twin = judge(
                Trace(trace.header, trace.steps, trace.lines), outcome, kernel.name, defects
            )
            judged.append((outcome, result, twin, signature_of(result)))
        signatures = [each[3] for each in judged]
        ready = next((each[0].ready for each in judged if each[0].ready), None)
        ones.append(
            (
                OnOne(
                    kernel=kernel.name if "/" not in kernel.name else Path(kernel.name).name,
                    release=ready.release if ready else "",
                    version=ready.version if ready else "",
                    targets=ready.targets if ready else {},
                    shown=0,
                    asked=times,
                    verdict=str(judged[0][1].verdict),
                ),
                signatures,
            )
        )
        hear(f"{kernel.name}: {sum(each is not None for each in signatures)} of {times}")
        shows = next((each for each in judged if each[3] is not None), None)
        if found is None and shows is not None:
            outcome, result, twin, signature = shows
            assert signature is not None
            found = Find(
                trace=trace,
                signature=signature,
                kernels=(),
                result=msgspec.structs.replace(result, scenario=trace.header.scenario),
                outcome=outcome,
                seen=_as_file(trace, outcome, ones[-1][0]),
                twin=twin,
                console=_console(where),
                kernel=kernel,
            )
    if found is None:
        raise NotShown(
            f"{trace.header.scenario}: both sides agree on "
            f"{', '.join(one.kernel for one, _ in ones)}, in {times} tries each: there is nothing "
            "to report"
        )
    counted = [
        msgspec.structs.replace(one, shown=sum(each == found.signature for each in signatures))
        for one, signatures in ones
    ]
    counted.sort(key=lambda one: one.kernel != found.kernel.name.rpartition("/")[2])
    return Find(
        **{
            name: getattr(found, name)
            for name in ("trace", "signature", "result", "outcome", "seen", "twin", "console")
        },
        kernels=tuple(counted),
        kernel=found.kernel,
    )


def _as_file(trace: Trace, outcome: Outcome, one: OnOne) -> Observations | None:
    ready = outcome.ready
    if ready is None:
        return None
    return kernel_observations(
        one.kernel, trace.header.scenario, trace.header.seed, ready, outcome.observations
    )


def _console(directory: Path) -> str:
    """What the first guest printed, as far as it is kept."""
    for path in sorted(directory.glob(f"*/{CONSOLE_NAME}")):
        with path.open("rb") as file:
            return file.read(CONSOLE_BYTES_MAX).decode(errors="replace").replace("\r", "")
    return ""
