"""A real Chromium, driven by Playwright; without one the tests that need it skip, saying so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Opened(NamedTuple):
    """page: of Playwright; requests, errors: what the page asked for and complained of."""

    page: object
    requests: list[str]
    errors: list[str]


@pytest.fixture(scope="module")  # its event loop is to end before other tests begin
def browser() -> Iterator[object]:
    """Chromium without a network."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser) -> Iterator[object]:
    """A function that opens a file at a width, and what came of it."""
    contexts = []

    def open_(path, width: int = 1200, **options: object) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda said: errors.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("dialog", lambda dialog: errors.append(dialog.message) or dialog.dismiss())
        page.goto(path.as_uri())
        return Opened(page, requests, errors)

    yield open_
    for context in contexts:
        context.close()
