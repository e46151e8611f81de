"""A result in plain lines; the same words in the terminal, in JUnit and in KTAP."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from harness.compare.diff import Layer, Verdict, render
from harness.promises.check import BrokenPromise
from harness.verdict.result import Result, RunReport

AGAIN: Final = "again: "
"""Before a command that repeats a result."""


def headline(result: Result) -> str:
    """One line: why the verdict is what it is; empty for a plain *same*."""
    if result.reason:
        return " ".join(result.reason.split())
    if result.divergences:
        first, later = result.divergences[0], len(result.divergences) - 1
        more = f" and {later} more" if later else ""
        return f"step {first.step} ({first.verb}): {first.layer}: {first.what}{more}"
    if not result.promise_broken:
        return ""
    names = ", ".join(defect.name for defect in result.defects)
    return f"a promise is broken: {names}" if names else "a promise is broken"


def details(result: Result, *, console_lines: int = 20) -> str:
    """All details of a result that is not plainly *same*."""
    parts = [result.reason] if result.reason else []
    parts += [render(divergence) for divergence in result.divergences]
    if result.before:
        parts.append("\n".join(["what touched this place:", *(f"  {s}" for s in result.before)]))
    if result.later:
        parts.append(
            f"{result.later} later step{'s differ' if result.later > 1 else ' differs'} as well"
        )
    parts += [f"promise broken by {who}, {promise}" for who, promise in _promises(result)]
    if result.promise_broken or result.verdict is not Verdict.SAME:
        parts += map(str, result.defects)
    if result.attempts > 1:
        parts.append(f"{result.attempts} guests were tried")
    if result.console:
        tail = result.console.splitlines()[-console_lines:]
        parts.append("\n".join(["the console's last lines:", *(f"  {line}" for line in tail)]))
    if parts:
        parts += [f"{name} is {known_as}" for name, known_as in result.names.items()]
        parts += [f"known: {result.known}"] if result.known else []
        parts += [f"its trace: {result.trace}"] if result.trace else []
        parts += [f"{AGAIN}{command}" for command in result.again]
    return "\n".join(parts)


def _promises(result: Result) -> Iterator[tuple[str, BrokenPromise]]:
    """Broken promises and who broke them; one that both broke alike is listed once."""
    for promise in result.kernel_promises:
        yield "both sides" if promise in result.twin_promises else "the kernel", promise
    for promise in result.twin_promises:
        if promise not in result.kernel_promises:
            yield "the twin", promise


def verdicts(report: RunReport) -> str:
    """``40 same (2 by another permitted order), 1 diverged, …``.

    Same and diverged are always counted, the others if there are any.
    """
    always = (Verdict.SAME, Verdict.DIVERGED)
    other = sum(result.by_other_order for result in report.results)
    notes = {Verdict.SAME: f" ({other} by another permitted order)"} if other else {}
    counts = [(verdict, report.count(verdict)) for verdict in Verdict]
    text = ", ".join(
        f"{count} {verdict}{notes.get(verdict, '')}"
        for verdict, count in counts
        if count or verdict in always
    )
    broken = sum(result.promise_broken for result in report.results)
    return f"{text}; {broken} with a promise broken" if broken else text


def compared(report: RunReport) -> str:
    """How many values of each layer were compared in the whole run."""
    total: Counter[Layer] = Counter()
    for result in report.results:
        total.update(result.compared)
    return ", ".join(f"{layer} {total[layer]}" for layer in Layer)


def against_baseline(report: RunReport) -> list[str]:
    """What is new, known and gone, a line each; nothing where there was no baseline."""
    if not report.known:
        return []
    known = report.known
    return [
        *(f"expired: {line}" for line in known.expired),
        *(f"known: {line}" for line in known.known),
        *(f"gone: {line}" for line in known.gone),
        *(f"new: {line}" for line in known.new),
        f"{len(known.new)} new, {len(known.known)} known, {len(known.gone)} gone",
    ]


def pass_rates(report: RunReport) -> list[str]:
    """Of scenarios that ran more than once: those that did not pass each time, and a summary."""
    turns = report.turns()
    if not turns:
        return []
    failed = {key: rate for key, rate in turns.items() if rate[0] < rate[1]}
    lines = [
        f"{name} on {kernel}: passed {agreed} of {turns_} ({agreed / turns_:.0%})"
        for (name, kernel), (agreed, turns_) in failed.items()
    ]
    return [*lines, f"{len(turns) - len(failed)} of {len(turns)} passed each time"]


def defects(report: RunReport) -> list[str]:
    """A line for each known defect that struck, with how often, whether or not anybody noticed."""
    counts = Counter(defect.name for result in report.results for defect in result.defects)
    about = {defect.name: defect for result in report.results for defect in result.defects}
    return [
        f"known defect {name} in {count} result{'s' if count > 1 else ''}: "
        f"{about[name].title} ({about[name].link})"
        for name, count in sorted(counts.items())
    ]


def left_out(report: RunReport) -> list[str]:
    """A line for each layer and reason that was not compared, with its count."""
    counts: Counter[tuple[Layer, str]] = Counter()
    values: Counter[tuple[Layer, str]] = Counter()
    for result in report.results:
        for entry in result.not_compared:
            counts[entry.layer, entry.reason] += 1
            values[entry.layer, entry.reason] += entry.values
    return [
        f"{layer} in {count} result{'s' if count > 1 else ''} "
        f"({values[layer, reason]} values): {reason}"
        for (layer, reason), count in sorted(counts.items())
    ]
