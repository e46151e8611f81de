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


@scenario()
def try_flush2(s: Script) -> None:
    """A second look."""
    from harness.steps import TargetLine
    s.disk("one", 64, can_fail=True)
    s.disk("two", 64, can_fail=True)
    s.disk("plain", 64)
    s.device("a", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "linear", "{one} 32"))
    s.device("b", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "linear", "{two} 32"))
    s.device("c", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "error"))
    s.device("d", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "zero"))
    s.device("e", TargetLine(0, 32, "linear", "{one} 0"), TargetLine(32, 32, "delay", "{two} 32 1"))
    s.device("f", TargetLine(0, 32, "linear", "{plain} 0"), TargetLine(32, 32, "linear", "{two} 0"))
    s.device("g", TargetLine(0, 32, "linear", "{plain} 0"))
    s.device("h", TargetLine(0, 64, "linear", "{a} 0"))
    for x in "abcdefgh":
        s.flush(x)
    s.fault("one", "flush", count=0)
    for x in "abcdefgh":
        s.flush(x)
    s.flush("one")
    s.heal("one")
    s.discard("a", 3, 40)
    s.fault("two", "discard", 40, 1)
    s.discard("b", 3, 40)
    s.disk("base", 64, stamped=True)
    s.disk("cow", 64, can_fail=True)
    s.device("c1", TargetLine(0, 64, "linear", "{cow} 0"))
    s.device("c2", TargetLine(0, 64, "linear", "{c1} 0"))
    s.snapshot("snap", "base", "c2", "P", 8)
    s.write("snap", 1, 1)
    s.fault("cow", "flush")
    s.write("snap", 9, 1)
    s.remove("snap")
    s.device("c3", TargetLine(0, 32, "linear", "{c1} 0"),  TargetLine(32, 32, "linear", "{two} 0"))
    s.snapshot("snap", "base", "c3", "P", 8)
    s.fault("cow", "flush")
    s.write("snap", 17, 1)
    s.flush("snap")
