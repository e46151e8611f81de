"""What lies at a byte of a COW device, in words (layout: `harness.store.layout`).

All descriptions of places in a store come from here: those in the findings of
`harness.store.check`, and those where two sides differ (`harness.compare.place`).  Only the sector
that is passed in is read, and nothing is trusted: an impossible chunk size is described as well.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from harness.store.layout import (
    ENTRY,
    ENTRY_FIELDS,
    HEADER,
    HEADER_CHUNK,
    HEADER_FIELDS,
    SNAP_MAGIC,
    area_chunk,
    entries_per_area,
    is_metadata_chunk,
)
from harness.units import SECTOR_BYTES, bytes_of_sectors

_HEADER_FIELD_BYTES: Final = HEADER.size // len(HEADER_FIELDS)
_ENTRY_FIELD_BYTES: Final = ENTRY.size // len(ENTRY_FIELDS)


class Kind(Enum):
    """What a byte of a COW device can belong to."""

    HEADER = "header field"
    PADDING = "header chunk behind the header"
    ENTRY = "half of an entry"
    DATA = "data chunk"
    PARTIAL = "partial chunk"
    BEYOND = "beyond the device"


@dataclass(frozen=True, slots=True)
class Field:
    """What a byte of a COW device belongs to; its ``str`` is the place in words.

    Attributes:
        kind: what it is.
        name: its name in `HEADER_FIELDS` or `ENTRY_FIELDS`, else empty.
        start: its first byte on the device.
        length: its length in bytes; 0 beyond the device.
        chunk: the chunk it lies in.
        area: its metadata area, or that of the entries that can point to it; -1 if there is none.
        number: the entry in its area, or the data chunk behind its area; -1 if there is none.
    """

    kind: Kind
    name: str
    start: int
    length: int
    chunk: int
    area: int = -1
    number: int = -1

    def __str__(self) -> str:
        match self.kind:
            case Kind.HEADER:
                return f"header field {self.name}"
            case Kind.PADDING:
                return "header chunk, behind the header"
            case Kind.ENTRY:
                half = self.name.replace("_", " ")
                return f"metadata area {self.area}, entry {self.number}, {half}"
            case Kind.DATA:
                return (
                    f"data chunk {self.chunk} of the store, number {self.number} of area "
                    f"{self.area}"
                )
            case Kind.PARTIAL:
                return f"partial chunk {self.chunk} at the end of the device, never used"
            case Kind.BEYOND:
                return f"beyond the device, which ends at byte {self.start}"

    def value(self, sector: bytes) -> str:
        """The value of the field, in words; for half an entry, the whole entry.

        Args:
            sector: the sector of the device that contains the field; no field crosses sectors.

        Returns:
            ``"1 (valid)"``, ``"8 sectors"``, ``"5 → 2"``; empty if there is no field.
        """
        inside = self.start % SECTOR_BYTES
        match self.kind:
            case Kind.HEADER:
                return _header_value(
                    self.name, int.from_bytes(sector[inside : inside + self.length], "little")
                )
            case Kind.ENTRY:
                old, new = ENTRY.unpack_from(sector, inside - inside % ENTRY.size)
                return f"{old} → {new}"
            case _:
                return ""


def field_at(byte: int, chunk_sectors: int, size_bytes: int) -> Field:
    """What byte ``byte`` of a COW device of ``size_bytes`` bytes belongs to.

    The device has at least one sector; ``chunk_sectors`` is what its header says, at least 1.  A
    chunk that lies only partly on the device is never used, whatever would be there; only the
    header is read even from such a chunk.
    """
    chunk_bytes = bytes_of_sectors(chunk_sectors)
    if not 0 <= byte < size_bytes:
        return Field(Kind.BEYOND, "", size_bytes, 0, size_bytes // chunk_bytes)
    chunk, inside = divmod(byte, chunk_bytes)
    start = chunk * chunk_bytes
    length = min(chunk_bytes, size_bytes - start)
    if chunk == HEADER_CHUNK:
        if inside >= HEADER.size:
            return Field(Kind.PADDING, "", HEADER.size, length - HEADER.size, chunk)
        index = inside // _HEADER_FIELD_BYTES
        return Field(
            Kind.HEADER,
            HEADER_FIELDS[index],
            index * _HEADER_FIELD_BYTES,
            _HEADER_FIELD_BYTES,
            chunk,
        )
    if length < chunk_bytes:
        return Field(Kind.PARTIAL, "", start, length, chunk)
    entries = entries_per_area(chunk_sectors)
    area = (chunk - 1) // (entries + 1)
    if is_metadata_chunk(chunk, entries):
        half = inside // _ENTRY_FIELD_BYTES
        entry, which = divmod(half, len(ENTRY_FIELDS))
        return Field(
            Kind.ENTRY,
            ENTRY_FIELDS[which],
            start + half * _ENTRY_FIELD_BYTES,
            _ENTRY_FIELD_BYTES,
            chunk,
            area,
            entry,
        )
    return Field(Kind.DATA, "", start, length, chunk, area, chunk - area_chunk(area, entries) - 1)


def describe(byte: int, chunk_sectors: int, size_bytes: int) -> str:
    """What lies at byte ``byte`` of a COW device of ``size_bytes`` bytes, in words.

    ``"header field valid"``, ``"metadata area 1, entry 3, old chunk"``,
    ``"data chunk 259 of the store, number 0 of area 1"``.
    """
    return str(field_at(byte, chunk_sectors, size_bytes))


def _header_value(name: str, value: int) -> str:
    match name:
        case "magic":
            meaning = {SNAP_MAGIC: "SnAp", 0: "a new store"}.get(value, "no store")
            return f"{value:#010x} ({meaning})"
        case "valid":
            return f"{value} ({'valid' if value else 'invalid'})"
        case "chunk_size":
            return f"{value} sectors"
        case _:
            return str(value)
