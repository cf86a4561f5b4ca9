"""Debian's Chromium, driven as a person would: pages, screenshots, axe, its complaints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
WIDE, NARROW = (1280, 800), (360, 740)
#: Milliseconds that anything awaited may take: generous, it costs only where a test fails.
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)

#: Where screenshots are written, to be looked at.
SHOTS = Path(__file__).parents[3] / "build" / "screenshots"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, ended at the end."""
    assert os.path.exists(CHROMIUM), "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One window: it keeps what the browser complained of, and every host that it asked."""

    def __init__(self, browser: Browser, url: str, size: tuple[int, int] = WIDE) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self._context = browser.new_context(
            # A certificate of the device's own: a person has to accept it once.
            ignore_https_errors=True,
            viewport={"width": size[0], "height": size[1]},
            reduced_motion="reduce",
        )
        self._context.set_default_timeout(PATIENCE)
        self.page: Page = self._context.new_page()
        self.page.on("request", lambda r: self.hosts.add(urlsplit(r.url).netloc))
        self.page.on("console", lambda m: self._heard(m.type, m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))

    def _heard(self, kind: str, text: str) -> None:
        # A refused sign-in is an answer 401, which Chromium reports as an error by itself.
        if kind == "error" and "401 (Unauthorized)" not in text:
            self.complaints.append(text)

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def judged(self, name: str) -> None:
        """A screenshot; axe finds nothing serious; nothing is wider than the window."""
        self.shot(name)
        found = Axe().run(self.page).response["violations"]
        grave = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
        assert not grave, f"{name}: {grave}"
        too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not self.page.evaluate(too_wide), f"{name} scrolls sideways"

    def clean(self) -> None:
        """Nothing was complained of, and no other host was asked for anything."""
        assert not self.complaints, self.complaints
        assert self.hosts == {urlsplit(self.url).netloc}

    def close(self) -> None:
        self._context.close()
