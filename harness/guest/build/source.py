"""A User-mode Linux of a kernel tree: laid out, configured, built by kbuild, set aside to be run.

Each tree has a place in the cache, ``$XDG_CACHE_HOME/dmsnap/builds/KEY``, by its path and presets:

    source/     what kbuild sees of the tree (`harness.guest.build.tree`)
    objects/    where it builds (``O=``): a second build is as quick as kbuild is
    made/ID/    program and modules as they were after one build, by their contents: guests run
                these, while the next build is under way
    build.log   what make printed last

Two builds of one place wait for each other.  One that was cut short goes on the next time.
"""

import datetime
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import BuildFailed, ProvisioningError
from harness.files import write_whole
from harness.guest import trust
from harness.guest.build import config, kbuild, needs
from harness.guest.build.tree import Tree, lay_out, place_name, users_words
from harness.guest.catalogue import Kernel, Progress, cache_dir, check_free, sha256_of
from harness.guest.lock import locked

RECORD: Final = "built.json"
ROOM_BYTES: Final = 1500 << 20
"""Objects of one kernel; with detectors, three times those of a plain one."""
_MADE_MAX: Final = 4
"""Builds of one place that are kept: guests of an earlier one may still run."""
_ARCH: Final = "ARCH=um"
_QUIET: Final = ("LOCALVERSION=", "KCFLAGS=-Wno-error", "HOSTCFLAGS=-Wno-error")


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What was built.

    Attributes:
        name: of the kernel.
        source: the tree, or the package that it came from.
        version: what its Makefile says; and the release that was built.
        presets: of `harness.guest.build.config`.
        replaced: file of the tree → SHA-256 of what stood in its place.
        shims: what was done so that it fits, in words.
        lacking: options that the fragment asks for and the tree does not have.
        options: option → value, of those that are on.
        built_at: ISO 8601, UTC.
    """

    name: str
    source: str
    version: str
    release: str
    presets: tuple[str, ...] = ()
    replaced: dict[str, str] = {}
    shims: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    options: dict[str, str] = {}
    built_at: str = ""

    def words(self) -> str:
        """What it was built of, for a user."""
        parts = [f"built of {self.source} ({self.version})"]
        parts += [f"preset {name}" for name in self.presets]
        parts += [f"{name} sha256 {digest[:16]}" for name, digest in self.replaced.items()]
        return ", ".join([*parts, *self.shims])


def builds_dir() -> Path:
    """Where trees have their places; it need not exist."""
    return cache_dir().parent / "builds"


def place_of(tree: Tree, presets: Sequence[str]) -> Path:
    """The place of a tree in the cache; it need not exist."""
    return builds_dir() / place_name(tree, presets)


def build(
    tree: Tree,
    *,
    presets: Sequence[str] = (),
    flags: Sequence[str] = (),
    shims: Sequence[str] = (),
    source: str = "",
    name: str = "",
    progress: Progress = lambda _line: None,
) -> Kernel:
    """A User-mode Linux of that tree, as it is now.

    Args:
        tree: of the kernel.
        presets: of `harness.guest.build.config`.
        flags: variables for make beyond those that all builds have.
        shims: what they, and files laid over, are for, in words.
        source: what the user called the tree; by default its path.
        name: of the kernel; by default after the tree and its presets.
        progress: told in one line each what happens.

    Raises:
        BuildFailed: kbuild or the compiler says no; their lines.
        ProvisioningError: something is missing on this machine; cause and cure.
    """
    place = place_of(tree, presets)
    kbuild.check()
    kbuild.refuse_spaces(place)
    trust.check_ours(place)
    name = name or "+".join([tree.name, *presets])
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / ".lock", lambda line: progress(f"{name}: {line}")):
            if not (place / "objects").is_dir():
                check_free(place, ROOM_BYTES, f"a build of {tree.path}")
            record = _build_locked(tree, tuple(presets), flags, place, progress)
            record = msgspec.structs.replace(
                record, name=name, source=source or str(tree.path), shims=tuple(shims)
            )
            return _set_aside(place, record)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot build in the cache {place}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory"
        ) from fault


def _build_locked(
    tree: Tree, presets: tuple[str, ...], flags: Sequence[str], place: Path, progress: Progress
) -> Built:
    farm, objects, log = place / "source", place / "objects", place / kbuild.LOG
    fresh = not (objects / "linux").is_file()
    farm.mkdir(exist_ok=True)
    lay_out(tree, farm)
    text = config.fragment(presets)
    wanted = place / "wanted.config"
    write_whole(wanted, text.encode())
    objects.mkdir(exist_ok=True)
    words = [f"O={objects}", _ARCH, *_QUIET, *flags]
    what = f"Linux {tree.version} for User-mode"
    if fresh:
        progress(
            f"{what} is built for the first time, which takes minutes; later builds take "
            "what has changed"
        )
    try:
        kbuild.make(farm, [*words, f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig"], log=log)
        got = config.options((objects / ".config").read_text(encoding="utf-8"))
        lacking = config.lacking(config.options(text), got)
        _check_lacking(lacking, presets, tree)
        kbuild.make(farm, [*words, "all"], log=log, progress=progress, what=what)
    except BuildFailed as fault:
        raise BuildFailed(users_words(tree, farm, str(fault))) from None
    release = (objects / "include/config/kernel.release").read_text(encoding="utf-8").strip()
    return Built(
        name="",
        source="",
        version=tree.version,
        release=release,
        presets=presets,
        replaced={path: hashlib.sha256(tree.laid_over[path]).hexdigest() for path in tree.replaced},
        lacking=tuple(sorted(lacking)),
        options={option: value for option, value in got.items() if value in ("y", "m")},
        built_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _check_lacking(lacking: Mapping[str, str], presets: Sequence[str], tree: Tree) -> None:
    """See that a tree has what guests cannot do without, and what each preset is about.

    Raises:
        BuildFailed: it has not; all of it.
    """
    base = config.options(config.fragment())
    vital = [name for name in lacking if name in base and name not in needs.OPTIONAL]
    beside = [name for name in map(config.about, presets) if name in lacking]
    if vital or beside:
        raise BuildFailed(
            f"Linux {tree.version} for User-mode has no {', '.join([*vital, *beside])}: "
            + (
                "no guest of dmsnap can be built of it (`dmsnap config` says what each is for)"
                if vital
                else f"leave out --preset {' '.join(presets)}"
            )
        )


def _set_aside(place: Path, record: Built) -> Kernel:
    """Put program and modules where no later build changes them."""
    objects = place / "objects"
    modules = sorted(path for path in objects.rglob("*.ko"))
    digest = hashlib.sha256(
        msgspec.json.encode(
            [
                record.name,
                record.source,
                sha256_of(objects / "linux"),
                *((path.name, sha256_of(path)) for path in modules),
            ]
        )
    ).hexdigest()[:16]
    home = place / "made" / digest
    if not (home / RECORD).is_file():
        home.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=home.parent) as work:
            fresh = Path(work, "kernel")
            directory = fresh / "modules" / record.release
            for path in modules:
                target = directory / "kernel" / path.relative_to(objects)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            shutil.copy(objects / "linux", fresh / "linux")
            shutil.copyfile(objects / ".config", fresh / "config")
            write_whole(fresh / RECORD, msgspec.json.format(msgspec.json.encode(record)))
            if home.exists():
                home.rename(Path(work, "old"))
            fresh.rename(home)
    os.utime(home)
    _forget_old(home.parent)
    return load(home)


def _forget_old(directory: Path) -> None:
    made = sorted(directory.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime_ns)
    for old in made[:-_MADE_MAX]:
        shutil.rmtree(old, ignore_errors=True)


def load(home: Path) -> Kernel:
    """The kernel that was set aside there.

    Raises:
        ProvisioningError: there is none, or it is not whole.
    """
    try:
        record = msgspec.json.decode((home / RECORD).read_bytes(), type=Built)
    except (OSError, msgspec.MsgspecError):
        raise ProvisioningError(f"{home} holds no kernel that dmsnap built") from None
    return Kernel(
        record.name,
        home / "linux",
        home / "modules" / record.release,
        built=record.words(),
        lacks=record.lacking,
    )
