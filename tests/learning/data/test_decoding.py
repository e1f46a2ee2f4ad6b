"""Pictures of every kind become the pixels that a person sees."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from bench.learning.data.decoding import PictureError, look, open_picture, pixels_of

RED, GREY = (200, 30, 40), (90, 90, 90)


def read(content: bytes, *, colour: bool = True, size: int | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning of a library reaches the user
        return pixels_of(open_picture(content), colour=colour, size=size)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_usual_formats(kind: str) -> None:
    content = saved(Image.new("RGB", (20, 10), RED), kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))

    pixels = read(content)

    assert (pixels.shape, pixels.dtype) == ((3, 10, 20), np.uint8)
    assert np.abs(pixels.reshape(3, -1).mean(1) - RED).max() < 8


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "LA", "1"])
def test_palettes_inks_and_transparency(mode: str) -> None:
    drawn = Image.new("RGB", (8, 8), (255, 255, 255) if mode in ("LA", "1") else RED).convert(mode)
    pixels = read(saved(drawn, "TIFF" if mode == "CMYK" else "PNG"))
    expected = (255, 255, 255) if mode in ("LA", "1") else RED
    assert np.abs(pixels.reshape(3, -1).mean(1) - expected).max() < 8


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (read(saved(clear, "PNG")) == 255).all()
    assert (read(saved(clear, "PNG"), colour=False) == 255).all()


@pytest.mark.parametrize(("most", "bits"), [(65535, 16), (4095, 12), (255, 8)])
def test_more_than_8_bits_are_scaled_by_what_they_use(most: int, bits: int) -> None:
    values = np.linspace(0, most, 64).reshape(8, 8).astype(np.uint16)

    pixels = read(saved(Image.fromarray(values), "PNG"), colour=False)

    assert np.abs(pixels[0].astype(float) - np.linspace(0, 255, 64).reshape(8, 8)).max() <= 1, bits


def test_a_photo_is_turned_upright() -> None:
    photo = Image.new("RGB", (20, 10), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter

    content = saved(photo, "JPEG", exif=exif)

    assert read(content).shape == (3, 20, 10)
    seen = look(open_picture(content), content)
    assert (seen.width, seen.height) == (10, 20)


def test_the_middle_square_is_resized() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = RED

    resized = read(saved(Image.fromarray(pixels), "PNG"), size=5)

    assert resized.shape == (3, 5, 5)
    assert (resized[:, :, 1:4] == np.array(RED)[:, None, None]).all()


def test_colour_as_grey_is_its_luma() -> None:
    pixels = read(saved(Image.new("RGB", (4, 4), RED), "PNG"), colour=False)
    assert pixels.shape == (1, 4, 4)
    assert abs(int(pixels[0, 0, 0]) - (0.299 * 200 + 0.587 * 30 + 0.114 * 40)) <= 1


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_what_is_no_picture_is_an_error(content: bytes | None) -> None:
    if content is None:
        content = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)), "PNG")[
            :600
        ]
    with pytest.raises(PictureError):
        read(content)
