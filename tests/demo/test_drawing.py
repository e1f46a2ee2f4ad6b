"""People do not draw like MNIST: what to_mnist() makes of their drawings, and how well a CNN reads it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from checkpoints import Results, mnist_folder, trained
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from redrawing import centre_line, redrawn
from scipy import ndimage

from bench.demo.digits import STROKES, sample
from bench.demo.drawing import BOX, SIZE, to_mnist
from bench.learning.checkpoint import load_trained
from bench.learning.data import datasets
from bench.learning.evaluation import probabilities
from bench.learning.models.weights import read as read_weights

Reader = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
Digits = NDArray[np.uint8]


@pytest.fixture(scope="module")
def results() -> Results:
    return trained()


@pytest.fixture(scope="module")
def read(results: Results) -> Reader:
    """What a trained CNN reads: uint8 [images, 28, 28] to classes [images]."""
    model = load_trained(read_weights(results.checkpoint, "a CNN"))
    return lambda images: probabilities(model, images[:, None]).argmax(1)


@pytest.fixture(scope="module")
def hundred(results: Results) -> tuple[Digits, NDArray[np.int64]]:
    """100 test digits and what they are."""
    chosen = np.random.default_rng(2024).choice(len(results.data.test.labels), 100, replace=False)
    return results.data.test.images[chosen, 0], results.data.test.labels[chosen]


@pytest.fixture(scope="module")
def canvases(hundred: tuple[Digits, NDArray[np.int64]]) -> list[Image.Image]:
    """The digits as thin dark strokes on white."""
    random = np.random.default_rng(5)
    return [redrawn(digit, random) for digit in hundred[0]]


def shown(pictures: list[Image.Image]) -> Digits:
    found = [to_mnist(picture) for picture in pictures]
    assert all(picture is not None for picture in found)
    return np.stack([picture for picture in found if picture is not None])


def accuracy(said: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    return float((said == labels).mean())


@pytest.mark.heavy
def test_redrawn_digits_are_read_as_well_as_the_originals(
    read: Reader, hundred: tuple[Digits, NDArray[np.int64]], canvases: list[Image.Image]
) -> None:
    digits, labels = hundred
    assert {canvas.size for canvas in canvases} == {(1000, 800)}

    as_they_were = accuracy(read(digits), labels)
    as_drawn = accuracy(read(shown(canvases)), labels)
    shrunk = np.stack([255 - np.asarray(canvas.convert("L").resize((28, 28))) for canvas in canvases])

    assert as_drawn >= as_they_were - 0.03, (as_drawn, as_they_were)
    assert accuracy(read(shrunk), labels) < 0.5  # what all this is for


@pytest.fixture(scope="module")
def thin(hundred: tuple[Digits, NDArray[np.int64]]) -> list[list[tuple[tuple[float, float], tuple[float, float]]]]:
    return [centre_line(digit) for digit in hundred[0]]


@pytest.mark.heavy
def test_small_drawings_with_an_alpha_channel_are_read(
    read: Reader, hundred: tuple[Digits, NDArray[np.int64]], thin: list[list[tuple[tuple[float, float], ...]]]
) -> None:
    """32 x 32 pixels; black, white and red ink on nothing."""
    digits, labels = hundred
    pictures = []
    for number, segments in enumerate(thin):
        opacity = Image.new("L", (128, 128))
        pen = ImageDraw.Draw(opacity)
        for start, end in segments:
            pen.line([value * 4.4 for value in (*start, *end)], fill=255, width=7)
        colour = ("black", "white", "red")[number % 3]
        picture = Image.new("RGBA", (32, 32), colour)
        picture.putalpha(opacity.reduce(4))
        pictures.append(picture)
    assert accuracy(read(shown(pictures)), labels) >= accuracy(read(digits), labels) - 0.05


@pytest.mark.heavy
def test_light_ink_on_dark_paper_is_read(
    read: Reader, hundred: tuple[Digits, NDArray[np.int64]], canvases: list[Image.Image]
) -> None:
    digits, labels = hundred
    light = [Image.eval(canvas, lambda value: 255 - round(0.8 * value)) for canvas in canvases[:50]]
    there = shown(light)
    assert accuracy(read(there), labels[:50]) >= accuracy(read(digits[:50]), labels[:50]) - 0.04
    few = shown(canvases[:10])
    assert np.abs(few.astype(int) - there[:10]).mean() < 2  # polarity and contrast change next to nothing


def photograph(canvas: Image.Image, random: np.random.Generator) -> Image.Image:
    """The canvas as paper under a lamp at one side, with a shadow across, in grey and slightly blurred, with noise."""
    paper = np.asarray(canvas.convert("L").reduce(2), dtype=float) / 255
    height, width = paper.shape
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    angle = random.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    light = 235 - 130 * (along - along.min()) / np.ptp(along)
    edge = random.uniform(0.3, 0.7)
    light *= 1 - 0.2 / (1 + np.exp(-(columns + 0.3 * rows - edge) * 25))
    seen = light * (0.25 + 0.75 * ndimage.gaussian_filter(paper, 1)) + random.normal(0, 3, paper.shape)
    return Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8))


@pytest.mark.slow
def test_a_photograph_with_uneven_light_is_read(
    read: Reader, hundred: tuple[Digits, NDArray[np.int64]], canvases: list[Image.Image]
) -> None:
    digits, labels = hundred
    random = np.random.default_rng(7)
    photographs = [photograph(canvas, random) for canvas in canvases]
    assert accuracy(read(shown(photographs)), labels) >= accuracy(read(digits), labels) - 0.06


@pytest.mark.heavy
def test_mnist_digits_stay_what_they_are(read: Reader, results: Results) -> None:
    digits, labels = results.data.test.images[::4, 0], results.data.test.labels[::4]
    again = shown([Image.fromarray(digit) for digit in digits])
    assert accuracy(read(again), labels) >= accuracy(read(digits), labels) - 0.02


@pytest.mark.parametrize(
    "empty",
    [
        Image.new("RGBA", (800, 800), (0, 0, 0, 0)),
        Image.new("RGBA", (800, 800), (255, 255, 255, 0)),
        Image.new("RGBA", (300, 200), (255, 255, 255, 255)),
        Image.new("RGB", (1000, 800), "white"),
        Image.new("L", (28, 28), 0),
        Image.new("L", (1, 1), 128),
        Image.new("1", (50, 50), 1),
    ],
    ids=lambda image: f"{image.mode}-{image.width}x{image.height}",
)
def test_an_empty_canvas_is_no_digit(empty: Image.Image) -> None:
    assert to_mnist(empty) is None


def test_blank_paper_in_a_photograph_is_no_digit() -> None:
    random = np.random.default_rng(8)
    for _ in range(5):
        assert to_mnist(photograph(Image.new("RGB", (1000, 800), "white"), random)) is None


def digit(name: str = "3", size: tuple[int, int] = (400, 400), width: int = 8) -> Image.Image:
    return sample(name, size=size, width=width)


def test_a_drawing_comes_out_alike_in_every_image_mode() -> None:
    drawing = digit()
    expected = to_mnist(drawing)
    assert expected is not None
    grey = np.asarray(drawing.convert("L"))
    array = np.asarray(drawing)
    clear = drawing.convert("RGBA")
    clear.putalpha(Image.fromarray(255 - grey))
    variants: dict[str, Image.Image | NDArray[np.uint8]] = {
        "L": drawing.convert("L"),
        "RGBA, opaque": drawing.convert("RGBA"),
        "CMYK": drawing.convert("CMYK"),
        "P": drawing.quantize(16),
        "1": drawing.convert("L").point(lambda value: 255 * (value > 128)).convert("1"),
        "16 bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "float": Image.fromarray(grey.astype(np.float32) / 255),
        "transparent": clear,
        "LA": clear.convert("LA"),
        "array [height, width]": grey,
        "array [height, width, 3]": array,
        "array [3, height, width]": np.moveaxis(array, -1, 0),
        "array [1, height, width]": grey[None],
        "inverted": 255 - grey,
    }
    for name, variant in variants.items():
        found = to_mnist(variant)
        assert found is not None, name
        assert np.abs(found.astype(int) - expected).mean() < 6, name


def test_the_turn_that_a_camera_notes_is_made() -> None:
    turned = digit().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    file = io.BytesIO()
    turned.save(file, "png", exif=exif)
    found, expected = to_mnist(Image.open(file)), to_mnist(digit())
    assert found is not None
    assert expected is not None
    assert np.array_equal(found, expected)


def test_specks_of_dust_are_not_part_of_the_digit() -> None:
    clean = digit(size=(800, 800))
    dusty = clean.copy()
    pen = ImageDraw.Draw(dusty)
    for x, y in ((20, 30), (780, 40), (400, 790)):
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill="black")
    found, expected = to_mnist(dusty), to_mnist(clean)
    assert found is not None
    assert expected is not None
    assert np.array_equal(found, expected)


@given(
    name=st.sampled_from(sorted(STROKES)),
    side=st.integers(40, 300),
    stretch=st.floats(0.5, 2),
    left=st.integers(0, 200),
    top=st.integers(0, 200),
    ink=st.integers(0, 100),
    paper=st.integers(160, 255),
)
def test_every_drawing_comes_out_as_mnist_was_made(
    name: str, side: int, stretch: float, left: int, top: int, ink: int, paper: int
) -> None:
    """A digit in a box of 20 x 20 with its proportions, the centre of mass in the middle, bright on black."""
    small = sample(name, size=(side, side), width=max(2, side // 30)).convert("L")
    small = small.resize((max(30, round(side * stretch)), side))
    strength = 1 - np.asarray(small, dtype=float) / 255
    canvas = np.full((top + small.height + 30, left + small.width + 30), float(paper))
    canvas[top : top + small.height, left : left + small.width] -= strength * (paper - ink)
    found = to_mnist(canvas.astype(np.uint8))

    assert found is not None
    assert found.shape == (SIZE, SIZE)
    assert found.dtype == np.uint8
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert BOX - 1 <= max(height, width) <= BOX
    mass = ndimage.center_of_mass(found)
    for centre, low, high in ((mass[0], rows[0], rows[-1]), (mass[1], columns[0], columns[-1])):
        at_the_edge = low == 0 or high == SIZE - 1
        assert abs(centre - (SIZE - 1) / 2) <= 0.55 or at_the_edge
    assert found.max() >= 200


@pytest.mark.slow
@pytest.mark.mnist
def test_redrawn_digits_of_the_whole_mnist_are_read_as_well_as_the_originals(read: Reader) -> None:
    test = datasets.load("mnist", mnist_folder()).test
    chosen = np.random.default_rng(1).choice(len(test.labels), 100, replace=False)
    digits, labels = test.images[chosen, 0], test.labels[chosen]
    random = np.random.default_rng(2)
    as_drawn = accuracy(read(shown([redrawn(digit, random) for digit in digits])), labels)
    assert as_drawn >= accuracy(read(digits), labels) - 0.03


@pytest.mark.slow
@pytest.mark.mnist
def test_the_whole_of_mnist_is_read_as_well(read: Reader) -> None:
    test = datasets.load("mnist", mnist_folder()).test
    digits, labels = test.images[::10, 0], test.labels[::10]
    assert accuracy(read(shown([Image.fromarray(digit) for digit in digits])), labels) >= (
        accuracy(read(digits), labels) - 0.015
    )
