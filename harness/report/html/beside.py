"""Two runs beside each other, as a page: what each kernel was seen to do in every step.

No twin has a part in it: side A is what one run's kernel did, side B what the other's did, and the
verdict is whether that is the same.
"""

from collections.abc import Iterator

import msgspec

from harness.compare import diff
from harness.compare.diff import Verdict
from harness.errors import BadTrace
from harness.guest.recording import GUESTS_DIRECTORY, Recorded, files_of, jobs, recorded
from harness.report.beside import OneRun, pairs
from harness.report.html.pack import Parcel
from harness.report.html.page import render
from harness.trace.files import Header, Trace
from harness.verdict.result import Result, RunReport

SIDES = ("A", "B")


def page(a: OneRun, b: OneRun) -> bytes:
    """The page.

    Raises:
        ProvisioningError: the two runs have no kernel in common.
    """
    found: dict[str, Parcel] = {}
    results: list[Result] = []
    names: list[str] = []
    for kernels in pairs(a, b):
        names.append(kernels[0] if kernels[0] == kernels[1] else f"{kernels[0]} | {kernels[1]}")
        for result in _pair(a, b, kernels, names[-1], found):
            results.append(result)
            found[result.scenario].results[result.kernel] = result
    report = RunReport(environment=a.report.environment, results=tuple(results))
    about = [
        f"{side}: {run.name}, started {run.report.environment.started or 'at an unknown time'}"
        for side, run in zip(SIDES, (a, b), strict=True)
    ]
    return render(report, found, sides=SIDES, title="dm-snapshot: two runs", about=about)


def _pair(
    a: OneRun, b: OneRun, kernels: tuple[str, str], name: str, found: dict[str, Parcel]
) -> Iterator[Result]:
    """A result for each scenario that both have."""
    sides = []
    for run, kernel in zip((a, b), kernels, strict=True):
        guests = files_of(run.directory / GUESTS_DIRECTORY, kernel)
        seen = {each.scenario: each for each in recorded(guests)}
        sides.append((run.results(kernel), seen, jobs(guests)))
    (left, seen_a, jobs_a), (right, seen_b, jobs_b) = sides
    for scenario, one in left.items():
        if scenario not in right:
            continue
        other = right[scenario]
        trace = Trace(Header(scenario=scenario, seed=one.seed), jobs_a.get(scenario, ()))
        parcel = found.setdefault(scenario, Parcel(trace))
        said = "" if one.verdict is other.verdict else f"A: {one.verdict}, B: {other.verdict}"
        result = Result(
            scenario=scenario,
            kernel=name,
            release=" | ".join(dict.fromkeys(filter(None, (one.release, other.release)))),
            seed=one.seed,
            verdict=Verdict.BROKEN,
            reason="one of the runs has no journal of it any more",
            steps=len(trace.steps),
            kernel_us=one.kernel_us,
            twin_us=other.kernel_us,
        )
        if scenario in seen_a:
            parcel.left[name] = parcel.view(seen_a[scenario].observations)
        if scenario in seen_b:
            parcel.right[name] = parcel.view(seen_b[scenario].observations)
        if scenario in seen_a and scenario in seen_b:
            same_steps = jobs_a.get(scenario) == jobs_b.get(scenario) and one.seed == other.seed
            result = (
                _compared(result, trace, seen_a[scenario], seen_b[scenario], said)
                if same_steps
                else _replaced(result, Verdict.BROKEN, "the two runs did not do the same steps")
            )
        yield result


def _compared(result: Result, trace: Trace, one: Recorded, other: Recorded, said: str) -> Result:
    try:
        comparison = diff.compare(trace, one.observations, other.observations, sides=SIDES)
    except BadTrace as fault:
        return _replaced(result, Verdict.BROKEN, str(fault))
    verdict = Verdict.SAME if comparison.same else Verdict.DIVERGED
    return _replaced(result, verdict, said).compared_with(comparison)


def _replaced(result: Result, verdict: Verdict, reason: str) -> Result:
    return msgspec.structs.replace(result, verdict=verdict, reason=reason)
