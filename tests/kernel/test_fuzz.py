"""Finds on a real kernel: made shorter for one reason, and shown by a script of their own."""

import re
import select
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.fuzz import bundle
from harness.fuzz.find import investigate
from harness.fuzz.shrink import shrink
from harness.fuzz.sides import OnKernel, OnTwin, signatures, sound
from harness.fuzz.signature import signature_of
from harness.guest import catalogue
from harness.guest.fetch import provision
from harness.guest.process import CONSOLE_NAME
from harness.guest.uml import UmlGuest
from harness.scenarios.registry import choose
from harness.trace.files import Header, Trace
from harness.trace.steps import (
    Create,
    Disk,
    Examine,
    Flush,
    Load,
    Read,
    Resume,
    Suspend,
    TargetLine,
    Write,
)
from harness.twin.profile import named
from tests.kernel import test_planted_bugs as planted

GUEST = Path(__file__).with_name("defect_guest.py")
RUN_LIMIT_S = 120.0
TWO_KERNELS = ("uml-6.12", "uml-7.2")


def scenario(*names):
    """Scenarios one after another would share names; so it is one, with its own."""
    return choose(names)[0].trace(1)


@contextmanager
def bugs(*plants):
    with pytest.MonkeyPatch.context() as patch:
        for plant in plants:
            plant(patch)
        yield


@pytest.mark.parametrize(
    ("name", "bug", "other"),
    [
        ("overflow_by_origin[N]", planted.log_misspelt, planted.partial_chunk_not_copied),
        ("write_part_of_chunk[P-8]", planted.partial_chunk_not_copied, planted.log_misspelt),
    ],
)
def test_each_of_two_bugs_is_reduced_to_itself(name, bug, other):
    profile = named("6.12")
    both = OnTwin(profile, lambda: bugs(bug, other))
    found = shrink(scenario(name), signatures(both), sound=sound(profile), confirmations=1)

    assert len(found.trace.steps) <= 8
    [alone] = OnTwin(profile, lambda: bugs(bug))([found.trace])
    assert signature_of(alone) == found.signature
    [without] = OnTwin(profile, lambda: bugs(other))([found.trace])
    assert signature_of(without) is None


LONG = Trace(
    Header(scenario="long", seed=1),
    (
        Disk(name="base", sectors=8, fill="stamp"),
        Disk(name="cow", sectors=24),
        Disk(name="other", sectors=8),
        Flush(device="other"),
        Create(name="snap"),
        Load(name="snap", table=(TargetLine(0, 8, "snapshot", "{base} {cow} P 8"),)),
        Resume(name="snap"),
        Read(device="snap", sector=0, sectors=2),
        Write(device="snap", sector=0, sectors=1),
        Flush(device="snap"),
        Read(device="snap", sector=0, sectors=2),
        Suspend(name="snap"),
        Resume(name="snap"),
        Examine(),
    ),
)
"""Its numbers are small, so that a kernel need not be asked for long."""


def test_a_find_on_a_kernel_becomes_eight_steps_or_fewer(tmp_path, monkeypatch):
    kernel = provision.fetch(catalogue.default())
    side = OnKernel(kernel, directory=tmp_path)
    assert signature_of(side([LONG])[0]) is None, "it is the planted bug that is found"

    planted.partial_chunk_not_copied(monkeypatch)
    found = shrink(LONG, signatures(side), sound=sound(named("6.12")), confirmations=2)

    assert found.complete
    assert len(found.trace.steps) <= 8
    assert (found.shown, found.asked) == (2, 2)
    monkeypatch.undo()
    assert signature_of(side([found.trace])[0]) is None


def run_alone(kernel, script, results):
    """A script in a guest of its own: what it printed."""
    results.mkdir()
    file = results / "reproduce.sh"
    file.write_bytes(script)
    guest = UmlGuest(
        kernel, python=Path(sys.executable), memory_mib=512, argv=[str(GUEST), str(file)]
    ).start(results)
    try:
        ended = select.select([guest], [], [], RUN_LIMIT_S)[0]
    finally:
        guest.end()
    console = (results / CONSOLE_NAME).read_text(errors="replace").replace("\r", "")
    assert ended, console
    return console


@pytest.mark.parametrize("name", ["origin_not_resumed[P]"])
def test_the_script_of_a_bundle_shows_it_without_dmsnap(name, tmp_path):
    kernels = [provision.fetch(each) for each in TWO_KERNELS]
    find = investigate(scenario(name), kernels, tmp_path / "guests", times=2)
    assert [(one.shown, one.asked) for one in find.kernels] == [(2, 2), (2, 2)]
    script = bundle.contents(find)["reproduce.sh"]
    assert b"harness" not in script
    assert b"python" not in script.lower()
    for kernel in kernels:
        console = run_alone(kernel, script, tmp_path / kernel.name)
        assert "\nDEFECT SHOWN: " in console, console
        assert re.search(r"^exit status: 0$", console, re.MULTILINE), console


def test_the_script_shows_nothing_where_nothing_is_wrong(tmp_path, monkeypatch):
    """The bug is planted in the twin, so the kernel does what is expected of it."""
    kernel = provision.fetch(catalogue.default())
    planted.log_misspelt(monkeypatch)
    find = investigate(scenario("overflow_by_origin[N]"), [kernel], tmp_path / "guests", times=1)
    script = bundle.contents(find)["reproduce.sh"]
    console = run_alone(kernel, script, tmp_path / "as-found")
    # The kernel says what the kernel of the find said.
    assert "\nDEFECT SHOWN: " in console, console
    # With both sides exchanged, it says what is expected.
    turned = (
        script.replace(b"Unable", b"\0").replace(b"Cannot", b"Unable").replace(b"\0", b"Cannot")
    )
    console = run_alone(kernel, turned, tmp_path / "turned")
    assert re.search(r"^not shown: ", console, re.MULTILINE), console
    assert re.search(r"^exit status: 1$", console, re.MULTILINE), console
