"""What the tests that boot kernels share.

A test that takes ``kernel_name`` is run once for each kernel of ``--kernel``, and on the default
one where none is given: which others happen to be cached on this machine changes nothing.
"""

from harness.guest import catalogue


def pytest_generate_tests(metafunc):
    if "kernel_name" in metafunc.fixturenames:
        metafunc.parametrize("kernel_name", list(dict.fromkeys(
            metafunc.config.getoption("--kernel"))) or [catalogue.default()])
