"""The data of a page, as small as it goes: each scenario a parcel that is opened when it is looked
at.

A parcel is JSON, deflated, in base64: steps once, observations once however many kernels and sides
made the same, and of each result what there is to say.  What is in it, `Parcel` says; the page
reads it with ``page/parcels.js``.  The index, which the matrix is drawn from, is packed alike.

Strangers' strings are printable from here on (`harness.report.gate`), and none is markup, for
base64 has no ``<``.
"""

import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from harness.compare.diff import AGREED, Verdict
from harness.report.gate import printable_json
from harness.report.html.layouts import Layouts
from harness.trace.files import Trace
from harness.trace.observations import Observation
from harness.trace.steps import encode
from harness.verdict.result import Result

PAGE_BYTES_MAX: Final = 18 << 20
"""All parcels together; beyond, those that are plainly *same* hold less."""
_LEVEL: Final = 6
_KEPT_ALWAYS: Final = ("step", "error", "text", "state")
"""Of an observation, where there is no room for all of it."""


def packed(text: bytes) -> str:
    """JSON as a page carries it."""
    clean = printable_json(text.decode("utf-8", "replace")).encode()
    return b64encode(zlib.compress(clean, _LEVEL)).decode("ascii")


def plain(result: Result) -> bool:
    """Whether a result is *same*, and there is nothing else to say."""
    return result.verdict is Verdict.SAME and not result.promise_broken and result.orders < 2


@dataclass(slots=True)
class Parcel:
    """What a page holds of one scenario.

    Attributes:
        trace: its steps; None if they are not known any more.
        results: by kernel; ``left`` and ``right`` say which view each side is, ``layouts`` which
            of those belongs to it.
    """

    trace: Trace | None
    results: dict[str, Result] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    _pool: dict[bytes, int] = field(default_factory=dict)
    _views: dict[tuple[int, ...], int] = field(default_factory=dict)
    _layouts: dict[bytes, int] = field(default_factory=dict)
    _layouts_of: dict[str, int] = field(default_factory=dict)

    def view(self, seen: Iterable[Observation]) -> int:
        """Keep what one side saw; returns its number, which equal ones share."""
        view = tuple(
            self._pool.setdefault(
                encode(msgspec.structs.replace(each, elapsed_us=0)), len(self._pool)
            )
            for each in seen
        )
        return self._views.setdefault(view, len(self._views))

    def draw(self, kernel: str, layouts: Sequence[Layouts]) -> None:
        """Keep the layouts that belong to a result."""
        text = encode(layouts)
        self._layouts_of[kernel] = self._layouts.setdefault(text, len(self._layouts))

    @property
    def plain(self) -> bool:
        """Whether all of its results are."""
        return all(map(plain, self.results.values()))

    def json(self, *, whole: bool = True) -> bytes:
        """The parcel; without ``whole``, neither contents, nor events, log lines and requests."""
        pool = list(self._pool) if whole else [_less(text) for text in self._pool]
        header: Any = self.trace.header if self.trace else {}
        steps = self.trace.steps if self.trace else ()
        results = [
            {
                "left": self.left.get(kernel),
                "right": self.right.get(kernel),
                "layouts": self._layouts_of.get(kernel),
                "result": result,
            }
            for kernel, result in self.results.items()
        ]
        return b"".join(
            (
                b'{"header":',
                encode(header),
                # A seed has 63 bits, and a number of a browser 53.
                b',"seed":',
                encode(str(self.trace.header.seed if self.trace else 0)),
                b',"steps":',
                encode(steps),
                b',"pool":[',
                b",".join(pool),
                b'],"views":',
                encode(list(self._views)),
                b',"layouts":[',
                b",".join(self._layouts),
                b'],"whole":',
                encode(whole),
                b',"results":',
                encode(results),
                b"}",
            )
        )


def _less(text: bytes) -> bytes:
    seen = msgspec.json.decode(text)
    return encode({name: seen[name] for name in _KEPT_ALWAYS if name in seen})


@dataclass(frozen=True, slots=True)
class Packed:
    """All parcels of a page.

    Attributes:
        parcels: in the order of the scenarios; empty where there was no room.
        less: how many hold less than there is; ``none``: how many hold nothing.
    """

    parcels: tuple[str, ...]
    less: int
    none: int


def pack(parcels: Mapping[str, Parcel], room: int = PAGE_BYTES_MAX) -> Packed:
    """Pack parcels: whole where anything is to be said, the others as far as there is room."""
    found = dict.fromkeys(parcels, "")
    less = none = 0
    for name in sorted(parcels, key=lambda name: parcels[name].plain):  # stable
        parcel = parcels[name]
        text = packed(parcel.json())
        if len(text) > room:
            less += 1
            text = packed(parcel.json(whole=False))
        if len(text) > room:
            less, none, text = less - 1, none + 1, ""
        room -= len(text)
        found[name] = text
    return Packed(tuple(found.values()), less, none)


def cell(result: Result, headline: str) -> list[Any]:
    """What the matrix says of one result: verdict, marks, layers that differ, and a line.

    Marks: 1 a promise is broken, 2 by another permitted order, 4 the two sides agree.
    """
    marks = result.promise_broken * 1 + result.by_other_order * 2 + (result.verdict in AGREED) * 4
    layers = list(dict.fromkeys(str(each.layer) for each in result.divergences))
    found: list[Any] = [list(Verdict).index(result.verdict), marks, layers, headline]
    while found and not found[-1]:
        found.pop()
    return found
