"""Merging a snapshot back into its origin: the recipe, its order, its failures."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, Segment, error, linear, patched


def _two_snapshots(s: Script, chunk: int = 8) -> None:
    """The usual cast, and a second snapshot with its own chunk size."""
    s.snapshot_and_origin("P", 8)
    s.disk("cow2", 512)
    s.snapshot("snap2", "base", "cow2", "P", chunk)


def _origin_again(s: Script) -> None:
    """The merge is over: the device becomes an origin again, and the COW device is free."""
    s.reload("org", s.origin_line("base"))
    s.remove("snap")


@scenario(
    store=("P", "PO"),
    chunk=(1, 8, 16),
    rows=("android: DmSnapshot", "lvm2: snapshot-merge (in use)"),
)
def merge_recipe(s: Script, store: str, chunk: int) -> None:
    """Written on both sides, merged as LVM does it, then an origin again."""
    s.snapshot_and_origin(store, chunk)
    s.write("snap", 3, 20)
    s.write("org", 10, 30)
    s.write("snap", 100, 40)
    s.merge("org", "snap", "base", "cow", chunk, store=store)
    s.read("org", 0, 256)
    s.write("org", 0, 50)
    s.flush("org")
    s.image("base", "cow")
    _origin_again(s)
    s.write("org", 60, 8)


@scenario(rows=("G4: the status line step by step",))
def merge_order(s: Script) -> None:
    """Runs are merged backwards, the last committed first, and only within consecutive chunks."""
    s.snapshot_and_origin("P", 8)
    for chunk in (3, 4, 5, 9, 8, 1):
        s.write("snap", chunk * 8, 8)
    s.merge("org", "snap", "base", "cow", 8)
    s.read("org", 0, 128)


@scenario(count=(31, 32, 33, 40, 64, 70), rows=("android: Merge_Resume",))
def merge_across_areas(s: Script, count: int) -> None:
    """More than an area, exactly one, exactly two."""
    s.snapshot_and_origin("P", 1, origin_sectors=128)
    s.write("snap", 10, count)
    s.merge("org", "snap", "base", "cow", 1)
    s.read("org", 0, 128)


@scenario()
def merge_of_nothing(s: Script) -> None:
    """A snapshot without exceptions."""
    s.snapshot_and_origin("P", 8)
    s.merge("org", "snap", "base", "cow", 8)
    s.write("org", 3, 3)


@scenario(rest=(1, 5))
def merge_tail(s: Script, rest: int) -> None:
    """The last chunk of an origin that is not a multiple of the chunk size."""
    s.snapshot_and_origin("P", 8, origin_sectors=64 + rest)
    s.write("snap", 60, 4 + rest)
    s.merge("org", "snap", "base", "cow", 8)
    s.read("org", 0, 64 + rest)


@scenario(
    state=("valid", "overflowed", "invalid"),
    rows=("lvm2: merge resumed by activation", "android: MergeInRecovery"),
)
def merge_after_activation(s: Script, state: str) -> None:
    """The snapshot has been removed when the merge is loaded: the store is read from the disk."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 56)
    s.snapshot("snap", "base", "cow", "P" if state == "invalid" else "PO", 8)
    s.write("snap", 3, 20)
    if state != "valid":
        s.write("snap", 64, 64)
    s.remove("snap")
    s.device("org", s.merge_line("base", "cow", "P", 8))
    s.read("org", 0, 128)
    s.write("org", 0, 8)


@scenario(state=("overflowed", "invalid"))
def merge_in_state(s: Script, state: str) -> None:
    """A snapshot that has overflowed, or is invalid, handed over to a merge."""
    store = "PO" if state == "overflowed" else "P"
    s.snapshot_and_origin(store, 8, origin_sectors=128, cow_sectors=56)
    s.write("snap", 3, 20)
    s.write("snap", 64, 64)
    s.merge("org", "snap", "base", "cow", 8, store=store)
    s.read("org", 0, 128)
    s.write("org", 0, 8)
    s.write("org", 100, 8)
    s.flush("org")
    s.status("org")


@scenario()
def merge_of_transient_refused(s: Script) -> None:
    """A transient store cannot be merged: refused at the handover."""
    s.snapshot_and_origin("N", 8)
    s.write("snap", 3, 20)
    s.load("org", s.merge_line("base", "cow", "N", 8))
    s.load("org", s.merge_line("base", "cow", "P", 8))
    s.write("snap", 30, 3)


@scenario(rows=("lvm2: snapshot-merge (a second one refused)",))
def second_merge_refused(s: Script) -> None:
    """Only one merge for each origin, if it is handed over."""
    _two_snapshots(s)
    s.write("snap", 3, 20)
    s.write("snap2", 40, 20)
    s.merge("org", "snap", "base", "cow", 8)
    s.prepare("second", s.merge_line("base", "cow2", "P", 8))
    s.load("org", s.merge_line("base", "cow2", "P", 8))
    s.read("snap2", 0, 128)


@scenario()
def two_merges_at_once(s: Script) -> None:
    """Two merges on one origin, each loaded directly: nothing prevents it."""
    _two_snapshots(s)
    s.write("snap", 0, 32)
    s.write("snap2", 24, 32)
    s.remove("snap", "snap2", "org")
    s.device("one", s.merge_line("base", "cow", "P", 8))
    s.device("two", s.merge_line("base", "cow2", "P", 8))
    s.read("one", 0, 128)
    s.read("two", 0, 128)


@scenario(chunk=(8, 4, 32), rows=("lvm2: snapshot-merge (copies out to one more)",))
def merge_copies_out(s: Script, chunk: int) -> None:
    """Another snapshot, of equal, smaller or larger chunks, keeps what the merge overwrites."""
    _two_snapshots(s, chunk)
    s.suspend("org")
    s.resume("org")
    s.write("snap", 3, 40)
    s.write("org", 20, 4)
    s.write("snap", 100, 9)
    s.merge("org", "snap", "base", "cow", 8)
    s.read("snap2", 0, 256)
    s.read("org", 0, 256)
    s.write("org", 128, 40)
    s.read("snap2", 0, 256)


@scenario(store=("P", "PO", "N"))
def merge_overflows_another(s: Script, store: str) -> None:
    """Another snapshot cannot hold what the merge overwrites: it is invalid, the merge goes on."""
    s.snapshot_and_origin("P", 8)
    s.disk("cow2", 40)
    s.snapshot("snap2", "base", "cow2", store, 8)
    s.write("snap", 3, 100)
    s.merge("org", "snap", "base", "cow", 8)
    s.read("snap2", 0, 8)
    s.read("org", 0, 256)


@scenario()
def merge_writes_behave_as_an_origin(s: Script) -> None:
    """Writes through a merge that is over: other snapshots get their copies."""
    _two_snapshots(s)
    s.write("snap", 3, 4)
    s.merge("org", "snap", "base", "cow", 8)
    s.write("org", 0, 3)
    s.write("org", 60, 30)
    s.read("snap2", 0, 128)


@scenario()
def cow_is_free_after_merge(s: Script) -> None:
    """After a merge the store is valid and empty: it serves the next snapshot."""
    s.snapshot_and_origin("P", 8)
    s.write("snap", 3, 40)
    s.merge("org", "snap", "base", "cow", 8)
    _origin_again(s)
    s.suspend("org")
    s.snapshot("snap", "base", "cow", "P", 8)
    s.resume("org")
    s.write("org", 0, 20)
    s.read("snap", 0, 64)


def _parted(s: Script) -> None:
    """Base of two disks, so that one half of it can be suspended; cow, snapshot and origin."""
    s.disk("low", 64, stamped=True)
    s.disk("high", 64, stamped=True)
    s.device("high-dev", linear("high", 64))
    s.device("base", linear("low", 64), linear("high-dev", 64))
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.origin("org", "base")


@scenario()
def merge_held_up(s: Script) -> None:
    """Half of the origin is suspended: the merge waits there, and goes on when it is resumed."""
    _parted(s)
    s.write("snap", 3, 10)
    s.write("snap", 80, 10)
    s.write("snap", 30, 10)
    s.load("org", s.merge_line("base", "cow", "P", 8))
    s.suspend("snap", "org")
    s.suspend("high-dev")
    s.resume("org")
    s.status("org")
    s.image("low", "cow")
    s.resume("high-dev")
    s.read("org", 0, 128)


@scenario(chunk=(8, 2))
def snapshot_in_the_middle_of_a_merge(s: Script, chunk: int) -> None:
    """A new snapshot while the merge waits: it gets the origin's intermediate state."""
    _parted(s)
    s.write("snap", 3, 10)
    s.write("snap", 80, 10)
    s.write("snap", 30, 10)
    s.load("org", s.merge_line("base", "cow", "P", 8))
    s.suspend("snap", "org")
    s.suspend("high-dev")
    s.resume("org")
    s.disk("cow2", 512)
    s.prepare("snap2", s.snapshot_line("base", "cow2", "P", chunk))
    s.resume("high-dev")
    s.resume("snap2")
    s.read("snap2", 0, 128)
    s.write("org", 100, 20)
    s.read("snap2", 0, 128)


def _merge_over_parts(s: Script) -> None:
    """A merge is ready to start, over lower devices whose tables can be changed."""
    s.disk("base-disk", 128, stamped=True)
    s.disk("cow-disk", 512)
    s.device("base", linear("base-disk", 128))
    s.device("cow", linear("cow-disk", 512))
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    s.write("snap", 3, 20)
    s.write("snap", 60, 25)
    s.load("org", s.merge_line("base", "cow", "P", 1))
    s.suspend("snap", "org")


def _break(s: Script, device: str, first: int, count: int, size: int) -> None:
    """Sectors of a lower device fail from now on."""
    s.reload(device, *patched(f"{device}-disk", size, first, error(count)))


def _heal(s: Script, device: str, size: int) -> None:
    s.reload(device, linear(f"{device}-disk", size))


def _try_again(s: Script, retry: bool) -> None:
    """The failed merge is resumed, or removed and reloaded."""
    if retry:
        s.suspend("org")
        s.resume("org")
    else:
        s.remove("org", "snap")
        s.device("org", s.merge_line("base", "cow", "P", 1))
    s.read("org", 0, 128)


@scenario(rows=("lvm2: snapshot-merge-stack",), device=("base", "cow"), retry=(False, True))
def merge_data_fails(s: Script, device: str, retry: bool) -> None:
    """The origin cannot be written, or the data cannot be read: "Merge failed"; then healed."""
    _merge_over_parts(s)
    size = 128 if device == "base" else 512
    _break(s, device, 10 if device == "base" else 6, 4, size)
    s.resume("org")
    s.read("org", 0, 64)
    s.write("org", 62, 4)
    s.write("org", 100, 4)
    _heal(s, device, size)
    _try_again(s, retry)


@scenario(retry=(False, True))
def merge_commit_fails(s: Script, retry: bool) -> None:
    """A metadata area cannot be written: "Merge failed"; a retry merges garbage.

    The entries are gone from memory but still counted, so the retry reads zeros and copies the COW
    header over the first chunk of the origin.
    """
    _merge_over_parts(s)
    _break(s, "cow", 34, 1, 512)
    s.resume("org")
    s.read("org", 0, 128)
    _heal(s, "cow", 512)
    _try_again(s, retry)


@scenario(retry=(False, True))
def merge_step_back_fails(s: Script, retry: bool) -> None:
    """The area before the last cannot be read: a retry skips it and claims to be finished."""
    _merge_over_parts(s)
    _break(s, "cow", 1, 1, 512)
    s.resume("org")
    s.read("org", 0, 128)
    _heal(s, "cow", 512)
    if retry:
        s.suspend("org")
        s.resume("org")
        s.image("cow-disk")
    s.read("org", 0, 128)
    s.remove("org", "snap")
    s.device("org", s.merge_line("base", "cow", "P", 1))
    s.read("org", 0, 128)


@scenario()
def merge_twice_in_a_row(s: Script) -> None:
    """Merge, then the same merge table again: nothing to do."""
    s.snapshot_and_origin("P", 8)
    s.write("snap", 3, 40)
    s.merge("org", "snap", "base", "cow", 8)
    s.suspend("org")
    s.resume("org")
    s.load("org", s.merge_line("base", "cow", "P", 8))


@scenario()
def merge_ctr(s: Script) -> None:
    """What snapshot-merge refuses."""
    s.disk("base", 64)
    s.disk("cow", 64)
    for number, args in enumerate(
        (
            "",
            "{base} {cow} P",
            "{nobody} {cow} P 8",
            "{base} {nobody} P 8",
            "{base} {base} P 8",
            "{base} {cow} X 8",
            "{base} {cow} P 3",
            "{base} {cow} P 8 1 bogus",
            "{base} {cow} P 8 0",
        )
    ):
        name = f"try{number}"
        s.prepare(name, Segment(64, "snapshot-merge", args))
        s.table(name, inactive=True)
        s.remove(name)


@scenario()
def merge_of_a_crafted_store(s: Script) -> None:
    """Entries in odd orders, with duplicates: what the merge makes of them."""
    from harness.store.build import build

    s.disk("base", 128, stamped=True)
    s.disk("cow", 128, stamped=True)
    s.poke("cow", 0, build(8, [(2, 2), (5, 3), (3, 5), (4, 6), (5, 7), (9, 8)])[:8192])
    s.device("org", s.merge_line("base", "cow", "P", 8))
    s.read("org", 0, 128)


@scenario(loses_guest=True)
def merge_of_transient_crashes(s: Script) -> None:
    """A merge of a transient store, loaded directly: refused by some kernels, fatal to others."""
    s.disk("base", 128, stamped=True)
    s.disk("cow", 256)
    s.prepare("org", s.merge_line("base", "cow", "N", 8))
    s.resume("org")
    s.read("org", 0, 8)


@scenario(failed=(False, True), long=(24, 160))
def origin_beside_a_merge(s: Script, failed: bool, long: int) -> None:
    """A second origin device is written when the merge has ended or failed, but is still loaded."""
    s.snapshot_and_origin("P", 8)
    s.origin("org2", "base")
    s.disk("cow2", 512)
    s.snapshot("snap2", "base", "cow2", "P", 8)
    s.write("snap", 3, 20)
    if failed:
        s.write("snap", 100, 9)
        s.poke("cow", 8, bytes(512))
    s.merge("org", "snap", "base", "cow", 8)
    s.status("org")
    s.write("org2", 5, long)
    s.write("org", 60, long)
    s.write("snap2", 100, 9)
    s.read("snap2", 0, 256)
