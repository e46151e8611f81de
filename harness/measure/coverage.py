"""``dmsnap coverage``: which functions of the module the scenarios reach, traced by the kernel.

A run like any other, on a kernel whose module was built without inlining
(`harness.guest.build.noinline`), with a probe on each function
(`harness.kernel.function_counts`).  So the counts come with verdicts: also this build of the module
is the same as the twin, or is not.

The counts are kept as data (`Counted`), from which `harness.measure.traceability` generates its
page.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.guest.build import noinline
from harness.guest.catalogue import Kernel
from harness.guest.recording import GUESTS_DIRECTORY, files_of
from harness.kernel.function_counts import LOADING, UNLOADING, Reached, read
from harness.report.reporter import Reporter
from harness.trace.files import Trace
from harness.verdict.result import RunReport

_NAMED_MAX = 3
"""How many scenarios are named for a function; the others are counted."""


class Function(msgspec.Struct, frozen=True):
    """The counts of one function.

    Attributes:
        scenarios: how many scenarios reach it.
        named: a few of them, those that reach the fewest other functions.
        loading, unloading: whether it runs when the module is loaded or unloaded.
    """

    scenarios: int
    named: tuple[str, ...] = ()
    loading: bool = False
    unloading: bool = False


class Counted(msgspec.Struct, frozen=True):
    """A whole run.

    Attributes:
        kernel, release, version: the kernel that was run.
        scenarios: how many scenarios were run.
        functions: the requested functions that this kernel has.
    """

    kernel: str
    release: str
    version: str
    scenarios: int
    functions: dict[str, Function]


def measure(
    kernel: Kernel,
    functions: Iterable[str],
    traces: Sequence[Trace],
    *,
    jobs: int | None,
    directory: Path,
    reporter: Reporter,
    progress: Callable[[str], None],
) -> tuple[RunReport, Counted]:
    """Run ``traces`` and count which of ``functions`` they reach.

    Raises:
        ProvisioningError: the module cannot be built, or its functions cannot be counted.
    """
    build = noinline.build(kernel, progress)
    wanted = tuple(name for name in functions if name in build.functions)
    plan = Plan(
        traces=tuple(traces),
        kernels=(build.kernel,),
        jobs=jobs,
        directory=directory / GUESTS_DIRECTORY,
        functions=wanted,
    )
    report = execute(plan, reporter)
    counted = read(files_of(plan.directory, build.kernel.name))
    record = build.kernel.record
    return report, Counted(
        kernel=kernel.name,
        release=kernel.release,
        version=record.version if record else "",
        scenarios=len(traces),
        functions=summary(wanted, counted),
    )


def summary(functions: Iterable[str], counted: Iterable[Reached]) -> dict[str, Function]:
    """Function → what reaches it."""
    reached: dict[str, set[str]] = {}
    for each in counted:
        reached.setdefault(each.scenario, set()).update(each.functions)
    loading, unloading = (reached.pop(name, set()) for name in (LOADING, UNLOADING))
    # One variant of a scenario is enough for a reader.
    order = sorted(reached, key=lambda name: (len(reached[name]), name))
    return {
        name: Function(
            len(by := [each for each in order if name in reached[each]]),
            _few(by),
            name in loading,
            name in unloading,
        )
        for name in sorted(functions)
    }


def _few(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.partition("[")[0] for name in names))[:_NAMED_MAX]


def load(path: Path) -> Counted:
    """Read recorded data.

    Raises:
        OSError: it does not exist.
        msgspec.MsgspecError: it is not such data.
    """
    return msgspec.json.decode(path.read_bytes(), type=Counted)


def dump(recorded: Counted) -> bytes:
    """Counted data as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(recorded, order="sorted"), indent=1) + b"\n"


def unreached(recorded: Counted, excused: Mapping[str, object]) -> list[str]:
    """Functions that nothing reaches, and for which no reason is known."""
    return [
        name
        for name, function in recorded.functions.items()
        if not (function.scenarios or function.loading or function.unloading)
        and name not in excused
    ]
