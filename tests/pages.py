"""What pages say of the code and that follows from it (``make pages``): modules and figures.

What is between ``<!-- modules -->`` and ``<!-- end of modules -->`` is made anew: the modules of
each room.  So is what is between ``<!-- figure: NAME -->`` and ``<!-- end of figure -->``.  A test
sees that nothing is out of date.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
ROOMS = (
    "cli",
    "entry",
    "measure",
    "lvm",
    "fuzz",
    "campaign",
    "report",
    "verdict",
    "promises",
    "compare",
    "scenarios",
    "twin",
    "kernel",
    "guest",
    "wire",
    "trace",
    "store",
    "",
)
WITH_FIGURES = (ROOT / "README.md", ROOT / "docs" / "FIDELITY.md")
_FIGURE = re.compile(r"<!-- figure: (?P<name>[a-z]+) -->[^<]*<!-- end of figure -->")
_BETWEEN = re.compile(r"(?<=<!-- modules -->\n).*?(?=<!-- end of modules -->)", re.DOTALL)


def first_line(module: Path) -> str:
    """What the docstring of a module says first: up to its first full stop or colon's end."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def modules() -> str:
    """The modules of each room, as Markdown."""
    home = ROOT / "harness"
    parts = []
    for room in ROOMS:
        found = sorted(
            path
            for path in (home / room).glob("*.py" if not room else "**/*.py")
            if path.name != "__init__.py"
        )
        title = f"`harness/{room}/`" if room else "`harness/`"
        rows = [
            f"| `{path.relative_to(home / room).with_suffix('')}` | {first_line(path)} |"
            for path in found
        ]
        parts += [f"### {title}", "", "| module | what it is |", "|---|---|", *rows, ""]
    return "\n".join(parts)


def architecture(text: str) -> str:
    """The page with its tables as they should be."""
    return _BETWEEN.sub(lambda _match: modules(), text)


def figures(text: str) -> str:
    """A page with its figures as they should be.

    Raises:
        KeyError: there is no figure of that name.
    """
    from harness.scenarios.registry import choose

    known = {"scenarios": len(choose(()))}
    return _FIGURE.sub(
        lambda match: (
            f"<!-- figure: {match['name']} -->{known[match['name']]}<!-- end of figure -->"
        ),
        text,
    )


if __name__ == "__main__":
    for page in WITH_FIGURES:
        page.write_text(figures(page.read_text()))
    ARCHITECTURE.write_text(architecture(ARCHITECTURE.read_text()))
