"""Where two contents first differ, and what is at that place.

A byte of a device is described by its sector, its chunk, where its sector came from on each side,
and, on a disk with an exception store, its place in the store in the words of
`harness.store.describe`.  Only the sectors shown are decoded.

The sides are left and right.  Their real names are up to whoever prints; only the text about a
store needs them, since it is one text about both.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from msgspec import Struct, field

from harness.store.describe import Kind, field_at
from harness.store.layout import SNAP_MAGIC, DiskHeader, area_chunk, entries_per_area
from harness.trace import pattern, rules
from harness.trace.observations import Raw, Run, Runs, Stamped, Unreadable, Zeros
from harness.trace.steps import REFERENCE
from harness.units import (
    SECTOR_BYTES,
    bytes_of_sectors,
    chunk_of_sector,
    sector_of_byte,
    sector_of_chunk,
)

SIDES: Final = ("kernel", "twin")
"""Default names of left and right."""
HEX_BYTES: Final = 16
_AREA_SECTORS_MAX: Final = 4096
"""Longer areas are not searched for the entry of a data chunk."""


class Place(Struct, frozen=True, kw_only=True):
    """The first byte that differs.

    Attributes:
        device: its device.
        byte: its offset on the device.
        sector: its sector there.
        chunk, chunk_sectors: its chunk and the chunk size; None if no snapshot defines one.
        differ, of: number of differing sectors, of those read.
        left, right: where the sector came from, in words.
        hex_at: device offset of the bytes shown; -1 if a side has none.
        left_hex, right_hex: those bytes.
        store: place of the byte in the exception store, and each side's value.

    In JSON the sides are ``kernel`` and ``twin``, as in every results file.
    """

    device: str
    byte: int
    sector: int
    chunk: int | None = None
    chunk_sectors: int | None = None
    differ: int = 0
    of: int = 0
    left: str = field(default="", name="kernel")
    right: str = field(default="", name="twin")
    hex_at: int = -1
    left_hex: str = field(default="", name="kernel_hex")
    right_hex: str = field(default="", name="twin_hex")
    store: str = ""

    def describe(self) -> list[str]:
        """The place as lines of text."""
        line = f"sector {self.sector}, byte {self.byte % SECTOR_BYTES} of it"
        if self.chunk is not None and self.chunk_sectors:
            line += (
                f"; chunk {self.chunk} ({self.chunk_sectors} sectors each), "
                f"sector {self.sector % self.chunk_sectors} of it"
            )
        lines = [line, f"{self.differ} of {self.of} sectors differ"]
        if self.store:
            lines[1:1] = self.store.split("\n")
        return lines


class Geometry:
    """Sizes and chunk sizes of devices, from the table lines that a side showed."""

    def __init__(self) -> None:
        self._lines: dict[str, list[list[str]]] = {}

    def table(self, name: str, text: str | None) -> None:
        """Note the table of ``name``; without a table it keeps its last one."""
        if text:
            self._lines[name] = [line.split() for line in text.splitlines()]

    def sectors(self, name: str) -> int | None:
        """Length of a mapped device, if it has shown a table."""
        ends = [
            int(line[0]) + int(line[1])
            for line in self._lines.get(name, ())
            if len(line) > 1 and line[0].isdecimal() and line[1].isdecimal()
        ]
        return max(ends, default=None)

    def chunk_sectors(self, name: str) -> int | None:
        """Chunk size of ``name``: its own, else the smallest of the snapshots that use it.

        The device below an origin counts like the origin.
        """
        names = {name}
        for line in self._lines.get(name, ()):
            if line[2:3] == ["snapshot-origin"]:
                names |= {match[1] for match in map(REFERENCE.fullmatch, line[3:]) if match}
        own, others = [], []
        for device, lines in self._lines.items():
            for line in lines:
                if len(line) < 7 or line[2] not in ("snapshot", "snapshot-merge"):
                    continue
                size = int(line[6]) if line[6].isdecimal() else 0
                used = {match[1] for match in map(REFERENCE.fullmatch, line[3:5]) if match}
                if size and device == name:
                    own.append(size)
                elif size and names & used:
                    others.append(size)
        return min(own or others, default=None)


def locate(
    seed: int,
    geometry: Geometry,
    name: str,
    left: Runs,
    right: Runs,
    *,
    start: int = 0,
    both_ends: bool = False,
    store: bool = False,
    sides: tuple[str, str] = SIDES,
) -> Place | None:
    """The first place where the contents differ, or None if they are the same bytes.

    Args:
        seed: seed of the stamps.
        geometry: what is known of the devices.
        name: the device.
        left: what one side has.
        right: what the other side has.
        start: sector of the device at which both begin.
        both_ends: contents of a large device are only its first and last sectors.
        store: the contents are whole disks; look for an exception store in them.
        sides: names of left and right in the text about the store.

    Raises:
        BadTrace: a raw run does not have the length it names.
    """
    first, differ = -1, 0
    for at, count, one, other in _walk(left, right):
        wrong = _differing(seed, count, one, other)
        if wrong is None:
            continue
        offset, number = wrong
        differ += number
        first = at + offset if first < 0 else first
    if first < 0:
        return None
    of = max(pattern.sectors_of(left), pattern.sectors_of(right))
    sector = start + first
    size = geometry.sectors(name)
    if both_ends and size and of == sum(count for _, count in rules.examined(size)):
        sector = start + rules.examined_sector(first, size)
    data = [_sector(seed, runs, first) for runs in (left, right)]
    texts = [_origin(runs, first) for runs in (left, right)]
    byte, hex_at, dumps = int(bytes_of_sectors(sector)), -1, ["", ""]
    if data[0] is not None and data[1] is not None:
        inside = next(i for i, (a, b) in enumerate(zip(data[0], data[1], strict=True)) if a != b)
        shown = inside - inside % HEX_BYTES
        hex_at = byte + shown
        dumps = [part[shown : shown + HEX_BYTES].hex(" ") for part in data if part is not None]
        byte += inside
    chunk_sectors, where = geometry.chunk_sectors(name), ""
    if store:
        for runs in (left, right):
            head = _sector(seed, runs, 0)
            header = DiskHeader.unpack(head) if head else DiskHeader(magic=0)
            if header.magic == SNAP_MAGIC and header.chunk_sectors:
                chunk_sectors = header.chunk_sectors
                where = _in_store(seed, byte, chunk_sectors, left, right, sides)
                break
    return Place(
        device=name,
        byte=byte,
        sector=sector,
        chunk=chunk_of_sector(sector, chunk_sectors) if chunk_sectors else None,
        chunk_sectors=chunk_sectors,
        differ=differ,
        of=of,
        left=texts[0],
        right=texts[1],
        hex_at=hex_at,
        left_hex=dumps[0],
        right_hex=dumps[1],
        store=where,
    )


_Piece = tuple[Run, int] | None
"""A run and the index of a sector in it; None past the end."""


def _walk(left: Runs, right: Runs) -> Iterator[tuple[int, int, _Piece, _Piece]]:
    """Both contents cut so that each piece is within one run of each: at, count, piece, piece."""
    at, i, j, used_i, used_j = 0, 0, 0, 0, 0
    while i < len(left) or j < len(right):
        rest_i = left[i].count - used_i if i < len(left) else None
        rest_j = right[j].count - used_j if j < len(right) else None
        count = min(rest for rest in (rest_i, rest_j) if rest is not None)
        yield (
            at,
            count,
            (left[i], used_i) if rest_i is not None else None,
            (right[j], used_j) if rest_j is not None else None,
        )
        at += count
        if rest_i is not None:
            i, used_i = (i + 1, 0) if count == rest_i else (i, used_i + count)
        if rest_j is not None:
            j, used_j = (j + 1, 0) if count == rest_j else (j, used_j + count)


def _differing(seed: int, count: int, one: _Piece, other: _Piece) -> tuple[int, int] | None:
    """(first sector that differs, number of those that do) within a piece, or None."""
    everything = (0, count)
    if one is None or other is None:
        return everything
    match one[0], other[0]:
        case Zeros(), Zeros():
            return None
        case ((Unreadable() as a), (Unreadable() as b)):
            return None if a.error == b.error else everything
        case ((Stamped() as a), (Stamped() as b)):
            same = (a.device, a.generation, a.sector + one[1]) == (
                b.device,
                b.generation,
                b.sector + other[1],
            )
            return None if same else everything
        case (Raw(), Raw() | Stamped() | Zeros()) | (Stamped() | Zeros(), Raw()):
            sides = [
                np.frombuffer(_bytes(seed, *piece, count), dtype=np.uint8).reshape(
                    count, SECTOR_BYTES
                )
                for piece in (one, other)
            ]
            wrong = np.flatnonzero((sides[0] != sides[1]).any(axis=1))
            return (int(wrong[0]), len(wrong)) if len(wrong) else None
        case _:
            return everything


def _bytes(seed: int, run: Run, index: int, count: int) -> bytes:
    """Bytes of ``count`` sectors of ``run`` from its sector ``index``."""
    match run:
        case Stamped(device=device, generation=generation, sector=sector):
            return pattern.fill(seed, device, sector + index, count, generation).tobytes()
        case Raw():
            data = pattern.decode(seed, (run,))
            return data[bytes_of_sectors(index) : bytes_of_sectors(index + count)]
        case _:
            return bytes(bytes_of_sectors(count))


def _find(runs: Runs, sector: int) -> _Piece:
    for run in runs:
        if sector < run.count:
            return run, sector
        sector -= run.count
    return None


def _sector(seed: int, runs: Runs, sector: int) -> bytes | None:
    """Bytes of one sector; None if there are none."""
    piece = _find(runs, sector)
    if piece is None or isinstance(piece[0], Unreadable):
        return None
    return _bytes(seed, *piece, 1)


def _origin(runs: Runs, sector: int) -> str:
    piece = _find(runs, sector)
    return pattern.origin_of(*piece) if piece else "the end: no such sector"


def _in_store(
    seed: int, byte: int, chunk_sectors: int, left: Runs, right: Runs, sides: tuple[str, str]
) -> str:
    """Where ``byte`` is in an exception store, and each side's value."""
    size = bytes_of_sectors(max(pattern.sectors_of(left), pattern.sectors_of(right)))
    found = field_at(byte, chunk_sectors, size)
    text = str(found)
    if found.kind in (Kind.HEADER, Kind.ENTRY):
        values = []
        for side, runs in zip(sides, (left, right), strict=True):
            data = _sector(seed, runs, sector_of_byte(byte))
            values.append(f"{side} {found.value(data) if data else '?'}")
        text += f"\n{'entry' if found.kind is Kind.ENTRY else 'value'}: {', '.join(values)}"
    elif found.kind is Kind.DATA and chunk_sectors <= _AREA_SECTORS_MAX:
        first = sector_of_chunk(
            area_chunk(found.area, entries_per_area(chunk_sectors)), chunk_sectors
        )
        parts = [
            _sector(seed, left, first + i) or bytes(SECTOR_BYTES) for i in range(chunk_sectors)
        ]
        table = np.frombuffer(b"".join(parts), dtype="<u8").reshape(-1, 2)
        holds = np.flatnonzero(table[:, 1] == found.chunk)
        if len(holds):
            text += f"\nin the {sides[0]}, entry {holds[0]} says: chunk {table[holds[0], 0]}"
    return text
