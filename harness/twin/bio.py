"""A bio: one piece of I/O on its way to a block device (kernel: ``struct bio``).

``data`` is a memoryview of the submitter's buffer, so splitting and cloning share bytes.  The
submitter gets ``end_io(bio)`` exactly once, with ``bio.error`` set to 0 or an errno.  A device may
call it before ``submit`` returns.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, Protocol

from harness.twin.limits import Limits

EndIo = Callable[["Bio"], None]


class Op(IntEnum):
    """What a bio does (kernel: ``REQ_OP_*``); a flush is an empty write with PREFLUSH."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    DISCARD = 3
    WRITE_ZEROES = 9


READ: Final = Op.READ
WRITE: Final = Op.WRITE
FLUSH: Final = Op.FLUSH
PREFLUSH: Final = 1
FUA: Final = 2
"""Flags of a write: flush the device first; the data must be on the medium when it ends."""
RAHEAD: Final = 4
"""Flag of a read: nobody waits for it, and it may fail if it would be a burden."""


class Bio:
    """One piece of I/O.

    Attributes:
        op: what to do.
        sector, sectors: where, in sectors of the device it is submitted to.
        data: ``sectors`` * 512 bytes; None for a flush or discard.
        end_io: called once, when the I/O is over.
        error: 0 or an errno, set before ``end_io``.
        flags: `PREFLUSH`, `FUA`, which a device without a write cache ignores; `RAHEAD`.
        context: for the submitter only (kernel: ``bi_private``).
        chunk: the chunk that tracks this bio, -1 if none (kernel: ``dm_snap_tracked_chunk``).
        number: which of several clones this is (kernel: ``dm_bio_get_target_bio_nr``).
    """

    __slots__ = (
        "chunk",
        "context",
        "data",
        "end_io",
        "error",
        "flags",
        "number",
        "op",
        "sector",
        "sectors",
    )

    def __init__(
        self,
        op: Op,
        sector: int,
        sectors: int,
        data: memoryview | None,
        end_io: EndIo,
        context: object = None,
    ) -> None:
        self.op = op
        self.sector = sector
        self.sectors = sectors
        self.data = data
        self.end_io = end_io
        self.error = 0
        self.flags = 0
        self.context = context
        self.chunk = -1
        self.number = 0

    def end(self, error: int = 0) -> None:
        """Finish the bio (kernel: ``bio_endio``, ``bio_io_error``)."""
        self.error = error
        self.end_io(self)


class BlockDevice(Protocol):
    """What a bio can be submitted to: a disk or a mapped device.

    ``name`` follows renames; ``openers`` counts tables that hold the device (kernel: the open
    count that DM_DEV_STATUS reports for a mapped device); ``announced`` says that it can be opened.
    ``opened_block_sectors`` is the block size of its page cache since the first of them opened it,
    0 if none has; ``readahead_pages`` is how many pages the cache reads ahead at once.
    """

    name: str
    sectors: int
    block_sectors: int
    limits: Limits
    read_only: bool
    openers: int
    suspended: bool
    announced: bool
    opened_block_sectors: int
    readahead_pages: int

    def submit(self, bio: Bio) -> None:
        """Accept a bio; it ends now or later."""

    def below(self) -> "list[BlockDevice]":
        """Devices that the live table of this one refers to."""


def is_suspended(device: BlockDevice, but: Sequence[str] = ()) -> bool:
    """Whether I/O to ``device`` would wait: it, or one below it, is suspended, ``but`` for some."""
    return (device.suspended and device.name not in but) or any(
        is_suspended(below, but) for below in device.below()
    )
