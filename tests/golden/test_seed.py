"""The seed, by its text: what its source says must come out, worked out by hand.

The seed is dm-snap.c of December 2018 (snapshot 1.15.0, snapshot-merge 1.4.0, snapshot-origin
1.9.0).  No kernel of that age was run, so nothing here is a recording: each case names the function
that it was read from, and what it expects follows from that text.  What other files of that kernel
do (dm-table.c, dm-ioctl.c, the stores) is taken from the specification.

Numbers, unless a case says else: disks of 256 sectors, a COW device of 512, chunks of 8.  A new
persistent store has a header and one area of 256 entries: chunks 0 and 1, so 16 sectors of metadata
and the first data chunk is 2.
"""

from dataclasses import replace

import pytest

from harness.errors import KernelCrash
from harness.scenarios.script import Script
from harness.store.layout import ENTRY, DiskHeader
from harness.trace.observations import Observation, Runs, Stamped, Zeros
from harness.trace.steps import TargetLine
from harness.twin.backend import TwinBackend
from harness.twin.bio import Bio, Op
from harness.twin.disk import Disk
from harness.twin.profile import named

SEED = named("seed")
TABLE_LOG = "device-mapper: ioctl: error adding target to table"


def live(s: Script, profile=SEED) -> tuple[TwinBackend, list[Observation]]:
    """Execute on the twin."""
    twin = TwinBackend(profile)
    return twin, [twin.execute(index, step) for index, step in enumerate(s.steps)]


def seen(s: Script) -> list[Observation]:
    return live(s)[1]


def refusal(kind: str, args: str, prepare=None) -> Observation:
    """What loading one line as table of ``s`` gives."""
    s = Script()
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512)
    if prepare is not None:
        prepare(s)
    s.create("s")
    s.load("s", TargetLine(0, 256, kind, args))
    return seen(s)[-1]


def said(kind: str, text: str) -> tuple[str, str]:
    """The two lines of a refused table; `log_errno_suffix` came later than the seed."""
    return f"device-mapper: table: {{s}}: {kind}: {text}", TABLE_LOG


def status(observations: list[Observation], device: str) -> str | None:
    """The status line of a device after the last step: what changed last."""
    for observation in reversed(observations):
        if device in observation.state:
            state = observation.state[device]
            assert state is not None
            return state.status
    raise AssertionError(device)


def read(s: Script, device: str, sector: int, sectors: int) -> Runs:
    s.read(device, sector, sectors)
    return seen(s)[-1].content[device]


def base(sector: int, count: int, generation: int = 0, device: str = "base") -> Stamped:
    return Stamped(device, generation, sector, count)


# -- which targets there are ------------------------------------------------------------------


def test_versions() -> None:
    """``snapshot_target``, ``merge_target``, ``origin_target``: their ``.version``."""
    assert SEED.targets == {
        "snapshot": "1.15.0",
        "snapshot-merge": "1.4.0",
        "snapshot-origin": "1.9.0",
    }


# -- constructor ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["snapshot", "snapshot-merge"])
@pytest.mark.parametrize(
    "args",
    [
        "{base} {cow} P",
        "{base} {cow} P 8 0",
        "{base} {cow} P 8 1 discard_zeroes_cow",
        "{base} {cow} P 8 2 discard_zeroes_cow discard_passdown_origin",
        "",
    ],
)
def test_exactly_four_arguments(kind: str, args: str) -> None:
    """``snapshot_ctr``: ``argc != 4`` comes first.  So no feature can be asked for, not even 0."""
    found = refusal(kind, args)
    assert found.error == "EINVAL"
    assert found.log == said(kind, "requires exactly 4 arguments")


def test_the_origin_is_opened_first() -> None:
    """``snapshot_ctr``: both devices are missing, the origin is complained of."""
    found = refusal("snapshot", "{nowhere} {neither} P 8")
    assert found.error == "ENODEV"
    assert found.log == said("snapshot", "Cannot get origin device")
    found = refusal("snapshot", "{base} {neither} P 8")
    assert found.error == "ENODEV"
    assert found.log == said("snapshot", "Cannot get COW device")


def test_one_device_twice_is_found_before_the_cow_device_is_opened() -> None:
    """``snapshot_ctr``: ``dm_get_dev_t``, then the comparison, then ``dm_get_device``.

    So nothing is opened twice, and device-mapper has nothing to complain of.
    """
    found = refusal("snapshot", "{base} {base} P 8")
    assert found.error == "EINVAL"
    assert found.log == said("snapshot", "COW device cannot be the same as origin device")


@pytest.mark.parametrize(
    ("store", "chunk"),
    [
        ("X", "8"),
        ("persistent", "8"),
        ("P", "3"),
        ("P", "-8"),
        ("P", "8s"),
        ("N", "12"),
        ("P", "4294967296"),
    ],
)
def test_every_fault_of_the_store_has_one_name(store: str, chunk: str) -> None:
    """``snapshot_ctr``: whatever ``dm_exception_store_create`` said, this replaces it."""
    found = refusal("snapshot", f"{{base}} {{cow}} {store} {chunk}")
    assert found.error == "EINVAL"
    assert found.log[-2:] == said("snapshot", "Couldn't create exception store")


def test_the_errno_of_the_metadata_is_passed_on() -> None:
    """``snapshot_ctr``: ``r < 0`` of ``read_metadata``; a wrong magic is -ENXIO."""
    found = refusal("snapshot", "{base} {cow} P 8", lambda s: s.poke("cow", 0, b"no header"))
    assert found.error == "ENXIO"
    assert found.log[-2:] == said("snapshot", "Failed to read snapshot metadata")


def test_no_chunk_size_ends_in_freed_memory() -> None:
    """``snapshot_ctr``: "Chunk size not set" is jumped from with ``r`` still 0.

    A transient store has no size of its own, so ``N 0`` gets there: the snapshot is unregistered
    and freed, and the constructor returns 0, success.
    """
    with pytest.raises(KernelCrash, match="freed"):
        refusal("snapshot", "{base} {cow} N 0")


def test_a_snapshot_that_is_marked_invalid_loads() -> None:
    """``snapshot_ctr``: ``r > 0`` of ``read_metadata`` clears ``valid`` and says so."""
    s = Script()
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512)
    s.poke("cow", 0, DiskHeader(valid=0, chunk_sectors=8).pack())
    s.snapshot("s", "base", "cow", "P", 8)
    s.read("s", 0, 8)
    found = seen(s)
    assert found[4].error is None
    assert found[4].log == ("device-mapper: snapshots: Snapshot is marked invalid.",)
    assert status(found, "s") == "0 256 snapshot Invalid"
    assert found[-1].error == "EIO"


def test_arguments_of_an_origin() -> None:
    """``origin_ctr``: its two texts."""
    for args in ("", "{base} {cow}"):
        found = refusal("snapshot-origin", args)
        assert (found.error, found.log) == (
            "EINVAL",
            said("snapshot-origin", "origin: incorrect number of arguments"),
        )
    found = refusal("snapshot-origin", "{nowhere}")
    assert (found.error, found.log) == (
        "ENODEV",
        said("snapshot-origin", "Cannot get target device"),
    )


# -- status and table -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "fresh", "used", "line"),
    [
        ("P", "16/512 16", "24/512 16", "P 8"),
        ("PO", "16/512 16", "24/512 16", "PO 8"),
        ("n", "0/512 0", "8/512 0", "N 8"),
    ],
)
def test_status_and_table_lines(store: str, fresh: str, used: str, line: str) -> None:
    """``snapshot_status``: sectors allocated, in total, of metadata; the store's own words.

    One write of part of a chunk takes one chunk of eight sectors.
    """
    s = Script()
    s.snapshot_and_origin(store, 8)
    assert status(seen(s), "snap") == f"0 256 snapshot {fresh}"
    s.write("snap", 3, 1)
    found = seen(s)
    assert status(found, "snap") == f"0 256 snapshot {used}"
    s.steps.pop()
    s.table("snap")
    s.table("org")
    s.status("org")
    assert [each.text for each in seen(s)[-3:]] == [
        f"0 256 snapshot {{base}} {{cow}} {line}",
        "0 256 snapshot-origin {base}",
        "0 256 snapshot-origin ",
    ]


def test_nobody_takes_messages() -> None:
    """The three ``target_type`` have no ``.message``."""
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.message("snap", "hello")
    s.message("org", "hello")
    assert [each.error for each in seen(s)[-2:]] == ["EINVAL", "EINVAL"]


def test_nobody_takes_discards() -> None:
    """``snapshot_ctr`` and ``origin_ctr`` leave ``num_discard_bios`` at 0, whatever disks take."""
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.discard("snap", 0, 8)
    s.discard("org", 0, 8)
    s.discard("base", 0, 8)
    _, found = live(s, replace(SEED, discard=1024))
    assert [each.error for each in found[-3:]] == ["EOPNOTSUPP", "EOPNOTSUPP", None]


# -- flushes ----------------------------------------------------------------------------------


def flushed(kind: str, flag: str = "") -> list[str]:
    """Which disks a flush of a target of this kind reaches, in order."""
    s = Script()
    s.disk("base", 256)
    s.disk("cow", 512)
    if flag:
        s.poke("cow", 0, DiskHeader(valid=0, chunk_sectors=8).pack())
    args = "{base}" if kind == "snapshot-origin" else "{base} {cow} P 8"
    s.device("s", TargetLine(0, 256, kind, args))
    twin, _ = live(s)
    reached: list[str] = []

    def listen(name: str, disk: Disk) -> None:
        def submit(bio: Bio) -> None:
            reached.append(name)
            bio.end()

        disk.submit = submit  # type: ignore[method-assign]  # it only listens

    for name, disk in twin.world.disks.items():
        listen(name, disk)
    ended: list[int] = []
    twin.world.mapped["s"].submit(Bio(Op.FLUSH, 0, 0, None, lambda bio: ended.append(bio.error)))
    assert ended == [0]
    return reached


def test_a_snapshot_flushes_its_cow_device() -> None:
    """``snapshot_map``: REQ_PREFLUSH goes to the COW device, before ``valid`` is looked at."""
    assert flushed("snapshot") == ["cow"]
    assert flushed("snapshot", "invalid") == ["cow"]


def test_a_merge_flushes_both_devices() -> None:
    """``snapshot_ctr``: ``num_flush_bios = 2``; ``snapshot_merge_map``: number 0 to the origin."""
    assert flushed("snapshot-merge") == ["base", "cow"]


def test_an_origin_flushes_its_device() -> None:
    """``origin_ctr``: ``num_flush_bios = 1``; ``origin_map``."""
    assert flushed("snapshot-origin") == ["base"]


# -- writes -----------------------------------------------------------------------------------


def test_a_chunk_is_copied_before_it_is_written() -> None:
    """``snapshot_map``, ``start_copy``: sectors 3 and 4 are new, the rest of the chunk is old."""
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.write("snap", 3, 2)
    assert read(s, "snap", 0, 16) == (base(0, 3), base(3, 2, 1, "snap"), base(5, 11))
    assert read(s, "cow", 16, 8) == (base(0, 3), base(3, 2, 1, "snap"), base(5, 3))
    assert read(s, "base", 0, 16) == (base(0, 16),)


def test_a_whole_chunk_is_written_without_a_copy() -> None:
    """``snapshot_map``: a bio as long as a chunk goes to ``start_full_bio``, which reads nothing.

    So it works on an origin that cannot be read; a part of a chunk needs the copy, fails, and
    ``pending_complete`` makes the snapshot invalid.
    """
    s = Script()
    s.device("base", TargetLine(0, 256, "error"))
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.write("snap", 8, 8)
    assert read(s, "snap", 8, 8) == (base(8, 8, 1, "snap"),)
    s.write("snap", 16, 7)
    found = seen(s)[-1]
    assert found.error == "EIO"
    assert found.log == ("device-mapper: snapshots: Invalidating snapshot: Error reading/writing.",)


def test_a_chunk_longer_than_a_request_is_a_whole_chunk_all_the_same() -> None:
    """``snapshot_map`` compares lengths; dm.c of then cuts at ``max_io_len`` alone.

    The disks take 254 sectors at once, a chunk has 512: the origin is still not read.
    """
    s = Script()
    s.device("base", TargetLine(0, 1024, "error"))
    s.disk("cow", 2048)
    s.snapshot("snap", "base", "cow", "N", 512)
    s.write("snap", 512, 512)
    assert read(s, "snap", 512, 512) == (base(512, 512, 1, "snap"),)


def test_a_copy_goes_in_pieces_of_64_kib() -> None:
    """``start_copy`` hands a chunk to kcopyd, whose sub-jobs were of 128 sectors.

    The second 128 sectors of the origin cannot be read: the first 128 are on the COW device.
    """
    s = Script()
    s.disk("disk", 256, stamped=True)
    s.device("base", TargetLine(0, 128, "linear", "{disk} 0"), TargetLine(128, 128, "error"))
    s.disk("cow", 512)
    s.snapshot("snap", "base", "cow", "N", 256)
    s.write("snap", 0, 8)
    assert seen(s)[-1].error == "EIO"
    assert read(s, "cow", 0, 256) == (base(0, 128, 0, "disk"), Zeros(128))


def test_a_write_to_the_origin_is_copied_first() -> None:
    """``__origin_write``, ``retry_origin_bios``; once copied, nothing more is allocated."""
    s = Script()
    s.snapshot_and_origin("N", 8)
    s.write("org", 4, 8)
    s.write("org", 4, 8)
    found = seen(s)
    # Sectors 4 to 11 lie in two chunks.
    assert status(found, "snap") == "0 256 snapshot 16/512 0"
    assert read(s, "snap", 0, 16) == (base(0, 16),)
    assert read(s, "base", 4, 8) == (base(4, 8, 2, "org"),)


def full(store: str) -> Script:
    """A COW device with room for one data chunk, which is taken."""
    s = Script()
    s.snapshot_and_origin(store, 8, cow_sectors=24)
    s.write("snap", 0, 3)
    return s


def test_no_room_makes_a_snapshot_invalid() -> None:
    """``snapshot_map``: without overflow support ``__invalidate_snapshot(s, -ENOMEM)``.

    The event is raised there; the header is written with valid = 0 (``drop_snapshot``).
    """
    s = full("P")
    s.write("snap", 8, 3)
    found = seen(s)
    assert found[-1].error == "EIO"
    assert found[-1].log == (
        "device-mapper: snapshots: Invalidating snapshot: Unable to allocate exception.",
    )
    state = found[-1].state["snap"]
    assert state is not None
    assert (state.status, state.event) == ("0 256 snapshot Invalid", 1)
    s.remove("snap")
    s.snapshot("snap", "base", "cow", "P", 8)
    assert status(seen(s), "snap") == "0 256 snapshot Invalid"


def test_no_room_overflows_a_snapshot_that_can_tell() -> None:
    """``snapshot_map``: ``snapshot_overflowed`` refuses every WRITE, remapped or not; reads go on.

    No event: only ``__invalidate_snapshot`` raises one.
    """
    s = full("PO")
    s.write("snap", 8, 3)
    found = seen(s)
    assert (found[-1].error, found[-1].log) == (
        "EIO",
        ("device-mapper: snapshots: Snapshot overflowed: Unable to allocate exception.",),
    )
    state = found[-1].state["snap"]
    assert state is not None
    assert (state.status, state.event) == ("0 256 snapshot Overflow", 0)
    s.write("snap", 0, 1)  # its chunk has an exception
    assert seen(s)[-1].error == "EIO"
    assert read(s, "snap", 0, 8) == (base(0, 3, 1, "snap"), base(3, 5))


def test_an_origin_write_without_room_invalidates_also_in_overflow_mode() -> None:
    """``__origin_write``: ``__invalidate_snapshot`` whatever was asked for; the write goes on."""
    s = full("PO")
    s.write("org", 8, 3)
    found = seen(s)
    assert found[-1].error is None
    assert found[-1].log == (
        "device-mapper: snapshots: Invalidating snapshot: Unable to allocate exception.",
    )
    assert status(found, "snap") == "0 256 snapshot Invalid"


def test_an_origin_without_snapshots_splits_after_nothing() -> None:
    """``__minimum_chunk_size`` returns 0, ``origin_resume`` takes it as ``split_boundary``.

    ``origin_map`` then has ``0 - (sector & 0xffffffff)`` sectors available, in 32 bits: none at
    sector 0, and dm.c's bio_split stops the kernel; plenty anywhere else.
    """
    s = Script()
    s.disk("base", 256, stamped=True)
    s.origin("org", "base")
    s.write("org", 1, 200)
    assert seen(s)[-1].error is None
    s.read("org", 0, 8)  # a read is not split
    assert seen(s)[-1].error is None
    s.write("org", 0, 1)
    with pytest.raises(KernelCrash, match="bio_split"):
        seen(s)


# -- the limit on copies ----------------------------------------------------------------------


def peak(*, before: str | None, after: str | None = None) -> tuple[int, str | None]:
    """Most copies at once of sixteen writes; ``after`` is set when the table is loaded."""
    s = Script()
    s.disk("base", 256, stamped=True)
    s.disk("store", 512)
    s.device("cow", TargetLine(0, 512, "delay", "{store} 0 0 {store} 0 10"))
    if before is not None:
        s.parameter("snapshot_cow_threshold", before)
    s.snapshot("snap", "base", "cow", "N", 8)
    if after is not None:
        s.parameter("snapshot_cow_threshold", after)
    s.parallel(*(("snap", 8 * chunk, 3) for chunk in range(16)))
    twin, found = live(s)
    assert found[-1].error is None
    [snapshot] = twin.world.origins.snapshots(twin.world.disks["base"])
    error = next((each.error for each in found if each.error), None)
    return snapshot.throttle.peak, error


@pytest.mark.parametrize(
    ("limit", "copies"),
    [("1", 1), ("5", 5), ("2048", 16), ("0", 16), ("-1", 16), ("-2147483648", 16)],
)
def test_the_semaphore_lets_exactly_so_many_through(limit: str, copies: int) -> None:
    """``snapshot_ctr``: ``sema_init(…, cow_threshold > 0 ? cow_threshold : INT_MAX)``.

    ``start_copy`` takes it, ``copy_callback`` gives it back.  The parameter is an ``int``.
    """
    assert peak(before=limit) == (copies, None)


def test_the_semaphore_is_filled_when_the_table_is_loaded() -> None:
    """``snapshot_ctr`` alone looks at ``cow_threshold``: what is written later has no effect."""
    assert peak(before="3", after="9") == (3, None)
    assert peak(before=None, after="1") == (16, None)  # DEFAULT_COW_THRESHOLD is 2048


# -- handover ---------------------------------------------------------------------------------


def pair() -> Script:
    """A live snapshot, and an heir of it that is loaded and not resumed."""
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.write("snap", 0, 3)
    s.create("heir")
    s.load("heir", s.snapshot_line("base", "cow", "P", 8))
    return s


def test_an_heir_waits_for_its_source_to_be_suspended() -> None:
    """``snapshot_preresume``: two refusals; ``snapshot_ctr``: chunk size 0 until then."""
    s = pair()
    state = seen(s)[-1].state["heir"]
    assert state is not None
    assert state.inactive == "0 256 snapshot {base} {cow} P 0"
    s.resume("heir")
    found = seen(s)[-1]
    assert found.error == "EINVAL"
    assert found.log[0] == (
        "device-mapper: snapshots: Unable to perform snapshot handover until source is suspended."
    )
    s = pair()
    s.suspend("snap")
    s.resume("snap")
    found = seen(s)[-1]
    assert found.error == "EINVAL"
    assert found.log[0] == (
        "device-mapper: snapshots: Unable to resume snapshot source until handover completes."
    )


def test_there_is_one_heir() -> None:
    """``__validate_exception_handover``: a second one finds two that share the COW device."""
    s = pair()
    s.load("heir", s.snapshot_line("base", "cow", "P", 8))
    again = seen(s)[-1]
    text = "Snapshot cow pairing for exception table handover failed"
    assert (again.error, again.log) == (
        "EINVAL",
        (f"device-mapper: table: {{heir}}: snapshot: {text}", TABLE_LOG),
    )


def test_a_handover_swaps_the_store_and_ends_the_source() -> None:
    """``__handover_exceptions``: the heir has the exception, the source is invalid."""
    s = pair()
    s.suspend("snap")
    s.resume("heir")
    found = seen(s)
    assert found[-1].error is None
    assert status(found, "heir") == "0 256 snapshot 24/512 16"
    assert status(found, "snap") == "0 256 snapshot Invalid"
    assert read(s, "heir", 0, 8) == (base(0, 3, 1, "snap"), base(3, 5))


def test_a_source_that_goes_first_takes_its_heir_along() -> None:
    """``snapshot_dtr``: "Cancelling snapshot handover.", and the heir is not valid."""
    s = pair()
    s.remove("snap")
    found = seen(s)
    assert "device-mapper: snapshots: Cancelling snapshot handover." in found[-1].log
    s.resume("heir")
    assert status(seen(s), "heir") == "0 256 snapshot Invalid"


# -- merge ------------------------------------------------------------------------------------


def test_a_transient_store_is_not_merged_from_a_live_snapshot() -> None:
    """``__validate_exception_handover``: it has neither ``prepare_merge`` nor ``commit_merge``."""
    s = Script()
    s.snapshot_and_origin("N", 8)
    s.create("s")
    s.load("s", s.merge_line("base", "cow", "N", 8))
    found = seen(s)[-1]
    assert found.error == "EINVAL"
    assert found.log == said(
        "snapshot-merge", "Snapshot exception store does not support snapshot-merge."
    )


def test_a_transient_store_alone_is_taken_and_crashes() -> None:
    """``__validate_exception_handover`` returns 0 without a source, before it looks at the store.

    ``snapshot_merge_next_chunks`` calls ``prepare_merge``, which is NULL, at resume.
    """
    s = Script()
    s.disk("base", 256)
    s.disk("cow", 512)
    s.create("s")
    s.load("s", TargetLine(0, 256, "snapshot-merge", "{base} {cow} N 8"))
    assert seen(s)[-1].error is None
    s.resume("s")
    with pytest.raises(KernelCrash, match="prepare_merge"):
        seen(s)


def test_one_merge_at_a_time_by_handover() -> None:
    """``__validate_exception_handover``: "A snapshot is already merging."."""
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.disk("cow2", 512)
    s.snapshot("other", "base", "cow2", "P", 8)
    s.merge("org", "snap", "base", "cow", 8)
    s.create("s")
    s.load("s", s.merge_line("base", "cow2", "P", 8))
    found = seen(s)[-1]
    assert (found.error, found.log) == (
        "EINVAL",
        said("snapshot-merge", "A snapshot is already merging."),
    )


def test_a_merge_puts_everything_on_the_origin() -> None:
    """``snapshot_merge_next_chunks``, ``merge_callback``, ``remove_single_exception_chunk``.

    At its end the numbers are those of an empty store, and the target reads the origin.
    """
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.write("snap", 3, 2)
    s.write("snap", 80, 16)
    s.merge("org", "snap", "base", "cow", 8)
    found = seen(s)
    assert status(found, "org") == "0 256 snapshot-merge 16/512 16"
    assert not any(each.log for each in found[-6:])
    assert read(s, "base", 0, 8) == (base(0, 3), base(3, 2, 1, "snap"), base(5, 3))
    assert read(s, "base", 80, 16) == (base(80, 16, 2, "snap"),)
    # Area 0 is empty again; what was in the data chunks stays.
    assert read(s, "cow", 8, 8) == (Zeros(8),)


def test_an_invalid_snapshot_is_not_merged() -> None:
    """``snapshot_merge_next_chunks``: the text; ``snapshot_merge_map``: all goes to the origin."""
    s = Script()
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512)
    s.poke("cow", 0, DiskHeader(valid=0, chunk_sectors=8).pack())
    s.device("m", s.merge_line("base", "cow", "P", 8))
    found = seen(s)
    assert found[-1].log == ("device-mapper: snapshots: Snapshot is invalid: can't merge",)
    assert status(found, "m") == "0 256 snapshot-merge Invalid"
    s.write("m", 0, 8)
    assert read(s, "m", 0, 16) == (base(0, 8, 1, "m"), base(8, 8))


def test_merged_data_is_not_flushed_before_it_is_forgotten() -> None:
    """``merge_callback`` calls ``commit_merge`` at once: no flush to the origin in between."""
    ops: list[tuple[str, str]] = []
    s = Script()
    s.snapshot_and_origin("P", 8)
    s.write("snap", 0, 8)
    s.load("org", s.merge_line("base", "cow", "P", 8))
    s.suspend("snap", "org")
    twin, _ = live(s)

    def listen(name: str, disk: Disk) -> None:
        original = disk.submit

        def submit(bio: Bio) -> None:
            ops.append((name, bio.op.name))
            original(bio)

        disk.submit = submit  # type: ignore[method-assign]  # it is listened to

    for name, disk in twin.world.disks.items():
        disk.limits = replace(disk.limits, write_cache=True)
        listen(name, disk)
    s.resume("org")
    twin.execute(len(s.steps), s.steps[-1])
    # Chunk 2 is read and goes to the origin; then area 0 is written.
    assert ops == [("cow", "READ"), ("base", "WRITE"), ("cow", "WRITE")]


# -- the table of exceptions ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "sector", "chunk"),
    [
        # Nothing is smaller: behind the head, so in front of the first one.
        ([(5, 2), (5, 4)], 40, 4),
        # 7 is passed, 5 is not smaller than 5: again in front.
        ([(5, 2), (7, 9), (5, 4)], 40, 4),
        # Behind 3, which is smaller, and in front of the first 5.
        ([(3, 2), (5, 4), (5, 6)], 40, 6),
        # 6→5 joins 5→4; 6→9 goes behind that run, which is smaller, and contains 6:
        # here the earlier.
        ([(5, 4), (6, 5), (6, 9)], 48, 5),
    ],
)
def test_of_two_records_for_one_chunk(
    entries: list[tuple[int, int]], sector: int, chunk: int
) -> None:
    """``dm_insert_exception`` scans from the tail to the first smaller one, and inserts behind it.

    ``dm_lookup_exception`` takes the first that contains the chunk.
    """
    s = Script()
    s.disk("base", 256, stamped=True)
    s.disk("cow", 512, stamped=True)
    s.poke("cow", 0, DiskHeader(chunk_sectors=8).pack())
    s.poke("cow", 8, b"".join(ENTRY.pack(*entry) for entry in entries) + bytes(4000))
    s.snapshot("snap", "base", "cow", "P", 8)
    assert read(s, "snap", sector, 8) == (base(8 * chunk, 8, 0, "cow"),)
