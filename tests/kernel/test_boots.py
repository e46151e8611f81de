"""Guests on a host with AMX, played; and that this machine boots guests at all.

`amx_host.c` stands in the place of the system call, below everything that dmsnap puts in front of
it: a kernel's program with it sees ptrace(2) as on such a host, and dies there.  What cures it is
what cures it on a real one, down to the object, which whatever compiler is here, or is fetched,
has made.
"""

import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.errors import CannotBoot
from harness.guest import boots, fallback, programs, xstate
from harness.guest.boots import Boot, Proof
from harness.guest.catalogue import Kernel
from harness.guest.fetch import apt
from harness.guest.host_root import passing_dir
from harness.guest.uml import UmlGuest
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose

HOST = Path(__file__).with_name("amx_host.c")
BEFORE_6_13 = ("uml-6.12", "uml-6.1")
SCENARIOS = (
    "bring_up",
    "every_status_line",
    "blocks_of_4096_io",
    "overflow_in_flight",
    "merge_overflows_another",
    "image_is_written",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the kernels are fetched before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dmsnap"


@pytest.fixture(params=BEFORE_6_13)
def played(request, bootable, tmp_path):
    """A kernel as it finds itself on a host with AMX."""
    kernel = bootable(request.param)
    host = xstate.compiled(HOST, tmp_path / "amx_host.so", print)
    program = tmp_path / "linux"
    shutil.copy(kernel.program, program)
    status, said = programs.run(
        [apt.patchelf_program(), "--add-needed", str(host), str(program)], limit_s=60
    )
    assert not status, said
    return Kernel(kernel.name, program, kernel.modules, kernel.record)


@pytest.fixture
def plain(kernel_name, bootable):
    return bootable(kernel_name)


def boot(program: Path, kernel: Kernel) -> Boot:
    guest = UmlGuest(
        Kernel(kernel.name, program, kernel.modules), python=Path(sys.executable), argv=boots.ARGV
    )
    with passing_dir() as results:
        return boots.watch(guest.boot(results), boots.SAYS, boots.LIMIT_S)


def test_a_kernel_boots_here() -> None:
    """Tests that need one that does not are skipped; that must not be all of them."""
    try:
        kernel = fallback.best(print)
    except CannotBoot as fault:
        pytest.fail(str(fault))
    assert fallback.prove(kernel, fresh=True).startswith("boots in ")


def test_without_the_cure_it_dies_as_told(played: Kernel) -> None:
    seen = boot(played.program, played)
    assert not seen.works
    assert "userspace - ptrace set fp regs failed, errno = 14" in seen.console
    assert "Attempted to kill init! exitcode=0x0000000b" in seen.console
    assert boots.cause(seen) == xstate.CAUSE


def test_it_is_cured_once_and_compares_the_same(
    played: Kernel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    launcher = UmlGuest(played, python=Path(sys.executable))
    assert xstate.CAUSE in launcher.prove(progress=told.append)
    assert told[-1] == f"{played.name} boots with {xstate.OBJECT}"
    proof = msgspec.json.decode(
        (cache / "boots" / played.name / "proof.json").read_bytes(), type=Proof
    )
    assert proof.cured
    assert not boot(played.program, played).works
    # From here on nothing is proven, nor compiled: it is known.
    monkeypatch.setattr(boots, "_prove", None)
    traces = tuple(scenario.trace(1) for scenario in choose(SCENARIOS))
    report = execute(
        Plan(traces=traces, kernels=(played,), directory=tmp_path / "guests"), Reporters([])
    )
    assert {result.verdict for result in report.results} == {"same"}
    assert len(report.results) == len(traces)


def test_where_it_boots_as_it_is_it_stays_as_it_is(plain: Kernel, cache: Path) -> None:
    if not boot(plain.program, plain).works:
        pytest.skip(f"this host is one where {plain.name} has to be cured")
    UmlGuest(plain, python=Path(sys.executable)).prove()
    assert not list(cache.glob("boots/*/cured"))
    assert not (cache / "whole-xstate").exists()


def test_a_kernel_of_ones_own_is_cured_on_a_copy(played: Kernel, cache: Path) -> None:
    own = Kernel(str(played.program), played.program, played.modules)
    before = played.program.read_bytes()
    launcher = UmlGuest(own, python=Path(sys.executable))
    launcher.prove()
    assert played.program.read_bytes() == before
    [cured] = cache.glob("boots/own-*/cured/linux")
    assert launcher.command(Path("/tmp"))[0] == str(cured)
    # Built anew, it is proven anew, and takes the place of the one before.
    played.program.write_bytes(before + b"\0")
    again = UmlGuest(own, python=Path(sys.executable))
    again.prove()
    assert list(cache.glob("boots/own-*/cured/linux")) == [cured]
    assert cured.stat().st_size > 0
