"""Mutants of the twin and the store, against what real kernels answered (``make mutants``).

A mutant is one small change of one line: a comparison, an operator, a number, a truth value, a
condition turned round, a call left out.  Each replays recorded scenarios in a process of its own,
until one gives something else than the kernel did: then it is *killed*.  What survives is listed,
and is a question to the catalogue: which scenario would have shown it?

Only scenarios that run the line are replayed, as the map of ``make coverage-twin`` has it, each on
one of the kernels that did it, the quickest first.  Where the kernel took another of the permitted
orders, a mutant is killed if none of its own is the kernel's.

Not mutated, because no observation can tell:

- annotations, texts, assertions, ``raise`` statements, ``__slots__``;
- `harness.twin.profile`, whose values come from the probe, and `harness.twin.explore`, which runs
  only where the first order is not the kernel's;
- of the store, all but what takes part in a run: the layout, and what scenarios build with;
- what refuses steps, probes and arguments that make no sense on either side;
- what the choice ``--defects fixed`` does, which no kernel does;
- what `QUICKER` and `COUNTED` name: thresholds and hints that only make the twin quicker, the
  numbers that are kept for the twin's own tests, and the time that a step took.

A mutant runs with limits on its memory and on the time of each scenario; one that meets them is
killed.  The time is that of the processor, so a machine that is busy kills none.
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
import resource
import select
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = ("__init__.py", "profile.py", "explore.py")
STORE_FILES = ("layout.py", "build.py")
"""Of the store, what takes part in a run: the twin's layout, and what scenarios build with."""
QUICKER = frozenset(
    {
        "PIECES_MIN",
        "_LONG",
        "_FEW",
        "_BLOCK",
        "_LONG_SECTORS",
        "_LARGE_PAGE",
        "_FLAGS",
        "expect",
        "_written",
    }
)
"""Names of constants and functions that make the twin quicker, and change nothing else."""
COUNTED = frozenset(
    {
        "jobs",
        "jobs_peak",
        "_count_job",
        "peak",
        "passed",
        "elapsed_us",
        "perf_counter_ns",
        "started_ns",
    }
)
"""What is counted for tests alone."""
ROUND = 320
CASE_LIMIT_S = 20
"""Processor time for one scenario, of which the slowest takes a second."""
TRIED_MAX = 40
"""Recordings in a later order than that are left out: a mutant would have to try as many."""
REFUSALS = frozenset({"BadScenario", "ProvisioningError", "TwinInvariant", "ValueError"})
"""What a step, a probe or a caller gets that makes no sense on either side."""
LIMIT_S = 1200
"""For all of them, where a mutant hangs outside of Python."""
LIMIT_BYTES = 4 << 30
REASONS = Path(__file__).with_name("survivors.json")
PAGE = ROOT / "docs/MUTANTS.md"
EQUIVALENT = "equivalent"
"""How the reason of a mutant begins that changes nothing anybody could see."""

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATE = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def files() -> list[Path]:
    """What is mutated."""
    twin = [
        path for path in sorted((ROOT / "harness/twin").glob("*.py")) if path.name not in LEFT_OUT
    ]
    return twin + [ROOT / "harness/store" / name for name in STORE_FILES]


def sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """Nodes that can be mutated, with what is done to them; annotations and texts are not."""
    skip: set[int] = set()
    for node in ast.walk(tree):
        for field in ("annotation", "returns", "decorator_list"):
            for part in _list(getattr(node, field, None)):
                skip.update(id(inner) for inner in ast.walk(part))
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets
        ):
            skip.update(id(inner) for inner in ast.walk(node))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skip.update(id(inner) for inner in ast.walk(node))
        if isinstance(node, ast.Assert | ast.Raise) or _tells_nothing(node):
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


def _tells_nothing(node: ast.AST) -> bool:
    """Whether a statement is of those that `QUICKER` and `COUNTED` name."""
    match node:
        case ast.FunctionDef(name=name):
            return name in QUICKER | COUNTED
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {
                getattr(part, "id", getattr(part, "attr", ""))
                for target in targets
                for part in ([target.value] if isinstance(target, ast.Subscript) else [target])
            }
            return bool(names & (QUICKER | COUNTED))
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name))):
            return name in QUICKER | COUNTED or name.startswith("check_")
        case ast.If(body=[ast.Raise(exc=ast.Call(func=ast.Name(id=name)))]) if name in REFUSALS:
            return True
        case ast.If(test=test):
            return any(
                getattr(part, "attr", getattr(part, "id", "")) in COUNTED | {"fixed"}
                for part in ast.walk(test)
            )
        case ast.keyword(arg=name):
            return name in COUNTED or name == "strict"
    return False


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
        case ((ast.BinOp() | ast.BoolOp()), _):
            node.op = value()  # type: ignore[operator]
        case ast.Constant(), _:
            node.value = value  # type: ignore[assignment]  # `sites` gives a constant
        case ((ast.If() | ast.While() | ast.IfExp()), _):
            before = ast.unparse(node.test)
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Expr(), _:
            node.value = ast.Constant(None)
    ast.fix_missing_locations(tree)
    after = (
        "nothing"
        if kind == "leave out"
        else (f"not ({before})" if kind == "negate" else ast.unparse(node))
    )
    return ast.unparse(tree), node.lineno, f"{before}  →  {after}"  # type: ignore[attr-defined]


# -- the recording --------------------------------------------------------------------------------


def record(journals: list[Path]) -> list["Case"]:
    """What the guests of a run answered, where the twin of now gives the same; the quickest first.

    The twin runs in a process of its own: this one must not import it.
    """
    from tests.mutation.recording import recorded

    cases = list(recorded(journals))
    answers = pickle.loads(_in_child(lambda: pickle.dumps([_agrees(case) for case in cases])))
    found = [
        (seconds, replace(case, orders=tried))
        for case, (seconds, tried) in zip(cases, answers, strict=True)
        if 0 < tried <= TRIED_MAX
    ]
    return [case for _, case in sorted(found, key=lambda item: item[0])]


Case = object


def _agrees(case: "Recorded") -> tuple[float, int]:  # type: ignore[name-defined]  # noqa: F821
    """Seconds that the twin takes, and which of its orders is the kernel's: 0 for none."""
    from harness.twin.profile import Profile
    from tests.mutation.recording import permitted

    started = time.perf_counter()
    tried = permitted(case.trace, case.seen, Profile.from_probe(case.probe))
    return time.perf_counter() - started, tried


def _in_child(work, limit_s: float = 1e9) -> bytes:
    """What ``work`` returns, in a forked process; empty if it is ended before it has.

    Raises:
        TimeoutError: the time limit was met.
    """
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(here)
            with os.fdopen(there, "wb") as pipe:
                pipe.write(work())
        finally:
            os._exit(0)
    os.close(there)
    data = b""
    deadline = time.monotonic() + limit_s
    with os.fdopen(here, "rb", buffering=0) as pipe:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], min(left, 1e6))[0]:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise TimeoutError
            part = pipe.read(1 << 20)
            if not part:
                break
            data += part
    os.waitpid(pid, 0)
    return data


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

    def find_spec(
        self,
        fullname: str,
        path: object,
        target: object = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.machinery.ModuleSpec(fullname, self._loader, origin=str(path))


def judge(file: Path, number: int, cases: list[Case]) -> str:
    """Replay ``cases`` on a mutant: the one that kills it, or an empty text."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    source, _, _ = mutate(file.read_text(), number)
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    assert not any(name.startswith("harness.twin") for name in sys.modules)
    in_store = file.parent.name == "store"
    if in_store:
        for name in [
            name
            for name in sys.modules
            if name.startswith(("harness.store", "harness.scenarios", "harness.compare"))
        ]:
            del sys.modules[name]
    sys.meta_path.insert(0, _Finder(module, str(file), source))
    try:
        from harness.compare.diff import compare
        from harness.scenarios.registry import catalogue
        from harness.trace.backend import carry_out
        from harness.twin.backend import TwinBackend
        from harness.twin.profile import Profile
        from tests.mutation.recording import permitted, time_limit

        entries = catalogue() if in_store else {}
    except Exception as fault:  # noqa: BLE001 - a mutant may raise anything
        return f"import: {fault}"

    for case in cases:
        try:
            with time_limit(CASE_LIMIT_S):
                header = case.trace.header  # type: ignore[attr-defined]
                # What scenarios build with may be other stores now.
                trace = entries[header.scenario].trace(header.seed) if in_store else case.trace  # type: ignore[attr-defined]
                profile = Profile.from_probe(case.probe)  # type: ignore[attr-defined]
                if case.orders > 1:  # type: ignore[attr-defined]
                    if permitted(trace, case.seen, profile):  # type: ignore[attr-defined]
                        continue
                    return f"{case.name}, in all orders"  # type: ignore[attr-defined]
                twin = []
                answered = carry_out(TwinBackend(profile), trace.steps, header.seed)
                for seen, observation in zip(case.seen, answered, strict=True):  # type: ignore[attr-defined]
                    twin.append(observation)
                    if _plainly_differ(twin[-1], seen):
                        break
                seen = case.seen[: len(twin)]  # type: ignore[attr-defined]
                part = type(trace)(trace.header, trace.steps[: len(twin)])
                if not compare(part, seen, twin).same:
                    return str(case.name)  # type: ignore[attr-defined]
        except Exception as fault:  # noqa: BLE001 - a mutant may raise anything
            return f"{case.name}: {type(fault).__name__}"  # type: ignore[attr-defined]
    return ""


def _plainly_differ(twin: object, kernel: object) -> bool:
    return any(
        getattr(twin, field) != getattr(kernel, field)
        for field in ("error", "text", "log", "uevents")
    )


def try_one(
    file: Path, number: int, cases: list[Case], reach: dict[str, dict[str, list[str]]]
) -> str:
    """The verdict on one mutant: what killed it, or an empty text."""
    contexts = reached_by(file, number, reach)
    chosen = _each_once(case for case in cases if contexts is None or case.name in contexts)  # type: ignore[attr-defined]
    try:
        return (
            _in_child(lambda: judge(file, number, chosen).encode(), LIMIT_S).decode()
            if chosen
            else ""
        )
    except TimeoutError:
        return f"no end within {LIMIT_S} s"


def _each_once(cases: Iterable[Case]) -> list[Case]:
    """Each scenario on one of the kernels that did it, and of those each as often.

    One that came out in several ways is taken in the first order and in another.
    """
    by_scenario: dict[tuple[str, bool], list[Case]] = defaultdict(list)
    for case in cases:
        by_scenario[case.trace.header.scenario, case.orders > 1].append(case)  # type: ignore[attr-defined]
    return [each[index % len(each)] for index, each in enumerate(by_scenario.values())]


def reached_by(file: Path, number: int, reach: dict[str, dict[str, list[str]]]) -> set[str] | None:
    """Contexts that run the statement of a mutant; None where that is when the module is loaded."""
    tree = ast.parse(file.read_text())
    node = list(sites(tree))[number][0]
    statement = next(
        each for each in ast.walk(tree) if isinstance(each, ast.stmt) and _header(each, node)
    )
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
    if not any(
        statement is part
        for function in functions
        for line in function.body
        for part in ast.walk(line)
    ):
        return None  # whichever scenario happened to be the first
    lines = reach.get(str(file.relative_to(ROOT)), {})
    found = {
        context
        for line in range(statement.lineno, _end(statement) + 1)
        for context in lines.get(str(line), [])
    }
    return None if "" in found else found


def _header(statement: ast.stmt, node: ast.AST) -> bool:
    """Whether ``node`` belongs to ``statement`` itself, not to a statement inside it."""
    stack: list[ast.AST] = [statement]
    while stack:
        each = stack.pop()
        if each is node:
            return True
        stack += [child for child in ast.iter_child_nodes(each) if not isinstance(child, ast.stmt)]
    return False


def _end(statement: ast.stmt) -> int:
    """Last line of a statement, without the statements inside it."""
    body = getattr(statement, "body", None)
    return (
        body[0].lineno - 1
        if body and body[0].lineno > statement.lineno
        else statement.end_lineno or statement.lineno
    )


# -- the choice and the page ----------------------------------------------------------------------


def choose(count: int, seed: int) -> list[tuple[Path, int]]:
    """``count`` mutants, from each module as many as its share of all of them.

    They are drawn in rounds: who asks for more than `ROUND` gets what fewer would have been, and
    others.  Each module has its own numbers, so that a change of one leaves the choice in the
    others as it was.
    """
    sizes = {file: len(list(sites(ast.parse(file.read_text())))) for file in files()}
    everything = sum(sizes.values())
    taken: dict[Path, list[int]] = {file: [] for file in sizes}
    for first in range(0, count, ROUND):
        part = min(ROUND, count - first)
        for file, size in sizes.items():
            left = [number for number in range(size) if number not in taken[file]]
            share = min(len(left), max(1, -(-part * size // everything)))
            rng = random.Random(f"{seed} {file.name}" + (f" {first}" if first else ""))
            taken[file] += rng.sample(left, share)
    return [(file, number) for file, numbers in taken.items() for number in sorted(numbers)]


def write_page(verdicts: dict[tuple[Path, int], str], about: str) -> None:
    """The survivors as a page; reasons come from a file beside this one."""
    reasons = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    by_module: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    rows = []
    for (file, number), verdict in verdicts.items():
        name = str(file.relative_to(ROOT))
        by_module[name][0] += 1
        by_module[name][1] += bool(verdict)
        if not verdict:
            _, _, what = mutate(file.read_text(), number)
            key = f"{name}: {what}"
            reason = reasons.get(key, "")
            rows.append((name, what.replace("|", "\\|").replace("\n", " "), reason))
    killed, total = sum(map(bool, verdicts.values())), len(verdicts)
    equivalent = sum(reason.startswith(EQUIVALENT) for _, _, reason in rows)
    lines = [
        "# Mutants",
        "",
        (
            "Generated by `tests/mutation/mutants.py`, which tells what a mutant is and which are "
            "not made; the reasons are in `tests/mutation/survivors.json`. Type `make mutants`."
        ),
        "",
        about,
        "",
        (
            f"**{killed} of {total} mutants are killed ({100 * killed / total:.1f} %).** "
            f"{equivalent} are equivalent: what they change can be seen on no kernel, as the list "
            f"says of each. **Of the other {total - equivalent}, {killed} are killed "
            f"({100 * killed / (total - equivalent):.1f} %).**"
        ),
        "",
        "| module | mutants | killed |",
        "|---|---|---|",
        *(f"| `{name}` | {count} | {dead} |" for name, (count, dead) in sorted(by_module.items())),
        "",
        "## Survivors",
        "",
        "| module | change | why it survives |",
        "|---|---|---|",
        *(f"| `{name}` | `{what}` | {reason} |" for name, what, reason in rows),
        "",
    ]
    PAGE.write_text("\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--journals",
        type=Path,
        nargs="+",
        default=[],
        help="guests of one kernel or of several; all of report/guests by default",
    )
    parser.add_argument("--count", type=int, default=ROUND)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reach", type=Path, default=Path("report/reach.json"))
    parser.add_argument("--output", type=Path, default=Path("report/mutants.json"))
    parser.add_argument("--again", action="store_true", help="only those that survived last time")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--page", action="store_true", help="write docs/MUTANTS.md")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.mutation.recording import kernels

    reach = json.loads(options.reach.read_text())["reach"]
    chosen = choose(options.count, options.seed)
    before: dict[str, str] = {}
    used: list[str] = []
    if options.again:
        last = json.loads(options.output.read_text())
        before, used = last["verdicts"], last.get("recordings", [])
    cases = record(kernels(options.journals))
    used = sorted({*used, *(case.kernel for case in cases)})  # type: ignore[attr-defined]
    print(f"{len(cases)} recorded scenarios, {len(chosen)} mutants", flush=True)
    verdicts: dict[tuple[Path, int], str] = {}
    said: dict[str, str] = {}

    def tried(job: tuple[Path, int]) -> tuple[str, str, str]:
        _, line, what = mutate(job[0].read_text(), job[1])
        name = job[0].relative_to(ROOT)
        key = f"{name}: {job[1]}: {what}"
        return key, f"{name}:{line}: {what}", before.get(key) or try_one(*job, cases, reach)

    # Threads only wait: each mutant is a process.
    with ThreadPool(options.jobs) as pool:
        for count, (job, (key, place, verdict)) in enumerate(
            zip(chosen, pool.imap(tried, chosen), strict=True), 1
        ):
            verdicts[job] = said[key] = verdict
            if not verdict:
                print(f"[{count}] {place}", flush=True)
            if count == len(chosen) or not count % 20:
                options.output.write_text(
                    json.dumps({"recordings": used, "verdicts": said}, indent=1)
                )
    killed = sum(map(bool, verdicts.values()))
    killers = Counter(verdict.partition(" on ")[0] for verdict in verdicts.values() if verdict)
    print(killers.most_common(10))
    print(f"{killed} of {len(verdicts)} mutants killed ({100 * killed / len(verdicts):.1f} %)")
    if options.page:
        write_page(verdicts, f"Recordings of {', '.join(used)}; seed {options.seed}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
