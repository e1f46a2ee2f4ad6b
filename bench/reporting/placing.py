"""Labels beside the points of a plot, placed so that none overlaps another, a point, or the edge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

LABEL = "label"
"""The id by which :func:`place_labels` finds the labels of a figure, in the order in which they get their places."""
SIZE = 7.0
"""The size of a label's letters, points."""
GAP = 2.0
"""The least distance between two labels, and between a label and a point, points."""
WIDER = 1.06
"""How many times as wide another font may be: a page is read in the reader's own."""
_PLACES = [
    (x, y, horizontal, vertical)
    for distance in (5.0, 9.0)
    for x, y, horizontal, vertical in (
        (distance, 0.0, "left", "center"),
        (-distance, 0.0, "right", "center"),
        (0.0, distance, "center", "bottom"),
        (0.0, -distance, "center", "top"),
        (0.7 * distance, 0.7 * distance, "left", "bottom"),
        (0.7 * distance, -0.7 * distance, "left", "top"),
        (-0.7 * distance, 0.7 * distance, "right", "bottom"),
        (-0.7 * distance, -0.7 * distance, "right", "top"),
    )
]
"""Where a label may be: offset in points, and how it is aligned; the best first."""


def label_point(axis: Axes, x: float, y: float, text: str) -> None:
    """Put a label beside a point; :func:`place_labels` moves it or, where there is no room, takes it away."""
    label = axis.annotate(text, (x, y), (5, 0), textcoords="offset points", fontsize=SIZE, gid=LABEL)
    label.set_visible(False)  # or the axes would become smaller to make room for it


def place_labels(figure: Figure) -> None:
    """Show the labels of a figure that is laid out where they overlap nothing; those without such a place stay hidden.

    Those added first get their places first.
    """
    from matplotlib.text import Annotation

    labels = [each for each in figure.findobj(Annotation) if each.get_gid() == LABEL]
    if not labels:
        return
    axis = figure.axes[0]
    scale = figure.dpi / 72
    taken = [box.padded(GAP * scale) for box in _taken(axis)]
    for label in labels:
        label.set_visible(True)  # what is hidden has no extent
        for x, y, horizontal, vertical in _PLACES:
            label.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)
            box = label.get_window_extent().expanded(WIDER, 1.0)
            if _inside(axis.bbox, box) and not any(box.overlaps(other) for other in taken):
                taken.append(box.padded(GAP * scale))
                break
        else:
            label.set_visible(False)


def _inside(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)


def _taken(axis: Axes) -> Iterator[Bbox]:
    """Yield the box of every marker, line and interval of an axis, in pixels."""
    for line in axis.lines:
        corners = [(float(x), float(y)) for x, y in axis.transData.transform(line.get_xydata())]
        if line.get_drawstyle() == "steps-post":
            corners = [
                corner
                for (x0, y0), (x1, y1) in itertools.pairwise(corners)
                for corner in ((x0, y0), (x1, y0), (x1, y1))
            ]
        if line.get_marker() not in ("None", "|", "_"):
            half = line.get_markersize() / 2 * axis.figure.dpi / 72
            for x, y in corners:
                yield _box((x - half, y - half), (x + half, y + half))
        if line.get_linestyle() not in ("None", "none", "", " "):
            yield from itertools.starmap(_box, itertools.pairwise(corners))
    for shape in axis.collections:
        for path in shape.get_paths():
            yield from itertools.starmap(_box, itertools.pairwise(axis.transData.transform(path.vertices)))


def _box(first: Sequence[float], second: Sequence[float]) -> Bbox:
    """Return the box of two corners, at least a pixel wide and high."""
    from matplotlib.transforms import Bbox

    (x0, x1), (y0, y1) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return Bbox([[x0, y0], [max(x1, x0 + 1), max(y1, y0 + 1)]])
