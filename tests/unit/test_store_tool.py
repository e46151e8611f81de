"""`dmsnap store`: what it prints, what it makes, and that it keeps what it is given."""

import errno
import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.media import Medium, in_place, made, reading
from harness.store import DiskHeader, allocate, build, parse, survey
from harness.store import merge as merging
from harness.store.layout import chunks_needed
from harness.store.order import Which, in_chunk_order, runs, tally
from harness.store.room import room
from harness.trace.backend import carry_out
from harness.trace.steps import AnyStep, Create, Disk, Load, Poke, Resume, Status, TargetLine, Write
from harness.twin.backend import TwinBackend
from harness.twin.profile import named


def run(*words, status=0):
    result = CliRunner().invoke(main, ["store", *map(str, words)])
    assert result.exit_code == status, result.output
    return result.output


def chunk(number, size=4096):
    return number.to_bytes(2, "little") * (size // 2)


def a_store(chunk_sectors, olds):
    """A COW image with data in each chunk, and old chunk → data."""
    size = chunk_sectors * 512
    entries = allocate(olds, chunk_sectors)
    data = {int(e["new"]): chunk(1000 + int(e["old"]), size) for e in entries}
    return build(chunk_sectors, entries, data=data), {
        int(e["old"]): data[int(e["new"])] for e in entries
    }


@pytest.fixture
def world(tmp_path):
    """An origin of 100 chunks and a bit, and a store with more than one area on it."""
    olds = [*range(50, 20, -1), *range(60, 75), 100, 3]
    cow, data = a_store(1, olds)
    origin = b"".join(chunk(number, 512) for number in range(100)) + b"tail" * 25
    expected = bytearray(origin)
    for old, content in data.items():
        part = content[: len(origin) - old * 512]
        expected[old * 512 : old * 512 + len(part)] = part
    (tmp_path / "cow").write_bytes(cow)
    (tmp_path / "origin").write_bytes(origin)
    return tmp_path, cow, origin, bytes(expected)


def test_what_is_read_is_not_changed(world):
    place, cow, origin, _ = world
    for command in ("show", "usage", "map", "check"):
        run(command, place / "cow")
        run(command, place / "cow", "--json")
    assert (place / "cow").read_bytes() == cow
    assert (place / "origin").read_bytes() == origin


def test_show_and_usage_say_what_the_status_line_says(world):
    place, cow, *_ = world
    store = parse(cow)
    status = f"{store.allocated_sectors}/{len(cow) // 512} {store.metadata_sectors}"
    shown = json.loads(run("show", place / "cow", "--json"))
    assert shown["dmsnap-store"] == 1
    assert (shown["status"], shown["exceptions"], shown["areas"]) == (status, 47, 2)
    assert run("usage", place / "cow").splitlines()[0] == status
    assert status in run("show", place / "cow")


def test_map_in_both_orders(world):
    place, *_ = world
    assert run("map", place / "cow").splitlines()[:2] == ["50 2 1", "49 3 1"]
    ordered = [
        tuple(map(int, line.split()))
        for line in run("map", place / "cow", "--order", "chunk").splitlines()
    ]
    assert ordered == sorted(ordered)
    assert sum(count for *_, count in ordered) == 47
    head, *lines = map(json.loads, run("map", place / "cow", "--json").splitlines())
    assert head["exceptions"] == sum(line["count"] for line in lines) == 47


def test_check_says_what_a_kernel_does(tmp_path):
    path = tmp_path / "cow"
    path.write_bytes(build(1, [(1, 2), (2, 2)], sectors=40))
    assert "share a new_chunk" in run("check", path, status=1)
    path.write_bytes(build(1, header=DiskHeader(chunk_sectors=3)))
    found = json.loads(run("check", path, "--json", status=1))
    assert (found["kernel"], found["errno"], found["offset"]) == ("refuses", "EINVAL", 12)
    path.write_bytes(build(1, [(1, 2)]))
    assert "sound" in run("check", path)
    assert "No such file" in run("check", tmp_path / "none", status=2)


def test_extract_gives_what_the_snapshot_shows(world):
    place, cow, origin, expected = world
    run("extract", place / "cow", place / "origin", place / "out")
    assert (place / "out").read_bytes() == expected
    assert "is there already" in run(
        "extract", place / "cow", place / "origin", place / "out", status=2
    )
    assert sorted(each.name for each in place.iterdir()) == ["cow", "origin", "out"]
    assert ((place / "cow").read_bytes(), (place / "origin").read_bytes()) == (cow, origin)


def test_extract_leaves_holes(tmp_path):
    cow, _ = a_store(8, [5, 700])
    (tmp_path / "cow").write_bytes(cow)
    with (tmp_path / "origin").open("wb") as file:
        file.truncate(64 << 20)
    run("extract", tmp_path / "cow", tmp_path / "origin", tmp_path / "out")
    out = (tmp_path / "out").stat()
    assert (out.st_size, out.st_blocks < 2048) == (64 << 20, True)


def test_a_failure_leaves_nothing(world, monkeypatch):
    place, *_ = world

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Medium, "write", full)
    monkeypatch.setattr(Medium, "copy_from", full)
    assert "No space" in run("extract", place / "cow", place / "origin", place / "out", status=2)
    assert sorted(each.name for each in place.iterdir()) == ["cow", "origin"]


@pytest.mark.parametrize("chunk_sectors", [1, 2, 8])
def test_rebuild_then_extract_is_the_image(tmp_path, chunk_sectors):
    random = np.random.default_rng(chunk_sectors)
    origin = random.integers(0, 256, 400 * 512, dtype=np.uint8)
    image = origin.copy()
    for sector in random.integers(0, 400, 60):
        image[sector * 512 + 7] ^= 1
    for name, data in (("origin", origin), ("image", image)):
        (tmp_path / name).write_bytes(data.tobytes())
    paths = [tmp_path / name for name in ("origin", "image", "cow")]
    run("rebuild", *paths, "--chunk-size", chunk_sectors)
    run("check", tmp_path / "cow")
    differ = (origin != image).reshape(-1, chunk_sectors * 512).any(axis=1).sum()
    assert parse((tmp_path / "cow").read_bytes()).count == differ
    run("extract", tmp_path / "cow", tmp_path / "origin", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.tobytes()


class Killed(BaseException):
    """The process ends here."""


def test_merge_killed_at_every_write_ends_in_the_same_bytes(world):
    place, cow, origin, expected = world
    run("merge", place / "cow", place / "origin", "--in-place")
    assert (place / "origin").read_bytes() == expected
    empty = (place / "cow").read_bytes()
    assert parse(empty).count == 0
    moments = 0
    while True:
        (place / "cow").write_bytes(cow)
        (place / "origin").write_bytes(origin)
        if not killed_after(place, moments):
            break
        # The store still names each chunk that is not home.
        with reading(place / "cow") as medium:
            left = {int(e["old"]) for b in survey(medium.file()).exceptions() for e in b}
        now = (place / "origin").read_bytes()
        for old in range(101):
            part = slice(old * 512, old * 512 + 512)
            assert old in left or now[part] == expected[part]
        run("merge", place / "cow", place / "origin", "--in-place")
        assert (place / "origin").read_bytes() == expected
        assert (place / "cow").read_bytes() == empty
        moments += 1
    assert moments == 34 + 2  # runs within areas, and areas


def killed_after(place, moments):
    """Merge, but for half of a write and all that follows; whether it came to that."""
    left = moments
    write = Medium.write

    def count(self, data, offset):
        nonlocal left
        if not left:
            os.pwrite(self.fd, data[: len(data) // 2], offset)
            raise Killed
        left -= 1
        write(self, data, offset)

    with (
        pytest.MonkeyPatch.context() as patch,
        in_place(place / "cow") as medium,
        in_place(place / "origin") as base,
    ):
        patch.setattr(Medium, "write", count)
        try:
            merging.merge(survey(medium.file()), medium, base)
        except Killed:
            return True
    return False


def test_merge_is_refused_unless_it_is_meant(world):
    place, cow, origin, _ = world
    assert "--in-place" in run("merge", place / "cow", place / "origin", status=2)
    (place / "small").write_bytes(origin[:512])
    assert "is this the origin" in run(
        "merge", place / "cow", place / "small", "--in-place", status=2
    )
    assert ((place / "cow").read_bytes(), (place / "origin").read_bytes()) == (cow, origin)


def test_damage_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "origin").write_bytes(bytes(51200))
    for pairs, cure in ([(1, 2), (1, 3)], "--duplicates"), ([(1, 2), (2, 900)], "beyond"):
        (tmp_path / "cow").write_bytes(build(1, pairs, sectors=40))
        for command, *more in ("extract", tmp_path / "out"), ("merge", "--in-place"):
            said = run(command, tmp_path / "cow", tmp_path / "origin", *more, status=2)
            assert cure in said
        assert not (tmp_path / "out").exists()


def test_little_memory_gives_the_same_order():
    random = np.random.default_rng(1)
    olds = random.integers(0, 600, 3000).tolist() + [7] * 900 + [1 << 63, (1 << 64) - 1]
    pairs = [(old, 2 + index) for index, old in enumerate(olds)]
    store = parse(build(1, pairs))
    orders: tuple[tuple[Which, dict], ...] = (
        ("last", dict(pairs)),
        ("first", dict(reversed(pairs))),
    )
    for which, seen in orders:
        for part in (100, 1 << 22):
            found = [
                (int(e["old"]), int(e["new"]))
                for block in in_chunk_order(store, which, part_entries=part)
                for e in block
            ]
            assert found == sorted(seen.items())
    distinct, places, again = tally(store, "old", part_entries=100)
    assert (distinct, again) == (len(set(olds)), len(olds) - len(set(olds)))
    repeats = [index for index, old in enumerate(olds) if old in olds[:index]]
    assert places == repeats[:16]
    assert sum(int(run["count"]) for block in runs(store.exceptions()) for run in block) == len(
        olds
    )


@pytest.mark.parametrize(
    ("sectors", "count"),
    [
        (sectors, count)
        for count in (0, 1, 31, 32, 33)
        for sectors in (*range(2, 8), *range(30, 40), 66, 67, 68, 69)
        if sectors >= chunks_needed(count, 32)
    ],
)
def test_room_is_what_the_twin_can_still_write(sectors, count):
    image = build(1, allocate(range(count), 1), sectors=sectors)
    steps: list[AnyStep] = [
        Disk(name="base", sectors=400),
        Disk(name="cow", sectors=sectors),
        Poke(device="cow", sector=0, data=image),
        Create(name="snap"),
        Load(name="snap", table=(TargetLine(0, 400, "snapshot", "{base} {cow} P 1"),)),
        Resume(name="snap"),
    ]
    writes = [Write(device="snap", sector=200 + index, sectors=1) for index in range(80)]
    seen = list(carry_out(TwinBackend(named("6.12")), [*steps, *writes, Status(name="snap")], 0))
    assert not any(each.error for each in seen[: len(steps)])
    done = [each.error is None for each in seen[len(steps) : -1]]
    assert room(parse(image)) == (done.index(False) if False in done else len(done))


def test_a_file_that_comes_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(Exception, match="there now"), made(path, 512):
        path.write_bytes(b"somebody's")
    assert path.read_bytes() == b"somebody's"
    assert list(tmp_path.iterdir()) == [path]
