"""Whether a kernel boots on this machine; shown by a guest that did, never by a list.

Hosts differ in ways that a kernel notices only when it runs its first process: a processor with
more state than the kernel has room for, a container that forbids ptrace, a memory limit that is too
small.  So before its first guest a User-mode Linux boots a small one, within a time limit, whose
only program prints one line.  If the console shows that the floating-point state of processes
could not be set, the kernel is cured (`harness.guest.xstate`) and boots once more; only what booted
is run.  That costs a boot or two, once: the proof is kept in ``$XDG_CACHE_HOME/dmsnap/boots/NAME``

    proof.json    what was shown, of which program, on which host
    console.log   what the last boot that failed printed
    cured/        the program that runs in place of a kernel that had to be cured

and holds for this program on this boot of this host, with this processor and under these
restrictions.  A failed boot is not kept, as its cause may be gone.
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
"""A guest of User-mode Linux prints its line after one to three seconds."""

_PROOF_VERSION: Final = 1
_ATTEMPTS: Final = 2
"""Boots of one program: a guest can die by chance."""
_CPU_FIELDS: Final = ("model name", "flags", "microcode")
_RESTRICTIONS: Final = ("Seccomp", "Seccomp_filters", "NoNewPrivs", "CapBnd")
_LINE_CHARACTERS: Final = 200
_NOISE: Final = re.compile(
    r"\[<|\[[ \d.]+\]|<[0-9a-f]+>|R[A-Z0-9]+: |Call Trace|Modules linked in|CPU: |Pid: |Stack:"
    r"|---\[|Aborted|[0-9a-f ]+$|Core dump limits|\s*(?:soft|hard) - |SELinux:"
    # User-mode Linux always says this, as it was given neither.
    r"|mmapper_init|Failed to initialize ubd device"
)
"""Console lines that say where a kernel was, not what was wrong."""
_TELLING: Final = (
    re.compile(r"^ptrace: "),
    re.compile(r"cannot|not permitted|not implemented|denied|No space|\b[Ee]rror\b|errno = \d"),
    re.compile(r"Kernel panic"),
)
"""What says more than the last line, best first; later failures follow from earlier ones."""
_PTRACE: Final = re.compile(r"^ptrace: |check_ptrace")
_FORBIDDEN: Final = (
    " (allow ptrace: in the container's seccomp profile, or by kernel.yama.ptrace_scope)"
)
_LIMITED: Final = {
    signal.SIGXFSZ: " (files cannot be as large as its memory here, see ulimit -f)",
    signal.SIGKILL: " (perhaps out of memory, see the host's kernel log)",
}


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of a small guest.

    Attributes:
        works: it printed its line.
        seconds: until it ended or the limit was reached.
        ended: it ended by itself.
        console: the last part of its output.
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
        program_sha256: of the original program.
        runs: path of the program that booted, original or cured, and its SHA-256.
        cured: it had to be cured.
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
        """The result, for a user."""
        how = f", with {xstate.OBJECT}: {xstate.CAUSE}" if self.cured else ""
        return f"boots in {self.seconds:.1f} s{how}"


def this_host() -> str:
    """What a proof holds for: this boot of this host, its processor, its restrictions.

    A cache that moves to another host, or into a stricter container, has proven nothing there.
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
                    # Those of the first processor.
                    facts.setdefault(name.strip(), value.strip())
    digest = hashlib.sha256(msgspec.json.encode(sorted(facts.items()))).hexdigest()
    return f"{boot_id} / {facts.get('model name', '')} / {digest[:16]}"


def watch(guest: KeptProcess, line: str, limit_s: float) -> Boot:
    """Wait at most ``limit_s`` seconds for a guest to end, then end it.

    Args:
        guest: one that was just started.
        line: what it should print.
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
    how = "it ended" if boot.ended else f"it did not come up within {limit_s:.3g} s"
    lines = [line.strip() for line in boot.console.splitlines()]
    said = [line for line in lines if line and not _NOISE.match(line)]
    telling = [line for pattern in _TELLING for line in said if pattern.search(line)]
    if said:
        line = (telling[0] if telling else said[-1])[:_LINE_CHARACTERS]
        return f"{how}, and its console says: {line}{_FORBIDDEN if _PTRACE.search(line) else ''}"
    with contextlib.suppress(ValueError):
        killed = signal.Signals(boot.status - 128)
        return f"it was killed by {killed.name}{_LIMITED.get(killed, '')}, without any output"
    return f"{how}, without any output"


def home_of(kernel: Kernel) -> Path:
    """Where the proof of a kernel is kept; it need not exist."""
    name = kernel.name
    if "/" in name:
        # A path: a rebuilt kernel replaces the previous one.
        name = f"own-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return cache_dir().parent / "boots" / name


def proven(
    kernel: Kernel,
    boot: Callable[[Path], Boot],
    *,
    fresh: bool = False,
    progress: Progress = lambda _line: None,
) -> Proof:
    """The proof that a kernel boots here, kept or made by booting.

    Args:
        kernel: a User-mode Linux.
        boot: boots a small guest of a program, within `LIMIT_S`.
        fresh: boot even if a proof is kept.
        progress: called with a line for each thing that happens.

    Raises:
        CannotBoot: it does not boot; why, in one line.
    """
    home = home_of(kernel)
    check_ours(home)
    digest = sha256_of(kernel.program)
    if not fresh and (kept := _kept(home, kernel.program, digest)):
        return kept
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # if nothing can be saved, it is proven each time
            home.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                locked(home / ".lock", lambda line: progress(f"{kernel.name}: {line}"))
            )
        if not fresh and (kept := _kept(home, kernel.program, digest)):
            return kept  # another process proved it while we waited
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
    """The kept proof, if it holds for this program, here and now."""
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
    """Boot; returns which program booted, and how many seconds that took."""
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
            kernel, f"{xstate.CAUSE}, and that cannot be fixed: {fault}", first, home
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
        # A timeout would repeat, and a known cause happens each time.
        if seen.works or not seen.ended or xstate.shows(seen.console):
            break
    return seen


def _refusal(kernel: Kernel, why: str, boot: Boot, home: Path) -> CannotBoot:
    log = home / CONSOLE_NAME
    with contextlib.suppress(OSError):
        write_whole(log, boot.console.encode(errors="replace"))
        why += f" [console: {log}]"
    return CannotBoot(f"{kernel.name} does not boot on this machine: {why}")
