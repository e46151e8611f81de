"""Mutants of the twin, against what real kernels answered (``make mutants``).

A mutant is one small change of one line: a comparison, an operator, a number, a truth value, a
condition turned round, a call left out.  Each runs the recorded scenarios in a process of its own,
until one gives something else than the kernel did: then it is *killed*.  What survives is listed,
and is a question to the catalogue: which scenario would have shown it?

The recording is the journals of a run: ``dmsnap run`` leaves them below ``report/guests``.
Scenarios whose outcome depends on a race are left out.  `harness.twin.profile` is left out as
well, since its values come from the probe.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = ("__init__.py", "profile.py", "explore.py")
STORE_FILES = ("layout.py", "build.py")
"""Of the store, what takes part in a run: the twin's layout, and what scenarios build with."""
LIMIT_S = 90

_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
            ast.NotIn: ast.In}
_OPERATE = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
            ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
            ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def files() -> list[Path]:
    """What is mutated."""
    twin = [path for path in sorted((ROOT / "harness/twin").glob("*.py"))
            if path.name not in LEFT_OUT]
    return twin + [ROOT / "harness/store" / name for name in STORE_FILES]


def sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """Nodes that can be mutated, with what is done to them; annotations and texts are not."""
    skip: set[int] = set()
    for node in ast.walk(tree):
        for field in ("annotation", "returns", "decorator_list"):
            for part in _list(getattr(node, field, None)):
                skip.update(id(inner) for inner in ast.walk(part))
        if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id.startswith("__")
                for target in node.targets):
            skip.update(id(inner) for inner in ast.walk(node))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skip.update(id(inner) for inner in ast.walk(node))
        if isinstance(node, ast.Assert | ast.Raise):
            skip.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
            yield node, "compare", _COMPARE[type(node.ops[0])]
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATE:
            yield node, "operate", _OPERATE[type(node.op)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "constant", not node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield node, "constant", node.value + 1
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node, "negate", None
        elif isinstance(node, ast.BoolOp):
            yield node, "either", ast.Or if isinstance(node.op, ast.And) else ast.And
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "leave out", None


def _list(value: object) -> list[ast.AST]:
    if isinstance(value, list):
        return [item for item in value if isinstance(item, ast.AST)]
    return [value] if isinstance(value, ast.AST) else []


def mutate(source: str, number: int) -> tuple[str, int, str]:
    """Mutant ``number`` of a module: its source, the line, and what was done."""
    tree = ast.parse(source)
    node, kind, value = list(sites(tree))[number]
    before = ast.unparse(copy.copy(node))
    match node, kind:
        case ast.Compare(), _:
            node.ops[0] = value()  # type: ignore[operator]
        case (ast.BinOp() | ast.BoolOp()), _:
            node.op = value()  # type: ignore[operator]
        case ast.Constant(), _:
            node.value = value
        case (ast.If() | ast.While() | ast.IfExp()), _:
            before = ast.unparse(node.test)
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Expr(), _:
            node.value = ast.Constant(None)
    ast.fix_missing_locations(tree)
    after = "nothing" if kind == "leave out" else (
        f"not ({before})" if kind == "negate" else ast.unparse(node))
    return ast.unparse(tree), node.lineno, f"{before}  →  {after}"  # type: ignore[attr-defined]


# -- the recording --------------------------------------------------------------------------------


def record(journals: list[Path], into: Path) -> int:
    """Keep what the guests of a run answered; the number of scenarios."""
    from harness.journal import Begin, End, JournalReader, Observed, Ready
    from harness.scenarios.registry import catalogue
    from harness.twin import explore
    from harness.twin.profile import Profile

    kept = []
    entries = catalogue()
    for path in sorted(path for run in journals for path in run.glob("*/journal.jsonl")):
        ready: Ready | None = None
        begin: Begin | None = None
        seen: list[object] = []
        for entry in JournalReader(path).new():
            match entry:
                case Ready():
                    ready = entry
                case Begin():
                    begin, seen = entry, []
                case Observed():
                    seen.append(entry.observation)
                case End() if begin and ready and not entry.fault:
                    trace = entries[begin.scenario].trace(begin.seed)
                    profile = Profile.from_probe(ready.probe)
                    if explore.run(trace.steps, begin.seed, profile) and len(seen) == len(
                            trace.steps) and _agrees(trace, seen, profile):
                        kept.append((trace, tuple(seen), dict(ready.probe)))
    kept.sort(key=lambda item: len(item[0].steps))
    into.write_bytes(pickle.dumps(kept))
    return len(kept)


def _agrees(trace: object, seen: object, profile: object) -> bool:
    from harness.diff import compare
    from harness.twin import explore

    twin = explore.run(trace.steps, trace.header.seed, profile)  # type: ignore[attr-defined,arg-type]
    return compare(trace, seen, twin).same  # type: ignore[arg-type]


# -- one mutant, in a process of its own ----------------------------------------------------------


class _Loader(importlib.abc.SourceLoader):
    def __init__(self, path: str, source: str) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 -- one module only
        return self._path

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002 -- one module only
        return self._source.encode()

    def path_stats(self, path: str | bytes) -> dict[str, int]:  # noqa: ARG002
        raise OSError  # no cached bytecode of a mutant


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, path: str, source: str) -> None:
        self._module, self._loader = module, _Loader(path, source)

    def find_spec(self, fullname: str, path: object, target: object = None  # noqa: ARG002
                  ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.machinery.ModuleSpec(fullname, self._loader, origin=str(path))


def judge(file: Path, number: int, recording: Path) -> str:
    """Run the recording on a mutant: the scenario that kills it, or an empty text."""
    source, _, _ = mutate(file.read_text(), number)
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    sys.meta_path.insert(0, _Finder(module, str(file), source))
    kept = pickle.loads(recording.read_bytes())
    try:
        from harness.diff import compare
        from harness.scenarios.registry import catalogue
        from harness.twin import explore
        from harness.twin.profile import Profile
        if file.parent.name == "store":
            entries = catalogue()
            kept = [(entries[trace.header.scenario].trace(trace.header.seed), seen, probe)
                    for trace, seen, probe in kept]
    except Exception as fault:  # noqa: BLE001 - a mutant may raise anything
        return f"import: {fault}"
    for trace, seen, probe in kept:
        try:
            twin = explore.run(trace.steps, trace.header.seed, Profile.from_probe(probe))
        except Exception as fault:  # noqa: BLE001 - a mutant may raise anything
            return f"{trace.header.scenario}: {type(fault).__name__}"
        if not compare(trace, seen, twin).same:
            return str(trace.header.scenario)
    return ""


def try_one(job: tuple[Path, int, Path]) -> str:
    """The same in a process with a time limit."""
    file, number, recording = job
    argv = [sys.executable, __file__, "--one", str(file), str(number), str(recording)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_S} s"
    return done.stdout.strip() if done.returncode == 0 else f"died: {done.stderr[-200:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journals", type=Path, nargs="+", default=sorted(
        Path("report/guests").glob("*/")), help="guests of one kernel or of several")
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("report/mutants.json"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        file, number, recording = options.one
        print(judge(Path(file), int(number), Path(recording)))
        return 0
    jobs = [(file, number) for file in files()
            for number in range(len(list(sites(ast.parse(file.read_text())))))]
    chosen = sorted(random.Random(options.seed).sample(jobs, min(options.count, len(jobs))))
    with tempfile.TemporaryDirectory(prefix="dmsnap-mutants-") as directory:
        recording = Path(directory) / "recording"
        print(f"{record(options.journals, recording)} recorded scenarios, {len(jobs)} mutants, "
              f"{len(chosen)} chosen", flush=True)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            verdicts = list(pool.map(try_one, [(*job, recording) for job in chosen]))
    survivors = []
    for (file, number), verdict in zip(chosen, verdicts, strict=True):
        if not verdict:
            _, line, what = mutate(file.read_text(), number)
            survivors.append(f"{file.relative_to(ROOT)}:{line}: {what}")
    killed = len(chosen) - len(survivors)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({
        "chosen": len(chosen), "killed": killed, "survivors": survivors,
        "killers": Counter(verdict.partition(":")[0] for verdict in verdicts if verdict),
    }, indent=1))
    print("\n".join(survivors))
    print(f"{killed} of {len(chosen)} mutants killed ({100 * killed / len(chosen):.1f} %), "
          f"{len(survivors)} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
