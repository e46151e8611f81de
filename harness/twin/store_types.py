"""Which exception store a snapshot gets (kernel: dm-exception-store.c)."""

import errno
from typing import TYPE_CHECKING

from harness.twin.arguments import CtrError, parse_unsigned

if TYPE_CHECKING:
    from harness.twin.device_mapper import DeviceMapper
    from harness.twin.snapshot import Snapshot
from harness.twin.exception_store import ExceptionStore


def create(world: "DeviceMapper", argv: list[str], snapshot: "Snapshot") -> ExceptionStore:
    """A store from ``<type><options> <chunk size>`` (kernel: ``dm_exception_store_create``).

    Raises:
        CtrError: the caller replaces the text by its own, as the kernel's snapshot target does.
    """
    # Imported here, because both stores derive from the class above.
    from harness.twin.persistent import PersistentStore
    from harness.twin.transient import TransientStore

    word, size = argv[0], argv[1]
    kinds: dict[str, type[ExceptionStore]] = {"P": PersistentStore, "N": TransientStore}
    kind = kinds.get(word[:1].upper())
    if kind is None:
        raise CtrError("Exception store type is not P or N", errno.EINVAL)
    store = kind(world, snapshot.cow, snapshot.origin)
    chunk_sectors = parse_unsigned(size, 32)
    if chunk_sectors is None:
        raise CtrError("Invalid chunk size", errno.EINVAL)
    if chunk_sectors:
        fault = store.set_chunk_sectors(chunk_sectors)
        if fault is not None:
            raise CtrError(fault, errno.EINVAL)
    store.parse_options(word[1:])
    return store
