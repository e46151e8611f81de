"""What runs first in a guest: ``python -m harness.kernel.agent RESULTS_DIR``.

It reads its job from ``job.json`` there, checks that this is a disposable guest, loads the
modules, probes the kernel, says so (`Ready`) in ``journal.jsonl``, and carries out the scenarios
in a pytest session.  Everything the host needs is in the journal; what is printed is for
people who read the console.

Exit status: 0 all was carried out, 1 something was not (the journal says what), 2 the agent could
not start, 3 the journal was lost.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from harness.errors import DmsnapError, ProvisioningError
from harness.kernel import kmsg, machine, modules, udev
from harness.kernel.backend import KernelBackend
from harness.kernel.drivers.driver import Driver
from harness.kernel.drivers.ioctl import IoctlDriver
from harness.kernel.function_counts import LOADING, UNLOADING, Coverage
from harness.kernel.probe import probe
from harness.kernel.session import JournalLost, Runner, ScenarioPlugin, run_session
from harness.wire.job import Job, decode_job
from harness.wire.journal import Done, JournalWriter, Ready

JOB = "job.json"
JOURNAL = "journal.jsonl"


def make_driver(label: str) -> Driver:
    """The driver called ``label``; the one with `sh` is imported only on demand.

    Raises:
        ProvisioningError: there is no such driver.
    """
    if label == "ioctl":
        return IoctlDriver()
    if label == "dmsetup":
        from harness.kernel.drivers.dmsetup import DmsetupDriver

        return DmsetupDriver()
    raise ProvisioningError(f"there is no driver {label!r}: use 'ioctl' or 'dmsetup'")


def read_job(directory: Path) -> Job:
    """The job of this guest.

    Raises:
        ProvisioningError: it is missing or malformed.
    """
    try:
        return decode_job((directory / JOB).read_bytes())
    except OSError as fault:
        raise ProvisioningError(
            f"{directory / JOB}: {fault.strerror}; the host writes it before it starts a guest"
        ) from None
    except msgspec.MsgspecError as fault:
        raise ProvisioningError(
            f"{directory / JOB}: {fault}; host and guest must run the same version of dmsnap"
        ) from None


@contextmanager
def bring_up(
    directory: Path, label: str, *, here: bool = False, files: Path | None = None
) -> Iterator[tuple[KernelBackend, Ready]]:
    """Prepare this kernel for scenarios, and say what it is.

    Args:
        directory: the kernel's modules.
        label: which driver to use.
        here: the user said that this machine is the guest.
        files: if given, disks are files there that outlive the guest, rather than memory.

    Raises:
        UnsafeMachine: this is not a disposable guest.
        ProvisioningError: a module or a driver is missing.
    """
    machine.check(here=here)
    machine.keep_memory()
    modules.load_all(directory)
    kmsg.unlimit()
    with udev.kept_away():
        driver = make_driver(label)
        # The facts do not depend on the driver, and probing by ioctl is quick.
        with closing(KernelBackend(IoctlDriver(), directory)) as prober:
            facts = probe(prober)
        targets = driver.targets()
        about = os.uname()
        with closing(KernelBackend(driver, directory, files=files, targets=targets)) as backend:
            yield (
                backend,
                Ready(
                    release=about.release,
                    version=about.version,
                    machine=about.machine,
                    targets=targets,
                    probe=facts,
                    driver=driver.label,
                ),
            )


@contextmanager
def counted(functions: Sequence[str], directory: Path) -> Iterator[Callable[[str], None]]:
    """Counts functions of the module; call it with the name of the scenario that just ended."""
    if not functions:
        yield lambda _name: None
        return
    coverage = Coverage(functions, directory)
    try:
        yield coverage.note
    finally:
        coverage.close()


def serve(directory: Path) -> int:
    """Do the job in ``directory``; the exit status."""
    job = read_job(directory)
    machine.check(here=job.here)
    with ExitStack() as stack:
        coverage = stack.enter_context(counted(job.functions, directory))
        backend, ready = stack.enter_context(bring_up(Path(job.modules), job.driver, here=job.here))
        journal = stack.enter_context(JournalWriter(directory / JOURNAL))
        coverage(LOADING)
        runner = Runner(backend, journal, job.seed, coverage)
        runner.record(ready)
        say(f"ready after {time.process_time():.2f} s of work, {len(job.scenarios)} scenarios")
        plugin = ScenarioPlugin(job.scenarios, runner)
        status = run_session(plugin, job.pytest, str(directory))
        if plugin.lost:
            raise JournalLost(plugin.lost)
        if job.functions:
            modules.unload("dm-snapshot")
            coverage(UNLOADING)
        runner.record(Done())
    return 1 if status else 0


def say(text: str) -> None:
    """A line for the console."""
    print(f"dmsnap: {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Entry point; errors become one line on the console."""
    if len(arguments) != 1:
        say("usage: python -m harness.kernel.agent RESULTS_DIR")
        return 2
    try:
        return serve(Path(arguments[0]))
    except JournalLost as lost:
        say(str(lost))
        return 3
    except (DmsnapError, OSError) as fault:
        say(f"cannot start: {fault}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
