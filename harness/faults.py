"""Faults by count: which requests of a disk fail, and how its requests are written down.

The disks of both sides that can fail (`harness.steps.Disk`, ``can_fail``) ask the same plan about
every request that reaches them, in the order of arrival, and keep the same log of them.  What a
request is, is for a side to find out: a kernel's block layer sends them, the twin's disk is given
them as bios.

A fault says: of the requests of one kind that touch a range, the ``nth`` and those after it fail,
``count`` of them, or all that follow.  Faults of one disk count on their own, each of them every
request that matches, whether another one fails it or not.
"""

from dataclasses import dataclass
from typing import Final, Literal

Op = Literal["read", "write", "flush", "discard"]
FOR_EVER: Final = 0
"""``count`` of a fault that lasts until it is healed."""


@dataclass(slots=True)
class _Fault:
    """One fault and what it has counted: ``seen`` requests that matched."""

    op: Op
    first: int
    end: int
    nth: int
    count: int
    seen: int = 0

    def strikes(self, op: Op, sector: int, sectors: int) -> bool:
        if op != self.op or (op != "flush"
                             and (sector >= self.end or sector + sectors <= self.first)):
            return False
        self.seen += 1
        return self.seen >= self.nth and (
            self.count == FOR_EVER or self.seen < self.nth + self.count)


class FaultPlan:
    """The faults of one disk."""

    __slots__ = ("_faults",)

    def __init__(self) -> None:
        self._faults: list[_Fault] = []

    def add(self, op: Op, sector: int, sectors: int, *, nth: int = 1, count: int = 1) -> None:
        """Let the ``nth`` request from now on fail, counted from 1, and ``count`` in all.

        A flush has no place: its range is not looked at.
        """
        self._faults.append(_Fault(op, sector, sector + sectors, nth, count))

    def heal(self) -> None:
        """Nothing fails any more."""
        self._faults.clear()

    def strikes(self, op: Op, sector: int, sectors: int) -> bool:
        """Count a request, and say whether it fails."""
        failed = False
        for fault in self._faults:
            # Every fault counts, so none may be left unasked.
            failed |= fault.strikes(op, sector, sectors)
        return failed


def request_line(op: Op, sector: int, sectors: int, *, fua: bool = False, failed: bool = False
                 ) -> str:
    """A request as the log has it: ``write 16+8 fua``, ``flush``, ``read 0+8 EIO``."""
    words: list[str] = [op]
    if op != "flush":
        words.append(f"{sector}+{sectors}")
    if fua:
        words.append("fua")
    if failed:
        words.append("EIO")
    return " ".join(words)
