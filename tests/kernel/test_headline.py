"""Copy jobs in flight, counted in a real kernel and in the twin, with a limit and without."""

from harness.guest.fetch import provision
from harness.measure import headline


def test_the_limit_bounds_the_jobs_and_without_it_they_pile_up(kernel_name, tmp_path):
    _, rows = headline.measure(provision.fetch(kernel_name), tmp_path)
    limited, unlimited = rows
    print("\n".join(headline.table(kernel_name, "", rows)))
    assert limited.threshold == headline.LIMIT
    assert limited.bound == headline.SNAPSHOTS * (headline.LIMIT + 1)
    for row in rows:
        assert row.differs is None
        assert row.kept, row
        assert row.slab_bytes >= row.kernel.jobs * row.job_bytes
    for side in (unlimited.kernel, unlimited.twin):
        # Not only a little: nearly every chunk of every snapshot at once.
        assert side.jobs > 3 * limited.bound
    # The limit is used up, on both sides: it is what holds the jobs back.
    assert limited.twin.jobs == limited.bound
    assert limited.kernel.jobs > 0.9 * limited.bound
