"""A browser at the manager's console: a person's hands and eyes, and what a page must never do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    expect,
    sync_playwright,
)

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
#: Nothing sticks out to the side, and charts have the width of their place.
_FITS = """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth
  && [...document.querySelectorAll(".chart")].every((chart) =>
    !chart.firstChild || Math.abs(chart.firstChild.clientWidth - chart.clientWidth) < 8)"""
WIDE, NARROW = (1280, 800), (360, 740)

#: Milliseconds that anything awaited may take: generous, it costs only where a test fails.
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)


@dataclass
class Desk:
    """One person's browser: it remembers what pages asked for and complained about."""

    context: BrowserContext
    base: str
    #: Hosts that were asked for anything, and what was asked of another one than the manager.
    elsewhere: list[str] = field(default_factory=list)
    #: Errors on the console, violations of the policy, exceptions.
    complaints: list[str] = field(default_factory=list)
    #: Statuses that a test expects a page to be refused by, or the manager to be away for.
    expected: set[str] = field(default_factory=set)

    def page(self) -> Page:
        """Open a page."""
        page = self.context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        return page

    def _console(self, message: ConsoleMessage) -> None:
        known = any(part in message.text for part in self.expected)
        if message.type in ("error", "warning") and not known:
            self.complaints.append(f"{message.type}: {message.text}")

    def watch(self) -> None:
        """Look at every request, and let only those to the manager through."""
        ours = urlsplit(self.base).netloc

        def look(route: Route) -> None:
            if urlsplit(route.request.url).netloc == ours:
                route.continue_()
            else:
                self.elsewhere.append(route.request.url)
                route.abort()

        self.context.route("**/*", look)

    def sign_in(self, page: Page, username: str, password: str) -> None:
        """Sign in as a person does."""
        page.goto(f"{self.base}/sign-in")
        page.get_by_label("User name").fill(username)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/sign-in" not in url)

    def clean(self) -> None:
        """No request left for another host, no page complained."""
        assert not self.elsewhere, self.elsewhere
        assert not self.complaints, self.complaints


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_FLAGS)
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def desk(chromium: Browser, base: str, **options: Any) -> Iterator[Desk]:
    """Give a person a browser of his own."""
    context = chromium.new_context(
        ignore_https_errors=True,  # the manager's own CA; the tests of TLS are elsewhere
        viewport={"width": WIDE[0], "height": WIDE[1]},
        reduced_motion="reduce",
        **options,
    )
    context.set_default_timeout(PATIENCE)
    made = Desk(context, base)
    made.watch()
    try:
        yield made
    finally:
        context.close()


def shot(page: Page, name: str) -> None:
    """Write down what a person sees, at a desk and on a telephone."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for width, height in (NARROW, WIDE):
        page.set_viewport_size({"width": width, "height": height})
        until(lambda: fits(page), within=10)
        page.screenshot(path=SCREENSHOTS / f"{name}-{width}.png", full_page=True)


def fits(page: Page) -> bool:
    """Tell whether all of a page can be seen without scrolling sideways."""
    return bool(page.evaluate(_FITS))


def faults(page: Page) -> list[str]:
    """Return what axe finds serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {v['help']} {[n['html'][:160] for n in v['nodes'][:4]]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


def until(condition: Callable[[], Any], *, within: float = 60.0) -> Any:
    """Return the first true value of `condition`; fail after `within` seconds."""
    end = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.05)
