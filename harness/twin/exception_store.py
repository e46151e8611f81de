"""What a snapshot asks of its exception store, and how its arguments are read.

Kernel: dm-exception-store.c.  Two types exist: ``P`` (persistent) and ``N`` (transient).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from harness.store.layout import chunk_size_fault
from harness.twin.bio import BlockDevice
from harness.twin.exceptions.table import Pairs
from harness.twin.world import World

Committed = Callable[[bool], None]
"""``acknowledge(success)``: the exception is in the store, or will never be."""
Then = Callable[[], None]
Extent = tuple[int, int, int]
"""First old chunk, first new chunk, and how many."""


class ExceptionStore(ABC):
    """The metadata of one snapshot.

    ``chunk_sectors`` is 0 while the store of a handover destination is not yet in use.
    """

    type_letter: ClassVar[str]
    can_merge: ClassVar[bool] = False

    def __init__(self, world: World, cow: BlockDevice, origin: BlockDevice) -> None:
        self.world = world
        self.cow = cow
        self.block_sectors = max(cow.block_sectors, origin.block_sectors)
        self.chunk_sectors = 0
        self.overflow_supported = False

    def set_chunk_sectors(self, chunk_sectors: int) -> str | None:
        """Set the chunk size, or say in the kernel's words why not."""
        fault = chunk_size_fault(chunk_sectors, self.block_sectors)
        if fault is None:
            self.chunk_sectors = chunk_sectors
        return fault

    @abstractmethod
    def parse_options(self, options: str) -> None:
        """What follows the type letter.

        Raises:
            CtrError: an option is not known.
        """

    @abstractmethod
    def read_metadata(self, add: Callable[[Pairs], None]) -> bool:
        """Load the store, ``add`` all exceptions in order; False if it is marked invalid.

        Raises:
            OSError: with the errno that the load fails with.
        """

    @abstractmethod
    def prepare_exception(self) -> int:
        """Allocate a chunk; -1 if there is no space."""

    @abstractmethod
    def commit_exception(
        self, old: int, new: int, copied: bool, acknowledge: Committed, then: Then
    ) -> None:
        """Record an exception whose copy is over.

        ``acknowledge`` may be called later; ``then`` is called when the caller may go on, which is
        before this returns if the COW device answers at once.
        """

    def has_room(self, count: int) -> bool:
        """Whether ``count`` exceptions can be made at once and none of their I/O can fail.

        The COW device is a plain disk, and no exception is pending.
        """
        raise NotImplementedError

    def prepare_extent(self, count: int) -> list[tuple[int, int]]:
        """Allocate ``count`` chunks that have room: first chunk and length of each range."""
        raise NotImplementedError

    def commit_extents(self, extents: list[Extent]) -> None:
        """Record all exceptions, allocated in this order; all of them have been copied."""
        raise NotImplementedError

    @abstractmethod
    def drop(self, then: Then) -> None:
        """The snapshot is invalid from now on; make that permanent."""

    def prepare_merge(self, then: Callable[[int, int, int], None]) -> None:
        """The next run to merge: ``then(chunks, last old, last new)``.

        0 chunks: nothing is left; -1: the metadata cannot be read.
        """
        raise NotImplementedError

    def commit_merge(self, chunks: int, then: Callable[[int], None]) -> None:
        """Forget the run that was merged: ``then(errno)``."""
        raise NotImplementedError

    def all_merged(self) -> bool:
        """Whether a merge has come to its end; only of a store that can merge."""
        return False

    @abstractmethod
    def usage(self) -> tuple[int, int, int]:
        """Sectors allocated, in total, and of metadata."""

    def table_line(self) -> str:
        """The store's part of the TABLE string."""
        return f"{self.type_letter} {self.chunk_sectors}"
