"""The promise model stays plain: a reader who knows the documentation and no code can check it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPTH_MAX = 3
DEEPER = (
    ast.For,
    ast.While,
    ast.If,
    ast.With,
    ast.Try,
    ast.Match,
    ast.FunctionDef,
    ast.Lambda,
    ast.comprehension,
)
"""What a reader has to keep in mind while reading what is inside."""


def depth(node: ast.AST) -> int:
    """How many levels lie within ``node``, the loops of a comprehension among them."""
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return len(node.generators) + max(map(depth, ast.iter_child_nodes(node)))
    return max(
        (_level(node, child) + depth(child) for child in ast.iter_child_nodes(node)), default=0
    )


def _level(parent: ast.AST, child: ast.AST) -> int:
    """1 if ``child`` is one level deeper; an ``elif`` is no deeper than its ``if``."""
    if isinstance(parent, ast.If) and isinstance(child, ast.If) and parent.orelse == [child]:
        return 0
    return int(isinstance(child, DEEPER) and not isinstance(child, ast.comprehension))


def functions(source: str) -> dict[str, int]:
    """Depth of each function, by name and line."""
    return {
        f"{node.name}, line {node.lineno}": depth(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("pass", 0),
        ("if a:\n  pass\n elif b:\n  pass\n elif c:\n  pass\n else:\n  pass", 1),
        ("if a:\n  pass\n else:\n  x = 1\n  if b:\n   pass", 2),
        ("for a in b:\n  with c:\n   match d:\n    case 1:\n     if e:\n      pass", 4),
        ("try:\n  while a:\n   pass\n except E:\n  for b in c:\n   if d:\n    pass", 3),
        ("return any(a for a in b for c in d if e)", 2),
        ("return [{a for a in b} for c in d]", 2),
        ("def g():\n  if a:\n   return lambda: 1", 3),
    ],
)
def test_depth_is_counted(body: str, wanted: int) -> None:
    assert max(functions(f"def f():\n {body}\n").values()) == wanted


@pytest.mark.parametrize(
    "path", sorted((ROOT / "harness" / "promises").glob("*.py")), ids=lambda path: path.stem
)
def test_no_function_nests_deep(path: Path) -> None:
    deep = {
        name: levels for name, levels in functions(path.read_text()).items() if levels > DEPTH_MAX
    }
    assert not deep
