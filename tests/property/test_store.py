"""The store format for all inputs: nothing is lost, nothing is believed, memory is bounded."""

import io
import struct
import tempfile
import tracemalloc

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import MalformedStore
from harness.store import (
    State,
    Store,
    allocate,
    build,
    check,
    iter_exceptions,
    parse,
    pieces,
    serialise,
)
from harness.store.describe import Kind, field_at
from harness.store.layout import (
    ENTRY_FIELDS,
    HEADER_FIELDS,
    area_chunk,
    data_chunk,
    entries_per_area,
    is_metadata_chunk,
)
from harness.units import SECTOR_BYTES

CHUNK_SECTORS = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128])
WORD = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
SOME_PAIRS = st.lists(
    st.tuples(WORD, st.one_of(st.integers(1, 300), st.integers(1, 2**64 - 1))), max_size=40
)


def flat(store):
    return [(int(e["old"]), int(e["new"])) for block in store.exceptions() for e in block]


def metadata_ranges(store):
    chunk = store.chunk_sectors * SECTOR_BYTES
    if store.state is State.NEW:
        return [slice(0, SECTOR_BYTES)]
    return [slice(0, chunk)] + [
        slice(start, start + chunk)
        for start in (
            area_chunk(area, store.entries_per_area) * chunk for area in range(store.area_count)
        )
    ]


def parsed(image):
    try:
        return parse(image)
    except MalformedStore as caught:
        fault = caught
    assert fault.offset >= 0
    assert fault.field
    assert str(fault).startswith(f"byte {fault.offset}, {fault.field}: ")
    return None


def sparse(file, chunk_sectors, exceptions):
    """DiskHeader and areas in a file; what lies between them stays a hole."""
    for offset, content in pieces(chunk_sectors, exceptions):
        file.seek(offset)
        file.write(content)
    return file


@st.composite
def images(draw):
    """Headers that are nearly right over areas and rubbish."""
    header = struct.pack(
        "<4I",
        draw(st.sampled_from([0x70416E53, 0x70416E53, 0, 1])),
        draw(st.sampled_from([1, 0, 2])),
        draw(st.sampled_from([1, 1, 1, 2])),
        draw(st.sampled_from([1, 1, 1, 2, 4, 0, 3, 8, 1 << 21, 1 << 31])),
    )
    words = draw(st.lists(WORD, max_size=64))
    body = struct.pack(f"<{len(words)}Q", *words) * draw(st.integers(1, 80))
    tail = draw(st.binary(max_size=32))
    size = draw(st.integers(0, 24 * SECTOR_BYTES + 5))
    return (header + tail).ljust(SECTOR_BYTES, b"\0") + body + bytes(size)


def holds_identity(image):
    store = parsed(image)
    if store is None:
        return
    assert isinstance(store, Store)
    # Whatever else is on the device: header and areas come back, all else stays.
    target = bytearray(b"\xa5" * len(image))
    serialise(store, target)
    expected = bytearray(b"\xa5" * len(image))
    for part in metadata_ranges(store):
        expected[part] = image[part]
    assert target == expected
    assert flat(store) == [
        (int(e["old"]), int(e["new"])) for block in iter_exceptions(image) for e in block
    ]
    check(store, origin_sectors=64)
    file = parsed(io.BytesIO(image))
    assert (flat(file), file.next_free, file.header_chunk) == (
        flat(store),
        store.next_free,
        store.header_chunk,
    )


@given(image=st.binary(max_size=2048))
@example(image=b"")
@example(image=b"SnAp")
def test_any_bytes_give_a_store_or_a_typed_error(image):
    holds_identity(image)


@given(image=images())
@settings(deadline=None)
def test_parse_then_serialise_is_the_identity(image):
    holds_identity(image)


@given(
    image=st.builds(
        lambda pairs, stale, tail: build(1, pairs, stale=stale, header_tail=tail, sectors=200),
        st.lists(st.tuples(WORD, st.integers(1, 2**64 - 1)), max_size=20),
        st.lists(st.tuples(WORD, WORD), max_size=8),
        st.binary(max_size=490),
    )
)
@settings(deadline=None)
def test_identity_with_stale_entries_and_bytes_after_the_header(image):
    assert parse(image).state is State.VALID
    holds_identity(image)


@given(chunk_sectors=CHUNK_SECTORS, pairs=SOME_PAIRS, areas=st.integers(0, 2))
@settings(deadline=None)
def test_build_then_parse_gives_the_exceptions_back(chunk_sectors, pairs, areas):
    """``areas`` exactly full areas come first, then a few entries that may point anywhere."""
    full = allocate(range(areas * entries_per_area(chunk_sectors)), chunk_sectors)
    expected = [(int(e["old"]), int(e["new"])) for e in full] + pairs
    if chunk_sectors <= 8:
        store = parse(build(chunk_sectors, expected))
    else:
        # Hundreds of megabytes between two areas: a file with holes stands in for the device.
        with tempfile.TemporaryFile() as file:
            store = parse(sparse(file, chunk_sectors, expected))
    assert flat(store) == expected
    assert store.count == len(expected)
    next_free = 2
    for _, new in expected:
        if next_free <= new:
            next_free = (new + 1) % 2**64
    if is_metadata_chunk(next_free, store.entries_per_area) and next_free:
        next_free += 1
    assert store.next_free == next_free


@given(pairs=SOME_PAIRS.filter(bool), origin=st.integers(1, 400))
def test_check_agrees_with_a_plain_reading(pairs, origin):
    sectors = 200
    store = parse(build(1, pairs, sectors=sectors))
    entries = store.entries_per_area
    old = [pair[0] for pair in pairs]
    new = [pair[1] for pair in pairs]
    sound = {c for c in new if c < sectors and not is_metadata_chunk(c, entries)}
    expected = {
        "new-chunk-beyond-device": sum(c >= sectors for c in new),
        "new-chunk-in-metadata": sum(c < sectors and is_metadata_chunk(c, entries) for c in new),
        "duplicate-old-chunk": len(old) - len(set(old)),
        "duplicate-new-chunk": len(new) - len(set(new)),
        "old-chunk-beyond-origin": sum(c >= origin for c in old),
        "hole": sum(
            c not in sound and not is_metadata_chunk(c, entries)
            for c in range(max(sound, default=0))
        ),
    }
    found = {finding.code: finding.count for finding in check(store, origin_sectors=origin)}
    assert found == {code: count for code, count in expected.items() if count}


def peak(work):
    work()  # what is imported and cached is not counted
    tracemalloc.start()
    try:
        result = work()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


ALLOWANCE_BYTES = 3 << 20


def test_memory_does_not_believe_the_header():
    for chunk_sectors in (1 << 21, 1 << 20, 8192):
        image = struct.pack("<4I", 0x70416E53, 1, 1, chunk_sectors).ljust(4096, b"\0")
        used, store = peak(lambda image=image: parsed(image))
        assert store is None
        assert used < 64 << 10


def test_memory_of_an_invalid_store_with_a_huge_chunk():
    image = struct.pack("<4I", 0x70416E53, 0, 1, 1 << 21).ljust(4096, b"\0")
    used, store = peak(lambda: parsed(image))
    assert store.state is State.INVALID
    assert used < 64 << 10


def test_memory_is_sixteen_bytes_an_entry(tmp_path):
    count = 1_000_000
    for chunk_sectors in (1, 8, 256):
        entries = entries_per_area(chunk_sectors)
        path = tmp_path / f"cow{chunk_sectors}"
        with path.open("w+b") as file:
            sparse(file, chunk_sectors, allocate(range(count), chunk_sectors))
            used, store = peak(lambda file=file: parse(file))
            assert store.count == count
            assert used < 16 * count + ALLOWANCE_BYTES

            def stream(file=file):
                return sum(len(block) for block in iter_exceptions(file))

            used, total = peak(stream)
            assert total == count
            assert used < ALLOWANCE_BYTES
        assert store.next_free == int(
            np.concatenate([block["new"] for block in store.exceptions()]).max()
        ) + (1 if count % entries else 2)
        path.unlink()


SIZES = st.integers(0, 11).map(lambda power: 1 << power)
"""Chunk sizes from one sector to 1 MiB."""


@settings(max_examples=20)
@given(st.integers(0, 2).map(lambda power: 1 << power), st.integers(1, 90), st.integers(0, 511))
def test_every_byte_of_a_store_is_in_one_field(chunk_sectors, sectors, rest):
    """Each field begins where the one before it ends, and holds all its bytes."""
    size = sectors * SECTOR_BYTES + rest
    at = 0
    while at < size:
        field = field_at(at, chunk_sectors, size)
        assert field.start == at
        assert field.length > 0
        assert str(field)
        for byte in range(at, at + field.length):
            assert field_at(byte, chunk_sectors, size) == field
        at += field.length
    assert at == size
    assert field_at(size, chunk_sectors, size).kind is Kind.BEYOND
    assert field_at(-1, chunk_sectors, size).kind is Kind.BEYOND


@given(SIZES, st.integers(SECTOR_BYTES, 1 << 40), st.data())
def test_a_field_begins_and_ends_where_its_neighbours_do(chunk_sectors, size, data):
    """The same at any place of a device of any size."""
    byte = data.draw(st.integers(0, size - 1))
    field = field_at(byte, chunk_sectors, size)
    end = field.start + field.length
    assert field.start <= byte < end <= size
    assert field_at(field.start, chunk_sectors, size) == field
    assert field_at(end - 1, chunk_sectors, size) == field
    assert field_at(end, chunk_sectors, size) != field
    assert field_at(field.start - 1, chunk_sectors, size) != field
    chunk_bytes = chunk_sectors * SECTOR_BYTES
    assert field.chunk == byte // chunk_bytes
    whole = (field.chunk + 1) * chunk_bytes <= size
    assert (field.kind is Kind.PARTIAL) == (not whole and field.chunk > 0)


@given(SIZES, st.integers(0, 1 << 20), st.data())
def test_what_the_layout_places_is_found_there(chunk_sectors, area, data):
    entries = entries_per_area(chunk_sectors)
    chunk_bytes = chunk_sectors * SECTOR_BYTES
    size = (area + 2) * (entries + 1) * chunk_bytes
    for index, name in enumerate(HEADER_FIELDS):
        field = field_at(4 * index, chunk_sectors, size)
        assert (field.kind, field.name, field.start, field.length) == (
            Kind.HEADER,
            name,
            4 * index,
            4,
        )
    number = data.draw(st.integers(0, entries - 1))
    for index, name in enumerate(ENTRY_FIELDS):
        start = area_chunk(area, entries) * chunk_bytes + 16 * number + 8 * index
        field = field_at(start + data.draw(st.integers(0, 7)), chunk_sectors, size)
        assert (field.kind, field.name, field.start, field.length, field.area, field.number) == (
            Kind.ENTRY,
            name,
            start,
            8,
            area,
            number,
        )
    chunk = data_chunk(area * entries + number, entries)
    assert not is_metadata_chunk(chunk, entries)
    field = field_at(
        chunk * chunk_bytes + data.draw(st.integers(0, chunk_bytes - 1)), chunk_sectors, size
    )
    assert (field.kind, field.chunk, field.start, field.length, field.area, field.number) == (
        Kind.DATA,
        chunk,
        chunk * chunk_bytes,
        chunk_bytes,
        area,
        number,
    )
