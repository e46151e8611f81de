"""The measurement of copies in flight: what it reads, what it counts, what it says."""

import dataclasses

import pytest

from harness.errors import ProvisioningError
from harness.kernel.gauge import read_slab
from harness.measure import headline
from harness.twin.profile import named
from harness.wire.gauged import Slab

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables …
kcopyd_job_other      1      1   3168   10    8 : tunables 0 0 0 : slabdata      1      1      0
kcopyd_job        16454  16460   3168   10    8 : tunables 0 0 0 : slabdata   1646   1646      0
"""
SMALL = {"snapshots": 3, "sectors": 320}


def test_the_line_of_the_cache_is_read() -> None:
    assert read_slab(SLABINFO, 4096) == Slab(jobs=16454, job_bytes=3168, slab_bytes=1646 * 8 * 4096)


def test_a_merged_cache_is_told_with_its_cure() -> None:
    with pytest.raises(ProvisioningError, match="slab_nomerge"):
        read_slab("slabinfo - version: 2.1\n", 4096)


@pytest.mark.parametrize(
    ("profile", "threshold", "jobs"),
    [
        ("6.12", 10, 3 * 11),
        ("6.12", headline.NO_LIMIT, 3 * 40),
        ("6.12", 0, 3),
        ("seed", 10, 3 * 10),
        ("seed", 0, 3 * 40),
    ],
)
def test_the_twin_counts_jobs_of_all_snapshots(profile: str, threshold: int, jobs: int) -> None:
    seen, side = headline.simulate(headline.scenario(threshold, **SMALL), named(profile))
    assert side.jobs == jobs
    assert not any(observation.error for observation in seen)


def test_a_limit_takes_time() -> None:
    sides = [
        headline.simulate(headline.scenario(threshold, **SMALL), named("6.12"))[1]
        for threshold in (10, headline.NO_LIMIT)
    ]
    assert [side.seconds for side in sides] == [
        4 * headline.DELAY_MS / 1000,
        headline.DELAY_MS / 1000,
    ]


def test_bounds() -> None:
    today, seed = named("6.12"), named("seed")
    assert headline.bound(2048, today) == 8 * 2049
    assert headline.bound(2048, seed) == 8 * 2048
    assert headline.bound(headline.NO_LIMIT, today) == headline.bound(0, seed) == 65536


def test_the_table_shows_what_is_wrong() -> None:
    side = headline.Peak(16392, 8.0)
    row = headline.Measured(2048, 16392, headline.DELAY_MS, side, side, 3168, 1 << 20, None)
    assert row.kept
    assert "| 2,048 | 16,392 | 16,392 jobs of 3,168 bytes, 1 MiB, 8.0 s |" in "\n".join(
        headline.table("uml", "6.12", [row])
    )
    assert not dataclasses.replace(row, twin=headline.Peak(16393, 8.0)).kept
    assert not dataclasses.replace(row, kernel=headline.Peak(16403, 8.0)).kept
    different = dataclasses.replace(row, differs="step 30")
    assert headline.table("uml", "6.12", [different])[-1] == "\nstep 30"
