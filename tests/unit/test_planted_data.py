"""The bugs that `make planted` plants: each can be planted, changes what runs, and goes again."""

import importlib

import pytest

from tests.hunt.planted import Pool, bugs, measure, planted

BUGS = bugs()


def test_there_are_enough_of_them_and_no_two_alike():
    assert len(BUGS) >= 40
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert len({(bug.where, bug.before, bug.after) for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_there_and_goes_again(bug):
    module, *path = bug.where.split(".")

    def function():
        found = importlib.import_module(f"harness.twin.{module}")
        for part in path:
            found = getattr(found, part)
        return found

    before = function()
    with planted(bug):
        assert function() is not before
        assert function().__code__.co_code != before.__code__.co_code or (
            function().__code__.co_consts != before.__code__.co_consts
            or function().__code__.co_names != before.__code__.co_names
            or function().__code__.co_varnames != before.__code__.co_varnames
        )
    assert function() is before


def test_one_of_them_is_found_and_made_short():
    [bug] = [bug for bug in BUGS if bug.name == "header-version-0"]
    found = measure(bug, Pool(1), 60)
    assert found.signature is not None
    # Content of a header takes three disks and a snapshot of a snapshot's COW device: nine steps.
    assert 0 < found.left <= 9
