"""A pending exception: a chunk is allocated, and its copy or commit is in progress.

Kernel: dm-snap.c, ``dm_snap_pending_exception``.
"""

from harness.twin.bio import Bio, EndIo


class PendingException:
    """Everything that waits for one chunk to be copied and recorded.

    Attributes:
        old, new: the chunk of the origin, and the one of the COW device that was allocated.
        sequence: its place in the order of allocation, which is the order of completion.
        started: the copy, or the write that makes one unnecessary, was started.
        copy_error: the copy failed.
        snapshot_bios, origin_bios: writes that wait, to the snapshot and to its origin.
        full_bio: the write of a whole chunk that replaces a copy.
        full_bio_end_io: the submitter's original ``end_io``.
    """

    __slots__ = (
        "copy_error",
        "full_bio",
        "full_bio_end_io",
        "new",
        "old",
        "origin_bios",
        "sequence",
        "snapshot_bios",
        "started",
    )

    def __init__(self, old: int, new: int, sequence: int) -> None:
        self.old = old
        self.new = new
        self.sequence = sequence
        self.started = False
        self.copy_error = False
        self.snapshot_bios: list[Bio] = []
        self.origin_bios: list[Bio] = []
        self.full_bio: Bio | None = None
        self.full_bio_end_io: EndIo | None = None
