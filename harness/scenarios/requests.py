"""What a process may ask of a device, at its edges: beyond the end, off the blocks, read-only.

Direct and through the page cache, which keeps an error of write-back for whoever asks next.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear, reading, writing, zero
from harness.trace.faults import Op
from harness.units import sectors_of_bytes

_SECTORS = 72
_BLOCK = 8


def _devices(s: Script, block_size: int) -> None:
    s.disk("base", _SECTORS, stamped=True, block_size=block_size)
    s.disk("cow", 256)
    s.snapshot("snap", "base", "cow", "P", _BLOCK)
    s.device("ro", linear("base", _SECTORS), read_only=True)
    s.device("half", linear("base", 64), error(8))


_EDGES = ((72, 8), (64, 16), (3, 2), (66, 2), (60, 6), (0, 72), (80, 1))


@scenario(device=("snap", "ro", "half"), block_size=(512, 4096))
def edges_of_devices(s: Script, device: str, block_size: int) -> None:
    """Every kind of request, inside, across the end and beyond it."""
    _devices(s, block_size)
    for buffered in (False, True):
        for sector, sectors in _EDGES:
            s.write(device, sector, sectors, buffered=buffered)
            s.read(device, sector, sectors, buffered=buffered)
    for sector, sectors in _EDGES:
        s.zeroout(device, sector, sectors)
        s.discard(device, sector, sectors)
    s.flush(device)


@scenario(block_size=(512, 4096))
def edges_in_flight(s: Script, block_size: int) -> None:
    """The same among several requests at once."""
    _devices(s, block_size)
    s.parallel(
        writing("ro", 0, 8, 90),
        reading("ro", 4, 12),
        writing("snap", 1, 8, 91),
        writing("snap", 64, 16, 92),
        writing("half", 64, 8, 93),
        writing("half", 0, 8, 94),
        reading("half", 60, 8),
        reading("snap", 68, 8),
    )
    s.parallel(reading("half", 72, 8), reading("snap", 64, 16))


@scenario()
def write_back_errors_are_told_once(s: Script) -> None:
    """A write-back error that no fsync has reported is reported by the next, whatever it wrote."""
    _devices(s, 512)
    s.write("half", 64, 16, buffered=True)
    s.write("half", 0, 8)
    s.read("half", 0, 8, buffered=True)
    s.flush("half")
    s.flush("half")
    s.write("half", 64, 16, buffered=True)
    s.write("half", 0, 8, buffered=True)
    s.write("half", 0, 8, buffered=True)
    s.write("half", 56, 12, buffered=True)
    s.flush("half")
    s.write("half", 64, 16, buffered=True)
    s.reload("half", linear("base", 64))
    s.write("half", 0, 3, buffered=True)
    s.write("half", 0, 3, buffered=True)


@scenario()
def write_back_errors_of_another_life(s: Script) -> None:
    """The error stays with the device through a rename and a suspend, but not a removal."""
    _devices(s, 512)
    s.write("half", 64, 16, buffered=True)
    s.rename("half", "other")
    s.suspend("other")
    s.resume("other")
    s.flush("other")
    s.write("other", 64, 16, buffered=True)
    s.remove("other")
    s.device("half", linear("base", 64))
    s.flush("half")


@scenario(store=("P", "PO", "N"))
def write_back_into_a_full_store(s: Script, store: str) -> None:
    """The page cache writes to a snapshot more than fits."""
    s.disk("base", 64, stamped=True)
    s.disk("cow", 32)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("snap", 3, 50, buffered=True)
    s.write("snap", 60, 8, buffered=True)
    s.flush("snap")
    s.flush("snap")
    s.write("org", 0, 64, buffered=True)


_VERBS: dict[str, Op] = {"write": "write", "zeroout": "write", "discard": "discard", "read": "read"}


@scenario(verb=tuple(_VERBS))
def long_requests_of_a_disk_that_counts(s: Script, verb: str) -> None:
    """Requests longer than the disk's queue allows, or than the disk; a fault inside one."""
    s.disk("disk", 8192, stamped=True, can_fail=True)
    s.device("above", linear("disk", 8192))
    ask = getattr(s, verb)
    ask("above", 3, 2048)
    ask("disk", 1000, 7000)
    ask("above", 5000, 6000)
    s.fault("disk", _VERBS[verb], 3000, 1)
    ask("above", 2000, 2000)
    s.heal("disk")
    s.read("disk", 2000, 2000)


@scenario(count=(2, 3, 40))
def requests_begun_together(s: Script, count: int) -> None:
    """Which of several requests that a process submits together is sent first: that one fails.

    More than two are gathered in a plug; one with 32 in it is emptied first.
    """
    s.disk("disk", 512, stamped=True, can_fail=True)
    s.device("above", linear("disk", 512))
    s.fault("disk", "write", 0, 512)
    s.parallel(*(("above", 8 * at, 8) for at in range(count)))
    s.read("above", 0, 512)


@scenario()
def requests_begun_together_for_two_disks(s: Script) -> None:
    """The same with some requests for another disk: they are sent in the order of submission."""
    for name in ("one", "two"):
        s.disk(name, 128, stamped=True, can_fail=True)
    s.fault("one", "write", 0, 128, nth=2)
    s.parallel(*((("one", "two")[at % 2], 8 * at, 8) for at in range(8)))
    for name in ("one", "two"):
        s.read(name, 0, 128)


@scenario(sectors=(8, 64, 400))
def pages_written_back(s: Script, sectors: int) -> None:
    """Write-back of the page cache also gathers requests, page by page; the third one fails."""
    s.disk("disk", 512, stamped=True, can_fail=True)
    s.fault("disk", "write", 0, 512, nth=3)
    s.write("disk", 0, sectors, buffered=True)
    s.read("disk", 0, 512)


@scenario(chunk=(256, 512, 2048), can_fail=(("base",), ("cow",), ("base", "cow")))
def requests_as_long_as_the_queue(s: Script, chunk: int, can_fail: tuple[str, ...]) -> None:
    """A chunk is longer than what the disks below take at once, which may be an odd number."""
    s.disk("base", 2 * chunk + 700, stamped=True, can_fail="base" in can_fail)
    s.disk("cow", 4 * chunk, can_fail="cow" in can_fail)
    s.snapshot("snap", "base", "cow", "N", chunk)
    s.read("snap", 0, chunk)
    s.write("snap", chunk, chunk)
    s.read("snap", chunk - 10, chunk)
    s.zeroout("snap", 3, chunk)


_PARTS = ((3, 2), (5, 20), (16, 9), (30, 34), (8, 8))


@scenario(sectors=(72, 68, 66, 65), block_size=(512, 4096))
def parts_of_pages(s: Script, sectors: int, block_size: int) -> None:
    """Parts of pages through the page cache, whose blocks are as large as the size allows."""
    sectors += -sectors % (sectors_of_bytes(block_size))
    s.disk("base", sectors, stamped=True, block_size=block_size)
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", "P", 8)
    for sector, count in (*_PARTS, (60, sectors - 60)):
        s.write("snap", sector, count, buffered=True)
        s.read("snap", sector, count + 1, buffered=True)
    s.write("snap", 60, 20, buffered=True)


@scenario(
    where=("origin 72", "origin 70", "origin 65", "middle 72", "middle 70", "middle 65", "cow 72")
)
def parts_of_pages_that_cannot_be_read(s: Script, where: str) -> None:
    """A page that is partly written is read first; if that fails, whole pages still work.

    Smaller blocks would mean more requests at once than have a fixed order on a COW device that
    counts them.
    """
    dead, size = where.split()
    sectors = int(size)
    s.disk("base", sectors, stamped=True, can_fail=True)
    s.disk("cow", 512, can_fail=dead == "cow")
    s.snapshot("snap", "base", "cow", "N", 8)
    s.write("snap", 24, 8)
    if dead == "middle":
        s.fault("base", "read", 40, 1, count=0)
    else:
        s.fault("base" if dead == "origin" else "cow", "read", count=0)
    for sector, count in (*_PARTS, (36, 8), (40, 3)):
        s.write("snap", sector, count, buffered=True)
        s.read("snap", sector, count, buffered=True)
    s.heal("cow" if dead == "cow" else "base")


@scenario(nth=(1, 2, 3, 4))
def parts_of_pages_and_one_fault(s: Script, nth: int) -> None:
    """One request of several fails: what was read before it stays, the rest is requested again."""
    s.disk("base", 90, stamped=True, can_fail=True)
    s.device("above", linear("base", 90))
    for sector, count in ((1, 1), (3, 4), (3, 30), (60, 30), (63, 13)):
        for write in (True, False):
            s.fault("base", "read", nth=nth)
            if write:
                s.write("above", sector, count, buffered=True)
            else:
                s.read("above", sector, count, buffered=True)
            s.heal("base")


@scenario()
def pages_read_at_once(s: Script) -> None:
    """A long read requests all its pages at once, and one by one if that fails."""
    s.disk("base", 3003, stamped=True, can_fail=True)
    s.device("above", linear("base", 3001, 2))
    s.read("above", 5, 700, buffered=True)
    s.read("above", 900, 2103, buffered=True)
    s.fault("base", "read", 70, 1, count=0)
    s.read("above", 3, 400, buffered=True)
    s.heal("base")


@scenario(last=("zero", "error", "linear"), sectors=(72, 76))
def pages_read_ahead_of_zeros(s: Script, last: str, sectors: int) -> None:
    """Target zero refuses readahead: the request fails, and each page is read."""
    s.disk("base", 128, stamped=True, can_fail=True)
    s.device(
        "joined",
        linear("base", 24),
        zero(24),
        Segment(sectors - 48, last, "{base} 48" if last == "linear" else ""),
    )
    s.read("joined", 0, 16, buffered=True)
    s.read("joined", 16, 16, buffered=True)
    s.read("joined", 3, sectors - 3, buffered=True)
    s.device("above", Segment(sectors // 12 * 12, "striped", "3 4 {joined} 0 {joined} 0 {base} 8"))
    s.read("above", 0, sectors // 12 * 12, buffered=True)
    s.write("joined", 20, 10, buffered=True)
    s.status("above")


@scenario(sectors=(8, 16), delay_ms=(5, 20, 60))
def delayed_pages_written_back(s: Script, sectors: int, delay_ms: int) -> None:
    """Two delayed writes that expire together: the first one may be late, and leave last.

    With more than two, some may start one tick of the kernel's clock later on a busy machine.
    """
    s.disk("base", 512, stamped=True, can_fail=True)
    s.device("late", Segment(512, "delay", f"{{base}} 0 {delay_ms}"))
    for _ in range(3):
        s.write("late", 0, sectors, buffered=True)
    s.read("late", 3, sectors, buffered=True)


@scenario(below=("base plain", "plain base", "base", "plain"), sectors=(300, 600, 1500))
def pages_read_at_once_of_joined_disks(s: Script, below: str, sectors: int) -> None:
    """How many pages are read ahead follows from the optimal I/O size of the disks below."""
    s.disk("base", 1024, stamped=True, can_fail=True)
    s.disk("plain", 1024, stamped=True)
    s.device("joined", *(linear(name, 1024) for name in below.split()))
    s.read("joined", 0, sectors, buffered=True)


@scenario(chunk=(8, 64, 512))
def pages_read_at_once_of_what_was_striped(s: Script, chunk: int) -> None:
    """A device that had long stripe rows still reads ahead as many pages, on newer kernels."""
    s.disk("base", 1024, stamped=True, can_fail=True)
    s.disk("plain", 2048, stamped=True)
    s.device("rows", Segment(2048, "striped", f"2 {chunk} {{base}} 0 {{plain}} 0"))
    s.read("rows", 0, 1500, buffered=True)
    s.reload("rows", linear("plain", 1024), linear("base", 1024))
    s.read("rows", 500, 1500, buffered=True)


@scenario(block_size=(512, 4096), can_fail=(False, True))
def flush_before_the_table_is_live(s: Script, block_size: int, can_fail: bool) -> None:
    """A device takes over its disk's write cache with its first table, before that is live."""
    s.disk("base", 64, block_size=512 if can_fail else block_size, can_fail=can_fail)
    s.create("above")
    s.load("above", linear("base", 64))
    s.flush("above")
    s.resume("above")
    s.flush("above")
    s.reload("above", zero(64))
    s.flush("above")


@scenario(sectors=(8, 9, 16))
def pages_of_a_device_that_is_open(s: Script, sectors: int) -> None:
    """A device that stays open keeps its block size, and writes still reach it."""
    s.disk("base", 336, stamped=True, block_size=4096)
    s.disk("cow", 300)
    s.create("top")
    s.load("top", s.origin_line("base", sectors=168))
    s.device("dead", error(335))
    s.create("holder")
    s.load("holder", linear("top", 160))
    s.load("top", s.snapshot_line("dead", "cow", "P", 1, sectors=334))
    s.resume("top")
    s.write("top", 16, sectors, buffered=True)
    s.read("top", 16, 8, buffered=True)
    s.write("top", 40, 2, buffered=True)
    s.resume("holder")
    s.remove("holder")
    s.write("top", 42, 2, buffered=True)
