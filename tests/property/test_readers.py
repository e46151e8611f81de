"""A few thousand mutated files through their readers; `make attack-readers` takes a million."""

from tests.hunt.readers import attack


def test_no_mutated_file_is_more_than_refused() -> None:
    ends = attack(3000, seed=7)
    assert ends.total() == 3000
    # Both happen, or nothing was tried.
    assert min(ends["refused"], ends["read"]) > 300
