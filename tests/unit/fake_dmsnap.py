"""The command dmsnap, with programs in place of kernels: run by test_streams.py.

``python fake_dmsnap.py ARGUMENT…``; a scenario that is asked for by its name is called as the
environment variable FAKE_NAMES says, one after another.
"""

import os
import sys
from pathlib import Path

import msgspec

import harness
from harness.campaign import observe
from harness.cli import main
from harness.cli import run as run_command
from harness.cli import traces as replay_command
from harness.guest.catalogue import Kernel
from harness.guest.process import KeptProcess
from harness.guest.supervise import Supervisor
from harness.scenarios import registry

SEEING_GUEST = Path(__file__).with_name("seeing_guest.py")


class Programs:
    slowness = 1.0

    def check(self, guests, results):
        """Nothing is needed."""

    def start(self, results):
        env = {"PATH": os.defpath, "PYTHONPATH": str(Path(harness.__file__).parents[1])}
        return KeptProcess([sys.executable, "-P", SEEING_GUEST, results], results=results, env=env)


class Named:
    """A scenario by another name."""

    def __init__(self, name):
        self._name = name

    def trace(self, seed=1):
        trace = choose(["bring_up[N]"])[0].trace(seed)
        return msgspec.structs.replace(
            trace, header=msgspec.structs.replace(trace.header, scenario=self._name)
        )


def with_programs(supervisor):
    return lambda *args, **options: supervisor(*args, **{**options, "launcher": Programs()})


choose = registry.choose
if "FAKE_NAMES" in os.environ:
    named = [Named(name) for name in os.environ["FAKE_NAMES"].split()]
    setattr(registry, "choose", lambda _patterns: named)  # noqa: B010 - another type than it has
fake = (Kernel("fake", SEEING_GUEST, SEEING_GUEST.parent),)
setattr(observe, "Supervisor", with_programs(Supervisor))  # noqa: B010
for module in (run_command, replay_command):
    setattr(module, "chosen_kernels", lambda *_args, **_options: fake)  # noqa: B010
main.main()
