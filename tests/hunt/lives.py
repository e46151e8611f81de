"""Random lives of snapshots, against real kernels (``make hunt``).

A number of lives (`harness.fuzz.lives`) on each kernel.  One that differs is written as a trace,
for ``dmsnap replay``, and is made shorter first if that is asked for; ``dmsnap fuzz`` goes on for
as long as it is left, and ``dmsnap reduce`` makes a find as short as it can be.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.compare import diff
from harness.fuzz.lives import life
from harness.fuzz.weights import WEIGHTS
from harness.guest.catalogue import get
from harness.trace.files import Header, Trace, dumps
from harness.trace.steps import AnyStep
from harness.verdict.result import Result


class _Quiet:
    """A reporter that keeps the results."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def begin(self, kernels: Sequence[str], total: int) -> None: ...
    def progress(self, guest: str, doing: str) -> None: ...
    def result(self, result: Result) -> None:
        self.results.append(result)

    def end(self, report: object) -> None: ...
    def close(self) -> None: ...


def run(traces: Sequence[Trace], kernel: str, directory: Path) -> list[Result]:
    """Both sides of ``traces`` on one kernel, in one guest."""
    reporter = _Quiet()
    execute(
        Plan(
            traces=tuple(traces),
            kernels=(get(kernel),),
            jobs=1,
            directory=directory,
            step_limit_s=20,
        ),
        reporter,
    )
    return reporter.results


def shorten(trace: Trace, kernel: str, directory: Path) -> Trace:
    """Leave out steps while the two sides still differ in the same layer."""

    def differs(steps: Sequence[Sequence[AnyStep]]) -> list[bool]:
        traces = [
            Trace(
                Header(scenario=f"try-{number}", seed=trace.header.seed, about="random"),
                tuple(each),
            )
            for number, each in enumerate(steps)
        ]
        found = {result.scenario: result for result in run(traces, kernel, directory)}
        return [found[each.header.scenario].verdict is diff.Verdict.DIVERGED for each in traces]

    steps = list(trace.steps)
    size = max(1, len(steps) // 2)
    while True:
        cuts = [steps[:at] + steps[at + size :] for at in range(0, len(steps), size)]
        cuts = [cut for cut in cuts if cut]
        answers = differs(cuts)
        good = [index for index, answer in enumerate(answers) if answer]
        if good:
            # Several at once, if that still differs; else the last of them.
            gone = {at for index in good for at in range(index * size, (index + 1) * size)}
            together = [step for at, step in enumerate(steps) if at not in gone]
            if not (together and len(good) > 1 and differs([together])[0]):
                together = cuts[good[-1]]
            steps = together
            size = min(size, max(1, len(steps) // 2))
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return Trace(trace.header, tuple(steps))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", action="append", default=[])
    parser.add_argument("--seed", type=int, default=1, help="of the first life")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50, help="of each life")
    parser.add_argument(
        "--profile", choices=WEIGHTS, default="snapshots", help="what the lives are made of"
    )
    parser.add_argument("--parallel", action="store_true", help="several I/Os in flight, too")
    parser.add_argument("--output", type=Path, default=Path("report/hunt"))
    parser.add_argument("--shorten", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    traces = [
        life(seed, options.steps, weights=WEIGHTS[options.profile], parallel=options.parallel)
        for seed in range(options.seed, options.seed + options.count)
    ]
    print(f"{len(traces)} lives, {sum(len(trace.steps) for trace in traces)} steps", flush=True)
    by_name = {trace.header.scenario: trace for trace in traces}
    failed = 0
    for kernel in options.kernel or ["uml-6.1", "uml-6.12", "uml-7.2"]:
        verdicts: dict[str, int] = {}
        for result in run(traces, kernel, options.output / "guests"):
            verdicts[result.verdict] = verdicts.get(result.verdict, 0) + 1
            if result.verdict is diff.Verdict.SAME:
                continue
            failed += 1
            trace = by_name[result.scenario]
            print(f"{kernel} {result.scenario}: {result.verdict} {result.reason}")
            for divergence in result.divergences[:2]:
                print(diff.render(divergence))
            if options.shorten and result.verdict is diff.Verdict.DIVERGED:
                trace = shorten(trace, kernel, options.output / "shorter")
                for index, step in enumerate(trace.steps):
                    print(f"   {index} {step}")
            (options.output / f"{kernel}-{result.scenario}.jsonl").write_bytes(dumps(trace))
            sys.stdout.flush()
        print(f"{kernel}: {verdicts}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
