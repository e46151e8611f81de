"""The transient exception store (kernel: dm-snap-transient.c).

Only data is ever written: chunk 0 of the COW device is the first to be handed out, and the contents
of a snapshot go with its table.
"""

from collections.abc import Callable

from harness.twin.exception_store import Committed, ExceptionStore, Extent, Then
from harness.twin.exceptions.table import Pairs


class TransientStore(ExceptionStore):
    """Store type N."""

    type_letter = "N"
    _next_free_sectors = 0

    def parse_options(self, options: str) -> None:
        """The kernel ignores what follows the N."""

    def read_metadata(self, add: Callable[[Pairs], None]) -> bool:
        """There is none."""
        del add
        return True

    def prepare_exception(self) -> int:
        """Kernel: ``transient_prepare_exception``."""
        first = self._next_free_sectors
        if self.cow.sectors < first + self.chunk_sectors:
            return -1
        self._next_free_sectors = first + self.chunk_sectors
        return first // self.chunk_sectors

    def commit_exception(
        self, old: int, new: int, copied: bool, acknowledge: Committed, then: Then
    ) -> None:
        """At once (kernel: ``transient_commit_exception``)."""
        del old, new
        acknowledge(copied)
        then()

    def has_room(self, count: int) -> bool:
        """See `ExceptionStore.has_room`."""
        return self._next_free_sectors + count * self.chunk_sectors <= self.cow.sectors

    def prepare_extent(self, count: int) -> list[tuple[int, int]]:
        """One range, whatever lies there."""
        first = self._next_free_sectors // self.chunk_sectors
        self._next_free_sectors += count * self.chunk_sectors
        return [(first, count)]

    def commit_extents(self, extents: list[Extent]) -> None:
        """Nothing to record."""

    def drop(self, then: Then) -> None:
        """Nothing to make permanent."""
        then()

    def usage(self) -> tuple[int, int, int]:
        """Kernel: ``transient_usage``."""
        return (self._next_free_sectors, self.cow.sectors, 0)
