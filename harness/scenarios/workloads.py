"""What other suites do to snapshots with file systems and benchmarks, as bare reads and writes.

Nothing here measures time and nothing is mounted: a scenario issues the requests that such a
workload would, scaled to a small guest, and every byte is compared.  Requests of several workers
are issued in turns, except where a name says "at once".
"""

from collections.abc import Iterator
from typing import Final

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, error, linear, zero

STORES: Final = ("P", "N")
GROUP: Final = 1024
"""Sectors of an allocation group of the file systems below."""


def scattered(count: int, step: int = 61) -> Iterator[int]:
    """0 … count - 1, each once, in a scattered order; ``step`` and count are coprime.

    This is what a benchmark's random writes are: every block once.
    """
    return ((7 + index * step) % count for index in range(count))


def _make_ext4(s: Script, device: str, sectors: int) -> None:
    """mkfs.ext4: superblocks and descriptors of some groups, bitmaps, inode tables, journal."""
    for group, start in enumerate(range(0, sectors, GROUP)):
        if group in (0, 1, 3, 5, 7):
            s.write(device, start + (2 if not group else 0), 2)
            s.write(device, start + 8, 8)
        s.write(device, start + 16, 16)
        s.write(device, start + 32, 128, zeros=True)
    s.write(device, sectors // 2, 512, zeros=True)
    s.write(device, sectors // 2, 8)
    s.write(device, 2, 2)
    s.flush(device)


def _make_xfs(s: Script, device: str, sectors: int) -> None:
    """mkfs.xfs: four header sectors and the roots of the trees in each group, the log, the end."""
    s.write(device, 0, 128, zeros=True)
    s.write(device, sectors - 128, 128, zeros=True)
    for start in range(0, sectors, GROUP):
        for header in range(4):
            s.write(device, start + header, 1)
        s.write(device, start + 8, 40)
    s.write(device, sectors // 2 + 64, 512, zeros=True)
    s.write(device, 0, 1)
    s.flush(device)


def _mount(s: Script, device: str, sectors: int) -> None:
    """Mounting: the superblock is read and rewritten, the journal is replayed and cleared."""
    s.read(device, 0, 128)
    s.write(device, sectors // 2, 8)
    s.write(device, 2, 2)


def _dataset(s: Script, device: str, sectors: int, files: int, step: int) -> None:
    """Files of 512 bytes to 20 KiB all over the device, with their inodes and the journal."""
    places = (sectors - 64) // 48
    for number, place in zip(range(files), scattered(places, step), strict=False):
        s.write(device, 48 * place, 1 + 13 * number % 40)
        if number % 8 == 7:
            s.write(device, 32 + GROUP * (number % (sectors // GROUP)) + number % 120, 2)
            s.write(device, sectors // 2 + 8 + number, 8)
            s.flush(device)


@scenario(fs=("ext4", "xfs"), store=STORES, rows=("dmtest: create_snap_{fs}_{store}",))
def dataset_on_origin_and_snapshot(s: Script, fs: str, store: str) -> None:
    """A file system's worth of writes to the origin, then another data set on the snapshot."""
    sectors = 4 * GROUP
    s.disk("base", sectors)
    s.origin("org", "base")
    (_make_ext4 if fs == "ext4" else _make_xfs)(s, "org", sectors)
    _dataset(s, "org", sectors, 24, 23)
    s.suspend("org")
    s.disk("cow", 2 * sectors)
    s.snapshot("snap", "base", "cow", store, 8)
    s.resume("org")
    _mount(s, "snap", sectors)
    _dataset(s, "snap", sectors, 40, 37)
    _dataset(s, "org", sectors, 8, 29)
    s.read("snap", 0, sectors)
    s.read("org", 0, sectors)


@scenario(store=STORES, rows=("dmtest: many_snaps_with_changes_{store}",))
def generations(s: Script, store: str) -> None:
    """Thirty-one versions of a source tree on the origin, a snapshot before each; all are kept."""
    count, sectors = 31, 512
    s.disk("base", sectors, stamped=True)
    s.origin("org", "base")
    for number in range(count):
        s.suspend("org")
        s.disk(f"cow{number}", sectors + 64)
        s.snapshot(f"snap{number}", "base", f"cow{number}", store, 8)
        s.resume("org")
        s.write("org", (number * 41 + 167) % (sectors - 24), 3 + 2 * (number % 10))
        s.write("org", 2, 2)
    for number in range(0, count, 5):
        s.read(f"snap{number}", 0, sectors)
    s.remove(*(f"snap{number}" for number in range(0, count, 2)))
    s.write("org", 100, 200)


def _sixteen(s: Script, store: str, sectors: int) -> list[str]:
    """Sixteen snapshots of one origin; returns their names."""
    s.disk("base", sectors, stamped=True)
    names = [f"snap{number}" for number in range(16)]
    for number, name in enumerate(names):
        s.disk(f"cow{number}", 2 * sectors)
        s.snapshot(name, "base", f"cow{number}", store, 8)
    s.origin("org", "base")
    return names


@scenario(store=STORES, rows=("dmtest: parallel_io_to_many_snaps_{store}",))
def many_devices_in_turns(s: Script, store: str) -> None:
    """Sixteen snapshots and their origin are written, here one after the other in turns."""
    sectors = 128
    names = _sixteen(s, store, sectors)
    for turn, place in zip(range(6), scattered(sectors, 37), strict=False):
        for number, name in enumerate(["org", *names]):
            at = (place + 29 * number) % sectors
            s.write(name, at, min(1 + (number + 5 * turn) % 17, sectors - at))
    for name in names[::5]:
        s.read(name, 0, sectors)


@scenario(store=STORES, rows=("dmtest: parallel_io_to_many_snaps_{store}",))
def many_devices_at_once(s: Script, store: str) -> None:
    """Sixteen snapshots and their origin are written, one request to each of them in flight."""
    sectors = 128
    names = _sixteen(s, store, sectors)
    for turn, place in zip(range(4), scattered(sectors, 37), strict=False):
        places = [(place + 29 * number) % sectors for number in range(17)]
        s.parallel(
            *(
                (name, at, min(1 + (number + 5 * turn) % 17, sectors - at))
                for number, (name, at) in enumerate(zip(["org", *names], places, strict=True))
            )
        )
    for name in names[::5]:
        s.read(name, 0, sectors)


@scenario(
    chunk=(8, 16, 32, 64, 128),
    io=(128, 512, 2048),
    store=STORES,
    rows=(
        "dmtest: snap_breaking_throughput_{store}",
        "dmtest: snap_already_broken_throughput_{store}",
    ),
)
def breaking(s: Script, chunk: int, io: int, store: str) -> None:
    """The whole origin in requests of one size, under a snapshot; once more when all is copied."""
    sectors = 2048
    s.snapshot_and_origin(store, chunk, origin_sectors=sectors, cow_sectors=2 * sectors)
    for _ in range(2):
        for sector in range(0, sectors, io):
            s.write("org", sector, io)
    s.read("snap", 0, sectors)


WORKLOADS: Final = {
    "randwrite": (8, 64),
    "seqwrite": (512, 8),
    "randread": (8, 64),
    "seqread": (512, 8),
}
"""Sectors of a request, and how many there are."""


def _work(s: Script, device: str, pattern: str, workers: int) -> None:
    """Each worker has a part of the device; they take turns."""
    io, count = WORKLOADS[pattern]
    each = count // workers
    order = list(scattered(each)) if pattern.startswith("rand") else list(range(each))
    for block in order:
        for worker in range(workers):
            act = s.read if pattern.endswith("read") else s.write
            act(device, (worker * each + block) * io, io)


@scenario(
    which=("origin", "snapshot"),
    pattern=("randwrite",),
    workers=(1, 8),
    store=STORES,
    rows=(
        "dmtest: fio_{which}_randwrite_throughput_{store}",
        "dmtest: fio_{which}_randwrite_iod_{store}",
        "dmtest: fio_{which}_randwrite_latency_{store}",
    ),
)
@scenario(
    which=("origin", "snapshot"),
    pattern=("seqwrite",),
    workers=(1, 8),
    store=STORES,
    rows=(
        "dmtest: fio_{which}_seqwrite_throughput_{store}",
        "dmtest: fio_{which}_seqwrite_iod_{store}",
    ),
)
@scenario(
    which=("snapshot",),
    pattern=("randread",),
    workers=(1, 8),
    store=STORES,
    rows=(
        "dmtest: fio_{which}_randread_throughput_{store}",
        "dmtest: fio_{which}_randread_latency_{store}",
    ),
)
@scenario(
    which=("snapshot",),
    pattern=("seqread",),
    workers=(1, 8),
    store=STORES,
    rows=("dmtest: fio_{which}_seqread_throughput_{store}",),
)
def workers(s: Script, which: str, pattern: str, workers: int, store: str) -> None:
    """A benchmark's requests: 4 KiB scattered or 256 KiB in order, by workers in turns."""
    io, count = WORKLOADS[pattern]
    s.snapshot_and_origin(store, 8, origin_sectors=io * count, cow_sectors=2 * io * count)
    if pattern.endswith("read"):
        s.write("snap", 5, io * count // 3)
        s.write("org", io * count // 2, io * count // 4)
    _work(s, {"origin": "org", "snapshot": "snap"}[which], pattern, workers)


@scenario(
    pattern=("randwrite",),
    rows=(
        "dmtest: fio_raw_device_randwrite_throughput",
        "dmtest: fio_raw_device_randwrite_iod",
        "dmtest: fio_raw_device_randwrite_latency",
    ),
)
@scenario(
    pattern=("seqwrite",),
    rows=(
        "dmtest: fio_raw_device_seqwrite_throughput",
        "dmtest: fio_raw_device_seqwrite_iod",
        "dmtest: linear_throughput",
        "dmtest: bonnie_raw_device_xfs",
        "dmtest: bonnie_raw_device_ext4",
    ),
)
@scenario(
    pattern=("randread",),
    rows=("dmtest: fio_raw_device_randread_throughput", "dmtest: fio_raw_device_randread_latency"),
)
@scenario(pattern=("seqread",), rows=("dmtest: fio_raw_device_seqread_throughput",))
def no_snapshot(s: Script, pattern: str) -> None:
    """The same requests without a snapshot: on a linear device, and on a lone origin."""
    io, count = WORKLOADS[pattern]
    s.disk("base", io * count, stamped=True)
    s.device("plain", linear("base", io * count))
    _work(s, "plain", pattern, 4)
    s.remove("plain")
    s.origin("org", "base")
    _work(s, "org", pattern, 4)


@scenario(fs=("xfs", "ext4"), store=STORES, rows=("dmtest: bonnie_rolling_snap_{fs}_{store}",))
def rolling_snapshot(s: Script, fs: str, store: str) -> None:
    """A benchmark on the origin; twice more under a snapshot, and under the next in its place."""
    sectors = 2 * GROUP
    s.disk("base", sectors)
    s.origin("org", "base")
    (_make_ext4 if fs == "ext4" else _make_xfs)(s, "org", sectors)
    _dataset(s, "org", sectors, 10, 23)
    s.disk("cow", 2 * sectors)
    for _ in range(2):
        s.suspend("org")
        s.write("cow", 0, 1, zeros=True)
        s.snapshot("snap", "base", "cow", store, 8)
        s.resume("org")
        for step in (23, 19):
            _dataset(s, "org", sectors, 10, step)
        s.read("snap", 0, sectors)
        s.remove("snap")


@scenario(
    chunk=(8, 128),
    store=STORES,
    rows=(
        "dmtest: multithreaded_layout_reread_throughput_xfs_{store}",
        "dmtest: multithreaded_layout_reread_throughput_ext4_{store}",
    ),
)
def interleaved_files(s: Script, chunk: int, store: str) -> None:
    """Eight files grow in turns under a snapshot, so each lies in pieces; then one is read."""
    files, pieces, piece = 8, 4, 128
    sectors = files * pieces * piece
    s.snapshot_and_origin(store, chunk, origin_sectors=sectors, cow_sectors=2 * sectors)
    for number in range(pieces):
        for file in range(files):
            s.write("org", (number * files + file) * piece, piece)
    for device in ("org", "snap"):
        for number in range(pieces):
            s.read(device, (number * files + 3) * piece, piece)


@scenario(rows=("dmtest: huge_chunk_size_N",))
def huge_chunk_transient(s: Script) -> None:
    """One chunk of 256 MiB: the first write copies all of it; most of it lies on dm-zero."""
    chunk, real = 524288, 4096
    s.disk("base-disk", real, stamped=True)
    s.disk("cow-disk", real)
    for name in ("base", "cow"):
        s.device(name, linear(f"{name}-disk", real), zero(chunk))
    s.snapshot("snap", "base", "cow", "N", chunk)
    s.origin("org", "base")
    s.write("org", 3, 9)
    s.write("snap", 100, 50)
    s.read("snap", 0, real)
    s.read("org", 0, 64)


# -- xfstests and other engines ---------------------------------------------------------------


@scenario(store=("P", "PO", "N"), rows=("xfstests: generic/081",))
def volume_of_256_mib_overflows(s: Script, store: str) -> None:
    """5 MiB through a snapshot with a store of 4 MiB, of a (sparse) volume of 256 MiB."""
    sectors, mib = 526336, 2048
    s.device("nothing", zero(sectors))
    s.disk("sparse-cow", 8 * mib)
    s.snapshot("base", "nothing", "sparse-cow", "N", 64)
    s.origin("org", "base")
    _mount(s, "org", sectors)
    s.suspend("org")
    s.disk("cow", 4 * mib)
    s.snapshot("snap", "base", "cow", store, 8)
    s.resume("org")
    _mount(s, "snap", sectors)
    for sector in range(0, 5 * mib, 128):
        s.write("snap", 64 * mib + sector, 128)
    s.flush("snap")
    s.read("snap", 64 * mib, 64)
    s.write("org", 64 * mib, 64)
    s.remove("snap")
    s.read("org", 64 * mib, 64)


@scenario(rows=("xfstests: btrfs/291",))
def snapshot_after_every_flush(s: Script) -> None:
    """A log of writes is replayed; at every flush a throw-away snapshot of the result is used."""
    sectors = 512
    s.disk("base", sectors)
    s.disk("cow", 256)
    s.origin("org", "base")
    for number in range(10):
        for write in range(3):
            s.write("org", (number * 97 + write * 160) % (sectors - 16), 2 + 6 * write)
        s.flush("org")
        s.suspend("org")
        s.snapshot("snap", "base", "cow", "N", 8)
        s.write("snap", 16, 20)
        s.write("snap", number * 48, 8)
        s.flush("snap")
        s.read("snap", 0, sectors)
        s.remove("snap")
        s.resume("org")
        s.read("org", 0, sectors)


@scenario(rows=("huge sparse disk: 17 TiB",), store=STORES)
def sparse_disk_fills_up(s: Script, store: str) -> None:
    """A disk of 17 TiB over dm-zero, with data all over it until its small store is full."""
    huge = 17 << 31
    s.device("nothing", zero(huge))
    s.disk("cow", 256)
    s.snapshot("sparse", "nothing", "cow", store, 16)
    for number in range(17):
        s.write("sparse", (number << 31) + 5, 8)
    s.read("sparse", (5 << 31) - 8, 32)
    if store == "P":
        s.reactivate("sparse", "nothing", "cow", "P", 16)
        s.read("sparse", (15 << 31) - 8, 32)


@scenario(store=("P", "PO", "N"), rows=("blksnap: origin pulled out",))
def origin_pulled_out(s: Script, store: str) -> None:
    """The origin's disk fails under everything and comes back; what was copied stays readable."""
    s.disk("disk", 256, stamped=True)
    s.device("base", linear("disk", 256))
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    s.write("org", 0, 20)
    s.write("snap", 64, 16)
    s.reload("base", error(256))
    s.read("snap", 0, 16)
    s.read("snap", 128, 8)
    s.write("snap", 72, 3)
    s.write("snap", 80, 8)
    s.write("org", 3, 3)
    s.read("org", 0, 8)
    s.reload("base", linear("disk", 256))
    s.read("snap", 0, 256)
    s.write("org", 140, 3)
    s.reload("base", error(256))
    s.write("org", 200, 3)
    s.reload("base", linear("disk", 256))
    s.read("snap", 0, 16)
    s.write("org", 200, 3)


@scenario(rows=("blksnap: destroyed in use", "dattobd: destroyed in use"), store=STORES)
def destroyed_in_use(s: Script, store: str) -> None:
    """A snapshot that is in use by another device cannot be removed; the origin still works."""
    s.snapshot_and_origin(store, 8)
    s.device("top", linear("snap", 256))
    s.write("top", 3, 20)
    s.write("org", 40, 20)
    s.remove("snap")
    s.read("top", 0, 64)
    s.suspend("top")
    s.remove("snap")
    s.resume("top")
    s.remove("top", "snap")
    s.write("org", 0, 64)
    s.remove("org")
    s.snapshot("snap", "base", "cow", store, 8)
    s.read("snap", 0, 64)


@scenario(rows=("blksnap: corruption", "dattobd: corruption"), store=STORES, chunk=(8, 64))
def image_stays(s: Script, store: str, chunk: int) -> None:
    """Scattered writes to the origin, all read through the snapshot every few writes."""
    sectors = 512
    s.snapshot_and_origin(store, chunk, origin_sectors=sectors, cow_sectors=4 * sectors)
    for turn, place in zip(range(24), scattered(sectors, 151), strict=False):
        s.write("org", place, min(1 + turn % 9 * 5, sectors - place))
        if turn % 4 == 3:
            s.read("snap", 0, sectors)


@scenario(
    rows=("blksnap: boundary writes", "dattobd: boundary writes"), store=STORES, rest=(0, 1, 7)
)
def boundary_writes(s: Script, store: str, rest: int) -> None:
    """One sector, and two, on either side of every boundary: chunk, page, end of the device."""
    sectors = 64 + rest
    s.snapshot_and_origin(store, 16, origin_sectors=sectors)
    for edge in (0, 8, 16, 48, 64, sectors):
        for sector, length in ((edge - 1, 1), (edge, 1), (edge - 1, 2)):
            if sector >= 0 and sector + length <= sectors:
                s.write("org" if edge % 16 else "snap", sector, length)
    s.read("snap", 0, sectors)
    s.read("org", 0, sectors)


@scenario(
    rows=("blksnap: writes to the snapshot image", "dattobd: writes to the snapshot image"),
    store=STORES,
)
def image_is_written(s: Script, store: str) -> None:
    """The snapshot is overwritten repeatedly, before and after origin writes to the same place."""
    s.snapshot_and_origin(store, 8)
    for sector in (0, 5, 40, 41, 200):
        s.write("snap", sector, 12)
        s.write("org", sector, 20)
        s.write("snap", sector + 3, 6)
        s.read("snap", sector, 24)
        s.read("org", sector, 24)
