"""Merging a store into its origin without a kernel, so that it can be killed and started again.

The protocol is the kernel's own (dm-snap.c ``snapshot_merge_next_chunks``, dm-snap-persistent.c
``persistent_commit_merge``), with whole areas in place of runs.  The store shrinks from its end:

1. what stands behind the end marker of the last area is zeroed: nothing there may become live;
2. the chunks of the last area that holds exceptions are copied to the origin;
3. the origin is synced: the data is on the disk;
4. the area is zeroed, and the COW device synced: the store no longer names those chunks;
5. and so on with the area before it, until area 0 is empty.

Whoever dies between two of these leaves a store that still names every chunk whose copy is not
certain, and the chunks of the COW device are never written.  To start again is to copy some once
more.  An area that reached the disk in part lost only entries whose chunks were safe.  At any
moment the kernel can go on instead: its own merge could have left such a store.
"""

import numpy as np

from harness.errors import Refused
from harness.media import COPY_BYTES, Medium
from harness.store.layout import area_chunk
from harness.store.order import runs
from harness.store.overlay import Tell
from harness.store.parse import ENTRY_DTYPE, Entries, Store
from harness.units import bytes_of_sectors


def merge(store: Store, cow: Medium, origin: Medium, *, tell: Tell = lambda _bytes: None) -> None:
    """Bring every exception of ``store`` home, and leave an empty store behind.

    Args:
        store: the store on ``cow``, each exception of it sound (`overlay.check_readable`).
        cow: the COW device, which shrinks.
        origin: the origin, which becomes what the snapshot showed.
        tell: is told of progress.

    Raises:
        Refused: an exception lies beyond the origin; nothing was written.
        OSError: something cannot be read or written; start again when it can.
    """
    chunk = bytes_of_sectors(store.chunk_sectors)
    chunks = -(-origin.size_bytes // chunk)
    for block in store.exceptions():
        if len(block) and int(block["old"].max()) >= chunks:
            raise Refused(
                f"the store maps chunk {int(block['old'].max())}, and {origin.path} has "
                f"{chunks}: is this the origin?"
            )
    entries = store.entries_per_area
    if store.stale().view(np.uint64).any():
        left = store.last[: store.committed].tobytes()
        cow.write(left.ljust(chunk, b"\0"), area_chunk(store.last_area, entries) * chunk)
        cow.sync()
    for area in range(store.last_area, -1, -1):
        place = area_chunk(area, entries) * chunk
        used: Entries = np.frombuffer(cow.read(place, chunk), ENTRY_DTYPE)
        if area == store.last_area:
            used = used[: store.committed]
        if not len(used):
            continue
        _bring_home(used, chunk, cow, origin)
        origin.sync()
        cow.zero(place, chunk)
        cow.sync()
        tell(len(used) * chunk)


def _bring_home(used: Entries, chunk: int, cow: Medium, origin: Medium) -> None:
    for block in runs(iter([used])):
        for old, new, count in block.tolist():
            start = old * chunk
            left = min(count * chunk, origin.size_bytes - start)
            at = new * chunk
            while left:
                part = cow.read(at, min(left, COPY_BYTES))
                origin.write(part, start)
                start, at, left = start + len(part), at + len(part), left - len(part)
