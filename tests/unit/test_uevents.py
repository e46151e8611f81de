"""Uevents: the kernel's bytes, and witnesses that must agree."""

import pytest

from harness.errors import WitnessesDisagree
from harness.kernel.uevents import Retold, Witnesses, parse

CHANGE = (
    b"change@/devices/virtual/block/dm-3\0ACTION=change\0DEVPATH=/devices/virtual/block/dm-3"
    b"\0SUBSYSTEM=block\0DM_NAME=snap\0DM_COOKIE=\0SEQNUM=1234\0"
)


def event(number, device="dm-3", name="snap", action="change"):
    return action, {
        "SUBSYSTEM": "block",
        "DEVPATH": f"/devices/virtual/block/{device}",
        "DM_NAME": name,
        "SEQNUM": str(number),
    }


class Source:
    """Says one list after the other, then nothing."""

    def __init__(self, *rounds):
        self.rounds = list(rounds)

    def drain(self):
        return self.rounds.pop(0) if self.rounds else []

    def finish(self, names):
        """Nothing is kept."""

    def close(self):
        """Nothing is open."""


def test_a_message_of_the_kernel():
    message = parse(CHANGE)
    assert message is not None
    action, properties = message
    assert action == "change"
    assert properties["DM_NAME"] == "snap"
    assert properties["DM_COOKIE"] == ""
    assert properties["SEQNUM"] == "1234"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"libudev\0\xfe\xed\xca\xfe",
        b"change@/devices/virtual/block/dm-3\0",
        CHANGE.replace(b"ACTION=change", b"ACTION=add"),
        CHANGE.replace(b"change@/", b"change@/x"),
    ],
)
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


@pytest.mark.parametrize(
    "theirs",
    [
        [],
        [event(1)],
        [event(2), event(1)],
        [event(1), event(2), event(3)],
        [event(1), event(2, name="org")],
        [event(1), event(2, "dm-4")],
        [event(1), event(2, action="add")],
        [event(1), event(4)],
    ],
)
def test_witnesses_that_disagree_name_both_lists(theirs):
    with pytest.raises(WitnessesDisagree) as caught:
        Witnesses(Source([event(1), event(2)]), Source(theirs)).drain()
    said = str(caught.value)
    assert "pyudev saw [change dm-3 snap 1, change dm-3 snap 2]" in said
    for action, properties in theirs:
        assert f"{action} {properties['DEVPATH'][-4:]} {properties['DM_NAME']}" in said


class Udevd:
    """The kernel and udevd, each of which says one list after the other; counts the settling."""

    def __init__(self, kernel, udevd, settled=(), before=0):
        self.settled, self.last, self.waits = list(settled), before, 0
        self.udevd = Source(*udevd)
        self.retold = Retold(
            Witnesses(Source(*kernel), Source(*kernel)), self.udevd, self.settle, lambda: self.last
        )

    def settle(self):
        self.waits += 1
        self.udevd.rounds = [self.settled]

    def scenario(self, drains=2, names=()):
        seen = [each for _ in range(drains) for each in self.retold.drain()]
        self.last = max([self.last, *(int(each["SEQNUM"]) for _, each in seen)])
        self.retold.finish(dict(names))
        return seen


NAMELESS = ("change", {key: value for key, value in event(1)[1].items() if key != "DM_NAME"})
DUE = "what the kernel had told of dm-3, and udevd not yet, is"


def test_udevd_may_tell_late_and_reorders_devices_only():
    told = [event(1), event(2, "dm-4", "org"), event(3), event(4, "nbd0")]
    late = Udevd([told], [[], [told[1]]], settled=[told[0], told[2]])
    assert late.scenario() == told
    assert late.waits == 1
    prompt = Udevd([told], [[told[1], told[0]], [told[2]]])
    assert prompt.scenario() == told
    assert prompt.waits == 0


def test_what_came_before_all_listened_counts_for_nobody():
    assert Udevd([[event(8)], [event(9)]], [[event(7)], [event(9)]], before=8).scenario()


@pytest.mark.parametrize(
    ("udevd", "said"),
    [
        ([event(1)], "udevd did not tell [change dm-3 snap 2]"),
        ([], "udevd did not tell [change dm-3 snap 1, change dm-3 snap 2]"),
        ([event(1), event(1), event(2)], f"told [change dm-3 snap 1]; {DUE} [change dm-3 snap 2]"),
        ([event(1), event(2), event(2)], f"told [change dm-3 snap 2]; {DUE} []"),
        (
            [event(2), event(1)],
            f"told [change dm-3 snap 2]; {DUE} [change dm-3 snap 1, change dm-3 snap 2]",
        ),
        ([event(1, name="org"), event(2)], "told [change dm-3 org 1]"),
        ([event(1, action="add"), event(2)], "told [add dm-3 snap 1]"),
        ([event(1), event(2), event(3, "dm-4")], "told [change dm-4 snap 3]"),
    ],
)
@pytest.mark.parametrize("when", ["drained", "settled"])
def test_what_udevd_tells_otherwise_is_named(udevd, said, when):
    kernel = [[event(1), event(2)]]
    there = Udevd(kernel, [udevd]) if when == "drained" else Udevd(kernel, [], settled=udevd)
    with pytest.raises(WitnessesDisagree) as caught:
        there.scenario()
    assert said in str(caught.value)


def test_what_comes_too_late_is_not_the_fault_of_the_next_scenario():
    there = Udevd([[event(1)], [], [], [], [event(2)]], [])
    with pytest.raises(WitnessesDisagree):
        there.scenario()
    there.udevd.rounds = [[event(1), event(2)]]
    assert there.scenario() == [event(2)]


def test_udevd_finds_names_that_the_kernel_leaves_out():
    names = {"254:3": {"snap", "kept"}, "254:9": {"other"}}
    Udevd([[NAMELESS]], [[event(1, name="kept")]]).scenario(names=names)
    Udevd([[NAMELESS]], [[NAMELESS]]).scenario(names=names)
    Udevd([[NAMELESS]], [[event(1, name="org")]]).scenario()
    with pytest.raises(
        WitnessesDisagree,
        match=r"udevd told \[change dm-3 org 1\]; dm-3 was "
        "called kept, snap",
    ):
        Udevd([[NAMELESS]], [[event(1, name="org")]]).scenario(names=names)


def test_names_are_those_of_one_scenario():
    there = Udevd([[NAMELESS]], [[event(1, name="org")]])
    there.scenario(names={"254:3": {"org"}})
    there.scenario(names={"254:3": {"snap"}})


def test_what_comes_while_the_witnesses_are_asked_is_no_disagreement():
    kernel, udevd = Source(), Source()

    class Asked(Source):
        """One of them; an event comes when the first one has answered."""

        def __init__(self, source):
            super().__init__()
            self.source = source

        def drain(self):
            said = self.source.drain()
            if not there:
                there.append(event(1))
                kernel.rounds, udevd.rounds = [there], [there]
            return said

    there = []
    retold = Retold(Asked(kernel), Asked(udevd), lambda: None, lambda: 0)
    assert retold.drain() == [event(1)]
    retold.finish({})
