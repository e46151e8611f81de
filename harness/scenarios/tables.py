"""The life of the devices themselves: reloads, handover, suspend, rename, what is refused."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear, zero

STORES = ("P", "PO", "N")


@scenario(rows=("lvm2: snapshot-rename",))
def rename(s: Script) -> None:
    """Devices below a snapshot are renamed; table lines and uevents follow."""
    s.disk("base", 128, stamped=True)
    s.disk("store", 256)
    s.device("cow", linear("store", 256))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.rename("snap", "renamed")
    s.rename("cow", "cow-2")
    s.write("renamed", 3, 10)
    s.rename("renamed", "cow-2")
    s.rename("nobody", "other")
    s.rename("renamed", "snap")
    s.table("snap")


@scenario()
def missing_devices(s: Script) -> None:
    """Every request to a device that does not exist."""
    s.load("nobody", zero(8))
    s.resume("nobody")
    s.suspend("nobody")
    s.clear("nobody")
    s.remove("nobody")
    s.status("nobody")
    s.table("nobody")
    s.message("nobody", "hello")
    s.wait("nobody", 0)


@scenario()
def devices_without_tables(s: Script) -> None:
    """Every request to a device that has no table yet."""
    s.create("bare")
    s.create("bare")
    s.status("bare")
    s.table("bare")
    s.table("bare", inactive=True)
    s.clear("bare")
    s.resume("bare")
    s.message("bare", "hello")
    s.suspend("bare")
    s.resume("bare")
    s.suspend("bare")
    s.load("bare", zero(8))
    s.resume("bare")
    s.write("bare", 0, 8)


@scenario(target=("snapshot", "snapshot-origin"))
def messages(s: Script, target: str) -> None:
    """No target here takes a message."""
    s.snapshot_and_origin("P", 8)
    name = "snap" if target == "snapshot" else "org"
    s.message(name, "hello")
    s.message(name, "hello world", sector=100)
    s.message(name, "")
    s.message(name, "hello", sector=256)


@scenario(rows=("blksnap: destroyed in use", "dattobd: destroyed in use"))
def busy_devices(s: Script) -> None:
    """A device that a table uses cannot be removed."""
    s.disk("disk", 128, stamped=True)
    s.disk("cow", 128)
    s.device("base", linear("disk", 128))
    s.snapshot("snap", "base", "cow", "P", 8)
    s.remove("base")
    s.suspend("snap")
    s.remove("base")
    s.remove("snap")
    s.remove("base")


@scenario(store=STORES)
def suspend_and_resume(s: Script, store: str) -> None:
    """Suspended devices keep their state; no I/O is sent to them."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.suspend("snap")
    s.status("snap")
    s.read("snap", 0, 8)
    s.write("org", 8, 3)
    s.suspend("org")
    s.write("org", 16, 3)
    s.suspend("snap")
    s.resume("snap", "org")
    s.resume("snap")
    s.read("snap", 0, 64)


@scenario()
def suspended_below(s: Script) -> None:
    """A device below is suspended: those on top of it would wait."""
    s.disk("disk", 128, stamped=True)
    s.device("base", linear("disk", 128))
    s.disk("cow", 128)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.suspend("base")
    s.read("snap", 0, 8)
    s.resume("base")
    s.read("snap", 0, 8)


@scenario(store=STORES)
def reload_in_place(s: Script, store: str) -> None:
    """The same table once more: the exceptions are handed over, on disk nothing changes."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.write("org", 16, 3)
    s.load("snap", s.snapshot_line("base", "cow", store, 8))
    s.table("snap", inactive=True)
    s.status("snap", inactive=True)
    s.write("snap", 32, 3)
    s.write("org", 40, 3)
    s.suspend("snap")
    s.image("cow")
    s.resume("snap")
    s.read("snap", 0, 64)
    s.write("snap", 50, 9)
    s.write("org", 50, 30)


@scenario(first=("P 8", "PO 8", "N 8"), second=("P 16", "PO 8", "N 16"))
def reload_with_other_store(s: Script, first: str, second: str) -> None:
    """A reload that asks for another store gets the old one, and only the word changes."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.device("snap", Segment(128, "snapshot", f"{{base}} {{cow}} {first}"))
    s.write("snap", 0, 20)
    s.reload("snap", Segment(128, "snapshot", f"{{base}} {{cow}} {second}"))
    s.write("snap", 30, 20)
    s.read("snap", 0, 64)


@scenario(store=STORES, rows=("G3: handover in every order",))
def handover_between_devices(s: Script, store: str) -> None:
    """A second device takes over the exceptions of the first, which is left Invalid."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.prepare("heir", s.snapshot_line("base", "cow", store, 8))
    s.suspend("snap")
    s.resume("heir")
    s.read("heir", 0, 32)
    s.write("heir", 16, 3)
    s.write("org", 24, 3)
    s.table("snap")
    s.resume("snap")
    s.read("snap", 0, 8)
    s.flush("snap")
    s.prepare("third", s.snapshot_line("base", "cow", store, 8))
    s.remove("third", "snap")
    s.write("heir", 40, 3)


@scenario(store=("P", "N"), rows=("G3: handover in every order",))
def handover_source_running(s: Script, store: str) -> None:
    """The heir is resumed while the source runs: refused, and it can be tried again."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.prepare("heir", s.snapshot_line("base", "cow", store, 8))
    s.resume("heir")
    s.status("heir")
    s.table("heir")
    s.read("snap", 0, 8)
    s.suspend("snap")
    s.resume("snap")
    s.resume("heir")
    s.read("heir", 0, 16)
    s.remove("snap")
    s.write("heir", 8, 3)


@scenario(store=("P", "N"), rows=("G3: handover in every order",))
def handover_cancelled(s: Script, store: str) -> None:
    """The source is removed before the handover: the heir is invalid, the disk is not."""
    s.snapshot_and_origin(store, 8)
    s.write("snap", 0, 3)
    s.prepare("heir", s.snapshot_line("base", "cow", store, 8))
    s.remove("snap")
    s.resume("heir")
    s.read("heir", 0, 8)
    s.write("org", 0, 3)
    s.remove("heir")
    s.snapshot("snap", "base", "cow", store, 8)
    s.read("snap", 0, 16)


@scenario(rows=("G3: handover in every order",))
def handover_destination_dropped(s: Script) -> None:
    """The heir goes first: the source never notices."""
    s.snapshot_and_origin("P", 8)
    s.write("snap", 0, 3)
    s.prepare("heir", s.snapshot_line("base", "cow", "P", 8))
    s.clear("heir")
    s.write("snap", 8, 3)
    s.load("heir", s.snapshot_line("base", "cow", "P", 8))
    s.remove("heir")
    s.write("snap", 16, 3)


@scenario()
def second_load(s: Script) -> None:
    """A second table on the same COW device, while one is already waiting."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.disk("cow2", 256)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.load("snap", s.snapshot_line("base", "cow", "P", 8))
    s.load("snap", s.snapshot_line("base", "cow2", "P", 8))
    s.load("snap", s.snapshot_line("base", "cow", "P", 16))
    s.resume("snap")
    s.write("snap", 0, 3)


@scenario()
def loaded_is_not_active(s: Script) -> None:
    """A snapshot that was loaded but never resumed: origin writes bypass it."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.prepare("snap", s.snapshot_line("base", "cow", "P", 8))
    s.origin("org", "base")
    s.write("org", 0, 16)
    s.resume("snap")
    s.write("org", 8, 16)
    s.read("snap", 0, 32)


@scenario()
def tables_change_type(s: Script) -> None:
    """A device becomes a snapshot, then something else; sizes and read-only change."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.device("dev", zero(64))
    s.reload("dev", s.snapshot_line("base", "cow", "P", 8))
    s.write("dev", 0, 3)
    s.reload("dev", linear("base", 128), read_only=True)
    s.write("dev", 0, 3)
    s.reload("dev", s.snapshot_line("base", "cow", "P", 8))
    s.read("dev", 0, 16)
    s.reload("dev", error(128))
    s.read("dev", 0, 16)


@scenario(value=("2048", "1", "0", "-1", "x", "+5", "4294967295", "4294967296", ""))
def cow_threshold(s: Script, value: str) -> None:
    """The limit on copies in flight: what it accepts; contents are the same with any."""
    s.parameter("snapshot_cow_threshold", value)
    s.snapshot_and_origin("P", 8)
    s.write("org", 0, 100)
    s.write("snap", 50, 100)


@scenario(name=("snapshot_cow_threshold", "snapshot_copy_throttle", "no_such_parameter"))
def parameter_values(s: Script, name: str) -> None:
    """What a parameter of the module accepts as a number, and what is out of range."""
    for value in (
        "1",
        " 1",
        "1 ",
        "1\n",
        "1\n\n",
        "+1",
        "++1",
        "-1",
        "+-1",
        "--1",
        "-0",
        "-",
        "+",
        "0x10",
        "0X1f",
        "0x",
        "0xg",
        "-0x10",
        "010",
        "08",
        "0b1",
        "1_0",
        "1e1",
        "1.",
        "½",
        "٣",
        "2147483647",
        "2147483648",
        "-2147483648",
        "-2147483649",
        "4294967295",
        "4294967296",
        "037777777777",
        "040000000000",
        "0xffffffff",
        "0x100000000",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
    ):
        s.parameter(name, value)


@scenario(loses_guest=True, how=("panic", "hang", "exit"))
def lost(s: Script, how: str) -> None:
    """The guest is lost deliberately."""
    s.snapshot_and_origin("P", 8)
    s.write("snap", 0, 3)
    s.crash(how)
    s.write("snap", 8, 3)
