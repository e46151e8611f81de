"""The diff: each layer is seen, placed to the byte, counted; nothing is silently equal."""

import struct
import zlib
from collections.abc import Callable

import msgspec
import pytest

from harness.compare.diff import Comparison, Layer, Verdict, compare, render
from harness.compare.place import Geometry, locate
from harness.trace import pattern
from harness.trace.files import Header, NotCompared, Trace
from harness.trace.observations import (
    DeviceState,
    Observation,
    Raw,
    Run,
    Runs,
    Stamped,
    UEvent,
    Unreadable,
    Zeros,
)
from harness.trace.steps import (
    AnyStep,
    Disk,
    Examine,
    Image,
    Message,
    Read,
    Status,
    Table,
    Wait,
    Write,
)

SEED = 5
TABLE = "0 64 snapshot {base} {cow} P 8"


def trace(*steps: AnyStep, not_compared: tuple[NotCompared, ...] = ()) -> Trace:
    return Trace(Header(scenario="t", seed=SEED, not_compared=not_compared), steps)


def one(step: AnyStep, kernel: Observation, twin: Observation) -> Comparison:
    return compare(trace(step), [kernel], [twin])


READ = Read(device="s", sector=16, sectors=8)
WRITE = Write(device="o", sector=3, sectors=1)


def obs(step: int = 0, **fields: object) -> Observation:
    return Observation(step=step, **fields)  # type: ignore[arg-type]


def test_the_same_is_the_same_and_is_counted() -> None:
    seen = [
        obs(0, content={"s": (Stamped("base", 0, 16, 8),)}, elapsed_us=3),
        obs(1, log=("a", "b"), state={"s": DeviceState(status="x", table=TABLE)}),
    ]
    other = [msgspec.structs.replace(o, elapsed_us=99) for o in seen]
    result = compare(trace(READ, WRITE), seen, other)
    assert result.same
    assert result.compared == {
        Layer.ERROR: 2,
        Layer.CONTENT: 1,
        Layer.STATUS: 1,
        Layer.TABLE: 5,
        Layer.EVENT: 1,
        Layer.UEVENT: 2,
        Layer.LOG: 2,
        Layer.STORE: 0,
        Layer.REQUESTS: 0,
    }
    assert result.not_compared == ()


STATE = DeviceState(status="0 64 snapshot 16/64 16", table=TABLE)


def state(**changes: object) -> dict[str, DeviceState | None]:
    return {"s": msgspec.structs.replace(STATE, **changes)}


@pytest.mark.parametrize(
    ("step", "kernel", "twin", "layer", "what"),
    [
        (WRITE, obs(error="EIO"), obs(), "error", "error"),
        (WRITE, obs(error="EIO"), obs(error="ENOSPC"), "error", "error"),
        (
            READ,
            obs(content={"s": (Zeros(8),)}),
            obs(content={"s": (Zeros(7), Stamped("a", 0, 0, 1))}),
            "content",
            "content of s",
        ),
        (READ, obs(content={"s": (Zeros(8),)}), obs(), "content", "content of s"),
        (
            Image(device="c"),
            obs(image={"c": (Zeros(8),)}),
            obs(image={"c": (Zeros(9),)}),
            "store",
            "image of c",
        ),
        (
            WRITE,
            obs(state=state()),
            obs(state=state(status="0 64 snapshot Invalid")),
            "status",
            "status of s",
        ),
        (
            WRITE,
            obs(state=state()),
            obs(state=state(table="0 64 snapshot {base} {cow} PO 8")),
            "table",
            "table of s",
        ),
        (WRITE, obs(state=state()), obs(state=state(inactive=TABLE)), "table", "inactive of s"),
        (WRITE, obs(state=state()), obs(state=state(suspended=True)), "table", "suspended of s"),
        (WRITE, obs(state=state()), obs(state=state(read_only=True)), "table", "read_only of s"),
        (WRITE, obs(state=state()), obs(state=state(open=1)), "table", "open of s"),
        (WRITE, obs(state=state()), obs(state=state(event=1)), "event", "event of s"),
        (WRITE, obs(state=state()), obs(), "status", "status of s"),
        (Status(name="s"), obs(text="a"), obs(text="b"), "status", "the answer"),
        (Table(name="s"), obs(text="a"), obs(text="b"), "table", "the answer"),
        (Wait(name="s", event=0), obs(text="1"), obs(text="2"), "event", "the answer"),
        (WRITE, obs(uevents=(UEvent("change", "s"),)), obs(), "uevent", "uevent 1 (of 1 and 0)"),
        (
            WRITE,
            obs(uevents=(UEvent("change", "s", {"A": "1"}),)),
            obs(uevents=(UEvent("change", "s", {"A": "2"}),)),
            "uevent",
            "uevent 1 (of 1 and 1)",
        ),
        (WRITE, obs(log=("a", "b")), obs(log=("a", "c")), "log", "log line 2 (of 2 and 2)"),
        (WRITE, obs(log=("a",)), obs(log=("a", "c")), "log", "log line 2 (of 1 and 2)"),
    ],
)
def test_each_layer_is_seen(
    step: AnyStep, kernel: Observation, twin: Observation, layer: str, what: str
) -> None:
    for left, right in ((kernel, twin), (twin, kernel)):
        result = one(step, left, right)
        assert not result.same
        found = [d for d in result.divergences if d.layer == layer]
        assert found[0].what.split(" (")[0] == what.split(" (", maxsplit=1)[0]
        assert found[0].left != found[0].right
        assert result.first[Layer(layer)] == found[0]
        assert result.compared[Layer(layer)] >= 1
        assert render(found[0]).startswith(f"step 0 ({found[0].verb}), {layer}: ")


def test_changes_are_added_up_before_they_are_compared() -> None:
    """A side that repeats an unchanged state says nothing new; one that misses a change does."""
    steps = trace(WRITE, WRITE, WRITE)
    said = [obs(0, state=state()), obs(1), obs(2)]
    repeated = [obs(0, state=state()), obs(1, state=state()), obs(2)]
    assert compare(steps, said, repeated).same
    changed = [obs(0, state=state()), obs(1, state=state(event=1)), obs(2)]
    result = compare(steps, said, changed)
    assert [d.what for d in result.divergences] == ["event of s"]
    gone = [obs(0, state=state()), obs(1, state={"s": None}), obs(2)]
    result = compare(steps, said, gone)
    assert {d.right for d in result.divergences} == {"no such device"}
    assert compare(steps, gone, gone).same


@pytest.mark.parametrize(
    ("kernel", "twin", "what"),
    [
        ([0], [0, 1], "an observation of this step"),
        ([0, 1], [1], "an observation of this step"),
        ([], [], "an observation of this step"),
        ([0, 1, 1], [0, 1], "one observation of this step"),
        ([0, 1, 1], [0, 1, 1], "one observation of this step"),
        ([0, 1, 2], [0, 1], "a step that the trace does not have"),
        ([0, 1, 2], [0, 1, 2], "a step that the trace does not have"),
    ],
)
def test_what_is_missing_or_too_much_is_a_divergence(
    kernel: list[int], twin: list[int], what: str
) -> None:
    for left_out in ((), tuple(NotCompared(layer, "never") for layer in Layer)):
        result = compare(
            trace(WRITE, WRITE, not_compared=left_out),
            [obs(i) for i in kernel],
            [obs(i) for i in twin],
        )
        assert not result.same
        assert result.divergences[0].what == what
        assert "observation" in render(result.divergences[0])


def test_a_layer_left_out_is_counted_with_its_reason() -> None:
    left_out = (NotCompared(Layer.LOG, "the log of this guest is shared"),)
    kernel, twin = [obs(0, log=("a",)), obs(1)], [obs(0), obs(1)]
    result = compare(trace(WRITE, WRITE, not_compared=left_out), kernel, twin)
    assert result.same
    assert Layer.LOG not in result.compared
    [entry] = result.not_compared
    assert (entry.layer, entry.reason, entry.values, entry.differing) == (
        Layer.LOG,
        "the log of this guest is shared",
        2,
        1,
    )
    again = compare(trace(WRITE, WRITE, not_compared=left_out), kernel, twin, not_compared=())
    assert not again.same


def test_the_first_step_is_shown_whole_and_later_ones_are_counted() -> None:
    steps = trace(WRITE, WRITE, WRITE, WRITE)
    kernel = [obs(i) for i in range(4)]
    twin = [
        obs(0),
        obs(1, error="EIO", log=("x",)),
        obs(2, log=("y",)),
        obs(3, uevents=(UEvent("add", "s"),)),
    ]
    result = compare(steps, kernel, twin)
    assert [(d.step, d.layer) for d in result.divergences] == [(1, "error"), (1, "log")]
    assert result.later == 2
    assert {layer: d.step for layer, d in result.first.items()} == {
        Layer.ERROR: 1,
        Layer.LOG: 1,
        Layer.UEVENT: 3,
    }


# -- places -------------------------------------------------------------------------------------


def test_a_byte_is_placed_and_its_sectors_say_where_they_came_from() -> None:
    kernel = obs(
        1,
        content={
            "s": (Stamped("base", 0, 16, 3), Stamped("s", 2, 19, 1), Stamped("base", 0, 20, 4))
        },
    )
    twin = obs(1, content={"s": (Stamped("base", 0, 16, 8),)})
    first = obs(0, state=state())
    [divergence] = compare(trace(WRITE, READ), [first, kernel], [first, twin]).divergences
    place = divergence.place
    assert place is not None
    # words 0 of both stamps differ in the generation, bytes 4 to 7 of the sector
    assert (place.device, place.byte, place.sector) == ("s", 19 * 512 + 4, 19)
    assert (place.chunk, place.chunk_sectors, place.differ, place.of) == (2, 8, 1, 8)
    assert place.hex_at == 19 * 512
    assert place.left_hex == "53 4e 41 50 02 00 00 00 13 00 00 00 00 00 00 00"
    assert place.right_hex == "53 4e 41 50 00 00 00 00 13 00 00 00 00 00 00 00"
    assert (
        render(divergence)
        == """\
step 1 (read s), content: content of s differs at byte 9732
  sector 19, byte 4 of it; chunk 2 (8 sectors each), sector 3 of it
  1 of 8 sectors differ
  kernel  sector 19 of s, generation 2
  twin    sector 19 of base, generation 0
  bytes from 9728:
  kernel  53 4e 41 50 02 00 00 00 13 00 00 00 00 00 00 00
  twin    53 4e 41 50 00 00 00 00 13 00 00 00 00 00 00 00"""
    )


def store(change: Callable[[bytearray], None] = lambda _: None) -> Runs:
    """A store of 8-sector chunks: one area, entries 5 → 2 and 0 → 3, their data."""
    image = bytearray(64 * 512)
    image[:16] = struct.pack("<4I", 0x70416E53, 1, 1, 8)
    image[4096 : 4096 + 32] = struct.pack("<4Q", 5, 2, 0, 3)
    image[8192:16384] = pattern.fill(SEED, "base", 40, 16, 0).tobytes()
    change(image)
    return pattern.encode(SEED, image)


@pytest.mark.parametrize(
    ("byte", "says"),
    [
        (0, "header field magic\nvalue: kernel 0x70416e53 (SnAp), twin 0x70416eac (no store)"),
        (4, "header field valid\nvalue: kernel 1 (valid), twin 254 (valid)"),
        (8, "header field version\nvalue: kernel 1, twin 254"),
        (13, "header field chunk_size\nvalue: kernel 8 sectors, twin 65288 sectors"),
        (16, "header chunk, behind the header"),
        (4095, "header chunk, behind the header"),
        (4096, "metadata area 0, entry 0, old chunk\nentry: kernel 5 → 2, twin 250 → 2"),
        (4096 + 24, "metadata area 0, entry 1, new chunk\nentry: kernel 0 → 3, twin 0 → 252"),
        (
            4096 + 511,
            (f"metadata area 0, entry 31, new chunk\nentry: kernel 0 → 0, twin 0 → {255 << 56}"),
        ),
        (
            8192,
            "data chunk 2 of the store, number 0 of area 0\nin the kernel, entry 0 says: chunk 5",
        ),
        (
            12288 + 700,
            ("data chunk 3 of the store, number 1 of area 0\nin the kernel, entry 1 says: chunk 0"),
        ),
        (16384, "data chunk 4 of the store, number 2 of area 0"),
    ],
)
def test_a_byte_of_a_store_is_named(byte: int, says: str) -> None:
    def change(image: bytearray) -> None:
        image[byte] ^= 0xFF

    result = one(
        Image(device="cow"), obs(image={"cow": store()}), obs(image={"cow": store(change)})
    )
    [divergence] = result.divergences
    place = divergence.place
    assert place is not None
    assert divergence.layer is Layer.STORE
    assert (place.byte, place.chunk, place.chunk_sectors, place.store) == (
        byte,
        byte // 4096,
        8,
        says,
    )


def test_the_second_area_of_a_store_of_single_sectors() -> None:
    image = bytearray(80 * 512)
    image[:16] = struct.pack("<4I", 0x70416E53, 1, 1, 1)
    for byte, says in (
        (34 * 512 + 16 * 3, "metadata area 1, entry 3, old chunk"),
        (33 * 512, "data chunk 33 of the store, number 31 of area 0"),
        (35 * 512, "data chunk 35 of the store, number 0 of area 1"),
    ):
        other = bytearray(image)
        other[byte] = 1
        [d] = one(
            Examine(),
            obs(image={"c": pattern.encode(SEED, image)}),
            obs(image={"c": pattern.encode(SEED, other)}),
        ).divergences
        assert d.place is not None
        assert d.place.store.startswith(says)


def test_a_disk_without_a_store_has_no_place_in_one() -> None:
    plain = pattern.encode(SEED, bytes(4096))
    other = pattern.encode(SEED, b"\1" + bytes(4095))
    for base in (obs(image={"d": plain}), obs(image={"d": (Unreadable("EIO", 8),)})):
        [d] = one(Examine(), base, obs(image={"d": other})).divergences
        assert d.place is not None
        assert (d.place.store, d.place.chunk) == ("", None)
        assert render(d)


def test_the_ends_of_a_large_device_keep_their_sectors() -> None:
    size = 1 << 20
    first = obs(0, state={"s": DeviceState(table=f"0 {size} snapshot {{base}} {{cow}} P 16")})
    kernel = obs(1, content={"s": (Zeros(1 << 14),)})
    twin = obs(1, content={"s": (Zeros((1 << 14) - 2), Stamped("s", 1, size - 2, 1), Zeros(1))})
    [d] = compare(trace(WRITE, Examine()), [first, kernel], [first, twin]).divergences
    assert d.place is not None
    assert (d.place.sector, d.place.chunk) == (size - 2, (size - 2) // 16)


@pytest.mark.parametrize(
    ("left", "right", "place"),
    [
        ((Zeros(4),), (Zeros(4), Zeros(4)), (4, -1, 4, 8)),
        ((Unreadable("EIO", 4),), (Zeros(4),), (0, -1, 4, 4)),
        ((Unreadable("EIO", 4),), (Unreadable("EIO", 2), Unreadable("ENXIO", 2)), (2, -1, 2, 4)),
        ((Stamped("a", 0, 0, 4),), (Stamped("a", 0, 0, 2), Stamped("a", 0, 3, 2)), (2, 1024, 2, 4)),
        (
            (Stamped("a", 0, 1 << 40, 1 << 30),),
            (Stamped("a", 0, 1 << 40, (1 << 30) - 1), Zeros(1)),
            ((1 << 30) - 1, ((1 << 30) - 1) * 512, 1, 1 << 30),
        ),
    ],
)
def test_runs_of_any_kind_meet(
    left: tuple[Run, ...], right: tuple[Run, ...], place: tuple[int, int, int, int]
) -> None:
    for kernel, twin in ((left, right), (right, left)):
        found = locate(SEED, Geometry(), "d", kernel, twin)
        assert found is not None
        assert (found.sector, found.hex_at, found.differ, found.of) == place


def test_other_runs_of_the_same_bytes_are_the_same() -> None:
    raw = Raw(3, zlib.compress(pattern.fill(SEED, "a", 0, 2, 0).tobytes() + bytes(512)))
    for left, right in (
        ((Zeros(4),), (Zeros(1), Zeros(3))),
        ((raw,), (Stamped("a", 0, 0, 2), Zeros(1))),
        ((Stamped("a", 0, 0, 1), Zeros(2)), (Stamped("a", 0, 0, 1), Zeros(2))),
    ):
        assert one(READ, obs(content={"s": left}), obs(content={"s": right})).same


def test_chunk_sizes_come_from_the_tables() -> None:
    geometry = Geometry()
    geometry.table("s1", "0 64 snapshot {base} {c1} P 16")
    geometry.table("s2", "0 64 snapshot {base} {c2} N 4")
    geometry.table("o", "0 64 snapshot-origin {base}")
    geometry.table("p", "0 32 linear {x} 0\n32 32 linear {x} 64")
    geometry.table("odd", "nonsense\n0 8\n0 8 snapshot {a} {b} P x")
    assert [
        geometry.chunk_sectors(n) for n in ("s1", "s2", "c1", "c2", "base", "o", "p", "odd")
    ] == [16, 4, 16, 4, 4, 4, None, None]
    geometry.table("s3", "0 64 snapshot {s1} {c3} P 2")
    assert (geometry.chunk_sectors("s1"), geometry.chunk_sectors("s3")) == (16, 2)
    assert (geometry.sectors("p"), geometry.sectors("none"), geometry.sectors("odd")) == (
        64,
        None,
        8,
    )


def test_a_divergence_survives_json_and_its_text_fits() -> None:
    result = one(
        Image(device="cow"),
        obs(image={"cow": store()}),
        obs(image={"cow": store(lambda image: image.__setitem__(4100, 9))}),
    )
    text = msgspec.json.encode(result)
    assert msgspec.json.decode(text, type=Comparison) == result
    assert max(map(len, render(result.divergences[0]).splitlines())) <= 80


def test_words() -> None:
    result = compare(
        trace(Examine(), Disk(name="d", sectors=1), Message(name="s", text="x")),
        [obs(i, error="EIO") for i in range(3)],
        [obs(i) for i in range(3)],
    )
    assert result.divergences[0].verb == "examine"
    assert [str(v) for v in Verdict] == [
        "same",
        "hangs on both sides",
        "dies on both sides",
        "diverged",
        "nondeterministic",
        "guest lost",
        "unsupported",
        "broken scenario",
    ]


def test_the_sides_have_the_names_that_the_caller_gives_them() -> None:
    other = bytearray(pattern.decode(SEED, store()))
    other[4096] = 6
    [d] = compare(
        trace(Image(device="cow")),
        [obs(image={"cow": store()})],
        [obs(image={"cow": pattern.encode(SEED, other)})],
        sides=("ioctl", "dmsetup"),
    ).divergences
    text = render(d, ("ioctl", "dmsetup"))
    assert "entry: ioctl 5 → 2, dmsetup 6 → 2" in text
    assert "kernel" not in text
    assert "twin" not in text
    assert "\n  ioctl    05 00" in text
    assert "\n  dmsetup  06 00" in text


def test_a_file_of_results_calls_the_sides_kernel_and_twin() -> None:
    """The form of results.json is older than the names in the code."""
    [d] = one(
        Image(device="cow"),
        obs(image={"cow": store()}),
        obs(image={"cow": store(lambda image: image.reverse())}),
    ).divergences
    written = msgspec.to_builtins(d)
    assert list(written) == ["step", "verb", "layer", "what", "kernel", "twin", "place"]
    assert list(written["place"]) == [
        "device",
        "byte",
        "sector",
        "chunk",
        "chunk_sectors",
        "differ",
        "of",
        "kernel",
        "twin",
        "hex_at",
        "kernel_hex",
        "twin_hex",
        "store",
    ]
