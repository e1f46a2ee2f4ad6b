"""Pictures of digits as MNIST shows digits: :func:`to_mnist`, for the drawing page and bench.evaluate.

MNIST's digits were "size normalized to fit in a 20x20 pixel box while preserving their aspect ratio" and "centered in
a 28x28 image by computing the center of mass of the pixels, and translating the image so as to position this point at
the center of the 28x28 field" (Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist/). Their strokes are
white on black and 1.7 to 4.2 pixels wide (5th and 95th percentile over 3,000 training digits, measured as here).
People draw thinner, larger, off centre, in any colour, and photograph paper in uneven light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from bench.learning.data.pixels import quiet, upright

SIZE = 28
"""The height and width of the result, pixels."""
BOX = 20
"""The longer side of the digit in the result, pixels."""
STROKE = (2.4, 4.2)
"""The smallest and the largest width of a stroke in the result, pixels; others are thickened or thinned to it."""
LARGEST_SIDE = 1200
"""The longest side of a picture that is not reduced first, pixels."""
FINE = 8
"""The smallest factor by which the grid that the digit is shaped on is finer than the result."""
LEAST_CONTRAST = 20.0
"""The smallest difference between ink and paper, of 255; anything fainter is noise or an empty canvas."""

Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Ink:
    strength: Grey
    """The difference of each pixel from the paper around it, 0 to 255."""
    uneven: bool
    """True if the light is uneven, as in a photograph."""


def to_mnist(picture: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Find the ink in a picture and return it as an MNIST digit.

    Args:
        picture: of any size and mode, dark on light or light on dark, opaque or transparent; or an array, uint8
            [height, width], [height, width, channels] or [channels, height, width] with 1, 3 or 4 channels.

    Returns:
        uint8 [28, 28], ink near 255 on 0, or None when there is no ink: an empty canvas, blank paper.
    """
    ink = _find_ink(_as_image(picture))
    if ink is None:
        return None
    mask = _strokes(ink)
    if mask is None:
        return None
    return _centred(_in_box(ink.strength, mask))


def _as_image(picture: Image.Image | NDArray[np.uint8]) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    array = picture
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


# --- the ink ---------------------------------------------------------------------------------------------------


def _find_ink(picture: Image.Image) -> _Ink | None:
    if min(picture.size) < 1:
        return None
    if max(picture.size) > LARGEST_SIDE:
        picture = picture.copy() if picture.mode not in ("1", "P") else picture.convert("RGBA")
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    grey, alpha = grey_and_alpha(picture)
    if alpha is not None:
        solid = grey[alpha >= 128]
        if not solid.size:
            return None if alpha.max() < LEAST_CONTRAST else _Ink(alpha, uneven=False)
        spread = float(np.percentile(solid, 95) - np.percentile(solid, 5))
        if spread < 2 * LEAST_CONTRAST or solid.size < 0.3 * alpha.size:
            # strokes on a transparent ground: the opaque pixels are ink, whatever their colour
            return None if alpha.min() >= 128 else _Ink(alpha, uneven=False)
        # a picture with transparent margins: fill them with the colour of its paper
        paper = float(np.median(solid))
        grey = (paper + (grey - paper) * (alpha / 255)).astype(np.float32)
    paper_everywhere, uneven = _paper(grey)
    darker = np.clip(paper_everywhere - grey, 0, None)
    lighter = np.clip(grey - paper_everywhere, 0, None)
    # Ink is what stands out: the cube lets a few strong pixels outweigh much faint noise.
    strength = max(darker, lighter, key=lambda side: float((side * side * side).sum()))
    if uneven:
        strength = ndimage.gaussian_filter(strength, 0.7)  # the camera's noise
    return _Ink(strength.astype(np.float32), uneven)


def grey_and_alpha(picture: Image.Image) -> tuple[Grey, Grey | None]:
    """Return luma (ITU-R BT.601) and opacity, each [height, width] from 0 to 255; opacity is None if all is opaque."""
    with quiet():
        picture = upright(picture)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            alpha = np.asarray(picture.getchannel("A"), dtype=np.float32)
            grey = np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32)
            return grey, None if alpha.min() == 255 else alpha
        return np.asarray(picture.convert("L"), dtype=np.float32), None


def _paper(grey: Grey) -> tuple[Grey | float, bool]:
    """Return (the brightness of the paper, whether the light is uneven); if it is, one brightness per pixel."""
    counts = np.bincount(np.clip(grey, 0, 255).astype(np.uint8).ravel(), minlength=256)
    near = np.convolve(counts, np.ones(17), mode="same")  # within 8 grey levels
    level = int(near.argmax())
    like_paper = np.abs(grey - level) <= 12
    border = np.concatenate([like_paper[0], like_paper[-1], like_paper[:, 0], like_paper[:, -1]])
    if (like_paper.mean() >= 0.4 and border.mean() >= 0.75) or min(grey.shape) < 24:
        close = grey[np.abs(grey - level) <= 8]
        return float(np.median(close)) if close.size else float(level), False
    # A wide median follows light and shadow but not strokes, which fill less than half of the window.
    height, width = grey.shape
    shrink = max(height, width) / 72
    small_size = (max(8, round(width / shrink)), max(8, round(height / shrink)))
    small = np.asarray(Image.fromarray(grey).resize(small_size, Image.Resampling.BOX))
    for window in (31, 15):  # then once more in a smaller window, without the ink
        median = ndimage.median_filter(small, size=window, mode="nearest")
        residual = small - median
        noise = 1.4826 * float(np.median(np.abs(residual))) + 2
        paper_like = ndimage.binary_erosion(np.abs(residual) <= 3 * noise, border_value=1)
        small = np.where(paper_like, small, median)
    smooth = ndimage.gaussian_filter(small, 1.5, mode="nearest")
    return np.asarray(Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)), True


def _strokes(ink: _Ink) -> Mask | None:
    """Return which pixels are ink, without specks of dust; None if there is no ink."""
    strength = ink.strength
    peak = float(np.percentile(strength, 99.9)) if ink.uneven else float(strength.max())
    noise = 1.4826 * float(np.median(np.abs(strength - np.median(strength))))
    if peak < max(LEAST_CONTRAST, 8 * noise):
        return None
    if not ink.uneven:  # a single odd pixel must not define full strength
        peak = float(np.median(strength[strength >= 0.5 * peak]))
    strong, weak = (0.5, 0.35) if ink.uneven else (0.5, 0.25)
    # Thin smooth lines have pixels of half strength: they count where they are connected to strong ones.
    labels, count = ndimage.label(strength >= weak * peak, structure=np.ones((3, 3)))
    if not count:
        return None
    numbers = np.arange(1, count + 1)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    keep = np.isin(numbers, labels[strength >= strong * peak])
    if not keep.any():
        return None
    if ink.uneven:  # what touches the border is the table beside the paper, or the edge of a shadow
        edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        inside = keep & ~np.isin(numbers, edge)
        if inside.any() and areas[inside].max() >= 0.1 * areas[keep].max():
            keep = inside
    keep &= areas >= (0.05 if ink.uneven else 0.02) * areas[keep].max()
    mask: Mask = np.isin(labels, numbers[keep])
    if ink.strength.shape[0] > 4 * SIZE:  # on fine grids the faint rim of a stroke is not part of its width
        mask &= strength >= min(0.4, weak + 0.1) * peak
    return mask


# --- the digit in its box --------------------------------------------------------------------------------------


def _in_box(strength: Grey, mask: Mask) -> Grey:
    """Return the digit with a longer side of 20 pixels and a stroke of the usual width, from 0 to 255."""
    box = _bounds(mask)
    shape = mask[box]
    zoom = max(1.0, BOX * FINE / max(shape.shape))
    if zoom > 1:  # small drawings: their grey levels say where between the pixels the edge runs
        padded = np.pad(np.where(mask, strength, 0)[box], 1)
        level = float(np.percentile(padded[padded > 0], 90))
        fine = ndimage.zoom(padded / level, zoom, order=1, grid_mode=True, mode="grid-constant")
        shape = fine[_bounds(fine >= 0.5)] >= 0.5 if (fine >= 0.5).any() else np.ones((1, 1), dtype=bool)
    for _ in range(2):  # a wider stroke makes the digit larger, so it is scaled down more: the second pass is exact
        shape = _with_stroke(shape)
        shape = shape[_bounds(shape)]
    height, width = shape.shape
    scale = BOX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = Image.fromarray(shape.astype(np.float32) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BOX), dtype=np.float32)


def _with_stroke(shape: Mask) -> Mask:
    """Return the digit with strokes thickened or thinned, where needed, to the usual width for its size."""
    longer = max(shape.shape)
    width = _stroke_width(shape)
    low, high = STROKE
    if width * BOX < low * longer:
        # the digit grows by as much as its stroke: solve (width + grow) * BOX / (longer + grow) = low
        grow = (low * longer - BOX * width) / (BOX - low)
        margin = int(np.ceil(grow / 2)) + 1
        padded = np.pad(shape, margin)
        thick: Mask = ndimage.distance_transform_edt(~padded) <= grow / 2
        return thick
    if width * BOX > high * longer and width < 0.5 * min(shape.shape):
        thin: Mask = ndimage.distance_transform_edt(np.pad(shape, 1)) > (width - high * longer / BOX) / 2
        if ndimage.label(thin)[1] == ndimage.label(np.pad(shape, 1))[1]:  # it must not fall apart
            return thin
    return shape


def _stroke_width(shape: Mask) -> float:
    """Return the mean stroke width in pixels; a band's pixels are on average a quarter of its width from its edge."""
    depth = ndimage.distance_transform_edt(np.pad(shape, 1))
    return max(1.0, 4 * (float(depth[depth > 0].mean()) - 0.5))


def _bounds(mask: Mask) -> tuple[slice, slice]:
    """Return the smallest box around the ink as (rows, columns)."""
    rows, columns = ndimage.find_objects(mask.view(np.uint8))[0]
    return rows, columns


def _centred(digit: Grey) -> NDArray[np.uint8]:
    """Return the digit in 28 x 28 pixels, its centre of mass as near to the middle as the frame allows."""
    height, width = digit.shape
    row, column = ndimage.center_of_mass(digit) if digit.any() else ((height - 1) / 2, (width - 1) / 2)
    middle = SIZE / 2 - 0.5  # the middle of the frame, counted from the centre of the first pixel
    y = int(np.clip(round(middle - row), 0, SIZE - height))
    x = int(np.clip(round(middle - column), 0, SIZE - width))
    field = np.zeros((SIZE, SIZE), dtype=np.uint8)
    field[y : y + height, x : x + width] = np.clip(np.rint(digit), 0, 255).astype(np.uint8)
    return field
