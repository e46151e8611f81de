"""What kernels do differently, as the facts that probing one finds (never its release number).

Each field is one observable difference; where a known commit made it, the comment cites it.  The
kernel side finds the values out (`harness.kernel.probe`) and sends them with `Ready.probe`; the
profiles named here are recordings of such probes, for runs of the twin alone, and ``seed`` is the
module of December 2018 as its text says.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from harness.errors import ProvisioningError
from harness.twin.exception_table import Order

Fact = bool | int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kernel's behaviour, where kernels differ.  The defaults are those of 6.12."""

    feature_args: bool = True
    """Tables may carry features (2e6023850e17, dm snapshot: add optional discard support
    features, 5.3); without, exactly four arguments are taken."""
    log_errno_suffix: bool = True
    """Constructor errors are logged with `` (-EINVAL)`` (between 5.10 and 6.1)."""
    missing_path_errno: int = errno.ENOENT
    """What a table gets for a path that does not exist; ENODEV before 7a126d5bf975, dm: only call
    early_lookup_bdev from early boot context, 6.5."""
    self_reference_refused: bool = True
    """A table that names its own device is refused (between 6.1 and 6.12)."""
    same_device_checked_after_open: bool = True
    """COW == origin is found after both are open (26110d5afe81, dm-snap: simplify the origin_dev
    == cow_dev check, 6.5): the origin's open device is upgraded, and its name is stale."""
    stale_device_named: bool = False
    """The complaint about that stale device still shows its name."""
    message_needs_table: bool = True
    """A message to a device without a table is refused (dm-ioctl: report an error if a device has
    no table)."""
    error_takes_device: bool = True
    """Target error looks at two arguments as a device and a sector (error 1.6.0)."""
    exception_order: Order = Order.head_scan_to_head
    """Which of two records for one chunk wins; see `harness.twin.exception_table`."""
    merge_checks_store: bool = False
    """snapshot-merge refuses a store that cannot merge (fcbde6227fcc, dm-snap: reject the
    transient exception store for snapshot-merge, 7.3)."""
    origin_default_boundary_sectors: int = 1 << 31
    """Split boundary of an origin without snapshots (7e768532b239, dm snapshot: properly fix a
    crash when an origin has no snapshots, 5.13)."""
    kcopyd_subjob_sectors: int = 1024
    """Longest piece kcopyd copies at once: 512 KiB since 5.3, 64 KiB before."""
    max_sectors_cut: bool = True
    """Bios are also cut at the limit of the queue (5091cdec56fa, dm: use blk_max_size_offset(),
    5.11)."""
    disk_max_sectors: int = 254
    """That limit, for the disks that scenarios run on."""
    disk_discard: bool = True
    """Those disks can discard."""

    @classmethod
    def from_probe(cls, facts: "Mapping[str, Fact]") -> "Profile":
        """A profile from what a guest found out; facts it does not know are left alone.

        Raises:
            ProvisioningError: a value has the wrong type, or names no known rule.
        """
        values: dict[str, object] = {}
        for field in fields(cls):
            fact = facts.get(field.name)
            if fact is None:
                continue
            try:
                if field.name == "exception_order":
                    values[field.name] = Order(fact)
                elif field.name.endswith("_errno"):
                    values[field.name] = getattr(errno, str(fact))
                elif type(fact) is not type(field.default):
                    raise TypeError(f"want {type(field.default).__name__}")
                else:
                    values[field.name] = fact
            except (ValueError, TypeError, AttributeError) as fault:
                raise ProvisioningError(
                    f"the guest's probe says {field.name} = {fact!r}, which is no possible value "
                    f"({fault}): does it run another version of dmsnap?") from None
        return cls(**values)  # type: ignore[arg-type]

    def facts(self) -> dict[str, Fact]:
        """The inverse of `from_probe`."""
        facts: dict[str, Fact] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Order):
                facts[field.name] = value.value
            elif field.name.endswith("_errno"):
                facts[field.name] = errno.errorcode[value]
            else:
                facts[field.name] = value
        return facts


PROFILES: Final = {
    "6.12": Profile(exception_order=Order.head_scan_to_head),
    "6.1": Profile(
        missing_path_errno=errno.ENODEV,
        self_reference_refused=False,
        same_device_checked_after_open=False,
        message_needs_table=False,
        error_takes_device=False,
        exception_order=Order.head_scan,
        disk_discard=False,
    ),
    "7.2": Profile(stale_device_named=True),
    "seed": Profile(
        feature_args=False,
        log_errno_suffix=False,
        missing_path_errno=errno.ENODEV,
        self_reference_refused=False,
        same_device_checked_after_open=False,
        message_needs_table=False,
        error_takes_device=False,
        exception_order=Order.tail_scan,
        kcopyd_subjob_sectors=128,
        max_sectors_cut=False,
        disk_discard=False,
    ),
}
"""Recorded profiles by name; the default of commands that run the twin alone is 6.12."""


def named(name: str) -> Profile:
    """A recorded profile.

    Raises:
        ProvisioningError: there is none of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ProvisioningError(
            f"no profile named {name!r}; there are {', '.join(sorted(PROFILES))}") from None
