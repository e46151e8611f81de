"""The twin's own rules, on hand-made cases; what a real kernel says of them is in tests/kernel."""

import errno

import pytest

from harness.errors import BadScenario, ProvisioningError
from harness.scenarios.registry import choose
from harness.trace.faults import OUTAGE_MS
from harness.trace.observations import Observation, Stamped
from harness.trace.steps import (
    AnyStep,
    Create,
    Disk,
    Examine,
    Fault,
    Load,
    Read,
    Resume,
    TargetLine,
    Write,
)
from harness.twin import explore
from harness.twin.arguments import split_args
from harness.twin.backend import TwinBackend
from harness.twin.bio import PREFLUSH, READ, WRITE, Bio
from harness.twin.clock import TICKS_PER_MS, Choices, Clock, WouldBlockForever
from harness.twin.disk import Disk as TwinDisk
from harness.twin.fallible import FallibleDisk
from harness.twin.kcopyd import Kcopyd
from harness.twin.limits import STACKING
from harness.twin.plug import Plug
from harness.twin.profile import PROFILES, Profile, named


def run(*steps: object, profile: str = "6.12") -> list[Observation]:
    backend = TwinBackend(named(profile))
    backend.begin(1)
    return [backend.execute(index, step) for index, step in enumerate(steps)]  # type: ignore[arg-type]


def test_clock_runs_in_time_then_in_order() -> None:
    clock = Clock()
    seen: list[object] = []
    clock.after(5, seen.append, "later")
    clock.after(3, seen.append, "soon")
    clock.after(5, seen.append, "last")
    clock.soon(seen.append, "now")
    clock.after(0, seen.append, "now too")
    clock.run_until_idle()
    assert seen == ["now", "now too", "soon", "later", "last"]
    assert clock.now == 5


def test_clock_waits_for_what_happens_and_says_when_nothing_will() -> None:
    clock = Clock()
    seen: list[int] = []
    clock.after(2, seen.append, 1)
    clock.after(4, seen.append, 2)
    clock.wait_until(lambda: seen == [1])
    assert clock.now == 2
    clock.wait_until(lambda: len(seen) == 2)
    with pytest.raises(WouldBlockForever):
        clock.wait_until(lambda: len(seen) == 3)


@pytest.mark.parametrize(("answers", "order"), [({}, "process worker"), ({0: 1}, "worker process")])
def test_a_worker_overtakes_only_where_the_answer_says_so(
    answers: dict[int, int], order: str
) -> None:
    choices = Choices(answers)
    clock = Clock(choices)
    seen: list[str] = []
    clock.soon(seen.append, "worker")
    clock.may_preempt()
    seen.append("process")
    clock.run_until_idle()
    assert " ".join(seen) == order
    assert choices.points == 1


def test_nothing_is_chosen_where_nothing_waits_or_a_worker_runs() -> None:
    choices = Choices({})
    clock = Clock(choices)
    clock.may_preempt()
    clock.soon(clock.may_preempt)
    clock.soon(lambda: None)
    clock.run_until_idle()
    assert choices.points == 0


def submit(disk: TwinDisk, bio: Bio) -> int:
    disk.submit(bio)
    return bio.error


def test_disk_beyond_its_end() -> None:
    disk = TwinDisk("d", 16, STACKING)
    data = memoryview(bytearray(b"x" * 1024))
    assert submit(disk, Bio(WRITE, 14, 2, data, lambda _bio: None)) == 0
    assert submit(disk, Bio(WRITE, 15, 2, data, lambda _bio: None)) == errno.EIO
    assert submit(disk, Bio(READ, 15, 2, data, lambda _bio: None)) == errno.EIO


def test_disk_knows_which_regions_were_written() -> None:
    disk = TwinDisk("d", 3 * 2048 + 5, STACKING)
    data = memoryview(bytes(512 * 4))
    submit(disk, Bio(WRITE, 2 * 2048 - 2, 4, data, lambda _bio: None))
    assert [(size, view is not None) for size, view in disk.regions()] == [
        (2048, False),
        (2048, True),
        (2048, True),
        (5, False),
    ]


@pytest.mark.parametrize("subjob", [1, 3, 8, 100])
def test_kcopyd_copies_in_pieces(subjob: int) -> None:
    clock = Clock()
    source, target = TwinDisk("s", 32, STACKING), TwinDisk("t", 32, STACKING)
    source.view(0, 32)[:] = bytes(range(256)) * 64
    client = Kcopyd(clock, subjob, Plug(clock, reverses=False))
    done: list[tuple[object, bool, bool]] = []
    client.copy(source, 3, target, 20, 8, lambda *what: done.append(what), "job")
    assert not done
    clock.run_until_idle()
    assert done == [("job", False, False)]
    assert target.view(20, 8) == source.view(3, 8)
    assert client.jobs == 0
    assert client.jobs_peak == 1


def test_kcopyd_stops_at_the_first_error_and_keeps_what_it_copied() -> None:
    clock = Clock()
    source, target = TwinDisk("s", 6, STACKING), TwinDisk("t", 32, STACKING)
    source.view(0, 6)[:] = b"z" * 3072
    client = Kcopyd(clock, 4, Plug(clock, reverses=False))
    done: list[tuple[object, bool, bool]] = []
    client.copy(source, 0, target, 0, 8, lambda *what: done.append(what), None)
    clock.run_until_idle()
    assert done == [(None, True, False)]
    assert bytes(target.view(0, 6)) == b"z" * 2048 + bytes(1024)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("   ", []),
        ("a b", ["a", "b"]),
        ("  a\tb\n", ["a", "b"]),
        ("a\\ b", ["a b"]),
        ("a\\\\b", ["a\\b"]),
        ("\\", ["\\"]),
        ("\\  a", [" ", "a"]),
    ],
)
def test_split_args(text: str, words: list[str]) -> None:
    assert split_args(text) == words


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_and_facts_are_inverse(name: str) -> None:
    profile = named(name)
    assert Profile.from_probe(profile.facts()) == profile


def test_a_fact_that_the_twin_does_not_know_is_an_error() -> None:
    with pytest.raises(ProvisioningError, match="reports phase_of_moon, tide, which the twin"):
        Profile.from_probe({**Profile().facts(), "tide": "high", "phase_of_moon": 3})


@pytest.mark.parametrize(
    ("profile", "words", "said"),
    [
        # Not counted: a byte is read, and the direction is missing.
        (
            Profile(flakey_short_corrupt="say 4"),
            "2 corrupt_bio_byte 1",
            "Invalid corrupt bio direction (r or w)",
        ),
        (
            Profile(flakey_short_corrupt="too few", flakey_corrupt_counted=True),
            "2 corrupt_bio_byte 1",
            "too few",
        ),
        (Profile(flakey_short_corrupt="none"), "1 corrupt_bio_byte", "none"),
        (Profile(flakey_drop_conflict="drop?"), "6 drop_writes corrupt_bio_byte 1 w 0 0", "drop?"),
        (
            Profile(flakey_error_conflict="fail?"),
            "6 error_writes corrupt_bio_byte 1 w 0 0",
            "fail?",
        ),
    ],
)
def test_what_flakey_says_is_said_and_decides_nothing(
    profile: Profile, words: str, said: str
) -> None:
    steps = (
        Disk(name="base", sectors=64),
        Create(name="d"),
        Load(name="d", table=(TargetLine(0, 64, "flakey", f"{{base}} 0 1 0 {words}"),)),
    )
    [*_, refused] = explore.run(steps, 0, profile)
    assert refused.log[0] == f"device-mapper: table: {{d}}: flakey: {said} (-EINVAL)"


def test_copies_in_flight_are_limited_as_the_module_was_loaded() -> None:
    assert TwinBackend(Profile(cow_threshold=7)).world.cow_threshold == 7


def test_the_seed_takes_exactly_four_arguments() -> None:
    table = (TargetLine(0, 64, "snapshot", "{base} {cow} P 8 0"),)
    steps = (
        Disk(name="base", sectors=64),
        Disk(name="cow", sectors=64),
        Create(name="s"),
        Load(name="s", table=table),
    )
    assert run(*steps)[-1].error is None
    refused = run(*steps, profile="seed")[-1]
    assert refused.error == "EINVAL"
    assert refused.log == (
        "device-mapper: table: {s}: snapshot: requires exactly 4 arguments",
        "device-mapper: ioctl: error adding target to table",
    )


def test_a_rerun_gives_the_same_observations() -> None:
    steps = (
        Disk(name="base", sectors=64, fill="stamp"),
        Disk(name="cow", sectors=128),
        Create(name="s"),
        Load(name="s", table=(TargetLine(0, 64, "snapshot", "{base} {cow} P 8"),)),
        Resume(name="s"),
        Write(device="s", sector=3, sectors=20),
        Examine(),
    )

    def plain(observations: list[Observation]) -> list[object]:
        return [(o.error, o.content, o.image, o.state, o.uevents, o.log) for o in observations]

    assert plain(run(*steps)) == plain(run(*steps))


def test_an_unknown_device_is_a_bad_scenario() -> None:
    with pytest.raises(BadScenario, match="no device named nobody"):
        run(Read(device="nobody", sector=0, sectors=1))


def test_a_full_chunk_is_written_without_reading_the_origin() -> None:
    seen = run(
        Create(name="bad"),
        Load(name="bad", table=(TargetLine(0, 64, "error"),)),
        Resume(name="bad"),
        Disk(name="cow", sectors=128),
        Create(name="s"),
        Load(name="s", table=(TargetLine(0, 64, "snapshot", "{bad} {cow} N 8"),)),
        Resume(name="s"),
        Write(device="s", sector=8, sectors=8),
        Read(device="s", sector=8, sectors=8),
        Write(device="s", sector=16, sectors=7),
    )
    assert [o.error for o in seen[-3:]] == [None, None, "EIO"]
    assert seen[-2].content == {"s": (Stamped("s", 1, 8, 8),)}
    state = seen[-1].state["s"]
    assert state is not None
    assert state.status == "0 64 snapshot Invalid"


def test_what_is_told_of_another_size_depends_on_the_kernel() -> None:
    steps: list[AnyStep] = [Create(name="dev")]
    for sectors in (64, 128):
        steps += [Load(name="dev", table=(TargetLine(0, sectors, "zero", ""),)), Resume(name="dev")]
    assert dict(run(*steps)[-1].uevents[0].properties) == {"RESIZE": "1"}
    assert dict(run(*steps, profile="seed")[-1].uevents[0].properties) == {}


def test_a_table_that_is_too_long_is_refused_where_kernels_look() -> None:
    steps = (Create(name="dev"), Load(name="dev", table=(TargetLine(0, 1 << 54, "zero", ""),)))
    assert run(*steps)[-1].error == "EINVAL"
    assert run(*steps, profile="seed")[-1].error is None


def test_copies_that_overtake_a_merge_do_not_leave_it_waiting() -> None:
    """The exception that the merge would wait for is over before it starts to wait."""
    steps = choose(["merge_overflows_another[PO]"])[0].trace(1).steps
    for point in range(12, 15):
        seen = explore.run(steps, 1, named("6.1"), {point: 1})
        status = seen[-1].content["org"]
        assert [run.device for run in status if isinstance(run, Stamped)] == [
            "base",
            "snap",
            "base",
        ]


# -- disks that stop --


def linked_disk() -> tuple[Clock, FallibleDisk, list[tuple[int, int, int]]]:
    clock = Clock()
    return clock, FallibleDisk("cow", 4096, clock, named("6.12"), linked=True), []


def send(
    clock: Clock,
    disk: FallibleDisk,
    ended: list[tuple[int, int, int]],
    sector: int,
    sectors: int = 8,
    flags: int = 0,
) -> None:
    def end(bio: Bio) -> None:
        ended.append((sector, bio.error, clock.now))

    bio = Bio(WRITE, sector, sectors, memoryview(bytearray(sectors * 512)), end)
    bio.flags = flags
    disk.submit(bio)


def test_a_disk_that_stalls_serves_what_has_arrived_in_its_order() -> None:
    clock, disk, ended = linked_disk()
    disk.plan.add("write", 8, 8, how="stalls")
    disk.plan.add("write", 16, 8, how="stalls")
    for sector in (0, 8, 16, 24):
        send(clock, disk, ended, sector)
    clock.run_until_idle()
    outage = OUTAGE_MS * TICKS_PER_MS
    assert ended == [(0, 0, 0), (8, 0, outage), (16, 0, 2 * outage), (24, 0, 2 * outage)]
    assert disk.take_requests() == ("write 0+8", "write 8+8 late", "write 16+8 late", "write 24+8")


def test_a_long_bio_stalls_in_the_middle_and_stays_in_front() -> None:
    clock, disk, ended = linked_disk()
    disk.plan.add("write", 0, 1, how="stalls")
    send(clock, disk, ended, 0, 4096)
    send(clock, disk, ended, 8, flags=PREFLUSH)
    clock.run_until_idle()
    assert [sector for sector, _, _ in ended] == [0, 8]
    assert disk.take_requests() == ("write 0+2048 late", "write 2048+2048", "flush", "write 8+8")


def test_a_disk_that_died_hears_nothing_until_it_is_healed() -> None:
    clock, disk, ended = linked_disk()
    disk.plan.add("write", 8, 8, how="dies")
    for sector in (0, 8, 16):
        send(clock, disk, ended, sector)
    send(clock, disk, ended, 24, flags=PREFLUSH)
    clock.run_until_idle()
    assert [(sector, error) for sector, error, _ in ended] == [
        (0, 0),
        (8, errno.EIO),
        (16, errno.EIO),
        (24, errno.EIO),
    ]
    assert disk.take_requests() == ("write 0+8", "write 8+8 lost")
    disk.heal()
    send(clock, disk, ended, 8)
    clock.run_until_idle()
    assert ended[-1][:2] == (8, 0)
    assert disk.take_requests() == ("write 8+8",)


def test_a_fault_that_needs_a_link_is_refused_without_one() -> None:
    with pytest.raises(BadScenario, match="has no link"):
        run(
            Disk(name="cow", sectors=8, can_fail=True), Fault(device="cow", op="read", how="stalls")
        )
