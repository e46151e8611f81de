"""The store format by example: layout, states, the kernel's refusals, findings."""

import io
import mmap
import struct

import numpy as np
import pytest

from harness.errors import MalformedStore
from harness.store import (
    DiskHeader,
    State,
    allocate,
    build,
    check,
    describe,
    field_at,
    iter_exceptions,
    parse,
    serialise,
)
from harness.store.layout import (
    area_chunk,
    chunks_needed,
    data_chunk,
    data_index,
    entries_per_area,
    is_metadata_chunk,
)


def pairs(store):
    return [(int(e["old"]), int(e["new"])) for block in store.exceptions() for e in block]


def codes(store, **options):
    return [finding.code for finding in check(store, **options)]


@pytest.mark.parametrize(
    ("chunk_sectors", "entries", "areas", "data"),
    [
        (8, 256, [1, 258, 515], [2, 257, 259, 514, 516]),
        (1, 32, [1, 34, 67], [2, 33, 35, 66, 68]),
    ],
)
def test_documented_layout(chunk_sectors, entries, areas, data):
    assert entries_per_area(chunk_sectors) == entries
    assert [area_chunk(index, entries) for index in range(3)] == areas
    metadata = [chunk for chunk in range(3 * entries) if is_metadata_chunk(chunk, entries)]
    assert metadata == [0, *areas]
    assert [
        data_chunk(i, entries) for i in (0, entries - 1, entries, 2 * entries - 1, 2 * entries)
    ] == data
    assert [data_index(chunk, entries) for chunk in data] == [
        0,
        entries - 1,
        entries,
        2 * entries - 1,
        2 * entries,
    ]


def test_bytes_of_a_small_store():
    image = build(8, [(7, 2), (9, 3)])
    assert image[:32] == struct.pack("<4I", 0x70416E53, 1, 1, 8) + bytes(16)
    assert image[:4] == b"SnAp"
    assert image[4096 : 4096 + 48] == struct.pack("<6Q", 7, 2, 9, 3, 0, 0)
    assert len(image) == 4 * 4096


@pytest.mark.parametrize(
    ("count", "allocated", "metadata"),
    [(0, 2, 2), (31, 33, 2), (32, 35, 3), (33, 36, 3), (64, 68, 4)],
)
def test_usage_is_that_of_the_status_line(count, allocated, metadata):
    """Section 1.7 of the specification, chunk size 1."""
    store = parse(build(1, allocate(range(count), 1)))
    assert store.count == count
    assert (store.allocated_sectors, store.metadata_sectors) == (allocated, metadata)
    assert (store.last_area, store.committed) == divmod(count, 32)


def test_build_takes_the_least_device_that_the_kernel_needs():
    assert chunks_needed(0, 32) == 2
    assert chunks_needed(31, 32) == 33
    assert chunks_needed(32, 32) == 35  # an area is zeroed before the one before it is full
    full = build(1, allocate(range(32), 1))
    assert parse(full).last_area == 1
    with pytest.raises(MalformedStore, match="area 0 is full and area 1 lies beyond"):
        parse(full[:-512])


def test_sources_give_the_same_store(tmp_path):
    image = build(2, allocate(range(200, 0, -1), 2))
    path = tmp_path / "cow"
    path.write_bytes(image)
    expected = pairs(parse(image))
    assert expected[:2] == [(200, 2), (199, 3)]
    with (
        path.open("rb") as file,
        path.open("rb", buffering=0) as raw,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        for source in (
            file,
            raw,
            view,
            bytearray(image),
            memoryview(image),
            np.frombuffer(image, np.uint8),
            io.BytesIO(image),
        ):
            assert pairs(parse(source)) == expected
    # the map could be closed: nothing of it is left in the store


def test_a_map_can_be_closed_while_a_fault_is_handled(tmp_path):
    path = tmp_path / "cow"
    path.write_bytes(build(1, allocate(range(32), 1))[:-512])
    with (
        path.open("rb") as file,
        pytest.raises(MalformedStore),
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        parse(view)


def test_text_files_and_paths_are_refused(tmp_path):
    with pytest.raises(TypeError, match="binary mode"):
        parse(str(tmp_path))  # type: ignore[arg-type]  # that is what is refused
    with pytest.raises(TypeError, match="binary mode"):
        parse(io.StringIO("SnAp"))


def test_magic_zero_is_new_whatever_else_the_header_says():
    store = parse(struct.pack("<4I", 0, 7, 99, 3) + bytes(1008))
    assert store.state is State.NEW
    assert (store.count, store.next_free, store.chunk_sectors) == (0, 2, 0)
    assert check(store) == []


def test_invalid_store_has_no_exceptions():
    store = parse(build(8, [(1, 2)], header=DiskHeader(valid=0, chunk_sectors=8)))
    assert store.state is State.INVALID
    assert (pairs(store), store.chunk_sectors, store.next_free) == ([], 8, 2)


def test_any_valid_but_zero_is_valid():
    store = parse(build(8, [(1, 2)], header=DiskHeader(valid=2, chunk_sectors=8)))
    assert store.state is State.VALID
    assert store.header.valid == 2


@pytest.mark.parametrize(
    ("header", "offset", "field", "words"),
    [
        (DiskHeader(magic=0x12345678, chunk_sectors=8), 0, "magic", "ENXIO"),
        (DiskHeader(chunk_sectors=0), 12, "chunk_size", "0: Chunk size is not a power of 2"),
        (DiskHeader(chunk_sectors=24), 12, "chunk_size", "24: Chunk size is not a power of 2"),
        (DiskHeader(chunk_sectors=1 << 31), 12, "chunk_size", "Chunk size is too high"),
        (DiskHeader(version=2, chunk_sectors=8), 8, "version", "disk version 2"),
        (DiskHeader(version=2, valid=0, chunk_sectors=8), 8, "version", "disk version 2"),
        (DiskHeader(version=2, chunk_sectors=3), 12, "chunk_size", "power of 2"),
        (DiskHeader(chunk_sectors=1 << 21), 1 << 30, "area 0", "lies beyond .*EIO"),
        (
            DiskHeader(chunk_sectors=16),
            16 * 512,
            "area 0",
            "torn: only 4096 of its 8192 bytes .*EIO",
        ),
    ],
)
def test_refusals_in_the_order_of_the_kernel(header, offset, field, words):
    with pytest.raises(MalformedStore, match=words) as caught:
        parse(build(8, header=header, sectors=24))
    assert (caught.value.offset, caught.value.field) == (offset, field)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 511])
def test_less_than_a_sector_is_no_device(size):
    with pytest.raises(MalformedStore) as caught:
        parse(b"SnAp".ljust(size, b"\0")[:size])
    assert (caught.value.offset, caught.value.field) == (size, "header")


@pytest.mark.parametrize(
    ("new", "next_free"),
    [
        ([2, 3], 4),
        ([9, 3], 10),
        ([2**64 - 1], 0),
        ([2**64 - 1, 5], 6),
        ([5, 2**64 - 1], 0),
        ([2**64 - 2], 2**64 - 1),
        ([32], 33),
        ([33], 35),  # 34 is a metadata chunk
        ([1], 2),
    ],
)
def test_next_free_as_the_kernel_computes_it(new, next_free):
    store = parse(build(1, [(0, chunk) for chunk in new], sectors=100))
    assert store.next_free == next_free


def test_stale_entries_survive_and_are_no_exceptions():
    image = build(8, [(7, 2)], stale=[(8, 3), (9, 4)])
    store = parse(image)
    assert pairs(store) == [(7, 2)]
    assert store.stale()["old"][:4].tolist() == [0, 8, 9, 0]
    again = bytearray(len(image))
    serialise(store, again)
    assert bytes(again) == image


def test_serialise_to_a_file_leaves_data_alone(tmp_path):
    image = build(1, allocate(range(70), 1), header_tail=b"tail", data={2: b"x" * 512})
    path = tmp_path / "cow"
    path.write_bytes(b"\xee" * len(image))
    with path.open("r+b") as file:
        serialise(parse(image), file)
    written = path.read_bytes()
    for chunk in range(len(image) // 512):
        part = slice(chunk * 512, (chunk + 1) * 512)
        assert written[part] == (image[part] if is_metadata_chunk(chunk, 32) else b"\xee" * 512)


def test_serialise_refuses_a_smaller_device():
    with pytest.raises(ValueError, match="too small for a store"):
        serialise(parse(build(8)), bytearray(512))


def test_areas_by_index():
    store = parse(build(1, allocate(range(200), 1)))
    assert store.area_count == 7
    assert [int(store.area(index)["old"][0]) for index in range(7)] == [
        0,
        32,
        64,
        96,
        128,
        160,
        192,
    ]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            store.area(index)


class Failing(io.BytesIO):
    """A device that cannot read one range."""

    def __init__(self, image, bad):
        super().__init__(image)
        self.bad = bad

    def readinto(self, view):
        if self.tell() == self.bad:
            raise OSError(5, "Input/output error")
        return super().readinto(view)


def test_an_error_while_reading_ahead_is_nobodys_business():
    """33 exceptions end in area 1; area 2 is read ahead, or not."""
    image = build(1, allocate(range(33), 1), sectors=200)
    store = parse(Failing(image, area_chunk(2, 32) * 512))
    assert store.count == 33
    with pytest.raises(OSError, match="Input/output"):
        parse(Failing(image, area_chunk(1, 32) * 512))


def test_a_sound_store_has_no_findings():
    assert check(parse(build(8, allocate(range(600), 8))), origin_sectors=600 * 8) == []


@pytest.mark.parametrize(
    ("exceptions", "options", "expected"),
    [
        ([(1, 2), (2, 34)], {}, ["new-chunk-in-metadata"]),
        ([(1, 2), (2, 1)], {}, ["new-chunk-in-metadata"]),
        ([(1, 2), (2, 500)], {}, ["new-chunk-beyond-device"]),
        ([(1, 2), (2, 101)], {}, ["new-chunk-beyond-device"]),
        ([(1, 2), (2, 99)], {}, ["hole"]),
        ([(1, 2), (1, 3)], {}, ["duplicate-old-chunk"]),
        ([(1, 2), (2, 2)], {}, ["duplicate-new-chunk"]),
        ([(1, 2), (2, 4)], {}, ["hole"]),
        ([(1, 2), (10, 3)], {"origin_sectors": 10}, ["old-chunk-beyond-origin"]),
        ([(1, 2), (9, 3)], {"origin_sectors": 10}, []),
    ],
)
def test_findings(exceptions, options, expected):
    assert codes(parse(build(1, exceptions, sectors=101)), **options) == expected


def test_findings_name_their_places():
    store = parse(build(1, [(1, 2), (1, 40), (2, 1 << 60)], sectors=100))
    found = {finding.code: finding for finding in check(store)}
    assert list(found) == ["new-chunk-beyond-device", "duplicate-old-chunk", "hole"]
    assert "area 0, entry 2" in found["new-chunk-beyond-device"].message
    assert "undefined" in found["new-chunk-beyond-device"].message
    assert found["duplicate-old-chunk"].places == (512 + 16,)
    hole = found["hole"]
    assert hole.count == 36  # 3..33 and 35..39
    assert hole.places[0] == 3 * 512
    assert len(hole.places) == 16
    assert not hole.damage


def test_remarks_on_bytes_that_should_be_zero():
    store = parse(build(8, [(1, 2)], stale=[(5, 3)], header_tail=b"\0\0x"))
    assert codes(store) == ["header-tail", "stale-entries"]
    assert check(store)[0].places == (18,)
    assert check(store)[1].places == (4096 + 32,)


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (0, "header field magic"),
        (7, "header field valid"),
        (11, "header field version"),
        (12, "header field chunk_size"),
        (16, "header chunk, behind the header"),
        (4095, "header chunk, behind the header"),
        (4096, "metadata area 0, entry 0, old chunk"),
        (258 * 4096 + 3 * 16 + 7, "metadata area 1, entry 3, old chunk"),
        (258 * 4096 + 3 * 16 + 8, "metadata area 1, entry 3, new chunk"),
        (257 * 4096, "data chunk 257 of the store, number 255 of area 0"),
        (259 * 4096 + 17, "data chunk 259 of the store, number 0 of area 1"),
        (300 * 4096 + 1, "partial chunk 300 at the end of the device, never used"),
        (300 * 4096 + 512, "beyond the device, which ends at byte 1229312"),
    ],
)
def test_describe(offset, words):
    assert describe(offset, 8, 300 * 4096 + 512) == words


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (DiskHeader(chunk_sectors=8), ["0x70416e53 (SnAp)", "1 (valid)", "1", "8 sectors"]),
        (DiskHeader(0, 0, 0, 0), ["0x00000000 (a new store)", "0 (invalid)", "0", "0 sectors"]),
        (
            DiskHeader(0x50414E53, 7, 2, 1 << 31),
            ["0x50414e53 (no store)", "7 (valid)", "2", "2147483648 sectors"],
        ),
    ],
)
def test_the_values_of_the_header_in_words(header, values):
    sector = header.pack().ljust(512, b"\xff")
    assert [field_at(byte, 8, 4096).value(sector) for byte in (0, 5, 10, 15)] == values
    assert field_at(16, 8, 4096).value(sector) == ""


def test_the_value_of_half_an_entry_is_the_whole_entry():
    image = build(8, [(5, 2), (2**64 - 1, 3)])
    sector = image[4096:4608]
    for byte, words in ((0, "5 → 2"), (15, "5 → 2"), (16, f"{2**64 - 1} → 3"), (40, "0 → 0")):
        assert field_at(4096 + byte, 8, len(image)).value(sector) == words


def test_streaming_gives_the_same_and_raises_at_the_end():
    image = build(1, allocate(range(96), 1))
    stream = iter_exceptions(image)
    assert np.concatenate(list(stream))["old"].tolist() == list(range(96))
    stream = iter_exceptions(image[:-512])
    got = [next(stream)["old"].tolist() for _ in range(2)]  # areas 0, then 1 and 2
    assert got[0] + got[1] == list(range(96))
    with pytest.raises(MalformedStore, match="area 3"):
        next(stream)
    assert list(iter_exceptions(bytes(1024))) == []


def test_build_refuses_stale_entries_without_room():
    with pytest.raises(ValueError, match="do not fit"):
        build(1, allocate(range(31), 1), stale=[(1, 2)])
