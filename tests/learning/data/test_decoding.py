"""Pictures of every kind become the pixels that a person sees."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.learning import cache
from bench.learning.data.decoding import PictureList, Pool, look, see
from bench.learning.data.depth import Largest, White, white_of
from bench.learning.data.pixels import PictureError, open_picture, pixels_of

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


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per colour from uint16 [height, width, 2: grey and alpha, 3: RGB, 4: RGBA]."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_are_read_and_of_12_in_16_are_refused(channels: int) -> None:
    pixels = np.full((4, 4, channels), 65535, np.uint16)
    pixels[..., 0] = 200 * 257
    assert (read(deep_png(pixels))[0] == 200).all()
    pixels[..., : channels - (channels != 3)] = 4095

    with pytest.raises(PictureError, match="16 bits per colour hold values of 12 bits; save it with 8 bits"):
        read(deep_png(pixels))

    pixels[..., : channels - (channels != 3)] = 0
    assert (read(deep_png(pixels)) == 0).all()


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (read(saved(clear, "PNG")) == 255).all()
    assert (read(saved(clear, "PNG"), colour=False) == 255).all()


@pytest.mark.parametrize(("most", "bits"), [(65535, 16), (4095, 12), (255, 8)])
def test_more_than_8_bits_are_scaled_by_what_they_use(most: int, bits: int) -> None:
    values = np.linspace(0, most, 64).reshape(8, 8).astype(np.uint16)

    pixels = read(saved(Image.fromarray(values), "PNG"), colour=False)

    assert np.abs(pixels[0].astype(float) - np.linspace(0, 255, 64).reshape(8, 8)).max() <= 1, bits


@given(
    values=st.lists(st.integers(0, 65535), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from(["PNG", "TIFF", "PGM", "PGM, plain"]), min_size=6, max_size=6),
)
def test_equal_values_give_equal_bytes_in_every_picture_of_a_data_set(values: list[int], kinds: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [deep_file(Path(folder, str(k)), [value, 7], kinds[k]) for k, value in enumerate(values)]
        with Pool() as pool:
            pictures = see(files, pool, decode=True)

        pixels = pictures.decode(None, colour=False)[:, 0, 0]

    top = next(top for top in (255, 4095, 65535) if max([7, *values]) <= top)
    assert pictures.white == White(top, 1)
    assert pixels[:, 1].tolist() == [round(7 * 255 / top)] * len(values)
    assert np.abs(pixels[:, 0] - np.array(values) * 255 / top).max() <= 0.51


def deep_file(path: Path, values: list[int], kind: str) -> str:
    """A picture of one row with these values of 16 bits, or those of a PGM whose white is 4095 if they allow it."""
    row = np.array([values], np.uint16)
    if kind.startswith("PGM"):
        maxval = 4095 if row.max() <= 4095 else 65535
        plain = kind != "PGM"
        body = " ".join(map(str, values)).encode() if plain else row.astype(">u2").tobytes()
        path.write_bytes(b"P%d\n%d 1\n%d\n" % (2 if plain else 5, len(values), maxval) + body)
    else:
        Image.fromarray(row).save(path, kind)
    return str(path)


def test_a_part_of_a_data_set_is_scaled_as_the_whole(tmp_path: Path) -> None:
    files = [deep_file(tmp_path / name, [most, 0], "PNG") for name, most in (("dark", 300), ("light", 60000))]
    with Pool() as pool:
        parts = [see([file], pool, decode=True) for file in files]
    white = white_of([*parts[0].largest, *parts[1].largest])

    alone, together = (
        PictureList(parts[0].files, parts[0].seen, given).decode(None, colour=False)[0, 0, 0, 0]
        for given in (None, white)
    )

    assert (alone, together) == (round(300 / 4095 * 255), round(300 / 65535 * 255))


@pytest.mark.parametrize(
    ("largest", "white"),
    [
        ([], None),
        ([Largest(4095, False), Largest(10, False)], White(4095, 1)),
        ([Largest(4096, False)], White(65535, 1)),
        ([Largest(0.5, True)], White(255, 1)),
        ([Largest(0.5, True), Largest(4000, False)], White(4095, 1)),
        ([Largest(0.5, True), Largest(200.0, True)], White(255, 255)),
        ([Largest(1e5, False)], White(1e5, 1)),
    ],
)
def test_white_is_one_for_all_pictures(largest: list[Largest], white: White | None) -> None:
    assert white_of(largest) == white


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_with_values_that_are_no_numbers_is_named(value: float, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(tmp_path / "odd.tif")
    with Pool() as pool:
        (about,) = see([str(tmp_path / "odd.tif")], pool, decode=True).seen
    assert about.problem == "some of its pixels are no finite numbers (NaN or infinite)"


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


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_a_damaged_tiff_is_an_error_without_messages_of_the_library(
    mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(noise if mode == "RGB" else noise[..., 0].astype(np.uint16))
    content = saved(picture, "TIFF", compression="tiff_adobe_deflate")
    (tmp_path / "whole.tif").write_bytes(content)
    (tmp_path / "torn.tif").write_bytes(content[:8] + bytes(400) + content[408:])

    with Pool() as pool:
        whole, torn = see([str(tmp_path / name) for name in ("whole.tif", "torn.tif")], pool, decode=True).seen

    assert (whole.problem, bool(torn.problem)) == (None, True)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still open")
    assert capfd.readouterr().err == "still open"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_a_small_file_with_very_many_pixels_is_refused_before_it_is_decoded(kind: str, tmp_path: Path) -> None:
    options = {"compression": "group4"} if kind == "TIFF" else {}
    (tmp_path / "bomb").write_bytes(saved(Image.new("1", (13_300, 13_300)), kind, **options))
    assert (tmp_path / "bomb").stat().st_size < 600_000

    tracemalloc.start()
    with Pool() as pool:
        (seen,) = see([str(tmp_path / "bomb")], pool, decode=True).seen
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert seen.problem == "it has 177 million pixels; at most 120 million are decoded"
    assert most < 50_000_000


def test_pictures_that_another_user_could_have_put_into_the_cache_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "decoded"
    monkeypatch.setenv("BENCH_CACHE", str(folder.parent))
    (tmp_path / "a.png").write_bytes(saved(Image.new("L", (4, 4), 7), "PNG"))

    def first_pixel() -> int:
        with Pool() as pool:
            pixels = see([str(tmp_path / "a.png")], pool, decode=True).decode(None, colour=False)
        assert pixels is not None
        return int(pixels[0, 0, 0, 0])

    assert first_pixel() == 7
    (kept,) = folder.glob("*.npy")
    np.save(kept, np.full((1, 1, 4, 4), 99, np.uint8))
    assert first_pixel() == 99, "a trusted cache is used"
    folder.chmod(0o777)
    assert first_pixel() == 7
    assert cache.refusal(folder) == f"every user can write to {folder}"
    folder.chmod(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert first_pixel() == (99 if os.getuid() == 0 else 7), "root's files are trusted"
