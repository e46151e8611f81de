"""How many more exceptions a store can take (kernel: ``persistent_prepare_exception``)."""

from harness.store.parse import Store
from harness.units import sector_of_byte


def room(store: Store) -> int:
    """Chunks that can be handed out before the store overflows, if nothing fails.

    Each takes the next free chunk that is no metadata area, as long as it ends on the device.  A
    store whose area becomes full as its last chunk is taken needs room for the next area as well:
    where there is none, the write that fills it makes the snapshot Invalid, so it does not count.
    """
    chunks = sector_of_byte(store.size_bytes) // store.chunk_sectors
    entries = store.entries_per_area
    stride = entries + 1
    if store.next_free >= chunks:
        return 0
    # Chunks from next_free on, without the metadata areas among them.
    span = chunks - store.next_free
    first_area = (1 - store.next_free) % stride
    free = span - ((span - 1 - first_area) // stride + 1 if span > first_area else 0)
    # The areas that would become full must each have a next one on the device.
    areas = (chunks - 2) // stride + 1 if chunks >= 2 else 0
    most = (areas - store.last_area) * entries - store.committed - 1
    return max(0, min(free, most))
