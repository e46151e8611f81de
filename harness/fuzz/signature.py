"""What a find is: the verdict, and the reason for it, without the numbers of one trace.

Two traces that differ for the same reason have one signature.  So names, numbers and places are
left out, as far as a shorter trace changes them, and what tells one reason from another stays: the
verdict, the layer, the kind of step, what differs, and how.  A kernel that died tells the function
in which it did.
"""

import re
from typing import Final

from msgspec import Struct

from harness.compare.diff import Divergence, Layer, Verdict
from harness.verdict.result import Result

_NAME: Final = re.compile(r"\{[^{}]*\}")
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")
_STAMP: Final = re.compile(
    r"sector (?P<sector>\d+) of (?P<device>.*), generation (?P<generation>\d+)", re.DOTALL
)
"""As `harness.trace.pattern.origin_of` has it."""
_PLACE_OF_STEP: Final = re.compile(r"step \d+ \([^()]*\), line \d+")
_DIED_IN: Final = (
    re.compile(r"\bR?IP:? (?:[0-9a-f]{4}:)?(?:\[<[0-9a-f]+>\] )?([A-Za-z_][\w.]*)\+0x"),
    re.compile(r"kernel BUG at [^\n]*?([A-Za-z_][\w-]*\.[ch]):\d+"),
    re.compile(r"(?:\[<[0-9a-f]+>\]|\]) +([A-Za-z_][\w.]*)\+0x"),
)
"""Where a console says which function a kernel died in, the best evidence first."""
_NOT_THE_CAUSE: Final = re.compile(
    r"^(?:show_stack|dump_stack|panic|die|oops_end|relay_signal|relay_signal_intr|sig_handler|"
    r"sig_handler_common|segv_handler|segv|bad_segv|hard_handler|__die|print_\w+|vpanic|"
    r"um_\w*|timer_real_alarm_handler|unblock_signals\w*|__warn\w*|report_bug|mutex_\w+)(?:\.|$)"
)
"""Functions of the dying itself."""
_SPLIT_OFF: Final = re.compile(r"\.(?:constprop|isra|part|cold|llvm)\b.*")
"""Behind the name of a part that the compiler has split off."""


class Signature(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a trace is a find.

    Attributes:
        verdict: of the run; *nondeterministic* counts as *diverged*, since how many orders there
            are is a matter of length.
        layer: in which the first difference is; ``promise`` where a promise is broken and the
            sides agree; empty where nothing was compared.
        step: kind of step (``write``).
        what: field that differs, without its device (``status``).
        how: how the two sides differ there: words that they do not share, each number a ``#``.
        function: where the kernel died.
    """

    verdict: Verdict
    layer: str = ""
    step: str = ""
    what: str = ""
    how: str = ""
    function: str = ""

    def __str__(self) -> str:
        parts = (
            str(self.verdict),
            self.layer,
            f"in {self.step}" if self.step else "",
            self.what,
            self.how,
            f"in {self.function}()" if self.function else "",
        )
        return ", ".join(part for part in parts if part)


def signature_of(result: Result) -> Signature | None:
    """Why ``result`` is a find; None if it is none: the sides agree and no promise is broken."""
    if result.verdict is Verdict.UNSUPPORTED:
        return None
    if result.divergences:
        return _differs(Verdict.DIVERGED, result.divergences[0])
    if result.verdict is Verdict.SAME:
        promises = (*result.kernel_promises, *result.twin_promises)
        if not promises:
            return None
        return Signature(verdict=result.verdict, layer="promise", what=_plain(promises[0].rule))
    return Signature(
        verdict=result.verdict, how=_reason(result.reason), function=died_in(result.console)
    )


def died_in(console: str) -> str:
    """The function that a console says its kernel died in; empty if it does not say."""
    for pattern in _DIED_IN:
        for found in pattern.finditer(console):
            if not _NOT_THE_CAUSE.match(found[1]):
                return _SPLIT_OFF.sub("", found[1])
    return ""


def _differs(verdict: Verdict, divergence: Divergence) -> Signature:
    what = divergence.what
    if divergence.layer in (Layer.UEVENT, Layer.LOG, Layer.REQUESTS):
        what = what.partition(" ")[0]
    else:
        what = what.partition(" of ")[0]
    place = divergence.place
    if place is None:
        how = " / ".join(_unlike(divergence.left, divergence.right))
    else:
        how = _kind_of_place(place.store) if place.store else _kinds(place.left, place.right)
    return Signature(
        verdict=verdict,
        layer=str(divergence.layer),
        step=divergence.verb.partition(" ")[0],
        what=what,
        how=how,
    )


def _plain(text: str) -> str:
    """A text without names and numbers."""
    return _NUMBER.sub("#", _NAME.sub("{}", text))


def _reason(text: str) -> str:
    return _plain(_PLACE_OF_STEP.sub("a step", text.partition("\n")[0]))


def _unlike(left: str, right: str) -> tuple[str, str]:
    """The first words in which two texts differ.

    What counts is the word and not where it stands: a shorter table has fewer before it.
    """
    ours, theirs = left.split(), right.split()
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            return _plain(one), _plain(other)
    longer = ours if len(ours) > len(theirs) else theirs
    rest = _plain(longer[min(len(ours), len(theirs))]) if len(ours) != len(theirs) else ""
    return (rest, "nothing") if longer is ours else ("nothing", rest)


def _kind_of_place(store: str) -> str:
    """What lies at a byte of a store, without its number (`harness.store.describe`)."""
    return _plain(store.split("\n", maxsplit=1)[0].partition(":")[0])


def _kinds(left: str, right: str) -> str:
    """Where a sector came from on each side, as far as a shorter trace keeps it.

    Of two stamps: in which of device, sector and generation they are not the same.
    """
    both = tuple(map(_STAMP.fullmatch, (left, right)))
    if both[0] and both[1]:
        return "another " + ", ".join(
            part for part, value in both[0].groupdict().items() if both[1][part] != value
        )
    return " / ".join(
        "stamp" if stamp else _plain(text) for stamp, text in zip(both, (left, right), strict=True)
    )
