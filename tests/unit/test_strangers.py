"""What a guest leaves is a stranger's: attacks on whoever reads it.

Each ran for ever, took the machine's memory, or told what the host's user alone may read, before
files of guests were read as such.
"""

import os
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from harness.errors import BadTrace, GuestLost, NotAFile, ProvisioningError
from harness.files import (
    OURS,
    alone,
    is_ours,
    mark_ours,
    open_stranger,
    read_stranger,
    remove_ours,
)
from harness.guest.channel import Channel
from harness.guest.process import KeptProcess
from harness.guest.recording import files_of, recorded
from harness.trace import pattern
from harness.trace.observations import Raw
from harness.wire import journal
from harness.wire.journal import JournalReader

HOSTILE = Path(__file__).with_name("hostile_guest.py")
MEMORY_BYTES_MAX = 1 << 30
"""Of the supervising process, Python and numpy included: the bombs take four times that."""
SECRET = "the key of the host's user"
SUPERVISING = """
import json, os, pathlib, sys
from harness.guest import supervise
from harness.guest.catalogue import Kernel
from harness.guest.process import KeptProcess
from harness.guest.supervise import Supervisor

supervise.ATTEMPTS_MAX = supervise.BOOTS_MAX = 1
hostile, place, attack = sys.argv[1:]

class Launcher:
    slowness = 1.0
    def check(self, guests, results): pass
    def start(self, results):
        return KeptProcess([sys.executable, "-I", "-S", hostile, results], results=results,
                           env={"PATH": os.defpath})

kernel = Kernel("fake", pathlib.Path(hostile), pathlib.Path(place))
supervisor = Supervisor(kernel, guests=1, results=pathlib.Path(place) / "guests",
                        python=pathlib.Path(sys.executable), launcher=Launcher(),
                        step_limit_s=20, boot_limit_s=20,
                        job=lambda names: json.dumps({"scenarios": names}).encode())
try:
    outcome = supervisor.run([attack])[attack]
    print(outcome.lost.reason, outcome.lost)
except Exception as fault:
    print(type(fault).__name__, fault)
"""


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("fifo", "is not a regular file"),
        ("late-fifo", "is not a regular file"),
        ("link", "is not a regular file"),
        ("zero", "is not a regular file"),
        ("directory", "is not a regular file"),
        ("socket", "is not a regular file"),
        ("long", "the limit is 268435456"),
        ("line", "a line of more than 16777216 bytes"),
        ("bomb", "a raw run is longer than its sectors"),
        ("bombs", "raw run names 65536 sectors and has more"),
        ("many", "more than 65536 sectors without a stamp"),
        ("short", "raw run names 8 sectors and has 0 bytes"),
        ("counts", "a run of 1152921504606846976 sectors"),
    ],
)
def test_a_guest_that_leaves_something_else_is_lost_for_rubbish(tmp_path, attack, said):
    (tmp_path / "secret").write_text(SECRET)
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISING, HOSTILE, tmp_path, attack],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=limited,
    )
    assert said in done.stdout
    assert "rubbish" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.fixture
def things(tmp_path):
    """One of each kind of file."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text(SECRET)
    (tmp_path / "ours").mkdir()
    os.mkfifo(tmp_path / "ours/fifo")
    (tmp_path / "ours/link").symlink_to(tmp_path / "file")
    (tmp_path / "ours/broken").symlink_to("nowhere")
    (tmp_path / "ours/loop").symlink_to("loop")
    (tmp_path / "ours/device").symlink_to("/dev/null")
    (tmp_path / "ours/directory").symlink_to(tmp_path / "outside")
    (tmp_path / "ours/inner").mkdir()
    (tmp_path / "ours/inner/file").write_bytes(b"12345")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["fifo", "link", "broken", "loop", "device", "directory", "inner", "directory/file"]
)
def test_only_regular_files_of_a_stranger_are_opened(things, name):
    with pytest.raises(NotAFile, match="is not a regular file"):
        open_stranger(things / "ours" / name, 100, below=things / "ours")


def test_a_stranger_s_file_has_a_limit(things):
    path = things / "ours/inner/file"
    assert read_stranger(path, 5) == b"12345"
    assert read_stranger(path, 5, below=things / "ours") == b"12345"
    with pytest.raises(NotAFile, match="has 5 bytes; the limit is 4"):
        read_stranger(path, 4)
    with pytest.raises(FileNotFoundError):
        read_stranger(things / "ours/nothing", 4)


def test_what_claims_no_length_is_read_within_the_limit():
    with pytest.raises(NotAFile, match="more than 10 bytes"):
        read_stranger(Path("/proc/self/environ"), 10)  # a regular file of 0 bytes


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(__file__)])
def test_a_console_that_is_no_file_is_not_waited_for(tmp_path, make):
    guest = KeptProcess(
        [sys.executable, "-c", "import signal; signal.pause()"], results=tmp_path, env={}
    )
    os.kill(guest.keeper_pid, signal.SIGKILL)
    (tmp_path / "console.log").unlink(missing_ok=True)
    make(tmp_path / "console.log")
    guest.end()
    assert guest.console_tail() == ""


@pytest.mark.parametrize(
    "leave",
    [
        os.mkfifo,
        lambda path: path.symlink_to(path.parent / "secret"),
        lambda path: path.write_bytes(b"{"),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.write_bytes(b'{"status":0,"stdout":"\xff","stderr":""}'),
    ],
)
def test_an_answer_that_is_none(tmp_path, leave):
    (tmp_path / "secret").write_text('{"status":0,"stdout":"","stderr":""}')
    leave(tmp_path / "answer-0.json")
    guest = KeptProcess(
        [sys.executable, "-c", "import signal; signal.pause()"], results=tmp_path, env={}
    )
    try:
        with pytest.raises(GuestLost, match="rubbish"):
            Channel(guest, tmp_path, 20).wait_until_up(20)
    finally:
        guest.end()


def test_a_recording_that_is_no_file_is_empty(tmp_path):
    (tmp_path / "guest-0001").mkdir()
    os.mkfifo(tmp_path / "guest-0001/journal.jsonl")
    assert list(recorded(tmp_path)) == []


def test_a_scenario_has_a_longest_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SCENARIO_BYTES_MAX", 1000)
    path = tmp_path / "journal.jsonl"
    begin = b'{"record":"begin","scenario":"a","seed":1}\n'
    started = b'{"record":"started","step":1}\n'
    path.write_bytes((begin + started * 30) * 10)  # each within the limit
    reader = JournalReader(path)
    assert len(reader.new()) == 310
    with path.open("ab") as file:
        file.write(started * 40)
    reader.new()
    assert "more than 1000 bytes of one scenario" in reader.faults[0]


@pytest.mark.parametrize(
    ("count", "packed", "said"),
    [
        (1, zlib.compress(bytes(513)), "has more"),
        (1, zlib.compress(bytes(511)), "has 511 bytes"),
        (1, zlib.compress(bytes(512))[:-1], "has more"),
        (1, zlib.compress(bytes(512)) + b"x", "has more"),
        (1, b"", "has 0 bytes"),
        (1, b"no zlib", "cannot be inflated"),
        (0, zlib.compress(b""), "a raw run of 0 sectors"),
        (-1, zlib.compress(b""), "a raw run of -1 sectors"),
        (pattern.RAW_SECTORS_MAX + 1, b"", "of at most"),
    ],
)
def test_a_raw_run_holds_what_it_names(count, packed, said):
    with pytest.raises(BadTrace, match=said):
        pattern.decode(1, (Raw(count, packed),))


# -- directories ----------------------------------------------------------------------------------


def test_only_what_dmsnap_made_is_removed(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").touch()
    with pytest.raises(ProvisioningError, match="not a directory that dmsnap made"):
        remove_ours(theirs)
    mark_ours(theirs)  # it holds something: it stays theirs
    with pytest.raises(ProvisioningError):
        remove_ours(theirs)
    assert (theirs / "file").exists()

    ours = tmp_path / "ours"
    mark_ours(ours)
    assert is_ours(ours)
    (ours / "link").symlink_to(theirs)
    remove_ours(ours)
    assert not ours.exists()
    assert (theirs / "file").exists()
    remove_ours(ours)  # nothing to do


def test_nothing_is_removed_through_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere/kernel"
    mark_ours(elsewhere)
    (tmp_path / "kernel").symlink_to(elsewhere)
    (tmp_path / "guests").symlink_to(elsewhere.parent)
    for path in (tmp_path / "kernel", tmp_path / "guests/kernel"):
        with pytest.raises(ProvisioningError, match="link"):
            remove_ours(path)
    with pytest.raises(ProvisioningError, match="is a link"), alone(tmp_path / "guests"):
        pass
    assert is_ours(elsewhere)


@pytest.mark.parametrize(
    "mark",
    [
        lambda path: path.symlink_to("/dev/null"),
        os.mkfifo,
        lambda path: path.write_text("another"),
        Path.mkdir,
    ],
)
def test_a_mark_is_a_file_that_dmsnap_wrote(tmp_path, mark):
    mark(tmp_path / OURS)
    assert not is_ours(tmp_path)


NAMES = [
    "a/b",
    "a_b",
    "a b",
    "a\nb",
    "a//b",
    "/a/b",
    "ab",
    ".ab",
    "..ab",
    "_ab",
    "ä",
    "ö",
    "x" * 300,
    "y" + "x" * 299,
    "y" * 50 + "x" * 101,
    "",
    ".",
    "..",
]


def test_two_kernels_never_share_a_directory(tmp_path):
    places = {name: files_of(tmp_path, name) for name in NAMES}
    assert len({str(place).lower() for place in places.values()}) == len(NAMES)
    assert all(
        place.parent == tmp_path and place.name not in ("", ".", "..") and len(place.name) < 200
        for place in places.values()
    )
    assert files_of(tmp_path, "uml-6.12").name == "uml-6.12"
