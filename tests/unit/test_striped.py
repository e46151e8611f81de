"""The striped target of the twin: where sectors lie, what each stripe gets of a range, events."""

import errno
import random

import pytest

from harness.trace.steps import Create, Disk, Examine, Load, Resume, TargetLine
from harness.twin.backend import TwinBackend
from harness.twin.bio import Bio, BlockDevice, Op
from harness.twin.profile import Profile
from harness.twin.targets.striped import Striped

SHAPES = [(1, 8), (2, 8), (3, 8), (3, 5), (4, 3), (5, 1)]
ROWS = 4


def striped(stripes: int, chunk: int) -> tuple[TwinBackend, Striped]:
    twin = TwinBackend(Profile())
    names = [f"d{number}" for number in range(stripes)]
    for name in names:
        twin.execute(0, Disk(name=name, sectors=1024))
    places = " ".join(f"{{{name}}} {100 + 7 * at}" for at, name in enumerate(names))
    line = TargetLine(0, stripes * chunk * ROWS, "striped", f"{stripes} {chunk} {places}")
    twin.execute(0, Create(name="d"))
    twin.execute(0, Load(name="d", table=(line,)))
    twin.execute(0, Resume(name="d"))
    assert twin.execute(0, Examine()).error is None
    live = twin.world.mapped["d"].live
    assert live is not None
    target = live.targets[0]
    assert isinstance(target, Striped)
    return twin, target


class Catcher:
    """Stands below every stripe and keeps what comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, twin: TwinBackend, error: int = 0) -> None:
        self.caught: list[tuple[str, int, int]] = []
        for name, disk in twin.world.disks.items():
            monkeypatch.setattr(disk, "submit", lambda bio, name=name: self.take(name, bio, error))

    def take(self, name: str, bio: Bio, error: int) -> None:
        self.caught.append((name, bio.sector, bio.sectors))
        bio.end(error)


@pytest.mark.parametrize(("stripes", "chunk"), SHAPES)
def test_each_sector_has_a_place_of_its_own(
    stripes: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, _ = striped(stripes, chunk)
    catcher = Catcher(monkeypatch, twin)
    device: BlockDevice = twin.world.mapped["d"]
    size = stripes * chunk * ROWS
    for sector in range(size):
        device.submit(Bio(Op.READ, sector, 1, memoryview(bytearray(512)), lambda _bio: None))
    assert catcher.caught == [
        (
            f"d{sector // chunk % stripes}",
            100
            + 7 * (sector // chunk % stripes)
            + sector // (chunk * stripes) * chunk
            + sector % chunk,
            1,
        )
        for sector in range(size)
    ]


@pytest.mark.parametrize("op", [Op.DISCARD, Op.WRITE_ZEROES])
@pytest.mark.parametrize(("stripes", "chunk"), SHAPES)
def test_a_range_is_dealt_as_its_sectors_are(
    stripes: int, chunk: int, op: Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stripe gets one piece, of exactly the sectors that single reads would find there."""
    twin, target = striped(stripes, chunk)
    catcher = Catcher(monkeypatch, twin)
    size = stripes * chunk * ROWS
    r = random.Random(1)
    for first, end in [(0, size), *(sorted(r.sample(range(size + 1), 2)) for _ in range(60))]:
        catcher.caught.clear()
        ended: list[int] = []
        for number in range(stripes):

            def end_io(bio: Bio, ended: list[int] = ended) -> None:
                ended.append(bio.error)

            bio = Bio(op, first, end - first, None, end_io)
            bio.number = number
            assert target.map(bio) is None
        assert ended == [0] * stripes
        ranges, catcher.caught = catcher.caught, []
        assert len({name for name, *_ in ranges}) == len(ranges)
        for sector in range(first, end):
            assert target.map(Bio(Op.READ, sector, 1, None, lambda _bio: None)) is None
        assert sorted(
            (name, sector + at) for name, sector, sectors in ranges for at in range(sectors)
        ) == sorted((name, sector) for name, sector, _ in catcher.caught)


def test_only_the_first_errors_of_a_device_raise_events(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, target = striped(2, 8)
    device = twin.world.mapped["d"]
    Catcher(monkeypatch, twin, errno.EIO)

    def read() -> None:
        device.submit(Bio(Op.READ, 8, 1, memoryview(bytearray(512)), lambda _bio: None))
        twin.world.clock.run_until_idle()

    assert target.status() == "2 {d0} {d1} 1 AA"
    for number in range(20):
        assert device.event == min(number, 14)
        read()
    assert target.status() == "2 {d0} {d1} 1 AD"


def test_what_a_process_meets_while_it_submits_raises_one(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, target = striped(2, 8)
    device = twin.world.mapped["d"]
    Catcher(monkeypatch, twin, errno.EIO)
    device.submit(Bio(Op.READ, 0, 32, memoryview(bytearray(32 * 512)), lambda _bio: None))
    assert (device.event, target.status()) == (0, "2 {d0} {d1} 1 DD")
    twin.world.clock.run_until_idle()
    assert device.event == 1


def test_what_a_device_does_not_know_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, target = striped(2, 8)
    Catcher(monkeypatch, twin, errno.EOPNOTSUPP)
    device = twin.world.mapped["d"]
    device.submit(Bio(Op.READ, 0, 8, memoryview(bytearray(4096)), lambda _bio: None))
    twin.world.clock.run_until_idle()
    assert (device.event, target.status()) == (0, "2 {d0} {d1} 1 AA")
