"""What this machine can run, and what to type where it cannot (``dmsnap doctor``).

It looks at commands, packages and files through testinfra, so it can also check another host
(``testinfra.get_host("ssh://…")``) and, in a test, a made-up one.  Only what is *needed* keeps
dmsnap from working; the rest says which kinds of guest are available and how fast they are.

That nothing is missing proves nothing yet, since hosts differ in ways that only a boot shows
(`harness.guest.boots`).  So each cached kernel is booted, within a time limit, and the machine can
run dmsnap only if one of them came up.

``/dev/kvm`` is opened but not used; whether QEMU can use it is shown by booting its kernels.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import testinfra

from harness.errors import CannotBoot, ProvisioningError
from harness.guest import catalogue, fallback, trust
from harness.guest.catalogue import Progress

MEMORY_BYTES_MIN: Final = 1 << 30
"""One User-mode Linux guest of 512 MiB, the twin, and the report."""
PYTHON_MIN: Final = (3, 11)
_SBIN: Final = ("/usr/sbin", "/sbin")
"""Not in the PATH of an ordinary user of Debian."""

Host = Any
"""A testinfra host; the library has no types."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: what was checked.
        ok: whether it is fine.
        detail: what was found.
        cure: what to type or do if it is not; empty if it is.
        needed: False if dmsnap works without it.
    """

    name: str
    ok: bool
    detail: str
    cure: str = ""
    needed: bool = True


def examine(host: Host | None = None) -> list[Finding]:
    """Everything that dmsnap needs from a machine, by default this one.

    A check that cannot be made (a command is missing, access is denied) is a finding that is not
    ok, never an exception.
    """
    machine = testinfra.get_host("local://") if host is None else host
    as_root = "" if _output(machine, "id -u") == "0" else "sudo "
    questions: list[tuple[str, Callable[[], Finding]]] = [
        ("python", lambda: _python(machine, as_root)),
        *(
            (
                name,
                lambda name=name, package=package, needed=needed: _command(
                    machine, as_root, name, package, needed=needed
                ),
            )
            for name, package, needed in (
                ("apt-get", "apt", True),
                ("dpkg-deb", "dpkg", True),
                ("dmsetup", "dmsetup", True),
                ("qemu-system-x86_64", "qemu-system-x86", False),
                ("busybox", "busybox-static", False),
                ("vagrant", "vagrant", False),
                ("lvm", "lvm2", False),
            )
        ),
        ("Debian keys", lambda: _keys(machine, as_root)),
        ("memory", lambda: _memory(machine)),
        ("executable memory files", lambda: _executable(machine)),
        ("/dev/kvm", lambda: _kvm(machine)),
    ]
    findings = []
    for name, ask in questions:
        try:
            findings.append(ask())
        except (RuntimeError, OSError, ValueError, AssertionError) as fault:
            findings.append(
                Finding(
                    name,
                    False,
                    f"could not be checked: {fault}",
                    "Run dmsnap doctor as the user who runs dmsnap",
                )
            )
    return findings


@dataclass(frozen=True, slots=True)
class Booted:
    """The result of booting a kernel here.

    Attributes:
        name: the kernel's name.
        ok: it came up.
        detail: how, or why not.
    """

    name: str
    ok: bool
    detail: str


def boot_all(progress: Progress) -> list[Booted]:
    """Boot a guest of each cached kernel, one after another.

    Args:
        progress: called with a line for each thing that happens.
    """
    found = []
    for kernel in catalogue.installed():
        progress(f"{kernel.name}: booting")
        try:
            trust.verify(kernel)
            age = kernel.record.age() if kernel.record else ""
            found.append(
                Booted(
                    kernel.name,
                    True,
                    fallback.prove(kernel, fresh=True) + (f"; {age}" if age else ""),
                )
            )
        except CannotBoot as fault:
            found.append(Booted(kernel.name, False, str(fault).removeprefix(f"{kernel.name} ")))
        except ProvisioningError as fault:
            found.append(Booted(kernel.name, False, f"was not booted: {fault}"))
    return found


def able(findings: Sequence[Finding], boots: Sequence[Booted]) -> bool:
    """True if nothing that dmsnap needs is missing, and a kernel was seen to boot."""
    return not _missing(findings) and any(boot.ok for boot in boots)


def _missing(findings: Sequence[Finding]) -> bool:
    return not all(finding.ok for finding in findings if finding.needed)


def render(findings: Sequence[Finding], boots: Sequence[Booted]) -> str:
    """Findings as text for a terminal, one line each, with a cure below where needed."""
    names = [*(finding.name for finding in findings), *(boot.name for boot in boots)]
    width = max(map(len, names), default=0)
    lines = []
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "absent"
        lines.append(f"{mark:7}  {finding.name:{width}}  {finding.detail}")
        if finding.cure:
            lines.append(f"{'':7}  {'':{width}}  {finding.cure}")
    lines += [
        f"{'ok' if boot.ok else 'FAILS':7}  {boot.name:{width}}  {boot.detail}" for boot in boots
    ]
    return "\n".join([*lines, _conclusion(findings, boots)]) + "\n"


def _conclusion(findings: Sequence[Finding], boots: Sequence[Booted]) -> str:
    default = catalogue.default()
    works = [boot.name for boot in boots if boot.ok]
    if _missing(findings):
        return "This machine cannot run dmsnap yet; see MISSING above."
    if not boots:
        return (
            "Nothing is missing, but no kernel is cached that could be booted to prove that this "
            f"machine can run dmsnap. Type: dmsnap kernels fetch {default}; dmsnap doctor"
        )
    if not works:
        return "This machine cannot run dmsnap yet; no kernel boots, see FAILS above."
    if default not in works:
        return f"This machine can run dmsnap, not with {default} but with {', '.join(works)}."
    return "This machine can run dmsnap."


def _output(host: Host, command: str) -> str:
    """Standard output of ``command``, empty if it fails."""
    result = host.run(command)
    return str(result.stdout).strip() if result.rc == 0 else ""


def _install(as_root: str, package: str) -> str:
    return f"Type: {as_root}apt-get install -y {package}"


def _python(host: Host, as_root: str) -> Finding:
    # The Python that runs this is good enough; what matters is one that can make a venv.
    text = _output(host, "python3 -c 'import sys; print(*sys.version_info[:3])'")
    version = tuple(int(part) for part in text.split())
    shown = ".".join(str(part) for part in version) or "no python3"
    if version[:2] < PYTHON_MIN:
        return Finding("python", False, shown, _install(as_root, "python3 python3-venv"))
    if host.run("python3 -c 'import ensurepip, venv'").rc:
        return Finding("python", False, f"{shown}, without venv", _install(as_root, "python3-venv"))
    return Finding("python", True, shown)


def _command(host: Host, as_root: str, name: str, package: str, *, needed: bool) -> Finding:
    for path in (name, *(f"{place}/{name}" for place in _SBIN)):
        if host.exists(path) if "/" not in path else host.file(path).exists:
            owner = host.package(package)
            version = f"{package} {owner.version}" if owner.is_installed else "not from a package"
            return Finding(name, True, version, needed=needed)
    return Finding(name, False, "not installed", _install(as_root, package), needed)


def _keys(host: Host, as_root: str) -> Finding:
    path = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if host.file(path).exists:
        return Finding("Debian keys", True, path)
    return Finding(
        "Debian keys",
        False,
        f"{path} is missing; packages cannot be verified",
        _install(as_root, "debian-archive-keyring"),
    )


def _memory(host: Host) -> Finding:
    for line in str(host.file("/proc/meminfo").content_string).splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            available = int(rest.split()[0]) * 1024
            detail = f"{available >> 20} MiB available"
            if available >= MEMORY_BYTES_MIN:
                return Finding("memory", True, detail)
            return Finding(
                "memory",
                False,
                detail,
                f"Close something (a guest, the twin and the "
                f"report need {MEMORY_BYTES_MIN >> 20} MiB), or type: dmsnap run -j 1",
            )
    raise ValueError("/proc/meminfo has no MemAvailable")


def _executable(host: Host) -> Finding:
    """User-mode Linux keeps its memory in a file that it maps with the right to execute."""
    name = "executable memory files"
    options = {}
    for line in str(host.file("/proc/mounts").content_string).splitlines():
        _, place, _, flags, *_ = line.split()
        options[place] = flags.split(",")
    wanted = _output(host, "printenv TMPDIR")
    places = [place for place in (wanted, "/dev/shm", "/tmp") if place]  # noqa: S108
    for place in places:
        # A directory's mount is the longest prefix of its path.
        mount = max((m for m in options if f"{place}/".startswith(f"{m.rstrip('/')}/")), key=len)
        if "noexec" not in options[mount] and not host.run(f"test -w {shlex.quote(place)}").rc:
            return Finding(name, True, place)
    return Finding(
        name,
        False,
        f"mounted noexec or not writable: {', '.join(places)}",
        "Type: export TMPDIR=$HOME, or another directory on a mount without noexec",
    )


def _kvm(host: Host) -> Finding:
    if not host.file("/dev/kvm").exists:
        return Finding(
            "/dev/kvm", False, "missing; QEMU guests are emulated, and slow", needed=False
        )
    if host.run("sh -c ': <> /dev/kvm'").rc:
        return Finding(
            "/dev/kvm",
            False,
            "present, but it does not open",
            'Type: sudo adduser "$USER" kvm, then log in again',
            needed=False,
        )
    return Finding("/dev/kvm", True, "opens", needed=False)
