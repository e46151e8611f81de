r"""JUnit XML: one test suite for each kernel, one test case for each scenario on it.

*Diverged* and *nondeterministic* are failures, *guest lost* and *broken scenario* are errors,
*unsupported* is skipped.  Kernel release and seed are properties of each test case.  Characters
that XML 1.0 cannot hold, which a kernel's console is free to contain, are written as ``\x1b``.
"""

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from harness.compare.diff import Verdict
from harness.report.reporter import FileReporter
from harness.report.words import details, headline
from harness.verdict.result import Result, RunReport

_FAILURES: Final = (Verdict.DIVERGED, Verdict.NONDETERMINISTIC)
_ERRORS: Final = (Verdict.LOST, Verdict.BROKEN)
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """``text`` with what XML 1.0 cannot hold escaped."""
    return _NOT_XML.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def render(report: RunReport) -> bytes:
    """The XML document."""
    root = ET.Element("testsuites", {"name": "dmsnap", **_counts(report.results),
                                     "time": f"{report.environment.seconds:.3f}"})
    for kernel, results in report.by_kernel().items():
        suite = ET.SubElement(root, "testsuite", {
            "name": clean(kernel), **_counts(results), "time": _seconds(*results)})
        if report.environment.started:
            suite.set("timestamp", clean(report.environment.started))
        _properties(suite, {"kernel.release": report.release(kernel),
                            "guest": report.guest(kernel),
                            "dmsnap.version": report.environment.dmsnap,
                            "host": report.environment.machine})
        for result in results:
            _case(suite, result)
    ET.indent(root, " ")
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(suite, "testcase", classname=clean(f"dmsnap.{result.kernel}"),
                         name=clean(result.scenario), time=_seconds(result))
    _properties(case, {
        "kernel.release": result.release,
        "seed": str(result.seed),
        "verdict": result.verdict,
        "steps": str(result.steps),
        "guests": str(result.attempts),
        "compared": ", ".join(f"{layer} {count}" for layer, count in result.compared.items()),
        **{f"not compared: {entry.layer}": entry.reason for entry in result.not_compared},
        **({"promise": "broken"} if result.promise_broken else {}),
    })
    text, message = clean(details(result)), clean(headline(result) or result.verdict)
    if result.verdict in _FAILURES:
        ET.SubElement(case, "failure", type=result.verdict, message=message).text = text
    elif result.verdict in _ERRORS:
        ET.SubElement(case, "error", type=result.verdict, message=message).text = text
    elif result.verdict is Verdict.UNSUPPORTED:
        ET.SubElement(case, "skipped", message=message)
    elif text:
        ET.SubElement(case, "system-out").text = text
    if result.console:
        ET.SubElement(case, "system-err").text = clean(result.console)


def _counts(results: Sequence[Result]) -> dict[str, str]:
    def of(*verdicts: Verdict) -> str:
        return str(sum(result.verdict in verdicts for result in results))

    return {"tests": str(len(results)), "failures": of(*_FAILURES), "errors": of(*_ERRORS),
            "skipped": of(Verdict.UNSUPPORTED)}


def _seconds(*results: Result) -> str:
    return f"{sum(result.kernel_us + result.twin_us for result in results) / 1e6:.6f}"


def _properties(parent: ET.Element, values: dict[str, str]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=clean(name), value=clean(value))


class JunitReporter(FileReporter):
    """``junit.xml``."""

    def render(self, report: RunReport) -> bytes:
        """The XML document."""
        return render(report)
