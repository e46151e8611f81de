"""An exception store in words, with a picture of its chunks: for whoever reads a report."""

from collections.abc import Iterator
from typing import Final

from harness.errors import MalformedStore
from harness.store.check import check
from harness.store.describe import Kind, field_at
from harness.store.parse import State, Store, parse
from harness.units import bytes_of_sectors

ENTRIES_MAX: Final = 512
CHUNKS_MAX: Final = 4096
_ROW: Final = 64


def listing(data: bytes) -> str:
    """What is on a COW device: header, exceptions, oddities, and what each chunk is."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: bytes) -> Iterator[str]:
    try:
        store = parse(data)
    except MalformedStore as fault:
        yield f"no store that a kernel would load: {fault}"
        return
    header = store.header
    yield (
        f"{store.state.value}; valid {header.valid}, version {header.version}, "
        f"chunk size {header.chunk_sectors} sectors; {len(data)} bytes"
    )
    if store.state is not State.VALID:
        return
    yield (
        f"{store.count} exceptions in {store.area_count} areas of {store.entries_per_area}; "
        f"next free chunk {store.next_free}"
    )
    number = 0
    for block in store.exceptions():
        for old, new in block.tolist():
            if number == ENTRIES_MAX:
                yield f"  … and {store.count - ENTRIES_MAX} more"
                break
            yield f"  {number:>5}  {old} → {new}"
            number += 1
    for finding in check(store):
        yield f"odd: {finding.message}" + (f" ({finding.count} times)" if finding.count > 1 else "")
    yield "chunks (H header, M metadata, D data in use, . free, ? partial):"
    yield from _picture(store, len(data))


def _picture(store: Store, size_bytes: int) -> Iterator[str]:
    used = {
        new
        for block in store.exceptions()
        for new in block["new"].tolist()  # as the entries say
    }
    chunk_bytes = bytes_of_sectors(store.header.chunk_sectors)
    row = ""
    chunks = min(-(-size_bytes // chunk_bytes), CHUNKS_MAX)
    for chunk in range(chunks):
        kind = field_at(chunk * chunk_bytes, store.header.chunk_sectors, size_bytes).kind
        match kind:
            case Kind.HEADER | Kind.PADDING:
                row += "H"
            case Kind.ENTRY:
                row += "M"
            case Kind.PARTIAL | Kind.BEYOND:
                row += "?"
            case _:
                row += "D" if chunk in used else "."
        if len(row) == _ROW or chunk == chunks - 1:
            yield f"  {chunk + 1 - len(row):>6}  {row}"
            row = ""
