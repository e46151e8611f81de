"""Which exception store a snapshot gets (kernel: dm-exception-store.c)."""

import errno
from typing import Final

from harness.twin.arguments import CtrError, parse_unsigned
from harness.twin.bio import BlockDevice
from harness.twin.exception_store import ExceptionStore
from harness.twin.persistent import PersistentStore
from harness.twin.transient import TransientStore
from harness.twin.world import World

_KINDS: Final[dict[str, type[ExceptionStore]]] = {
    kind.type_letter: kind for kind in (PersistentStore, TransientStore)
}


def create(world: World, argv: list[str], cow: BlockDevice, origin: BlockDevice) -> ExceptionStore:
    """A store from ``<type><options> <chunk size>`` (kernel: ``dm_exception_store_create``).

    Raises:
        CtrError: the caller replaces the text with its own, as the kernel's snapshot target does.
    """
    word, size = argv[0], argv[1]
    kind = _KINDS.get(word[:1].upper())
    if kind is None:
        raise CtrError("Exception store type is not P or N", errno.EINVAL)
    store = kind(world, cow, origin)
    chunk_sectors = parse_unsigned(size, 32)
    if chunk_sectors is None:
        raise CtrError("Invalid chunk size", errno.EINVAL)
    if chunk_sectors:
        fault = store.set_chunk_sectors(chunk_sectors)
        if fault is not None:
            raise CtrError(fault, errno.EINVAL)
    store.parse_options(word[1:])
    return store
