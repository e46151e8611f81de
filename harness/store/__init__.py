"""The on-disk exception store of dm-snapshot (type P): parse, serialise, check, describe, build."""

from harness.store.build import allocate, build, pieces
from harness.store.check import Finding, check
from harness.store.describe import describe, field_at
from harness.store.layout import DiskHeader
from harness.store.parse import (
    ENTRY_DTYPE,
    Entries,
    State,
    Store,
    iter_exceptions,
    parse,
    serialise,
    survey,
)

__all__ = [
    "ENTRY_DTYPE",
    "DiskHeader",
    "Entries",
    "Finding",
    "State",
    "Store",
    "allocate",
    "build",
    "check",
    "describe",
    "field_at",
    "iter_exceptions",
    "parse",
    "pieces",
    "serialise",
    "survey",
]
