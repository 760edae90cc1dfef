"""A real browser: Chromium of the system, driven by playwright. Where there is none, these tests are skipped by name.

They are no part of `pytest tests`: their files are named `check_*.py`, and `make browser-test` names them.
"""

from __future__ import annotations

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Chromium as root, and silent towards the network."""


@pytest.fixture(scope="session")
def browser():
    """Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(NAMES)}); Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=OPTIONS)
        yield launched
        launched.close()


@pytest.fixture
def faults() -> list[str]:
    """What a page complains of; see `watching.watch`."""
    return []
