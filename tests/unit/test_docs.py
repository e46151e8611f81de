"""What the documents show is what the program does."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from harness import __version__
from harness.kernel import probe
from harness.promises import check as promise
from harness.scenarios import registry
from harness.scenarios.registry import Scenario
from harness.trace.steps import Write
from harness.twin import explore
from harness.twin.profile import PROFILES, Profile
from tests import pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES_MAX = 10


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scenario]:
    """The catalogue that the example alone makes."""
    entries: dict[str, Scenario] = {}
    monkeypatch.setattr(registry, "_scenarios", entries)
    [block] = re.findall(
        r"^```python scenario\n(.*?)^```",
        (DOCS / "adding-a-scenario.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    lines = block[block.index("@scenario") :].strip().splitlines()
    assert len(lines) <= LINES_MAX, "it is to take ten lines"
    exec(compile(block, "adding-a-scenario.md", "exec"), {"__name__": "harness.scenarios.shown"})
    return entries


def test_the_example_of_a_scenario_runs(shown: dict[str, Scenario]) -> None:
    assert list(shown) == ["last_sector_of_a_chunk[P]", "last_sector_of_a_chunk[N]"]
    for entry in shown.values():
        trace = entry.trace()
        seen = explore.run(trace.steps, trace.header.seed, Profile())
        assert not any(observation.error for observation in seen)
        assert promise.check(trace, seen) == ()
        [at] = [at for at, step in enumerate(trace.steps) if isinstance(step, Write)]
        [run, *_] = seen[at + 1].content["snap"]
        assert run.count == 7, "the other seven sectors are the origin's"


def test_fidelity_names_every_fact_and_real_scenarios() -> None:
    text = (DOCS / "FIDELITY.md").read_text()
    for fact in Profile().facts():
        assert f"`{fact}`" in text, fact
    named = set(re.findall(r"scenario `([a-z0-9_]+)`", text))
    bases = {name.partition("[")[0] for name in registry.catalogue()}
    assert named
    assert named <= bases, named - bases
    assert all(f"`{name}`" in text for name in PROFILES)


def test_what_the_probe_sends_is_what_it_says_and_what_the_profile_knows() -> None:
    tree = ast.parse(Path(probe.__file__).read_text())
    sent = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert "enoent" in sent
    assert sent <= set(Profile().facts())
    assert probe.__doc__
    listed = probe.__doc__.partition("The facts\n")[2].partition("\n\n")[0]
    said = {
        name
        for line in listed.splitlines()
        if line.startswith("    ") and line[4] != " "
        for name in re.split(r",\s*", line[4:].partition("  ")[0])
    }
    assert said == sent


@pytest.mark.parametrize("page", pages.WITH_FIGURES, ids=lambda page: page.name)
def test_figures_that_change_with_the_code_are_made_from_it(page: Path) -> None:
    text = page.read_text()
    assert "<!-- figure: scenarios -->" in text
    assert pages.figures(text) == text, "type: make pages"
    assert not re.search(r"[0-9]{3,} (scenarios|same|\*same\*)", text), "it would be out of date"


def test_architecture_names_every_module() -> None:
    text = pages.ARCHITECTURE.read_text()
    assert pages.architecture(text) == text, "type: make pages"
    for path in (ROOT / "harness").rglob("*.py"):
        if path.name != "__init__.py":
            assert f"| `{path.relative_to(ROOT / 'harness').with_suffix('').name}` |" in text or (
                f"/{path.stem}` |" in text
            ), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_is_unfinished(page: Path) -> None:
    assert "TODO" not in page.read_text()


def test_fragments_of_the_change_log_are_ones_that_towncrier_reads() -> None:
    kinds = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changelog.d").iterdir():
        if path.name != "README.md":
            slug, kind, suffix = path.name.split(".")
            assert slug, path
            assert (kind in kinds, suffix) == (True, "md"), path
            assert path.read_text().strip().endswith("."), f"{path}: whole sentences"


def test_releases_in_the_change_log_are_dated_and_the_newest_is_this_one() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    releases = [
        found[1]
        for head in heads
        if (found := re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", head))
    ]
    assert len(releases) == len(heads), heads
    assert releases[0] == PROJECT["project"]["version"] == __version__
