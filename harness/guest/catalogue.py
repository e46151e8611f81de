"""The kernels that dmsnap can run: the ready-made ones, what of them is cached, and one's own.

`vm/kernels.toml` names Debian suites; a kernel is fetched once (`harness.guest.apt`) into
``$XDG_CACHE_HOME/dmsnap/kernels/NAME``:

    linux           the User-mode Linux program, or the image that QEMU boots
    modules/RELEASE its modules, or what guests need of them
    libc/           the suite's C library, where the host's is too old for the program
    manifest.json   what was fetched, when, from which suite; written last

Everything is unpacked into a sibling directory that is renamed when the manifest is in it, under
a lock, so a download that was cut short is never taken for a kernel and two that meet do the
work once.  Nothing here knows how a guest is started.
"""

import datetime
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

_VERSION_LIMIT_S: Final = 20.0
_HASH_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 4096
_BOOT_MAGIC_AT: Final = 0x202
_PT_LOAD: Final = 1

Progress = Callable[[str], None]
"""Takes one line for the user."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ready-made kernel of the catalogue (the fields are told in vm/kernels.toml)."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    suite: str
    package: str
    stable: bool
    about: str = ""
    guest: Literal["uml", "qemu"] = UML


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched.

    Attributes:
        home: directory it was made for; the program's interpreter may point into it.
        package_sha256, program_sha256: of the .deb, and of the program as it is run.
        libc_version: version of the suite's libc6, None where the host's serves.
        kept: modules that were looked for, of a kernel of which not all are kept.
        expired: the mirror's index was past its date and taken all the same.
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
    expired: bool = False
    fetched_at: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted.

    Attributes:
        name: its name in the catalogue, or the path that the user gave.
        program: the User-mode Linux program, or the image that QEMU boots.
        modules: directory that holds its modules, at any depth.
        record: what was fetched; None for a kernel that the user built.
        guest: what boots it.
    """

    name: str
    program: Path
    modules: Path
    record: Manifest | None = None
    guest: Guest = UML

    @property
    def release(self) -> str:
        """Kernel release as far as known from outside; the guest's own uname has the last word."""
        return self.record.release if self.record else self.modules.name


def vm_file(name: str) -> Path:
    """A file of ``vm/``: beside the package in a checkout, inside it when installed.

    Raises:
        ProvisioningError: dmsnap is installed without it.
    """
    package = Path(__file__).parent.parent
    for directory in (package / "vm", package.parent / "vm"):
        if (directory / name).is_file():
            return directory / name
    raise ProvisioningError(f"vm/{name} is missing from this installation of dmsnap; install it "
                            "again (pip install --force-reinstall dmsnap)")


def entries() -> tuple[Entry, ...]:
    """The ready-made kernels: by guest, and there the oldest first."""
    document = tomllib.loads(vm_file("kernels.toml").read_text())
    return msgspec.convert(document["kernel"], tuple[Entry, ...])


def default() -> str:
    """Name of the default kernel: the newest stable one that needs nothing else on the host."""
    return [entry.name for entry in entries() if entry.stable and entry.guest == UML][-1]


def entry_of(name: str) -> Entry:
    """The catalogue's entry.

    Raises:
        ProvisioningError: there is none of that name.
    """
    known = entries()
    for entry in known:
        if entry.name == name:
            return entry
    raise ProvisioningError(
        f"no kernel is called {name!r}; the catalogue has "
        f"{', '.join(entry.name for entry in known)}; "
        "a kernel of your own is given as --kernel PATH --modules DIR")


def cache_dir() -> Path:
    """Where fetched kernels are kept; the directory need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of base directories: a path that is not absolute is to be ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "dmsnap" / "kernels"


def find(name: str) -> Kernel | None:
    """A kernel of the catalogue that is cached and whole, else None.

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
        ProvisioningError: it is not, or not known; says how to fetch it.
    """
    kernel = find(name)
    if kernel is None:
        raise ProvisioningError(f"kernel {name} is not on this machine yet; fetch it with "
                                f"`dmsnap kernels fetch {name}`")
    return kernel


def _load(entry: Entry) -> Kernel | None:
    name = entry.name
    home = cache_dir() / name
    try:
        record = msgspec.json.decode((home / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    kernel = Kernel(name, home / "linux", home / "modules" / record.release, record, entry.guest)
    # A cache that was copied elsewhere has a program whose interpreter is somewhere else.
    whole = (record.manifest_version == MANIFEST_VERSION and record.name == name
             and (record.home == str(home) or record.libc_version is None)
             and record.package == entry.package
             # One that was fetched when scenarios worked with fewer modules lacks some.
             and record.kept == _kept(entry)
             and os.access(kernel.program, os.R_OK if entry.guest == QEMU else os.X_OK)
             and kernel.modules.is_dir())
    return kernel if whole else None


def _kept(entry: Entry) -> tuple[str, ...]:
    from harness.guest.initramfs import KEPT

    return KEPT if entry.guest == QEMU else ()


def fetch(name: str, *, progress: Progress = lambda _line: None,
          refresh: bool = False) -> Kernel:
    """Bring a kernel of the catalogue into the cache; nothing is done where it is there.

    Args:
        name: of the catalogue.
        progress: told in one line each what happens.
        refresh: fetch what the suite holds today, and replace what is cached.

    Raises:
        ProvisioningError: it cannot be fetched; cause and cure.
    """
    entry = entry_of(name)
    if not refresh and (kernel := _load(entry)):
        return kernel
    parent = cache_dir()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _lock(parent / f".{name}.lock", progress):
            if not refresh and (kernel := _load(entry)):
                return kernel  # somebody else fetched it while we waited
            _fetch_locked(entry, parent, progress)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot write into the cache {parent}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory") from fault
    kernel = _load(entry)
    if kernel is None:
        raise ProvisioningError(f"kernel {name} vanished from {parent} as soon as it was there; "
                                "something else cleans that directory, set XDG_CACHE_HOME")
    return kernel


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one kernel; it ends with the process, however that ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is fetching it, waiting")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _fetch_locked(entry: Entry, parent: Path, progress: Progress) -> None:
    from harness.guest import apt, image

    prefix = f".{entry.name}.part-"
    for leftover in parent.glob(f"{prefix}*"):
        # We hold the lock: whoever made it was cut short.
        progress("removing what an attempt that was cut short left behind")
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as work:
        # Its own subdirectory, because mkdtemp makes one that others cannot read.
        fresh = Path(work, "kernel")
        fresh.mkdir()
        home = parent / entry.name
        if entry.guest == QEMU:
            got = image.fetch_image(suite=entry.suite, package=entry.package, into=fresh,
                                    work=Path(work), progress=progress)
        else:
            got = apt.fetch_kernel(suite=entry.suite, package=entry.package, into=fresh,
                                   home=home, work=Path(work), progress=progress)
        manifest = Manifest(
            name=entry.name, home=str(home), suite=entry.suite, package=entry.package,
            version=got.version, release=got.release, package_sha256=got.sha256,
            program_sha256=sha256_of(fresh / "linux"), libc_version=got.libc_version,
            kept=_kept(entry), expired=got.expired,
            fetched_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        _write_durably(fresh / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
        if os.path.lexists(home):
            # Not one step, but a reader that comes between finds no kernel, never half of one.
            home.rename(Path(work, "old"))
        fresh.rename(home)
    progress(f"kernel {got.release} from {entry.package} {got.version} is ready")


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        # The rename must not become durable before the files that it vouches for.
        os.sync()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_HASH_BYTES):
            digest.update(part)
    return digest.hexdigest()


def custom(program: Path, modules: Path, guest: str | None = None) -> Kernel:
    """A kernel that the user built (``--kernel PATH --modules DIR``).

    Args:
        program: the ``linux`` that a build with ARCH=um leaves, or an x86-64 bzImage or vmlinux.
        modules: a directory with dm-snapshot.ko somewhere in it: the build tree, or what
            ``make modules_install`` filled.
        guest: what is to boot it; by default what it is made for.

    Raises:
        ProvisioningError: one of them is not what it should be; cause and cure.
    """
    program, modules = program.absolute(), modules.absolute()
    if not program.is_file():
        raise ProvisioningError(f"--kernel {program}: there is no such file; give the program "
                                "`linux` that `make ARCH=um` builds, or a bzImage")
    if not modules.is_dir():
        raise ProvisioningError(f"--modules {modules}: there is no such directory; give the one "
                                "that `make modules_install INSTALL_MOD_PATH=DIR` filled")
    image = guest == QEMU or (guest is None and is_image(program))
    if not image:
        _check_program(program)
    _check_modules(modules, compressed=image)
    # A tree of modules_install is named after the release that it is for.
    releases = sorted(modules.glob("lib/modules/*/"))
    return Kernel(str(program), program, releases[0] if len(releases) == 1 else modules,
                  guest=QEMU if image else UML)


def is_image(program: Path) -> bool:
    """Whether a file is a kernel for a machine (bzImage, vmlinux), not a User-mode Linux program.

    A bzImage says so (Documentation/arch/x86/boot.rst); of two ELF programs it is the one that
    wants to be loaded into the upper half of the address space.
    """
    with program.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[_BOOT_MAGIC_AT:][:4] == b"HdrS":
        return True
    if head[:5] != b"\x7fELF\x02" or len(head) < _HEAD_BYTES:
        return False
    start, = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    headers = [struct.unpack_from("<IIQQ", head, at)
               for at in range(start, min(start + size * count, _HEAD_BYTES - 56), size or 56)]
    return any(kind == _PT_LOAD and address >> 63 for kind, _flags, _offset, address in headers)


def _check_program(program: Path) -> None:
    if not os.access(program, os.X_OK):
        raise ProvisioningError(f"--kernel {program} is not executable; if it is the program that "
                                f"`make ARCH=um` built: chmod +x {program}")
    ok, said = answers(program)
    if not ok:
        raise ProvisioningError(f"--kernel {program} does not start ({said}); give a User-mode "
                                "Linux program that runs on this machine (`linux --version`)")


def _check_modules(modules: Path, *, compressed: bool) -> None:
    if next(modules.rglob(MODULE), None) is not None:
        return
    packed = next(modules.rglob(f"{MODULE}.*"), None)
    if packed is not None and compressed and packed.suffix == ".xz":
        return
    cure = (f"decompress it: {packed} cannot be inserted as it is" if packed else
            "build it with CONFIG_DM_SNAPSHOT=m and give the directory it was built in")
    raise ProvisioningError(f"--modules {modules} holds no {MODULE}; {cure}")


def answers(program: Path) -> tuple[bool, str]:
    """Whether a User-mode Linux program runs here, and its version, or why it does not."""
    try:
        done = subprocess.run([str(program), "--version"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=_VERSION_LIMIT_S, env={"LC_ALL": "C", "PATH": os.defpath},
                              check=False)
    except subprocess.TimeoutExpired:
        return False, f"no answer to --version within {_VERSION_LIMIT_S:.0f} s"
    except OSError as fault:
        return False, str(fault.strerror)
    said = done.stdout.decode(errors="replace").strip()
    lines = said.splitlines() or [f"exit status {done.returncode}"]
    return done.returncode == 0, lines[0]
