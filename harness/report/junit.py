r"""JUnit XML: one test suite for each kernel, one test case for each scenario on it.

*Diverged* and *nondeterministic* are failures, *guest lost* and *broken scenario* are errors,
*unsupported* is skipped.  What is not printable (`harness.report.gate`), or not allowed in XML 1.0,
is escaped, as ``\x1b``.

The form is that of Jenkins' schema (junit-10.xsd), which GitLab also reads: test cases have no
properties there, so other facts about a result are at the head of its ``system-out``.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from harness.compare.diff import AGREED, Verdict
from harness.report.gate import printable
from harness.report.reporter import FileReporter
from harness.report.words import details, headline
from harness.verdict.result import Result, RunReport

_FAILURES: Final = (Verdict.DIVERGED, Verdict.NONDETERMINISTIC)
_ERRORS: Final = (Verdict.LOST, Verdict.BROKEN)


def render(report: RunReport) -> bytes:
    """The XML document."""
    counts = _counts(report.results)
    del counts["skipped"]  # which the schema has only for suites
    root = ET.Element(
        "testsuites", {"name": "dmsnap", **counts, "time": f"{report.environment.seconds:.3f}"}
    )
    classes = class_names(report.by_kernel())
    for kernel, results in report.by_kernel().items():
        suite = ET.SubElement(
            root,
            "testsuite",
            {"name": printable(kernel), **_counts(results), "time": _seconds(*results)},
        )
        if report.environment.started:
            suite.set("timestamp", printable(report.environment.started))
        _properties(
            suite,
            {
                "kernel.release": report.release(kernel),
                "guest": report.guest(kernel),
                "dmsnap.version": report.environment.dmsnap,
                "host": report.environment.machine,
            },
        )
        for result in results:
            _case(suite, result, classes[kernel])
    ET.indent(root, " ")
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def class_names(kernels: Iterable[str]) -> dict[str, str]:
    """Kernel → class name of its test cases, all different.

    Jenkins takes what is before the last dot as a package; the dots of a release (or of a path)
    would be split there, so the only dot is ours.
    """
    found: dict[str, str] = {}
    for kernel in kernels:
        name = base = "dmsnap." + printable(kernel).replace(".", "_")
        number = 2
        while name in found.values():  # two names that differ only in a dot
            name, number = f"{base}-{number}", number + 1
        found[kernel] = name
    return found


def _case(suite: ET.Element, result: Result, classname: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=classname,
        name=printable(result.scenario),
        time=_seconds(result),
    )
    facts = {
        "verdict": result.verdict,
        "kernel.release": result.release,
        "seed": str(result.seed),
        "steps": str(result.steps),
        "guests": str(result.attempts),
        "compared": ", ".join(f"{layer} {count}" for layer, count in result.compared.items()),
        **{f"not compared: {entry.layer}": entry.reason for entry in result.not_compared},
        **({"promise": "broken"} if result.promise_broken else {}),
        **{f"known defect: {each.name}": each.link for each in result.defects},
    }
    text, message = printable(details(result)), printable(headline(result) or result.verdict)
    if result.known:
        ET.SubElement(case, "skipped", message=printable(f"known: {result.known}")).text = text
    elif result.verdict in _FAILURES:
        ET.SubElement(case, "failure", type=result.verdict, message=message).text = text or message
    elif result.verdict in _ERRORS:
        ET.SubElement(case, "error", type=result.verdict, message=message).text = text or message
    elif result.verdict is Verdict.UNSUPPORTED:
        # GitLab shows the text, Jenkins the message.
        ET.SubElement(case, "skipped", message=message).text = text or message
    said = [printable(f"{name}: {value}") for name, value in facts.items()]
    if text and result.verdict in AGREED:
        said += ["", text]
    ET.SubElement(case, "system-out").text = "\n".join(said)
    if result.console:
        ET.SubElement(case, "system-err").text = printable(result.console)


def _counts(results: Sequence[Result]) -> dict[str, str]:
    def of(*verdicts: Verdict) -> str:
        return str(
            sum(
                (Verdict.UNSUPPORTED if result.known else result.verdict) in verdicts
                for result in results
            )
        )

    return {
        "tests": str(len(results)),
        "failures": of(*_FAILURES),
        "errors": of(*_ERRORS),
        "skipped": of(Verdict.UNSUPPORTED),
    }


def _seconds(*results: Result) -> str:
    return f"{sum(result.kernel_us + result.twin_us for result in results) / 1e6:.3f}"


def _properties(parent: ET.Element, values: dict[str, str]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=printable(name), value=printable(value))


class JunitReporter(FileReporter):
    """``junit.xml``."""

    def render(self, report: RunReport) -> bytes:
        """The XML document."""
        return render(report)
