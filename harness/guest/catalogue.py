"""The kernels that dmsnap can run: ready-made ones, their cache, and kernels you built.

`vm/kernels.toml` names Debian suites; a kernel is fetched once (`harness.guest.fetch.apt`) into
``$XDG_CACHE_HOME/dmsnap/kernels/NAME``:

    linux           the User-mode Linux program, or the image that QEMU boots
    modules/RELEASE its modules, or those that guests need
    libc/           the suite's C library, if the host's is too old for the program
    manifest.json   what was fetched, when, from which suite; written last

Everything is unpacked into a sibling directory, which is renamed once it has the manifest, under a
lock.  So an interrupted download is never taken for a kernel, and two processes do the work once.
Nothing here knows how a guest is started.
"""

import hashlib
import os
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from harness.errors import ProvisioningError

MODULE: Final = "dm-snapshot.ko"
UML: Final = "uml"
QEMU: Final = "qemu"
VAGRANT: Final = "vagrant"
Guest = Literal["uml", "qemu", "vagrant"]
"""What boots a kernel."""
MANIFEST_VERSION: Final = 1
ROOM_BYTES: Final = {UML: 500 << 20, QEMU: 1000 << 20}
"""Space to fetch a kernel: the suite's index, packages, their contents, the result."""
KEPT_BYTES: Final = 200 << 20
"""Space that stays in use."""
_VERSION_LIMIT_S: Final = 20.0
_HASH_BYTES: Final = 1 << 20
Progress = Callable[[str], None]
"""Takes one line for the user."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ready-made kernel of the catalogue (vm/kernels.toml describes the fields)."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    suite: str
    package: str
    stable: bool
    about: str = ""
    guest: Literal["uml", "qemu"] = UML


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched.

    Attributes:
        home: its directory; the program's interpreter may point into it.
        package_sha256, program_sha256: of the .deb, and of the program that runs.
        libc_version: version of the suite's libc6, None if the host's is used.
        kept: modules looked for, if not all of the kernel's are kept.
        files: every file that runs or is loaded → its SHA-256; empty in older records, for which
            only the program is checked (`harness.guest.trust`).
        expired: the mirror's index had expired and was used anyway.
        fetched_at: ISO 8601, UTC.
    """

    manifest_version: int = MANIFEST_VERSION
    name: str
    home: str
    suite: str
    package: str
    version: str
    release: str
    package_sha256: str
    program_sha256: str
    libc_version: str | None = None
    kept: tuple[str, ...] = ()
    files: dict[str, str] = {}
    expired: bool = False
    fetched_at: str = ""

    def age(self) -> str:
        """A note that its suite's index had expired; empty if it had not."""
        return (
            f"the package list of {self.suite} had expired when this was fetched (a frozen mirror?)"
            if self.expired
            else ""
        )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted.

    Attributes:
        name: its name in the catalogue, or the path that the user gave.
        program: the User-mode Linux program, or the image that QEMU boots.
        modules: directory with its modules, at any depth.
        record: what was fetched; None for a kernel that the user built.
        guest: what boots it.
        instead: that it was taken in place of another one, and why (`harness.guest.fallback`).
        built: what dmsnap built it of, in words; empty if it did not (`harness.guest.build`).
        lacks: options that it was to have and has not, of one that dmsnap built.
    """

    name: str
    program: Path
    modules: Path
    record: Manifest | None = None
    guest: Guest = UML
    instead: str = ""
    built: str = ""
    lacks: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """Kernel release as far as known from outside; the guest's uname is authoritative."""
        return self.record.release if self.record else self.modules.name


def vm_file(name: str) -> Path:
    """A file of ``vm/``: next to the package in a checkout, inside it when installed.

    Raises:
        ProvisioningError: dmsnap is installed without it.
    """
    package = Path(__file__).parent.parent
    for directory in (package / "vm", package.parent / "vm"):
        if (directory / name).is_file():
            return directory / name
    raise ProvisioningError(
        f"vm/{name} is missing from this installation of dmsnap; reinstall it "
        "(pip install --force-reinstall dmsnap)"
    )


def entries() -> tuple[Entry, ...]:
    """The ready-made kernels: by kind of guest, oldest first."""
    document = tomllib.loads(vm_file("kernels.toml").read_text())
    return msgspec.convert(document["kernel"], tuple[Entry, ...])


def default() -> str:
    """Name of the default kernel: the newest stable one that needs nothing extra on the host."""
    return [entry.name for entry in entries() if entry.stable and entry.guest == UML][-1]


def entry_of(name: str) -> Entry:
    """The catalogue's entry.

    Raises:
        ProvisioningError: there is no such kernel.
    """
    known = entries()
    for entry in known:
        if entry.name == name:
            return entry
    close = get_close_matches(name, [entry.name for entry in known], 2)
    meant = f" did you mean {' or '.join(close)}?" if close else ""
    raise ProvisioningError(
        f"no kernel is called {name!r};{meant} the catalogue has "
        f"{', '.join(entry.name for entry in known)}; "
        "to use a kernel you built, give --kernel PATH --modules DIR"
    )


def cache_dir() -> Path:
    """Where fetched kernels are kept; the directory need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of base directories: relative paths must be ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "dmsnap" / "kernels"


def find(name: str) -> Kernel | None:
    """A kernel of the catalogue if it is cached and complete, else None.

    Raises:
        ProvisioningError: the catalogue has no such kernel.
    """
    return _load(entry_of(name))


def installed() -> list[Kernel]:
    """The cached kernels, in the catalogue's order."""
    return [kernel for entry in entries() if (kernel := _load(entry))]


def get(name: str) -> Kernel:
    """A kernel that is cached.

    Raises:
        ProvisioningError: it is not cached, or not known; says how to fetch it.
    """
    kernel = find(name)
    if kernel is None:
        raise ProvisioningError(
            f"kernel {name} is not cached yet; fetch it with `dmsnap kernels fetch {name}`"
        )
    return kernel


def _load(entry: Entry) -> Kernel | None:
    name = entry.name
    home = cache_dir() / name
    try:
        record = msgspec.json.decode((home / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    kernel = Kernel(name, home / "linux", home / "modules" / record.release, record, entry.guest)
    # In a cache that was copied elsewhere, the program's interpreter path is wrong.
    whole = (
        record.manifest_version == MANIFEST_VERSION
        and record.name == name
        and (record.home == str(home) or record.libc_version is None)
        and record.package == entry.package
        # One fetched when scenarios needed fewer modules lacks some.
        and record.kept == _kept(entry)
        and os.access(kernel.program, os.R_OK if entry.guest == QEMU else os.X_OK)
        and kernel.modules.is_dir()
    )
    return kernel if whole else None


def _kept(entry: Entry) -> tuple[str, ...]:
    from harness.guest.catalogue import KEPT

    return KEPT if entry.guest == QEMU else ()


def check_room(wanted: Sequence[Entry], *, refresh: bool = False) -> None:
    """Check that the cache has room for those kernels of ``wanted`` that are not in it.

    Args:
        wanted: of the catalogue.
        refresh: cached ones will be fetched again.

    Raises:
        ProvisioningError: it does not; how much is missing.
    """
    missing = [entry for entry in dict.fromkeys(wanted) if refresh or _load(entry) is None]
    if not missing:
        return
    # One after another; what is already cached is replaced.
    needed = KEPT_BYTES * (len(missing) - 1) + max(ROOM_BYTES[entry.guest] for entry in missing)
    check_free(cache_dir(), needed, ", ".join(entry.name for entry in missing))


def check_free(directory: Path, needed: int, what: str) -> None:
    """Check that ``directory``, which need not exist, has room for ``what``.

    Raises:
        ProvisioningError: it does not.
    """
    place = directory
    while not place.exists():
        place = place.parent
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    if free < needed:
        raise ProvisioningError(
            f"{what} needs {needed >> 20} MiB in {directory}, where {free >> 20} MiB are "
            "free; free some, or set XDG_CACHE_HOME to a directory with room"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_HASH_BYTES):
            digest.update(part)
    return digest.hexdigest()


def answers(program: Path) -> tuple[bool, str]:
    """Whether a User-mode Linux program runs here, and its version or why it does not."""
    try:
        done = subprocess.run(
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_LIMIT_S,
            env={"LC_ALL": "C", "PATH": os.defpath},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer to --version within {_VERSION_LIMIT_S:.0f} s"
    except OSError as fault:
        return False, str(fault.strerror)
    said = done.stdout.decode(errors="replace").strip()
    lines = said.splitlines() or [f"exit status {done.returncode}"]
    return done.returncode == 0, lines[0]


TRANSPORT: Final = ("virtio_pci", "9pnet_virtio", "9p")
"""Modules that mount the host's file system."""
SUBJECT: Final = (
    "dm-mod",
    "dm-bufio",
    "dm-snapshot",
    "dm-zero",
    "dm-flakey",
    "dm-delay",
    "dm-dust",
    "dm-log-writes",
    "loop",
    "brd",
    "nbd",
    "veth",
)
"""Modules that scenarios use; the guest loads these itself (`harness.kernel.modules`)."""
KEPT: Final = (*TRANSPORT, *SUBJECT)
"""Modules kept from a distribution, if it has them."""
