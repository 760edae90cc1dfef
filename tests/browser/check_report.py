"""The report in a real browser: every link leads somewhere, mathematics is set, nothing is complained of."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest
from watching import watch

from elbo_core.reports.notebooks import contents
from elbo_core.reports.site import build

RAW = """() => {
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.data.includes("$") && !node.parentElement.closest("pre, code, script, style")) found.push(node.data);
  }
  return found;
}"""
"""Dollars in what is read: mathematics that was not set."""
FITS = "document.documentElement.scrollWidth <= window.innerWidth"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """The address of the report of `toy`."""
    index = build("toy", tmp_path_factory.mktemp("report") / "report")
    handler = functools.partial(Quiet, directory=str(index.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def open_page(browser, faults: list[str], address: str, width: int = 1440):
    page = browser.new_page(viewport={"width": width, "height": 900})
    watch(page, faults)
    page.goto(address, wait_until="load")
    return page


def set_mathematics(page) -> None:
    """Wait until MathJax has done its work."""
    page.evaluate("() => new Promise(done => MathJax.Hub.Queue(() => done(true)))")


def test_every_link_leads_somewhere(browser, site, faults):
    page = open_page(browser, faults, f"{site}/index.html")
    seen, todo = set(), {page.url}
    while todo - seen:
        address = min(todo - seen)
        seen.add(address)
        answer = page.request.get(address)
        assert answer.ok, address
        if address.endswith(".html"):
            page.goto(address, wait_until="load")
            links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
            for link in links:
                place, _, anchor = link.partition("#")
                if place == address and anchor:
                    assert page.evaluate("id => document.getElementById(id) !== null", anchor), link
                if place.startswith(site):
                    todo.add(place)
    assert len(seen) > len(contents())
    assert not faults
    page.close()


@pytest.mark.parametrize("width", [375, 1440])
def test_every_page_fits_and_sets_its_mathematics(browser, site, faults, width):
    page = open_page(browser, faults, f"{site}/index.html", width)
    assert page.evaluate(FITS)
    for entry in contents():
        page.goto(f"{site}/notebooks/{entry.stem}.html", wait_until="load")
        set_mathematics(page)
        assert page.evaluate(FITS), (entry.stem, width)
        assert page.evaluate(RAW) == [], entry.stem
        assert page.eval_on_selector_all("img", "all => all.filter(one => !one.alt).length") == 0, entry.stem
    assert not faults
    page.close()


def test_the_ledger_is_filtered_with_the_keyboard(browser, site, faults):
    page = open_page(browser, faults, f"{site}/index.html")
    rows = page.locator(".ledger tbody tr")
    if not rows.count():
        pytest.skip("no claim has been tested")
    page.focus("#words")
    page.keyboard.type("small")
    shown = page.locator(".ledger tbody tr:not([hidden])")
    assert 0 < shown.count() < rows.count()
    assert page.locator("#shown").inner_text() == f"{shown.count()} of {rows.count()}"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "verdict"
    page.close()


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser, site, faults):
    page = open_page(browser, faults, f"{site}/index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.close()


def test_it_is_read_without_a_server_too(browser, faults, tmp_path):
    index = build("toy", tmp_path / "report")
    page = open_page(browser, faults, (index.parent / "notebooks" / "10_table1_objectives.html").as_uri())
    set_mathematics(page)
    assert page.locator(".MathJax").count() > 0
    assert page.evaluate(RAW) == []
    assert not faults
    page.close()
