"""JupyterLab in a real browser: the first notebook and the explorer run, and a slider changes the picture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from elbo_core.paths import ROOT

RAN = """() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")].map(prompt => prompt.textContent);
  const status = document.querySelector(".jp-Notebook-ExecutionIndicator")?.dataset.status;
  return status === "idle" && prompts.length > 0 && prompts.every(text => /\\[\\d+\\]/.test(text));
}"""
"""Whether all cells have been run: each whose code is not folded away has a number, and the kernel is idle."""
MINUTE = 60_000
"""In milliseconds, as playwright counts."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that holds copies of the notebooks, without their outputs."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", place / "notebooks")
    clear = [sys.executable, "-m", "nbconvert", "--clear-output", "--inplace", "--log-level", "ERROR"]
    subprocess.run([*clear, *map(str, (place / "notebooks").glob("0[03]_*.ipynb"))], check=True)
    own = {
        "ELBO_PROFILE": "smoke",
        "PYTHONPATH": str(ROOT),
        "TQDM_DISABLE": "1",
        "JUPYTER_CONFIG_DIR": f"{place}/config",
    }
    environment = os.environ | own
    options = ["--no-browser", "--allow-root", "--port=0", "--ServerApp.token=", "--ServerApp.password=",
               f"--ServerApp.root_dir={place}"]  # fmt: skip
    log = (place / "log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=place, env=environment, stderr=log)
    yield _address(place / "log", server)
    server.terminate()
    server.wait(timeout=60)


def _address(log, server) -> str:
    for _ in range(240):
        found = re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/", log.read_text())
        if found:
            return found[0]
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()}")


def run_all(browser, lab: str, name: str):
    """Open a notebook, wait for its kernel, run all cells, wait for their end; returns the page."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{lab}doc/tree/notebooks/{name}.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=MINUTE)
    _take_kernel(page)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    _take_kernel(page)
    page.wait_for_function(RAN, timeout=5 * MINUTE)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator(".jp-OutputArea-output.jp-mod-error").count() == 0
    return page


def _take_kernel(page) -> None:
    """JupyterLab may ask which kernel to take, at once or with the first run."""
    try:
        page.click(".jp-Dialog button.jp-mod-accept", timeout=4000)
    except Exception:
        page.wait_for_timeout(500)


def test_the_first_notebook_runs(browser, lab):
    page = run_all(browser, lab, "00_start_here")
    assert page.locator(".jp-OutputArea-output img").count() >= 2
    page.close()


def test_a_slider_and_a_click_change_the_explorers_picture(browser, lab):
    page = run_all(browser, lab, "03_explore")
    picture = page.locator(".elbo-explorer img.elbo-frame")
    picture.wait_for(timeout=MINUTE)
    first = picture.get_attribute("src")
    handle = page.locator(".elbo-explorer .widget-slider .noUi-handle").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    _wait_for_another(page, first)
    second = picture.get_attribute("src")
    picture.click(position={"x": 60, "y": 80})
    _wait_for_another(page, second)
    page.close()


def _wait_for_another(page, source: str) -> None:
    page.wait_for_function(
        "before => document.querySelector('.elbo-explorer img.elbo-frame').src !== before", arg=source, timeout=MINUTE
    )
