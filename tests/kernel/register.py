"""What `docs/KERNEL-DEFECTS.md` says in its table: which reproducer shows what on which release."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def read_register() -> dict[str, dict[str, set[str]]]:
    """Reproducer → release → permitted outcomes."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (DOCS / "KERNEL-DEFECTS.md").read_text().splitlines()
        if line.startswith("|")
    ]
    head, _, *body = rows
    releases = head[2:]
    said = {}
    for row in body:
        link = re.fullmatch(r"\[([a-z0-9-]+)\]\(#\1\)", row[0])
        assert link is not None, row[0]
        said[link[1]] = {
            release: set(cell.split(" or "))
            for release, cell in zip(releases, row[2:], strict=True)
        }
    return said


REGISTER = read_register()
