"""`dmsnap store` and a real kernel: what the one made, the other reads."""

import msgspec
import pytest

from harness.campaign.replay import observe_kernel
from harness.guest.fetch import provision
from harness.media import made, reading
from harness.scenarios.script import Script
from harness.store import merge as merging
from harness.store import parse, survey
from harness.store.overlay import check_readable, extract
from harness.store.rebuild import rebuild
from harness.trace import pattern
from harness.trace.files import Header, Trace
from harness.trace.observations import DeviceState
from harness.trace.steps import Examine
from harness.units import bytes_of_sectors

SEED = 1
ORIGIN_SECTORS = 1024


def observed(kernel_name, script):
    trace = Trace(Header(scenario="store tool", seed=SEED), (*script.steps, Examine()))
    seen, _ = observe_kernel(trace, provision.fetch(kernel_name))
    assert not [each for each in seen.observations if each.error]
    states: dict[str, DeviceState | None] = {}
    for each in seen.observations:
        states |= each.state
    return msgspec.structs.replace(seen.observations[-1], state=states)


def content(runs):
    return bytes(pattern.decode(SEED, runs))


@pytest.mark.parametrize("chunk_sectors", [1, 8, 64])
def test_what_the_kernel_made_is_read_and_what_we_made_is_activated(
    kernel_name, tmp_path, chunk_sectors
):
    s = Script()
    s.disk("base", ORIGIN_SECTORS, stamped=True)
    s.disk("cow", 4096)
    s.snapshot("snap", "base", "cow", "P", chunk_sectors)
    s.origin("org", "base")
    s.write("snap", 700, 100)
    s.write("org", 30, 64)
    s.write("snap", 3, 1)
    s.write("org", 710, 30)
    there = observed(kernel_name, s)
    shown = content(there.content["snap"])
    for name in ("base", "cow"):
        (tmp_path / name).write_bytes(content(there.image[name]))
    (tmp_path / "shown").write_bytes(shown)
    with (
        reading(tmp_path / "cow") as cow,
        reading(tmp_path / "base") as base,
        reading(tmp_path / "shown") as image,
    ):
        found = survey(cow.file())
        assert found.count
        check_readable(found, duplicates=False)
        with made(tmp_path / "out", base.size_bytes) as out:
            extract(found, cow, base, out, base.size_bytes)
        assert (tmp_path / "out").read_bytes() == shown
        with made(tmp_path / "again") as out:
            rebuild(base, image, out, chunk_sectors)

    # Ours, on the origin as it was: the kernel shows the same, and merges it to the same.
    ours = (tmp_path / "again").read_bytes()
    s = Script()
    s.disk("base", ORIGIN_SECTORS)
    s.disk("cow", 4096)
    s.poke("base", 0, (tmp_path / "base").read_bytes())
    s.poke("cow", 0, ours)
    s.snapshot("snap", "base", "cow", "P", chunk_sectors)
    there = observed(kernel_name, s)
    assert content(there.content["snap"]) == shown
    assert content(there.image["cow"])[: len(ours)] == ours
    status = there.state["snap"].status.split()
    expected = parse(ours + bytes(bytes_of_sectors(4096) - len(ours)))
    assert status[3:] == [
        f"{expected.allocated_sectors}/4096",
        str(expected.metadata_sectors),
    ]


@pytest.mark.parametrize("writes", [7, 36, 1 << 30])
def test_the_kernel_goes_on_with_a_merge_of_ours_that_was_killed(
    kernel_name, tmp_path, monkeypatch, writes
):
    """The last of ``writes`` is done in half; so many as the last never come: the merge ends."""
    from harness.media import Medium, in_place
    from harness.store import allocate, build

    olds = [*range(50, 20, -1), *range(60, 75), 100, 3]
    entries = allocate(olds, 1)
    cow = build(1, entries, data={int(e["new"]): bytes([int(e["old"])]) * 512 for e in entries})
    origin = b"".join(bytes([200, number]) * 256 for number in range(128))
    expected = bytearray(origin)
    for old in olds:
        expected[old * 512 : (old + 1) * 512] = bytes([old]) * 512
    (tmp_path / "cow").write_bytes(cow)
    (tmp_path / "base").write_bytes(origin)
    left = writes
    write = Medium.write

    class Killed(BaseException):
        pass

    def count(self, data, offset):
        nonlocal left
        left -= 1
        if not left:
            write(self, data[: len(data) // 2], offset)
            raise Killed
        write(self, data, offset)

    monkeypatch.setattr(Medium, "write", count)
    with in_place(tmp_path / "cow") as medium, in_place(tmp_path / "base") as base:
        try:
            merging.merge(survey(medium.file()), medium, base)
        except Killed:
            assert writes < 1 << 30
        else:
            assert writes == 1 << 30
    s = Script()
    s.disk("base", 128)
    s.disk("cow", 128)
    s.poke("base", 0, (tmp_path / "base").read_bytes())
    s.poke("cow", 0, (tmp_path / "cow").read_bytes())
    s.snapshot("snap", "base", "cow", "P", 1)
    s.origin("org", "base")
    s.merge("org", "snap", "base", "cow", 1)
    there = observed(kernel_name, s)
    assert content(there.content["org"]) == bytes(expected)
    assert parse(content(there.image["cow"])).count == 0
