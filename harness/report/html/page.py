"""``index.html``: one file that is opened from disk, and asks nobody for anything.

Everything is in it: data (`harness.report.html.pack`), style and program (``page/``, in the order
of `_SCRIPTS`).  Its policy (Content-Security-Policy) allows that one style and that one program, by
their digests, and no address at all; so a string that came to be markup all the same could neither
run nor call.

The template says what can be said without a program: verdicts, and every result that is not the
same.  What is drawn is drawn from the data when it is looked at.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.compare.diff import AGREED, Layer, Verdict
from harness.compare.place import SIDES
from harness.report.gate import printable
from harness.report.html.evidence import parcels
from harness.report.html.pack import Packed, Parcel, cell, pack, packed
from harness.report.reporter import FileReporter
from harness.report.words import compared, headline, left_out, verdicts
from harness.scenarios.registry import catalogue
from harness.trace.files import Trace
from harness.trace.steps import encode
from harness.twin.profile import FAITHFUL
from harness.verdict.result import Result, RunReport

PAGE_NAME: Final = "index.html"
_HOME: Final = Path(__file__).with_name("page")
_SCRIPTS: Final = (
    "parcels.js",
    "formats.js",
    "words.js",
    "pictures.js",
    "bytes.js",
    "matrix.js",
    "scenario.js",
    "main.js",
)
_LISTED_MAX: Final = 500
"""Results that the page lists without its program."""


class HtmlReporter(FileReporter):
    """``index.html``, from the results and from what the run left beside them."""

    def __init__(self, path: Path, traces: Sequence[Trace], defects: str = FAITHFUL) -> None:
        super().__init__(path)
        self._traces = {trace.header.scenario: trace for trace in traces}
        self._defects = defects

    def render(self, report: RunReport) -> bytes:
        """The page."""
        found = parcels(report, self._traces, self.path.parent, self._defects)
        return render(report, found)


def render(
    report: RunReport,
    found: Mapping[str, Parcel],
    *,
    sides: tuple[str, str] = SIDES,
    title: str = "dm-snapshot: a kernel and its twin",
    about: Sequence[str] = (),
) -> bytes:
    """The page.

    Args:
        report: the results.
        found: what there is to see of each scenario, in the order of the matrix.
        sides: what left and right are called.
        title: of the page.
        about: lines that say what it shows, in front of all others.
    """
    together = pack(found)
    style = (_HOME / "style.css").read_text(encoding="utf-8")
    script = "\n".join((_HOME / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    page: str = _template().render(
        title=title,
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
        report=report,
        sides=sides,
        summary=verdicts(report),
        lines=[*about, *_lines(report, together)],
        unlike=[each for each in report.results if each.verdict not in AGREED][:_LISTED_MAX],
        headline=headline,
        index=packed(encode(_index(report, found, sides))),
        parcels=together.parcels,
    )
    return page.encode()


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(_HOME),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever is said passes the gate, wherever the template says it.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return environment.get_template("index.html.j2")


def _digest(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode("ascii")


def _lines(report: RunReport, together: Packed) -> list[str]:
    """What there is to say of the run as a whole."""
    lines = [
        f"{kernel}: {report.guest(kernel) or 'guest'}, release "
        f"{report.release(kernel) or 'unknown (never came up)'}"
        for kernel in report.by_kernel()
    ]
    lines += report.environment.instead.values()
    lines.append(f"values compared: {compared(report)}")
    lines += [f"not compared: {line}" for line in left_out(report)]
    if report.environment.resumed:
        lines.append(f"{report.environment.resumed} results are of an earlier start of this run")
    if together.less or together.none:
        lines.append(
            f"to keep this file small, {together.less} scenarios that are the same show no "
            f"contents, events, log lines and requests, and {together.none} no steps"
        )
    return lines


def _index(
    report: RunReport, found: Mapping[str, Parcel], sides: tuple[str, str]
) -> dict[str, Any]:
    """What the matrix is drawn from."""
    known = catalogue()
    abouts: dict[str, int] = {}
    themes: dict[str, int] = {}
    kernels = list(report.by_kernel())

    def row(name: str, parcel: Parcel) -> list[Any]:
        theme = known[name].theme if name in known else "other"
        about = parcel.trace.header.about if parcel.trace else ""
        return [
            name,
            themes.setdefault(theme, len(themes)),
            abouts.setdefault(about, len(abouts)),
            [_cell(parcel.results.get(kernel)) for kernel in kernels],
        ]

    rows = [row(name, parcel) for name, parcel in found.items()]
    return {
        "sides": sides,
        "kernels": kernels,
        "layers": list(Layer),
        "verdicts": list(Verdict),
        "themes": list(themes),
        "abouts": list(abouts),
        "scenarios": rows,
    }


def _cell(result: Result | None) -> list[Any] | None:
    return None if result is None else cell(result, headline(result))
