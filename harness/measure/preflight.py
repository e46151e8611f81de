"""Whether a guest is fit to run scenarios (``dmsnap preflight``).

The same checks for every kind of guest, made through testinfra over the guest's own way in: ssh for
Vagrant, the results directory for User-mode Linux and QEMU (`harness.guest.channel`), none for this
machine.  Each finding that is not ok names its cure, and becomes a `ProvisioningError`: a guest
that is not fit is never a divergence.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import testinfra

from harness.errors import ProvisioningError
from harness.guest.catalogue import Kernel
from harness.guest.channel import LISTENER, Channel
from harness.guest.doctor import PYTHON_MIN, Finding
from harness.guest.process import JOB_NAME
from harness.guest.supervise import launcher_of
from harness.guest.vagrant import MACHINE, PYTHON, Machine, VagrantGuest
from harness.kernel import machine, modules
from harness.kernel.drivers.driver import UUID_PREFIX
from harness.trace.steps import encode
from harness.wire.job import Job

MEMORY_MIB_MIN: Final = 128
"""Memory free when a scenario starts, for the agent and disks of a few tens of MiB."""
SHM_MIB_MIN: Final = 16
TARGETS: Final = ("snapshot", "snapshot-origin", "snapshot-merge")
DEFAULTS: Final = {"snapshot_cow_threshold": ("2048",)}
"""Parameters of the module dm_snapshot, and their initial values."""
_SHM: Final = "/dev/shm"  # noqa: S108 - the guest's own
_CLOCK_S: Final = 0.05
_BOOT_LIMIT_S: Final = 30.0
_ANSWER_LIMIT_S: Final = 20.0

Host = Any
"""A testinfra host."""


def examine(host: Host, *, python: str, release: str = "") -> list[Finding]:
    """Everything that a guest must have.

    Args:
        host: the guest.
        python: the interpreter that runs in it.
        release: the kernel release it should run; empty if any will do.
    """
    questions: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("kernel", lambda: _kernel(host, release)),
        ("targets", lambda: _targets(host)),
        ("module parameters", lambda: _parameters(host)),
        ("dmsetup", lambda: _dmsetup(host)),
        ("python", lambda: _python(host, python)),
        ("memory", lambda: _memory(host)),
        (_SHM, lambda: _shm(host)),
        ("nothing left over", lambda: _leftovers(host)),
        ("clock", lambda: _clock(host)),
    )
    findings = []
    for name, ask in questions:
        try:
            findings.append(ask())
        except (ValueError, IndexError, AssertionError) as fault:
            findings.append(
                Finding(name, False, f"meaningless answer: {fault}", "Reboot the guest")
            )
    return findings


def of_guest(kernel: Kernel) -> list[Finding]:
    """Boot a guest of a kernel, check it, and end it.

    Raises:
        ProvisioningError: it cannot be started here.
        GuestLost: it does not come up, or does not answer.
    """
    python = Path(sys.executable)
    launcher = launcher_of(kernel, python=python, argv=LISTENER)
    with TemporaryDirectory(prefix="dmsnap-") as name:
        results = Path(name)
        launcher.check(1, results)
        (results / JOB_NAME).write_bytes(encode(Job(modules=str(kernel.modules), scenarios=())))
        guest = launcher.start(results)
        try:
            channel = Channel(guest, results, _ANSWER_LIMIT_S * launcher.slowness)
            channel.wait_until_up(_BOOT_LIMIT_S * launcher.slowness)
            return examine(
                testinfra.host.Host(channel),
                python=str(python),
                release=kernel.record.release if kernel.record else "",
            )
        finally:
            guest.end()


def of_vagrant(guest: Machine) -> list[Finding]:
    """Check a Vagrant machine that is up, over ssh.

    Raises:
        ProvisioningError: it does not answer.
    """
    guest.ask("sudo modprobe -a dm-snapshot 2>/dev/null || :")
    return examine(
        testinfra.get_host(f"ssh://{MACHINE}", ssh_config=str(guest.config), sudo=True),
        python=PYTHON,
        release=guest.release,
    )


def fit_vagrant(machine: Machine) -> VagrantGuest:
    """The machine of a Vagrantfile, up and fit.

    Raises:
        ProvisioningError: it cannot be had, or is not fit even when it was booted anew.
    """
    machine.up()
    if not all(finding.ok for finding in of_vagrant(machine)):
        machine.boot_again()  # which is the cure of most
        require(of_vagrant(machine), "the Vagrant machine")
    return VagrantGuest(machine)


def of_this_machine(directory: Path) -> list[Finding]:
    """Check this machine, with the modules loaded.

    Args:
        directory: directory of the modules.

    Raises:
        UnsafeMachine: it is not marked as disposable.
        ProvisioningError: a module is missing.
    """
    machine.check(here=True)
    modules.load_all(directory)
    return examine(testinfra.get_host("local://"), python=sys.executable)


def require(findings: Sequence[Finding], guest: str) -> None:
    """Continue only if a guest is fit.

    Raises:
        ProvisioningError: it is not; everything wrong, each with its cure.
    """
    wrong = [
        f"{finding.name}: {finding.detail}; {finding.cure}"
        for finding in findings
        if not finding.ok
    ]
    if wrong:
        raise ProvisioningError(f"{guest} is not fit to run scenarios. " + ". ".join(wrong))


def render(findings: Sequence[Finding], guest: str) -> str:
    """Findings as lines for a terminal, with a cure below where needed."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(
            f"  {'ok' if finding.ok else 'UNFIT':5}  {finding.name:{width}}  {finding.detail}"
        )
        if finding.cure:
            lines.append(f"{'':9}{'':{width}}  {finding.cure}")
    fit = all(finding.ok for finding in findings)
    return "\n".join([f"{guest}: {'fit' if fit else 'not fit'}", *lines])


def _said(host: Host, command: str) -> str:
    """Standard output of a command; ValueError with its message if it fails."""
    done = host.run(command)
    if done.rc:
        raise ValueError(f"{command}: {_first_line(done) or f'exit status {done.rc}'}")
    return str(done.stdout).strip()


def _first_line(done: Any) -> str:
    return next(iter((done.stderr or done.stdout).strip().splitlines()), "")


def _kernel(host: Host, release: str) -> Finding:
    found = _said(host, "uname -r")
    if release and found != release:
        return Finding(
            "kernel",
            False,
            f"{found}, not {release}",
            "The modules belong to another kernel; give --modules for this one",
        )
    return Finding("kernel", True, found)


def _targets(host: Host) -> Finding:
    # It fails if there is no device-mapper at all; then there are no targets.
    rows = dict(re.findall(r"^(\S+)\s+v(\S+)", host.run("dmsetup targets").stdout, re.MULTILINE))
    missing = [name for name in TARGETS if name not in rows]
    if missing:
        return Finding(
            "targets",
            False,
            f"no {', '.join(missing)}",
            "Type: modprobe dm_snapshot; or give the kernel's modules (--modules)",
        )
    return Finding("targets", True, ", ".join(f"{name} {rows[name]}" for name in TARGETS))


def _parameters(host: Host) -> Finding:
    name = "module parameters"
    directory = "/sys/module/dm_snapshot/parameters"
    found = {
        parameter: _said(host, f"cat {directory}/{parameter}")
        for parameter in DEFAULTS
        if host.file(f"{directory}/{parameter}").exists
    }
    odd = [parameter for parameter, value in found.items() if value not in DEFAULTS[parameter]]
    detail = ", ".join(f"{parameter} {value}" for parameter, value in found.items())
    if odd:
        return Finding(
            name,
            False,
            detail,
            "; ".join(
                f"Type: echo {DEFAULTS[parameter][0]} > {directory}/{parameter}"
                for parameter in odd
            ),
        )
    return Finding(name, True, detail or "the module has none")


def _dmsetup(host: Host) -> Finding:
    done = host.run("dmsetup version")
    if done.rc:
        return Finding(
            "dmsetup",
            False,
            _first_line(done),
            "Type: apt-get install -y dmsetup; modprobe dm_mod",
        )
    versions = re.findall(r"version:\s+(\S+)", done.stdout)
    return Finding("dmsetup", True, f"library {versions[0]}, driver {versions[1]}")


def _python(host: Host, python: str) -> Finding:
    text = host.run(f"{python} -c 'import sys, harness; print(*sys.version_info[:3])'")
    if text.rc:
        return Finding(
            "python",
            False,
            text.stderr.strip().splitlines()[-1],
            "dmsnap is not installed there: make setup, or vagrant provision",
        )
    version = tuple(int(part) for part in text.stdout.split())
    shown = ".".join(map(str, version))
    if version[:2] < PYTHON_MIN:
        return Finding("python", False, shown, "Install Python 3.11 or newer there")
    return Finding("python", True, shown)


def _memory(host: Host) -> Finding:
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", _said(host, "cat /proc/meminfo"), re.MULTILINE))
    free, total = int(rows["MemAvailable"]) >> 10, int(rows["MemTotal"]) >> 10
    detail = f"{free} of {total} MiB available"
    if free < MEMORY_MIB_MIN:
        return Finding(
            "memory",
            False,
            detail,
            f"Give the guest more; {MEMORY_MIB_MIN} MiB must be free when a scenario starts",
        )
    return Finding("memory", True, detail)


def _shm(host: Host) -> Finding:
    free = int(_said(host, "df -k --output=avail /dev/shm").splitlines()[-1]) >> 10
    detail = f"{free} MiB free"
    if free < SHM_MIB_MIN:
        return Finding(_SHM, False, detail, "Type: mount -o remount,size=50% /dev/shm")
    return Finding(_SHM, True, detail)


def _leftovers(host: Host) -> Finding:
    name = "nothing left over"
    rows = host.run("dmsetup info -c --noheadings --separator ' ' -o uuid,name").stdout
    ours = [row.split()[-1] for row in rows.splitlines() if row.startswith(UUID_PREFIX)]
    if ours:
        return Finding(
            name,
            False,
            f"devices of an earlier run: {', '.join(ours)}",
            f"Type: dmsetup remove -f {' '.join(ours)}; or reboot the guest",
        )
    return Finding(name, True, "no device of dmsnap")


def _clock(host: Host) -> Finding:
    before, after = (
        float(line.split()[0])
        for line in _said(
            host, f"cat /proc/uptime; sleep {_CLOCK_S}; cat /proc/uptime"
        ).splitlines()
    )
    if after <= before:
        return Finding(
            "clock",
            False,
            f"stands at {before:.2f} s after the boot",
            "Reboot the guest; under an emulator, with another clock source",
        )
    return Finding("clock", True, f"{after:.2f} s after the boot, and running")
