"""The report as a page: what is in it, and how a headless Chromium shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browsers import chromium

from bench.reporting import html, images
from bench.reporting.gallery import Gallery
from bench.reporting.html import render, write_report
from bench.reporting.store import Store
from bench.reporting.summary import look
from bench.spec import EpochRecord, Predictions, Record, Result, Status, Timing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Make = Callable[..., Record]
EVIL = "<img src=x onerror=alert(1)>"
LONG = "a_model_name_without_any_place_to_break_because_users_do_such_things_1234567890"


def fill(store: Store, make_record: Make) -> None:
    """Four models, two of them with three seeds; images that only one of these gets wrong; timings; a failure."""
    store.prepare()
    rng = np.random.default_rng(0)
    labels = (np.arange(1000) % 10).astype(np.int16)
    first = make_record()
    for model, seeds, accuracy in (("cnn", 3, 0.98), ("mobilenet", 3, 0.9), (EVIL, 1, 0.7), (LONG, 1, 0.6)):
        for seed in range(seeds):
            wrong = rng.random(1000) > accuracy
            predicted = np.where(wrong, (labels + 1) % 10, labels).astype(np.int16)
            share = float((predicted == labels).mean())
            record = make_record(
                model,
                seed=seed,
                minutes=seed,
                test_accuracy=share,
                test_correct=round(1000 * share),
                train_seconds=59.0 if model == "cnn" else 61.0,
                contended=model == EVIL,
            )
            epochs = [
                EpochRecord(
                    run_id=record.run_id,
                    epoch=epoch,
                    train_loss=1 / epoch,
                    train_accuracy=share,
                    seconds=1,
                    images_per_second=1,
                )
                for epoch in (1, 2)
            ]
            said = Predictions(labels, predicted, rng.random(1000).astype(np.float32)) if seeds > 1 else None
            store.write(Result(record, epochs, said))
            for kind, size in (("training", 64), ("inference", 1), ("inference", 256)):
                rows = [
                    Timing(
                        run_id=record.run_id,
                        kind=kind,
                        backend="eager",
                        batch_size=size,
                        sample=sample,
                        seconds=0.001 + 0.0001 * rng.random(),
                        contended=False,
                        device="cpu",
                        threads=2,
                        precision="fp32",
                        measured_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=sample // 10),
                    )
                    for sample in range(30)
                ]
                if kind == "training":
                    store.write_timings(record.run_id, rows)
    store.write(Result(make_record(seed=9, status=Status.FAILED, reason="<script>alert(2)</script>\nsecond line")))
    images.save(
        store.root,
        first.dataset_sha256,
        rng.integers(0, 256, (1000, 1, 28, 28), dtype=np.uint8),
        labels,
        [str(digit) for digit in range(10)],
    )
    (store.root / "runs" / "<b>torn.parquet").write_text("torn")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> Store:
    store = Store(tmp_path_factory.mktemp("report") / "results")
    fill(store, make_record)
    write_report(store)
    return store


@pytest.fixture(scope="module")
def text(store: Store) -> str:
    return (store.root / html.NAME).read_text()


class Parsed(HTMLParser):
    """Tags with their attributes, and what is written."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.written: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "path", "image", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.written.append(data)


# --- the file --------------------------------------------------------------------------------------------------------


def test_made_again_it_is_the_same_to_the_byte(store: Store) -> None:
    files = [store.root / html.NAME, *sorted((store.root / "plots").iterdir())]
    before = {file: file.read_bytes() for file in files}

    write_report(store)

    assert {file: file.read_bytes() for file in files} == before
    assert sorted((store.root / "plots").iterdir()) == files[1:]


def test_it_refers_to_nothing_outside_itself(text: str) -> None:
    parsed = Parsed(text)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            target = attributes.get(name)
            if target is not None:
                assert target.startswith(("#", "data:")), (tag, target)
                if target.startswith("#"):
                    assert target[1:] in ids
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert not parsed.open
    policy = next(attributes["content"] for _, attributes in parsed.tags if "http-equiv" in attributes)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")


def test_what_users_write_stays_text(text: str) -> None:
    tags = [tag for tag, _ in Parsed(text).tags]
    assert tags.count("script") == 1 and "img" not in tags and "b" not in tags
    assert not any(name.startswith("on") for _, attributes in Parsed(text).tags for name in attributes)
    assert "&lt;script&gt;alert(2)&lt;/script&gt; second line" in text
    assert "&lt;b&gt;torn.parquet" in text


def test_it_says_what_the_summary_says_verdicts_first(store: Store, text: str) -> None:
    found = look(store)
    written = " ".join(" ".join(Parsed(text).written).split())
    assert found.verdicts[0]
    for sentence in found.verdicts[0]:
        assert " ".join(sentence.split()) in written
    assert text.index('id="verdicts"') < text.index("<nav") < text.index("<table")
    for record in found.records:
        assert record.run_id in written
    for words in ("Where it was measured", "Some Processor", "Runs that did not finish", "Set aside", "225,034"):
        assert words in written
    assert text.count("<svg ") == len(list((store.root / "plots").glob("*.svg")))
    assert [plot for plot in (store.root / "plots").iterdir() if "-wrong-cnn-" in plot.name]


def test_an_empty_folder_is_a_page_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()

    page = write_report(store).read_text()

    assert "No run is stored yet" in page
    assert "<table" not in page and "<svg" not in page


def test_ten_thousand_runs_are_a_small_page(make_record: Make, tmp_path: Path) -> None:
    first = make_record()
    records = [
        first.model_copy(
            update={"seed": seed, "run_id": f"run-{seed:05}", "job_id": f"job-{seed % 3000}", "lr": seed % 3000}
        )
        for seed in range(10_000)
    ]
    failed = [make_record(seed=seed, status=Status.FAILED, reason="x" * 200) for seed in range(500)]
    store = Store(tmp_path)

    found = look(store, records)
    page = render(replace(found, records=[*failed, *records]), {html.data_key(first): Gallery()}, [])

    assert len(page) < 1_000_000
    assert "run-09999" in page and "run-00000" not in page
    assert page.count("<tr>") < 500 + 200 + 50
    assert "These are the last 500 of 10,500 runs." in page


def test_drawing_and_templates_are_imported_when_a_page_is_made(modules_after: Callable[[str], set[str]]) -> None:
    loaded = modules_after("import bench.reporting.html")
    assert not {"matplotlib", "jinja2", "scipy", "statsmodels", "torch", "ray"} & loaded


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def opened(browser: Browser, store: Store, width: int, scheme: str = "light") -> tuple[Page, list[str], list[str]]:
    """(the page, what it asked for, what it complained of)."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((store.root / html.NAME).as_uri())
    return page, asked, said


def test_it_opens_from_disk_asks_for_nothing_and_shows_every_image(browser: Browser, store: Store) -> None:
    page, asked, said = opened(browser, store, 1280)

    assert [url for url in asked if not url.startswith("data:")] == [(store.root / html.NAME).as_uri()]
    assert not said
    shown = page.evaluate(
        """async () => {
          const all = [];
          for (const image of document.querySelectorAll("svg image, img")) {
            const loaded = new Image();
            loaded.src = image.getAttribute("xlink:href") || image.href.baseVal;
            await loaded.decode();
            const box = image.getBoundingClientRect();
            all.push(loaded.naturalWidth > 100 && box.width > 100 && box.height > 50);
          }
          return all;
        }"""
    )
    assert len(shown) >= 2 and all(shown)
    assert page.evaluate(
        "[...document.querySelectorAll('.plots svg')].every(one => one.getBoundingClientRect().height > 100)"
    )
    page.close()


def test_tables_sort_by_mouse_and_keyboard_with_the_unknown_last(browser: Browser, store: Store) -> None:
    page, _, said = opened(browser, store, 1280)
    first = page.locator("table.sortable").first
    column = first.locator("thead th").all_inner_texts().index("Test accuracy")
    header = first.locator("thead th").nth(column)

    def accuracies() -> list[float]:
        return [
            float(cell.split(" ")[0])
            for cell in first.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
        ]

    assert header.get_attribute("aria-sort") is None
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert accuracies() == sorted(accuracies(), reverse=True) and len(set(accuracies())) == 4
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert accuracies() == sorted(accuracies())
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") is None
    names = first.locator("tbody th").all_inner_texts()
    assert names == sorted(names, key=str.casefold)

    runs = page.locator("#runs table")
    for name in ("Training", "Test accuracy"):
        button = runs.get_by_role("button", name=name)
        column = runs.locator("thead th").all_inner_texts().index(name)
        for _ in range(2):
            button.click()
            cells = runs.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
            assert cells[-1] == "-" and "-" not in cells[:-1]
    runs.get_by_role("button", name="Training").click()
    column = runs.locator("thead th").all_inner_texts().index("Training")
    times = runs.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
    assert times[0] == "1 min 01 s" and times[-2] == "59.0 s"  # not by their letters
    assert not said
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen_but_inside_its_own_box(browser: Browser, store: Store, width: int) -> None:
    page, _, _ = opened(browser, store, width)

    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = page.evaluate(
        """(width) => [...document.querySelectorAll("main *")]
          .filter(one => !one.closest(".scroll, svg") && one.getBoundingClientRect().right > width + 0.5)
          .map(one => one.outerHTML.slice(0, 100))""",
        width,
    )
    assert outside == []
    inside = page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX")
    assert inside == "auto"
    page.close()


def test_text_stands_out_in_both_themes(browser: Browser, store: Store) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page, _, _ = opened(browser, store, 1280, scheme)
        seen[scheme] = page.evaluate(
            """() => {
              const light = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
                  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const page = light(getComputedStyle(document.body).backgroundColor);
              return [".plots svg text", "p.quiet", "nav a", "td"].map(name => {
                const one = document.querySelector(name);
                const style = getComputedStyle(one);
                const text = light(one.closest("svg") ? style.fill : style.color);
                return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
              }).concat([page]);
            }"""
        )
        page.close()
    assert seen["light"][-1] > 0.9 and seen["dark"][-1] < 0.1
    for scheme, found in seen.items():
        assert min(found[:-1]) >= 4.5, scheme
