"""Steps that never return: they wait for I/O that a suspended device holds back.

No process returns from one, so each loses its guest, and is run only when named.
"""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script, linear

_SECTORS = 128


def _cast(s: Script) -> None:
    """A snapshot of ``real`` on ``cow``, and an origin; both stand on linear devices."""
    for name, disk in (("real", "base"), ("cow", "store")):
        s.disk(disk, _SECTORS, stamped=disk == "base")
        s.device(name, linear(disk, _SECTORS))
    s.snapshot("snap", "real", "cow", "P", 8)
    s.origin("org", "real")


def _other(s: Script) -> None:
    """A second snapshot of ``real``, on ``cow2``."""
    s.disk("store2", _SECTORS)
    s.device("cow2", linear("store2", _SECTORS))
    s.snapshot("other", "real", "cow2", "P", 8)


@scenario(store=("P", "PO"), loses_guest=True)
def load_over_suspended_store(s: Script, store: str) -> None:
    """A snapshot is loaded while its COW device is suspended: its constructor reads the store."""
    _cast(s)
    s.write("org", 0, 8)
    s.suspend("org", "snap", "real", "cow")
    s.remove("snap")
    s.create("snap")
    s.load("snap", s.snapshot_line("real", "cow", store, 8))


@scenario(loses_guest=True)
def write_while_a_store_is_suspended(s: Script) -> None:
    """A write to an origin has to be copied first, to a COW device that is suspended."""
    _cast(s)
    s.suspend("cow")
    s.write("org", 3, 2)


@scenario(loses_guest=True)
def merge_resumed_beside_a_suspended_store(s: Script) -> None:
    """The resume of a merge prepares the first run: another snapshot must copy, but cannot."""
    _cast(s)
    _other(s)
    s.write("snap", 0, 24)
    s.load("org", s.merge_line("real", "cow", "P", 8))
    s.suspend("snap", "org", "cow2")
    s.resume("org")


@scenario(how=("suspend", "remove"), loses_guest=True)
def merge_stopped_over_a_suspended_origin(s: Script, how: str) -> None:
    """A merge is to stop, but the run that it copies waits for a suspended device."""
    _cast(s)
    s.write("snap", 0, 24)
    s.remove("org")
    s.create("merge")
    s.load("merge", s.merge_line("real", "cow", "P", 8))
    s.suspend("snap", "real")
    s.resume("merge")
    (s.suspend if how == "suspend" else s.remove)("merge")


@scenario(loses_guest=True)
def merge_resumed_beside_a_snapshot_over_a_suspended_origin(s: Script) -> None:
    """The same, but the other snapshot cannot copy from the origin."""
    _cast(s)
    _other(s)
    s.write("snap", 0, 8)
    s.write("snap", 64, 8)
    s.remove("org")
    s.create("merge")
    s.load("merge", s.merge_line("real", "cow", "P", 8))
    s.suspend("snap", "real")
    s.resume("merge")
