"""The register of known kernel defects, and which of them explain what a result shows.

The twin does as kernels do, and tells where that is a defect (`harness.twin.world.World.defect`);
the register gives the name its title and its place in docs/KERNEL-DEFECTS.md.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

PAGE: Final = "docs/KERNEL-DEFECTS.md"
NOT_SHOWN: Final = "not shown"


class Defect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A known defect.

    Attributes:
        name: of the entry, and of its reproducer.
        title: what it is, in a sentence.
        kind: what comes of it (crash, data loss …).
        scenarios: some of the catalogue in which it strikes.
        releases: kernel release → what its reproducer shows there.
    """

    name: str
    title: str
    kind: str
    scenarios: tuple[str, ...]
    releases: dict[str, str]


class KnownDefect(Struct, frozen=True):
    """A known defect that struck in a scenario.

    Attributes:
        name, title: as in the register.
        step: index of the step in which it first did.
        link: where to read of it.
    """

    name: str
    title: str
    step: int
    link: str

    def __str__(self) -> str:
        return f"known defect {self.name}, step {self.step}: {self.title} ({self.link})"


class _Register(Struct, frozen=True, forbid_unknown_fields=True):
    defect: tuple[Defect, ...]


@cache
def register() -> Mapping[str, Defect]:
    """Every known defect by name, in the order of the page."""
    text = Path(__file__).with_name("defects.toml").read_text(encoding="utf-8")
    entries = msgspec.convert(tomllib.loads(text), _Register).defect
    return {entry.name: entry for entry in entries}


def known(struck: Mapping[str, int], release: str) -> tuple[KnownDefect, ...]:
    """What the register says of those that struck in the twin, in the order in which they did.

    Args:
        struck: name → first step.
        release: of the kernel; what its reproducer does not show there is not that kernel's.
    """
    return tuple(
        KnownDefect(name, register()[name].title, step, f"{PAGE}#{name}")
        for name, step in struck.items()
        if register()[name].releases.get(release) != NOT_SHOWN
    )
