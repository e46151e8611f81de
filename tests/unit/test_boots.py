"""When a boot is proven, what is remembered of it, and what is said of one that failed."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import CannotBoot, ProvisioningError
from harness.guest import boots, catalogue, fallback, xstate
from harness.guest.boots import Boot, cause, home_of, proven
from harness.guest.catalogue import Kernel
from harness.guest.fetch import provision

AMX = """\
userspace - ptrace set fp regs failed, errno = 14
Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b
CPU: 0 PID: 1 Comm: init Not tainted 6.12.113 #1
Stack:
 00000002 6088847b 7703fcd0 60704e02
 [<6002e745>] new_thread_handler+0xaa/0xb1
"""
WORKS = Boot(True, 1.5, True, boots.SAYS)
DIES = Boot(False, 0.9, True, AMX)
HANGS = Boot(False, 30.0, False, "Linux version 6\n")
ENDS = Boot(False, 0.2, True, "ptrace: Operation not permitted\ncheck_ptrace : expected SIGSTOP\n")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dmsnap"


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "linux").write_bytes(b"a program")
    return Kernel("uml-6", tmp_path / "linux", tmp_path)


@pytest.fixture
def object_of_ours(monkeypatch):
    """Curing without a compiler."""

    def cured(program, home, _progress):
        (home / "cured").mkdir(exist_ok=True)
        made = home / "cured/linux"
        made.write_bytes(program.read_bytes() + b", cured")
        return made

    monkeypatch.setattr(xstate, "cured", cured)
    monkeypatch.setattr(xstate, "is_current", lambda program: program.exists())


class Boots:
    """Gives one boot after another; remembers of which programs."""

    def __init__(self, *boots):
        self._boots = list(boots)
        self.programs = []

    def __call__(self, program):
        self.programs.append(program)
        return self._boots.pop(0)


NONE = Boots()
"""To be asked for a boot is a failure."""


def test_a_boot_is_shown_once(kernel, cache):
    first = proven(kernel, Boots(WORKS))
    assert (first.runs, first.cured, first.words()) == (
        str(kernel.program),
        False,
        "boots in 1.5 s",
    )
    assert proven(kernel, NONE) == first
    assert json.loads((cache / "boots/uml-6/proof.json").read_bytes())["host"] == boots.this_host()
    # Nothing but the question differs.
    assert proven(kernel, Boots(WORKS), fresh=True).runs == first.runs


@pytest.mark.parametrize("change", ["program", "host", "version", "rubbish", "gone"])
def test_what_was_shown_of_something_else_does_not_count(kernel, cache, monkeypatch, change):
    proven(kernel, Boots(WORKS))
    proof = cache / "boots/uml-6/proof.json"
    match change:
        case "program":
            kernel.program.write_bytes(b"another")
        case "host":
            monkeypatch.setattr(boots, "this_host", lambda: "a machine to which the cache moved")
        case "version":
            proof.write_text(proof.read_text().replace('"proof_version": 1', '"proof_version": 0'))
        case "rubbish":
            proof.write_text("{")
        case "gone":
            proof.unlink()
    again = Boots(WORKS)
    proven(kernel, again)
    assert len(again.programs) == 1
    proven(kernel, NONE)


def test_a_host_is_its_boot_its_processor_and_what_it_allows(monkeypatch):
    texts = {
        "/proc/sys/kernel/random/boot_id": "one\n",
        "/proc/self/status": "Seccomp:\t0\n",
        "/proc/cpuinfo": "model name\t: A\nflags\t: fpu\nmodel name\t: B\nflags\t: sse\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path: texts[str(path)])
    seen = {boots.this_host()}
    assert "one / A / " in boots.this_host()
    for path, text in [
        ("/proc/cpuinfo", "model name\t: A\nflags\t: fpu amx_tile\n"),
        ("/proc/self/status", "Seccomp:\t2\n"),
        ("/proc/sys/kernel/random/boot_id", "two\n"),
    ]:
        texts[path] = text
        assert boots.this_host() not in seen
        seen.add(boots.this_host())


@pytest.mark.usefixtures("object_of_ours")
def test_what_dies_of_it_is_cured_and_only_that(kernel, cache):
    lines: list[str] = []
    asked = Boots(DIES, WORKS)
    proof = proven(kernel, asked, progress=lines.append)
    assert asked.programs == [kernel.program, cache / "boots/uml-6/cured/linux"]
    assert (proof.cured, proof.runs) == (True, str(cache / "boots/uml-6/cured/linux"))
    assert "AMX" in proof.words()
    assert len(lines) == 2
    assert proven(kernel, NONE) == proof
    # Of a program that was changed behind our back nothing is known.
    Path(proof.runs).write_bytes(b"x")
    assert proven(kernel, Boots(DIES, WORKS)).cured
    # Nor of the cured copy of a program that was built anew.
    kernel.program.write_bytes(b"another")
    assert proven(kernel, Boots(DIES, WORKS)).program_sha256 == catalogue.sha256_of(kernel.program)
    assert Path(proof.runs).read_bytes() == b"another, cured"
    assert not proven(kernel, Boots(WORKS), fresh=True).cured


@pytest.mark.usefixtures("object_of_ours")
def test_a_cure_that_does_not_help_is_not_used(kernel, cache):
    with pytest.raises(
        CannotBoot,
        match=r"^uml-6 does not boot .*console says: ptrace: Operation "
        r"not permitted.*with ptrace-whole-xstate.so; without it: .*AMX",
    ):
        proven(kernel, Boots(DIES, ENDS, ENDS))
    assert not (cache / "boots/uml-6/proof.json").exists()


@pytest.mark.usefixtures("object_of_ours")
@pytest.mark.parametrize(("seen", "times"), [(ENDS, 2), (HANGS, 1)])
def test_a_boot_that_failed_is_told_and_not_remembered(kernel, cache, seen, times):
    asked = Boots(*[seen] * times)
    with pytest.raises(CannotBoot) as caught:
        proven(kernel, asked)
    assert len(asked.programs) == times
    assert "\n" not in str(caught.value)
    assert str(cache / "boots/uml-6/console.log") in str(caught.value)
    assert (cache / "boots/uml-6/console.log").read_text() == seen.console
    proven(kernel, Boots(WORKS))


def test_a_guest_that_died_for_no_reason_has_a_second_try(kernel):
    assert not proven(kernel, Boots(Boot(False, 1.0, True, ""), WORKS)).cured


def test_kernels_of_ones_own_have_a_place_each(tmp_path):
    places = {
        home_of(Kernel(str(tmp_path / name), tmp_path / name, tmp_path))
        for name in ("a/linux", "b/linux", "../a/linux")
    }
    assert len(places) == 3
    assert {place.parent for place in places} == {catalogue.cache_dir().parent / "boots"}


def test_a_static_program_cannot_be_cured_and_the_option_is_named(kernel):
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    kernel.program.write_bytes(
        (
            header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x60000000, 0x60000000, 4096, 4096, 4096)
        ).ljust(4096, b"\0")
    )
    with pytest.raises(CannotBoot, match=r"AMX.* linked statically.*CONFIG_STATIC_LINK"):
        proven(replace(kernel, name=str(kernel.program)), Boots(DIES))


def test_without_a_cache_it_is_shown_each_time(kernel, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert proven(kernel, Boots(WORKS)).runs == str(kernel.program)


@pytest.mark.parametrize(
    ("boot", "said"),
    [
        (DIES, xstate.CAUSE),
        (
            ENDS,
            (
                "it ended, and its console says: ptrace: Operation not permitted (allow ptrace: in "
                "the container's seccomp profile, or by kernel.yama.ptrace_scope)"
            ),
        ),
        (HANGS, "it did not come up within 30 s, and its console says: Linux version 6"),
        (
            Boot(
                False,
                1,
                True,
                "mmapper_init - find_iomem failed\nmount: error while loading: Error 24\n"
                "init: later\nKernel panic - not syncing: no init\n",
            ),
            "it ended, and its console says: mount: error while loading: Error 24",
        ),
        (
            Boot(
                False,
                1,
                True,
                "one\nKernel panic - not syncing: x\nCall Trace:\n [<60>] panic+0x1\n",
            ),
            "it ended, and its console says: Kernel panic - not syncing: x",
        ),
        (
            Boot(False, 1, True, "", 128 + 25),
            (
                "it was killed by SIGXFSZ (files cannot be as large as its memory here, see ulimit "
                "-f), without any output"
            ),
        ),
        (Boot(False, 1, True, "", 1), "it ended, without any output"),
        (Boot(False, 30, False, ""), "it did not come up within 30 s, without any output"),
        (Boot(False, 1, True, "x" * 5000), f"it ended, and its console says: {'x' * 200}"),
    ],
)
def test_a_failure_in_one_line(boot, said):
    assert cause(boot) == said


# -- which kernel is taken --------------------------------------------------------------------


class Machine:
    """Where some kernels are cached, some can be fetched, and some boot."""

    def __init__(self, monkeypatch, *, cached, boot, fetchable=True, qemu=True):
        self.tried = []
        self._boot, self._cached, self._fetchable = boot, cached, fetchable
        monkeypatch.setattr(catalogue, "installed", lambda: [self.kernel(name) for name in cached])
        monkeypatch.setattr(provision, "fetch", self.fetch)
        monkeypatch.setattr(fallback, "prove", self.prove)
        monkeypatch.setattr("harness.guest.qemu.installed", lambda: qemu)

    def kernel(self, name):
        return Kernel(name, Path(name), Path(name))

    def fetch(self, name, **_rest):
        if name not in self._cached and not self._fetchable:
            raise ProvisioningError(f"{name}: no network")
        return self.kernel(name)

    def prove(self, kernel, **_rest):
        self.tried.append(kernel.name)
        if kernel.name not in self._boot:
            raise CannotBoot(f"{kernel.name} does not boot on this machine: {xstate.CAUSE}")
        return "boots"


def test_the_default_where_it_boots(monkeypatch):
    machine = Machine(monkeypatch, cached=["uml-6.12"], boot=["uml-6.12"])
    assert fallback.best() == machine.kernel("uml-6.12")
    assert machine.tried == ["uml-6.12"]


@pytest.mark.parametrize(
    ("cached", "boot", "qemu", "tried"),
    [
        ([], ["uml-6.1"], True, ["uml-6.12", "uml-6.1"]),
        (["uml-7.2"], ["uml-7.2"], True, ["uml-6.12", "uml-7.2"]),
        (["deb-6.1"], ["uml-7.2"], True, ["uml-6.12", "uml-6.1", "uml-7.2"]),
        ([], ["deb-6.1", "deb-6.12"], True, ["uml-6.12", "uml-6.1", "uml-7.2", "deb-6.12"]),
        (["deb-6.1"], ["deb-6.1"], True, ["uml-6.12", "uml-6.1", "uml-7.2", "deb-6.1"]),
    ],
)
def test_the_best_that_boots_takes_its_place(monkeypatch, cached, boot, qemu, tried):
    machine = Machine(monkeypatch, cached=["uml-6.12", *cached], boot=boot, qemu=qemu)
    lines: list[str] = []
    kernel = fallback.best(lines.append)
    assert machine.tried == tried
    assert kernel.name == tried[-1]
    assert kernel.instead == (
        f"in place of uml-6.12: uml-6.12 does not boot on this machine: {xstate.CAUSE}"
    )
    assert lines[0] == f"uml-6.12 does not boot on this machine: {xstate.CAUSE}"
    assert lines[-1] == f"{tried[-1]} is used in place of uml-6.12"


def test_where_none_boots_all_is_told(monkeypatch):
    machine = Machine(
        monkeypatch, cached=["uml-6.12", "uml-6.1"], boot=[], fetchable=False, qemu=False
    )
    with pytest.raises(
        CannotBoot,
        match=r"no kernel boots on this machine\. uml-6.12 does not .*"
        r"uml-6.1 does not boot.*uml-7.2: no network",
    ):
        fallback.best()
    assert machine.tried == ["uml-6.12", "uml-6.1"]


def test_no_other_is_taken_because_the_default_cannot_be_fetched(monkeypatch):
    Machine(monkeypatch, cached=["uml-6.1"], boot=["uml-6.1"], fetchable=False)
    with pytest.raises(ProvisioningError, match=r"uml-6\.12: no network"):
        fallback.best()
