"""Snapshots as LVM creates, fills, extends, merges and removes them, in device-mapper's steps.

What LVM decides for itself (which sizes it rounds to, when its monitor extends a store, whether it
waits until a file system is unmounted) is not here; what it then asks the kernel to do is.  An LV
is a stack of linear devices, as LVM builds it; a device under them that is suspended stands for the
slow disks of its tests.
"""

from typing import Final

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, error, linear, zero
from harness.store.layout import chunks_needed, entries_per_area

KIB: Final = 2
PIB: Final = 1 << 41


def _volumes(s: Script, origin_sectors: int, cow_sectors: int, *, room: int = 0) -> None:
    """What LVM has under a snapshotted volume: vg-lv-real, vg-snap-cow, vg-snap, vg-lv."""
    s.disk("pv1", origin_sectors, stamped=True)
    s.disk("pv2", max(cow_sectors, room))
    s.device("lv-real", linear("pv1", origin_sectors))
    s.device("snap-cow", linear("pv2", cow_sectors))
    s.snapshot("snap", "lv-real", "snap-cow", "P", 8)
    s.origin("lv", "lv-real")


def _resize_cow(s: Script, sectors: int) -> None:
    """The COW volume is resized while the snapshot is active; LVM suspends the whole stack."""
    s.load("snap-cow", linear("pv2", sectors))
    s.suspend("lv", "snap", "snap-cow")
    s.resume("snap-cow", "snap", "lv")


@scenario(rows=("lvm2: lvcreate-usage",), sectors=(6, 8, 1024, 2048))
def chunk_sizes_of_lvcreate(s: Script, sectors: int) -> None:
    """Chunks of 3, 4, 512 and 1024 KiB: the first is refused, the last only by LVM."""
    s.disk("base", 4096, stamped=True)
    s.disk("cow", 8192)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", sectors))
    s.resume("snap")
    s.write("snap", 3, 9)


@scenario(
    rows=("lvm2: snapshot-usage (a store that ends where its data ends)",),
    kib=(32, 128, 4096),
    more=(0, 1),
    writer=("snap", "org"),
)
def fill_to_the_last_chunk(s: Script, kib: int, more: int, writer: str) -> None:
    """Room for 32 KiB, 128 KiB or 4 MiB of data: all of it fits, and not one KiB more."""
    count = kib // 4
    s.snapshot_and_origin(
        "P",
        8,
        origin_sectors=2 * (kib + 64),
        cow_sectors=8 * chunks_needed(count, entries_per_area(8)),
    )
    s.write(writer, 0, 2 * (kib + more))
    s.read("snap", 0, 64)
    s.write("snap", 0, 8)


@scenario(
    rows=("lvm2: snapshot-usage (a store that ends where its data ends)",), kib=(33, 64, 128, 4096)
)
def fill_too_much(s: Script, kib: int) -> None:
    """33 KiB and more into a store with room for 32 KiB, in one request of each size."""
    s.snapshot_and_origin("P", 8, origin_sectors=2 * (kib + 64), cow_sectors=2 * (8 + 32))
    s.write("org", 0, 2 * 32)
    s.status("snap")
    s.write("org", 0, 2 * kib)
    s.read("snap", 0, 8)


@scenario(
    rows=(
        "lvm2: snapshot-usage (full, extended, filled again)",
        "lvm2: lvextend-snapshot-policy",
        "lvm2: usage percent",
    )
)
def full_and_extended(s: Script) -> None:
    """12 KiB hold one chunk of data: full at once; 18, then 28 KiB hold all that 20 KiB need."""
    _volumes(s, 20 * KIB, 12 * KIB, room=28 * KIB)
    s.status("snap")
    s.write("lv", 0, 1 * KIB)
    s.status("snap")
    _resize_cow(s, 15 * KIB)
    s.status("snap")
    s.write("lv", 0, 4 * KIB)
    _resize_cow(s, 18 * KIB)
    s.write("lv", 8, 2)
    s.status("snap")
    _resize_cow(s, 28 * KIB)
    s.write("lv", 0, 20 * KIB)
    s.status("snap")
    s.read("snap", 0, 20 * KIB)
    s.write("snap", 0, 20 * KIB)
    s.read("snap", 0, 20 * KIB)


@scenario(
    rows=(
        "lvm2: lvextend-snapshot-policy",
        "lvm2: lvextend-snapshot-dmeventd",
        "lvm2: usage percent",
    )
)
def extended_by_policy(s: Script) -> None:
    """Extended by a fifth whenever half is used, until nothing is left: then it overflows."""
    size, limit, used = 48, 144, 16
    _volumes(s, 512, size, room=limit)
    for chunk in range(24):
        s.write("lv" if chunk % 3 else "snap", 16 * chunk, 5)
        used += 8
        if 2 * used > size and size < limit:
            size = min(limit, size + -(-size // 40) * 8)
            _resize_cow(s, size)
    s.read("snap", 0, 8)
    s.status("snap")
    s.wait("snap", 0)
    _resize_cow(s, 48)
    s.read("snap", 0, 8)


@scenario(rows=("lvm2: snapshot-usage (a snapshot of 4095 GiB)", "lvm2: usage percent"))
def large_origin_small_store(s: Script) -> None:
    """4095 GiB with a store of 100 KiB: after one sector 12 of 100 are used."""
    sectors = 4095 << 21
    s.device("nothing", zero(15 * PIB))
    s.disk("sparse-cow", 512)
    s.device("pv", s.snapshot_line("nothing", "sparse-cow", "N", 8, sectors=15 * PIB))
    s.device("lv-real", linear("pv", sectors, 1 << 40))
    s.disk("cow", 100 * KIB)
    s.snapshot("snap", "lv-real", "cow", "P", 8)
    s.origin("lv", "lv-real")
    s.write("lv", 0, 2)
    s.status("snap")
    s.write("lv", sectors - 3, 3)
    s.write("snap", sectors // 2, 3)
    s.status("snap")
    s.read("snap", sectors - 8, 8)
    s.read("lv", sectors - 8, 8)


@scenario(
    pib=(15, 8191),
    store=("P", "N"),
    rows=("lvm2: snapshot-usage (15 PiB)", "lvm2: snapshot-usage-exa"),
)
def virtual_size(s: Script, pib: int, store: str) -> None:
    """A device of PiB over dm-zero, and a snapshot of half of it: both ends are written."""
    huge = pib * PIB
    s.device("nothing", zero(huge))
    s.disk("cow", 1024)
    s.snapshot("huge", "nothing", "cow", store, 8)
    half = huge // 2 // 8 * 8
    s.device("half", linear("huge", half, huge - half))
    s.disk("cow2", 256)
    s.snapshot("snap", "half", "cow2", "P", 8)
    s.origin("org", "half")
    s.write("huge", 3, 9)
    s.write("org", half - 5, 5)
    s.write("snap", half - 8, 4)
    s.write("snap", half // 3, 4)
    for device in ("snap", "org"):
        s.read(device, half - 16, 16)
    s.read("huge", huge - 16, 16)
    s.read("huge", huge, 8)


@scenario(rows=("lvm2: snapshot-usage-exa",), over=(-1, 0, 1))
def longest_device(s: Script, over: int) -> None:
    """2^54 sectors are 2^63 bytes, which file offsets do not reach: what a table may still say."""
    length = (1 << 54) + min(over, 0)
    s.create("nothing")
    more = [zero(1)] if over > 0 else []
    s.load("nothing", zero(length), *more)
    s.table("nothing", inactive=True)
    s.clear("nothing")
    s.remove("nothing")


@scenario(chunk=(1, 8, 64), spare=(0, -1), writer=("snap", "org"), rows=("lvm2: snapshot-maxsize",))
def store_as_large_as_it_can_need(s: Script, chunk: int, spare: int, writer: str) -> None:
    """Every chunk of the origin is written: the store stays valid; one chunk smaller, it does not.

    For chunks of 8 the origin fills the first area exactly, and the chunk that decides is the
    second area, which is zeroed before the first is written.
    """
    count = {1: 64, 8: 256, 64: 20}[chunk]
    needed = chunks_needed(count, entries_per_area(chunk))
    s.snapshot_and_origin(
        "P", chunk, origin_sectors=count * chunk, cow_sectors=(needed + spare) * chunk
    )
    s.write(writer, 0, (count - 1) * chunk)
    s.write(writer, (count - 1) * chunk, chunk)
    s.status("snap")
    s.read("snap", 0, 64)
    s.write("snap", 0, count * chunk)


@scenario(rows=("lvm2: snapshot-reactivate",))
def activation_cycles(s: Script) -> None:
    """The whole stack is removed and recreated, twice; unaligned writes of 1234567 bytes between.

    A step writes whole sectors, so those are 2411; the page cache sees them unaligned.
    """
    sectors, cow = 8192, 12288
    _volumes(s, sectors, cow)
    for turn in range(3):
        s.write("snap", 2411 * turn + 1, 2411)
        s.write("lv", 1 + 1000 * turn, 777, buffered=turn == 1)
        s.read("snap", 0, sectors)
        s.remove("lv", "snap", "snap-cow", "lv-real")
        s.image("pv2")
        if turn == 2:
            break
        s.device("lv-real", linear("pv1", sectors))
        s.device("snap-cow", linear("pv2", cow))
        s.snapshot("snap", "lv-real", "snap-cow", "P", 8)
        s.origin("lv", "lv-real")
        s.read("snap", 0, sectors)


@scenario(rows=("lvm2: snapshot-cow-reduce",))
def cow_reduced_below_use(s: Script) -> None:
    """Half of the store is used, and it shrinks to less; then direct writes overflow it."""
    _volumes(s, 1024, 512)
    s.write("lv", 0, 256)
    _resize_cow(s, 256)
    s.status("snap")
    s.read("snap", 0, 232)
    s.read("snap", 232, 24)
    s.write("lv", 300, 3)
    s.read("snap", 0, 8)
    _resize_cow(s, 512)
    s.write("snap", 0, 8)
    s.remove("snap")
    s.prepare("snap", s.snapshot_line("lv-real", "snap-cow", "P", 8))


@scenario(rows=("lvm2: snapshot-merge (in use)",), others=(0, 1))
def merge_below_an_open_device(s: Script, others: int) -> None:
    """The origin is in use by a device above it, which reads and writes through the merge."""
    _volumes(s, 256, 512)
    if others:
        s.disk("pv3", 512)
        s.suspend("lv")
        s.snapshot("other", "lv-real", "pv3", "P", 8)
        s.resume("lv")
    s.device("fs", linear("lv", 256))
    s.write("snap", 3, 40)
    s.write("fs", 100, 20)
    s.write("snap", 110, 40)
    s.merge("lv", "snap", "lv-real", "snap-cow", 8)
    s.read("fs", 0, 256)
    s.write("fs", 0, 50)
    s.flush("fs")
    s.remove("snap")
    s.reload("lv", s.origin_line("lv-real") if others else linear("pv1", 256))
    s.write("fs", 20, 60)
    s.read("fs", 0, 256)
    if others:
        s.read("other", 0, 256)


@scenario(rows=("lvm2: merge resumed by activation",), count=(20, 40, 70))
def merge_at_next_activation(s: Script, count: int) -> None:
    """The stack is removed before its merge has run, comes up merging, and is reactivated again."""
    sectors = 128
    s.disk("pv1", sectors, stamped=True)
    s.disk("pv2", 512)
    s.snapshot("snap", "pv1", "pv2", "P", 1)
    s.origin("lv", "pv1")
    for number in range(0, count, 2):
        s.write("snap", (number * 47) % (sectors - 2), 2)
    s.load("lv", s.merge_line("pv1", "pv2", "P", 1))
    s.remove("lv", "snap")
    s.device("lv", s.merge_line("pv1", "pv2", "P", 1))
    s.read("lv", 0, sectors)
    s.remove("lv")
    s.device("lv", s.merge_line("pv1", "pv2", "P", 1))
    s.status("lv")
    s.remove("lv")
    s.snapshot("snap", "pv1", "pv2", "P", 8)
    s.read("snap", 0, sectors)


@scenario(rows=("lvm2: snapshot-merge-stack",), reactivate=(False, True))
def merge_stack(s: Script, reactivate: bool) -> None:
    """A merge onto a device that keeps it waiting; the COW device fails meanwhile, and is healed.

    Half of the origin is suspended here where the original waits for a disk with 200 ms delay.
    """
    s.disk("pv1", 128, stamped=True)
    s.disk("pv2", 512)
    s.device("slow", linear("pv1", 64, 64))
    s.device("lv-real", linear("pv1", 64), linear("slow", 64))
    s.device("snap-cow", linear("pv2", 512))
    s.snapshot("snap", "lv-real", "snap-cow", "P", 8)
    s.origin("lv", "lv-real")
    for sector in (3, 20, 90, 110, 40):
        s.write("snap", sector, 5)
    s.load("lv", s.merge_line("lv-real", "snap-cow", "P", 8))
    s.suspend("snap", "lv", "slow")
    s.resume("lv")
    s.reload("snap-cow", error(512))
    s.resume("slow")
    s.load("snap", error(128))
    s.resume("snap")
    s.read("lv", 0, 64)
    s.read("lv", 3, 5)
    s.reload("snap-cow", linear("pv2", 512))
    s.read("lv", 0, 128)
    if reactivate:
        s.remove("lv", "snap")
        s.device("lv", s.merge_line("lv-real", "snap-cow", "P", 8))
        s.read("lv", 0, 128)


@scenario(rows=("lvm2: snapshot-remove-dmsetup",))
def suspend_while_the_device_below_is(s: Script) -> None:
    """Suspended without flush and freeze while the device below is suspended: it does not wait."""
    _volumes(s, 128, 256)
    s.write("snap", 3, 9)
    s.suspend("lv-real")
    s.suspend("snap", flush=False, lockfs=False)
    s.status("snap")
    s.suspend("snap-cow")
    s.resume("lv-real", "snap")
    s.read("snap", 0, 8)
    s.resume("snap-cow")
    s.read("snap", 0, 128)
    s.suspend("lv", flush=False)
    s.suspend("lv-real", lockfs=False)
    s.resume("lv-real", "lv")
    s.write("lv", 20, 9)


@scenario(rows=("lvm2: snapshot-remove-dmsetup",), below=("running", "suspended"))
def forced_removal(s: Script, below: str) -> None:
    """What dmsetup remove --force does to a snapshot in use: an error target, and it stays."""
    _volumes(s, 128, 256)
    s.device("fs", linear("snap", 128))
    s.write("fs", 3, 9)
    if below == "suspended":
        s.suspend("lv-real")
    s.load("snap", error(128))
    s.suspend("snap", flush=False, lockfs=False)
    s.resume("snap")
    s.remove("snap")
    s.table("snap")
    if below == "suspended":
        s.resume("lv-real")
    s.read("fs", 0, 16)
    s.write("lv", 0, 20)
    s.remove("fs", "snap")
    s.snapshot("snap", "lv-real", "snap-cow", "P", 8)
    s.read("snap", 0, 32)


@scenario(rows=("lvm2: snapshot-rename",), which=("lv-real", "snap-cow", "snap", "lv"))
def volume_renamed(s: Script, which: str) -> None:
    """Each device of the stack is renamed while in use."""
    _volumes(s, 128, 256)
    names = {name: name for name in ("lv-real", "snap-cow", "snap", "lv")}
    s.write("snap", 3, 9)
    s.write("lv", 40, 3)
    s.rename(which, "renamed")
    names[which] = "renamed"
    s.write(names["snap"], 20, 9)
    s.write(names["lv"], 60, 9)
    s.load(names["snap"], s.snapshot_line(names["lv-real"], names["snap-cow"], "P", 8))
    s.suspend(names["snap"])
    s.resume(names["snap"])
    s.read(names["snap"], 0, 128)
    s.table(names["snap"])


@scenario(rows=("lvm2: snapshots over raid, mirror, cache, thin",), store=("P", "N"))
def volumes_in_segments(s: Script, store: str) -> None:
    """Origin and COW volume consist of extents in no order, and of two layers."""
    s.disk("pv1", 512, stamped=True)
    s.disk("pv2", 1024)
    s.device("leg", *(linear("pv1", 64, 64 * (7 - n)) for n in range(8)))
    s.device("lv-real", linear("leg", 100, 300), linear("leg", 29, 3), linear("leg", 127, 64))
    s.device("snap-cow", *(linear("pv2", 72, 72 * (n * 3 % 7)) for n in range(7)))
    s.snapshot("snap", "lv-real", "snap-cow", store, 8)
    s.origin("lv", "lv-real")
    s.write("lv", 90, 60)
    s.write("snap", 40, 150)
    s.write("lv", 0, 256)
    s.read("snap", 0, 256)


@scenario(rows=("lvm2: snapshots over raid, mirror, cache, thin",))
def extents_moved(s: Script) -> None:
    """Half of a volume moves to another disk while its snapshot is active."""
    s.disk("pv1", 128, stamped=True)
    s.disk("pv2", 256)
    s.device("lv-real", linear("pv1", 128))
    s.snapshot("snap", "lv-real", "pv2", "P", 8)
    s.origin("lv", "lv-real")
    s.write("lv", 3, 20)
    # pvmove would mirror the contents; here the new place has others, to show who reads it.
    s.disk("pv3", 256, stamped=True)
    s.load("lv-real", linear("pv1", 64), linear("pv3", 64, 192))
    s.suspend("lv", "snap", "lv-real")
    s.resume("lv-real", "snap", "lv")
    s.read("snap", 0, 128)
    s.write("lv", 40, 60)
    s.read("snap", 0, 128)
    s.read("lv", 0, 128)
