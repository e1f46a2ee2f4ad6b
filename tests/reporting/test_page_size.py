"""The report of two and of forty candidates, and of the project's own folders, as a browser shows and prints it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsers import chromium
from candidates import candidates

from bench.reporting.html import NAME, write_report
from bench.reporting.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REFERENCE = Path(__file__).parents[2] / "results/reference"
OWN = ("mnist-cpu2", "five-seeds-cpu2", "low-data-cpu2", "transfer-pays-cpu2", "tune-mnist-cpu2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name in ("two", "forty", *OWN):
        folder = made[name] = tmp_path_factory.mktemp(name) / "results"
        if name in OWN:
            shutil.copytree(REFERENCE / name, folder)
        else:
            candidates(folder, {"two": 2, "forty": 40}[name], seeds={"two": 3, "forty": 1}[name])
        write_report(Store(folder))
    return made


def opened(browser: Browser, folder: Path, width: int, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((folder / NAME).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    return page


SCROLLING = """[...document.querySelectorAll(".scroll")].filter(each => each.scrollWidth > each.clientWidth + 1)
  .map(each => `${each.getAttribute("aria-label")}: ${each.scrollWidth} > ${each.clientWidth}`)"""

OVERLAPPING = """() => {
  const found = [];
  for (const plot of document.querySelectorAll(".plots svg")) {
    const frame = plot.getBoundingClientRect();
    const texts = [...plot.querySelectorAll("text")].filter(each => each.textContent.trim()).map(each => {
      const box = each.getBoundingClientRect();
      const across = 0.02 * box.width + 0.5, down = 0.12 * box.height;
      return { words: each.textContent, left: box.left + across, right: box.right - across,
        top: box.top + down, bottom: box.bottom - down, turned: box.height > 3 * box.width };
    });
    texts.forEach((one, place) => {
      if (one.right > frame.right + 2 || one.left < frame.left - 2) found.push(`outside: ${one.words}`);
      for (const other of texts.slice(place + 1)) {
        if (one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom)
          found.push(`${one.words} / ${other.words}`);
      }
    });
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["two", "forty", *OWN])
def test_no_table_scrolls_sideways_on_a_screen(browser: Browser, folders: dict[str, Path], name: str) -> None:
    page = opened(browser, folders[name], 1280)
    assert page.locator("table").count() >= 3
    assert page.evaluate(SCROLLING) == []
    page.close()


@pytest.mark.parametrize("name", ["two", "forty", "mnist-cpu2"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_label_in_a_plot_overlaps_another(browser: Browser, folders: dict[str, Path], name: str, width: int) -> None:
    page = opened(browser, folders[name], width)
    assert page.locator(".plots svg").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OVERLAPPING) == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_printed_it_is_dark_on_white_and_nothing_is_cut_off(
    browser: Browser, folders: dict[str, Path], scheme: str
) -> None:
    page = opened(browser, folders["forty"], 720, scheme)
    page.emulate_media(media="print", color_scheme="light")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 10_000
    page.close()


def test_the_answer_stands_before_the_statistics_which_are_behind_it(
    browser: Browser, folders: dict[str, Path]
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((folders["forty"] / NAME).as_uri())
    assert page.locator("#verdicts .answer").is_visible()
    assert not page.locator("#verdicts li").first.is_visible()
    page.get_by_text("The comparisons behind it").click()
    assert page.locator("#verdicts li").first.is_visible()
    page.close()
