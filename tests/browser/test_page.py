"""The page in real browsers: what it shows is there, and is reached; by mouse, by keyboard, by ear.

Every test is run in each browser; that nothing was complained of in the console, and nothing asked
of a network, is checked behind each (conftest.py).
"""

import re
from pathlib import Path

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from harness.compare.diff import Verdict
from harness.report.html.page import PAGE_NAME
from harness.scenarios.registry import catalogue
from harness.store.describe import describe
from harness.trace import pattern
from harness.trace.files import Layer
from harness.trace.steps import AnyStep
from tests.browser.conftest import Browsers, Tab
from tests.browser.planted import CONSOLE, LIES, SCENARIOS, Plant, PlantedRun, hostile

KERNEL = "uml-6.12"


def rows(page: Page) -> list[str]:
    """The scenarios that the matrix shows, once it is drawn."""
    page.wait_for_selector("#matrix[data-drawn]")
    return page.locator(".matrix tbody th[scope=row]").all_inner_texts()


def filtered(page: Page, **fields: str) -> list[str]:
    """The same under a filter."""
    for name, value in fields.items():
        field = page.locator(f"[name={name}]")
        if name == "search":
            field.fill(value)
        else:
            field.select_option(value)
    page.wait_for_timeout(150)
    return rows(page)


def scenario(
    browsers: Browsers, page: Path, name: str, kernel: str = KERNEL, **more: object
) -> Tab:
    """A scenario, drawn."""
    tab = browsers.open(page, f"#/s/{quoted(name)}/{quoted(kernel)}", **more)  # type: ignore[arg-type]
    tab.page.wait_for_selector("#scenario[data-drawn]")
    return tab


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true; the page's policy forbids it to be evaluated there."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def at(page: Page) -> int:
    """The step that is shown."""
    text = page.locator("#step-title").inner_text()
    return int(re.match(r"Step (\d+)", text)[1])  # type: ignore[index]


def complaints(page: Page) -> list[str]:
    """What the accessibility checker finds."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {[node['html'][:200] for node in each['nodes'][:3]]}" for each in found]


# -- the matrix ------------------------------------------------------------------------------------


def test_every_result_is_in_the_matrix(browser: Browsers, page: Path, run: PlantedRun) -> None:
    tab = browser.open(page)
    assert rows(tab.page) == list(dict.fromkeys(result.scenario for result in run.results))
    cells = tab.page.locator(".matrix tbody td .verdict").all_inner_texts()
    assert len(cells) == len(run.results)
    assert sum(cell.startswith("diverged") for cell in cells) == len(LIES)
    assert sum(cell.startswith("lost") for cell in cells) == 1
    assert sum(cell.endswith("*") for cell in cells) == sum(r.promise_broken for r in run.results)
    assert "9 diverged" in tab.page.locator(".summary").inner_text()
    tab.shot("matrix")


def test_filters_and_search(browser: Browsers, page: Path, run: PlantedRun) -> None:
    tab = browser.open(page)
    everything = rows(tab.page)
    unlike = [r.scenario for r in run.results if r.verdict in (Verdict.DIVERGED, Verdict.LOST)]
    assert filtered(tab.page, verdict="unlike") == unlike
    tab.shot("matrix-filtered")
    assert f"{len(unlike)} of {len(everything)} scenarios" in tab.page.locator("#say").inner_text()
    assert filtered(tab.page, verdict="promise")
    assert filtered(tab.page, verdict="same", kernel=KERNEL) == [
        r.scenario for r in run.results if r.kernel == KERNEL and r.verdict is Verdict.SAME
    ]
    for layer in Layer:
        assert filtered(tab.page, verdict="", kernel="", layer=layer) == [SCENARIOS[layer]]
    tab.page.locator("[name=layer]").select_option("")
    assert filtered(tab.page, search="write sector") == [
        name
        for name in everything
        if all(word in f"{name} {catalogue()[name].about}".lower() for word in ("write", "sector"))
    ]
    assert filtered(tab.page, search="no such thing") == []
    assert tab.page.locator(".empty").is_visible()
    # A filter is in the address, so it can be passed on, and Back returns to it.
    filtered(tab.page, search="", theme="stores")
    tab.page.reload()
    assert rows(tab.page) == ["stale_area"]


# -- what differs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", Layer)
def test_a_divergence_is_shown_where_it_was_planted(
    browser: Browsers, page: Path, run: PlantedRun, layer: Layer
) -> None:
    name = SCENARIOS[layer]
    plant = run.plants[KERNEL, name]
    tab = scenario(browser, page, name)
    first = tab.page.locator("section.differs")
    assert f"step {plant.step}," in first.locator("h3").inner_text()
    assert layer in first.locator(".layer").all_inner_texts()
    assert at(tab.page) == plant.step, "the page opens where something differs"
    marked = tab.page.locator(".steps li:has(.m.differs) .n").all_inner_texts()
    assert marked[0] == str(plant.step)
    assert tab.page.locator(".observed tr.differs").count()
    if plant.byte >= 0:
        _byte_is_shown(first, plant)
    elif plant.was:
        kernel, twin = first.locator(".two dd").all_inner_texts()[:2]
        assert (kernel, twin) == (plant.now, plant.was)
    if layer is Layer.REQUESTS:
        assert tab.page.locator(".lanes .differs").count() == 1, "one request is missing"
    tab.shot(f"scenario-{layer}")


def _byte_is_shown(first, plant: Plant) -> None:
    first.locator(".hex mark").first.wait_for()
    assert first.locator(".hex mark").all_inner_texts() == [plant.now, plant.was]
    facts = first.locator(".facts").inner_text()
    assert f"{plant.byte} of {plant.device}: sector {plant.byte // 512}, " in facts
    assert f"byte {plant.byte % 512} of it" in facts
    assert "with 1 wrong byte" in facts, "where the sector came from, all the same"


def test_a_lost_guest_shows_how_far_it_came(browser: Browsers, page: Path) -> None:
    tab = scenario(browser, page, "write_one_sector[P-16]")
    assert tab.page.locator(".verdict-line .verdict").inner_text() == "guest lost"
    assert tab.page.locator("pre").first.inner_text() == CONSOLE.replace("\x1b", "\\x1b").rstrip()
    assert at(tab.page) == 7
    assert tab.page.locator(".steps li:has-text('not seen')").count() == 8
    tab.shot("lost")


def test_a_broken_promise_is_told_where_it_strikes(
    browser: Browsers, page: Path, run: PlantedRun
) -> None:
    tab = scenario(browser, page, "merge_commit_fails[True]")
    step = at(tab.page)
    assert "promised" in tab.page.locator("section.promises").inner_text()
    assert tab.page.locator(f".steps li:nth-child({step + 1}) .m.broken").count() == 1
    assert "Promise broken by both sides" in tab.page.locator("p.broken").first.inner_text()
    [defect] = next(r for r in run.results if r.scenario == "merge_commit_fails[True]").defects
    told = tab.page.locator("section.defects").inner_text()
    assert defect.name in told
    assert defect.title in told
    tab.shot("promise")


# -- step by step ----------------------------------------------------------------------------------


def test_through_the_steps_by_key(browser: Browsers, page: Path) -> None:
    tab = browser.open(page)
    rows(tab.page)
    press = tab.page.keyboard.press
    press("/")
    until(tab.page, "document.activeElement.name === 'search'")
    tab.page.keyboard.type("one_by_one")
    until(tab.page, "document.querySelector('output').textContent.startsWith('1 of')")
    press("Enter")
    tab.page.wait_for_selector("#scenario[data-drawn='39']")
    assert tab.page.evaluate("document.activeElement.id") == "title"
    press("ArrowLeft")
    assert at(tab.page) == 38
    press("ArrowRight")
    press("ArrowRight")
    assert at(tab.page) == 40
    assert tab.page.locator("#say").inner_text().startswith("Step 40: write 1 sector at 32 to snap")
    press("Home")
    assert at(tab.page) == 0
    press("d")
    assert at(tab.page) == 39
    press("End")
    assert at(tab.page) == 78
    press("Escape")
    until(tab.page, "document.activeElement.textContent === 'one_by_one_through_areas[1]'")
    assert rows(tab.page) == ["one_by_one_through_areas[1]"], "the filter is as it was"


def test_every_stop_is_reached_and_seen(browser: Browsers, page: Path) -> None:
    tab = scenario(browser, page, "stale_area")
    seen = []
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        seen.append(
            tab.page.evaluate(
                "(() => { const at = document.activeElement; return [at.tagName, "
                "at.textContent.trim(), getComputedStyle(at).outlineStyle]; })()"
            )
        )
    names = [text for _, text, _ in seen]
    for wanted in ("uml-6.1 same", "step 13", "Next difference", "Whole sector"):
        assert wanted in names
    assert any(tag == "BUTTON" and "examine every device" in text for tag, text, _ in seen)
    assert all(style != "none" for tag, _, style in seen if tag in ("A", "BUTTON"))


def test_chunks_along_the_steps(browser: Browsers, page: Path) -> None:
    tab = scenario(browser, page, SCENARIOS[Layer.CONTENT])

    def chunks(device: str) -> list[str]:
        figure = tab.page.locator(f".pictures figure:has-text('{device}: ')")
        return figure.locator(".cell").all_text_contents()[:5]

    def go(step: int) -> None:
        tab.page.locator(f".steps li:nth-child({step + 1}) button").click()
        tab.page.wait_for_selector(f"#scenario[data-drawn='{step}']")

    go(7)
    assert chunks("COW device cow")[:3] == [
        "chunk 0: headerH",
        "chunk 1: metadata area 0M",
        "chunk 2: free",
    ]
    go(8)
    assert chunks("COW device cow")[2] == "chunk 2: old chunk 00"
    assert tab.page.locator(".cell.changed.data").count() == 2, (
        "on the origin, and on the COW device"
    )
    assert "This step, new: 0 → 2." in tab.page.locator(".pictures").inner_text()
    assert tab.page.locator(".cell.wrote").count() == 1
    go(9)
    assert chunks("Origin base")[:2] == [
        "chunk 0: in chunk 2 of the COW device2",
        "chunk 1: in chunk 3 of the COW device; this step writes here in the snapshot3",
    ]
    tab.shot("chunks")


def test_chunks_of_a_scenario_that_is_the_same_come_from_its_image(
    browser: Browsers, page: Path
) -> None:
    tab = scenario(browser, page, SCENARIOS[Layer.CONTENT], "uml-7.2")
    tab.page.locator(".steps li:nth-child(9) button").click()
    tab.page.wait_for_selector("#scenario[data-drawn='8']")
    text = tab.page.locator(".pictures").inner_text()
    assert "from the image after step 13, as far as the status line reaches" in text
    assert "This step, new: 0 → 2." in text


def test_the_whole_sector(browser: Browsers, page: Path) -> None:
    tab = scenario(browser, page, SCENARIOS[Layer.STORE])
    first = tab.page.locator("section.differs")
    first.locator(".hex tbody tr").first.wait_for()
    few = first.locator(".hex tbody tr").count()
    first.get_by_role("button", name="Whole sector").click()
    first.get_by_role("button", name="Only what differs").wait_for()
    assert (few, first.locator(".hex tbody tr").count()) == (1, 32)
    first.get_by_role("button", name="Next difference").click()
    until(tab.page, "document.getElementById('say').textContent === 'No further difference'")


# -- what is held against the rest of dmsnap -------------------------------------------------------


def test_places_in_a_store_have_the_names_that_they_have_elsewhere(
    browser: Browsers, page: Path
) -> None:
    tab = browser.open(page)
    for chunk in (1, 2, 8, 32):
        size = (chunk * 70 + 1) * 512
        places = sorted({*range(0, size, 1013), *range(40), *range(chunk * 512, chunk * 512 + 40)})
        places = [byte for byte in places if byte < size]
        theirs = tab.page.evaluate(
            "([places, chunk, size]) => places.map((byte) => fieldAt(byte, chunk, size).text)",
            [places, chunk, size],
        )
        assert theirs == [describe(byte, chunk, size) for byte in places]


def test_stamps_are_the_same(browser: Browsers, page: Path) -> None:
    tab = browser.open(page)
    for seed, device, generation, sector in (
        (1, "base", 0, 0),
        ((1 << 63) - 1, "a-name.of+16_chr", (1 << 32) - 1, 1 << 50),
    ):
        theirs = tab.page.evaluate(
            "([seed, ...of]) => [...stampedSector(BigInt(seed), ...of)]",
            [str(seed), device, generation, sector],
        )
        assert bytes(theirs) == pattern.fill(seed, device, sector, 1, generation).tobytes()


def test_every_kind_of_step_has_words(browser: Browsers, page: Path) -> None:
    tab = browser.open(page)
    steps = [step for each in catalogue().values() for step in each.trace().steps]
    one_each = {type(step): step for step in steps}
    some = [msgspec.to_builtins(step) for step in one_each.values()]
    words = tab.page.evaluate("(steps) => steps.map(inWords)", some)
    assert {type(step) for step in steps} >= set(AnyStep.__args__) - {type(None)}
    for step, text in zip(some, words, strict=True):
        assert text != step["do"], "the words that are left where nobody knows any"
        assert "undefined" not in text
        assert "NaN" not in text


# -- strangers -------------------------------------------------------------------------------------


def test_strings_of_strangers_are_text(browser: Browsers, tmp_path: Path) -> None:
    page, name, said = hostile(tmp_path)
    tab = browser.open(page)
    tab.page.on("dialog", lambda dialog: tab.said.append(dialog.message))
    assert rows(tab.page) == [name.replace("\u202e", "\\x202e")]
    tab.page.locator(".matrix tbody th a").click()
    tab.page.wait_for_selector("#scenario[data-drawn]")
    text = str(tab.page.locator("#scenario").text_content())
    for each in said:
        assert each in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    tab.page.locator(".steps button").last.click()
    assert tab.page.evaluate("window.theirs") is None
    assert tab.page.locator("main img, main iframe, main script, main b").count() == 0
    tab.shot("strangers")


def test_the_policy_forbids_what_a_stranger_would_want(browser: Browsers, page: Path) -> None:
    tab = browser.open(page)
    rows(tab.page)
    tab.page.evaluate(
        """() => {
            const add = (tag, fields) =>
                document.body.append(Object.assign(document.createElement(tag), fields));
            add("script", { textContent: "window.theirs = 1" });
            add("style", { textContent: "h1 { color: rgb(1, 2, 3) !important }" });
            add("img", { src: "http://127.0.0.1:9/" });
            document.body.insertAdjacentHTML("beforeend", '<b onclick="window.theirs = 2">x</b>');
            document.body.lastChild.click();
        }"""
    )
    refused = tab.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'refused')")
    assert refused == "refused"
    assert tab.page.evaluate("window.theirs") is None
    assert (
        tab.page.evaluate("getComputedStyle(document.querySelector('h1')).color") != "rgb(1, 2, 3)"
    )
    for _ in range(40):
        tab.page.wait_for_timeout(50)
        if sum("directive" in text for text in tab.said) > 3:
            break
    assert any("directive" in text for text in tab.said), "this is what complaints look like"
    tab.said.clear()
    tab.asked.clear()


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_an_accessibility_checker_finds_nothing(browser: Browsers, page: Path, dark: bool) -> None:
    tab = browser.open(page, dark=dark)
    rows(tab.page)
    tab.page.locator(".about summary").click()
    assert complaints(tab.page) == []
    for name in (SCENARIOS[Layer.STORE], SCENARIOS[Layer.REQUESTS], "merge_commit_fails[True]"):
        tab = scenario(browser, page, name, dark=dark)
        assert complaints(tab.page) == []
        tab.shot(f"{'dark' if dark else 'light'}-{name.partition('[')[0]}")


def test_the_checker_finds_something(browser: Browsers, page: Path) -> None:
    tab = browser.open(page)
    tab.page.evaluate(
        "document.querySelector('.filters label').replaceWith(document.createElement('input'))"
    )
    assert any(found.startswith("label") for found in complaints(tab.page))


def test_on_a_phone(browser: Browsers, page: Path) -> None:
    for address in ("", f"#/s/{quoted(SCENARIOS[Layer.STORE])}/{KERNEL}"):
        tab = browser.open(page, address, width=360)
        tab.page.wait_for_selector("#scenario[data-drawn], #matrix[data-drawn]")
        wide = tab.page.evaluate("document.scrollingElement.scrollWidth")
        assert wide <= 360, "nothing has to be moved sideways but what says so"
        tab.shot("phone-scenario" if address else "phone-matrix")


def test_printed(browser: Browsers, page: Path) -> None:
    if browser.name != "chromium":
        pytest.skip("Debian's Firefox cannot be told a medium")
    tab = scenario(browser, page, SCENARIOS[Layer.STORE])
    tab.page.emulate_media(media="print")
    assert not tab.page.locator(".keys").is_visible()
    assert tab.page.locator(".hex").first.is_visible()
    tab.shot("print")


def test_without_its_program(browser: Browsers, page: Path) -> None:
    if browser.name != "chromium":
        pytest.skip("Debian's Firefox cannot be told to run none")
    text = page.read_text()
    table = text[text.index("<noscript>") : text.index("</noscript>")]
    for plant in SCENARIOS.values():
        assert plant.replace("&", "&amp;") in table


@pytest.mark.usefixtures("page")
def test_two_runs_beside_each_other(browser: Browsers, run: PlantedRun) -> None:
    from harness.report import beside
    from harness.report.html.beside import page as two

    left, right = (beside.open_run(f"{run.directory}:{kernel}") for kernel in (KERNEL, "uml-7.2"))
    path = run.directory / "compare.html"
    path.write_bytes(two(left, right))
    tab = browser.open(path)
    cells = tab.page.locator(".matrix tbody td .verdict")
    cells.first.wait_for()
    assert cells.all_inner_texts().count("diverged") >= len(LIES)
    assert path.name != PAGE_NAME
    name = SCENARIOS[Layer.STORE]
    tab = scenario(browser, path, name, f"{KERNEL} | uml-7.2")
    facts = tab.page.locator("section.differs")
    facts.locator(".hex mark").first.wait_for()
    plant = run.plants[KERNEL, name]
    assert facts.locator(".hex mark").all_inner_texts() == [plant.now, plant.was]
    assert "B has" in facts.inner_text()
    tab.shot("two-runs")
