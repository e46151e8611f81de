"""Disks that rot or lie, by the kernel's own targets: dm-dust and dm-flakey, alone and below."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, linear
from harness.units import sectors_of_bytes


def _tries(s: Script, kind: str, *args: str) -> None:
    s.disk("base", 64, stamped=True)
    s.create("try")
    for words in args:
        s.load("try", Segment(64, kind, words))
        s.table("try", inactive=True)
        s.clear("try")


@scenario()
def dust_ctr(s: Script) -> None:
    """What dust refuses: counts, devices, offsets, block sizes."""
    _tries(
        s,
        "dust",
        "",
        "{base} 0",
        "{base} 0 512 more",
        "{nobody} 0 512",
        "{base} x 512",
        "{base} 0 x",
        "{base} 0 0",
        "{base} 0 256",
        "{base} 0 768",
        "{base} 0 4096",
        "{base} 0 32768",
        "{base} 0 65536",
        "{base} 0 4294967296",
        "{nobody} x 0",
    )


@scenario()
def dust_messages(s: Script) -> None:
    """Blocks become bad and good by message; what is refused, what is answered, what is logged."""
    s.disk("base", 64, stamped=True)
    s.device("dust", Segment(64, "dust", "{base} 0 1024"))
    for text in (
        "addbadblock",
        "addbadblock 3",
        "addbadblock 3",
        "addbadblock 32",
        "addbadblock 33",
        "addbadblock x",
        "addbadblock 5 2",
        "addbadblock 6 256",
        "addbadblock 6 x",
        "addbadblock 8 4294967295",
        "addbadblock 8 4294967296",
        "addbadblock 8 4294967298",
        "addbadblock 18446744073709551616",
        "addbadblock 6 1 1",
        "queryblock",
        "queryblock 3",
        "QUERYblock 4",
        "queryblock x",
        "queryblock 33",
        "countbadblocks",
        "listbadblocks",
        "removebadblock",
        "removebadblock 9",
        "removebadblock 32",
        "quiet",
        "removebadblock 9",
        "addbadblock 3",
        "addbadblock 7",
        "clearbadblocks",
        "clearbadblocks",
        "quiet",
        "clearbadblocks",
        "listbadblocks",
        "bogus",
        "bogus 1",
        "bogus 1 2",
        "enable",
        "disable",
        "countbadblocks 3",
        "removebadblock 1 2",
        "a b c d",
    ):
        s.message("dust", text)


@scenario(block=(512, 4096), quiet=(False, True))
def dust_reads_and_writes(s: Script, block: int, quiet: bool) -> None:
    """A bad block cannot be read until it is written; one that fails writes first."""
    s.disk("base", 64, stamped=True, can_fail=True)
    s.device("dust", Segment(64, "dust", f"{{base}} 0 {block}"))
    if quiet:
        s.message("dust", "quiet")
    s.message("dust", "addbadblock 3")
    s.message("dust", "addbadblock 5 2")
    s.read("dust", 0, 64)
    s.message("dust", "enable")
    step = sectors_of_bytes(block)
    s.read("dust", 0, 3 * step)
    s.read("dust", 2 * step, 2 * step)
    s.write("dust", 3 * step, step)
    s.read("dust", 3 * step, step)
    for _ in range(3):
        s.write("dust", 5 * step, step)
    s.read("dust", 4 * step, 3 * step)
    s.message("dust", "addbadblock 1")
    s.flush("dust")
    s.discard("dust", step, step)
    s.message("dust", "countbadblocks")
    s.message("dust", "disable")
    s.read("dust", 0, 64)


@scenario(store=("P", "N"), writer=("snap", "org"), rows=("G7: faults placed by count",))
def snapshot_over_dust(s: Script, store: str, writer: str) -> None:
    """The origin has a bad block: a copy fails, a whole chunk needs none, a write cures it."""
    s.disk("base-disk", 64, stamped=True)
    s.disk("cow", 256)
    s.device("base", Segment(64, "dust", "{base-disk} 0 512"))
    s.snapshot("snap", "base", "cow", store, 8)
    s.origin("org", "base")
    for block in (10, 20, 30):
        s.message("base", f"addbadblock {block}")
    s.message("base", "enable")
    s.read("snap", 0, 64)
    s.write("snap", 8, 8)
    s.read("snap", 8, 8)
    s.write(writer, 17, 1)
    s.write("org", 20, 1)
    s.write("org", 30, 1)
    s.message("base", "listbadblocks")
    s.read("org", 0, 64)


@scenario(fails=(0, 1, 3))
def store_on_dust(s: Script, fails: int) -> None:
    """The COW device has a bad area: a commit cures it, unless it refuses writes first."""
    s.disk("base", 64, stamped=True)
    s.disk("cow-disk", 256)
    s.device("cow", Segment(256, "dust", "{cow-disk} 0 4096"))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 3, 1)
    s.message("cow", f"addbadblock 1 {fails}")
    s.message("cow", "enable")
    s.write("snap", 11, 1)
    s.write("snap", 19, 1)
    s.remove("snap")
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.resume("snap")
    s.read("snap", 0, 32)


@scenario()
def flakey_ctr(s: Script) -> None:
    """What flakey refuses, and how its table line shows what it accepts."""
    _tries(
        s,
        "flakey",
        "",
        "{base} 0 0",
        "{nobody} 0 0 1",
        "{base} x 0 1",
        "{base} 0 x 1",
        "{base} 0 0 x",
        "{base} 0 0 0",
        "{base} 0 4294967295 1",
        "{base} 0 4294967295 2",
        "{base} 0 2 4294967295",
        "{base} 0 5 5",
        "{base} 0 4294967296 1",
        "{base} 0 0 1",
        "{base} 0 0 1 0",
        "{base} 0 0 1 1 error_reads",
        "{base} 0 0 1 1 drop_writes",
        "{base} 0 0 1 1 ERROR_writes",
        "{base} 0 0 1 2 drop_writes error_writes",
        "{base} 0 0 1 2 error_writes drop_writes",
        "{base} 0 0 1 2 drop_writes drop_writes",
        "{base} 0 0 1 5 corrupt_bio_byte 3 r 7 0",
        "{base} 0 0 1 5 corrupt_bio_byte 3 W 7 2048",
        "{base} 0 0 1 6 drop_writes corrupt_bio_byte 3 w 7 0",
        "{base} 0 0 1 6 drop_writes corrupt_bio_byte 3 r 7 0",
        "{base} 0 0 1 6 corrupt_bio_byte 3 r 7 0 error_writes",
        "{base} 0 0 1 1 bogus",
        "{base} 0 0 1 2 drop_writes",
        "{base} 0 0 1 99",
        "{base} 0 0 1 x",
        "{base} 0 0 1 1 corrupt_bio_byte",
        "{base} 0 0 1 2 corrupt_bio_byte 0",
        "{base} 0 0 1 3 corrupt_bio_byte 3 x",
        "{base} 0 0 1 5 corrupt_bio_byte 3 r 256 0",
        "{base} 0 0 1 5 corrupt_bio_byte 3 r 7 x",
        "{base} 0 0 1 4 corrupt_bio_byte 3 r 7",
        "{base} 0 0 1 1 drop_writes junk",
        "{base} 3 5 7 1 drop_writes",
        "{nobody} 0 0 0",
    )


@scenario(
    features=(
        "0",
        "1 drop_writes",
        "1 error_writes",
        "5 corrupt_bio_byte 3 r 7 0",
        "5 corrupt_bio_byte 3 w 7 0",
        "6 drop_writes corrupt_bio_byte 3 r 7 0",
    )
)
def flakey_reads_and_writes(s: Script, features: str) -> None:
    """A device that is always down: reads, writes, drops, corruption; then one that is up.

    The up interval is longer than any scenario, and time begins with the table.
    """
    s.disk("base", 64, stamped=True, can_fail=True)
    s.device("low", Segment(64, "flakey", f"{{base}} 0 0 1 {features}"))
    s.read("low", 8, 8)
    s.write("low", 10, 2)
    s.read("low", 8, 8)
    s.flush("low")
    s.reload("low", Segment(64, "flakey", f"{{base}} 0 1000000 1 {features}"))
    s.read("low", 8, 8)
    s.write("low", 10, 2)
    s.read("low", 8, 8)
    s.flush("low")


@scenario(device=("base", "cow"), features=("0", "1 drop_writes", "1 error_writes"))
def snapshot_over_flakey(s: Script, device: str, features: str) -> None:
    """The origin, or the COW device, goes down under a snapshot, and comes back."""
    for name, sectors in (("base", 64), ("cow", 256)):
        s.disk(f"{name}-disk", sectors, stamped=name == "base")
        s.device(name, linear(f"{name}-disk", sectors))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.origin("org", "base")
    s.write("snap", 3, 2)
    size = 64 if device == "base" else 256
    s.reload(device, Segment(size, "flakey", f"{{{device}-disk}} 0 0 1 {features}"))
    s.read("snap", 0, 16)
    s.write("snap", 10, 2)
    s.write("org", 20, 2)
    s.reload(device, linear(f"{device}-disk", size))
    s.read("snap", 0, 32)
    s.reactivate("snap", "base", "cow", "P", 8)
    s.read("snap", 0, 32)
