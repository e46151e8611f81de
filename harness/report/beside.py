"""Two runs compared (``dmsnap compare A B``): verdicts, status trajectories, times.

Each is the directory of a report, its ``results.json``, or either with ``:KERNEL`` appended.
Kernels are paired by name.  If each run has, or names, only one, those two are a pair; that is how
two kernels of one run, or one kernel in two kinds of guest, are compared.

A *status trajectory* is every status line of every device after every step, as the kernel gave
it; it comes from the journals that a run leaves next to its report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.files import read_stranger
from harness.guest.recording import GUESTS_DIRECTORY, files_of, recorded
from harness.trace.observations import Observation
from harness.verdict.result import Result, RunReport, loads

RESULTS_NAME: Final = "results.json"
_LISTED_MAX: Final = 20
_RESULTS_BYTES_MAX: Final = 256 << 20
_TIMES_MAX: Final = 5
_SLOWER: Final = 2.0
_TELLING_US: Final = 50_000
"""A scenario's time is listed if it changed by both this factor and this much."""

Trajectory = tuple[tuple[int, str, str], ...]
"""(step, device, status line), in order."""


@dataclass(frozen=True, slots=True)
class OneRun:
    """One of the two runs.

    Attributes:
        name: as it was typed.
        report: its results.
        directory: of the report.
        kernel: the only kernel to look at; empty for all.
    """

    name: str
    report: RunReport
    directory: Path
    kernel: str = ""

    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels to look at."""
        return (self.kernel,) if self.kernel else tuple(self.report.by_kernel())

    def results(self, kernel: str) -> dict[str, Result]:
        """Scenario → result."""
        return {result.scenario: result for result in self.report.by_kernel()[kernel]}

    def trajectories(self, kernel: str) -> dict[str, Trajectory]:
        """Scenario → status trajectory, for those whose journal still exists."""
        guests = files_of(self.directory / GUESTS_DIRECTORY, kernel)
        return {each.scenario: trajectory(each.observations) for each in recorded(guests)}


def open_run(name: str) -> OneRun:
    """The run that ``name`` names.

    Raises:
        ProvisioningError: there is no such run, or it has no such kernel.
        BadTrace: its results cannot be read.
    """
    path, kernel = Path(name), ""
    if not path.exists() and ":" in name:
        before, _, kernel = name.rpartition(":")
        path = Path(before)
    file = path / RESULTS_NAME if path.is_dir() else path
    try:
        report = loads(read_stranger(file, _RESULTS_BYTES_MAX))
    except FileNotFoundError:
        raise ProvisioningError(
            f"{name}: there is no {file}; give the directory that `dmsnap run --report` wrote"
        ) from None
    known = list(report.by_kernel())
    if kernel and kernel not in known:
        raise ProvisioningError(
            f"{name}: that run has no results of {kernel!r}; it has {', '.join(known) or 'none'}"
        )
    return OneRun(name, report, file.parent, kernel)


def trajectory(seen: Sequence[Observation]) -> Trajectory:
    """The status lines of a scenario."""
    return tuple(
        (each.step, device, state.status)
        for each in seen
        for device, state in sorted(each.state.items())
        if state is not None and state.status is not None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A kernel of one run compared with one of the other.

    Attributes:
        kernels: their names.
        both, only_a, only_b: scenarios with a result in both runs, or in one.
        verdicts: scenario → its two verdicts, marked if a promise was broken, where they
            differ.
        lines: number of equal status lines; ``status``: scenario → its first difference.
        unknown: scenarios of ``both`` without a journal in one of the runs.
        kernel_us, twin_us: time of kernel and twin, for the scenarios in ``both``.
        times: scenario → the kernel's time in each run, if that changed much.
    """

    kernels: tuple[str, str]
    both: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    verdicts: Mapping[str, tuple[str, str]]
    lines: int
    status: Mapping[str, str]
    unknown: int
    kernel_us: tuple[int, int]
    twin_us: tuple[int, int]
    times: Mapping[str, tuple[int, int]]

    @property
    def same(self) -> bool:
        """True if nothing differs but times."""
        return not (self.verdicts or self.status or self.only_a or self.only_b)


def pairs(a: OneRun, b: OneRun) -> list[tuple[str, str]]:
    """The pairs of kernels to compare.

    Raises:
        ProvisioningError: there is no pair.
    """
    left, right = a.kernels(), b.kernels()
    if len(left) == len(right) == 1:
        return [(left[0], right[0])]
    common = [(name, name) for name in left if name in right]
    if not common:
        raise ProvisioningError(
            f"the two runs have no kernel in common ({', '.join(left) or 'none'} and "
            f"{', '.join(right) or 'none'}): give one of each, as in "
            f"`dmsnap compare {a.name}:{left[0] if left else 'KERNEL'} "
            f"{b.name}:{right[0] if right else 'KERNEL'}`"
        )
    return common


def compare(a: OneRun, b: OneRun, kernels: tuple[str, str]) -> Pair:
    """Everything that differs between ``kernels[0]`` of ``a`` and ``kernels[1]`` of ``b``."""
    left, right = a.results(kernels[0]), b.results(kernels[1])
    both = [name for name in left if name in right]
    paths_a, paths_b = a.trajectories(kernels[0]), b.trajectories(kernels[1])
    status, lines, unknown = {}, 0, 0
    for name in both:
        if name not in paths_a or name not in paths_b:
            unknown += 1
            continue
        one, other = paths_a[name], paths_b[name]
        if one == other:
            lines += len(one)
        else:
            status[name] = _first_difference(one, other)
    times = {name: (left[name].kernel_us, right[name].kernel_us) for name in both}
    return Pair(
        kernels=kernels,
        both=len(both),
        only_a=tuple(name for name in left if name not in right),
        only_b=tuple(name for name in right if name not in left),
        verdicts={
            name: (_verdict(left[name]), _verdict(right[name]))
            for name in both
            if _verdict(left[name]) != _verdict(right[name])
        },
        lines=lines,
        status=status,
        unknown=unknown,
        kernel_us=(sum(one for one, _ in times.values()), sum(two for _, two in times.values())),
        twin_us=(
            sum(left[name].twin_us for name in both),
            sum(right[name].twin_us for name in both),
        ),
        times={name: each for name, each in times.items() if _telling(*each)},
    )


def _verdict(result: Result) -> str:
    return f"{result.verdict}{' (promise broken)' if result.promise_broken else ''}"


def _telling(one_us: int, other_us: int) -> bool:
    low, high = sorted((one_us, other_us))
    return high - low >= _TELLING_US and high >= _SLOWER * low


def _first_difference(one: Trajectory, other: Trajectory) -> str:
    """The first line that only one of them has, or that differs."""
    at = next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    left, right = (path[at] if at < len(path) else None for path in (one, other))
    if left and right and left[:2] == right[:2]:
        return f"step {left[0]}, {left[1]}: A {left[2]!r}, B {right[2]!r}"
    return "; ".join(
        f"only {who} has, at step {line[0]}, {line[1]}: {line[2]!r}"
        for who, line in (("A", left), ("B", right))
        if line
    )


def render(pair: Pair) -> str:
    """The comparison of a pair as text."""
    one, other = pair.kernels
    lines = [
        one if one == other else f"{one} against {other}",
        f"  scenarios: {pair.both} in both runs",
    ]
    lines += _listed("only in A", pair.only_a) + _listed("only in B", pair.only_b)
    lines.append(f"  verdicts: {pair.both - len(pair.verdicts)} equal, {len(pair.verdicts)} not")
    lines += _listed(
        "", [f"{name}: {before} → {now}" for name, (before, now) in pair.verdicts.items()]
    )
    missing = f"; {pair.unknown} scenarios no longer have a journal" if pair.unknown else ""
    lines.append(
        f"  status: {pair.lines} lines equal, {len(pair.status)} scenarios differ{missing}"
    )
    lines += _listed("", [f"{name}: {what}" for name, what in pair.status.items()])
    lines.append(f"  time: kernel {_ratio(*pair.kernel_us)}; twin {_ratio(*pair.twin_us)}")
    slowest = sorted(pair.times.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    lines += [f"    {name}: {_ratio(*each)}" for name, each in slowest[:_TIMES_MAX]]
    return "\n".join(lines)


def _listed(title: str, items: Sequence[str]) -> list[str]:
    more = [f"    … and {len(items) - _LISTED_MAX} more"] if len(items) > _LISTED_MAX else []
    head = f"{title}: " if title else ""
    return [f"    {head}{item}" for item in items[:_LISTED_MAX]] + more


def _ratio(one_us: int, other_us: int) -> str:
    times = f" (×{other_us / one_us:.2f})" if one_us else ""
    return f"{one_us / 1e6:.2f} s → {other_us / 1e6:.2f} s{times}"
