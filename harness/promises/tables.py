"""Tables of mapped devices, for the promise model: what a line maps, and to where."""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct, structs

from harness.promises.pieces import Snapshot
from harness.trace import steps as do

CHUNKS_MAX: Final = 1 << 12
"""A striped line with more chunks is not followed."""


class Part(Struct, frozen=True):
    """Sectors [start, end) of a device are those of ``device`` from its sector ``first``."""

    start: int
    end: int
    device: str
    first: int

    @property
    def shift(self) -> int:
        """How far the sectors are shifted below."""
        return self.first - self.start


class Line(Struct, frozen=True):
    """A line of a table; ``snapshot`` is the one that a snapshot or snapshot-merge line shows."""

    start: int
    length: int
    type: str
    words: tuple[str, ...]  # a device is written {name}
    snapshot: Snapshot | None = None

    @property
    def end(self) -> int:
        """The sector after its last one."""
        return self.start + self.length

    def device(self, index: int) -> str:
        """The device that argument ``index`` names; empty if it is not a device."""
        match = do.REFERENCE.fullmatch(self.words[index]) if index < len(self.words) else None
        return match[1] if match else ""

    def showing(self, snapshot: Snapshot | None) -> "Line":
        """The same line, with the snapshot that it shows."""
        return structs.replace(self, snapshot=snapshot)

    def renamed(self, old: str, new: str) -> "Line":
        """The same line once device ``old`` is called ``new``."""
        words = (f"{{{new}}}" if word == f"{{{old}}}" else word for word in self.words)
        return structs.replace(self, words=tuple(words))

    def parts(self, start: int, end: int) -> list[Part]:
        """Where sectors [start, end) of the line are in other devices, unchanged.

        Empty if the line is neither straight, nor striped in a way that can be followed.
        """
        if self._straight:
            first = int(self.words[1]) + start - self.start
            return [Part(start, end, self.device(0), first)]
        if self._striped:
            return list(self._stripes(start, end))
        return []

    @property
    def _straight(self) -> bool:
        """The line maps its sectors to one device: linear, delay with one device, or dust."""
        words = self.words
        if len(words) < 2 or not words[1].isdecimal():
            return False
        if self.type == "delay":  # device, sector and delay, for all I/O or for each kind
            return all(words[at : at + 2] == words[:2] for at in range(0, len(words), 3))
        return (self.type, len(words)) in (("linear", 2), ("dust", 3))

    @property
    def _striped(self) -> bool:
        """The line is striped, with few enough chunks to follow."""
        words = self.words
        numbers = (*words[:2], *words[3::2])
        if self.type != "striped" or len(words) < 4 or not all(map(str.isdecimal, numbers)):
            return False
        stripes, chunk = int(words[0]), int(words[1])
        return stripes * 2 + 2 == len(words) and chunk > 0 and self.length <= CHUNKS_MAX * chunk

    def _stripes(self, start: int, end: int) -> Iterator[Part]:
        """Chunks alternate between stripes (words: stripes, chunk, then device and sector)."""
        stripes, chunk = int(self.words[0]), int(self.words[1])
        at = start
        while at < end:
            number, offset = divmod(at - self.start, chunk)
            row, stripe = divmod(number, stripes)
            stop = min(end, at + chunk - offset)
            first = int(self.words[3 + 2 * stripe]) + row * chunk + offset
            yield Part(at, stop, self.device(2 + 2 * stripe), first)
            at = stop


class Mapped:
    """A mapped device: its tables; ``opaque`` if a failed resume leaves open which is live."""

    def __init__(self) -> None:
        self.live: list[Line] = []
        self.inactive: list[Line] = []
        self.opaque = False

    @property
    def lines(self) -> list[Line]:
        """The lines of both tables."""
        return self.live + self.inactive

    def take_live(self) -> list[Line]:
        """Take away and return its live table."""
        lines, self.live = self.live, []
        return lines

    def take_inactive(self) -> list[Line]:
        """Take away and return its inactive table."""
        lines, self.inactive = self.inactive, []
        return lines
