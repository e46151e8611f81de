"""The results of a run as data, and the file with them.

One `Result` for each scenario and kernel.  Every renderer works from `RunReport` alone, so that a
report can be made again from ``results.json``.  Schema of that file: the structs below, with
``dmsnap-results`` as its version; a field may be added without a new version, and readers skip
unknown fields.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from harness.compare.diff import AGREED, Comparison, Divergence, Layer, LayerLeftOut, Verdict
from harness.errors import BadTrace
from harness.promises.check import BrokenPromise
from harness.trace.steps import encode
from harness.verdict.defects import KnownDefect

RESULTS_VERSION: Final = 1
RESULTS_KEY: Final = "dmsnap-results"
RESULTS_BYTES_MAX: Final = 256 << 20
CONSOLE_LINES_MAX: Final = 60
"""Lines of a lost guest's console that a result keeps."""


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one scenario on one kernel.

    Attributes:
        scenario, kernel: their names; ``kernel`` is the catalogue's name.
        release: from the guest's uname; empty if it never came up.
        seed: the seed that the scenario ran with.
        verdict, reason: the verdict, and its reason if the divergences do not show it.
        divergences: everything that differs in the first diverging step.
        later: how many later steps differ as well.
        compared: layer → values compared.
        not_compared: layers left out, with their reasons.
        kernel_promises, twin_promises: promises that this side broke.
        defects: known defects of kernels that struck, and explain what is broken or differs.
        steps: steps in the scenario.
        kernel_us, twin_us: time of its steps on each side, in microseconds.
        attempts: number of guests tried.
        orders: permitted orders of the twin that were compared, until one was the kernel's.
        console: the last lines of the console, if the guest was lost.
        before: earlier steps that touched the place of the first divergence, in words.
        names: device → how people know it.
        known: why it is not news that it differs, by the baseline; empty if it is.
        trace: the file with the trace of what differs.
        again: commands that repeat it.
    """

    scenario: str
    kernel: str
    release: str = ""
    seed: int = 0
    verdict: Verdict
    reason: str = ""
    divergences: tuple[Divergence, ...] = ()
    later: int = 0
    compared: dict[Layer, int] = {}
    not_compared: tuple[LayerLeftOut, ...] = ()
    kernel_promises: tuple[BrokenPromise, ...] = ()
    twin_promises: tuple[BrokenPromise, ...] = ()
    defects: tuple[KnownDefect, ...] = ()
    steps: int = 0
    kernel_us: int = 0
    twin_us: int = 0
    attempts: int = 1
    orders: int = 1
    console: str = ""
    before: tuple[str, ...] = ()
    names: dict[str, str] = {}
    known: str = ""
    trace: str = ""
    again: tuple[str, ...] = ()

    @property
    def promise_broken(self) -> bool:
        """True if either side broke a promise of the documentation."""
        return bool(self.kernel_promises or self.twin_promises)

    @property
    def by_other_order(self) -> bool:
        """True if it is *same* in a permitted order that is not the twin's first."""
        return self.verdict is Verdict.SAME and self.orders > 1

    def compared_with(self, comparison: Comparison) -> "Result":
        """This result with the comparison of the two sides; the caller sets the verdict."""
        return msgspec.structs.replace(
            self,
            divergences=comparison.divergences,
            later=comparison.later,
            compared=comparison.compared,
            not_compared=comparison.not_compared,
            steps=comparison.steps,
        )


def alike(result: Result) -> bool:
    """Whether both sides saw the same, so that what one of them saw tells all."""
    return result.verdict is Verdict.SAME and not result.not_compared


class Environment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and how a run was made.

    Attributes:
        dmsnap: its version.
        command: the arguments it was started with.
        machine: the host (``uname -srm``).
        python: version of the interpreter.
        started: time of the start, ISO 8601 with its zone; empty if unknown.
        seconds: how long the run took.
        jobs: guests that ran at a time, at most.
        resumed: results that were taken over from an earlier start (``--resume``).
        kernels: name → what the kernel's own uname gave, for kernels that came up.
        guests: name → where it lived: uml, qemu, vagrant, here.
        instead: name → in place of which kernel it ran, and why.
        built: name → what dmsnap built it of, with digests of files that were laid over.
        cage: what kept the guests of this host from it: namespaces, landlock, or none with the
            reason; empty if there were no such guests.
    """

    dmsnap: str = ""
    command: tuple[str, ...] = ()
    machine: str = ""
    python: str = ""
    started: str = ""
    seconds: float = 0.0
    jobs: int = 1
    resumed: int = 0
    kernels: dict[str, str] = {}
    guests: dict[str, str] = {}
    instead: dict[str, str] = {}
    built: dict[str, str] = {}
    cage: str = ""


class Known(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run against a baseline (`harness.verdict.baseline`), each entry as a line.

    Attributes:
        new: what differs, and the baseline does not know it.
        known: what it knows, and still differs.
        gone: what it knows, and differs no more.
        expired: what it knew until a day that is past, and still differs; it is new, too.
    """

    new: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()


_TURN: Final = re.compile(r" #\d+\Z")


def turn(scenario: str, number: int) -> str:
    """The name of a scenario that is run several times."""
    return f"{scenario} #{number}"


def without_turn(scenario: str) -> str:
    """The name without the number of its turn."""
    return _TURN.sub("", scenario)


class RunReport(Struct, frozen=True, kw_only=True):
    """A whole run; ``known`` if it was held against a baseline."""

    schema: int = msgspec.field(default=RESULTS_VERSION, name=RESULTS_KEY)
    environment: Environment = Environment()
    results: tuple[Result, ...] = ()
    known: Known | msgspec.UnsetType = msgspec.UNSET

    @property
    def nothing_differs(self) -> bool:
        """True if both sides agree in some results, or differ as is known; and all others are
        *unsupported*.
        """
        verdicts = {Verdict.SAME if result.known else result.verdict for result in self.results} - {
            Verdict.UNSUPPORTED
        }
        return bool(verdicts) and verdicts <= AGREED

    @property
    def judged(self) -> bool:
        """True if there is a verdict on a kernel at all: same, diverged, lost."""
        return any(
            result.verdict not in (Verdict.UNSUPPORTED, Verdict.BROKEN) for result in self.results
        )

    def turns(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(scenario, kernel) → turns that agreed, and all of them; of what ran more than once."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for result in self.results:
            name = without_turn(result.scenario)
            if name != result.scenario:
                agreed, all_of_them = found.get((name, result.kernel), (0, 0))
                found[name, result.kernel] = (
                    agreed + (result.verdict in AGREED),
                    all_of_them + 1,
                )
        return found

    def count(self, verdict: Verdict) -> int:
        """How many results carry ``verdict``."""
        return sum(result.verdict is verdict for result in self.results)

    def by_kernel(self) -> dict[str, list[Result]]:
        """Results by kernel, in the order of their first appearance."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.kernel, []).append(result)
        return found

    def guest(self, kernel: str) -> str:
        """Where ``kernel`` ran; empty in reports older than this field."""
        return self.environment.guests.get(kernel, "")

    def release(self, kernel: str) -> str:
        """The release of ``kernel``, from uname in this run; empty if it never came up."""
        return self.environment.kernels.get(kernel) or next(
            (r.release for r in self.results if r.kernel == kernel and r.release), ""
        )


class _AnyReport(Struct, frozen=True):
    """Only the version; the rest takes no memory."""

    version: Any = msgspec.field(default=None, name=RESULTS_KEY)


_any_report = msgspec.json.Decoder(_AnyReport)


def dumps(report: RunReport) -> bytes:
    """The text of ``results.json``."""
    return msgspec.json.format(encode(report), indent=1) + b"\n"


def loads(data: bytes) -> RunReport:
    """The report in ``data``.

    Raises:
        BadTrace: not a results file, or one of another version.
    """
    try:
        try:
            version = _any_report.decode(data).version
        except msgspec.ValidationError:  # valid JSON, but not an object
            version = None
        if version is not None and version != RESULTS_VERSION:
            raise BadTrace(
                f"version {str(version)[:40]} of a results file cannot be read; this "
                f"dmsnap reads version {RESULTS_VERSION}",
                field=f"$.{RESULTS_KEY}",
            )
        if version is None:
            raise BadTrace(
                f"not a results file: {RESULTS_KEY!r} is missing", field=f"$.{RESULTS_KEY}"
            )
        return msgspec.json.decode(data, type=RunReport)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise BadTrace(f"not a results file: {fault}") from None


def console_tail(text: str) -> str:
    """The last lines of a console, as kept in a result."""
    return "\n".join(text.splitlines()[-CONSOLE_LINES_MAX:])
