"""The limit on copies in flight (module parameter ``snapshot_cow_threshold``).

Two policies have existed.  In the seed each snapshot has a semaphore, filled when its table is
loaded (0 or less: no limit), that a copy takes before it starts.  Since b21555786f18 (dm snapshot:
rework COW throttling to fix deadlock, 5.4) a *write* waits before it is processed, as long as more
copies than the parameter says are in flight: it takes effect at once, 0 lets one copy through at a
time, and only a huge value means no limit.  Writes through snapshot-merge never wait.

Waiting writes and copies proceed in the order in which they came.
"""

from collections import deque
from collections.abc import Callable

from harness.twin.world import World

_NO_LIMIT = 1 << 63

Then = Callable[[], None]


class Throttle:
    """Copies in flight of one snapshot.

    Attributes:
        in_progress, peak: their number, and the most there ever were at once.
    """

    __slots__ = ("_semaphore", "_waiting", "_world", "in_progress", "peak")

    def __init__(self, world: World) -> None:
        self._world = world
        self.in_progress = 0
        self.peak = 0
        self._waiting: deque[Then] = deque()
        self._semaphore: int | None = None
        if world.profile.threshold_semaphore and world.cow_threshold > 0:
            self._semaphore = world.cow_threshold

    def full(self) -> bool:
        """Whether a write has to wait (kernel: ``wait_for_in_progress``)."""
        return (
            not self._world.profile.threshold_semaphore
            and self.in_progress > self._world.cow_threshold
        )

    def holds_back(self) -> bool:
        """Whether a new write has to wait: there is no room, or others are waiting."""
        return self.full() or (self._semaphore is None and bool(self._waiting))

    def room(self) -> int:
        """How many copies may start now without any copy or write having to wait."""
        if self._waiting:
            return 0
        if self._semaphore is not None:
            return self._semaphore
        if self._world.profile.threshold_semaphore:
            return _NO_LIMIT
        return self._world.cow_threshold - self.in_progress

    def passed(self, copies: int) -> None:
        """So many copies started together and have ended."""
        self.peak = max(self.peak, self.in_progress + copies)

    def wait(self, then: Then) -> None:
        """Proceed when it is this one's turn."""
        self._waiting.append(then)

    def start(self, copy: Then) -> None:
        """Start a copy, now or when the semaphore lets it (``account_start_copy``, ``down``)."""
        if self._semaphore is not None:
            if not self._semaphore:
                self._waiting.append(lambda: self.start(copy))
                return
            self._semaphore -= 1
        self.in_progress += 1
        if self.in_progress > self.peak:
            self.peak = self.in_progress
        copy()

    def end(self) -> None:
        """A copy has ended (kernel: ``account_end_copy``, ``up``)."""
        self.in_progress -= 1
        if self._semaphore is not None:
            self._semaphore += 1
            if self._waiting:
                self._waiting.popleft()()
            return
        while self._waiting and self.in_progress <= self._world.cow_threshold:
            self._waiting.popleft()()
