"""The store as a witness: what lies is found out, and what is no lie is not."""

from collections.abc import Callable

import pytest
from msgspec import structs

from harness import store
from harness.promises import witness
from harness.scenarios.script import Script
from harness.store import DiskHeader, build
from harness.trace import pattern
from harness.trace import steps as do
from harness.trace.files import Header, Trace
from harness.trace.observations import Observation, Unreadable
from harness.twin.backend import TwinBackend
from harness.twin.profile import Profile

CHUNK = 8
CHUNK_BYTES = CHUNK * 512
Lived = tuple[Trace, list[Observation]]


def lived(script: Script) -> Lived:
    script.steps.append(do.Examine())
    trace = Trace(Header(scenario="life", seed=1), tuple(script.steps))
    twin = TwinBackend(Profile())
    twin.begin(1)
    return trace, [twin.execute(index, step) for index, step in enumerate(trace.steps)]


def snapshot(found: bytes = b"") -> Script:
    """A snapshot with three exceptions, or of a store that was there before."""
    s = Script()
    s.disk("base", 100, stamped=True)
    s.disk("cow", 128)
    if found:
        s.poke("cow", 0, found)
    s.snapshot("snap", "base", "cow", "P", CHUNK)
    if not found:
        for sector in (3, 40, 96):
            s.write("snap", sector, 2)
    return s


@pytest.fixture(scope="module")
def life() -> Lived:
    return lived(snapshot())


def told(life: Lived, change: Callable[[bytearray], None]) -> set[str]:
    """The rules that are broken once the COW disk is changed."""
    trace, seen = life
    data = bytearray(pattern.decode(1, seen[-1].image["cow"]))
    change(data)
    last = structs.replace(seen[-1], image=seen[-1].image | {"cow": pattern.encode(1, data)})
    return {broken.rule for broken in witness.check(trace, [*seen[:-1], last])}


def put(offset: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[offset : offset + 8] = value.to_bytes(8, "little")

    return change


def test_a_snapshot_that_the_store_bears_out(life: Lived) -> None:
    assert store.parse(pattern.decode(1, life[1][-1].image["cow"])).count == 3
    assert told(life, lambda _: None) == set()


@pytest.mark.parametrize(
    ("offset", "value", "rules"),
    [
        pytest.param(0, 0x0000000100000001, {witness.LOAD_RULE}, id="magic"),
        pytest.param(4, 0x0000000100000000, {witness.NUMBERS_RULE}, id="invalid on the disk alone"),
        pytest.param(CHUNK_BYTES, 7, {witness.EXPLAINS_RULE}, id="another chunk"),
        pytest.param(CHUNK_BYTES + 8, 3, {witness.SOUND_RULE}, id="one chunk for two"),
        pytest.param(CHUNK_BYTES + 8, 1, {witness.SOUND_RULE}, id="data in the metadata"),
        pytest.param(CHUNK_BYTES + 32, 100, {witness.SOUND_RULE}, id="beyond the origin"),
        pytest.param(
            CHUNK_BYTES + 40,
            9,
            {witness.NUMBERS_RULE, witness.EXPLAINS_RULE},
            id="more than was handed out",
        ),
        pytest.param(CHUNK_BYTES + 40, 0, {witness.EXPLAINS_RULE}, id="one exception less"),
        pytest.param(2 * CHUNK_BYTES + 512, 7, {witness.EXPLAINS_RULE}, id="data"),
    ],
)
def test_a_store_that_lies(life: Lived, offset: int, value: int, rules: set[str]) -> None:
    assert told(life, put(offset, value)) == rules


def test_where_the_lie_is(life: Lived) -> None:
    trace, seen = life
    data = bytearray(pattern.decode(1, seen[-1].image["cow"]))
    data[2 * CHUNK_BYTES + 512] ^= 1
    last = structs.replace(seen[-1], image=seen[-1].image | {"cow": pattern.encode(1, data)})
    (broken,) = witness.check(trace, [*seen[:-1], last])
    assert (broken.device, broken.sector, broken.step) == ("snap", 1, last.step)
    assert broken.promised == "bytes without a stamp"
    assert broken.read == "sector 1 of base, generation 0"


def test_the_kernel_says_another_number(life: Lived) -> None:
    trace, seen = life
    at = next(i for i in reversed(range(len(seen))) if "snap" in seen[i].state)
    state = seen[at].state["snap"]
    assert state is not None
    assert state.status == "0 100 snapshot 40/128 16"
    for status in ("0 100 snapshot 39/128 16", "0 100 snapshot 40/128 24"):
        wrong = structs.replace(seen[at], state={"snap": structs.replace(state, status=status)})
        found = witness.check(trace, [*seen[:at], wrong, *seen[at + 1 :]])
        assert [broken.rule for broken in found] == [witness.NUMBERS_RULE]


def bad(**fields: int) -> bytes:
    return build(CHUNK, [(1, 2)], header=DiskHeader(**({"chunk_sectors": CHUNK} | fields)))


@pytest.mark.parametrize(
    ("content", "errno"),
    [
        pytest.param(bad(magic=5), "ENXIO", id="magic"),
        pytest.param(bad(version=2), "EINVAL", id="version"),
        pytest.param(bad(chunk_sectors=7), "EINVAL", id="chunk size"),
        pytest.param(bad(chunk_sectors=256), "EIO", id="no area on the disk"),
    ],
)
def test_what_is_refused_cannot_be_read(content: bytes, errno: str) -> None:
    """Both ways: a refusal of a good store is a lie, and so is another errno."""
    trace, seen = lived(snapshot(content))
    assert witness.check(trace, seen) == ()
    at = next(i for i, step in enumerate(trace.steps) if isinstance(step, do.Load))
    assert seen[at].error == errno
    other = structs.replace(seen[at], error="ENOENT")
    assert [
        broken.rule for broken in witness.check(trace, [*seen[:at], other, *seen[at + 1 :]])
    ] == [witness.LOAD_RULE]
    good = structs.replace(
        seen[-1],
        image=seen[-1].image | {"cow": pattern.encode(1, build(CHUNK, [(1, 2)], sectors=128))},
    )
    said = {broken.rule for broken in witness.check(trace, [*seen[:-1], good])}
    # A disk may have been unreadable at the moment of an EIO.
    assert said == (set() if errno == "EIO" else {witness.LOAD_RULE})


def test_a_store_of_somebody_else_may_be_damaged() -> None:
    """The kernel loads it without a word, so this is no lie of its own."""
    trace, seen = lived(snapshot(build(CHUNK, [(1, 2), (1, 2), (50, 3)], sectors=128)))
    assert store.check(store.parse(pattern.decode(1, seen[-1].image["cow"])))
    assert witness.check(trace, seen) == ()


def test_silence_where_somebody_wrote_to_the_disk() -> None:
    s = snapshot()
    s.poke("cow", CHUNK, bytes(512))
    assert witness.check(*lived(s)) == ()


def test_silence_where_the_disk_cannot_be_read(life: Lived) -> None:
    trace, seen = life
    last = structs.replace(seen[-1], image=seen[-1].image | {"cow": (Unreadable("EIO", 128),)})
    assert witness.check(trace, [*seen[:-1], last]) == ()


def test_what_the_snapshot_cannot_read_is_not_asked(life: Lived) -> None:
    trace, seen = life
    shown = seen[-1].content["snap"]
    assert pattern.sectors_of(shown) == 100
    last = structs.replace(seen[-1], content=seen[-1].content | {"snap": (Unreadable("EIO", 100),)})
    assert witness.check(trace, [*seen[:-1], last]) == ()


def test_a_guest_that_was_lost(life: Lived) -> None:
    trace, seen = life
    assert witness.check(trace, seen[:-1]) == ()
