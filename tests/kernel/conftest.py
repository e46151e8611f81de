"""What the tests that boot kernels share.

A test that takes ``kernel_name`` is run once for each kernel of ``--kernel``, and on the default
one where none is given: which others happen to be cached on this machine changes nothing.

A test that needs a kernel that does not boot on this machine is skipped, with the cause.  That
some kernel does is a test of its own (test_boots.py).
"""

import pytest

from harness.errors import CannotBoot
from harness.guest import catalogue, fallback
from harness.guest.fetch import provision


def pytest_generate_tests(metafunc):
    if "kernel_name" in metafunc.fixturenames:
        metafunc.parametrize(
            "kernel_name",
            list(dict.fromkeys(metafunc.config.getoption("--dmsnap-kernel")))
            or [catalogue.default()],
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    try:
        return (yield)
    except CannotBoot as fault:
        pytest.skip(str(fault))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except CannotBoot as fault:
        if "played" in item.fixturenames:
            raise  # that a kernel boots on the host that is played is what these tests are of
        pytest.skip(str(fault))


@pytest.fixture(scope="session")
def bootable():
    """A kernel of the catalogue that was fetched and boots here."""

    def get(name):
        kernel = provision.fetch(name)
        fallback.prove(kernel)
        return kernel

    return get
