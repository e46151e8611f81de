"""Small changes that let a file of another release be built in a tree (``--replace``).

Each is chosen by what the file uses and the tree does not have, never by a number, and is named
wherever the result is.  None changes what the module does.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.guest.build.tree import FILE_BYTES_MAX, MD, Tree

_EXCEPTION: Final = f"{MD}/dm-exception-store.h"
_BLKDEV: Final = "include/linux/blkdev.h"
_HASH_LIST: Final = re.compile(rb"\bstruct\s+(\w+)(?=\s+hash_list\s*;)")
_USE: Final = rb"\b%s_\w+\s*\([^;{]*\bhash_list\b"
_LISTS: Final = ((b"hlist_bl", b"hlist_bl_node"), (b"hlist", b"hlist_node"))
"""Functions of a kind of list (kernel: include/linux/) → the type of a member of it."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """What was chosen.

    Attributes:
        flags: variables for make.
        words: each shim in a line for the user.
    """

    flags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def fit(tree: Tree) -> tuple[Tree, Fitting]:
    """A tree in which the files that are laid over can be built, and what that took."""
    flags: list[str] = []
    words: list[str] = []
    laid_over = dict(tree.laid_over)
    for name in tree.replaced:
        text = tree.laid_over[name]
        if _uses(text, b"generic_make_request") and not _uses(
            _text(tree, _BLKDEV), b"generic_make_request"
        ):
            # ed00aabd5eb9 block: rename generic_make_request to submit_bio_noacct, 5.9
            flags.append(f"CFLAGS_{Path(name).stem}.o=-Dgeneric_make_request=submit_bio_noacct")
            words.append(f"shim for {name}: generic_make_request is submit_bio_noacct in this tree")
        header = laid_over.get(_EXCEPTION) or _text(tree, _EXCEPTION)
        there = _HASH_LIST.search(header)
        if Path(name).name == "dm-snap.c" and there and there[1] != _list_of(text):
            # Its only user is dm-snap.c.  (dm snapshot: make exception tables scalable, 5.2)
            laid_over[_EXCEPTION] = _HASH_LIST.sub(b"struct " + _list_of(text), header)
            words.append(
                f"shim for {name}: hash_list of {_EXCEPTION} is a {_list_of(text).decode()}, not a "
                f"{there[1].decode(errors='replace')}"
            )
    return replace(tree, laid_over=laid_over), Fitting(tuple(flags), tuple(words))


def _list_of(text: bytes) -> bytes:
    """What kind of list exceptions are in, by the functions that are used on it.

    Origins have a hash_list as well, always a ``list_head``.
    """
    for functions, kind in _LISTS:
        if re.search(_USE % functions, text):
            return kind
    return b"list_head"


def _uses(text: bytes, name: bytes) -> bool:
    return re.search(rb"\b" + name + rb"\b", text) is not None


def _text(tree: Tree, name: str) -> bytes:
    try:
        with (tree.path / name).open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError:
        return b""
