"""The kernel catalogue: what counts as a kernel in the cache, and what never does."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from harness.errors import ProvisioningError
from harness.guest import built, catalogue
from harness.guest.fetch import apt, provision
from harness.guest.fetch.apt import Fetched

ANSWERING = "#!/bin/sh\necho 6.99.1\n"


def lay_out(into, release="6.99.1"):
    (into / "linux").write_text(ANSWERING)
    (into / "linux").chmod(0o755)
    module = into / "modules" / release / "kernel/drivers/md/dm-snapshot.ko"
    module.parent.mkdir(parents=True)
    module.write_bytes(b"ELF")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dmsnap/kernels"


class Fetches(list[Path]):
    """What was fetched, by the home of each fetch, and the checksum of what a suite holds."""

    holds = ""


@pytest.fixture
def fetches(monkeypatch):
    """A fetch without a network; returns the list of what was fetched."""
    done = Fetches()

    def fetch_kernel(*, suite, package, into, home, work, progress, unless):
        assert work.is_dir()
        progress(f"fetching {package} of {suite}")
        if unless and done.holds == unless:
            return None
        lay_out(into)
        done.append(home)
        return Fetched(
            version=f"6.99um{len(done)}",
            release="6.99.1",
            sha256="ab" * 32,
            libc_version="2.99",
            expired=suite == "sid",
        )

    monkeypatch.setattr(apt, "fetch_kernel", fetch_kernel)
    return done


def test_the_catalogue_is_oldest_first_and_its_default_is_stable():
    entries = catalogue.entries()
    assert [entry.name for entry in entries] == [
        "uml-6.1",
        "uml-6.12",
        "uml-7.2",
        "deb-5.10",
        "deb-6.1",
        "deb-6.12",
        "deb-7.2",
    ]
    assert [entry.suite for entry in entries] == [
        "bookworm",
        "trixie",
        "sid",
        "bullseye",
        "bookworm",
        "trixie",
        "sid",
    ]
    assert {entry.guest for entry in entries if entry.name.startswith("deb")} == {"qemu"}
    assert catalogue.default() == "uml-6.12"


def test_init_is_found_and_is_a_script():
    init = catalogue.vm_file("init")
    assert init.read_text().startswith("#!/bin/sh\n")
    assert os.access(init, os.X_OK)
    with pytest.raises(ProvisioningError, match="reinstall it"):
        catalogue.vm_file("nothing")


def test_an_unknown_kernel_names_the_known_ones():
    with pytest.raises(ProvisioningError, match=re.escape("uml-6.1, uml-6.12, uml-7.2")):
        catalogue.find("uml-2.6")


def test_a_kernel_that_is_not_cached_says_what_to_type():
    assert catalogue.find("uml-6.12") is None
    assert catalogue.installed() == []
    with pytest.raises(ProvisioningError, match=re.escape("dmsnap kernels fetch uml-6.12")):
        catalogue.get("uml-6.12")


def test_fetch_records_what_came_and_is_done_once(cache, fetches):
    lines: list[str] = []
    kernel = provision.fetch("uml-7.2", progress=lines.append)
    assert kernel == provision.fetch("uml-7.2") == catalogue.get("uml-7.2")
    assert catalogue.installed() == [kernel]
    assert len(fetches) == 1
    assert kernel.program == cache / "uml-7.2/linux"
    assert kernel.modules == cache / "uml-7.2/modules/6.99.1"
    record = kernel.record
    assert record is not None
    assert (record.suite, record.package, record.version, record.release) == (
        "sid",
        "user-mode-linux",
        "6.99um1",
        "6.99.1",
    )
    assert (record.expired, record.libc_version) == (True, "2.99")
    assert record.program_sha256 == catalogue.sha256_of(kernel.program)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.fetched_at)
    assert lines == [
        "fetching user-mode-linux of sid",
        "kernel 6.99.1 from user-mode-linux 6.99um1 is ready",
        record.age(),
    ]
    assert sorted(path.name for path in cache.iterdir()) == [".uml-7.2.lock", "uml-7.2"]


def test_refresh_replaces_a_kernel(cache, fetches):
    first = provision.fetch("uml-7.2")
    second = provision.fetch("uml-7.2", refresh=True)
    assert first.record is not None
    assert second.record is not None
    assert (first.record.version, second.record.version) == ("6.99um1", "6.99um2")
    assert len(fetches) == 2
    assert sorted(path.name for path in cache.iterdir()) == [".uml-7.2.lock", "uml-7.2"]


def test_a_refresh_of_what_is_todays_fetches_nothing(fetches):
    first = provision.fetch("uml-7.2")
    assert first.record is not None
    fetches.holds = first.record.package_sha256
    lines: list[str] = []
    assert provision.fetch("uml-7.2", refresh=True, progress=lines.append) == first
    assert len(fetches) == 1
    assert lines[-2:] == ["the cached kernel is the current one of sid", first.record.age()]
    # A refresh is a cure, too.
    first.program.write_text(ANSWERING + "# damaged\n")
    provision.fetch("uml-7.2", refresh=True)
    assert len(fetches) == 2


def test_room_is_asked_for_once_for_all(monkeypatch, fetches):
    entries = [catalogue.entry_of(name) for name in ("uml-6.1", "uml-7.2", "uml-6.1")]
    free = 600 << 20
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    catalogue.check_room(entries[:1])
    with pytest.raises(ProvisioningError, match=r"^uml-6.1, uml-7.2 needs 700 MiB .* 600 MiB"):
        catalogue.check_room(entries)
    provision.fetch("uml-6.1")
    catalogue.check_room(entries)
    with pytest.raises(ProvisioningError, match=r"uml-6\.1, uml-7\.2"):
        catalogue.check_room(entries, refresh=True)
    free = 100 << 20
    assert fetches
    with pytest.raises(ProvisioningError, match=r"uml-6\.12 needs"):
        provision.fetch("uml-6.12")
    assert len(fetches) == 1


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ProvisioningError("no network")])
def test_a_fetch_that_is_cut_short_leaves_no_kernel(cache, monkeypatch, fault):
    def fetch_kernel(*, into, **_rest):
        lay_out(into)
        raise fault

    monkeypatch.setattr(apt, "fetch_kernel", fetch_kernel)
    with pytest.raises(type(fault)):
        provision.fetch("uml-6.12")
    assert catalogue.find("uml-6.12") is None
    assert [path.name for path in cache.iterdir()] == [".uml-6.12.lock"]


def test_a_full_disk_is_told_with_its_cure(monkeypatch):
    def fetch_kernel(**_rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(apt, "fetch_kernel", fetch_kernel)
    with pytest.raises(ProvisioningError, match="No space left on device; free space"):
        provision.fetch("uml-6.12")


KILLED = """
import sys, signal
from harness.guest.fetch import apt, provision
sys.path.insert(0, sys.argv[1])
from test_catalogue import lay_out

def fetch_kernel(*, into, **rest):
    lay_out(into)
    print("half", flush=True)
    signal.pause()

apt.fetch_kernel = fetch_kernel
provision.fetch("uml-6.12")
"""


def test_what_a_killed_fetch_left_is_no_kernel_and_is_cleaned_up(cache, fetches):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, Path(__file__).parent], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    parts = list(cache.glob(".uml-6.12.part-*"))
    assert len(parts) == 1
    assert (parts[0] / "kernel/linux").exists()
    assert catalogue.find("uml-6.12") is None
    lines: list[str] = []
    assert provision.fetch("uml-6.12", progress=lines.append).release == "6.99.1"
    assert "interrupted" in lines[0]
    assert list(cache.glob(".uml-6.12.part-*")) == []
    assert len(fetches) == 1


def test_two_fetches_that_meet_do_the_work_once(monkeypatch):
    begun, go_on, waits = threading.Event(), threading.Event(), threading.Event()
    count = []

    def fetch_kernel(*, into, **_rest):
        count.append(1)
        begun.set()
        assert go_on.wait(20)
        lay_out(into)
        return Fetched("1", "6.99.1", "ab", None, expired=False)

    monkeypatch.setattr(apt, "fetch_kernel", fetch_kernel)
    got = []
    first = threading.Thread(target=lambda: got.append(provision.fetch("uml-6.12")))
    second = threading.Thread(
        target=lambda: got.append(
            provision.fetch(
                "uml-6.12", progress=lambda line: waits.set() if "another process" in line else None
            )
        )
    )
    first.start()
    assert begun.wait(20)
    second.start()
    assert waits.wait(20)
    go_on.set()
    first.join(20)
    second.join(20)
    assert len(got) == 2
    assert got[0] == got[1]
    assert len(count) == 1


def rewrite(directory, **changes):
    path = directory / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(manifest | changes))


@pytest.mark.usefixtures("fetches")
@pytest.mark.parametrize(
    "damage",
    [
        lambda home: (home / "manifest.json").unlink(),
        lambda home: (home / "manifest.json").write_text('{"name": "uml-6'),
        lambda home: (home / "linux").unlink(),
        lambda home: (home / "linux").chmod(0o644),
        lambda home: (home / "modules/6.99.1").rename(home / "elsewhere"),
        lambda home: rewrite(home, manifest_version=2),
        lambda home: rewrite(home, name="uml-7.2"),
        # Copied from another cache: the interpreter of its program is elsewhere.
        lambda home: rewrite(home, home="/elsewhere"),
        # By a dmsnap that worked with other modules.
        lambda home: rewrite(home, kept=["loop"]),
    ],
    ids=[
        "no manifest",
        "cut manifest",
        "no program",
        "not executable",
        "no modules",
        "newer manifest",
        "another kernel",
        "moved",
        "other modules",
    ],
)
def test_a_damaged_kernel_is_none_and_is_fetched_again(cache, damage):
    provision.fetch("uml-6.12")
    damage(cache / "uml-6.12")
    assert catalogue.find("uml-6.12") is None
    record = provision.fetch("uml-6.12").record
    assert record is not None
    assert record.version == "6.99um2"


def test_a_cache_that_is_not_absolute_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.cache_dir() == tmp_path / ".cache/dmsnap/kernels"


# -- kernels of one's own ---------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    lay_out(tmp_path)
    return tmp_path


def test_a_kernel_of_ones_own(own):
    kernel = built.custom(own / "linux", own / "modules/6.99.1")
    assert (kernel.program, kernel.record, kernel.release) == (own / "linux", None, "6.99.1")


def test_an_installed_tree_gives_its_release(own):
    tree = own / "install/lib/modules"
    tree.mkdir(parents=True)
    (own / "modules/6.99.1").rename(tree / "6.99.1")
    assert built.custom(own / "linux", own / "install").modules == tree / "6.99.1"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda own: (own / "linux").unlink(), r"no such file; give the program"),
        (lambda own: (own / "linux").chmod(0o644), r"not executable; .*chmod \+x"),
        (
            lambda own: (own / "linux").write_text("#!/bin/sh\necho too old; exit 1\n"),
            r"does not start \(too old\)",
        ),
        (
            lambda own: (own / "linux").write_bytes(b"\x7fELF rubbish"),
            r"does not start \(Exec format",
        ),
        (lambda own: (own / "modules").rename(own / "x"), r"no such directory; .*modules_install"),
        (
            lambda own: next(own.rglob("*.ko")).unlink(),
            r"contains no dm-snapshot\.ko; build it with",
        ),
        (
            lambda own: next(own.rglob("*.ko")).rename(own / "modules/dm-snapshot.ko.xz"),
            r"decompress it: .*dm-snapshot\.ko\.xz",
        ),
    ],
    ids=[
        "no program",
        "mode",
        "fails",
        "no program of this machine",
        "no modules",
        "no module",
        "packed",
    ],
)
def test_what_is_wrong_with_ones_own_kernel_is_named(own, damage, message):
    damage(own)
    with pytest.raises(ProvisioningError, match=message):
        built.custom(own / "linux", own / "modules")


def test_a_program_that_hangs_is_not_waited_for(own, monkeypatch):
    monkeypatch.setattr(catalogue, "_VERSION_LIMIT_S", 0.2)
    (own / "linux").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(ProvisioningError, match=r"no answer to --version"):
        built.custom(own / "linux", own / "modules")
