"""Kernels that the user had built and keeps under a name (``dmsnap kernels build``)."""

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import ProvisioningError
from harness.guest import catalogue, trust
from harness.guest.build.source import RECORD, Built, load
from harness.guest.catalogue import Kernel
from harness.guest.lock import locked

NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")


def directory() -> Path:
    """Where they are kept; it need not exist."""
    return catalogue.cache_dir().parent / "kept"


def check_name(name: str) -> None:
    """See that a kernel may have that name.

    Raises:
        ProvisioningError: it may not.
    """
    if not NAME.match(name) or name in ("all", "vagrant", "here"):
        raise ProvisioningError(
            f"a kernel cannot be called {name!r}: letters, digits and . _ + - are allowed, at "
            "most 64 of them"
        )
    if name in [entry.name for entry in catalogue.entries()]:
        raise ProvisioningError(f"{name} is a kernel of the catalogue: choose another name")


def keep(kernel: Kernel, name: str) -> Kernel:
    """Keep a kernel that was built; what had its name before is gone.

    Raises:
        ProvisioningError: it cannot be called so, or not be written.
    """
    check_name(name)
    trust.check_ours(directory())
    home = directory() / name
    try:
        directory().mkdir(parents=True, exist_ok=True)
        with (
            locked(directory() / f".{name}.lock", lambda _line: None),
            tempfile.TemporaryDirectory(prefix=f".{name}.part-", dir=directory()) as work,
        ):
            fresh = Path(work, "kernel")
            shutil.copytree(kernel.program.parent, fresh)
            record = msgspec.json.decode((fresh / RECORD).read_bytes(), type=Built)
            (fresh / RECORD).write_bytes(
                msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(record, name=name)))
            )
            if home.exists():
                home.rename(Path(work, "old"))
            fresh.rename(home)
    except OSError as fault:
        raise ProvisioningError(
            f"cannot keep {name} in {home}: {fault.strerror}; free space or correct its "
            "permissions, or set XDG_CACHE_HOME to another directory"
        ) from fault
    return replace(load(home), name=name)


def names() -> list[str]:
    """Of the kernels that are kept, in order."""
    if not directory().is_dir():
        return []
    return sorted(path.parent.name for path in directory().glob(f"[!.]*/{RECORD}"))


def get(name: str) -> Kernel:
    """A kernel that is kept.

    Raises:
        ProvisioningError: there is none of that name, or others could change it.
    """
    trust.check_ours(directory() / name)
    return load(directory() / name)
