"""How kernels differ, as facts found by probing one (never by its release number).

Each field is one observable difference; if the commit that made it is known, the comment cites it.
The kernel side finds the values (`harness.kernel.probe`) and sends them with `Ready.probe`; the
profiles named here are recordings of such probes, for runs of the twin alone, and ``seed`` is the
module of December 2018 according to its source.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from harness.errors import ProvisioningError
from harness.twin.exceptions.table import Order

Fact = bool | int | str


FAITHFUL: Final = "faithful"
FIXED: Final = "fixed"
SATURATES: Final = "saturates"
ACCEPTED: Final = "accepted"
"""In place of an errno: the kernel accepted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kernel's behaviour, where kernels differ.

    The first group are facts of the probe, under the probe's names; the second are facts that no
    harmless probe can find.  The defaults are those of 6.12.
    """

    enoent: str = "ENOENT"
    """What a table gets for a path that does not exist; ENODEV before 7a126d5bf975, dm: only call
    early_lookup_bdev from early boot context, 6.5."""
    log_errno_suffix: bool = True
    """Constructor errors are logged with `` (-EINVAL)`` (between 5.10 and 6.1)."""
    self_reference: str = "EINVAL"
    """What a table gets that names its own device: EINVAL if that is refused as such (introduced
    between 6.1 and 6.12), whether it ever had a table or not."""
    unloaded_device: str = "ENXIO"
    """What a table gets that names a mapped device which never had a table."""
    uevent_add_at: str = "load"
    """When a mapped device is announced, and can be opened: at ``create`` or at its first
    ``load``."""
    same_device_checked_after_open: bool = True
    """COW == origin is found after both are open (26110d5afe81, dm-snap: simplify the origin_dev ==
    cow_dev check, 6.5): the origin's open device was upgraded, its name is stale, and it is missed
    when the table goes."""
    message_no_table: str = "EINVAL"
    """What a message to a device without a table gets (dm-ioctl: report an error if a device has
    no table)."""
    error_args: str = "EINVAL"
    """What target error says to two words that are no device: it reads them since 1.6.0."""
    resize_uevent: bool = True
    """A mapped device whose size changes says so in its uevent (dm: use
    set_capacity_and_notify, 5.11)."""
    too_long: str = "EINVAL"
    """What a table gets whose bytes a 64-bit number cannot count (refusal introduced between 5.10
    and 6.1)."""
    refused_decides: bool = False
    """A first table that is refused because it does not fit its devices still decides their type,
    and no later one is checked until it is resumed (until "dm: move setting md->type into
    dm_setup_md_queue", 5.15)."""
    zero_discard: str = "accepted"
    """What a discard of target zero gets: EOPNOTSUPP if only targets with devices take any."""
    number_overflow: str = "wraps"
    """What happens to a number in a table with more than 64 bits: it ``wraps`` or
    ``saturates``."""
    read_only_discard: str = "EPERM"
    """What a discard beyond the end of a read-only device gets: which check comes first."""
    features: bool = True
    """Tables may carry features (2e6023850e17, dm snapshot: add optional discard support
    features, 5.3); without, exactly four arguments are taken."""
    n_merge_refused: bool = False
    """snapshot-merge refuses a store that cannot merge (fcbde6227fcc, dm-snap: reject the
    transient exception store for snapshot-merge, 7.3)."""
    duplicate_wins: str = "last"
    """Which of two records for one chunk is found: the first (5.2), the last (8581b19eb2c5, 6.19)
    or, in the seed, the last by another rule; see `harness.twin.exceptions.table`."""
    max_sectors: int = 255
    """Longest request of a disk."""
    max_sectors_4k: int = 2560
    """The same of a disk with blocks of 4096 bytes."""
    physical_block: int = 4096
    """Physical block size of a disk, in bytes."""
    io_min: int = 4096
    """Its minimum I/O size, in bytes."""
    discard: int = 2199023255040
    """Longest discard of a disk, in bytes; 0 if it takes none."""
    discard_4k: int = 4294966784
    """The same of a disk with blocks of 4096 bytes."""
    plug_reverses: bool = False
    """Requests that a task has gathered are sent in reverse order; see `harness.twin.plug`."""
    discard_granularity: int = 4096
    """Discards smaller than this, or not aligned to it, may do nothing to a disk; in bytes."""
    discard_granularity_4k: int = 4096
    """The same of a disk with blocks of 4096 bytes."""
    write_cache_4k: bool = True
    """A disk with blocks of 4096 bytes has a write cache, so flushes go there."""
    write_asks_again: bool = True
    """A buffered write that comes from one page to another that it cannot read retries once
    (block: use iomap for writes to block devices, 6.6)."""
    discard_of_blocks: bool = True
    """The granularity of a device is at least its physical block (``blk_validate_limits``, between
    6.1 and 6.12)."""
    flush_bypasses_map: bool = True
    """A flush goes once to each device of a table of linear targets, not once to each of them
    (dm: optimize flushes, 6.11)."""
    preflush_passed: bool = False
    """A write with a preflush goes whole through a table of linear targets on one device (dm:
    optimize REQ_PREFLUSH with data when using the linear target, 6.17)."""
    preflush_error: str = "ignored"
    """If it goes as a flush and a write, what a failed flush does to the write."""
    unaligned_refused: bool = True
    """A disk refuses a request that begins or ends within a block; before, its driver may do it."""
    striped_io_min_kept: bool = True
    """Target striped passes its chunk size on as io_min, even if that is less than a physical
    block; before, it is raised to one (``blk_limits_io_min``)."""
    striped_chunk_sectors: bool = True
    """It passes it on as chunk_sectors too (dm-stripe: limit chunk_sectors to the stripe size,
    6.17)."""
    striped_discards_more: bool = False
    """Its longest discard is that of all its stripes together (between 6.12 and 7.2); before, that
    of one of them."""
    readahead_kept: bool = True
    """A device reads ahead as many pages as it ever did (block: don't reduce a readahead that
    the user may have raised; between 6.1 and 6.12); before, as many as its present table says."""
    nbd_io_opt: int = 131072
    """Optimal I/O size that a disk that can fail reports, in bytes."""
    flakey_error_reads: bool = True
    """Target flakey knows the feature error_reads, and without features has error_reads and
    error_writes; before, it fails everything that no feature allows."""
    flakey_table_blank: bool = False
    """Its table line ends with a space."""
    flakey_bad_down: str = "Invalid up interval"
    """What it says to an invalid down interval."""
    flakey_corrupt_counted: bool = False
    """It counts the words after corrupt_bio_byte before it reads them; older ones refuse only if
    there are none, and then the first that they cannot read."""
    flakey_short_corrupt: str = "Feature corrupt_bio_byte requires parameters"
    """What it says if there are too few."""
    flakey_drop_conflict: str = (
        "drop_writes is incompatible with corrupt_bio_byte with the WRITE flag set"
    )
    """What it says to drop_writes with writes that are corrupted."""
    flakey_error_conflict: str = (
        "error_writes is incompatible with corrupt_bio_byte with the WRITE flag set"
    )
    """What it says to error_writes with them."""
    cow_threshold: int = 2048
    """Limit on copies in flight of one snapshot if nobody has set one
    (``DEFAULT_COW_THRESHOLD``)."""

    kcopyd_subjob_sectors: int = 1024
    """Longest piece kcopyd copies at once: 512 KiB since 5.3, 64 KiB before."""
    threshold_semaphore: bool = False
    """The limit on copies in flight is the seed's, and a signed number; see
    `harness.twin.throttle`."""
    merge_flush: bool = True
    """Merged data is flushed before the store forgets it (dm snapshot: flush merged data before
    committing metadata, 5.11)."""
    max_sectors_cut: bool = True
    """Bios are also cut at the limit of the queue (5091cdec56fa, dm: use blk_max_size_offset(),
    5.11)."""
    origin_default_boundary_sectors: int = 1 << 31
    """Split boundary of an origin without snapshots (7e768532b239, dm snapshot: properly fix a
    crash when an origin has no snapshots, 5.13); 0 before, which splits a write at sector 0 into
    nothing."""
    zero_chunk_refused: bool = True
    """A table that comes out with no chunk size is refused (``N 0``); the seed frees the snapshot
    and reports success."""

    defects: str = FAITHFUL
    """Known defects of kernels (docs/KERNEL-DEFECTS.md): reproduced as in kernels, or `FIXED`."""

    @property
    def fixed(self) -> bool:
        """Behave as the documentation promises where kernels do not."""
        return self.defects == FIXED

    @classmethod
    def from_probe(cls, facts: Mapping[str, Fact]) -> "Profile":
        """A profile from what a guest's probe found.

        Raises:
            ProvisioningError: a fact is unknown, has the wrong type, or names no known rule.
        """
        unknown = sorted(facts.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ProvisioningError(
                f"the guest's probe reports {', '.join(unknown)}, which the twin does not know: "
                "does it run another version of dmsnap?"
            )
        values: dict[str, Fact] = {}
        for field in fields(cls):
            fact = facts.get(field.name)
            if fact is None:
                continue
            if type(fact) is not type(field.default):
                raise ProvisioningError(
                    f"the guest's probe says {field.name} = {fact!r}, which is impossible: "
                    "does it run another version of dmsnap?"
                )
            values[field.name] = fact
        profile = cls(**values)  # type: ignore[arg-type]
        if profile.duplicate_wins not in _ORDERS:
            raise ProvisioningError(
                f"the guest's probe cannot tell which of two records wins "
                f"({profile.duplicate_wins}): no profile fits this kernel"
            )
        return profile

    def facts(self) -> dict[str, Fact]:
        """The inverse of `from_probe`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    # -- what the twin asks --

    @property
    def preflush_reported(self) -> bool:
        """A failed preflush fails the write, which is then not done."""
        return self.fixed or self.preflush_error == "reported"

    @property
    def missing_path_errno(self) -> int:
        """Errno of a table with a path that does not exist."""
        return errno_of(self.enoent)

    @property
    def early_device_names(self) -> bool:
        """A table may name a device in the form of the kernel command line; see ``enoent``."""
        return self.enoent == "ENODEV"

    @property
    def exception_order(self) -> Order:
        """Where a record goes in its hash slot."""
        return _ORDERS[self.duplicate_wins]

    @property
    def targets(self) -> dict[str, str]:
        """Versions of dm-snapshot's targets; the commit that added features raised two of them."""
        snapshot, merge = ("1.16.0", "1.5.0") if self.features else ("1.15.0", "1.4.0")
        return {"snapshot": snapshot, "snapshot-merge": merge, "snapshot-origin": "1.9.0"}


_ORDERS: Final = {
    "first": Order.head_scan,
    "last": Order.head_scan_to_head,
    "last by tail": Order.tail_scan,
}


def errno_of(answer: str) -> int:
    """The errno of a fact; 0 for `ACCEPTED`."""
    return 0 if answer == ACCEPTED else int(getattr(errno, answer, errno.EIO))


_6_12: Final = Profile()
_6_1: Final = Profile(
    enoent="ENODEV",
    self_reference=ACCEPTED,
    message_no_table=ACCEPTED,
    error_args=ACCEPTED,
    zero_discard="EOPNOTSUPP",
    flush_bypasses_map=False,
    plug_reverses=True,
    flakey_error_reads=False,
    flakey_table_blank=True,
    unaligned_refused=False,
    striped_io_min_kept=False,
    striped_chunk_sectors=False,
    read_only_discard="EINVAL",
    duplicate_wins="first",
    discard=0,
    readahead_kept=False,
    nbd_io_opt=0,
    discard_of_blocks=False,
    write_asks_again=False,
    same_device_checked_after_open=False,
)

PROFILES: Final = {
    "6.12": _6_12,
    "6.1": _6_1,
    "7.2": replace(
        _6_12,
        number_overflow=SATURATES,
        preflush_passed=True,
        striped_discards_more=True,
        flakey_bad_down="Invalid down interval",
        flakey_corrupt_counted=True,
        flakey_short_corrupt="Feature corrupt_bio_byte requires 4 parameters",
        flakey_drop_conflict=(
            "drop_writes is incompatible with random_write_corrupt or "
            "corrupt_bio_byte with the WRITE flag set"
        ),
        flakey_error_conflict=(
            "error_writes is incompatible with random_write_corrupt or "
            "corrupt_bio_byte with the WRITE flag set"
        ),
    ),
    "seed": replace(
        _6_1,
        features=False,
        log_errno_suffix=False,
        resize_uevent=False,
        too_long=ACCEPTED,
        refused_decides=True,
        plug_reverses=False,
        duplicate_wins="last by tail",
        kcopyd_subjob_sectors=128,
        threshold_semaphore=True,
        merge_flush=False,
        max_sectors_cut=False,
        origin_default_boundary_sectors=0,
        zero_chunk_refused=False,
    ),
}
"""Recorded profiles by name; the default of commands that run the twin alone is 6.12."""


def named(name: str) -> Profile:
    """A recorded profile.

    Raises:
        ProvisioningError: there is no profile of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ProvisioningError(
            f"no profile named {name!r}; there are {', '.join(sorted(PROFILES))}"
        ) from None
