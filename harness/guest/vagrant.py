"""Vagrant: a virtual machine with a distribution of its own, reached by ssh.

The ``Vagrantfile`` at the root brings it up and `vm/provision.sh` sets it up; dmsnap brings it up
if it is down, and copies this code into it.  Then each guest of a run is an agent in that machine,
over ssh (`harness.guest.relay`).  There is one machine, so there is one guest at a time; a lost one
leaves the machine in an unknown state, so it is rebooted before the next.

The machine stays up after a run, since booting it is slow; ``vagrant halt`` and ``vagrant
destroy`` are up to the user.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import harness
from harness.errors import ProvisioningError
from harness.guest.catalogue import VAGRANT, Kernel
from harness.guest.host_root import private_dir
from harness.guest.process import JOURNAL_NAME, KeptProcess
from harness.wire.journal import Done, End, JournalReader

MACHINE: Final = "dmsnap"
"""Its name in the Vagrantfile."""
PYTHON: Final = "/dmsnap/.venv/bin/python"
"""As created by `vm/provision.sh`."""
NAME: Final = "vagrant"
"""The kernel's name in reports; its release says which it is."""
_UP_LIMIT_S: Final = 1800.0
_ASK_LIMIT_S: Final = 60.0
_LAST_LINES: Final = 15
_LOOP: Final = (
    "import time; t = time.perf_counter(); sum(range(10**6)); print(time.perf_counter() - t)"
)
_IS_RELEASE: Final = re.compile(r"\d+\.\d+[\w.+~-]*")


class Machine:
    """The virtual machine of one Vagrantfile.

    Args:
        directory: where the Vagrantfile is.
        tell: called with each line for the user.

    Attributes:
        config: file that tells ssh how to reach it; after `up`.
        ssh: the command line that reaches it, up to the host; after `up`.
        release: of its kernel; after `up`.
    """

    def __init__(self, directory: Path, tell: Callable[[str], None] = lambda _line: None) -> None:
        self._directory = directory
        self._tell = tell
        self.config = directory / ".vagrant" / "dmsnap-ssh-config"
        self.ssh: list[str] = []
        self.release = ""

    def check_installed(self) -> None:
        """Check that this machine can run one.

        Raises:
            ProvisioningError: something is missing; cause and cure.
        """
        for program in ("vagrant", "ssh", "rsync"):
            if shutil.which(program) is None:
                raise ProvisioningError(
                    f"{program} is missing on this machine; --guest vagrant "
                    "needs it (docs/vagrant.md)"
                )
        if not (self._directory / "Vagrantfile").is_file():
            raise ProvisioningError(
                f"there is no Vagrantfile in {self._directory}; --guest "
                "vagrant needs a clone of the repository"
            )

    def up(self) -> None:
        """Bring it up, with the current code in it.

        Raises:
            ProvisioningError: it is not available; cause and cure.
        """
        self.check_installed()
        running = self._state() == "running"
        self._tell(
            "vagrant: "
            + (
                "copying this code into the machine"
                if running
                else "bringing the machine up; under emulation that takes minutes"
            )
        )
        if running:
            self._vagrant("rsync")
            self._vagrant("provision")
        else:
            self._vagrant("up", "--no-tty", "--provision")
        self._reach()

    def boot_again(self) -> None:
        """Turn it off and on.

        Raises:
            ProvisioningError: it does not come up again.
        """
        self._tell("vagrant: rebooting the machine")
        self._vagrant("halt", "--force")
        self._vagrant("up", "--no-tty")
        self._reach()

    def ask(self, command: str, limit_s: float = _ASK_LIMIT_S) -> str:
        """The output of a shell command in the machine.

        Raises:
            ProvisioningError: there is no answer, or the command fails.
        """
        done = _run([*self.ssh, command], limit_s=limit_s)
        if done.returncode:
            raise ProvisioningError(
                f"the machine of {self._directory / 'Vagrantfile'} does not answer "
                f"({command!r}: {_last_lines(done.stdout)}): type: vagrant reload"
            )
        return done.stdout.strip()

    def slowness(self) -> float:
        """How much slower a loop runs in it than here, at least 1."""
        there = float(self.ask(f"python3 -c {_quoted(_LOOP)}"))
        started = time.perf_counter()
        sum(range(10**6))
        return max(1.0, there / (time.perf_counter() - started))

    def _state(self) -> str:
        rows = self._vagrant("status", "--machine-readable").splitlines()
        return next((row.split(",")[3] for row in rows if f",{MACHINE},state," in row), "")

    def _reach(self) -> None:
        """Ask Vagrant how ssh reaches it, and the machine which kernel it runs."""
        self.config.write_text(self._vagrant("ssh-config", MACHINE))
        self.ssh = [
            "ssh",
            "-F",
            str(self.config),
            "-o",
            "BatchMode=yes",
            "-o",
            "ServerAliveInterval=20",
            MACHINE,
        ]
        self.release = self.ask("uname -r")
        if not _IS_RELEASE.fullmatch(self.release):
            raise ProvisioningError(
                f"the machine says that its kernel is {self.release!r}: type: vagrant reload"
            )

    def _vagrant(self, *words: str) -> str:
        done = _run(["vagrant", *words], limit_s=_UP_LIMIT_S, directory=self._directory)
        if done.returncode:
            raise ProvisioningError(
                f"vagrant {' '.join(words)} failed in {self._directory}:\n"
                f"{_last_lines(done.stdout)}"
            )
        return done.stdout


class VagrantGuest:
    """Starts agents in the machine; a `harness.guest.process.Launcher`.

    Args:
        machine: one that is up.
    """

    memory_mib = 0
    """The machine's own; the Vagrantfile says how much."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._last: Path | None = None
        self._slowness: float | None = None

    @property
    def slowness(self) -> float:
        """How much slower it is than this machine; time limits are stretched by it."""
        if self._slowness is None:
            self._slowness = self._machine.slowness()
        return self._slowness

    def kernel(self) -> Kernel:
        """The kernel that it runs."""
        release = self._machine.release
        return Kernel(NAME, Path(harness.__file__), Path("/lib/modules") / release, guest=VAGRANT)

    def check(self, guests: int, results: Path) -> None:  # noqa: ARG002
        """Check that only one guest is requested; there is one machine.

        Raises:
            ProvisioningError: more than one guest is requested.
        """
        if guests > 1:
            raise ProvisioningError(
                "there is one Vagrant machine, with one guest at a time; leave out -j"
            )

    def start(self, results: Path) -> KeptProcess:
        """Start an agent; if the last one was lost, reboot the machine first.

        Raises:
            ProvisioningError: the machine does not come up again.
        """
        if self._last is not None and not _over(self._last):
            self._machine.boot_again()
        self._last = results
        return KeptProcess(
            [sys.executable, "-P", "-m", "harness.guest.relay", str(results), *self._machine.ssh],
            results=results,
            private=private_dir(),
            env=environment(),
        )


def environment() -> dict[str, str]:
    """What the relay and its ssh need."""
    return {
        "PATH": os.defpath,
        "LC_ALL": "C",
        "HOME": str(Path.home()),
        "PYTHONPATH": str(Path(harness.__file__).parent.parent),
    }


def _over(results: Path) -> bool:
    """Whether a guest has done all its work, and left nothing behind."""
    try:
        records = JournalReader(results / JOURNAL_NAME).new()
    except OSError:  # somebody removed it; the machine's state is unknown
        return False
    return (
        bool(records)
        and isinstance(records[-1], Done)
        and not any(record.leftovers for record in records if isinstance(record, End))
    )


def _run(
    command: list[str], *, limit_s: float, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProvisioningError(
            f"{command[0]} gave no answer within {limit_s:.0f} s "
            f"({' '.join(command[:4])}…): type: vagrant reload"
        ) from None


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-_LAST_LINES:]) or "(nothing)"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
