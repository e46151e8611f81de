"""Coverage: what the kernel counts, what becomes of it, and the page that is made of it."""

import dataclasses
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import ProvisioningError
from harness.guest import catalogue
from harness.guest.build import headers, noinline
from harness.guest.catalogue import Kernel
from harness.kernel.agent import counted
from harness.kernel.function_counts import FILE, LOADING, UNLOADING, Coverage, Reached, read
from harness.measure.coverage import Counted, Function, dump, load, summary, unreached
from harness.measure.traceability import DATA, NAMES, PAGE, SEED, page, resolve

# -- in the guest -----------------------------------------------------------------------------


@pytest.fixture
def tracing(tmp_path):
    """As much of tracefs as is used."""
    tracing = tmp_path / "tracing"
    (tracing / "events/dmsnap").mkdir(parents=True)
    for name in ("kprobe_events", "kprobe_profile", "tracing_on", "events/dmsnap/enable"):
        (tracing / name).touch()
    return tracing


def profile(tracing, **hits):
    (tracing / "kprobe_profile").write_text(
        "".join(f"  {name:<44} {count:>15} {0:>15}\n" for name, count in hits.items())
    )


def test_probes_are_set_and_hits_are_told_by_scenario(tracing, tmp_path):
    guest = tmp_path / "guest-0001"
    guest.mkdir()
    coverage = Coverage(["snapshot_map", "start_copy"], guest, tracing)
    assert (tracing / "kprobe_events").read_text() == (
        "p:dmsnap/snapshot_map dm_snapshot:snapshot_map\n"
        "p:dmsnap/start_copy dm_snapshot:start_copy\n"
    )
    assert (tracing / "events/dmsnap/enable").read_text() == "1"
    profile(tracing, snapshot_map=2, start_copy=0)
    coverage.note("one")
    profile(tracing, snapshot_map=5, start_copy=1)
    coverage.note("two")
    coverage.note("three")
    assert read(tmp_path) == [
        Reached("one", {"snapshot_map": 2}),
        Reached("two", {"snapshot_map": 3, "start_copy": 1}),
        Reached("three", {}),
    ]
    coverage.close()
    assert (tracing / "events/dmsnap/enable").read_text() == "0"


def test_a_kernel_without_probes_is_named(tmp_path):
    with pytest.raises(ProvisioningError, match="CONFIG_KPROBE_EVENTS"):
        Coverage(["snapshot_map"], tmp_path, tmp_path / "nothing")


def test_without_functions_nothing_is_counted(tmp_path):
    with counted((), tmp_path) as note:
        note("scenario")
    assert not (tmp_path / FILE).exists()


# -- on the host ------------------------------------------------------------------------------


def test_a_summary_names_the_scenarios_that_reach_little_else():
    found = summary(
        ["a", "b", "c", "d"],
        [
            Reached(LOADING, {"c": 1}),
            Reached("wide", {"a": 1, "b": 9}),
            Reached("narrow[1]", {"a": 1}),
            Reached("narrow[2]", {"a": 4}),
            Reached("narrow[2]", {"a": 4}),
            Reached(UNLOADING, {"b": 1}),
        ],
    )
    assert found == {
        "a": Function(3, ("narrow", "wide")),
        "b": Function(1, ("wide",), unloading=True),
        "c": Function(0, loading=True),
        "d": Function(0),
    }
    recorded = Counted("k", "6.1", "1", 3, found)
    assert unreached(recorded, {}) == ["d"]
    assert unreached(recorded, {"d": "known"}) == []


def test_data_survives_being_written(tmp_path):
    recorded = Counted("k", "6.1", "1", 3, {"a": Function(1, ("x",))})
    (tmp_path / "data").write_bytes(dump(recorded))
    assert load(tmp_path / "data") == recorded


@pytest.mark.parametrize("guest", ["uml", "qemu"])
def test_only_kernels_with_known_source_are_built(tmp_path, guest):
    with pytest.raises(ProvisioningError, match=r"--kernel deb-6\.1"):
        noinline.build(Kernel("own", tmp_path, tmp_path, guest=guest), print)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ('CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"\n', "gcc-12"),
        ('CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-14 (Debian 14.2.0) 14.2.0"\n', "gcc-14"),
        ('CONFIG_CC_VERSION_TEXT="cc"\nCONFIG_GCC_VERSION=100201\n', "gcc-10"),
    ],
)
def test_the_compiler_is_the_kernels(tmp_path, monkeypatch, config, name):
    (tmp_path / ".config").write_text(config)
    asked = []
    monkeypatch.setattr(headers, "require", lambda *words: asked.append(words))
    assert headers._compiler(tmp_path) == name
    assert re.search(rf"apt-get install -y {name} make", asked[0][1])


# -- the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return load(DATA)


def test_the_page_is_made_of_the_data(recorded):
    assert PAGE.read_text() == page(recorded), (
        "python -m harness.measure.traceability > docs/TRACEABILITY.md"
    )


def test_each_function_of_the_seed_is_there_once():
    assert len(set(NAMES)) == len(SEED) == 88


@pytest.mark.parametrize("symbol", sorted({symbol for each in SEED for symbol in each.twin}))
def test_what_stands_for_a_function_exists(symbol):
    assert resolve(symbol) is not None


def test_nothing_stands_for_a_function_only_for_a_reason():
    assert [each.name for each in SEED if not (each.twin or each.note)] == []


def test_each_function_is_reached_or_known_not_to_be(recorded):
    assert unreached(recorded, {each.name: each.note for each in SEED if each.note}) == []
    absent = set(NAMES) - set(recorded.functions)
    assert {each.name for each in SEED if each.note} >= absent


def test_recorded_scenarios_are_in_the_catalogue(recorded):
    from harness.scenarios.registry import catalogue as scenarios

    known = {name.partition("[")[0] for name in scenarios()}
    assert {name for each in recorded.functions.values() for name in each.named} <= known


def test_the_default_kernel_of_coverage_is_in_the_catalogue():
    assert catalogue.entry_of("deb-6.1").guest == catalogue.QEMU
    assert dataclasses.is_dataclass(SEED[0])
    assert json.loads(DATA.read_text())["kernel"] == "deb-6.1"
    assert Path(PAGE).name == "TRACEABILITY.md"


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ((), "nm is missing"),
        (("nm",), "make is missing"),
        (("nm", "make"), "no compiler on this machine"),
        (("nm", "make", "gcc-12"), "1024 MiB"),
        (("nm", "make", "gcc"), "1024 MiB"),
    ],
)
def test_what_a_build_needs_is_asked_for_first(tmp_path, monkeypatch, there, says):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        noinline, "require", lambda name, cure: (tmp_path / name).exists() or (lacking(name, cure))
    )
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=1))
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(ProvisioningError, match=says):
        noinline.check(catalogue.entry_of("deb-6.1"))
    with pytest.raises(ProvisioningError, match="that runs in QEMU"):
        noinline.check(catalogue.entry_of("uml-6.1"))


def lacking(name, cure):
    raise ProvisioningError(f"{name} is missing on this machine; type: {cure}")
