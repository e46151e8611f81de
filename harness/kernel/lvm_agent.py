"""An agent that lets LVM2 do the work: ``python -m harness.kernel.lvm_agent RESULTS_DIR``.

A situation is a list of actions: command lines of the real ``lvm``, and ordinary steps (our own
I/O).  Each is observed like a step: status and table lines, events, uevents, log lines, and after a
command every byte of the disk.  What LVM asked device-mapper to do is in its debug log, which is
kept for the host next to the journal (`harness.lvm.log` reads it).

LVM gets a configuration of its own on a tmpfs: it sees one physical volume, ``/dev/mapper/pv``,
talks to no daemon and no udev, and logs while devices are suspended too (``log/activation``),
which could deadlock only if the log lay on one of them.

A disk is a file in the results directory, so after a power cut in the middle of a merge the next
guest gets what had reached the disk, and nothing else: the page cache of this one is gone.

Deliberately left out: dmeventd and lvmpolld, which act at their own times.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, cast

import msgspec

from harness.errors import BadScenario, DmsnapError, ProvisioningError
from harness.kernel import agent, machine
from harness.kernel.backend import KernelBackend
from harness.kernel.disks.disks import file_of
from harness.kernel.drivers.ioctl import IoctlDriver
from harness.kernel.rest import left_to_merge
from harness.kernel.session import JournalLost, Runner
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep
from harness.wire.job import JobScenario
from harness.wire.journal import Done, JournalWriter
from harness.wire.lvm import DISKS, PV, Action, Boot, Lvm, LvmJob, PowerCut, log_name

UUID_PREFIX: Final = "LVM-"
"""What the UUIDs of LVM's own devices start with (lib/activate/dev_manager.c)."""
COMMAND_LIMIT_S: Final = 100.0
_SYSTEM: Final = Path("/dev/shm/dmsnap-lvm")  # noqa: S108 - the guest's own tmpfs
_POLL_S: Final = 0.005
_CUT_LIMIT_S: Final = 60.0
_CONFIGURATION: Final = """\
devices {{
    dir = "/dev"
    scan = [ "/dev" ]
    filter = [ "a|^/dev/mapper/{pv}$|", "r|.*|" ]
    global_filter = [ "a|^/dev/mapper/{pv}$|", "r|.*|" ]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
    multipath_component_detection = 0
    md_component_detection = 0
    hints = "none"
}}
activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}
global {{
    use_lvmpolld = 0
    use_lvmlockd = 0
    event_activation = 0
    notify_dbus = 0
    locking_dir = "{system}"
    etc = "{system}"
}}
backup {{ backup = 0 archive = 0 }}
log {{
    file = "{log}"
    level = 7
    overwrite = 1
    activation = 1
    debug_file_fields = [ "message" ]
    syslog = 0
}}
"""
_LOG: Final = _SYSTEM / "log"


class LvmBackend:
    """A backend that also runs LVM commands.

    Attributes:
        cut: whether the power is to be cut.
    """

    def __init__(self, backend: KernelBackend, results: Path) -> None:
        self._backend = backend
        self._results = results
        self._driver = IoctlDriver()
        self.cut = False
        self.situation = ""

    def begin(self, seed: int) -> None:
        """See `harness.trace.backend.Backend`."""
        self._backend.begin(seed)

    def end(self) -> list[str]:
        """See `harness.trace.backend.Backend`; after a power cut nothing is cleaned up."""
        return [] if self.cut else self._backend.end()

    def execute(self, index: int, step: Action) -> Observation:
        """Do one action."""
        match step:
            case Lvm(words=words):
                return self._backend.watch(
                    index, " ".join(words), lambda: self._run(index, words), UUID_PREFIX
                )
            case PowerCut(words=words, device=device):
                self._run(index, words)
                self.cut = True
                return Observation(step=index, text=self._middle_of_merge(device))
            case _:
                return self._backend.execute(index, step)

    def _run(self, index: int, words: tuple[str, ...]) -> None:
        """One command; its log and output go to the results.

        Raises:
            BadScenario: it failed.
        """
        try:
            done = subprocess.run(
                ["lvm", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_LIMIT_S,
                env={
                    **os.environ,
                    "LVM_SYSTEM_DIR": str(_SYSTEM),
                    "LC_ALL": "C",
                    "LVM_SUPPRESS_FD_WARNINGS": "1",
                },
            )
        except subprocess.TimeoutExpired:
            raise BadScenario(
                f"lvm {' '.join(words)}: no end within {COMMAND_LIMIT_S:.0f} s"
            ) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                log = self._results / log_name(self.situation, index)
                shutil.copyfile(_LOG, log)
                _LOG.unlink()
        agent.say(f"lvm {' '.join(words)}: {done.returncode} {done.stdout} {done.stderr}")
        if done.returncode:
            raise BadScenario(
                f"lvm {' '.join(words)}: exit status {done.returncode}: "
                f"{' '.join(done.stderr.split())}"
            )

    def _middle_of_merge(self, device: str) -> str:
        """Wait until half of it is merged; returns the status line.

        Raises:
            BadScenario: the merge was over too early, or did not get that far.
        """
        status = self._driver.status(device)
        first = to_merge(status)
        deadline = time.monotonic() + _CUT_LIMIT_S
        while to_merge(status) > first // 2:
            if time.monotonic() > deadline:
                raise BadScenario(f"{device} does not merge: {status}")
            time.sleep(_POLL_S)  # nothing signals the progress of a merge
            status = self._driver.status(device)
        if not to_merge(status):
            raise BadScenario(f"{device} had nothing left to merge too early: {status}")
        return status


def to_merge(status: str) -> int:
    """Sectors that remain to be merged, from the status line of a merge.

    Raises:
        BadScenario: it is not such a line.
    """
    left = left_to_merge(status)
    if left is None:
        raise BadScenario(f"not the status of a running merge: {status}")
    return left


def configure() -> None:
    """Give LVM its own configuration directory."""
    _SYSTEM.mkdir()
    (_SYSTEM / "lvm.conf").write_text(_CONFIGURATION.format(pv=PV, system=_SYSTEM, log=_LOG))


def serve(directory: Path) -> None:
    """Do the job in ``directory``."""
    try:
        job = msgspec.json.decode((directory / agent.JOB).read_bytes(), type=LvmJob)
    except (OSError, msgspec.MsgspecError) as fault:
        raise ProvisioningError(
            f"{directory / agent.JOB}: {fault}; host and guest must run the same version of dmsnap"
        ) from None
    files = directory / DISKS
    files.mkdir()
    with contextlib.ExitStack() as stack:
        kernel, ready = stack.enter_context(agent.bring_up(Path(job.modules), "ioctl", files=files))
        configure()
        journal = stack.enter_context(JournalWriter(directory / agent.JOURNAL))
        backend = LvmBackend(kernel, directory)
        runner = Runner(backend, journal, 0)
        runner.record(ready)
        for boot in job.boots:
            for old in files.iterdir():
                old.unlink()
            if boot.image:
                shutil.copyfile(boot.image, file_of(files, disk_of(boot)))
            backend.situation = boot.name
            # The runner passes steps on to the backend without looking at them.
            steps = cast(tuple[AnyStep, ...], boot.actions)
            runner.run(JobScenario(boot.name, steps, boot.seed))
            if backend.cut:
                break
        runner.record(Done())
        if backend.cut:
            machine.crash("exit", IoctlDriver())


def disk_of(boot: Boot) -> str:
    """Name of the disk that is created first.

    Raises:
        BadScenario: something else is created first.
    """
    first = boot.actions[0]
    name = getattr(first, "name", "")
    if not name:
        raise BadScenario(f"{boot.name} does not start with its disk")
    return str(name)


def main(arguments: list[str]) -> int:
    """Entry point; errors become one line on the console."""
    if len(arguments) != 1:
        agent.say("usage: python -m harness.kernel.lvm_agent RESULTS_DIR")
        return 2
    try:
        serve(Path(arguments[0]))
    except (DmsnapError, OSError, JournalLost) as fault:
        agent.say(f"cannot go on: {fault}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
