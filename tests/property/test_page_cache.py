"""The page cache against a model of bytes that knows nothing of requests."""

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.twin.bio import READ, WRITE, Bio
from harness.twin.disk import Disk
from harness.twin.limits import Limits
from harness.twin.page_cache import PageCache, cache_block_sectors
from harness.units import SECTOR_BYTES, SECTOR_SHIFT

PAGE = 8
SIZES = st.sampled_from((8, 16, 40, 64, 65, 66, 68, 71, 72, 300, 523))


class Worn(Disk):
    """A disk with sectors that cannot be read until they are written, and what was asked of it."""

    def __init__(self, sectors: int, block: int, bad: set[int]) -> None:
        super().__init__("worn", sectors, Limits(logical_block=block, max_sectors=255))
        self.bad = bad
        self.asked: list[tuple[str, int, int]] = []
        for sector in range(sectors):
            self.view(sector, 1)[:] = bytes([sector % 251]) * SECTOR_BYTES

    def submit(self, bio: Bio) -> None:
        self.asked.append((bio.op.name, bio.sector, bio.sectors))
        touched = range(bio.sector, bio.sector + bio.sectors)
        if bio.op is READ and not self.bad.isdisjoint(touched):
            bio.end(errno.EIO)
            return
        if bio.op is WRITE:
            self.bad.difference_update(touched)
        super().submit(bio)


def submit(device, bios, *, plugged=False):
    del plugged
    for bio in bios:
        device.submit(bio)
    return next((bio.error for bio in bios if bio.error), 0)


def ended(bio):
    """Nobody waits."""
    del bio


class Model:
    """What bytes a page cache of blocks holds, and which of them it can have."""

    def __init__(self, disk: Worn, block: int) -> None:
        self.sectors = disk.sectors
        self.block = block
        self.bytes = bytearray(disk.content(0, disk.sectors))
        self.bad = set(disk.bad)
        self.cached: set[int] = set()

    def blocks(self, first: int, end: int) -> range:
        """Those that the sectors up to ``end`` touch."""
        return range(first - first % self.block, end, self.block)

    def readable(self, block: int) -> bool:
        """Whether a block is there, or can be had."""
        return block in self.cached or self.bad.isdisjoint(range(block, block + self.block))

    def write(self, sector: int, data: bytes) -> tuple[int, int]:
        """Page by page; one stops the write where a block that it has a part of is lost."""
        end = min(self.sectors, sector + len(data) // SECTOR_BYTES)
        at = sector
        while at < end:
            stop = min(end, (at // PAGE + 1) * PAGE)
            parts = [
                block for block in self.blocks(at, stop) if block < at or block + self.block > stop
            ]
            self.cached.update(block for block in parts if self.readable(block))
            if not all(map(self.readable, parts)):
                break
            self.bytes[at * 512 : stop * 512] = data[(at - sector) * 512 : (stop - sector) * 512]
            self.cached.update(self.blocks(at, stop))
            at = stop
        if sector >= self.sectors:
            return 0, errno.ENOSPC
        return at - sector, 0 if at > sector else errno.EIO

    def read(self, sector: int, sectors: int) -> tuple[bytes, int]:
        """Whole pages, up to one of which a block is lost."""
        end = min(self.sectors, sector + sectors)
        at = sector
        while at < end:
            page = at // PAGE * PAGE
            if not all(map(self.readable, self.blocks(page, min(page + PAGE, self.sectors)))):
                break
            at = min(end, page + PAGE)
        failed = at == sector and sector < end
        return bytes(self.bytes[sector * 512 : max(at, sector) * 512]), errno.EIO * failed


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(("read", "write")), st.integers(0, 530), st.integers(1, 90)),
    min_size=1,
    max_size=5,
)


@st.composite
def worlds(draw) -> tuple[Worn, int]:
    logical = draw(st.sampled_from((512, 1024, 2048, 4096)))
    sectors = draw(SIZES)
    sectors += -sectors % (logical // 512)
    bad = draw(st.sets(st.integers(0, sectors - 1), max_size=4))
    disk = Worn(sectors, logical, bad)
    # It may have been opened when it had another size.
    opened = draw(st.sampled_from((0, 0, 1, 2, 4, 8)))
    disk.opened_block_sectors = max(opened, logical // 512) if opened else 0
    return disk, disk.opened_block_sectors or cache_block_sectors(disk)


@given(worlds(), OPERATIONS, st.booleans())
def test_what_is_read_written_and_written_back(world, operations, asks_again):
    disk, block = world
    before = bytes(disk.content(0, disk.sectors))
    model = Model(disk, block)
    cache = PageCache(disk, submit, ended, asks_again=asks_again)
    written: set[int] = set()
    for number, (kind, sector, sectors) in enumerate(operations):
        if kind == "read":
            data, error = cache.read(sector, sectors)
            assert (bytes(data), error) == model.read(sector, sectors)
            # What has been read once is there.
            model.cached.update(
                each
                for each in range(0, disk.sectors, block)
                if model.readable(each) and each in cache._blocks
            )
        else:
            data = bytes([number + 1]) * (sectors * SECTOR_BYTES)
            taken, error = cache.write(sector, memoryview(data))
            assert (taken, error) == model.write(sector, data)
            written.update(range(sector, sector + taken))
    assert bytes(disk.content(0, disk.sectors)) == before, "nothing is written before it has to be"
    assert cache.write_back() == 0
    content = disk.content(0, disk.sectors)
    for sector in range(disk.sectors):
        here = slice(sector << SECTOR_SHIFT, sector + 1 << SECTOR_SHIFT)
        assert content[here] == (model.bytes if sector in written else before)[here], sector
    disk.asked.clear()
    assert cache.write_back() == 0
    assert not disk.asked, "what is clean is not written"


@given(worlds(), OPERATIONS)
def test_what_is_asked_of_the_device(world, operations):
    """Whole blocks inside the device, in ascending order when they are written back."""
    disk, block = world
    cache = PageCache(disk, submit, ended, asks_again=True)
    for number, (kind, sector, sectors) in enumerate(operations):
        if kind == "read":
            cache.read(sector, sectors)
        else:
            cache.write(sector, memoryview(bytes([number]) * (sectors * SECTOR_BYTES)))
    read = list(disk.asked)
    disk.asked.clear()
    cache.write_back()
    assert all(kind == "READ" for kind, _, _ in read)
    assert all(kind == "WRITE" for kind, _, _ in disk.asked)
    for _, sector, sectors in (*read, *disk.asked):
        assert sectors > 0
        assert sector % block == 0
        assert sector + sectors <= disk.sectors
        assert sectors % block == 0 or sector + sectors == disk.sectors
    starts = [sector for _, sector, _ in disk.asked]
    assert starts == sorted(set(starts))
    assert all(sectors <= block for _, _, sectors in disk.asked)


@pytest.mark.parametrize(
    ("sectors", "logical", "block"),
    [
        (72, 512, 8),
        (76, 512, 4),
        (70, 512, 2),
        (71, 512, 1),
        (76, 2048, 4),
        (72, 4096, 8),
        (70, 1024, 2),
    ],
)
def test_the_largest_block_of_which_the_device_is_a_multiple(sectors, logical, block):
    assert cache_block_sectors(Worn(sectors, logical, set())) == block


@given(
    st.sampled_from((8, 72, 300, 523, 1500, 3003)),
    st.integers(0, 520),
    st.integers(1, 2500),
    st.integers(8, 2600),
    st.sampled_from((0, 4096, 131072, 1 << 20)),
)
def test_a_read_asks_for_as_many_pages_as_it_may(size, sector, sectors, longest, io_opt):
    disk = Worn(size, 512, set())
    disk.limits = replace(disk.limits, max_sectors=longest, io_opt=io_opt)
    disk.readahead_pages = disk.limits.readahead_pages
    cache = PageCache(disk, submit, ended, asks_again=True)
    cache.read(sector, sectors)
    end = min(size, -(-min(sector + sectors, size) // PAGE) * PAGE)
    first = sector // PAGE * PAGE
    most = max(longest // PAGE, 2 * io_opt // 4096, 32) * PAGE
    # A bio holds no more than BIO_MAX_VECS pages (include/linux/bio.h).
    longest_bio = 256 * PAGE
    wanted = [
        ("READ", at, min(longest_bio, min(start + most, end) - at))
        for start in (range(first, end, most) if sector < size else ())
        for at in range(start, min(start + most, end), longest_bio)
    ]
    assert disk.asked == wanted
