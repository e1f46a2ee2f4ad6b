"""MNIST digits as people would draw them: their centre lines as thin strokes on a large canvas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

CANVAS = (1000, 800)
FINE = 6
LAST = 28 * FINE + 1


def centre_line(digit: NDArray[np.uint8]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Line segments ((x, y), (x, y)) along the strokes of a digit, in units of its pixels."""
    fine = ndimage.gaussian_filter(ndimage.zoom(digit.astype(float), FINE, order=1), 1)
    # what is darker than its surroundings is no stroke: it keeps the small loops of an 8 open
    sharp = fine - 0.8 * ndimage.gaussian_filter(fine, 2 * FINE)
    shape = (sharp > 0.35 * sharp.max()) & (fine > 0.3 * fine.max())
    line = extended(thinned(shape), np.pad(shape, 1))
    segments = []
    for row, column in np.argwhere(line):
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if line[row + down, column + right]:
                segments.append(((column / FINE, row / FINE), ((column + right) / FINE, (row + down) / FINE)))
        if not line[row - 1 : row + 2, column - 1 : column + 2].sum() > 1:
            segments.append(((column / FINE, row / FINE), (column / FINE, row / FINE)))
    return segments


def extended(line: NDArray[np.bool_], shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The line with its ends drawn out to the ends of the strokes, which thinning shortens by half their width."""
    longer = line.copy()
    for end in np.argwhere(line & (ndimage.convolve(line.astype(int), np.ones((3, 3), int)) == 2)):
        path, here = {tuple(end)}, tuple(end)
        for _ in range(FINE):
            around = [(here[0] + down, here[1] + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            following = [point for point in around if line[point] and point not in path]
            if not following:
                break
            here = following[0]
            path.update(following)
        step = end - np.array(here)
        if not step.any():
            continue
        step = step / np.abs(step).max()
        point = end + step
        while (point + step >= 0).all() and shape[tuple(np.minimum(np.rint(point + step), LAST).astype(int))]:
            longer[tuple(np.rint(point).astype(int))] = True
            point = point + step
    return longer


def thinned(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lines one pixel wide (Zhang and Suen, A fast parallel algorithm for thinning digital patterns, CACM 1984)."""
    shape = np.pad(shape, 1).astype(np.uint8)
    while True:
        before = int(shape.sum())
        for step in (0, 1):
            around = [
                np.roll(shape, shift, (0, 1))
                for shift in ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
            ]  # north, then clockwise
            count = sum(around)
            following = [*around[1:], around[0]]
            changes = sum((first == 0) & (second == 1) for first, second in zip(around, following, strict=True))
            north, east, south, west = around[::2]
            if step == 0:
                sides = (north * east * south == 0) & (east * south * west == 0)
            else:
                sides = (north * east * west == 0) & (north * south * west == 0)
            shape[(shape == 1) & (count >= 2) & (count <= 6) & (changes == 1) & sides] = 0
        if int(shape.sum()) == before:
            return shape.astype(bool)


def redrawn(digit: NDArray[np.uint8], random: np.random.Generator) -> Image.Image:
    """A canvas of 1000 x 800, white, with the digit as a dark stroke of 3 to 6 pixels.

    Its height is a fifth to four fifths of the canvas, its place random.
    """
    segments = np.array(centre_line(digit))
    low, high = segments.min((0, 1)), segments.max((0, 1))
    width, height = CANVAS
    tall = random.uniform(0.2, 0.8) * height
    scale = tall / max(high[1] - low[1], 1e-9)
    scale = min(scale, 0.95 * width / max(high[0] - low[0], 1e-9))  # a lying digit would leave the canvas
    size = (high - low) * scale
    place = random.uniform([4, 4], np.array([width, height]) - size - 4)
    stroke, dark = int(random.integers(3, 7)), int(random.integers(0, 70))
    canvas = Image.new("RGB", CANVAS, "white")
    corner = np.floor(place).astype(int) - 4
    around = np.ceil(size).astype(int) + 9
    fine = Image.new("RGB", (2 * int(around[0]), 2 * int(around[1])), "white")  # twice as fine, then reduced: smooth
    pen = ImageDraw.Draw(fine)
    for start, end in 2 * ((segments - low) * scale + place - corner):
        pen.line([*start, *end], fill=(dark, dark, dark), width=2 * stroke)
        for x, y in (start, end):  # round ends
            pen.ellipse([x - stroke, y - stroke, x + stroke, y + stroke], fill=(dark, dark, dark))
    canvas.paste(fine.reduce(2), tuple(corner))
    return canvas
