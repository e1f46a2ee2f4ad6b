"""A few digits to click on, drawn as strokes, so that the page needs no data set."""

from __future__ import annotations

import itertools

from PIL import Image, ImageDraw

STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "0": [[(52, 12), (34, 20), (24, 44), (26, 72), (42, 88), (60, 84), (72, 62), (72, 34), (62, 16), (50, 12)]],
    "1": [[(36, 30), (54, 12), (52, 50), (50, 88)]],
    "2": [[(26, 30), (38, 14), (58, 12), (70, 26), (66, 44), (46, 66), (24, 86), (50, 84), (78, 86)]],
    "3": [[(28, 18), (50, 10), (68, 22), (64, 38), (44, 48), (66, 56), (74, 72), (60, 88), (36, 90), (24, 80)]],
    "4": [[(34, 12), (28, 34), (24, 54), (48, 54), (76, 50)], [(64, 14), (62, 50), (58, 90)]],
    "5": [[(70, 12), (36, 14), (32, 44), (52, 42), (70, 54), (70, 76), (52, 90), (28, 84)]],
    "6": [
        [
            *[(64, 12), (48, 22), (34, 42), (28, 64), (36, 84), (54, 90), (70, 80), (72, 64), (58, 54), (42, 57)],
            *[(31, 70)],
        ]
    ],
    "7": [[(24, 18), (48, 16), (74, 14), (62, 42), (50, 66), (42, 90)]],
    "8": [
        [
            *[(60, 14), (44, 10), (32, 22), (40, 40), (58, 54), (68, 72), (56, 90), (38, 88), (30, 72), (42, 54)],
            *[(60, 38), (66, 24), (58, 13)],
        ]
    ],
    "9": [
        [
            *[(70, 30), (60, 14), (42, 13), (30, 28), (34, 44), (50, 50), (66, 42), (71, 28), (70, 50), (64, 72)],
            *[(56, 90)],
        ]
    ],
}
"""Points (x, y) along each stroke on a field of 100 x 100."""


def sample(digit: str, *, size: tuple[int, int] = (240, 240), width: int = 9) -> Image.Image:
    """Return a digit as a dark stroke on white: RGB, ``size`` (width, height), the stroke ``width`` pixels wide."""
    fine = 4
    canvas = Image.new("RGB", (fine * size[0], fine * size[1]), "white")
    pen = ImageDraw.Draw(canvas)
    scale = fine * min(size) / 100
    for stroke in STROKES[digit]:
        points = [(x * scale, y * scale) for x, y in smooth(stroke)]
        pen.line(points, fill="#1f2937", width=fine * width, joint="curve")
        for x, y in (points[0], points[-1]):  # round ends
            half = fine * width / 2
            pen.ellipse([x - half, y - half, x + half, y + half], fill="#1f2937")
    return canvas.reduce(fine)


def smooth(points: list[tuple[float, float]], times: int = 3) -> list[tuple[float, float]]:
    """Return a line with its corners cut ``times`` times.

    Chaikin, An algorithm for high-speed curve generation, CGIP 1974.
    """
    for _ in range(times):
        cut = [points[0]]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            cut += [(0.75 * x0 + 0.25 * x1, 0.75 * y0 + 0.25 * y1), (0.25 * x0 + 0.75 * x1, 0.25 * y0 + 0.75 * y1)]
        points = [*cut, points[-1]]
    return points
