"""What the kernel side packs, unpacks and reads from text; no kernel is needed."""

import errno
import os
import struct
import subprocess

import pytest

from harness.kernel import kmsg, probe, uevents
from harness.kernel.drivers import dmsetup, ioctl
from harness.kernel.drivers.driver import Line, line_text
from harness.trace.observations import UEvent

NUMBERS = {"254:0": "org", "254:3": "s", "254:13": "t"}


def test_sizes_are_those_of_the_kernel_headers():
    assert ioctl.HEADER.size == 312
    assert ioctl.SPEC.size == 40
    # DM_DEV_SUSPEND and DM_TABLE_STATUS, as strace prints them
    assert ioctl.request(ioctl.DEV_SUSPEND) == 0xC138FD06
    assert ioctl.request(ioctl.TABLE_STATUS) == 0xC138FD0C
    assert ioctl.request(ioctl.TARGET_MSG) == 0xC138FD0E


def test_header_is_packed_and_unpacked():
    buffer = ioctl.pack(4096, "s.1", uuid="DMSNAP-x", flags=5, event=7, targets=2, data=b"abc")
    assert len(buffer) == 4096
    assert struct.unpack_from("=3I2I", buffer) == (4, 0, 0, 4096, 312)
    header = ioctl.unpack(buffer)
    assert (header.name, header.uuid, header.flags, header.event, header.target_count) == (
        "s.1",
        "DMSNAP-x",
        5,
        7,
        2,
    )
    assert header.data[:4] == b"abc\0"


def test_data_longer_than_the_buffer_makes_a_longer_buffer():
    assert len(ioctl.pack(16, "s", data=bytes(9000))) == 312 + 9000


def test_names_too_long_for_the_kernel_are_refused():
    with pytest.raises(OSError, match="too long") as caught:
        ioctl.pack(4096, "n" * 128)
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize(
    ("device", "number"),
    [(254 << 8 | 3, "254:3"), (0xFD << 8 | 0x12 | 0x345 << 20, "253:214290"), (0, "0:0")],
)
def test_device_numbers(device, number):
    assert ioctl.decode_number(device) == number


def test_table_specs_are_aligned_and_linked():
    data = ioctl.pack_table([Line(0, 8, "linear", "/dev/x 0"), Line(8, 16, "zero", "")])
    start, length, status, following, kind = ioctl.SPEC.unpack_from(data)
    assert (start, length, status, following % 8, kind.rstrip(b"\0")) == (0, 8, 0, 0, b"linear")
    assert data[40:49] == b"/dev/x 0\0"
    assert ioctl.SPEC.unpack_from(data, following)[:2] == (8, 16)
    assert len(data) == following + 48


def test_backslashes_reach_the_target():
    """libdevmapper doubles them, or both drivers would load different tables."""
    assert b"a\\\\b\0" in ioctl.pack_table([Line(0, 8, "x", r"a\b")])


def test_status_reply_is_read_along_its_links():
    # in a reply, "next" counts from the start of the data
    first = ioctl.SPEC.pack(0, 8, 0, 64, b"snapshot") + b"16/64 16\0".ljust(24, b"\0")
    second = ioctl.SPEC.pack(8, 8, 0, 112, b"zero") + bytes(8)
    third = ioctl.SPEC.pack(16, 8, 0, 160, b"error") + bytes(8)
    assert ioctl.unpack_table(first + second + third, 3) == (
        "0 8 snapshot 16/64 16\n8 8 zero \n16 8 error "
    )
    assert ioctl.unpack_table(b"", 0) == ""


def test_lists_of_targets_and_names():
    one = struct.pack("=4I", 24, 1, 4, 0) + b"linear\0\0"
    two = struct.pack("=4I", 24, 1, 2, 0) + b"zero\0\0\0\0"
    three = struct.pack("=4I", 0, 1, 16, 0) + b"snapshot\0"
    assert ioctl.unpack_versions(one + two + three) == {
        "linear": "1.4.0",
        "snapshot": "1.16.0",
        "zero": "1.2.0",
    }
    names = struct.pack("=QI", 254 << 8, 24) + b"a\0".ljust(12, b"\0")
    names += struct.pack("=QI", 254 << 8 | 1, 0) + b"bc\0"
    assert ioctl.unpack_names(names) == ["a", "bc"]
    assert ioctl.unpack_names(struct.pack("=QI", 0, 0) + bytes(4)) == []


def test_an_alarm_interrupts_and_is_put_away():
    with pytest.raises(TimeoutError), ioctl.alarm(0.05):
        subprocess.run(["sleep", "5"])
    with ioctl.alarm(5):
        pass


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (
            "device-mapper: reload ioctl on s (254:3) failed: Invalid argument\nCommand failed.",
            errno.EINVAL,
        ),
        (
            "device-mapper: remove ioctl on org  failed: Device or resource busy\nCommand failed.",
            errno.EBUSY,
        ),
        ("device-mapper: create ioctl on s DMSNAP-s failed: Device or resource busy", errno.EBUSY),
        ("device-mapper: resume ioctl on nosuch  failed: No such device or address", errno.ENXIO),
        ("device-mapper: reload ioctl on s (254:3) failed: Block device required", errno.ENOTBLK),
        (
            "stat failed: No such file or directory\ndevice-mapper: x failed: Invalid argument",
            errno.EINVAL,
        ),
        ("Device does not exist.\nCommand failed.", errno.ENXIO),
        ("Device nosuch not found\nCommand failed.", errno.ENXIO),
        ("something else", errno.EIO),
        ("that failed: in an unheard-of way", errno.EIO),
    ],
)
def test_what_dmsetup_prints_becomes_an_errno(said, number):
    assert dmsetup.errno_of(said) == number


def test_every_errno_text_is_found_again():
    for number in errno.errorcode:
        text = f"device-mapper: reload ioctl on s failed: {os.strerror(number)}"
        assert os.strerror(dmsetup.errno_of(text)) == os.strerror(number)


def test_dmsetup_lists_are_cut_by_device():
    text = "o: 0 8 snapshot-origin \ns: 0 8 linear 254:0 0\ns: 8 8 zero \nnone: \nbare:\n"
    assert dmsetup.by_device(text) == {
        "o": "0 8 snapshot-origin ",
        "s": "0 8 linear 254:0 0\n8 8 zero ",
        "none": None,
        "bare": None,
    }
    assert dmsetup.by_device("No devices found\n") == {}
    assert dmsetup.table_text([Line(0, 8, "zero", "")]) == "0 8 zero \n"
    assert line_text(0, 8, "zero", "") == "0 8 zero "


def test_kernel_log_records_are_parsed():
    record = kmsg.parse(b"3,1234,5678901,-;device-mapper: a\\x0ab\n SUBSYSTEM=block\n DEVICE=b8\n")
    assert record == kmsg.Record(0, 3, 1234, "device-mapper: a\nb")
    assert kmsg.parse(b"14,9,1,-;dmsnap: step 1") == kmsg.Record(1, 6, 9, "dmsnap: step 1")
    assert kmsg.parse(b"rubbish") is None
    assert kmsg.parse(b"x,y;z") is None


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("device-mapper: table: 254:3: snapshot: no", "device-mapper: table: {s}: snapshot: no"),
        (
            "dm-3: detected capacity change from 8 to 16",
            "{s}: detected capacity change from 8 to 16",
        ),
        (
            "device-mapper: table: 254:13: dm-0 too small",
            "device-mapper: table: {t}: {org} too small",
        ),
        ("call missing for 254:0", "call missing for {org}"),
        ("0 2048 snapshot 254:0 254:3 P 8", "0 2048 snapshot {org} {s} P 8"),
        ("254:99 and dm-33 are not ours", "254:99 and dm-33 are not ours"),
        ("at 12:254:3 or 254:3:4 o'clock", "at 12:254:3 or 254:3:4 o'clock"),
        (
            "cannot open /dev/mapper/s now, nor /dev/mapper/x",
            "cannot open {s} now, nor /dev/mapper/x",
        ),
    ],
)
def test_numbers_become_names(text, normal):
    assert kmsg.normalise(text, NUMBERS) == normal


@pytest.mark.parametrize(
    ("facility", "text", "wanted"),
    [
        (0, "device-mapper: snapshots: Invalidating snapshot", True),
        (0, "dm-3: detected capacity change", True),
        (0, "dm-77: detected capacity change", False),
        (0, "random: crng init done", False),
        (0, "BUG: kernel NULL pointer dereference", True),
        (0, "WARNING: CPU: 0 PID: 1 at x", True),
        (0, "INFO: task python:1 blocked for more than 120 seconds", True),
        (0, "python: attempt to access beyond end of device\ndm-3: rw=0, sector=8", False),
        (0, "Buffer I/O error on dev dm-3, logical block 0, async page read", False),
        (0, "device-mapper: core: dm-3: mapping table unavailable, erroring io", False),
        (1, "device-mapper: said a program", False),
    ],
)
def test_which_lines_count(facility, text, wanted):
    assert kmsg.wanted(kmsg.Record(facility, 4, 1, text), NUMBERS) is wanted


def test_lost_records_leave_a_line():
    replies: list[bytes | OSError] = [
        b"3,1,1,-;one",
        OSError(errno.EPIPE, "Broken pipe"),
        b"3,9,1,-;nine",
        BlockingIOError(),
    ]

    def read():
        reply = replies.pop(0)
        if isinstance(reply, bytes):
            return reply
        raise reply

    assert [record.text for record in kmsg.read_records(read)] == ["one", kmsg.LOST, "nine"]


def test_other_errors_of_the_log_are_not_hidden():
    def read():
        raise OSError(errno.EINVAL, "no")

    with pytest.raises(OSError, match="no"):
        kmsg.read_records(read)


def test_only_events_of_mapped_devices_count():
    def event(action, minor, **more):
        return action, {
            "ACTION": action,
            "MAJOR": "254",
            "MINOR": minor,
            "SUBSYSTEM": "block",
            "SEQNUM": "9",
            "DEVNAME": "/dev/dm-3",
            "DISKSEQ": "4",
            **more,
        }

    events = [
        event("add", "3"),
        event("change", "0"),
        event("change", "3", RESIZE="1"),
        event("add", "3", SUBSYSTEM="bdi"),
        ("add", {"SUBSYSTEM": "block"}),
    ]
    assert uevents.select(events, {"254:3": "s"}) == (
        UEvent("add", "s"),
        UEvent("change", "s", {"RESIZE": "1"}),
    )


def test_crafted_duplicates_have_the_layout_of_the_store():
    data = probe.store_with_duplicates(8)
    assert len(data) == 2 * 4096
    assert struct.unpack_from("<4I", data) == (0x70416E53, 1, 1, 8)
    assert struct.unpack_from("<6Q", data, 4096) == (5, 4, 5, 2, 0, 0)
