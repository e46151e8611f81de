"""Where everything lies in a persistent exception store (kernel: dm-snap-persistent.c).

The COW device is divided into chunks.  Chunk 0 holds the header.  Then metadata areas and data
alternate: an area of one chunk, then as many data chunks as the area has entries.  All
integers are little-endian; there is no checksum anywhere.
"""

import struct
from dataclasses import dataclass
from typing import Final

from harness.units import Chunk, bytes_of_sectors

SNAP_MAGIC: Final = 0x70416E53
"""Bytes ``53 6E 41 70``, "SnAp"."""
SNAPSHOT_DISK_VERSION: Final = 1
CHUNK_SECTORS_MAX: Final = 4194303
"""Largest chunk size that passes the check; as a power of two, 2097152 sectors (1 GiB)."""

HEADER: Final = struct.Struct("<4I")
ENTRY: Final = struct.Struct("<2Q")
HEADER_FIELDS: Final = ("magic", "valid", "version", "chunk_size")
ENTRY_FIELDS: Final = ("old_chunk", "new_chunk")
HEADER_CHUNK: Final = 0
FIRST_AREA_CHUNK: Final = 1


@dataclass(frozen=True, slots=True)
class DiskHeader:
    """The first 16 bytes of chunk 0; the rest of it is zero (kernel: ``struct disk_header``)."""

    magic: int = SNAP_MAGIC
    valid: int = 1
    version: int = SNAPSHOT_DISK_VERSION
    chunk_sectors: int = 0

    def pack(self) -> bytes:
        """The 16 bytes on disk."""
        return HEADER.pack(self.magic, self.valid, self.version, self.chunk_sectors)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> "DiskHeader":
        """Read the first 16 bytes of ``data``; nothing is checked."""
        return cls(*HEADER.unpack_from(data, 0))


def entries_per_area(chunk_sectors: int) -> int:
    """How many entries fill one metadata area (kernel: ``exceptions_per_area``)."""
    return bytes_of_sectors(chunk_sectors) // ENTRY.size


def area_chunk(area: int, entries: int) -> Chunk:
    """The chunk that holds metadata area ``area`` (kernel: ``area_location``)."""
    return Chunk(FIRST_AREA_CHUNK + area * (entries + 1))


def is_metadata_chunk(chunk: int, entries: int) -> bool:
    """True for the header and for every area; such a chunk never holds data."""
    return chunk == HEADER_CHUNK or chunk % (entries + 1) == FIRST_AREA_CHUNK


def data_chunk(index: int, entries: int) -> Chunk:
    """The ``index``-th chunk that a fresh store hands out (kernel: ``skip_metadata``)."""
    return Chunk(FIRST_AREA_CHUNK + 1 + index + index // entries)


def data_index(chunk: int, entries: int) -> int:
    """The inverse of `data_chunk`, for a chunk that holds data."""
    return (chunk - 2) - (chunk - 2) // (entries + 1)


def chunks_needed(exceptions: int, entries: int) -> int:
    """Chunks that a COW device must have for ``exceptions`` exceptions in one activation.

    The area behind a full one counts too: filling an area zeroes the next.
    """
    return 1 + exceptions + exceptions // entries + 1


def chunk_size_fault(chunk_sectors: int, block_sectors: int) -> str | None:
    """Why a chunk size is refused, in the kernel's words, or None.

    The three checks and their order are those of ``dm_exception_store_set_chunk_size``;
    ``block_sectors`` is the larger logical block size of COW device and origin, in sectors.
    """
    if chunk_sectors <= 0 or chunk_sectors & (chunk_sectors - 1):
        return "Chunk size is not a power of 2"
    if chunk_sectors % block_sectors:
        return "Chunk size is not a multiple of device blocksize"
    if chunk_sectors > CHUNK_SECTORS_MAX:
        return "Chunk size is too high"
    return None
