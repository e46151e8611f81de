"""The units of a block device, and the only conversions between them.

A sector is 512 bytes, whatever the logical block size of a device.  A chunk is the unit of
copy-on-write: a power-of-two number of sectors that belongs to one snapshot.  A tick is the
twin's integer unit of time, one microsecond.

Values that cross a module boundary carry these types; arithmetic inside one hot function uses
plain integers whose names carry the unit.
"""

from typing import Final, NewType

Sector = NewType("Sector", int)
"""A position on a device, or a length, in sectors of 512 bytes."""
Chunk = NewType("Chunk", int)
"""A chunk number; what it measures depends on the chunk size of its snapshot."""
Bytes = NewType("Bytes", int)
"""A position or a length in bytes."""
Ticks = NewType("Ticks", int)
"""The twin's time, in microseconds since its start."""

SECTOR_SHIFT: Final = 9
SECTOR_BYTES: Final = 1 << SECTOR_SHIFT


def bytes_of_sectors(sectors: int) -> Bytes:
    """Length in bytes of ``sectors`` sectors."""
    return Bytes(sectors << SECTOR_SHIFT)


def sectors_of_bytes(length_bytes: int) -> Sector:
    """Whole sectors in ``length_bytes``; a remainder is a caller's error.

    Raises:
        ValueError: ``length_bytes`` is not a multiple of 512.
    """
    if length_bytes & (SECTOR_BYTES - 1):
        raise ValueError(f"{length_bytes} bytes are not a whole number of sectors")
    return Sector(length_bytes >> SECTOR_SHIFT)


def sector_of_byte(byte: int) -> Sector:
    """The sector that holds ``byte``; for a length, the number of whole sectors."""
    return Sector(byte >> SECTOR_SHIFT)


def chunk_of_sector(sector: int, chunk_sectors: int) -> Chunk:
    """The chunk that holds ``sector`` (kernel: ``sector_to_chunk``)."""
    return Chunk(sector // chunk_sectors)


def sector_of_chunk(chunk: int, chunk_sectors: int) -> Sector:
    """The first sector of ``chunk`` (kernel: ``chunk_to_sector``)."""
    return Sector(chunk * chunk_sectors)
