"""Branch coverage of the twin and of the store, by the catalogue alone (``make coverage-twin``).

The twin's side of every recorded scenario runs as a run would do it: with the facts of each
kernel's probe, compared with what that kernel answered, and in other permitted orders where the
first is not the kernel's.  Then once more with defects fixed, and as the module of December 2018.
No test runs, so what is covered here, scenarios can see.

Beside the figures, a map says which scenarios reach a line: `tests/mutation/mutants.py` replays no
others on a mutant of it.
"""

import argparse
import ast
import io
import json
import os
import sys
from collections import defaultdict
from multiprocessing import Pool
from pathlib import Path
from tempfile import TemporaryDirectory

import coverage

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/TWIN-COVERAGE.md"
SOURCES = ("harness/twin", "harness/store")
MAP = Path("report/reach.json")
MIN_PERCENT = 95.0
STORE_BYTES_MAX = 8 << 20
OTHER_PROFILE_S = 20
"""Processor time that a scenario may take on a profile that is not its kernel's."""


def measure(
    paths: list[Path], directory: Path, *, other_profiles: bool = True
) -> coverage.Coverage:
    """Run everything with coverage on; contexts are ``scenario on kernel``.

    Each kernel has a process of its own, which leaves its data in ``directory``.
    """
    with Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        files = pool.starmap(
            _measure_one,
            [(path, directory / path.name, other_profiles and path == paths[0]) for path in paths],
            chunksize=1,
        )
    measured = _coverage(directory / "all")
    measured.combine(files)
    return measured


def _coverage(file: Path) -> coverage.Coverage:
    measured = coverage.Coverage(
        branch=True,
        data_file=str(file),
        config_file=False,
        include=[f"{ROOT / source}/*" for source in SOURCES],
    )
    for nothing_to_run in (
        "if TYPE_CHECKING:",
        r"class .*\bProtocol\b",
        "@abstractmethod",
        "raise NotImplementedError",
        "assert_never",
    ):
        measured.exclude(nothing_to_run)
    return measured


def _measure_one(path: Path, file: Path, other_profiles: bool) -> str:
    """Run one kernel's scenarios, the twin's modules not yet imported; the file of its data."""
    assert not any(name.startswith("harness.twin") for name in sys.modules)
    measured = _coverage(file)
    measured.start()
    try:
        _run(measured, path, other_profiles)
    finally:
        measured.stop()
        measured.save()
    return str(file)


def _run(measured: coverage.Coverage, path: Path, other_profiles: bool) -> None:
    # Imported while coverage is on: definitions count, too.
    from dataclasses import replace

    from harness.guest.events import Outcome
    from harness.trace import pattern
    from harness.twin import explore
    from harness.twin.profile import FIXED, Profile, named
    from harness.verdict.judge import judge
    from tests.mutation.recording import recorded, time_limit

    for each in recorded([path]):
        measured.switch_context(each.name)
        name, seed = each.trace.header.scenario, each.trace.header.seed
        judge(
            each.trace,
            Outcome(
                scenario=name,
                seed=seed,
                attempts=1,
                observations=each.seen,
                ready=each.ready,
                elapsed_s=0,
            ),
            each.kernel,
        )
        for seen in each.seen:
            for image in seen.image.values():
                _store_survives(pattern.decode(seed, image))
        if not other_profiles:
            continue
        measured.switch_context("other profiles")
        for profile in (replace(Profile.from_probe(each.probe), defects=FIXED), named("seed")):
            # What cannot be on that profile (a merge that never ends, or of terabytes) is not
            # what is asked here.
            try:
                with time_limit(OTHER_PROFILE_S):
                    explore.run(each.trace.steps, seed, profile)
            except Exception as fault:  # noqa: BLE001 - it is only run, and nothing is judged
                print(f"{each.name}: {type(fault).__name__}", file=sys.stderr)
    measured.switch_context("")


def _store_survives(image: bytes) -> None:
    """What a kernel left on a disk, if it is a store, is written back byte for byte."""
    import numpy as np

    from harness import store
    from harness.errors import MalformedStore

    if len(image) > STORE_BYTES_MAX:
        return
    try:
        found = store.parse(image)
    except MalformedStore:
        return
    again = bytearray(image)
    metadata = [
        0,
        *(
            store.layout.area_chunk(index, found.entries_per_area)
            for index in range(found.area_count)
        ),
    ]
    size = found.chunk_sectors * 512 or 512
    for chunk in metadata:
        again[chunk * size : (chunk + 1) * size] = b"!" * len(
            again[chunk * size : (chunk + 1) * size]
        )
    with io.BytesIO(again) as file:
        store.serialise(found, file)
        assert file.getvalue() == image
    store.serialise(found, again)
    assert again == image
    blocks = [list(store.iter_exceptions(image)), list(found.exceptions())]
    one, other = (np.concatenate([np.empty(0, store.ENTRY_DTYPE), *each]) for each in blocks)
    assert (one == other).all()
    assert len(one) == found.count


def report(measured: coverage.Coverage) -> tuple[float, dict[str, dict[str, object]]]:
    """Print the figures; percent of all, and the figures for the file."""
    total_done = total_all = 0
    figures: dict[str, dict[str, object]] = {}
    for source in SOURCES:
        for path in sorted((ROOT / source).glob("*.py")):
            done, everything, missing = _figures(measured, path)
            total_done += done
            total_all += everything
            name = str(path.relative_to(ROOT))
            percent = 100 * done / everything if everything else 100.0
            figures[name] = {"percent": percent, "missing": missing}
            print(f"{percent:6.1f} %  {name}  {' '.join(missing)}")
    percent = 100 * total_done / total_all
    print(f"{percent:6.1f} %  together: lines and branches")
    return percent, figures


def write_page(percent: float, figures: dict[str, dict[str, object]], kernels: list[str]) -> None:
    """The figures as a page."""
    lines = [
        "# The twin's coverage by the catalogue",
        "",
        (
            "Generated by `make coverage-twin ARGS=--page`: lines and branches of the twin and of "
            "the store format that the catalogue's scenarios run, as recorded on "
            f"{', '.join(kernels)}; no test counts. Which functions of the real module they reach: "
            "[TRACEABILITY.md](TRACEABILITY.md)."
        ),
        "",
        f"**{percent:.1f} %** of lines and branches together.",
        "",
        "| module | lines and branches | not run |",
        "|---|---|---|",
        *(
            f"| `{name}` | {each['percent']:.1f} % | {' '.join(each['missing'])} |"  # type: ignore[arg-type]
            for name, each in figures.items()
        ),
        "",
        (
            "What is not run: checks of steps that make no sense, crashes of kernels (their "
            "scenarios run when they are named), other permitted orders where the first was the "
            "kernel's, and what only a caller of `harness.store` asks."
        ),
        "",
    ]
    PAGE.write_text("\n".join(lines))


def _figures(measured: coverage.Coverage, path: Path) -> tuple[int, int, list[str]]:
    """Lines and branches that were reached, that there are, and where the others lie."""
    analysis = measured._analyze(str(path))  # coverage's own reports go this way
    numbers = analysis.numbers
    branches = analysis.missing_branch_arcs()
    missing = [str(line) for line in sorted(analysis.missing)]
    missing += [
        f"{start}->{end if end > 0 else 'exit'}"
        for start, ends in sorted(branches.items())
        for end in ends
        if start not in analysis.missing
    ]
    done = numbers.n_executed + numbers.n_executed_branches
    return done, numbers.n_statements + numbers.n_branches, missing


def reach(measured: coverage.Coverage) -> dict[str, dict[int, list[str]]]:
    """File → line → contexts that ran it."""
    data = measured.get_data()
    found: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for file in data.measured_files():
        name = str(Path(file).relative_to(ROOT))
        found[name] = {
            line: sorted(contexts) for line, contexts in data.contexts_by_lineno(file).items()
        }
    return found


def functions_not_reached(measured: coverage.Coverage) -> list[str]:
    """Functions of which no line ran."""
    found = []
    for source in SOURCES:
        for path in sorted((ROOT / source).glob("*.py")):
            missing = measured._analyze(str(path)).missing
            found += [
                f"{path.relative_to(ROOT)}: {node.name}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef) and _first_line(node) in missing
            ]
    return found


def _first_line(function: ast.FunctionDef) -> int:
    """The first line that a call would run."""
    body = function.body
    has_words = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    return body[1 if has_words and len(body) > 1 else 0].lineno


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--journals",
        type=Path,
        nargs="+",
        default=[],
        help="guests of one kernel or of several; all of report/guests by default",
    )
    parser.add_argument("--map", type=Path, default=MAP)
    parser.add_argument(
        "--recorded-only",
        action="store_true",
        help="no other profiles: enough for the map, and quicker",
    )
    parser.add_argument("--page", action="store_true", help="write docs/TWIN-COVERAGE.md")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.mutation.recording import kernels

    with TemporaryDirectory(prefix="dmsnap-") as directory:
        measured = measure(
            kernels(options.journals), Path(directory), other_profiles=not options.recorded_only
        )
        percent, figures = report(measured)
        print("never called:")
        print("\n".join(f"  {function}" for function in functions_not_reached(measured)))
        options.map.parent.mkdir(parents=True, exist_ok=True)
        options.map.write_text(json.dumps({"figures": figures, "reach": reach(measured)}))
    if options.page:
        write_page(percent, figures, [path.name for path in kernels(options.journals)])
    return 0 if percent >= MIN_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
