"""Exception tables against a plain dict; how bios are cut; the order of completion."""

from hypothesis import given
from hypothesis import strategies as st

from harness.trace.steps import AnyStep, Create, Disk, Load, Resume, TargetLine, Write
from harness.twin.backend import TwinBackend
from harness.twin.bio import WRITE, Bio, BlockDevice
from harness.twin.exceptions.table import ExceptionTable, Order, table_slots
from harness.twin.profile import named
from harness.twin.target import Target
from tests import tables

ORDERS = st.sampled_from(Order)
# Near numbers, so that runs grow, join and meet the ends of their slots.
CHUNKS = st.one_of(st.integers(0, 40), st.integers(240, 280), st.integers(0, 1 << 40))


@st.composite
def allocations(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Distinct old chunks in new chunks as an allocator hands them out, with gaps."""
    olds = draw(st.lists(CHUNKS, unique=True, max_size=60))
    new, pairs = 2, []
    for old in olds:
        pairs.append((old, new))
        new += draw(st.sampled_from((1, 1, 1, 2)))
    return pairs


@given(allocations(), ORDERS, st.sampled_from((64, 128, 4096)))
def test_table_is_a_dict(pairs: list[tuple[int, int]], order: Order, slots: int) -> None:
    table = ExceptionTable(slots, order)
    plain: dict[int, int] = {}
    for old, new in pairs:
        table.insert(old, new)
        plain[old] = new
        assert table.lookup(old) == new
    assert dict(tables.pairs(table)) == plain
    assert len(tables.pairs(table)) == len(plain)
    for old in [*plain, *(old + 1 for old in plain), *(max(old - 1, 0) for old in plain)]:
        assert table.lookup(old) == plain.get(old, -1)


@given(st.integers(0, 600), st.integers(1, 400), ORDERS)
def test_consecutive_chunks_are_runs(first: int, count: int, order: Order) -> None:
    table = ExceptionTable(64, order)
    for number in range(count):
        table.insert(first + number, 2 + number)
    groups = {number >> 8 for number in range(first, first + count)}
    assert len(tables.records(table)) == len(groups)


@given(allocations(), ORDERS)
def test_removal_in_reverse_order(pairs: list[tuple[int, int]], order: Order) -> None:
    """A merge removes what was committed last; then nothing is ever in the middle of a run."""
    table = ExceptionTable(64, order)
    for old, new in pairs:
        table.insert(old, new)
    left = dict(pairs)
    for old, _ in sorted(pairs, key=lambda pair: -pair[1]):
        fault = table.remove(old)
        if fault is None:
            del left[old]
            assert table.lookup(old) == -1
        else:
            assert "from the middle of a chunk range" in fault
        assert dict(tables.pairs(table)) == left


@given(st.integers(1, 1 << 40), st.sampled_from((0, 1, 8, 128, 1 << 21)))
def test_slots_are_a_bounded_power_of_two(cow_sectors: int, chunk_sectors: int) -> None:
    slots = table_slots(cow_sectors, chunk_sectors)
    assert slots & (slots - 1) == 0
    assert 64 <= slots <= 131072


class _Recorder(Target):
    """A target that keeps the pieces it gets."""

    type_name = "recorder"
    pieces: list[tuple[int, int]]

    def map(self, bio: Bio) -> BlockDevice | None:
        self.pieces.append((bio.sector, bio.sectors))
        bio.end()
        return None


@given(
    start=st.integers(0, 40),
    first=st.integers(0, 300),
    count=st.integers(1, 400),
    boundary=st.sampled_from((0, 1, 2, 8, 64, 512)),
    limit=st.sampled_from((3, 100, 254)),
)
def test_pieces_cover_a_bio_and_keep_within_the_rules(
    start: int, first: int, count: int, boundary: int, limit: int
) -> None:
    backend = TwinBackend(named("6.12"))
    world = backend.world
    world.target_types = {**world.target_types, "recorder": _Recorder}
    size = start + 800
    lines = ((TargetLine(0, start, "zero"),) if start else ()) + (
        TargetLine(start, 800, "recorder"),
    )
    for step in (Create(name="d"), Load(name="d", table=lines), Resume(name="d")):
        assert backend.execute(0, step).error is None
    md = world.mapped["d"]
    assert md.live is not None
    md.max_sectors = limit
    target = md.live.targets[-1]
    assert isinstance(target, _Recorder)
    target.pieces = []
    target.max_io_sectors = boundary
    ended: list[int] = []
    sector = start + first
    md.submit(Bio(WRITE, sector, count, None, lambda bio: ended.append(bio.error)))

    assert ended == [0]
    assert sector + count <= size
    at = sector
    for piece, length in target.pieces:
        assert piece == at
        at += length
        if boundary:
            assert length <= limit
            assert (piece - start) // boundary == (piece - start + length - 1) // boundary
    assert at == sector + count
    if not boundary:
        assert len(target.pieces) == 1


@given(
    writes=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=12),
    chunk=st.sampled_from((1, 8, 16, 128)),
)
def test_the_store_lists_exceptions_in_the_order_of_allocation(
    writes: list[tuple[int, int]], chunk: int
) -> None:
    backend = TwinBackend(named("6.12"))
    backend.begin(1)
    steps: list[AnyStep] = [
        Disk(name="base", sectors=260),
        Disk(name="cow", sectors=1024),
        Create(name="s"),
        Load(name="s", table=(TargetLine(0, 260, "snapshot", f"{{base}} {{cow}} P {chunk}"),)),
        Resume(name="s"),
        *(Write(device="s", sector=sector, sectors=count) for sector, count in writes),
    ]
    for index, step in enumerate(steps):
        assert backend.execute(index, step).error is None
    from harness import store

    parsed = store.parse(backend.world.disks["cow"].view(0, 1024))
    found = [
        (int(old), int(new))
        for block in parsed.exceptions()
        for old, new in zip(block["old"], block["new"], strict=True)
    ]
    touched = list(
        dict.fromkeys(
            sector // chunk for first, count in writes for sector in range(first, first + count)
        )
    )
    assert [old for old, _ in found] == touched
    assert [new for _, new in found] == [int(new) for new in store.allocate(touched, chunk)["new"]]
