"""What both sides saw in a run, from what it left beside its report, as parcels for a page.

The kernel's side is in the journals of the guests, the twin's beside them where it was not plainly
the same.  A run that was resumed left both of its earlier start, so its page is whole.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from harness.errors import DmsnapError
from harness.guest.recording import GUESTS_DIRECTORY, Recorded, files_of, kept_twins, recorded
from harness.report.html.layouts import Layouts, layouts
from harness.report.html.pack import Parcel, plain
from harness.trace.files import Trace
from harness.twin.profile import FAITHFUL
from harness.verdict.foresight import profile_of
from harness.verdict.result import RunReport, alike

DRAWN_MAX: Final = 300
"""Results whose exceptions are followed step by step with the twin."""


def parcels(
    report: RunReport, traces: Mapping[str, Trace], directory: Path, defects: str = FAITHFUL
) -> dict[str, Parcel]:
    """One for each scenario, in the order of the report.

    Args:
        report: the results.
        traces: the scenarios; a page cannot tell the steps of one that is not among them.
        directory: of the report.
        defects: what the twin was to do.
    """
    found: dict[str, Parcel] = {}
    for result in report.results:
        parcel = found.setdefault(result.scenario, Parcel(traces.get(result.scenario)))
        parcel.results[result.kernel] = result
    drawing = _Drawing(defects)
    for kernel in report.by_kernel():
        guests = files_of(directory / GUESTS_DIRECTORY, kernel)
        twins = kept_twins(guests)
        whole: set[str] = set()
        for each in recorded(guests, cut_short=True):
            name = each.scenario
            parcel = found.get(name, _NOBODY)
            if kernel not in parcel.results or (name in whole and not each.whole):
                continue
            if each.whole:
                whole.add(name)
            result = parcel.results[kernel]
            parcel.left[kernel] = parcel.view(each.observations)
            if alike(result):
                parcel.right[kernel] = parcel.left[kernel]
            elif name in twins:
                parcel.right[kernel] = parcel.view(twins[name].observations)
            if parcel.trace and not plain(result):
                parcel.draw(kernel, drawing.of(parcel.trace, each))
    return found


_NOBODY = Parcel(None)


class _Drawing:
    """Draws layouts, each once, as long as there are not too many."""

    def __init__(self, defects: str) -> None:
        self._defects = defects
        self._drawn: dict[tuple[str, int, str], tuple[Layouts, ...]] = {}

    def of(self, trace: Trace, recorded: Recorded) -> tuple[Layouts, ...]:
        """The layouts of a scenario in a guest with those facts; none, if they cannot be had."""
        key = trace.header.scenario, recorded.seed, repr(sorted(recorded.ready.probe.items()))
        if key not in self._drawn:
            self._drawn[key] = ()
            if len(self._drawn) <= DRAWN_MAX:
                with suppress(DmsnapError):  # a guest that answers like no kernel
                    profile = profile_of(recorded.ready.probe, self._defects)
                    self._drawn[key] = layouts(trace.steps, recorded.seed, profile)
        return self._drawn[key]
