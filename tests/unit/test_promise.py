"""Promises: planted breaks are reported, and nothing is where a user broke the rules."""

import pytest

from harness.promises.check import BrokenPromise, check
from harness.trace import observations, pattern
from harness.trace import steps as do
from harness.trace.files import Header, Trace
from harness.trace.observations import DeviceState, Observation, Run, Runs, Stamped, Zeros
from harness.trace.steps import AnyStep, TargetLine

SIZE = 64
OLD = Stamped("base", 0, 0, SIZE)


def base(sector: int, count: int) -> Stamped:
    return Stamped("base", 0, sector, count)


def around(sector: int, run: Stamped | Zeros) -> Runs:
    """The origin as it was, with ``run`` at ``sector``."""
    before, after = base(0, sector), base(sector + run.count, SIZE - sector - run.count)
    return tuple(r for r in (before, run, after) if r.count)


class Life:
    """Steps with what a side that never errs, or does, saw of them."""

    def __init__(self) -> None:
        self.steps: list[AnyStep] = []
        self.seen: list[Observation] = []

    def do(self, step: AnyStep, **seen: object) -> "Life":
        self.seen.append(Observation(step=len(self.steps), **seen))  # type: ignore[arg-type]
        self.steps.append(step)
        return self

    def device(self, name: str, kind: str, args: str, **seen: object) -> "Life":
        return self.do(do.Create(name=name)).table(name, kind, args, **seen)

    def table(self, name: str, kind: str, args: str, **seen: object) -> "Life":
        self.do(do.Load(name=name, table=(TargetLine(0, SIZE, kind, args),)))
        return self.do(do.Resume(name=name), **seen)

    def disks(self) -> "Life":
        self.do(do.Disk(name="base", sectors=SIZE, fill="stamp"))
        return self.do(do.Disk(name="cow", sectors=256))

    def snapshot(self, name: str = "s", kind: str = "P 8", cow: str = "cow") -> "Life":
        return self.device(name, "snapshot", f"{{base}} {{{cow}}} {kind}")

    def origin(self) -> "Life":
        return self.device("o", "snapshot-origin", "{base}")

    def write(
        self, device: str, sector: int, sectors: int, generation: int = 1, **seen: object
    ) -> "Life":
        return self.do(
            do.Write(device=device, sector=sector, sectors=sectors, generation=generation), **seen
        )

    def read(self, device: str, *runs: Run) -> "Life":
        return self.do(
            do.Read(device=device, sector=0, sectors=pattern.sectors_of(runs)),
            content={device: runs},
        )

    def image(self, device: str, *runs: Run) -> "Life":
        return self.do(do.Image(device=device), image={device: runs})

    def status(self, name: str, text: str) -> "Life":
        return self.do(do.Status(name=name), text=text)

    def check(self) -> tuple[BrokenPromise, ...]:
        return check(Trace(Header(scenario="t", seed=1), tuple(self.steps)), self.seen)

    def kept(self) -> None:
        assert self.check() == ()

    def broken(self, device: str, sector: int, sectors: int, promised: str, read: str) -> None:
        [found] = self.check()
        assert (found.device, found.sector, found.sectors, found.promised, found.read) == (
            device,
            sector,
            sectors,
            promised,
            read,
        )
        assert str(found).startswith(f"step {found.step}: sector {sector} of {device} ")


def ready(kind: str = "P 8") -> Life:
    return Life().disks().snapshot(kind=kind).origin()


NEW = Stamped("o", 1, 8, 8)

# -- what is promised, kept and broken ----------------------------------------------------------


def test_a_snapshot_keeps_what_the_origin_loses() -> None:
    life = ready().write("o", 8, 8)
    life.read("s", OLD).read("o", *around(8, NEW)).image("base", *around(8, NEW)).kept()


@pytest.mark.parametrize("kind", ["P 8", "PO 8", "N 8"])
def test_break_a_lost_copy(kind: str) -> None:
    ready(kind).write("o", 8, 8).read("s", *around(8, NEW)).broken(
        "s", 8, 8, "sector 8 of base, generation 0", "sector 8 of o, generation 1"
    )


def test_break_a_copy_of_the_wrong_half() -> None:
    ready().write("o", 8, 1).read("s", base(0, 8), base(12, 4), base(12, 4), base(16, 48)).broken(
        "s", 8, 4, "sector 8 of base, generation 0", "sector 12 of base, generation 0"
    )


def test_break_a_large_origin_write_that_is_copied_only_at_its_start() -> None:
    """Specification 5.1: the origin was not resumed again after the snapshot had come."""
    life = Life().disks().origin().snapshot().write("o", 0, 32)
    life.do(do.Examine(), content={"s": (base(0, 8), Stamped("o", 1, 8, 24), base(32, 32))})
    life.broken("s", 8, 24, "sector 8 of base, generation 0", "sector 8 of o, generation 1")


def test_break_a_snapshot_that_loses_its_own_write() -> None:
    own = Stamped("s", 1, 3, 2)
    ready().write("s", 3, 2).read("s", *around(3, own)).kept()
    ready().write("s", 3, 2).read("s", OLD).broken(
        "s", 3, 2, "sector 3 of s, generation 1", "sector 3 of base, generation 0"
    )
    ready().write("s", 3, 2).write("s", 4, 1, 7).read("s", *around(3, own)).broken(
        "s", 4, 1, "sector 4 of s, generation 7", "sector 4 of s, generation 1"
    )


def test_break_an_own_write_that_reaches_the_origin() -> None:
    own = Stamped("s", 1, 3, 2)
    ready().write("s", 3, 2).read("o", *around(3, own)).broken(
        "o", 3, 2, "sector 3 of base, generation 0", "sector 3 of s, generation 1"
    )


def test_break_an_origin_that_loses_its_write() -> None:
    ready().write("o", 8, 8).image("base", OLD).broken(
        "base", 8, 8, "sector 8 of o, generation 1", "sector 8 of base, generation 0"
    )


def test_break_the_second_snapshot_on_an_origin() -> None:
    life = ready().do(do.Disk(name="cow2", sectors=256)).write("o", 0, 1)
    life.snapshot("s2", cow="cow2").write("o", 0, 1, 2)
    first = (Stamped("o", 1, 0, 1), base(1, 63))
    life.read("s", OLD).read("s2", *first).kept()
    life.read("s2", OLD).broken(
        "s2", 0, 1, "sector 0 of o, generation 1", "sector 0 of base, generation 0"
    )


def reactivated() -> Life:
    life = ready().write("o", 8, 8).write("s", 3, 2).do(do.Remove(name="s"))
    return life.snapshot()


def test_break_a_store_that_comes_back_without_an_exception() -> None:
    own = (base(0, 3), Stamped("s", 1, 3, 2), base(5, 59))
    reactivated().read("s", *own).kept()
    reactivated().read("s", *own[:2], base(5, 3), NEW, base(16, 48)).broken(
        "s", 8, 8, "sector 8 of base, generation 0", "sector 8 of o, generation 1"
    )
    reactivated().read("s", OLD).broken(
        "s", 3, 2, "sector 3 of s, generation 1", "sector 3 of base, generation 0"
    )


def merging() -> Life:
    """A snapshot with a write of its own, under a merge that has not finished."""
    life = ready().write("s", 3, 2).do(do.Suspend(name="s"))
    return life.table("o", "snapshot-merge", "{base} {cow} P 8")


OWN = around(3, Stamped("s", 1, 3, 2))


def test_break_a_merge_that_leaves_something_else() -> None:
    done = "0 64 snapshot-merge 16/256 16"
    merging().read("o", *OWN).image("base", OLD).image("base", *OWN).kept()
    merging().status("o", done).image("base", *OWN).kept()
    merging().read("o", OLD).broken(
        "o", 3, 2, "sector 3 of s, generation 1", "sector 3 of base, generation 0"
    )
    merging().status("o", done).image("base", OLD).broken(
        "base", 3, 2, "sector 3 of s, generation 1", "sector 3 of base, generation 0"
    )
    merging().write("o", 20, 1).status("o", done).image("base", *OWN).broken(
        "base", 20, 1, "sector 20 of o, generation 1", "sector 20 of base, generation 0"
    )
    merging().status("o", done).write("o", 20, 1).image("base", *OWN).broken(
        "base", 20, 1, "sector 20 of o, generation 1", "sector 20 of base, generation 0"
    )
    # A write to a chunk that is still to be merged may wait in the store, or not.
    merging().write("o", 3, 1).image("base", OLD).kept()
    # The origin is written to behind the merge's back: both may win.
    life = merging().device("o2", "snapshot-origin", "{base}").write("o2", 3, 1, 9)
    life.read("o", base(0, 3), Stamped("o2", 9, 3, 1), Stamped("s", 1, 4, 1), base(5, 59)).kept()
    # A second merge begins anew.
    life = (
        merging()
        .status("o", done)
        .table("o", "snapshot-origin", "{base}")
        .do(do.Remove(name="s"))
        .snapshot()
        .write("s", 30, 1)
        .do(do.Suspend(name="s"))
    )
    life.table("o", "snapshot-merge", "{base} {cow} P 8").image("base", *OWN).kept()
    both = (*OWN[:2], base(5, 25), Stamped("s", 1, 30, 1), base(31, 33))
    life.status("o", done).image("base", *both).kept()
    busy = "0 64 snapshot-merge 24/256 16"
    merging().status("o", busy).image("base", OLD).kept()


def test_break_another_snapshot_that_a_merge_overwrites() -> None:
    life = ready().do(do.Disk(name="cow2", sectors=256)).snapshot("s2", cow="cow2")
    life.write("s", 3, 2).do(do.Suspend(name="s"))
    life.table("o", "snapshot-merge", "{base} {cow} P 8")
    life.status("o", "0 64 snapshot-merge 16/256 16").read("s2", OLD).kept()
    life.read("s2", *OWN).broken(
        "s2", 3, 2, "sector 3 of base, generation 0", "sector 3 of s, generation 1"
    )


def test_break_is_reported_once() -> None:
    life = ready().write("o", 8, 8).read("s", *around(8, NEW)).read("s", *around(8, NEW))
    assert len(life.check()) == 1
    life.do(do.Examine(), content={"s": around(16, Zeros(1))})
    assert [found.sector for found in life.check()] == [8, 16]


def test_break_in_linear_and_zero_devices() -> None:
    life = Life().disks().do(do.Create(name="l"))
    table = (TargetLine(0, 8, "linear", "{base} 16"), TargetLine(8, 8, "zero"))
    life.do(do.Load(name="l", table=table)).do(do.Resume(name="l")).write("l", 2, 8)
    shown = (base(16, 2), Stamped("l", 1, 2, 6), Zeros(8))
    life.read("l", *shown).image("base", base(0, 18), Stamped("l", 1, 2, 6), base(24, 40)).kept()
    life.read("l", *shown[:2], Stamped("l", 1, 8, 2), Zeros(6)).broken(
        "l", 8, 2, "zeros", "sector 8 of l, generation 1"
    )


def test_break_at_the_far_end_of_a_large_device() -> None:
    size = 1 << 20
    life = Life().do(do.Disk(name="base", sectors=size, fill="stamp")).do(do.Create(name="l"))
    life.do(do.Load(name="l", table=(TargetLine(0, size, "linear", "{base} 0"),)))
    life.do(do.Resume(name="l"))
    ends = (base(0, 1 << 13), base(size - (1 << 13), 1 << 13))
    life.do(do.Examine(), content={"l": ends}).kept()
    life.do(do.Examine(), content={"l": (base(0, 1 << 14),)}).broken(
        "l",
        size - (1 << 13),
        1 << 13,
        f"sector {size - (1 << 13)} of base, generation 0",
        "sector 8192 of base, generation 0",
    )


def test_a_snapshot_of_a_snapshot_and_of_a_slice() -> None:
    life = ready().do(do.Disk(name="cow2", sectors=256)).write("s", 3, 2)
    life.device("t", "snapshot", "{s} {cow2} N 4").device("p", "snapshot-origin", "{s}")
    life.write("p", 3, 1, 5)
    shown = (base(0, 3), Stamped("p", 5, 3, 1), Stamped("s", 1, 4, 1), base(5, 59))
    life.read("s", *shown).read("t", *OWN).kept()
    life.read("t", *shown).broken(
        "t", 3, 1, "sector 3 of s, generation 1", "sector 3 of p, generation 5"
    )


def test_a_renamed_device_keeps_its_promises() -> None:
    life = ready().do(do.Rename(name="s", to="t")).do(do.Rename(name="o", to="q"))
    life.write("q", 8, 8).read("t", OLD).kept()
    life.read("t", *around(8, Stamped("q", 1, 8, 8))).broken(
        "t", 8, 8, "sector 8 of base, generation 0", "sector 8 of q, generation 1"
    )


def test_a_reload_in_place_and_a_handover_keep_them_too() -> None:
    for kind in ("P 8", "N 8"):
        life = ready(kind).write("o", 8, 8).table("s", "snapshot", f"{{base}} {{cow}} {kind}")
        life.write("o", 16, 8).read("s", OLD).kept()
        life.read("s", base(0, 16), Stamped("o", 1, 16, 8), base(24, 40)).broken(
            "s", 16, 8, "sector 16 of base, generation 0", "sector 16 of o, generation 1"
        )
    life = ready().write("o", 8, 8).do(do.Suspend(name="s")).snapshot("t")
    life.do(do.Status(name="s"), text="0 64 snapshot Invalid").read("t", OLD).kept()
    life.write("s", 8, 1, error="EIO")  # the device that lost its snapshot refuses all I/O
    life.read("t", *around(8, NEW)).broken(
        "t", 8, 8, "sector 8 of base, generation 0", "sector 8 of o, generation 1"
    )


@pytest.mark.parametrize("how", ["state", "status"])
def test_an_invalid_snapshot_that_comes_back_shows_what_it_would_have_shown(how: str) -> None:
    """While it is Invalid nothing is promised of it, and forgotten nothing either."""
    invalid, valid = "0 64 snapshot Invalid", "0 64 snapshot 40/256 16"

    def says(life: Life, text: str) -> Life:
        if how == "status":
            return life.status("s", text)
        return life.do(do.Flush(device="o"), state={"s": DeviceState(status=text)})

    life = says(ready().write("o", 8, 8), invalid).read("s", *around(8, NEW))
    life.kept()
    says(life, valid).read("s", OLD).kept()
    life.read("s", *around(8, NEW)).broken(
        "s", 8, 8, "sector 8 of base, generation 0", "sector 8 of o, generation 1"
    )


def test_striped_devices_are_followed() -> None:
    life = Life().disks().do(do.Disk(name="two", sectors=SIZE, fill="stamp"))
    life.device("w", "striped", "2 8 {base} 0 {two} 32")
    life.do(
        do.Read(device="w", sector=8, sectors=16),
        content={"w": (Stamped("two", 0, 32, 8), Stamped("base", 0, 8, 8))},
    ).kept()
    life.write("w", 4, 8).do(
        do.Image(device="two"),
        image={"two": (Stamped("two", 0, 0, 32), Stamped("w", 1, 8, 4), Stamped("two", 0, 36, 28))},
    ).kept()
    life.do(
        do.Read(device="w", sector=8, sectors=8), content={"w": (Stamped("two", 0, 32, 8),)}
    ).broken("w", 8, 4, "sector 8 of w, generation 1", "sector 32 of two, generation 0")


def test_an_overflowed_snapshot_can_still_be_read() -> None:
    life = ready("PO 8").write(
        "s", 0, 8, error="EIO", state={"s": DeviceState(status="0 64 snapshot Overflow")}
    )
    life.read("s", Stamped("s", 1, 0, 8), base(8, 56)).kept()
    life.read("s", base(0, 8), Zeros(8), base(16, 48)).broken(
        "s", 8, 8, "sector 8 of base, generation 0", "zeros"
    )


# -- what is not promised -----------------------------------------------------------------------

GARBAGE: Runs = (Zeros(SIZE),)


@pytest.mark.parametrize(
    "rule",
    [
        "invalid state",
        "invalid status",
        "cow written",
        "cow poked",
        "failed resume",
        "crash",
        "other cow user",
        "unknown target",
        "foreign store",
        "start",
        "origin moved",
        "was transient",
        "stale device answers",
        "origin is a cow",
        "part of the cow",
        "start at 20",
        "cow loses writes",
        "cow moved",
        "cow moved while away",
    ],
)
def test_nothing_is_promised_of_a_snapshot_whose_rules_were_broken(rule: str) -> None:
    life = ready()
    match rule:
        case "invalid state":
            life.write("o", 0, 8, state={"s": DeviceState(status="0 64 snapshot Invalid")})
        case "invalid status":
            life.status("s", "0 64 snapshot Invalid")
        case "cow written":
            life.write("cow", 100, 1)
        case "cow poked":
            life.do(do.Poke(device="cow", sector=8, data=b"x" * 512))
        case "failed resume":
            life.table("s", "snapshot", "{base} {cow} P 8", error="EINVAL").read("s", *GARBAGE)
            life.table("s", "snapshot", "{base} {cow} P 8")
        case "part of the cow":
            life.device("c", "linear", "{cow} 0").do(do.Suspend(name="s"))
            life.do(do.Load(name="c", table=(TargetLine(0, 128, "linear", "{cow} 64"),)))
            life.do(do.Resume(name="c")).device("s2", "snapshot", "{base} {c} N 8")
            life.read("s2", *GARBAGE)
        case "start at 20":
            life = Life().disks().do(do.Create(name="s"))
            table = (
                TargetLine(0, 20, "linear", "{base} 0"),
                TargetLine(20, 44, "snapshot", "{base} {cow} P 8"),
            )
            life.do(do.Load(name="s", table=table)).do(do.Resume(name="s")).write("s", 20, 4)
            life.do(do.Read(device="s", sector=20, sectors=44), content={"s": (Zeros(44),)}).kept()
            return
        case "cow loses writes":
            life = Life().disks().device("c", "zero", "").snapshot(cow="c").write("s", 0, 8)
        case "cow moved" | "cow moved while away":
            life = Life().disks().do(do.Disk(name="cow2", sectors=256)).write("cow2", 0, 1)
            life.device("c", "linear", "{cow} 0").snapshot(cow="c").write("s", 0, 8)
            if rule == "cow moved":
                life.table("c", "linear", "{cow2} 0")
            else:
                life.do(do.Remove(name="s")).table("c", "linear", "{cow2} 0").snapshot(cow="c")
        case "stale device answers":
            life.do(do.Suspend(name="s")).snapshot("t").write("s", 0, 1).read("t", *GARBAGE)
        case "origin is a cow":
            life.do(do.Disk(name="base2", sectors=SIZE))
            life.device("s2", "snapshot", "{base2} {base} N 8")
        case "was transient":
            life = ready("N 8").write("s", 3, 2).do(do.Remove(name="s")).snapshot()
        case "crash":
            life.do(do.Crash(how="exit"))
        case "other cow user":
            life.do(do.Disk(name="base2", sectors=SIZE))
            life.device("s1", "snapshot", "{base2} {cow} N 8").write("s", 0, 8)
            life.device("s2", "snapshot", "{base2} {cow} N 8").read("s2", *around(0, Zeros(1)))
        case "unknown target":
            life.device("f", "flakey", "{base} 0 1 1").write("f", 0, 1)
        case "foreign store":
            life = Life().disks().do(do.Poke(device="cow", sector=0, data=b"x" * 512))
            life.snapshot().origin()
        case "start":
            life = Life().disks().do(do.Create(name="s"))
            table = (
                TargetLine(0, 4, "linear", "{base} 0"),
                TargetLine(4, 60, "snapshot", "{base} {cow} P 8"),
            )
            life.do(do.Load(name="s", table=table)).do(do.Resume(name="s"))
            life.do(do.Read(device="s", sector=4, sectors=60), content={"s": (Zeros(60),)}).kept()
            return
        case "origin moved":
            life = Life().disks().device("b", "linear", "{base} 0")
            life.device("s", "snapshot", "{b} {cow} P 8").table("b", "zero", "")
    life.read("s", *GARBAGE).kept()


@pytest.mark.parametrize(
    "step",
    [
        do.Write(device="base", sector=8, sectors=8),
        do.Write(device="l", sector=8, sectors=8),
        do.Write(device="o2", sector=8, sectors=8),
        do.Discard(device="base", sector=8, sectors=8),
        do.Zeroout(device="base", sector=8, sectors=8),
        do.Poke(device="base", sector=8, data=b"x" * 4096),
    ],
)
def test_a_write_past_the_origin_target_costs_only_its_sectors(step: AnyStep) -> None:
    life = ready().device("l", "linear", "{base} 0").device("o2", "snapshot-origin", "{l}")
    life.do(step).read("s", *around(8, Zeros(8))).kept()
    life.read("s", base(0, 7), Zeros(1), base(8, 56)).broken(
        "s", 7, 1, "sector 7 of base, generation 0", "zeros"
    )


@pytest.mark.parametrize("kind", ["P 8", "N 8"])
def test_what_happens_while_a_snapshot_is_away_is_not_promised(kind: str) -> None:
    life = ready(kind).do(do.Remove(name="s")).write("o", 8, 8)
    life.snapshot(kind=kind).read("s", *around(8, NEW))
    if kind == "N 8":
        # A transient snapshot begins anew, and that is promised.
        life.kept()
        life.read("s", OLD).broken(
            "s", 8, 8, "sector 8 of o, generation 1", "sector 8 of base, generation 0"
        )
        return
    life.read("s", OLD).kept()
    life.read("s", *GARBAGE)
    assert [(found.sector, found.sectors) for found in life.check()] == [(0, 56)]


def test_a_store_that_grows_keeps_its_promises() -> None:
    life = Life().disks().do(do.Create(name="c"))
    for length in (64, 128):
        life.do(do.Load(name="c", table=(TargetLine(0, length, "linear", "{cow} 0"),)))
        life.do(do.Resume(name="c"))
        if length == 64:
            life.snapshot(cow="c").write("s", 3, 2)
    life.read("s", *OWN).kept()
    life.read("s", OLD).broken(
        "s", 3, 2, "sector 3 of s, generation 1", "sector 3 of base, generation 0"
    )


def test_a_store_whose_first_sector_was_zeroed_begins_anew() -> None:
    life = ready().write("s", 3, 2).do(do.Remove(name="s"))
    life.do(do.Write(device="cow", sector=0, sectors=1, fill="zero")).snapshot()
    life.read("s", OLD).kept()
    life.read("s", *OWN).broken(
        "s", 3, 2, "sector 3 of base, generation 0", "sector 3 of s, generation 1"
    )


def test_failed_buffered_refused_and_discarded_writes() -> None:
    life = ready().write("s", 0, 4, error="EIO").write("s", 4, 4, error="SUSPENDED")
    life.do(do.Write(device="s", sector=8, sectors=4, buffered=True))
    life.do(do.Discard(device="s", sector=12, sectors=4))
    life.do(do.Discard(device="s", sector=16, sectors=4), error="EOPNOTSUPP")
    life.do(do.Zeroout(device="s", sector=20, sectors=4))
    life.read("s", Zeros(4), base(4, 4), Zeros(8), base(16, 4), Zeros(4), base(24, 40)).kept()
    life.read("s", Zeros(24), base(24, 40))
    [found] = life.check()
    assert (found.sector, found.sectors) == (4, 8)  # 4 to 7 and 16 to 19
    life.do(
        do.Read(device="s", sector=40, sectors=1, buffered=True),
        content={"s": (Stamped("x", 1, 1, 1),)},
    )
    assert len(life.check()) == 1


def test_passed_down_discards_reach_the_origin() -> None:
    life = Life().disks().snapshot(kind="P 8 2 discard_zeroes_cow discard_passdown_origin").origin()
    life.do(do.Discard(device="s", sector=8, sectors=8))
    life.image("base", *around(8, Zeros(8))).read("s", *around(8, Zeros(8))).kept()


def test_nothing_is_checked_beyond_a_lost_observation() -> None:
    life = ready().write("o", 8, 8).read("s", *around(8, NEW))
    del life.seen[-2]
    life.kept()


def test_reads_that_failed_break_no_promise() -> None:
    life = ready()
    life.do(do.Examine(), content={"s": (observations.Unreadable("EIO", SIZE),)})
    life.do(do.Read(device="s", sector=0, sectors=8), error="EIO").kept()
