"""KTAP version 1, the kernel's test format (Documentation/dev-tools/ktap.rst).

One test for each kernel, with a subtest for each scenario.  Diagnostic lines come before their
result line, indented by two spaces per level.  *Guest lost* and *broken scenario* carry the
directive ERROR, *unsupported* SKIP.

Output of a guest is in it too, and must not be taken for the report's own words: the kernel's
reader (tools/testing/kunit/kunit_parser.py) takes a Subtest line anywhere for the head of a test,
reads SKIP after any ``#``, and stops for good at what a kernel prints last.
"""

import re
from typing import Final

from harness.compare.diff import AGREED, Verdict
from harness.report.gate import printable
from harness.report.reporter import FileReporter
from harness.report.words import compared, details, headline, left_out, verdicts
from harness.verdict.result import Result, RunReport

_INDENT: Final = "  "
_LAST_WORDS: Final = (
    "List of all partitions:",
    "Kernel panic - not syncing: VFS:",
    "reboot: System halted",
)
"""Words at which the kernel's reader stops, anywhere in a line (``KTAP_END``)."""
_DIRECTIVE: Final = re.compile(r"#(?=\s|$)")
_HEADER: Final = "Subtest:"


def render(report: RunReport) -> bytes:
    """The whole text."""
    kernels = report.by_kernel()
    lines = ["KTAP version 1", f"1..{len(kernels)}"]
    for number, (kernel, results) in enumerate(kernels.items(), 1):
        # kunit.py wants the name before the plan; ktap.rst allows that.
        inner = ["KTAP version 1", f"# {_HEADER} {_name(kernel)}", f"1..{len(results)}"]
        inner += _diagnostics(f"release {report.release(kernel) or 'unknown'}")
        if report.guest(kernel):
            inner += _diagnostics(f"guest {report.guest(kernel)}")
        for index, result in enumerate(results, 1):
            said = details(result)
            inner += _diagnostics(said)
            for defect in map(str, result.defects):
                if defect not in said:
                    inner += _diagnostics(defect)
            inner.append(_line(index, result))
        lines += [_INDENT + line for line in inner]
        verdict = {Verdict.SAME if result.known else result.verdict for result in results} - {
            Verdict.UNSUPPORTED
        }
        skip = "" if verdict else " # SKIP none of the scenarios is supported"
        lines.append(f"{'ok' if verdict <= AGREED else 'not ok'} {number} {_name(kernel)}{skip}")
    lines += _diagnostics(verdicts(report))
    lines += _diagnostics(f"compared: {compared(report)}")
    lines += [line for text in left_out(report) for line in _diagnostics(f"not compared: {text}")]
    text = "\n".join(lines) + "\n"
    for words in _LAST_WORDS:
        text = text.replace(words, words.replace(" ", "  ", 1))
    return text.encode()


def _line(number: int, result: Result) -> str:
    name, why = _name(result.scenario), _DIRECTIVE.sub("_", printable(headline(result)))
    if result.known:
        return f"ok {number} {name} # XFAIL {_DIRECTIVE.sub('_', printable(result.known))}"
    match result.verdict:
        case Verdict.SAME:
            return f"ok {number} {name}" + (f" # {why}" if why else "")
        case Verdict.HANGS | Verdict.DIES:
            return f"ok {number} {name} # {result.verdict}: {why}"
        case Verdict.UNSUPPORTED:
            return f"ok {number} {name} # SKIP {why}".rstrip()
        case Verdict.LOST | Verdict.BROKEN:
            return f"not ok {number} {name} # ERROR {result.verdict}: {why}".rstrip(": ")
        case _:
            return f"not ok {number} {name} # {result.verdict}: {why}".rstrip(": ")


def _diagnostics(text: str) -> list[str]:
    lines = printable(text).split("\n") if text else []
    return [f"# {' ' if line.startswith(_HEADER) else ''}{line}".rstrip() for line in lines]


def _name(text: str) -> str:
    """A description: one line, without the character that begins a directive."""
    return " ".join(printable(text).split()).replace("#", "_")


class KtapReporter(FileReporter):
    """``run.ktap``."""

    def render(self, report: RunReport) -> bytes:
        """The whole text."""
        return render(report)
