"""What LVM's log says, what its store must say, and what a comparison of both sides finds."""

import dataclasses

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from harness import store
from harness.cli.main import main
from harness.errors import BadScenario, GuestLost
from harness.kernel import lvm_agent as guest
from harness.lvm import enact as lvm
from harness.lvm import sound
from harness.lvm import store as lvm_store
from harness.lvm.log import Call, LogReader, LvmLogError, device_name, name_events
from harness.lvm.situations import DISK, SECTORS, SITUATIONS
from harness.trace.observations import DeviceState, Observation, Runs, UEvent, Zeros
from harness.trace.steps import (
    Create,
    Examine,
    Load,
    Remove,
    Rename,
    Resume,
    Suspend,
    TargetLine,
    Write,
    references,
)
from harness.wire.lvm import Boot, Lvm, LvmJob

# Lines of LVM 2.03.16, as they came; of the UUIDs only the beginning.
CREATE = """\
   Found dev 254:0 /dev/mapper/disk - new alias.
   Found dev 254:1 /dev/mapper/pv - new alias.
   Found dev 254:2 /dev/mapper/vg-lv - new alias.
   Found dev 254:2 /dev/vg/lv - new alias.
   dm info  LVM-jZGH74 [ noopencount flush ]   [2048] (*1)
   Creating vg-snap
   dm create vg-snap LVM-jZGH74 [ noopencount flush ]   [16384] (*1)
   Loading table for vg-snap (254:3).
   Adding target to (254:3): 0 1024 linear 254:1 6144
   dm table   (254:3) [ opencount flush ]   [16384] (*1)
   dm reload   (254:3) [ noopencount flush ]   [2048] (*1)
   Resuming vg-snap (254:3).
   dm resume   (254:3) [ noopencount flush ]   [2048] (*1)
   Found dev 254:3 /dev/vg/snap - new.
   Initializing 4.00 KiB of logical volume vg/snap with value 0.
   Removing vg-snap (254:3)
   dm remove   (254:3) [ noopencount flush retryremove ]   [2048] (*1)
   dm create vg-lv-real LVM-jZGH74-real [ noopencount flush ]   [16384] (*1)
   Loading table for vg-lv-real (254:3).
   Adding target to (254:3): 0 4096 linear 254:1 2048
   dm table   (254:3) [ opencount flush ]   [16384] (*1)
   dm reload   (254:3) [ noopencount flush ]   [2048] (*1)
   Loading table for vg-lv (254:2).
   Adding target to (254:2): 0 4096 snapshot-origin 254:3
   dm table   (254:2) [ opencount flush ]   [16384] (*1)
   reload 254:2 diff type snapshot-origin linear
   dm reload   (254:2) [ noopencount flush ]   [2048] (*1)
   Suspending vg-lv (254:2) with filesystem sync with device flush
   dm suspend   (254:2) [ noopencount flush ]   [2048] (*1)
   Loading table for vg-lv-real (254:3).
   Adding target to (254:3): 0 4096 linear 254:1 2048
   dm table   (254:3) [ opencount flush ]   [16384] (*1)
   Suppressed vg-lv-real (254:3) identical table reload.
   Resuming vg-lv-real (254:3).
   dm resume   (254:3) [ noopencount flush ]   [2048] (*1)
"""
RENAME = """\
   Suspending vg-lv (254:2) with device flush
   dm suspend   (254:2) [ noopencount flush skiplockfs ]   [2048] (*1)
   Renaming vg-lv (254:2) to vg-other
   dm rename vg-lv  vg-other [ noopencount flush ]   [2048] (*1)
   Resuming vg-other (254:2).
   dm resume   (254:2) [ noopencount flush ]   [2048] (*1)
"""


def linear(name: str, sectors: int, args: str) -> Load:
    return Load(name=name, table=(TargetLine(0, sectors, "linear", args),))


def test_the_log_becomes_steps() -> None:
    reader = LogReader()
    assert [call.step for call in reader.read(CREATE)] == [
        Create(name="vg-snap"),
        linear("vg-snap", 1024, "{pv} 6144"),
        Resume(name="vg-snap"),
        Write(device="vg-snap", sector=0, sectors=8, fill="zero"),
        Remove(name="vg-snap"),
        # The same number is another device now.
        Create(name="vg-lv-real"),
        linear("vg-lv-real", 4096, "{pv} 2048"),
        Load(name="vg-lv", table=(TargetLine(0, 4096, "snapshot-origin", "{vg-lv-real}"),)),
        Suspend(name="vg-lv"),
        Resume(name="vg-lv-real"),
    ]
    assert reader.names == {"254:0": "disk", "254:1": "pv", "254:2": "vg-lv", "254:3": "vg-lv-real"}
    assert [call.step for call in reader.read(RENAME)] == [
        Suspend(name="vg-lv", lockfs=False),
        Rename(name="vg-lv", to="vg-other"),
        Resume(name="vg-other"),
    ]
    assert reader.names["254:2"] == "vg-other"


def test_a_refusal_belongs_to_its_ioctl() -> None:
    [*_, last] = LogReader().read(
        CREATE + "   device-mapper: resume ioctl on vg-lv-real (254:3) failed: Invalid argument\n"
    )
    assert last == Call(Resume(name="vg-lv-real"), "EINVAL")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dm target_msg   (254:3) [ noopencount flush ]   [2048] (*1)", "target_msg is not known"),
        ("dm resume   (254:9) [ noopencount flush ]   [2048] (*1)", "254:9 has no name"),
        ("Adding target to (254:3): 0 8 snapshot 254:3 254:8 P 8", "254:8 has no name"),
        (
            "device-mapper: create ioctl on x failed: For no reason",
            "a refusal without a known ioctl",
        ),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_line(line: str, message: str) -> None:
    with pytest.raises(LvmLogError, match=rf"line 36 .*{message}"):
        LogReader().read(f"{CREATE}{line}\n")


@pytest.mark.parametrize("line", ["dm rename [ x ]", "dm create [ x ]", "dm remove (1:2) [ x ]"])
def test_a_line_without_its_words_is_an_error(line: str) -> None:
    with pytest.raises(LvmLogError, match="line 1 of LVM's log"):
        LogReader().read(line)


WHOLE = (Zeros(SECTORS),)
SNAP = DeviceState(status="0 8 snapshot 16/64 16")
BOOT = Boot("create", (Lvm(words=("pvs",)), Examine()), 1)


def seen(**changes: object) -> list[Observation]:
    """Observations of `BOOT`, the last of them changed."""
    content: dict[str, Runs] = {
        name: (Zeros(8),) for name in ("vg-snap", "vg-snap-cow", "vg-lv-real")
    }
    last = Observation(step=1, content=content, state=dict.fromkeys(content, SNAP))
    return [
        Observation(step=0, image={DISK: WHOLE}),
        msgspec.structs.replace(last, **changes),
    ]


def test_what_a_guest_can_have_seen_is_taken() -> None:
    sound.check(BOOT, seen())


def test_a_volume_in_several_pieces_has_several_lines() -> None:
    """LVM extends a volume so; the device below a snapshot is no snapshot."""
    pieces = DeviceState(status="0 4 linear \n4 4 linear ")
    sound.check(BOOT, seen(state=seen()[1].state | {"vg-lv-real": pieces}))


@pytest.mark.parametrize(
    ("observations", "why"),
    [
        (seen()[:1], "1 observations of 2 actions"),
        ([Observation(step=0), seen()[1]], "no image of the whole disk"),
        ([Observation(step=0, image={DISK: WHOLE[:0]}), seen()[1]], "no image of the whole disk"),
        (seen(image={"x": (Zeros(1 << 60),)}), "x is larger than the disk"),
        (seen(state={}), "content and no state"),
        (seen(state=dict.fromkeys(seen()[1].content, None)), "content and no state"),
        (
            seen(state=dict.fromkeys(seen()[1].content, DeviceState(status="0 8"))),
            "is not one of a target",
        ),
        (seen(content={n: (Zeros(8),) for n in ("vg-snap", "vg-snap-cow")}), "no vg-lv-real"),
    ],
)
def test_what_no_guest_can_have_seen_is_rubbish(observations: list[Observation], why: str) -> None:
    with pytest.raises(GuestLost, match=f"create: .* is rubbish: .*{why}"):
        sound.check(BOOT, observations)


def test_names_are_quoted_as_libdevmapper_does() -> None:
    assert device_name("my-vg", "a-b") == "my--vg-a--b"


def test_uevents_are_named_by_the_device_that_had_the_number_then() -> None:
    reader = LogReader()
    calls = reader.read(CREATE)
    before = {"254:2": "vg-lv"}
    actions = [
        ("add", "254:3"),
        ("change", "254:3"),
        ("remove", "254:3"),
        ("add", "254:3"),
        ("change", "254:2"),
        ("change", "254:3"),
    ]
    named = name_events([UEvent(*each) for each in actions], calls, before, reader.names)
    assert [event.device for event in named] == [
        "vg-snap",
        "vg-snap",
        "vg-snap",
        "vg-lv-real",
        "vg-lv",
        "vg-lv-real",
    ]
    with pytest.raises(LvmLogError, match="no command created"):
        name_events([UEvent("change", "254:7")], calls, before, reader.names)


# -- the store --

CHUNK = 4096
OLD = (5, 2, 9)


def volumes() -> lvm_store.Volumes:
    """An origin, and a store in which three of its chunks are kept."""
    origin = np.random.default_rng(1).bytes(16 * CHUNK)
    cow = bytearray(20 * CHUNK)
    cow[:16] = store.DiskHeader(chunk_sectors=8).pack()
    shown = bytearray(origin)
    for index, old in enumerate(OLD):
        entry = np.array([(old, 2 + index)], store.ENTRY_DTYPE)
        cow[CHUNK + 16 * index : CHUNK + 16 * index + 16] = entry.tobytes()
        data = bytes([index + 1]) * CHUNK
        cow[(2 + index) * CHUNK : (3 + index) * CHUNK] = data
        shown[old * CHUNK : (old + 1) * CHUNK] = data
    return lvm_store.Volumes(bytes(cow), origin, bytes(shown))


STATUS = "0 128 snapshot 40/160 16"


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def test_a_store_explains_its_snapshot() -> None:
    assert lvm_store.check(volumes(), STATUS) == lvm_store.Report("3 exceptions")


@pytest.mark.parametrize(
    ("part", "at", "new", "fault"),
    [
        ("shown", 7 * CHUNK, b"!", "sector 56 of the snapshot"),
        ("cow", 3 * CHUNK + 9, b"!", "sector 16 of the snapshot"),
        ("cow", CHUNK + 24, b"\1", "metadata"),
        ("cow", CHUNK + 40, b"\0", "the store says 32/160 16, the kernel 40/160 16"),
        ("cow", 0, b"!", "not an exception store"),
        ("cow", 4, b"\0", "the header says invalid"),
    ],
)
def test_a_store_that_does_not_is_found(part: str, at: int, new: bytes, fault: str) -> None:
    sound = volumes()
    broken = dataclasses.replace(sound, **{part: patched(getattr(sound, part), at, new)})
    assert any(fault in each for each in lvm_store.check(broken, STATUS).faults)


def cut() -> tuple[bytes, bytes]:
    """COW volume and origin after the last of three exceptions was merged."""
    before = volumes()
    at = OLD[-1] * CHUNK
    return (
        patched(before.cow, CHUNK + 32, bytes(16)),
        patched(before.origin, at, before.shown[at : at + CHUNK]),
    )


def test_a_merge_that_lost_power_is_understood() -> None:
    cow, origin = cut()
    report = lvm_store.check_cut(volumes(), cow, origin)
    assert report == lvm_store.Report("power lost with 2 of 3 exceptions left to merge")
    # The next copy may have reached the disk, or the first sectors of it.
    at = OLD[1] * CHUNK
    half = patched(origin, at, volumes().shown[at : at + 1024])
    assert not lvm_store.check_cut(volumes(), cow, half).faults


def test_a_merge_that_loses_something_is_found() -> None:
    before = volumes()
    cow, origin = cut()

    def faults(cow: bytes, origin: bytes) -> str:
        return "; ".join(lvm_store.check_cut(before, cow, origin).faults)

    assert "chunk 9 is gone from the store and not on the origin" in faults(cow, before.origin)
    assert "chunk 5 is neither" in faults(cow, patched(origin, 5 * CHUNK, b"!!"))
    assert "chunk 7 changed" in faults(cow, patched(origin, 7 * CHUNK, b"!!"))
    assert "not its beginning" in faults(patched(cow, CHUNK, b"\7"), origin)
    assert "not interrupted" in faults(before.cow, before.origin)


def test_a_volume_is_cut_out_of_the_disk() -> None:
    disk = bytes(range(256)) * 16
    table = "0 1 linear {pv} 4\n1 2 linear {pv} 0"
    assert lvm_store.cut_out(table, disk, "pv") == disk[2048:2560] + disk[:1024]
    with pytest.raises(BadScenario, match="not a linear piece of pv"):
        lvm_store.cut_out("0 1 linear {other} 4", disk, "pv")


# -- the whole --


def test_there_are_seven_situations_that_a_guest_can_read() -> None:
    assert [situation.name for situation in SITUATIONS] == [
        "create",
        "fill",
        "overflow",
        "extend",
        "reactivate",
        "merge",
        "merge-interrupted",
    ]
    for situation in SITUATIONS:
        for actions in situation.boots:
            boot = Boot(situation.name, actions, 1)
            sent = msgspec.json.encode(LvmJob("modules", (boot,)))
            assert msgspec.json.decode(sent, type=LvmJob).boots == (boot,)
            assert guest.disk_of(boot) == "disk"


def test_what_a_merge_has_to_do() -> None:
    assert guest.to_merge("0 4096 snapshot-merge 56/1024 16") == 40
    for over in ("Invalid", "Merge failed"):
        with pytest.raises(BadScenario, match="not the status of a running merge"):
            guest.to_merge(f"0 4096 snapshot-merge {over}")


def test_tables_refer_to_devices_of_the_trace() -> None:
    loads = [call.step for call in LogReader().read(CREATE) if isinstance(call.step, Load)]
    assert {name for load in loads for name in references(load)} == {"pv", "vg-lv-real"}


def test_without_lvm2_one_line_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvm, "_SBIN", ())
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(main, ["lvm", "create"])
    assert done.exit_code == 2
    assert done.output.strip() == ("dmsnap: lvm2 is missing. Type: sudo apt-get install -y lvm2")


def test_an_unknown_situation_is_refused() -> None:
    done = CliRunner().invoke(main, ["lvm", "shrink"])
    assert done.exit_code == 2
    assert "there is no situation shrink: choose from create, fill" in done.output
