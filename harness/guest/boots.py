"""Whether a kernel boots on this machine: shown by a guest that did, never concluded from a list.

Hosts differ in ways that a kernel notices only when it runs its first process: a processor with
more state than it has room for, a container that forbids ptrace, too small a limit on memory.  So
before its first guest a User-mode Linux boots a small one, within a time limit, whose only
program says one line.  Where the console shows that the floating-point state of processes could
not be set, the kernel is cured (`harness.guest.xstate`) and boots once more; only what booted is
run.  That costs a boot or two, once: the proof is kept in ``$XDG_CACHE_HOME/dmsnap/boots/NAME``

    proof.json    what was shown, of which program, on which host
    console.log   what the last boot that failed printed
    cured/        the program that runs in place of a kernel that had to be cured

and holds for this program on this boot of this host, with this processor and under these
restrictions.  A boot that failed is not kept: what was in its way may be gone.
"""

import contextlib
import datetime
import hashlib
import os
import re
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import CannotBoot, ProvisioningError
from harness.files import write_whole
from harness.guest import xstate
from harness.guest.catalogue import Kernel, Progress, cache_dir, sha256_of
from harness.guest.lock import locked
from harness.guest.process import CONSOLE_NAME, KeptProcess
from harness.guest.trust import check_ours

SAYS: Final = "dmsnap: this guest works"
ARGV: Final = ("-I", "-S", "-c", f"print({SAYS!r})")
"""What Python runs in the small guest."""
LIMIT_S: Final = 30.0
"""A guest of User-mode Linux says its line after one to three seconds."""

_PROOF_VERSION: Final = 1
_ATTEMPTS: Final = 2
"""Boots of one program: a guest can die for no reason of the host's."""
_CPU_FIELDS: Final = ("model name", "flags", "microcode")
_RESTRICTIONS: Final = ("Seccomp", "Seccomp_filters", "NoNewPrivs", "CapBnd")
_LINE_CHARACTERS: Final = 200
_NOISE: Final = re.compile(
    r"\[<|\[[ \d.]+\]|<[0-9a-f]+>|R[A-Z0-9]+: |Call Trace|Modules linked in|CPU: |Pid: |Stack:"
    r"|---\[|Aborted|[0-9a-f ]+$|Core dump limits|\s*(?:soft|hard) - |SELinux:"
    # What User-mode Linux always says, for it was given neither.
    r"|mmapper_init|Failed to initialize ubd device"
)
"""Lines of a console that say where a kernel was, and not what was wrong."""
_TELLING: Final = (
    re.compile(r"^ptrace: "),
    re.compile(r"cannot|not permitted|not implemented|denied|No space|\b[Ee]rror\b|errno = \d"),
    re.compile(r"Kernel panic"),
)
"""What says more than the last line, the best first: what fails later fails because of it."""
_PTRACE: Final = re.compile(r"^ptrace: |check_ptrace")
_FORBIDDEN: Final = (
    " (allow ptrace: in the container's seccomp profile, or by kernel.yama.ptrace_scope)"
)
_LIMITED: Final = {
    signal.SIGXFSZ: " (files may not be as large as its memory here, see ulimit -f)",
    signal.SIGKILL: " (perhaps for want of memory, see the host's kernel log)",
}


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of a small guest.

    Attributes:
        works: it said its line.
        seconds: until it had ended, or the limit was reached.
        ended: it ended by itself.
        console: the last that it printed.
        status: its exit status, 128 + n for signal n.
    """

    works: bool
    seconds: float
    ended: bool
    console: str
    status: int = 0


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """That a kernel boots here.

    Attributes:
        kernel: its name.
        host: what the proof holds for (`this_host`).
        program_sha256: of the program as it came.
        runs: path of the program that booted, the same or the cured one; and its SHA-256.
        cured: it had to be.
        seconds: how long the boot took.
        proven_at: ISO 8601, UTC.
    """

    proof_version: int = _PROOF_VERSION
    kernel: str
    host: str
    program_sha256: str
    runs: str
    runs_sha256: str
    cured: bool
    seconds: float
    proven_at: str

    def words(self) -> str:
        """What came of it, for a user."""
        how = f", with {xstate.OBJECT}: {xstate.CAUSE}" if self.cured else ""
        return f"boots in {self.seconds:.1f} s{how}"


def this_host() -> str:
    """What a proof holds for: this boot of this host, its processor, what it lets us do.

    A cache that moves to another host, or into a container that forbids more, has proven nothing
    there.
    """
    boot_id = ""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for path, names in (("/proc/cpuinfo", _CPU_FIELDS), ("/proc/self/status", _RESTRICTIONS)):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                name, _, value = line.partition(":")
                if name.strip() in names:
                    # The first processor's.
                    facts.setdefault(name.strip(), value.strip())
    digest = hashlib.sha256(msgspec.json.encode(sorted(facts.items()))).hexdigest()
    return f"{boot_id} / {facts.get('model name', '')} / {digest[:16]}"


def watch(guest: KeptProcess, line: str, limit_s: float) -> Boot:
    """Wait until a guest has ended, no longer than ``limit_s`` seconds, and end it.

    Args:
        guest: one that was just started.
        line: what it is to say.
        limit_s: seconds.
    """
    started = time.monotonic()
    try:
        select.select([guest], [], [], limit_s)
        seconds = time.monotonic() - started
        ended = guest.ended()
    finally:
        guest.end()
    console = guest.console_tail()
    return Boot(line in console, seconds, ended, console, guest.status if ended else 0)


def cause(boot: Boot, limit_s: float = LIMIT_S) -> str:
    """Why a boot failed, in one line."""
    if xstate.shows(boot.console):
        return xstate.CAUSE
    how = "it ended" if boot.ended else f"it was not up after {limit_s:.3g} s"
    lines = [line.strip() for line in boot.console.splitlines()]
    said = [line for line in lines if line and not _NOISE.match(line)]
    telling = [line for pattern in _TELLING for line in said if pattern.search(line)]
    if said:
        line = (telling[0] if telling else said[-1])[:_LINE_CHARACTERS]
        return f"{how}, and its console says: {line}{_FORBIDDEN if _PTRACE.search(line) else ''}"
    with contextlib.suppress(ValueError):
        killed = signal.Signals(boot.status - 128)
        return f"it was ended by {killed.name}{_LIMITED.get(killed, '')}, without a word"
    return f"{how}, without a word"


def home_of(kernel: Kernel) -> Path:
    """Where what was shown of a kernel is kept; it need not exist."""
    name = kernel.name
    if "/" in name:
        # A path: a kernel that is built again takes the place of the one before.
        name = f"own-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return cache_dir().parent / "boots" / name


def proven(
    kernel: Kernel,
    boot: Callable[[Path], Boot],
    *,
    fresh: bool = False,
    progress: Progress = lambda _line: None,
) -> Proof:
    """The proof that a kernel boots here: the one that is kept, else by booting.

    Args:
        kernel: a User-mode Linux.
        boot: boots a small guest of a program, within `LIMIT_S`.
        fresh: boot in any case.
        progress: told in one line each what happens.

    Raises:
        CannotBoot: it does not; why, in one line.
    """
    home = home_of(kernel)
    check_ours(home)
    digest = sha256_of(kernel.program)
    if not fresh and (kept := _kept(home, kernel.program, digest)):
        return kept
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # where nothing can be kept, it is proven each time
            home.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                locked(home / ".lock", lambda line: progress(f"{kernel.name}: {line}"))
            )
        if not fresh and (kept := _kept(home, kernel.program, digest)):
            return kept  # somebody else proved it while we waited
        runs, seconds = _prove(kernel, boot, home, progress)
        proof = Proof(
            kernel=kernel.name,
            host=this_host(),
            program_sha256=digest,
            runs=str(runs),
            runs_sha256=sha256_of(runs),
            cured=runs != kernel.program,
            seconds=seconds,
            proven_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        with contextlib.suppress(OSError):
            write_whole(home / "proof.json", msgspec.json.format(msgspec.json.encode(proof)))
    return proof


def _kept(home: Path, program: Path, program_sha256: str) -> Proof | None:
    """The proof that is kept, if it holds for this program, here and now."""
    try:
        proof = msgspec.json.decode((home / "proof.json").read_bytes(), type=Proof)
        holds = (
            proof.proof_version == _PROOF_VERSION
            and proof.host == this_host()
            and proof.program_sha256 == program_sha256
            and Path(proof.runs) in (program, home / "cured" / "linux")
            and (not proof.cured or xstate.is_current(Path(proof.runs)))
            and sha256_of(Path(proof.runs)) == proof.runs_sha256
        )
    except (OSError, msgspec.MsgspecError):
        return None
    return proof if holds else None


def _prove(
    kernel: Kernel, boot: Callable[[Path], Boot], home: Path, progress: Progress
) -> tuple[Path, float]:
    """Boot; which program did, and how long that took in seconds."""
    first = _attempt(boot, kernel.program)
    if first.works:
        return kernel.program, first.seconds
    if not xstate.shows(first.console):
        raise _refusal(kernel, cause(first), first, home)
    progress(f"{kernel.name} needs help to boot here: {xstate.CAUSE}")
    try:
        program = xstate.cured(kernel.program, home, progress)
    except ProvisioningError as fault:
        raise _refusal(
            kernel, f"{xstate.CAUSE}, and that cannot be mended: {fault}", first, home
        ) from fault
    second = _attempt(boot, program)
    if not second.works:
        raise _refusal(
            kernel,
            f"{cause(second)} (with {xstate.OBJECT}; without it: {cause(first)})",
            second,
            home,
        )
    progress(f"{kernel.name} boots with {xstate.OBJECT}")
    return program, second.seconds


def _attempt(boot: Callable[[Path], Boot], program: Path) -> Boot:
    for _ in range(_ATTEMPTS):
        seen = boot(program)
        # What ran into the limit would do so again, and what is known happens each time.
        if seen.works or not seen.ended or xstate.shows(seen.console):
            break
    return seen


def _refusal(kernel: Kernel, why: str, boot: Boot, home: Path) -> CannotBoot:
    log = home / CONSOLE_NAME
    with contextlib.suppress(OSError):
        write_whole(log, boot.console.encode(errors="replace"))
        why += f" [console: {log}]"
    return CannotBoot(f"{kernel.name} does not boot on this machine: {why}")
