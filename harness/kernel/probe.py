"""What this kernel does, found out by trying: the facts that a twin profile is made from.

Never by its release number, since distributions backport fixes.  Every probe is harmless on every
kernel known; what may crash one (merging a transient store, small discards of new kernels) is not
probed.  The probes' devices are removed again, and their log lines are gone before the first
scenario starts.

The facts
    enoent              errno of a table with a path that does not exist
    log_errno_suffix    a constructor's error in the log ends with its errno: `` (-EINVAL)``
    self_reference      errno of a table that names its own device (one that had a table before),
                        or ``accepted``
    unloaded_device     errno of a table that names a device which never had a table, or
                        ``accepted``
    uevent_add_at       ``create`` or ``load``: when the ``add`` of a mapped device comes
    same_device_checked_after_open   a snapshot whose COW device is its origin has opened both when
                        that is noticed, so a reference to it is stale
    message_no_table    errno of a message to a device without a table, or ``accepted``
    error_args          errno of target error with two words that are not a device, or ``accepted``
    resize_uevent       a mapped device whose size changes says so in its uevent
    too_long            errno of a table of 2^54 sectors, whose bytes a 64-bit number cannot count,
                        or ``accepted``
    refused_decides     a first table that does not fit its devices still decides the type of its
                        device: the next one is not checked until it is resumed
    zero_discard        errno of a discard of target zero, or ``accepted``
    number_overflow     ``wraps`` or ``saturates``: a number of more than 64 bits in a table
    read_only_discard   errno of a discard beyond the end of a read-only device
    features            the snapshot target takes feature arguments
    n_merge_refused     snapshot-merge of a transient store is refused by its constructor
    duplicate_wins      ``first`` or ``last``: which of two records of one chunk in a store wins
    max_sectors, max_sectors_4k   longest request of a disk, of one with blocks of 4096 bytes
    physical_block, io_min        block sizes of a disk, in bytes
    discard, discard_4k           bytes of the longest discard of such a disk, 0 for none
    discard_granularity, discard_granularity_4k   its granularity in bytes
    write_cache_4k      a disk with blocks of 4096 bytes has a write cache
    write_asks_again    a buffered write retries once to read a part of a page, if it came
                        there from another page
    discard_of_blocks   the granularity of a mapped device is at least its physical block
    preflush_passed     a write with a preflush goes whole through a table of linear targets
                        on one device, rather than as a flush and a write
    preflush_error      ``ignored`` or ``reported``: if it goes in two parts, what the failed
                        flush does to the write
    plug_reverses       of requests that a process submits together, the last one is sent first
    flush_bypasses_map  a flush goes once to each device of a table, not once to each target
    unaligned_refused   a request that begins or ends within a block of the disk fails
    striped_io_min_kept, striped_chunk_sectors   what target striped makes of its chunk size: the
                        minimum I/O even if smaller than a block, the queue's chunk
    striped_discards_more   its longest discard is that of all its stripes together
    readahead_kept      a device reads ahead as many pages as it ever did, whatever is below
    nbd_io_opt          the optimal I/O size that nbd reports, in bytes
    flakey_error_reads  target flakey knows its feature error_reads
    flakey_table_blank  its table line ends with a space
    flakey_corrupt_counted   it counts the words after corrupt_bio_byte before it reads any
    flakey_bad_down, flakey_short_corrupt   what it says to an invalid down interval, and to
                        corrupt_bio_byte alone
    flakey_drop_conflict, flakey_error_conflict   what it says to drop_writes, and to error_writes,
                        combined with writes that are corrupted
    cow_threshold       the module's parameter snapshot_cow_threshold; 2^32 − 1, which limits
                        nothing, if there is none

**Duplicates** (`dm_insert_exception`).  Completed exceptions lie in hash slots, here all in slot
0 as both chunks are below 256; the lookup takes the first one in its list.  Records (5 → a), (5 →
b) are crafted so that they cannot join into one run.  Since "dm snapshot: Replace mutex with rw
semaphore" and its kin (5.2) the scan goes from the head and inserts before the first larger chunk,
else at the tail: the first record wins.  Since 8581b19eb2c5 ("dm-snapshot: fix 'scheduling while
atomic' on real-time kernels", 6.19, 6.12.66) a record with none larger goes to the head: the last
one wins.
"""

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from harness.errors import Unsupported
from harness.kernel.backend import KernelBackend
from harness.kernel.modules import Parameters
from harness.trace import steps
from harness.trace.observations import Observation, Stamped
from harness.trace.steps import AnyStep, TargetLine
from harness.units import SECTOR_BYTES, bytes_of_sectors, sectors_of_bytes

Facts = dict[str, bool | int | str]
_SECTORS: Final = 2048
_TOO_LONG_SECTORS: Final = 1 << 54
_PLUG_TRIES: Final = 8
_SNAP_MAGIC: Final = 0x70416E53
_NO_LIMIT: Final = (1 << 32) - 1
_STALE: Final = "not in table devices list"
"""What ``dm_put_device`` logs about a reference that the table has replaced."""


def store_with_duplicates(chunk_sectors: int) -> bytes:
    """A store whose chunk 5 is recorded twice: first in chunk 4, then in chunk 2."""
    chunk_bytes = bytes_of_sectors(chunk_sectors)
    header = struct.pack("<4I", _SNAP_MAGIC, 1, 1, chunk_sectors).ljust(chunk_bytes, b"\0")
    area = struct.pack("<4Q", 5, 4, 5, 2).ljust(chunk_bytes, b"\0")
    return header + area


def _text(number: str, name: str) -> str:
    try:
        return Path("/sys/dev/block", number, "queue", name).read_text().strip()
    except OSError:
        return ""


def _queue(number: str, name: str) -> int:
    try:
        return int(_text(number, name))
    except ValueError:
        return 0


class _Prober:
    def __init__(self, backend: KernelBackend) -> None:
        self._backend = backend
        self._index = 0

    def do(self, step: AnyStep) -> Observation:
        self._index += 1
        return self._backend.execute(self._index, step)

    def load(self, name: str, kind: str, args: str, length: int = _SECTORS) -> Observation:
        return self.do(steps.Load(name=name, table=(TargetLine(0, length, kind, args),)))

    def answer(self, name: str, kind: str, args: str, length: int = _SECTORS) -> str:
        """``accepted``, or the errno; the inactive table is dropped again."""
        seen = self.load(name, kind, args, length)
        self.do(steps.Clear(name=name))
        return seen.error or "accepted"

    def zero_discard(self) -> str:
        self.do(steps.Create(name="zero"))
        self.load("zero", "zero", "")
        self.do(steps.Resume(name="zero"))
        return self.do(steps.Discard(device="zero", sector=0, sectors=8)).error or "accepted"

    def number_overflow(self) -> str:
        self.load("s", "linear", f"{{org}} {(1 << 64) + 8}")
        line = self.do(steps.Table(name="s", inactive=True)).text or ""
        self.do(steps.Clear(name="s"))
        return "wraps" if line.endswith(" 8") else "saturates"

    def read_only_discard(self) -> str:
        self.do(steps.Create(name="ro"))
        self.do(
            steps.Load(
                name="ro", table=(TargetLine(0, _SECTORS, "linear", "{b4k} 0"),), read_only=True
            )
        )
        self.do(steps.Resume(name="ro"))
        return self.do(steps.Discard(device="ro", sector=_SECTORS, sectors=8)).error or "accepted"

    def duplicate_wins(self) -> str:
        self.do(steps.Poke(device="cow", sector=0, data=store_with_duplicates(8)))
        for chunk in (2, 4):
            self.do(steps.Write(device="cow", sector=8 * chunk, sectors=8, generation=chunk))
        self.do(steps.Create(name="twice"))
        if self.load("twice", "snapshot", "{org} {cow} P 8").error:
            return "unknown"
        self.do(steps.Resume(name="twice"))
        content = self.do(steps.Read(device="twice", sector=40, sectors=8)).content
        match content.get("twice"):
            case (Stamped(sector=32),):
                return "first"
            case (Stamped(sector=16),):
                return "last"
        return "unknown"

    def refused_decides(self) -> bool:
        self.do(steps.Create(name="misfit"))
        first, second = (self.load("misfit", "linear", f"{{org}} {1 << 40}") for _ in range(2))
        return bool(first.error) and not second.error

    def resize_uevent(self) -> bool:
        self.do(steps.Create(name="grown"))
        for sectors in (_SECTORS, 2 * _SECTORS):
            self.load("grown", "zero", "", sectors)
            resumed = self.do(steps.Resume(name="grown"))
        return any("RESIZE" in uevent.properties for uevent in resumed.uevents)

    def max_sectors(self, number_of: Callable[[str], str]) -> int:
        """The longest request of a disk.

        The kernel reports whole KiB, so there may be one more sector.  Then a read of twice that,
        from a longer chunk, is two requests, not three.
        """
        told = _queue(number_of("org"), "max_sectors_kb") * 2
        read_sectors = 2 * (told + 1)
        chunk_sectors = 1 << read_sectors.bit_length()
        self.do(steps.Disk(name="long", sectors=chunk_sectors))
        self.do(steps.Create(name="cut"))
        if self.load("cut", "snapshot", f"{{long}} {{cow}} N {chunk_sectors}", chunk_sectors).error:
            return told
        self.do(steps.Resume(name="cut"))
        stat = Path("/sys/dev/block", number_of("long"), "stat")
        before = int(stat.read_text().split()[0])
        self.do(steps.Read(device="cut", sector=0, sectors=read_sectors))
        return told + (int(stat.read_text().split()[0]) - before == 2)

    def write_asks_again(self, number_of: Callable[[str], str]) -> bool:
        """A page, and a sector of one that cannot be read: it is asked for by this call and the
        next, or once more between.
        """
        self.do(steps.Create(name="dead"))
        self.load("dead", "error", "", 8)
        self.do(steps.Resume(name="dead"))
        # What is passed on to a device is counted, what a target itself fails is not.
        self.do(steps.Create(name="pages"))
        self.do(
            steps.Load(
                name="pages",
                table=(
                    TargetLine(0, 8, "linear", "{org} 0"),
                    TargetLine(8, 8, "linear", "{dead} 0"),
                ),
            )
        )
        self.do(steps.Resume(name="pages"))
        stat = Path("/sys/dev/block", number_of("pages"), "stat")
        before = int(stat.read_text().split()[0])
        self.do(steps.Write(device="pages", sector=0, sectors=9, buffered=True))
        return int(stat.read_text().split()[0]) - before > 2

    def discard_of_blocks(self, number_of: Callable[[str], str]) -> bool:
        """A snapshot that takes discards reports 512, the sectors of its chunks, or a block.

        A smaller chunk would kill some kernels.
        """
        self.do(steps.Disk(name="o4k", sectors=_SECTORS, block_size=4096))
        self.do(steps.Create(name="hints"))
        seen = self.load("hints", "snapshot", "{o4k} {b4k} N 512 1 discard_zeroes_cow")
        if seen.error:
            return True
        self.do(steps.Resume(name="hints"))
        return _queue(number_of("hints"), "discard_granularity") != SECTOR_BYTES

    def preflush_passed(self, number: str) -> bool:
        """A store over a linear target: how many writes does the device below get?

        One for the data of a chunk, and one for the metadata, or two if the flush is separate.
        """
        self.do(steps.Create(name="mid"))
        self.load("mid", "linear", "{b4k} 0")
        self.do(steps.Resume(name="mid"))
        self.do(steps.Create(name="whole"))
        self.load("whole", "snapshot", "{org} {mid} P 8")
        self.do(steps.Resume(name="whole"))
        stat = Path("/sys/dev/block", number, "stat")
        before = int(stat.read_text().split()[4])
        self.do(steps.Write(device="whole", sector=0, sectors=8))
        return int(stat.read_text().split()[4]) - before == 2

    def preflush_error(self) -> str:
        """A COW device whose end fails every write, and with it every flush.

        Flushes go through it because the other end has a write cache.
        """
        self.do(steps.Create(name="cache"))
        half = _SECTORS // 2
        seen = self.do(
            steps.Load(
                name="cache",
                table=(
                    TargetLine(0, half, "linear", "{b4k} 0"),
                    TargetLine(half, half, "flakey", f"{{b4k}} {half} 0 1 1 error_writes"),
                ),
            )
        )
        if seen.error:
            return "unknown"
        self.do(steps.Resume(name="cache"))
        self.do(steps.Create(name="flushed"))
        self.load("flushed", "snapshot", "{org} {cache} P 8")
        self.do(steps.Resume(name="flushed"))
        return (
            "reported"
            if self.do(steps.Write(device="flushed", sector=0, sectors=8)).error
            else "ignored"
        )

    def flush_bypasses_map(self, number: str) -> bool:
        """Two targets on one disk with a write cache: how many flushes does the disk get?"""
        [below] = Path("/sys/dev/block", number, "slaves").iterdir()

        def flushes() -> int:
            fields = (below / "stat").read_text().split()
            return int(fields[15]) if len(fields) > 15 else 0  # counted since 5.5

        self.do(steps.Create(name="two"))
        half = _SECTORS // 2
        self.do(
            steps.Load(
                name="two",
                table=(
                    TargetLine(0, half, "linear", "{b4k} 0"),
                    TargetLine(half, half, "linear", f"{{b4k}} {half}"),
                ),
            )
        )
        self.do(steps.Resume(name="two"))
        before = flushes()
        self.do(steps.Flush(device="two"))
        return flushes() - before == 1

    def striped(self, number_of: Callable[[str], str]) -> Facts:
        """What this kernel makes of the chunk size of target striped."""
        kept = chunk = more = readahead = False
        block = sectors_of_bytes(_queue(number_of("org"), "physical_block_size"))
        for name, size in (("small", block // 2), ("large", block)):
            self.do(steps.Create(name=name))
            seen = self.load(name, "striped", f"2 {size} {{org}} 0 {{cow}} 0", 4 * block)
            if name == "small":
                kept = any("alignment inconsistency" in line for line in seen.log)
            else:
                self.do(steps.Resume(name=name))
                number, most = number_of(name), "discard_max_hw_bytes"
                chunk = _queue(number, "chunk_sectors") == size
                more = _queue(number, most) != _queue(number_of("org"), most)
                readahead = self.readahead_kept(name, number)
        self.do(steps.Create(name="cut"))
        self.load("cut", "striped", "2 4 {b4k} 0 {b4k} 1024", 16)
        self.do(steps.Resume(name="cut"))
        refused = bool(self.do(steps.Read(device="cut", sector=0, sectors=8)).error)
        return {
            "striped_io_min_kept": kept,
            "striped_chunk_sectors": chunk,
            "striped_discards_more": more,
            "readahead_kept": readahead,
            "unaligned_refused": refused,
        }

    def readahead_kept(self, name: str, number: str) -> bool:
        """Whether a device that was ``striped`` with long rows still reads ahead as far as then."""

        def read_ahead() -> int:
            return _queue(number, "read_ahead_kb")

        def reload(kind: str, args: str) -> None:
            self.load(name, kind, args, _SECTORS // 2)
            self.do(steps.Suspend(name=name))
            self.do(steps.Resume(name=name))

        reload("striped", f"1 {_SECTORS // 2} {{org}} 0")
        most = read_ahead()
        reload("linear", "{org} 0")
        return read_ahead() == most

    def nbd_io_opt(self, number_of: Callable[[str], str]) -> int:
        """The optimal I/O size of a disk that can fail; 0 if there is no such disk."""
        try:
            self.do(steps.Disk(name="fallible", sectors=_SECTORS, can_fail=True))
        except Unsupported:
            return 0
        return _queue(number_of("fallible"), "optimal_io_size")

    def plug_reverses(self, number: str) -> bool:
        """Writes to one place, submitted together: which of them is done last?

        A process that sleeps in between sends them in order on any kernel, so a try in order
        proves nothing, and one in reverse is enough.  A loop device carries out requests one
        after the other.
        """
        [below] = Path("/sys/dev/block", number, "slaves").iterdir()
        (below / "queue" / "scheduler").write_text("none")
        for _ in range(_PLUG_TRIES):
            self.do(
                steps.Parallel(
                    ios=tuple(
                        steps.Write(device="b4k", sector=0, sectors=8, generation=generation)
                        for generation in range(1, 5)
                    )
                )
            )
            match self.do(steps.Read(device="b4k", sector=0, sectors=8)).content.get("b4k"):
                case (Stamped(generation=1),):
                    return True
        return False

    def flakey_text(self, args: str) -> str:
        """What the constructor of flakey says to ``args``."""
        log = self.load("s", "flakey", f"{{org}} 0 {args}").log
        said = next((line for line in log if " flakey: " in line), "")
        return said.partition(" flakey: ")[2].removesuffix(" (-EINVAL)")

    def flakey(self) -> Facts:
        """Facts of this kernel's flakey target."""
        self.load("s", "flakey", "{org} 0 1 0 1 drop_writes")
        line = self.do(steps.Table(name="s", inactive=True)).text or ""
        self.do(steps.Clear(name="s"))
        short = self.flakey_text("1 0 1 corrupt_bio_byte")
        return {
            "flakey_error_reads": self.answer("s", "flakey", "{org} 0 1 0 1 error_reads")
            == "accepted",
            "flakey_table_blank": line.endswith(" "),
            "flakey_bad_down": self.flakey_text("1 x"),
            # A byte and no direction: refused for the count, or for what is missing.
            "flakey_corrupt_counted": self.flakey_text("1 0 2 corrupt_bio_byte 1") == short,
            "flakey_short_corrupt": short,
            "flakey_drop_conflict": self.flakey_text("1 0 6 drop_writes corrupt_bio_byte 1 w 0 0"),
            "flakey_error_conflict": self.flakey_text(
                "1 0 6 error_writes corrupt_bio_byte 1 w 0 0"
            ),
        }

    def facts(self, number_of: Callable[[str], str]) -> Facts:
        for disk in ("org", "cow"):
            self.do(steps.Disk(name=disk, sectors=_SECTORS))
        self.do(steps.Disk(name="b4k", sectors=_SECTORS, block_size=4096))
        created = self.do(steps.Create(name="s"))
        self.do(steps.Create(name="bare"))
        message = self.do(steps.Message(name="s", text="probe"))
        missing = self.load("s", "linear", "{nosuch} 0")
        unloaded = self.answer("s", "linear", "{bare} 0")
        self.answer("s", "zero", "")
        self_reference = self.answer("s", "linear", "{s} 0", 8)
        same = self.load("s", "snapshot", "{org} {org} P 8")
        features = self.answer("s", "snapshot", "{org} {cow} N 8 0")
        threshold = Parameters().names().get("snapshot_cow_threshold", str(_NO_LIMIT))
        found: Facts = {
            "enoent": missing.error or "accepted",
            "log_errno_suffix": any(line.endswith(f"(-{missing.error})") for line in missing.log),
            "self_reference": self_reference,
            "unloaded_device": unloaded,
            "uevent_add_at": "create" if created.uevents else "load",
            "same_device_checked_after_open": any(_STALE in line for line in same.log),
            "message_no_table": message.error or "accepted",
            "error_args": self.answer("s", "error", "no device"),
            "resize_uevent": self.resize_uevent(),
            "too_long": self.answer("s", "zero", "", _TOO_LONG_SECTORS),
            "refused_decides": self.refused_decides(),
            "zero_discard": self.zero_discard(),
            "number_overflow": self.number_overflow(),
            "read_only_discard": self.read_only_discard(),
            "features": features == "accepted",
            "n_merge_refused": self.answer("s", "snapshot-merge", "{org} {cow} N 8") != "accepted",
            "duplicate_wins": self.duplicate_wins(),
            "max_sectors": self.max_sectors(number_of),
            "max_sectors_4k": _queue(number_of("b4k"), "max_sectors_kb") * 2,
            "physical_block": _queue(number_of("org"), "physical_block_size"),
            "io_min": _queue(number_of("org"), "minimum_io_size"),
            "discard": _queue(number_of("org"), "discard_max_bytes"),
            "discard_4k": _queue(number_of("b4k"), "discard_max_bytes"),
            "discard_granularity": _queue(number_of("org"), "discard_granularity"),
            "discard_granularity_4k": _queue(number_of("b4k"), "discard_granularity"),
            "write_cache_4k": _text(number_of("b4k"), "write_cache") == "write back",
            "write_asks_again": self.write_asks_again(number_of),
            "discard_of_blocks": self.discard_of_blocks(number_of),
            "preflush_passed": self.preflush_passed(number_of("b4k")),
            "preflush_error": self.preflush_error(),
            "plug_reverses": self.plug_reverses(number_of("b4k")),
            "nbd_io_opt": self.nbd_io_opt(number_of),
            "flush_bypasses_map": self.flush_bypasses_map(number_of("b4k")),
            "cow_threshold": int(threshold),
        }
        return found | self.striped(number_of) | self.flakey()


def probe(backend: KernelBackend) -> Facts:
    """Find the facts; the world is empty again afterwards.

    Raises:
        OSError: a device of the probes could not be removed (EBUSY).
    """
    backend.begin(0)
    try:
        return _Prober(backend).facts(backend.number_of)
    finally:
        left = backend.end()
        if left:
            raise OSError(errno.EBUSY, f"probing left {', '.join(left)}")
