"""Uevents: the kernel's bytes, and two witnesses that must agree."""

import pytest

from harness.errors import WitnessesDisagree
from harness.kernel.uevents import Witnesses, parse

CHANGE = (b"change@/devices/virtual/block/dm-3\0ACTION=change\0DEVPATH=/devices/virtual/block/dm-3"
          b"\0SUBSYSTEM=block\0DM_NAME=snap\0DM_COOKIE=\0SEQNUM=1234\0")


def event(number, device="dm-3", name="snap", action="change"):
    return action, {"SUBSYSTEM": "block", "DEVPATH": f"/devices/virtual/block/{device}",
                    "DM_NAME": name, "SEQNUM": str(number)}


class Source:
    """Says one list after the other, then nothing."""

    def __init__(self, *rounds):
        self.rounds = list(rounds)

    def drain(self):
        return self.rounds.pop(0) if self.rounds else []


def test_a_message_of_the_kernel():
    action, properties = parse(CHANGE)
    assert action == "change"
    assert properties["DM_NAME"] == "snap"
    assert properties["DM_COOKIE"] == ""
    assert properties["SEQNUM"] == "1234"


@pytest.mark.parametrize("message", [
    b"", b"libudev\0\xfe\xed\xca\xfe", b"change@/devices/virtual/block/dm-3\0",
    CHANGE.replace(b"ACTION=change", b"ACTION=add"), CHANGE.replace(b"change@/", b"change@/x")])
def test_what_is_no_message_of_the_kernel(message):
    assert parse(message) is None


def test_the_first_witness_is_taken_at_its_word():
    mine = [event(1), event(2, "nbd0"), event(3, "dm-4", "org", "remove")]
    theirs = [event(1), event(3, "dm-4", "org", "remove")]
    assert Witnesses(Source(mine), Source(theirs)).drain() == mine
    assert Witnesses(Source(), Source()).drain() == []


def test_what_comes_between_the_two_is_waited_for():
    late = Witnesses(Source([event(1)], [event(2)]), Source([event(1), event(2)]))
    assert late.drain() == [event(1), event(2)]


@pytest.mark.parametrize("theirs", [
    [], [event(1)], [event(2), event(1)], [event(1), event(2), event(3)],
    [event(1), event(2, name="org")], [event(1), event(2, "dm-4")],
    [event(1), event(2, action="add")], [event(1), event(4)]])
def test_witnesses_that_disagree_name_both_lists(theirs):
    with pytest.raises(WitnessesDisagree) as caught:
        Witnesses(Source([event(1), event(2)]), Source(theirs)).drain()
    said = str(caught.value)
    assert "pyudev saw [change dm-3 snap 1, change dm-3 snap 2]" in said
    for action, properties in theirs:
        assert f"{action} {properties['DEVPATH'][-4:]} {properties['DM_NAME']}" in said
