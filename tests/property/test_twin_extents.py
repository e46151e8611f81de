"""Long requests that move extents against the same ones bio by bio: nobody can tell."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from harness.errors import KernelCrash
from harness.trace.observations import Observation
from harness.trace.steps import (
    AnyStep,
    Create,
    Disk,
    Examine,
    Load,
    Parameter,
    Poke,
    Read,
    Resume,
    Status,
    Suspend,
    TargetLine,
    Write,
)
from harness.twin import extent
from harness.twin.backend import TwinBackend
from harness.twin.exceptions.table import ExceptionTable
from harness.twin.profile import PROFILES, named
from harness.twin.snapshot import Snapshot
from tests import tables

SECTORS = 2400
NEVER = 1 << 40


@dataclass(frozen=True)
class Life:
    """One life of an origin with up to three snapshots, each with a COW device of some size."""

    steps: tuple[AnyStep, ...]
    answers: dict[int, int]
    profile: str


@st.composite
def lives(draw: st.DrawFn) -> Life:
    base = draw(st.sampled_from((SECTORS, SECTORS - 3)))
    steps: list[AnyStep] = [Disk(name="base", sectors=base, fill="stamp")]
    if draw(st.integers(0, 4)) == 0:
        # The seed's profile takes it when a table is loaded.
        steps.append(
            Parameter(
                name="snapshot_cow_threshold", value=draw(st.sampled_from(("1", "40", "300")))
            )
        )
    names = []
    smallest = draw(st.sampled_from((1, 2, 8)))
    for number in range(draw(st.integers(1, 3))):
        name = f"s{number}"
        names.append(name)
        chunk = smallest << draw(st.integers(0, 2))
        # From hopelessly small to ample, and often near to what the writes need.
        ample = 2 * SECTORS + 400
        cow = draw(st.one_of(st.just(ample), st.just(ample), st.integers(6 * chunk, ample)))
        length = draw(st.sampled_from((base, base, base // 2, base + 100)))
        kind = draw(st.sampled_from(("P", "PO", "N")))
        steps += [
            Disk(name=f"c{number}", sectors=cow),
            Create(name=name),
            Load(
                name=name,
                table=(
                    TargetLine(0, length, "snapshot", f"{{base}} {{c{number}}} {kind} {chunk}"),
                ),
            ),
            Resume(name=name),
        ]
    steps += [
        Create(name="o"),
        Load(name="o", table=(TargetLine(0, base, "snapshot-origin", "{base}"),)),
        Resume(name="o"),
    ]
    devices = st.sampled_from(("o", *names))
    for _ in range(draw(st.integers(1, 7))):
        device = draw(devices)
        grain = draw(st.sampled_from((1, 32, 32, 32)))
        first = draw(st.integers(0, SECTORS // grain - 1)) * grain
        count = min(draw(st.integers(1, 1200 // grain)) * grain, SECTORS - first)
        match draw(st.integers(0, 11)):
            case 0:
                steps.append(Read(device=device, sector=first, sectors=count))
            case 1:
                steps += [Suspend(name=device), Resume(name=device)]
            case 2:
                steps.append(
                    Parameter(
                        name="snapshot_cow_threshold",
                        value=draw(st.sampled_from(("0", "3", "40", "2048"))),
                    )
                )
            case 3:
                steps.append(Poke(device=device, sector=first, data=bytes([7]) * 512 * count))
            case 4:
                steps.append(
                    Write(device=device, sector=first, sectors=min(count, 20), buffered=True)
                )
            case 5:
                steps += [
                    Suspend(name=device),
                    Load(name=device, table=(TargetLine(0, base, "error"),)),
                    Status(name=device),
                    Resume(name=device),
                ]
            case _:
                steps.append(Write(device=device, sector=first, sectors=count))
    # A table that is loaded from what the writes left.
    steps += [Examine(), Status(name="s0"), Read(device="o", sector=0, sectors=base)]
    answers = draw(st.dictionaries(st.integers(0, 300), st.integers(0, 1), max_size=1))
    return Life(tuple(steps), answers, draw(st.sampled_from(sorted(PROFILES))))


@contextmanager
def extents_from(pieces: int) -> Iterator[list[str]]:
    """Move extents in writes of so many pieces or more; gives what was moved."""
    moved: list[str] = []
    original = extent.move_extent

    def watched(device: Any, bio: Any) -> bool:
        done = original(device, bio)
        if done:
            moved.append(type(device.live.find(bio.sector)).type_name)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extent, "PIECES_MIN", pieces)
        patch.setattr("harness.twin.blockio.move_extent", watched)
        yield moved


def plain(seen: Observation) -> tuple[object, ...]:
    return (seen.error, seen.text, seen.content, seen.image, seen.state, seen.uevents, seen.log)


def inside(backend: TwinBackend) -> list[object]:
    """What the steps cannot see: tables, counts, every byte of the disks, choice points."""
    state: list[object] = [backend.choices.points]
    for md in backend.world.mapped.values():
        for target in md.live.targets if md.live else []:
            if isinstance(target, Snapshot):
                table: ExceptionTable = target.complete
                state.append(
                    (
                        tables.records(table),
                        target.kcopyd.jobs_peak,
                        target.throttle.peak,
                        target._start_sequence,
                        target._complete_sequence,
                        target.store.usage(),
                    )
                )
    for disk in backend.world.disks.values():
        state.append(bytes(disk.content(0, disk.sectors)))
        state.append([view is None for _, view in disk.regions()])
    return state


def live(life: Life, pieces: int) -> tuple[list[object], list[str]]:
    backend = TwinBackend(named(life.profile), life.answers)
    backend.begin(1)
    seen: list[object] = []
    with extents_from(pieces) as moved:
        for index, step in enumerate(life.steps):
            try:
                seen.append(plain(backend.execute(index, step)))
            except KernelCrash as crash:  # the seed's, at an origin that has lost its snapshots
                seen.append(str(crash))
                break
            seen.append(inside(backend))
    return seen, moved


@settings(max_examples=200, deadline=None)
@given(lives())
def test_extents_change_nothing(life: Life) -> None:
    exact, none = live(life, NEVER)
    quick, moved = live(life, 1)
    assert not none
    event(f"moved: {' '.join(sorted(set(moved)))}")
    for index, (one, other) in enumerate(zip(exact, quick, strict=True)):
        assert one == other, life.steps[index // 2]


def test_extents_are_moved() -> None:
    """Long writes to fresh chunks, and to an origin, are what this is for."""
    steps = (
        Disk(name="base", sectors=4096),
        Disk(name="cow", sectors=8192),
        Create(name="s"),
        Load(name="s", table=(TargetLine(0, 4096, "snapshot", "{base} {cow} P 8"),)),
        Resume(name="s"),
        Create(name="o"),
        Load(name="o", table=(TargetLine(0, 4096, "snapshot-origin", "{base}"),)),
        Resume(name="o"),
        Write(device="s", sector=0, sectors=1024),
        Write(device="o", sector=512, sectors=2048),
        Read(device="s", sector=3, sectors=2040),
    )
    _, moved = live(Life(steps, {}, "6.12"), extent.PIECES_MIN)
    assert moved == ["snapshot", "snapshot-origin", "snapshot"]
    _, moved = live(Life(steps, {5: 1}, "6.12"), extent.PIECES_MIN)
    assert moved == ["snapshot-origin", "snapshot"]
