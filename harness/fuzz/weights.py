"""What lives are made of, as data: how often something is chosen, and what it is chosen from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

NAMES = ("a", "b", "c", "d", "e", "f", "g")
CHUNKS = (1, 2, 4, 8, 8, 8, 16, 32, 64)
STORES = ("P", "P", "P", "PO", "N", "p", "POx", "NO")
BAD_WORDS = (
    "",
    "X",
    "Pz",
    "3",
    "-8",
    "+8",
    "0",
    "008",
    "{nosuch}",
    "7:7777",
    "8 0",
    "8 3 x",
    "512 1 discard_zeroes_cow",
    "512 2 discard_zeroes_cow discard_passdown_origin",
    "8 1 discard_passdown_origin",
    "8 1 bogus",
    "4194304",
    "2097152",
)
PARALLEL_MAX = 4
DISCARD_CHUNK = 512
COW_SECTORS = (16, 24, 33, 40, 48, 64, 80, 100, 128, 200, 256, 300, 512, 777, 2048, 5000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How often something is chosen; shares are of 1, and tuples are chosen from evenly."""

    actions: Mapping[str, int]
    requests: Mapping[str, float]
    """Kinds of I/O."""
    lengths: tuple[int, ...] = (1, 1, 2, 3, 7, 8, 8, 8, 9, 16, 16, 31, 32, 64, 100, 300)
    bases: tuple[int, ...] = (64, 100, 128, 131, 256, 250, 333, 512, 1024, 4096)
    """Sizes of the origin."""
    chunks: tuple[int, ...] = CHUNKS
    linear_starts: tuple[int, ...] = (0, 0, 1, 8, 16)
    buffered: float = 0.12
    can_fail: float = 0.0
    large_blocks: float = 0.08
    layers: tuple[str, ...] = ("linear", "mixed", "delay", "striped")
    between: float = 0.3
    """Something stands between the disks and the snapshots."""
    features: float = 0.1
    """Snapshots that take discards."""
    feature_chunks: tuple[int, ...] = (DISCARD_CHUNK,)
    """Their chunks: smaller ones than `DISCARD_CHUNK` kill some kernels."""
    edges: float = 0.0
    """I/O at an edge: the first or last chunk, an area's boundary, the last sector, one past it."""
    linked: float = 0.0
    """Of the disks that can fail, those behind a link of their own."""
    parallel: int = 0
    """How often several I/Os are in flight at once."""


_ACTIONS: Final = {
    "io": 30,
    "io_on_origin": 8,
    "reload": 6,
    "suspend_resume": 4,
    "merge": 4,
    "handover": 4,
    "new": 3,
    "remove": 2,
    "rename": 2,
    "bad_table": 1,
    "ask": 1,
    "parameter": 1,
    "load_or_clear": 2,
    "poke": 1,
    "fill": 1,
    "resume_all": 1,
    "raw_io": 1,
    "image": 1,
}
_DISCARDS: Final = Weights(
    actions=_ACTIONS | {"io": 45, "raw_io": 6, "faults": 4, "io_on_origin": 4},
    requests={"write": 0.3, "read": 0.2, "flush": 0.05, "discard": 0.33, "zeroout": 0.12},
    lengths=(
        1,
        2,
        3,
        5,
        7,
        8,
        8,
        9,
        13,
        16,
        17,
        24,
        40,
        64,
        100,
        254,
        255,
        256,
        300,
        512,
        513,
        700,
        1024,
        1500,
    ),
    bases=(64, 100, 131, 256, 333, 1024, 2048, 2500, 4096, 8192),
    linear_starts=(0, 0, 1, 3, 5, 7, 8, 9, 16),
    buffered=0.4,
    can_fail=0.25,
    large_blocks=0.12,
    between=0.7,
    features=0.6,
    feature_chunks=(512, 512, 1024, 2048, 4096, 8192),
)
_EVERYTHING: Final = Weights(
    actions=_ACTIONS
    | {
        "reactivate": 4,
        "crafted": 2,
        "faults": 2,
        "raw_io": 2,
        "exactly_full": 3,
        "full_area": 5,
        "merge": 6,
        "handover": 6,
    },
    requests={"write": 0.42, "read": 0.28, "flush": 0.06, "discard": 0.14, "zeroout": 0.1},
    bases=(64, 100, 128, 131, 250, 256, 333, 512, 1024, 2048, 4096),
    linear_starts=(0, 0, 1, 3, 8, 16),
    buffered=0.2,
    can_fail=0.08,
    large_blocks=0.1,
    between=0.4,
    features=0.2,
    edges=0.3,
    chunks=(1, 1, 1, 2, 2, 4, 8, 8, 16, 32, 64),
)
WEIGHTS: Final = {
    "snapshots": Weights(
        actions=_ACTIONS,
        requests={"write": 0.5, "read": 0.35, "flush": 0.05, "discard": 0.05, "zeroout": 0.05},
    ),
    "discards": _DISCARDS,
    "everything": _EVERYTHING,
    "parallel": replace(_EVERYTHING, can_fail=0.0, parallel=8),
    "small-discards": replace(_DISCARDS, feature_chunks=(1, 2, 4, 8, 8, 16, 32, 64, 512)),
}
"""By name; the last one is not for kernels that small discards kill."""
