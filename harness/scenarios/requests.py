"""What a process may ask of a device, at its edges: beyond the end, off the blocks, read-only.

Direct and through the page cache, which keeps an error of write-back for whoever asks next.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, error, linear, reading, writing
from harness.trace.faults import Op

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
        reading("snap", 68, 8))
    s.parallel(reading("half", 72, 8), reading("snap", 64, 16))


@scenario()
def write_back_errors_are_told_once(s: Script) -> None:
    """An error of write-back that no fsync has told is told by the next one, whatever it wrote."""
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
    """The error stays with the device: through a rename, a suspend, not through a removal."""
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
    """Requests that are longer than the disk's queue takes, or than it is; a fault inside one."""
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
    """Which of several requests that a process has begun together is sent first: that one fails.

    More than two are gathered in a plug; one with 32 in it is emptied first.
    """
    s.disk("disk", 512, stamped=True, can_fail=True)
    s.device("above", linear("disk", 512))
    s.fault("disk", "write", 0, 512)
    s.parallel(*(("above", 8 * at, 8) for at in range(count)))
    s.read("above", 0, 512)


@scenario()
def requests_begun_together_for_two_disks(s: Script) -> None:
    """The same where some are for another disk: those are sent in the order of their beginning."""
    for name in ("one", "two"):
        s.disk(name, 128, stamped=True, can_fail=True)
    s.fault("one", "write", 0, 128, nth=2)
    s.parallel(*((("one", "two")[at % 2], 8 * at, 8) for at in range(8)))
    for name in ("one", "two"):
        s.read(name, 0, 128)


@scenario(sectors=(8, 64, 400))
def pages_written_back(s: Script, sectors: int) -> None:
    """Write-back of the page cache gathers requests, too, page by page; the third one fails."""
    s.disk("disk", 512, stamped=True, can_fail=True)
    s.fault("disk", "write", 0, 512, nth=3)
    s.write("disk", 0, sectors, buffered=True)
    s.read("disk", 0, 512)
