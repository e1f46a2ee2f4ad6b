"""The page itself, with Gradio: a canvas on the left, the answers on the right, below each other on a phone."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import socket
import threading
from pathlib import Path

import gradio as gr
import torch
from PIL import Image, UnidentifiedImageError
from starlette.middleware import Middleware

from bench.demo import digits, html
from bench.demo.answers import Shelf
from bench.demo.guard import Guard
from bench.errors import UserError
from bench.learning.data.pixels import quiet
from bench.storage import Place
from bench.workflows.interrupts import interruptible

HOST = "127.0.0.1"
"""The loopback address: no other machine can reach the page."""
PORTS = range(7860, 7960)
"""The ports that are tried without --port."""
LARGEST_PICTURE = 12_000_000
"""The most characters of a canvas that is read: the page sends at most 1000 x 1000 pixels, as PNG in base 64."""
LARGEST_SIDE = 1000
"""The most pixels of a side of a canvas, as in board.js."""
LARGEST_REQUEST = LARGEST_PICTURE + 10_000
"""The most bytes of a request: a canvas, and the names of what is called with it."""
DATA_URL = "data:image/png;base64,"
TITLE = "Which digit is this?"


def build(results: Place) -> gr.Blocks:
    """Return the page that answers with the checkpoints in the folder ``results``."""
    shelf = Shelf(results)

    def answer(canvas: str) -> str:
        """Return the answers, as HTML, to a canvas: a data URL, or an empty string if nothing was drawn."""
        models, problems = shelf.models()
        if not models:
            return html.no_checkpoint(str(shelf.folder), problems)
        if not canvas:
            return html.message(html.HINT)
        picture = read_canvas(canvas)
        return html.message(html.UNREADABLE) if picture is None else html.answered(shelf.answer(picture))

    samples = {digit: digits.sample(digit) for digit in digits.STROKES}
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(
            html_template=html.board(TITLE, samples),
            js_on_load=Path(__file__).with_name("board.js").read_text(encoding="utf-8"),
            server_functions=[answer],
            elem_id="board",
        )
    return page


def read_canvas(text: str) -> Image.Image | None:
    """Return the picture in a data URL of a PNG; None if it is not one or too large."""
    if not isinstance(text, str) or not text.startswith(DATA_URL) or len(text) > LARGEST_PICTURE:
        return None
    try:
        content = base64.b64decode(text.removeprefix(DATA_URL), validate=True)
        with quiet():
            picture = Image.open(io.BytesIO(content), formats=["PNG"])
        if max(picture.size) > LARGEST_SIDE:  # a few kilobytes can hold gigabytes of pixels
            return None
        picture.load()
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return picture


def start(results: Place, *, port: int | None) -> str:
    """Serve the page and return its address. The server's threads go on until the process ends.

    Raises:
        UserError: the port is taken.
    """
    torch.set_num_threads(1)  # one image at a time: handing it to several threads takes longer
    chosen = _free_port(port)
    page = build(results)
    page.launch(
        server_name=HOST,
        server_port=chosen,
        share=False,
        inbrowser=False,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(Guard, port=chosen, largest=LARGEST_REQUEST)]},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=html.CSS,
    )
    return f"http://{HOST}:{chosen}"


def wait(address: str) -> None:
    """Print the page's address and wait for Ctrl-C."""
    # a shell starts background processes with Ctrl-C ignored
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


def _free_port(wanted: int | None) -> int:
    for port in PORTS if wanted is None else [wanted]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    if wanted is None:
        raise UserError(f"ports {PORTS[0]} to {PORTS[-1]} are all taken; name a free one with --port")
    raise UserError(f"--port {wanted} is taken or not allowed; name another, or leave it out")
