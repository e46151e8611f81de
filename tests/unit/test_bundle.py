"""Bundles: what is in one, what must not be, and those that strangers send."""

import getpass
import io
import lzma
import os
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.compare.diff import Verdict
from harness.errors import BadTrace
from harness.fuzz import bundle
from harness.fuzz.find import Find, OnOne
from harness.fuzz.script import Untold, difference, prelude, script, shell_names
from harness.fuzz.sides import OnTwin
from harness.fuzz.signature import Signature, signature_of
from harness.guest.catalogue import Kernel
from harness.scenarios.registry import choose
from harness.trace.files import Header, Observations, ObservationsHeader, Trace, dumps, loads
from harness.trace.steps import Crash, Disk, Fault, Load, TargetLine, Write
from harness.twin.profile import named
from harness.verdict.judge import judge

ROOT = Path(__file__).parents[2]
DEFECTS = sorted((ROOT / "docs/defects").glob("*.sh"))


@pytest.fixture(scope="module")
def find():
    """A find whose kernel is the twin: a snapshot of 6.12 that was expected to keep a promise."""
    trace = choose(["origin_not_resumed[P]"])[0].trace(1)
    outcome = OnTwin(named("6.12")).outcome(trace)
    assert outcome is not None
    result, twin = judge(trace, outcome, "uml-6.12", orders_max=1)
    signature = signature_of(result)
    assert signature is not None
    return Find(
        trace=trace,
        signature=signature,
        kernels=(
            OnOne(
                kernel="uml-6.12",
                release="6.12.113",
                version="#1",
                targets={"snapshot": "1.16.0"},
                shown=5,
                asked=5,
                verdict="same",
            ),
            OnOne(
                kernel="x", release="9.9", version="", targets={}, shown=0, asked=5, verdict="same"
            ),
        ),
        result=result,
        outcome=outcome,
        seen=Observations(
            ObservationsHeader(scenario="t", seed=1, side="kernel"), outcome.observations
        ),
        twin=twin,
        console=f"booted from {Path.cwd()}/x by {getpass.getuser()} on {socket.gethostname()}\n"
        f"init=/tmp/dmsnap-abc/init root=/home/someone/.cache\n\x1b[2Jrest\n",
        kernel=Kernel(name="uml-6.12", program=Path("/nowhere/linux"), modules=Path("/nowhere")),
    )


def test_what_is_in_it(find):
    made = bundle.contents(find)
    assert loads(made["trace.jsonl"]) == find.trace
    about = msgspec.json.decode(made["find.json"], type=bundle.About)
    assert about.signature == find.signature
    for name in (
        "README", "mail.txt", "reproduce.sh", "blktests-dm-snapshot", "kernel.jsonl", "twin.jsonl",
        "console.txt", "kernel-log.txt", "kernel.txt", "store-cow-kernel.img",
        "store-cow-kernel.txt",
    ):  # fmt: skip
        assert made[name], name
        assert name == "README" or name in made["README"].decode()
    mail = made["mail.txt"].decode()
    assert mail.startswith("To: dm-devel@lists.linux.dev\n")
    assert "5 of 5 times" in mail
    assert "does not happen on 9.9" in mail
    listing = made["store-cow-kernel.txt"].decode()
    assert "chunk size" in listing
    assert re.search(r"^ +0  H+M", listing, re.MULTILINE)


def test_nothing_of_this_host_is_in_it(find):
    _, packed = bundle.pack("b", bundle.contents(find))
    everything = b"\0".join([*bundle.contents(find).values(), packed]).decode("latin-1")
    for secret in (
        str(Path.cwd()), str(Path.home()), sys.prefix, "/home/", "/tmp/", "dmsnap-abc",
        socket.gethostname(), os.environ.get("PATH", "/nope"),
    ):  # fmt: skip
        assert secret not in everything
    user = getpass.getuser()
    if user != "root":
        assert not re.search(rf"\b{re.escape(user)}\b", everything)
    with tarfile.open(fileobj=io.BytesIO(_plain(find))) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert member.mtime == 0


def _plain(find):
    suffix, packed = bundle.pack("b", bundle.contents(find))
    if suffix == ".tar.xz":
        return lzma.decompress(packed)
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()


def test_what_a_guest_printed_is_printable(find):
    assert "\x1b" not in bundle.contents(find)["console.txt"].decode()


def test_the_script_is_one_that_a_shell_reads(find):
    text = bundle.contents(find)["reproduce.sh"]
    done = subprocess.run(["/bin/sh", "-n"], input=text, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["/bin/sh", "-s"], input=text, capture_output=True, timeout=20, stdin=None
    )
    assert done.returncode == 2
    assert b"--this-machine-is-disposable" in done.stderr


def test_the_test_for_blktests_is_one_that_bash_reads(find):
    text = bundle.contents(find)["blktests-dm-snapshot"]
    done = subprocess.run(["/bin/bash", "-n"], input=text, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DEFECTS, ids=lambda path: path.stem)
def test_reproducers_written_by_hand_share_the_prelude(path):
    assert f"\n{prelude()}" in path.read_text()


def test_names_of_devices_are_small_letters_and_no_two_alike():
    trace = Trace(
        Header(scenario="t"),
        (
            Disk(name="A.1", sectors=8),
            Disk(name="a1", sectors=8),
            Load(name="$(x)".strip("$()") + "-", table=(TargetLine(0, 8, "linear", "{A.1} 0"),)),
        ),
    )
    names = shell_names(trace)
    assert len(set(names.values())) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+", name) for name in names.values())


def test_a_trace_gives_a_shell_no_commands(tmp_path):
    """Whatever a stranger's trace holds, the script runs none of it."""
    from harness.fuzz.script import Difference

    evil = f"$(touch {tmp_path}/a);`touch {tmp_path}/b`'; touch {tmp_path}/c; '"
    trace = Trace(
        Header(scenario="x\u0020" + evil.replace("/", "_")),
        (
            Load(name="s", table=(TargetLine(0, 8, "zero", evil),)),
            Write(device="s", sector=0, sectors=1),
        ),
    )
    text = script(
        trace, Difference(step=1, what=evil, command="echo x", found=evil, expected="y"), (), [evil]
    )
    # All that is not the prelude, with the commands as functions that do nothing.
    story = "set -- x\n" + text.split("# ---- the story\n", 1)[1].split("\n# step", 1)[1]
    stubs = (
        "q() { :; }; w1() { :; }; mark() { :; }; compare() { :; }; table_of() { cat >/dev/null; }\n"
    )
    done = subprocess.run(
        ["/bin/sh"], input=(stubs + "# step" + story).encode(), capture_output=True, timeout=20,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (Disk(name="d", sectors=8, can_fail=True, linked=True), "link"),
        (Fault(device="d", op="write", nth=3), "number 3"),
        (Crash(how="panic"), "crash"),
    ],
)
def test_what_a_shell_cannot_do_is_said(step, why):
    from harness.fuzz.script import Difference

    with pytest.raises(Untold, match=why):
        script(Trace(Header(scenario="t"), (step,)), Difference(step=0, what="x"))


def test_what_a_shell_cannot_see_is_said():
    from harness.compare.diff import Divergence, Layer

    with pytest.raises(Untold, match="uevent"):
        difference(
            Trace(Header(scenario="t"), (Disk(name="d", sectors=8),)),
            Divergence(
                step=0, verb="disk d", layer=Layer.UEVENT, what="uevent 1 (of 1 and 0)",
                left="x", right="y",
            ),
            (),
            (),
        )  # fmt: skip


# -- bundles of strangers ------------------------------------------------------------------------

GOOD = dumps(Trace(Header(scenario="t"), (Disk(name="d", sectors=8),)))


def packed(path, *members):
    """A packed bundle with members that `tarfile` itself would not make."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for member, data in members:
            if data is not None:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data or b""))
    path.write_bytes(lzma.compress(plain.getvalue()))
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_bundle_is_read_again_packed_or_not(find, tmp_path):
    directory, file = bundle.write(find, tmp_path / "b")
    assert bundle.is_bundle(directory)
    assert bundle.is_bundle(file)
    assert bundle.read_trace(directory) == find.trace
    assert bundle.read_trace(file) == find.trace


def test_without_the_extra_it_is_packed_with_xz(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    suffix, data = bundle.pack("b", {"trace.jsonl": GOOD})
    assert suffix == ".tar.xz"
    (tmp_path / "b.tar.xz").write_bytes(data)
    assert bundle.read_trace(tmp_path / "b.tar.xz") == loads(GOOD)
    (tmp_path / "b.tar.zst").write_bytes(b"\x28\xb5\x2f\xfdxxxx")
    with pytest.raises(BadTrace, match=r"pip install 'dmsnap\[bundle\]'"):
        bundle.read_trace(tmp_path / "b.tar.zst")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([(member("b/trace.jsonl", tarfile.SYMTYPE, "/etc/passwd"), None)], "not a regular file"),
        ([(member("b/trace.jsonl", tarfile.LNKTYPE, "b/other"), None)], "not a regular file"),
        ([(member("b/trace.jsonl", tarfile.FIFOTYPE), None)], "not a regular file"),
        ([(member("b/trace.jsonl", tarfile.CHRTYPE), None)], "not a regular file"),
        ([(member("../../trace.jsonl"), GOOD)], "has no trace.jsonl"),
        ([(member("/a/b/trace.jsonl"), GOOD)], "has no trace.jsonl"),
        ([(member("b/readme"), b"x")], "has no trace.jsonl"),
        ([(member(f"b/{at}"), b"") for at in range(300)], "more than 256 files"),
        ([(member("b/trace.jsonl"), b"\xff\xfe not a trace")], "line 1"),
    ],
)
def test_an_attack_is_refused_and_nothing_is_written(members, why, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with pytest.raises(BadTrace, match=why):
        bundle.read_trace(packed(tmp_path / "b.tar.xz", *members))
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_bomb_ends_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "UNPACKED_BYTES_MAX", 1 << 20)
    bomb = packed(tmp_path / "b.tar.xz", (member("b/zeros"), bytes(8 << 20)))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BadTrace, match="none may"):
        bundle.read_trace(bomb)


def test_a_bomb_of_zstd_ends_within_bounds(tmp_path, monkeypatch):
    zstandard = pytest.importorskip("zstandard")
    monkeypatch.setattr(bundle, "UNPACKED_BYTES_MAX", 1 << 20)
    plain = lzma.decompress(
        packed(tmp_path / "b.tar.xz", (member("b/zeros"), bytes(8 << 20))).read_bytes()
    )
    (tmp_path / "b.tar.zst").write_bytes(zstandard.compress(plain))
    with pytest.raises(BadTrace, match="none may"):
        bundle.read_trace(tmp_path / "b.tar.zst")


def test_a_dictionary_of_gigabytes_is_refused(tmp_path):
    huge = lzma.compress(
        bytes(1 << 10),
        format=lzma.FORMAT_XZ,
        filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}],
    )
    # The size of the dictionary is one byte of the block's header, under its own checksum.
    import zlib

    block = bytearray(huge[12 : 12 + (huge[12] + 1) * 4 - 4])
    at = block.index(b"\x21\x01") + 2
    block[at] = 40  # 4 GiB - 1
    forged = (
        huge[:12] + block + zlib.crc32(block).to_bytes(4, "little") + huge[12 + len(block) + 4 :]
    )
    (tmp_path / "b.tar.xz").write_bytes(forged)
    with pytest.raises(BadTrace, match=r"[Mm]emory"):
        bundle.read_trace(tmp_path / "b.tar.xz")


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.95])
def test_a_file_that_ends_early_is_refused(find, tmp_path, cut):
    _, file = bundle.write(find, tmp_path / "b")
    data = lzma.compress(_plain(find)[: int(20480 * cut)])
    file = tmp_path / "c.tar.xz"
    file.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(BadTrace):
        bundle.read_trace(file)


def test_a_link_in_a_directory_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(GOOD)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/trace.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(BadTrace, match="not a regular file"):
        bundle.read_trace(tmp_path / "b")


def test_replay_takes_a_bundle(find, tmp_path):
    directory, file = bundle.write(find, tmp_path / "b")
    for each in (directory, file):
        done = CliRunner().invoke(
            main, ["replay", "--on", "twin", "--output", str(tmp_path / "out"), str(each)]
        )
        assert done.exit_code == 0, done.output


def test_a_broken_bundle_gets_one_line(tmp_path):
    (tmp_path / "b.tar.xz").write_bytes(b"\xfd7zXZ\x00 rubbish")
    done = CliRunner().invoke(main, ["replay", str(tmp_path / "b.tar.xz")])
    assert done.exit_code == 2
    assert "is no bundle" in done.output
    assert "Traceback" not in done.output


def test_a_death_is_shown_by_the_step_before_it(find):
    from harness.fuzz.script import Difference

    text = script(find.trace, Difference(step=3, what="x", dies=True))
    assert 'echo "NOW: ' in text
    assert text.rstrip().endswith('not_shown "the kernel lives on"')


def test_signatures_of_a_death_are_kept_in_the_file():
    deadly = Signature(verdict=Verdict.DIVERGED, function="snapshot_map")
    assert msgspec.json.decode(msgspec.json.encode(deadly), type=Signature) == deadly


def test_a_directory_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BadTrace, match="is a directory, and no bundle"):
        bundle.read_trace(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["reduce", "{}/nosuch.jsonl"], "nosuch"),
        (["reduce", "{}/bad.jsonl"], "bad.jsonl|dmsnap-trace|no header"),
        (["reduce", "--kernel", "a", "--kernel", "b", "{}/bad.jsonl"], "name it once"),
        (["report", "nosuch"], "nosuch"),
        (["report", "overflow_by_origin"], "variants, name one of them"),
        (["explore", "nosuch"], "nosuch"),
        (["explore", "--profile", "nosuch", "bring_up[P]"], "nosuch"),
    ],
)
def test_a_request_that_cannot_be_carried_out_gets_one_line(arguments, why, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    done = CliRunner().invoke(main, [each.format(tmp_path) for each in arguments])
    assert done.exit_code == 2, done.output
    assert re.search(why, done.output), done.output
    assert "Traceback" not in done.output
