"""The drawing page as a person uses it: a headless Chromium draws on the canvas of the running page."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsers import chromium
from checkpoints import Results, trained
from factories import record_of, result_of
from PIL import Image
from running import ROOT, environment

from bench.demo.__main__ import main
from bench.demo.digits import STROKES, sample, smooth
from bench.reporting.store import Store
from bench.spec import Recipe

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SECONDS = 1000
BEST = "cnn (epochs 3)"
"""The name of the better of the two trained models, which differ in their epochs."""

pytestmark = pytest.mark.heavy


@contextlib.contextmanager
def serving(results: Path, **environ: str) -> Iterator[str]:
    """The command, running; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.demo", "--results", str(results), "--port", str(port), "--no-browser"],
        cwd=ROOT,
        env=environment(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, line
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            rest, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def results() -> Results:
    return trained()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pytest.importorskip("gradio")
    with chromium("--disable-quic", "--disable-component-update", "--disable-sync") as browser:
        yield browser


@pytest.fixture(scope="module")
def address(results: Results, browser: Browser) -> Iterator[str]:
    with serving(results.folder) as found:
        yield found


def opened(browser: Browser, address: str, size: tuple[int, int] = (1280, 900)) -> Page:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(address)
    page.wait_for_selector(".answers", timeout=60 * SECONDS)
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    found = opened(browser, address)
    yield found
    found.close()


def draw(page: Page, digit: str, *, left: float = 0.2, top: float = 0.2, size: float = 0.6) -> None:
    """With the mouse, in a part of the canvas."""
    box = page.locator("#board canvas").bounding_box()
    assert box is not None
    for stroke in STROKES[digit]:
        points = [
            (box["x"] + box["width"] * (left + size * x / 100), box["y"] + box["height"] * (top + size * y / 100))
            for x, y in smooth(stroke, 2)
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=1)
        page.mouse.up()
    settled(page)


def settled(page: Page) -> None:
    """The answer to the last stroke is there."""
    page.wait_for_function("!document.querySelector('#board .thinking')", timeout=30 * SECONDS)


def said(page: Page) -> str:
    return page.locator(".results").inner_text()


def verdict(page: Page) -> str:
    return page.locator(".verdict").inner_text()


def answers(page: Page) -> dict[str, str]:
    """What each model says, by its name."""
    models = page.locator(".model")
    return {
        models.nth(k).locator("b").inner_text(): models.nth(k).locator(".bar .class").first.inner_text()
        for k in range(models.count())
    }


def test_digits_drawn_with_the_mouse_are_read(page: Page, results: Results) -> None:
    """Large and small, in the middle and in a corner."""
    best = BEST
    places = [(0.2, 0.2, 0.6), (0.02, 0.05, 0.35), (0.6, 0.55, 0.4), (0.05, 0.05, 0.9)]
    right = 0
    for number, digit in enumerate(("2", "3", "5", "0", "7")):
        left, top, size = places[number % len(places)]
        page.locator(".clear").click()
        draw(page, digit, left=left, top=top, size=size)
        assert len(answers(page)) == 2  # every checkpoint answers
        right += answers(page)[best] == digit
    assert right >= 4


def test_the_answer_has_three_bars_a_time_and_what_was_seen(page: Page, results: Results) -> None:
    draw(page, "3")
    first = page.locator(".model").first
    assert first.locator("b").inner_text() == BEST  # the best model first
    assert results.record.test_accuracy is not None
    assert f"{100 * results.record.test_accuracy:.2f} % right on mnist-5k test images" in first.inner_text()
    assert " ms" in first.inner_text()
    shares = [float(text.removesuffix(" %")) for text in first.locator(".share").all_inner_texts()]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.2
    seen = page.locator(".seen img")
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]


def test_agreement_and_disagreement_are_said(page: Page) -> None:
    draw(page, "0")
    given = answers(page)
    if len(set(given.values())) == 1:
        assert verdict(page) == f"Both models say {next(iter(given.values()))}."
    else:
        assert verdict(page).startswith("The models disagree: ")


def test_an_empty_canvas_gets_a_hint(page: Page) -> None:
    assert said(page) == "Draw a digit and the models say what they see."
    draw(page, "7")
    assert page.locator(".verdict").count() == 1
    page.locator(".clear").click()
    settled(page)
    assert said(page) == "Draw a digit and the models say what they see."
    page.locator(".undo").click()
    settled(page)
    assert page.locator(".verdict").count() == 1


def test_a_photograph_that_is_opened_is_read(page: Page, tmp_path: Path, results: Results) -> None:
    """A photograph: dark ink on grey paper in uneven light, wider than high."""
    paper = Image.linear_gradient("L").resize((900, 600)).point(lambda value: 110 + value // 2)
    ink = sample("5", size=(400, 400), width=8).convert("L").point(lambda value: value // 2)
    mask = ink.point(lambda value: 255 * (value < 100))
    paper.paste(ink, (350, 120), mask)
    paper.save(tmp_path / "photograph.jpg")
    page.locator("input[type=file]").set_input_files(tmp_path / "photograph.jpg")
    page.wait_for_selector(".verdict")
    settled(page)
    assert answers(page)[BEST] == "5"


def test_blank_paper_is_no_digit(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "white").save(tmp_path / "blank.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "blank.png")
    page.wait_for_function("document.querySelector('.results').innerText.includes('nothing on the canvas')")
    assert page.locator(".verdict").count() == 0


def test_a_file_that_is_no_picture_is_refused_in_a_note(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.txt")
    page.wait_for_function("document.querySelector('.note').innerText.includes('no picture')")


def test_samples_that_are_clicked_on_are_read(page: Page, results: Results) -> None:
    right = 0
    for number, digit in enumerate(STROKES):
        page.locator(".samples button").nth(number).click()
        page.wait_for_selector(".verdict")
        page.wait_for_timeout(100)  # the picture is decoded before anything is asked
        settled(page)
        right += answers(page)[BEST] == digit
    assert right >= len(STROKES) - 1


def test_a_finger_on_a_phone_draws_and_does_not_scroll(browser: Browser, address: str) -> None:
    """Touch draws and does not scroll; nothing is wider than the screen."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".answers", timeout=60 * SECONDS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#board canvas").bounding_box()
    assert box is not None
    touch = context.new_cdp_session(page)
    x = box["x"] + box["width"] / 2

    def finger(kind: str, *points: dict[str, float]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    finger("touchStart", {"x": x, "y": box["y"] + 0.2 * box["height"]})
    for step in range(2, 9):
        finger("touchMove", {"x": x, "y": box["y"] + step / 10 * box["height"]})
    finger("touchEnd")
    page.wait_for_selector(".verdict")
    settled(page)
    assert page.evaluate("window.scrollY") == 0
    assert set(answers(page).values()) <= {"1", "7"}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_nothing_is_fetched_from_elsewhere(browser: Browser, address: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".answers", timeout=60 * SECONDS)
    draw(page, "2")
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    page.close()


def test_the_page_listens_on_loopback_only(address: str) -> None:
    psutil = pytest.importorskip("psutil")
    port = int(address.rsplit(":", 1)[1])
    hosts = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == "LISTEN" and connection.laddr.port == port
    }
    assert hosts == {"127.0.0.1"}


def test_without_a_checkpoint_the_page_says_how_to_make_one(browser: Browser, results: Results, tmp_path: Path) -> None:
    """The page says which command makes one, and answers as soon as there is one. A broken one is named."""
    with serving(tmp_path) as address:
        page = opened(browser, address)
        assert "There is no trained model in" in said(page)
        assert "python -m bench.run --models cnn mobilenet" in said(page)
        draw(page, "3")
        assert "There is no trained model in" in said(page)

        (tmp_path / "checkpoints").mkdir()
        shutil.copy(results.checkpoint, tmp_path / "checkpoints")
        (tmp_path / "checkpoints" / "<b>broken.safetensors").write_bytes(b"no tensors")
        page.locator(".clear").click()
        settled(page)
        draw(page, "3")
        assert verdict(page).startswith("cnn says ")
        assert "Left out: " in said(page)
        assert "<b>broken.safetensors" in said(page)  # as text
        page.close()


def test_on_a_phone_the_samples_come_before_the_answers(browser: Browser, address: str) -> None:
    page = opened(browser, address, (390, 844))
    draw(page, "1")
    samples, cards = (page.locator(name).first.bounding_box() for name in (".samples", ".model"))
    assert samples is not None
    assert cards is not None
    assert samples["y"] + samples["height"] <= cards["y"]
    assert sorted(STROKES) == list("0123456789")
    page.close()


# --- without a browser -------------------------------------------------------------------------------------------


def fetched(address: str, **about: object) -> str:
    """What the page's server answers, asked without a proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, **about)  # type: ignore[arg-type]  # noqa: S310 - our own page
    with direct.open(request, timeout=20) as answer:
        return str(answer.read().decode())


def test_only_the_page_itself_reaches_its_server(tmp_path: Path) -> None:
    """A foreign site, a name that points to this machine, uploads, forms, and large or endless bodies are refused."""
    pytest.importorskip("gradio")

    def status(path: str, *, body: bytes | None = None, **headers: str) -> int:
        try:
            fetched(address + path, data=body, headers={name.replace("_", "-"): text for name, text in headers.items()})
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    with serving(tmp_path) as address:
        port = address.rsplit(":", 1)[1]
        upload = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nhello\r\n--x--\r\n'
        form = {"content_type": "multipart/form-data; boundary=x"}
        assert status("/gradio_api/upload", body=upload, **form) == 403
        assert status("/gradio_api/component_server", body=upload, **form) == 415
        assert status("/", host="evil.example") == 421
        assert status("/", host=f"evil.example:{port}") == 421
        assert status("/", host=f"localhost:{port}") == 200
        assert status("/gradio_api/queue/join", body=b"{}", content_type="application/json") == 403
        ours = {"content_type": "application/json", "origin": address}
        theirs = {**ours, "origin": "http://evil.example"}
        assert status("/gradio_api/component_server", body=b"{}", **theirs) == 403
        assert status("/gradio_api/component_server", body=b"{}", **ours) in (400, 422)  # Gradio misses fields
        head = f"POST /gradio_api/component_server HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json"
        for length in ("Content-Length: 20000000", "Transfer-Encoding: chunked"):
            with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as raw:
                raw.sendall(f"{head}\r\n{length}\r\n\r\n".encode())
                assert b" 413 " in raw.recv(100), "refused before it is read"


def test_a_small_file_with_very_many_pixels_is_no_canvas() -> None:
    pytest.importorskip("gradio")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from bench.demo.page import DATA_URL, read_canvas

    for size, readable in (((1000, 800), True), ((13_300, 13_300), False), ((1, 1001), False)):
        buffer = io.BytesIO()
        Image.new("1", size).save(buffer, format="png")
        assert buffer.tell() < 100_000
        assert (read_canvas(DATA_URL + base64.b64encode(buffer.getvalue()).decode()) is not None) == readable


@pytest.mark.parametrize("proxy", [{"HTTP_PROXY": "http://127.0.0.1:9"}, {"all_proxy": "socks5://127.0.0.1:9"}])
def test_a_proxy_that_does_not_answer_does_not_matter(proxy: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    with serving(tmp_path, no_proxy="", **proxy) as address:
        assert "Which digit is this?" in fetched(address)


def test_a_gradio_that_cannot_be_imported_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio" / "__init__.py").write_text("raise ImportError('libsomething.so: not found')")
    words = [sys.executable, "-m", "bench.demo", "--no-browser"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the page needs Gradio, which cannot be imported here: libsomething.so: not found"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "0"], ["--port", "greater than or equal to 1"]),
        (["--port", "x"], ["--port", "'x'"]),
        (["--result", "x"], ["unknown option '--result'", "did you mean '--results'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_the_seeds_of_a_job_share_a_card_and_have_names(tmp_path: Path, results: Results) -> None:
    """Three seeds of one job and one of another: two cards, named as the report names them."""
    from bench.demo import html
    from bench.demo.answers import Shelf

    store = Store(tmp_path)
    store.prepare()
    content = results.checkpoint.read_bytes()
    for epochs, seed in ((3, 0), (3, 1), (3, 2), (1, 0)):
        record = record_of(seed=seed, recipe=Recipe(epochs=epochs))
        store.write(result_of(record))
        (tmp_path / "checkpoints" / f"{record.run_id}.safetensors").write_bytes(content)

    given = Shelf(tmp_path).answer(sample("3"))

    names = {answer.model for answer in given.answers}
    assert names == {"cnn (epochs 1)", *(f"cnn (epochs 3), seed {seed}" for seed in range(3))}
    page = html.answered(given)
    assert page.count('<div class="model">') == 2
    assert "<b>cnn (epochs 3), seed 0</b>" in page
    assert re.search(r"seed 1 says \d \(\d+\.\d %\); seed 2 says \d \(", page)
    (tmp_path / "checkpoints" / "stray.safetensors").write_bytes(content)
    assert "stray" in {answer.model for answer in Shelf(tmp_path).answer(sample("3")).answers}


def test_a_file_is_no_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.parquet").write_bytes(b"")
    assert main(["--results", str(tmp_path / "runs.parquet"), "--no-browser"]) == 2
    assert "runs.parquet is a file; name a results folder" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--results", str(tmp_path), "--port", str(port), "--no-browser"]) == 2
    assert f"--port {port} is taken" in capsys.readouterr().err


def test_what_is_no_picture_of_a_canvas_is_ignored() -> None:
    pytest.importorskip("gradio")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from bench.demo.page import DATA_URL, LARGEST_PICTURE, read_canvas

    for text in (
        "x",
        DATA_URL,
        DATA_URL + "????",
        DATA_URL + "eA==",
        "data:text/html;base64,eA==",
        DATA_URL + "A" * LARGEST_PICTURE,
    ):
        assert read_canvas(text) is None
    assert read_canvas(12) is None  # type: ignore[arg-type]
