"""Two real browsers, headless, each with the same pages; what a page says in their consoles, and
what it asks the network for, is kept."""

import base64
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.browser.planted import PlantedRun, every_layer

SHOTS = Path(__file__).parents[2] / "build" / "browser"
"""Where the pictures go that somebody is to look at."""
_CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PROGRAMS = {"chromium": "chromium", "firefox": "firefox-esr"}


def program(name: str) -> str:
    """The browser; where there is none, the test is skipped, but not in CI."""
    found = shutil.which(PROGRAMS[name])
    if found is None:
        text = f"{PROGRAMS[name]} is missing: apt-get install {PROGRAMS[name]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    return str(found)


PICTURE_STYLE = "sha256-" + base64.b64encode(hashlib.sha256(b"body {}").digest()).decode()
"""Firefox names the hash of a style that a page's policy refuses; this is Playwright's own."""


@dataclass
class Tab:
    """A page in a browser.

    Attributes:
        said: errors and warnings in its console, and what was thrown.
        asked: every address that it asked for.
    """

    page: Page
    browser: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    shown: bool = False

    def hear(self, text: str) -> None:
        """Keep what was said, except about the style that Playwright adds to take a picture."""
        if not (self.shown and PICTURE_STYLE in text):
            self.said.append(text)

    def shot(self, name: str) -> None:
        """Keep what it looks like."""
        self.shown = True
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(
            path=SHOTS / f"{name}-{self.browser}.png", full_page=True, caret="initial"
        )


class Browsers:
    """One browser, and the tabs that a test opens in it."""

    def __init__(self, name: str, browser: Browser) -> None:
        self.name = name
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.tabs: list[Tab] = []

    def open(self, page: Path, address: str = "", *, width: int = 1280, dark: bool = False) -> Tab:
        """Open a page from disk, in a window of its own."""
        # Debian's Firefox cannot be told a scheme.
        scheme = ("dark" if dark else "light") if self.name == "chromium" else "null"
        context = self._browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="null",
            forced_colors="null",
        )
        self._contexts.append(context)
        context.set_default_timeout(10_000)
        tab = Tab(context.new_page(), self.name)
        tab.page.on(
            "console",
            lambda said: tab.hear(said.text) if said.type in ("error", "warning") else None,
        )
        tab.page.on("pageerror", lambda fault: tab.hear(str(fault)))
        tab.page.on("request", lambda request: tab.asked.append(request.url))
        tab.page.goto(page.as_uri() + address)
        self.tabs.append(tab)
        return tab

    def close(self) -> None:
        """Close all windows."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self.tabs.clear()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="session", params=PROGRAMS)
def _browser(request: pytest.FixtureRequest, playwright: Playwright) -> Iterator[Browsers]:
    name = request.param
    path = program(name)
    if name == "chromium":
        browser = playwright.chromium.launch(executable_path=path, args=list(_CHROMIUM))
    else:
        browser = playwright.firefox.launch(executable_path=path, channel="moz-firefox")
    with browser:
        yield Browsers(name, browser)


@pytest.fixture
def browser(_browser: Browsers) -> Iterator[Browsers]:
    """A browser; whatever its tabs did, none of them complained, or asked for anything else."""
    yield _browser
    said = [text for tab in _browser.tabs for text in tab.said]
    asked = [url for tab in _browser.tabs for url in tab.asked if not url.startswith("file:")]
    _browser.close()
    assert not said
    assert not asked


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    """A run with a divergence of every layer."""
    return every_layer(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def page(run: PlantedRun) -> Path:
    """Its page."""
    return run.page()
