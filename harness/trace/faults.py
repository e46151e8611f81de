"""Faults by count: which requests of a disk fail and how, and the log of its requests.

The disks of both sides that can fail (`harness.trace.steps.Disk`, ``can_fail``) consult the same
plan about every request that reaches them, in order of arrival, and keep the same log.  What a
request is, is up to the side: a kernel's block layer sends requests, the twin's disk gets them as
bios.

A fault says: of the requests of one kind that touch a range, strike ``count``, beginning with the
``nth``, or all that follow.  Each fault of a disk counts for itself, every request that matches,
whether another fault strikes it or not.

What a stroke does (`How`):

- ``stalls``: the disk stops answering at this request, which is done, and continues after a while.
  Its answer is late, and what arrives after it waits;
- ``error``: the request fails with EIO, and nothing is read or written;
- ``dies``: the disk stops answering and is given up.  This request is lost, and all later ones
  fail before they reach the disk, until it is healed.

If several faults strike one request, the worst applies: the last in this list.
"""

from dataclasses import dataclass
from typing import Final, Literal

Op = Literal["read", "write", "flush", "discard"]
How = Literal["error", "stalls", "dies"]
FOR_EVER: Final = 0
"""``count`` of a fault that lasts until it is healed."""
OUTAGE_MS: Final = 20
"""How long a stalled disk does not answer."""
MARKS: Final[dict[How, str]] = {"error": "EIO", "stalls": "late", "dies": "lost"}
"""How the log marks a request that was struck."""
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

        A flush has no location; its range is ignored.
        """
        self._faults.append(_Fault(op, sector, sector + sectors, nth, count, how))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def strikes(self, op: Op, sector: int, sectors: int) -> How | None:
        """Count a request, and return the fault that strikes it, if any."""
        # Every fault must count the request, so none is skipped.
        struck = [fault.how for fault in self._faults if fault.strikes(op, sector, sectors)]
        return max(struck, key=_WORSE.index, default=None)


def request_line(
    op: Op, sector: int, sectors: int, *, fua: bool = False, struck: How | None = None
) -> str:
    """A request as written in the log: ``write 16+8 fua``, ``flush``, ``read 0+8 EIO``."""
    words: list[str] = [op]
    if op != "flush":
        words.append(f"{sector}+{sectors}")
    if fua:
        words.append("fua")
    if struck:
        words.append(MARKS[struck])
    return " ".join(words)
