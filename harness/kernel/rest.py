"""When the merges of a scenario have come to rest, and when its stripes' events are raised.

A merge continues in the background after the step that started it, and nothing signals its end.
What is observed of a step must not depend on the speed of that, so each step waits until no merge
makes progress: it has finished, failed, stopped, or is stuck.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

_DISKSTATS: Final = Path("/proc/diskstats")
_LOADAVG: Final = Path("/proc/loadavg")
_POLLS: Final = 5
_POLLS_FILES: Final = 600
"""If disks are files, a copy waits for the host's disk."""
_POLL_S: Final = 0.005
_EVENT_S: Final = 0.001
_BUSY_POLLS_MAX: Final = 200
"""If something can run all this time, it is not the merge."""


def sectors_moved() -> int:
    """Sectors that all disks have read and written."""
    return total_sectors(_DISKSTATS.read_text())


def workers_runnable() -> int:
    """Other runnable tasks of this machine."""
    return runnable(_LOADAVG.read_text()) - 1


def let_events_come(
    statuses: Callable[[], Sequence[str]],
    *,
    workers: Callable[[], int] = workers_runnable,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Let a worker raise the event of a stripe that has failed (dm-stripe.c, ``trigger_event``).

    The letter in the status line appears before the event.  Runnable tasks run while this process
    sleeps.
    """
    if any(stripe_failed(line) for status in statuses() for line in status.splitlines()):
        for _ in range(_BUSY_POLLS_MAX):
            pause(_EVENT_S)
            if not workers():
                return


def stripe_failed(line: str) -> bool:
    """Whether a status line shows a striped target with a failed device."""
    words = line.split()
    return words[2:3] == ["striped"] and "D" in words[-1]


class Merges:
    """The merges of a scenario, which proceed by themselves.

    Args:
        on_files: disks are files of a host, whose disk may be slow.
        moved, workers, pause: how the machine is observed; a test plays one.
    """

    def __init__(
        self,
        *,
        on_files: bool = False,
        moved: Callable[[], int] = sectors_moved,
        workers: Callable[[], int] = workers_runnable,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._polls = _POLLS_FILES if on_files else _POLLS
        self._moved = moved
        self._workers = workers
        self._pause = pause
        self.forget()

    def forget(self) -> None:
        """The scenario is over."""
        self._any = False
        self._stuck = False
        self._over: list[str] = []

    def may_exist(self) -> None:
        """A table with a merge has been loaded."""
        self._any = True

    def may_start(self) -> None:
        """A device has been resumed: nothing else restarts a stopped merge."""
        self._stuck = False

    def rest(self, statuses: Callable[[], Sequence[str]], served: Callable[[], object]) -> None:
        """Wait until no merge makes progress.

        A merge whose numbers do not say that it is over is at rest when neither they, nor what the
        disks have moved, nor ``served`` have changed while this process slept several times: the
        guest has one CPU, and whatever is runnable runs.  One whose numbers have just reached the
        end can still fail while its exceptions are being forgotten.  A runnable worker counts as
        progress, but only for a limited time: a machine that others keep busy never rests.

        Args:
            statuses: the status lines of every device that is not suspended.
            served: a value that changes with each request to a disk that counts them.
        """
        polls, self._stuck = 1 if self._stuck else self._polls, False
        still = busy = 0
        before: object = None
        while self._any:
            merges = [status for status in statuses() if "snapshot-merge" in status]
            merging = any(left_to_merge(line) for status in merges for line in status.splitlines())
            if not merging and merges == self._over:
                return
            # A long run moves many requests before its numbers change.
            now = (merges, self._moved(), served())
            if before not in (None, now):
                still, busy, polls = 0, 0, self._polls
            elif busy < _BUSY_POLLS_MAX and self._workers():
                busy += 1
            elif not merging:
                self._over = merges
                return
            elif before is not None:
                still += 1
            if still == polls:
                self._stuck = True
                return
            before = now
            self._pause(_POLL_S)


def left_to_merge(line: str) -> int | None:
    """Sectors that a merge has left, by a status line; None if it does not show a running merge.

    Kernel: ``snapshot_status``.
    """
    words = line.split()
    if words[2:3] != ["snapshot-merge"] or len(words) != 5:
        return None
    allocated, slash, _ = words[3].partition("/")
    return int(allocated) - int(words[4]) if slash else None  # "Merge failed" has two words, too


def total_sectors(diskstats: str) -> int:
    """Sectors read and written by all disks; other counters do not matter."""
    lines = (line.split() for line in diskstats.splitlines())
    return sum(int(words[5]) + int(words[9]) for words in lines)


def runnable(loadavg: str) -> int:
    """Running and runnable tasks, this one included (proc(5))."""
    return int(loadavg.split()[3].partition("/")[0])
