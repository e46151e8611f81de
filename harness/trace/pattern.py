"""Sectors that describe themselves, and device contents as runs of them.

A stamped sector is 64 little-endian words of 64 bits: word 0 is the magic (low half) and the
generation (high half), word 1 the sector number, words 2 and 3 the name of the device, padded
with zero bytes; word 4 + i is a hash of the seed and of words 0–3 plus i times an odd constant.
All words of a sector differ and depend on everything in the stamp.  So a copy from the wrong
place, of the wrong half or of an older generation is always noticed, and a wrong byte says where
its sector came from.

`encode` and `decode` are inverses for any bytes; they are vectorised, in one pass.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import structs

from harness.errors import BadTrace
from harness.trace.observations import Raw, Run, Runs, Stamped, Unreadable, Zeros
from harness.units import SECTOR_BYTES, bytes_of_sectors

Words = npt.NDArray[np.uint64]
ByteArray = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

MAGIC: Final = 0x50414E53  # "SNAP", read as little-endian text
_WORDS: Final = SECTOR_BYTES // 8
_STAMP_WORDS: Final = 4
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_BODY: Final[Words] = np.arange(1, _WORDS - _STAMP_WORDS + 1, dtype=np.uint64) * _GOLDEN
_LOW_HALF: Final = np.uint64(0xFFFFFFFF)
_RAW_LEVEL: Final = 6
RAW_SECTORS_MAX: Final = 1 << 16
"""Sectors without a stamp in one observation: 32 MiB.  Scenarios write only stamped ones."""
DECODED_SECTORS_MAX: Final = 1 << 21
"""Sectors turned into bytes at once: 1 GiB."""


def _mix(word: Words) -> Words:
    """The finaliser of splitmix64: each input bit moves about half of the output bits."""
    word = (word ^ (word >> np.uint64(30))) * _MIX_1
    word = (word ^ (word >> np.uint64(27))) * _MIX_2
    return word ^ (word >> np.uint64(31))


def _body(seed: int, stamps: Words) -> Words:
    """Words 4–63 for ``stamps`` of shape (n, 4); shape (n, 60)."""
    word = np.full(len(stamps), seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
    for column in range(_STAMP_WORDS):
        word = _mix((word + _GOLDEN) ^ stamps[:, column])
    return word[:, None] + _BODY


def fill(seed: int, device: str, sector: int, sectors: int, generation: int) -> ByteArray:
    """The bytes of ``sectors`` stamped sectors, shape (sectors * 512,), dtype uint8."""
    words = np.empty((sectors, _WORDS), dtype="<u8")
    words[:, 0] = MAGIC | generation << 32
    words[:, 1] = np.arange(sector, sector + sectors, dtype=np.uint64)
    words[:, 2:4] = np.frombuffer(device.encode("latin-1").ljust(16, b"\0"), dtype="<u8")
    words[:, _STAMP_WORDS:] = _body(seed, words[:, :_STAMP_WORDS])
    return words.reshape(-1).view(np.uint8)


def encode(seed: int, data: Buffer) -> Runs:
    """Bytes (a whole number of sectors) as runs, lossless."""
    flat = np.frombuffer(data, dtype=np.uint8)
    words = flat.view("<u8").reshape(-1, _WORDS)
    sectors = len(words)
    if not sectors:
        return ()
    # kind per sector: 0 zero, 1 stamped, 2 raw
    kind = np.where(words.any(axis=1), 2, 0).astype(np.int8)
    candidates = np.flatnonzero((words[:, 0] & _LOW_HALF) == MAGIC)
    if len(candidates):
        # Only a name that survives decoding and encoding counts as a stamp; the rest is raw.
        stamps = words[candidates]
        whole = (stamps[:, _STAMP_WORDS:] == _body(seed, stamps[:, :_STAMP_WORDS])).all(axis=1)
        kind[candidates[whole]] = 1
    # A run ends where the kind changes, or where a stamp does not continue the one before it.
    cut = kind[1:] != kind[:-1]
    both = (kind[1:] == 1) & (kind[:-1] == 1)
    follows = (
        (words[1:, 0] == words[:-1, 0])
        & (words[1:, 1] == words[:-1, 1] + np.uint64(1))
        & (words[1:, 2] == words[:-1, 2])
        & (words[1:, 3] == words[:-1, 3])
    )
    starts = np.concatenate(([0], np.flatnonzero(cut | (both & ~follows)) + 1))
    ends = np.append(starts[1:], sectors)
    return tuple(_run(words, kind, int(a), int(b)) for a, b in zip(starts, ends, strict=True))


def _run(words: Words, kind: npt.NDArray[np.int8], first: int, end: int) -> Run:
    count = end - first
    if kind[first] == 0:
        return Zeros(count)
    if kind[first] == 1:
        name = words[first, 2:4].tobytes().rstrip(b"\0")
        return Stamped(
            name.decode("latin-1"),
            int(words[first, 0] >> np.uint64(32)),
            int(words[first, 1]),
            count,
        )
    return Raw(count, zlib.compress(words[first:end].tobytes(), _RAW_LEVEL))


def decode(seed: int, runs: Iterable[Run]) -> bytes:
    """The bytes of ``runs``; sectors that could not be read become zeros.

    Raises:
        BadTrace: a raw run does not have the number of sectors that it names, or there are more
            than `DECODED_SECTORS_MAX`.
    """
    runs = tuple(runs)
    if sectors_of(runs) > DECODED_SECTORS_MAX:
        raise BadTrace(f"{sectors_of(runs)} sectors are more than can be decoded")
    parts: list[bytes] = []
    for run in runs:
        match run:
            case Stamped(device=device, generation=generation, sector=sector, count=count):
                parts.append(fill(seed, device, sector, count, generation).tobytes())
            case Zeros(count=count) | Unreadable(count=count):
                parts.append(bytes(bytes_of_sectors(count)))
            case Raw():
                parts.append(inflate(run))
    return b"".join(parts)


def inflate(run: Raw) -> bytes:
    """The bytes of a raw run; never inflates more than it names.

    Raises:
        BadTrace: it does not have the number of sectors that it names, or names too many.
    """
    size = run.count * SECTOR_BYTES
    if not 0 < run.count <= RAW_SECTORS_MAX:
        raise BadTrace(f"a raw run of {run.count} sectors, of at most {RAW_SECTORS_MAX}")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(run.packed, size)
        # Only the end of the stream may be left.
        more = inflater.decompress(inflater.unconsumed_tail, 1) if not inflater.eof else b""
    except zlib.error as fault:
        raise BadTrace(f"raw run cannot be inflated: {fault}") from None
    if len(data) != size or more or not inflater.eof or inflater.unused_data:
        holds = "more" if more or len(data) == size else f"{len(data)} bytes"
        raise BadTrace(f"raw run names {run.count} sectors and has {holds}")
    return data


def sectors_of(runs: Iterable[Run]) -> int:
    """Sectors that ``runs`` cover."""
    return sum(run.count for run in runs)


def join(parts: Sequence[Runs]) -> Runs:
    """Runs of consecutive ranges as one, with neighbours joined if one continues the other.

    ``join([encode(a), encode(b)]) == encode(a + b)`` for any bytes.
    """
    joined: list[Run] = []
    for run in (run for part in parts for run in part):
        last = joined[-1] if joined else None
        match last, run:
            case Zeros(), Zeros():
                joined[-1] = Zeros(last.count + run.count)
            case Unreadable(), Unreadable() if last.error == run.error:
                joined[-1] = Unreadable(run.error, last.count + run.count)
            case Stamped(), Stamped() if (
                last.device,
                last.generation,
                last.sector + last.count,
            ) == (run.device, run.generation, run.sector):
                joined[-1] = Stamped(
                    last.device, last.generation, last.sector, last.count + run.count
                )
            case Raw(), Raw():
                data = inflate(last) + inflate(run)
                joined[-1] = Raw(last.count + run.count, zlib.compress(data, _RAW_LEVEL))
            case _:
                joined.append(run)
    return tuple(joined)


class Contents:
    """Runs that can be cut anywhere."""

    def __init__(self, seed: int, runs: Runs) -> None:
        self.seed = seed
        self.runs = runs
        self._starts = list(accumulate((run.count for run in runs), initial=0))

    def cut(self, start: int, end: int) -> Runs:
        """Sectors [start, end), as far as they exist."""
        parts: list[Runs] = []
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self.runs) and self._starts[index] < end:
            run, at = self.runs[index], self._starts[index]
            low, high = max(start - at, 0), min(end - at, run.count)
            index += 1
            if low >= high:
                continue
            if isinstance(run, Stamped):
                parts.append((Stamped(run.device, run.generation, run.sector + low, high - low),))
            elif isinstance(run, Raw):
                data = decode(self.seed, (run,))[bytes_of_sectors(low) : bytes_of_sectors(high)]
                parts.append(encode(self.seed, data))
            else:
                parts.append((structs.replace(run, count=high - low),))
        return join(parts)


def origin_of(run: Run, index: int) -> str:
    """In words, where sector ``index`` of ``run`` came from."""
    match run:
        case Stamped(device=device, generation=generation, sector=sector):
            return f"sector {sector + index} of {device}, generation {generation}"
        case Zeros():
            return "zeros"
        case Unreadable(error=error):
            return f"unreadable ({error})"
        case Raw():
            return "bytes without a stamp"
