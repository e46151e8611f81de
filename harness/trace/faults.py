"""Faults by count: what befalls which requests of a disk, and how its requests are written down.

The disks of both sides that can fail (`harness.trace.steps.Disk`, ``can_fail``) ask the same plan
about every request that reaches them, in the order of arrival, and keep the same log of them.  What
a request is, is for a side to find out: a kernel's block layer sends them, the twin's disk is given
them as bios.

A fault says: of the requests of one kind that touch a range, the ``nth`` and those after it are
struck, ``count`` of them, or all that follow.  Faults of one disk count on their own, each of them
every request that matches, whether another one strikes it or not.

What a stroke does (`How`):

- ``stalls``: the disk stops answering with this request, which is done, and goes on after a while.
  Its answer is late, and what arrives after it waits;
- ``error``: the request fails with EIO, and nothing is read or written;
- ``dies``: the disk stops answering and is given up.  This request is lost, and all that follow
  fail before they reach the disk, until it is healed.

Where several faults strike one request, the worst happens, which is the last in this list.
"""

from dataclasses import dataclass
from typing import Final, Literal

Op = Literal["read", "write", "flush", "discard"]
How = Literal["error", "stalls", "dies"]
FOR_EVER: Final = 0
"""``count`` of a fault that lasts until it is healed."""
OUTAGE_MS: Final = 20
"""How long a disk that stalls does not answer."""
MARKS: Final[dict[How, str]] = {"error": "EIO", "stalls": "late", "dies": "lost"}
"""What the log says of a request that was struck."""
_WORSE: Final = ("stalls", "error", "dies")


@dataclass(slots=True)
class _Fault:
    """One fault and what it has counted: ``seen`` requests that matched."""

    op: Op
    first: int
    end: int
    nth: int
    count: int
    how: How
    seen: int = 0

    def strikes(self, op: Op, sector: int, sectors: int) -> bool:
        if op != self.op or (
            op != "flush" and (sector >= self.end or sector + sectors <= self.first)
        ):
            return False
        self.seen += 1
        return self.seen >= self.nth and (
            self.count == FOR_EVER or self.seen < self.nth + self.count
        )


class FaultPlan:
    """The faults of one disk."""

    __slots__ = ("_faults",)

    def __init__(self) -> None:
        self._faults: list[_Fault] = []

    def add(
        self, op: Op, sector: int, sectors: int, *, nth: int = 1, count: int = 1, how: How = "error"
    ) -> None:
        """Strike the ``nth`` request from now on, counted from 1, and ``count`` in all.

        A flush has no place: its range is not looked at.
        """
        self._faults.append(_Fault(op, sector, sector + sectors, nth, count, how))

    def heal(self) -> None:
        """Nothing is struck any more."""
        self._faults.clear()

    def strikes(self, op: Op, sector: int, sectors: int) -> How | None:
        """Count a request, and say what befalls it, if anything."""
        # Every fault counts, so none may be left unasked.
        struck = [fault.how for fault in self._faults if fault.strikes(op, sector, sectors)]
        return max(struck, key=_WORSE.index, default=None)


def request_line(
    op: Op, sector: int, sectors: int, *, fua: bool = False, struck: How | None = None
) -> str:
    """A request as the log has it: ``write 16+8 fua``, ``flush``, ``read 0+8 EIO``."""
    words: list[str] = [op]
    if op != "flush":
        words.append(f"{sector}+{sectors}")
    if fua:
        words.append("fua")
    if struck:
        words.append(MARKS[struck])
    return " ".join(words)
