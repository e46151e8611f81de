"""A kernel tree of the user's, and what kbuild sees of it: a directory of links, in our cache.

kbuild builds out of a tree (``O=``) only if nobody has built *in* it, if its path has neither
spaces nor colons, and leaves it alone only almost.  So it never sees the tree.  It sees a farm: the
tree's directories as links, those that hold something that a build left as real ones with a link
for each source file, and files laid over (``--replace``) as copies.  What the links lead to has the
time that it has in the tree, so kbuild itself finds what has changed.

What a build leaves is known by the patterns of kbuild's own ``make clean`` and ``mrproper``
(kernel: Makefile).  The tree's .gitignore says more of it, but Debian's ignores every file.

Left out on purpose: a tree's ``.git``.  Without it the release of a kernel does not change with
each commit, which would build every module anew.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from harness.errors import BadTrace, BuildFailed, ProvisioningError
from harness.files import read_given

MD: Final = "drivers/md"
NEEDED: Final = ("Makefile", "Kbuild", "Kconfig", "scripts", "arch", "drivers/md/dm-snap.c")
"""Files without which a directory is no kernel tree; that of a kernel since 2.6."""
FILE_BYTES_MAX: Final = 8 << 20
"""Of a file that is laid over."""
LINKS_MAX: Final = 200_000
"""Entries of a tree: Linux 6.12 has 92,000."""
_VERSION_BYTES_MAX: Final = 1 << 16
_LEFT_SUFFIX: Final = re.compile(
    r"\.(?:[aios]|rsi|ko(?:\..*)?|dtbo?|dtbo?\.S|dt\.yaml|dwo|lst|su|mod|mod\.c|lex\.[ch]|tab\.[ch]"
    r"|asn1\.[ch]|symtypes|c\.[012].*\..*|ll|gcno|order|symvers|rmeta|so|so\.dbg|elf|orig|rej)$"
)
"""kernel: Makefile, targets clean, mrproper and distclean; what is no source by its name."""
_LEFT_PATHS: Final = re.compile(
    r"include/(?:config|generated)|arch/[^/]+/include/generated|vmlinux(?:\..*)?|linux"
    r"|System\.map|modules\.builtin.*|certs/(?:signing_key\.pem|x509\.genkey)|debian"
)
_VERSION: Final = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", re.M)


@dataclass(frozen=True, slots=True)
class Tree:
    """A kernel tree.

    Attributes:
        path: absolute, links resolved.
        version: what its Makefile says, such as 6.12.117.
        replaced: file of the tree → the file whose text stands in its place.
        laid_over: file of the tree → the text that stands in its place: that, and shims.
    """

    path: Path
    version: str
    replaced: Mapping[str, Path] = field(default_factory=dict)
    laid_over: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called where nobody has given it a name."""
        return _called(self.path) + ("+replaced" if self.replaced else "")


def _called(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.name).strip("-.") or "linux"


def open_tree(path: Path, replaced: Mapping[str, Path] | None = None) -> Tree:
    """The kernel tree at ``path``.

    Args:
        path: a directory.
        replaced: file of the tree → what is to stand in its place.

    Raises:
        ProvisioningError: it is none, it cannot be read, or has no such file; cause and cure.
    """
    place = Path(os.path.realpath(path))
    if not place.is_dir():
        raise ProvisioningError(
            f"--source {path}: there is no such directory; give the top of a kernel tree, or "
            "debian:VERSION for Debian's linux-source package"
        )
    missing = [name for name in NEEDED if not (place / name).exists()]
    if missing:
        raise ProvisioningError(
            f"--source {path} is not the top of a kernel tree: it has no {', '.join(missing)}"
        )
    if not (place / "arch/um/Makefile").is_file():
        raise ProvisioningError(
            f"--source {path} has no arch/um, so no User-mode Linux can be built of it: give a "
            "whole tree, or name a kernel for which modules are to be built (--kernel deb-6.12)"
        )
    try:
        with (place / "Makefile").open(errors="replace") as file:
            numbers = dict(_VERSION.findall(file.read(_VERSION_BYTES_MAX)))
    except OSError as fault:
        raise ProvisioningError(
            f"--source {path}: its Makefile cannot be read ({fault.strerror})"
        ) from None
    version = ".".join(
        numbers[part] for part in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if numbers.get(part)
    )
    if not version:
        raise ProvisioningError(f"--source {path}: its Makefile says no version of Linux")
    version += numbers.get("EXTRAVERSION", "")
    files = dict(replaced or {})
    return Tree(
        place, version, files, {name: _replacement(place, name, files[name]) for name in files}
    )


def _replacement(tree: Path, name: str, file: Path) -> bytes:
    inside = Path(name)
    if inside.is_absolute() or ".." in inside.parts or not (tree / inside).is_file():
        raise ProvisioningError(
            f"--replace {name}={file}: the tree has no file {name}; name one as it is called from "
            f"the top of the tree, such as {MD}/dm-snap.c"
        )
    try:
        return read_given(file, FILE_BYTES_MAX)
    except (OSError, BadTrace) as fault:
        raise ProvisioningError(
            f"--replace {name}={file}: that cannot be read ({fault}); give the file that is to "
            f"stand in the place of {name}"
        ) from None


def place_name(tree: Tree, presets: Sequence[str] = ()) -> str:
    """The name of a tree's place in the cache: by its path and presets."""
    words = [str(tree.path), *presets]
    key = hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()
    return f"{_called(tree.path)}-{key[:12]}"


def users_words(tree: Tree, farm: Path, text: str) -> str:
    """What a build printed, with the user's files in the place of the farm's."""
    for name, file in tree.replaced.items():
        text = text.replace(str(farm / name), str(file))
    return text.replace(str(farm), str(tree.path))


def lay_out(tree: Tree, farm: Path) -> bool:
    """Make ``farm`` what kbuild is to see of a tree, or bring it up to date.

    Args:
        tree: the tree.
        farm: a directory of our own; it need not exist.

    Returns:
        Whether something in the tree was left by a build.

    Raises:
        BuildFailed: the tree cannot be read.
        OSError: the farm cannot be written.
    """
    # What was laid over once stays a copy: the tree's own file may be older than what was built.
    tree = replace(tree, laid_over={**_once_laid_over(tree, farm), **tree.laid_over})
    sources = _Sources(tree)
    _lay(tree, sources, "", farm)
    for name, text in tree.laid_over.items():
        place = farm / name
        # A file that is as it was keeps its time: kbuild builds nothing anew.
        if place.is_symlink() or not place.is_file() or place.read_bytes() != text:
            place.unlink(missing_ok=True)
            place.write_bytes(text)
    return bool(sources.left)


def _once_laid_over(tree: Tree, farm: Path) -> dict[str, bytes]:
    """Files of the tree in whose place a farm has copies → their text now."""
    found = {}
    for place, _, names in os.walk(farm):
        for path in (Path(place, name) for name in names):
            name = str(path.relative_to(farm))
            if not path.is_symlink() and (tree.path / name).is_file():
                found[name] = (tree.path / name).read_bytes()
    return found


class _Sources:
    """What of a tree is source, by directory (relative to the tree, the top is empty).

    Attributes:
        split: directories that cannot be one link → the names in them that are source.
        left: how many things a build has left.
    """

    def __init__(self, tree: Tree) -> None:
        self.split: dict[str, list[str]] = {}
        self.left = 0
        self._entries = 0
        # Relative includes find a replaced header, too, where the directories are real ones.
        self._forced = {"", *(str(parent) for name in tree.laid_over for parent in _above(name))}
        self._look(tree.path, "")

    def _look(self, directory: Path, inside: str) -> bool:
        """Look through a directory; whether all that is in it is source."""
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as fault:
            raise BuildFailed(
                f"{directory} of the kernel tree cannot be read: {fault.strerror}"
            ) from None
        self._entries += len(entries)
        if self._entries > LINKS_MAX:
            raise BuildFailed(
                f"the kernel tree holds more than {LINKS_MAX} files: move out of it what is not "
                "source"
            )
        names = {entry.name for entry in entries}
        source, whole = [], True
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if _is_left(path, entry.name, names):
                self.left += not entry.name.startswith(".git")
                whole = whole and entry.name.startswith(".")
                continue
            source.append(entry.name)
            if entry.is_dir(follow_symlinks=False) and not self._look(Path(entry.path), path):
                whole = False
        if not whole or inside in self._forced:
            self.split[inside] = source
        return whole and inside not in self._forced


def _above(name: str) -> Iterator[Path]:
    yield from (parent for parent in Path(name).parents if parent != Path())


def _is_left(path: str, name: str, beside: set[str]) -> bool:
    """Whether a build has left that, or an editor, or git; none of it is source."""
    return (
        name.startswith(".")
        or f".{name}.cmd" in beside
        or name.endswith("~")
        or _LEFT_SUFFIX.search(name) is not None
        or _LEFT_PATHS.fullmatch(path) is not None
    )


def _lay(tree: Tree, sources: _Sources, inside: str, farm: Path) -> None:
    if farm.is_symlink() or (farm.exists() and not farm.is_dir()):
        farm.unlink()
    farm.mkdir(parents=True, exist_ok=True)
    names = sources.split.get(inside, [])
    for old in farm.iterdir():
        if old.name not in names:
            _remove(old)
    for name in names:
        path = f"{inside}/{name}" if inside else name
        place = farm / name
        if path in sources.split:
            _lay(tree, sources, path, place)
        elif path not in tree.laid_over:
            target = tree.path / path
            if place.is_symlink() and place.readlink() == target:
                continue
            _remove(place)
            place.symlink_to(target)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
