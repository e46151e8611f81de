"""Faults by count: every place where dm-snapshot does I/O fails once."""

from harness.scenarios.registry import scenario
from harness.scenarios.script import Script


@scenario()
def try_flush(s: Script) -> None:
    """A first look."""
    s.disk("base", 64, stamped=True, can_fail=True)
    s.disk("cow", 256, can_fail=True)
    s.snapshot("snap", "base", "cow", "P", 8)
    s.origin("org", "base")
    s.write("snap", 1, 2)
    s.write("snap", 8, 8)
    s.write("org", 17, 2)
    s.fault("cow", "flush")
    s.write("snap", 33, 2)
    s.fault("cow", "write", 8, 8)
    s.write("snap", 41, 2)
    s.flush("snap")
    s.read("snap", 0, 64)
    s.heal("cow")
    s.remove("snap")
    s.snapshot("snap", "base", "cow", "P", 8)
