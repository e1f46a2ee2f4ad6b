"""The look of every plot: colours, markers, type; and figures as SVG and PNG, the same bytes every time.

The SVGs have no background, and their text takes the colour of what surrounds them or of the reader's theme; the
PNGs are dark on white. matplotlib is imported when the first plot is drawn, not with this module.
"""

from __future__ import annotations

import io
import logging
import re
import statistics
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from bench.reporting.entries import Entry
from bench.reporting.formats import one_line
from bench.reporting.groups import grouped
from bench.reporting.placing import place_labels
from bench.reporting.stats import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#D074A8", "#8C564B", "#3A9BDC")
"""Colours after Okabe and Ito (https://jfly.uni-koeln.de/color/), with a contrast of 3:1 at least on either page."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
INK = "#1f2328"
"""The colour of text and axes; in the SVGs it becomes currentColor."""
INK_IN_THE_DARK = "#e6edf3"
WIDTH = 5.2
"""The width of a figure in inches: that of a phone's screen at the size of its text."""

LEFT = 0.012
"""The left edge of a figure's title and note, as a share of its width."""
NOTE = "note"
"""The id by which :func:`styled` finds the notes of a figure."""

Values = ParamSpec("Values")


@dataclass(frozen=True)
class Look:
    """The colour and marker of a model in every plot of a report."""

    colour: str
    marker: str


def looks(models: Iterable[str]) -> dict[str, Look]:
    """Return a colour and a marker for each model, whatever the order in which they are named."""
    return {
        model: Look(PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)])
        for number, model in enumerate(sorted(set(models)))
    }


def with_jobs(looks: Mapping[str, Look], entries: Iterable[Entry]) -> dict[str, Look]:
    """Return ``looks`` with that of each job, by its id: the colour of its model, each job with the next marker."""
    extended = dict(looks)
    for model, siblings in grouped(entries, lambda entry: entry.records[0].model).items():
        start = MARKERS.index(looks[model].marker)
        for place, entry in enumerate(siblings, start):
            extended[entry.records[0].job_id] = Look(looks[model].colour, MARKERS[place % len(MARKERS)])
    return extended


# --- style and files -------------------------------------------------------------------------------------------------

STYLE: Any = {
    "svg.hashsalt": "image-classifier-bench",
    "svg.fonttype": "none",
    "text.hinting": "none",  # at 150 pixels an inch it only costs time, and an SVG has none
    "figure.dpi": 150,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # spares a search for a place: no ticks are above the axes
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "errorbar.capsize": 3,
}


logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no message about its font cache


@contextmanager
def _style() -> Iterator[None]:
    """Apply the settings of this module and no others: a user's matplotlibrc changes nothing."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names may be in any script
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def styled(draw: Callable[Values, Figure]) -> Callable[Values, Figure]:
    """Decorate a function that draws: with the style, the layout done once, and notes at the figure's edge."""

    @wraps(draw)
    def inside(*arguments: Values.args, **named: Values.kwargs) -> Figure:
        with _style():
            figure = draw(*arguments, **named)
            engine = figure.get_layout_engine()
            if engine is not None:
                engine.execute(figure)
            figure.set_layout_engine("none")  # or every saving would lay it out again, and differently
            first = figure.axes[0]
            first.apply_aspect()
            place_labels(figure)
            for note in figure.findobj(lambda artist: artist.get_gid() == NOTE):
                note.set(x=first.transAxes.inverted().transform(figure.transFigure.transform((LEFT, 0)))[0])
            return figure

    return inside


def svg(figure: Figure) -> str:
    """Return the figure as an SVG file with a transparent background, readable on light and dark."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # savefig would draw twice

    buffer = io.StringIO()
    original, resolution = figure.canvas, figure.dpi
    with _style():
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    figure.set_canvas(original)
    figure.set_dpi(resolution)  # printing has changed both
    text = buffer.getvalue().replace(INK, "currentColor")
    themes = f"svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{INK_IN_THE_DARK}}}}}"
    return text.replace('<style type="text/css">', f'<style type="text/css">{themes}', 1)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file: dark on white."""
    from PIL import Image

    canvas: Any = figure.canvas
    with _style():
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    picture = Image.new("RGB", drawn.size, "white")
    picture.paste(drawn, mask=drawn)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", dpi=(150, 150))
    return buffer.getvalue()


def inline(svg_file: str, *, name: str, title: str) -> str:
    """Return an SVG file of :func:`svg` as a part of an HTML page: in the page's colour, and with unique ids.

    Args:
        svg_file: the result of :func:`svg`.
        name: the prefix of every id; letters, digits, '-' and '_'.
        title: the text for readers who see no picture; escaped by the caller.
    """
    body = svg_file[svg_file.index("<svg ") :]
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
    referenced = set(re.findall(r'href="#([^"]+)"', body)) | set(re.findall(r"url\(#([^)]+)\)", body))

    def rename(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in referenced else ""

    body = re.sub(r' id="([^"]*)"', rename, body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    end = body.index(">")
    viewbox = "".join(re.findall(r'viewBox="[^"]*"', body[:end]))
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {viewbox} role="img" aria-label="{title}"'
    return re.sub(r">\s+<", ">\n<", opening + body[end:]).strip()


# --- parts of figures ------------------------------------------------------------------------------------------------


def plain(text: str, most: int = 200) -> str:
    """Return the text on one line, without characters that an SVG cannot hold, cut to ``most`` characters."""
    kept = "".join(letter if letter.isprintable() else " " for letter in one_line(text))
    return kept if len(kept) <= most else f"{kept[: most - 3]}..."


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Return names cut to ``most`` letters: at the end or, if two of them would then be the same, at the beginning."""
    whole = [plain(name) for name in names]
    cut = [plain(name, most) for name in whole]
    if len(set(cut)) == len(set(whole)):
        return cut
    return [name if len(name) <= most else f"...{name[3 - most :]}" for name in whole]


def wrapped(text: str, width: int) -> str:
    """Return plain text in lines of at most ``width`` letters."""
    return "\n".join(textwrap.wrap(plain(text), width)) or "-"


def figure_of(title: str, height: float) -> Figure:
    """Return an empty figure, ``height`` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # laid out for the PNG, so that SVG and PNG measure each text once
    figure.suptitle(wrapped(title, 56), x=LEFT, ha="left")
    return figure


def note_below(axis: Axes, text: str) -> None:
    """Put a note under the title; :func:`styled` moves it to the figure's edge once the axes have their place."""
    axis.set_title("\n".join(textwrap.wrap(plain(text, 400), 78)), gid=NOTE)


def legend_of(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Draw the legend below the axes, since labels may be long, and make the figure as much higher."""
    labels = [wrapped(str(handle.get_label()), 56) for handle in handles]
    columns = 2 if max(map(len, labels), default=0) <= 24 else 1
    if not labels:
        return
    lines = -(-len(labels) // columns) if columns > 1 else sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.2 * lines + 0.1)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def draw_mean(
    axis: Axes, values: Sequence[float], at: float, look: Look, *, horizontal: bool = False, **style: Any
) -> None:
    """Draw the mean of ``values`` at a place, with its 95 % t-interval if there is one."""
    mean = statistics.fmean(values)
    interval = mean_interval(values)
    spread = None if interval is None else [[mean - interval.low], [interval.high - mean]]
    style = {"color": look.colour, "marker": look.marker, "markersize": 6, "linestyle": "none", **style}
    if horizontal:
        axis.errorbar([mean], [at], xerr=spread, **style)
    else:
        axis.errorbar([at], [mean], yerr=spread, **style)


def line_of(label: str, look: Look, **how: Any) -> Line2D:
    """Return a line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, label=label, **how)


def look_of(entry: Entry, looks: Mapping[str, Look]) -> Look:
    """Return the look of a job or, if there is none, of its model."""
    first = entry.records[0]
    return looks.get(first.job_id) or looks[first.model]


def log_axis(axis: Axis, values: Sequence[float], *, at_values: bool = False) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks: the ``values``, or round ones over their range."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]  # missing in its annotations
    decades = np.log10(max(values) / min(values))
    steps = (1, 2, 3, 5, 7) if decades < 0.5 else (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 2.4 else (1,)
    axis.set_major_locator(FixedLocator(values) if at_values else LogLocator(subs=steps, numticks=10))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def short_number(value: float) -> str:
    """Return 250000 as '250k', 2.4e6 as '2.4M', 0.001 as '0.001'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
