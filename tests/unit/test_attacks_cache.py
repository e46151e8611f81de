"""Packages and caches are what they claim: lying mirrors, caches of others, fetches cut short."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from harness.errors import ProvisioningError
from harness.guest import boots, catalogue, programs, trust
from harness.guest.fetch import provision
from tests.unit.test_apt import fake, fetch, release_file  # noqa: F401 -- fixtures
from tests.unit.test_catalogue import cache, fetches, lay_out  # noqa: F401 -- fixtures

KERNEL = "uml-6.12"


def record_of(kernel: catalogue.Kernel) -> catalogue.Manifest:
    assert kernel.record is not None
    return kernel.record


# -- the suite --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "release",
    [
        release_file("oldstable", "bookworm"),
        release_file("testing", "sid-updates"),
        "signed",
        "",
        release_file("x", "y", before="Suite: sid\nCodename: sid\n\n"),
        release_file("x", "y") + "Suite: sid\n",
        release_file("x", "y\nSuite: sid"),
    ],
)
def test_a_mirror_that_serves_another_suite(fake, fetch, release):  # noqa: F811
    """Seen before: bookworm was taken for what was asked for, because Debian signed it."""
    fake.set(release=release)
    with pytest.raises(ProvisioningError, match="in place of sid; nothing is used"):
        fetch()
    assert not fake.calls("download")


@pytest.mark.parametrize(
    "release",
    [
        release_file("unstable", "sid"),
        release_file("sid", "other"),
        "Origin: Debian\nSuite: unstable\nCodename: sid\n",
    ],
)
def test_a_suite_by_either_name(fake, fetch, release):  # noqa: F811
    fake.set(release=release)
    assert fetch().release == "6.99.1"


# -- the cache --------------------------------------------------------------------------------


def exchange(home):
    (home / "linux").write_text("#!/bin/sh\necho owned\n")


def exchange_module(home):
    next(home.rglob("dm-snapshot.ko")).write_bytes(b"owned")


def add_module(home):
    """One that is found before the real one."""
    (home / "modules/6.99.1/dm-mod.ko").write_bytes(b"owned")


def add_library(home):
    (home / "libc").mkdir()
    (home / "libc/libm.so.6").write_bytes(b"owned")


def link_module(home):
    module = next(home.rglob("dm-snapshot.ko"))
    module.unlink()
    module.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    "attack", [exchange, exchange_module, add_module, add_library, link_module]
)
def test_what_is_not_what_was_fetched_is_not_run(cache, fetches, attack):  # noqa: F811
    """Seen before: every one of them was run."""
    provision.fetch(KERNEL)
    attack(cache / KERNEL)
    with pytest.raises(ProvisioningError, match=f"{KERNEL} is not run.*not what was fetched"):
        provision.fetch(KERNEL)
    assert record_of(provision.fetch(KERNEL, refresh=True)).files
    assert len(fetches) == 2
    provision.fetch(KERNEL)


@pytest.mark.usefixtures("fetches")
@pytest.mark.parametrize("where", ["", "kernels", f"kernels/{KERNEL}"])
def test_a_cache_that_others_can_write(cache, where):  # noqa: F811
    provision.fetch(KERNEL)
    place = cache.parent / where
    place.chmod(0o777)
    with pytest.raises(ProvisioningError, match=f"chmod go-w {place}"):
        provision.fetch(KERNEL)
    place.chmod(0o755)
    provision.fetch(KERNEL)
    (cache / KERNEL / "linux").chmod(0o777)
    with pytest.raises(ProvisioningError, match="others can change"):
        provision.fetch(KERNEL)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
@pytest.mark.usefixtures("fetches")
def test_a_cache_of_somebody_else(cache):  # noqa: F811
    provision.fetch(KERNEL)
    for place in (cache / KERNEL, cache, cache.parent):
        os.chown(place, 65534, -1)
        with pytest.raises(ProvisioningError, match=r"belongs to nobody.*XDG_CACHE_HOME"):
            provision.fetch(KERNEL)
        os.chown(place, 0, -1)
    os.chown(cache / KERNEL / "linux", 65534, -1)
    with pytest.raises(ProvisioningError, match="others can change"):
        provision.fetch(KERNEL)


@pytest.mark.usefixtures("fetches")
def test_a_record_of_before_is_checked_as_far_as_it_goes(cache):  # noqa: F811
    kernel = provision.fetch(KERNEL)
    path = cache / KERNEL / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record_of(kernel), files={})))
    assert record_of(provision.fetch(KERNEL)).files == {}
    exchange(cache / KERNEL)
    with pytest.raises(ProvisioningError, match=r"linux .*is not what was fetched"):
        provision.fetch(KERNEL)


@pytest.mark.usefixtures("fetches")
def test_what_was_fetched_under_any_umask_is_nobody_elses_to_write(cache):  # noqa: F811
    before = os.umask(0)
    try:
        cache.parents[1].mkdir(mode=0o755)
        provision.fetch(KERNEL)
    finally:
        os.umask(before)
    provision.fetch(KERNEL)
    for path in (cache, cache / KERNEL, *(cache / KERNEL).rglob("*")):
        assert not path.stat().st_mode & 0o022, path


@pytest.mark.usefixtures("fetches", "cache")
def test_a_proof_names_no_other_program(tmp_path):
    """Seen before: a proof could name any program of the host."""
    kernel = provision.fetch(KERNEL)
    home = boots.home_of(kernel)
    home.mkdir(parents=True)
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\n")
    digest = catalogue.sha256_of(kernel.program)
    for runs, holds in ((kernel.program, True), (other, False)):
        proof = boots.Proof(
            kernel=KERNEL,
            host=boots.this_host(),
            program_sha256=digest,
            runs=str(runs),
            runs_sha256=catalogue.sha256_of(runs),
            cured=False,
            seconds=1.0,
            proven_at="",
        )
        (home / "proof.json").write_bytes(msgspec.json.encode(proof))
        kept = boots._kept(home, kernel.program, digest)
        assert (kept is not None) is holds
    home.chmod(0o777)
    with pytest.raises(ProvisioningError, match="others can write"):
        boots.proven(kernel, lambda _program: boots.Boot(True, 1.0, True, ""))


def test_an_index_past_its_date_is_told_each_time(cache, fetches, monkeypatch):  # noqa: F811, ARG001
    from click.testing import CliRunner

    from harness.cli.main import main
    from harness.guest import doctor

    lines: list[str] = []
    provision.fetch("uml-7.2")
    provision.fetch("uml-7.2", progress=lines.append)
    assert ["had expired" in line for line in lines] == [True]
    assert "had expired" in CliRunner().invoke(main, ["kernels"]).stdout
    monkeypatch.setattr("harness.guest.fallback.prove", lambda *_, **__: "boots")
    [booted] = doctor.boot_all(lines.append)
    assert "had expired" in booted.detail
    exchange(cache / "uml-7.2")
    [booted] = doctor.boot_all(lines.append)
    assert not booted.ok
    assert "not what was fetched" in booted.detail


# -- cut short --------------------------------------------------------------------------------

FETCHING = """
import signal
from harness.guest import programs
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it (nohup)
programs.run(["setsid", "sh", "-c", {program!r}], limit_s=600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_apt_ends_with_dmsnap(tmp_path, number):
    """Seen before: apt and its helpers went on, for ever, whatever ended dmsnap."""
    pids = [tmp_path / name for name in ("apt", "helper")]
    program = (
        f"setsid sleep 1000 & echo $! > {pids[1]}.new; mv {pids[1]}.new {pids[1]}; "
        f"echo $$ > {pids[0]}.new; mv {pids[0]}.new {pids[0]}; wait"
    )
    with subprocess.Popen([sys.executable, "-c", FETCHING.format(program=program)]) as process:
        pause, until = threading.Event(), time.monotonic() + 60
        while not all(path.exists() for path in pids) and time.monotonic() < until:
            pause.wait(0.01)
        fds = [os.pidfd_open(int(path.read_text())) for path in pids]
        process.send_signal(number)
    for fd in fds:
        assert select.select([fd], [], [], 60)[0]
        os.close(fd)


def test_what_a_program_says_and_how_it_ends_is_told():
    assert programs.run(["sh", "-c", "echo one; echo two >&2; exit 7"], limit_s=60) == (
        7,
        "one\ntwo\n",
    )
    assert programs.run(["sh", "-c", "kill -9 $$"], limit_s=60)[0] == 128 + 9
    status, said = programs.run(["/nothing/here"], limit_s=60)
    assert status == 127
    assert "cannot start /nothing/here" in said


@pytest.mark.parametrize("left", ["file", "link", "closed", "dangling"])
def test_nothing_that_is_left_blocks_the_next(cache, fetches, tmp_path, left):  # noqa: F811
    """Seen before: a file or a link in the place of a half-made directory, or one of a package
    that may not be written, stopped every later fetch."""
    cache.mkdir(parents=True)
    part = cache / f".{KERNEL}.part-x"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    match left:
        case "file":
            part.write_text("")
        case "link":
            part.symlink_to(precious)
        case "dangling":
            part.symlink_to(tmp_path / "nothing")
        case _:
            (part / "tree/inner").mkdir(parents=True)
            (part / "tree/inner/file").write_text("")
            (part / "tree/link").symlink_to(precious)
            (part / "tree/inner").chmod(0)
            (part / "tree").chmod(0)
    assert provision.fetch(KERNEL).release == "6.99.1"
    assert not os.path.lexists(part)
    assert (precious / "file").read_text() == "mine"
    assert len(fetches) == 1


def test_digests_are_of_what_guests_load(tmp_path):
    lay_out(tmp_path)
    (tmp_path / "modules/6.99.1/kernel/drivers/md/dm_mod.ko").write_bytes(b"x")
    (tmp_path / "modules/6.99.1/kernel/drivers/md/never-loaded.ko").write_bytes(b"x")
    assert list(trust.digests(tmp_path)) == [
        "linux",
        "modules/6.99.1/kernel/drivers/md/dm-snapshot.ko",
        "modules/6.99.1/kernel/drivers/md/dm_mod.ko",
    ]
    assert Path("linux") in trust.files_of(tmp_path)
