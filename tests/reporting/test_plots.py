"""Plots of stored runs: python -m pytest tests/reporting/test_plots.py"""

from __future__ import annotations

import colorsys
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from bench.reporting import plots, style, tradeoffs
from bench.reporting.entries import Entry
from bench.reporting.speed import summarise
from bench.reporting.style import Look, looks, png, svg
from bench.spec import EpochRecord, Predictions, Recipe, Record, Timing

Make = Callable[..., Record]
KNOWN = looks(["cnn", "mobilenet"])
SVG = "{http://www.w3.org/2000/svg}"


def of(record: Record, *, validation: bool = False, count: int = 3, start: float = 0.5) -> list[EpochRecord]:
    return [
        EpochRecord(
            run_id=record.run_id,
            epoch=epoch,
            train_loss=1 / epoch,
            train_accuracy=start + epoch / 10,
            seconds=1.0,
            images_per_second=10.0,
            validation_accuracy=start + epoch / 20 if validation else None,
            validation_loss=2 / epoch if validation else None,
        )
        for epoch in range(1, count + 1)
    ]


def timing(record: Record, milliseconds: float, **fields: Any) -> Timing:
    known = {"kind": "inference", "backend": "eager", "batch_size": 1, "sample": 0, "contended": False, "device": "cpu"}
    known |= {"threads": 2}
    return Timing(
        run_id=record.run_id,
        seconds=milliseconds / 1000,
        precision="fp32",
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
        **{**known, **fields},
    )


def seeds(make_record: Make, model: str, accuracies: Sequence[float], **fields: Any) -> Entry:
    return Entry(
        model, [make_record(model, seed=seed, test_accuracy=value, **fields) for seed, value in enumerate(accuracies)]
    )


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - our own


def texts(figure: Figure) -> str:
    """All that is written on a figure."""
    root = parsed(svg(figure))
    return "\n".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))


def points(figure: Figure) -> list[tuple[list[float], list[float], str]]:
    """(x, y, fill style) of every line with markers."""
    return [
        ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()], str(line.get_fillstyle()))
        for axis in figure.axes
        for line in axis.lines
        if line.get_marker() not in ("None", "|", "_")
    ]


@pytest.fixture(scope="module")
def gallery(make_record: Make) -> dict[str, Figure]:
    """One figure of each kind."""
    entries = [
        seeds(make_record, "cnn", (0.99, 0.985, 0.98)),
        seeds(make_record, "mobilenet", (0.8, 0.81, 0.82), total_parameters=2_389_130),
    ]
    records = [record for entry in entries for record in entry.records]
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 10, (2, 200)).astype(np.int16)
    return {
        "learning": plots.learning_curves(
            entries, {record.run_id: of(record, validation=True) for record in records}, KNOWN, dataset="mnist"
        ),
        "seeds": plots.accuracy_over_seeds(entries, KNOWN, dataset="mnist"),
        "parameters": tradeoffs.accuracy_against_parameters(entries, KNOWN, dataset="mnist"),
        "latency": tradeoffs.accuracy_against_latency(
            [replace(entry, speeds=summarise([[timing(entry.records[0], 2.0)]])) for entry in entries],
            KNOWN,
            dataset="mnist",
        ),
        "confusion": plots.confusion_matrix(labels, predicted, [str(i) for i in range(10)], title="confusion"),
        "wrong": plots.wrong_answers(
            rng.integers(0, 256, (8, 1, 28, 28), dtype=np.uint8), ["7"] * 8, ["1"] * 8, title="wrong", note="eight"
        ),
        "train-size": plots.accuracy_against_train_size(
            [Entry("cnn", [make_record(seed=s, images_per_epoch=n) for n in (100, 1000) for s in range(3)])],
            KNOWN,
            dataset="mnist",
        ),
    }


# --- colours ---------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("background", ["#ffffff", "#14171c"])
def test_every_colour_stands_out_from_light_and_dark(background: str) -> None:
    for colour in style.PALETTE:
        lighter, darker = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, colour


def test_no_two_colours_are_alike_and_neighbours_differ_in_hue() -> None:
    hues = [
        colorsys.rgb_to_hsv(*(int(colour[place : place + 2], 16) for place in (1, 3, 5)))[0] for colour in style.PALETTE
    ]
    assert len(set(style.PALETTE)) == len(style.PALETTE)
    assert all(abs(one - other) > 0.05 for one, other in itertools.pairwise(hues))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30))
def test_a_model_looks_the_same_in_whatever_order_models_are_named(models: list[str]) -> None:
    assert looks(models) == looks(reversed(models))
    assert looks(models).keys() == set(models)
    found = list(looks(models).values())
    assert len(set(found)) == min(len(found), 24)


# --- files -----------------------------------------------------------------------------------------------------------


def test_figures_are_the_same_bytes_when_saved_again(gallery: dict[str, Figure]) -> None:
    for figure in gallery.values():
        assert svg(figure) == svg(figure)
    figure = gallery["learning"]
    assert png(figure) == png(figure)


def test_svgs_name_no_time_and_no_version_and_take_the_readers_colours(gallery: dict[str, Figure]) -> None:
    for name, figure in gallery.items():
        text = svg(figure)
        parsed(text)
        assert "<metadata" not in text and "Matplotlib" not in text
        assert not re.search(r"20\d\d-\d\d", text)
        assert "currentColor" in text and "prefers-color-scheme:dark" in text
        body = text.split("</style>", 1)[1]
        assert style.INK not in body
        if name != "confusion":
            assert "fill: #000000" not in body and "fill: #ffffff" not in body


def test_pngs_are_dark_on_white_and_as_large_as_a_screen_shows_them(gallery: dict[str, Figure]) -> None:
    picture = Image.open(io.BytesIO(png(gallery["parameters"])))
    assert picture.width == 150 * style.WIDTH
    assert picture.convert("RGB").getpixel((2, picture.height - 2)) == (255, 255, 255)
    assert "Software" not in picture.info


def test_parts_of_a_page_have_ids_of_their_own_and_all_references_lead_somewhere(gallery: dict[str, Figure]) -> None:
    parts = [
        style.inline(svg(figure), name=f"p{number}", title="a title") for number, figure in enumerate(gallery.values())
    ]
    ids = [found for part in parts for found in re.findall(r' id="([^"]+)"', part)]
    assert len(ids) == len(set(ids))
    for part in parts:
        assert part.startswith("<svg ") and part.endswith("</svg>")
        assert "<style" not in part and 'aria-label="a title"' in part
        for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', part):
            assert "".join(target) in ids
        parsed(part)


def test_a_users_matplotlib_settings_change_nothing(make_record: Make) -> None:
    import matplotlib

    entry = seeds(make_record, "cnn", (0.9, 0.91))
    before = svg(plots.accuracy_over_seeds([entry], KNOWN, dataset="mnist"))
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert svg(plots.accuracy_over_seeds([entry], KNOWN, dataset="mnist")) == before
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$x^2$", "a & b \x01\x1b[0m", "数字", "x" * 500, "  "])
def test_any_name_can_be_drawn(name: str, make_record: Make) -> None:
    record = make_record(model=name)
    entries, known = [Entry(name, [record])], looks([name])
    for figure in (
        plots.accuracy_over_seeds(entries, known, dataset=name),
        tradeoffs.accuracy_against_parameters(entries, known, dataset=name),
        plots.learning_curves(entries, {record.run_id: of(record)}, known, dataset=name),
    ):
        text = svg(figure)
        parsed(text)
        assert "<script" not in text
        png(figure)


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_every_axis_says_what_it_shows_and_in_which_unit(gallery: dict[str, Figure]) -> None:
    expected = {
        "learning": ("accuracy (%)", "cross-entropy (nats)", "epoch"),
        "seeds": ("test accuracy (%)",),
        "parameters": ("test accuracy (%)", "parameters, trained and frozen"),
        "latency": ("milliseconds for one image, median", "CPU, 2 threads"),
        "confusion": ("true class", "predicted class"),
        "wrong": ("true 7", "said 1"),
        "train-size": ("training images", "test accuracy (%)"),
    }
    for name, labels in expected.items():
        written = " ".join(texts(gallery[name]).split())
        for label in labels:
            assert label in written, name


def test_learning_curves_are_means_in_bands_over_seeds(make_record: Make) -> None:
    entry = seeds(make_record, "cnn", (0.9, 0.9))
    starts = {record.run_id: 0.3 + 0.2 * record.seed for record in entry.records}
    epochs = {record.run_id: of(record, start=starts[record.run_id]) for record in entry.records}

    figure = plots.learning_curves([entry], epochs, KNOWN, dataset="mnist")

    above, below = figure.axes
    assert [float(y) for y in above.lines[0].get_ydata()] == pytest.approx([50, 60, 70])
    assert [float(y) for y in below.lines[0].get_ydata()] == pytest.approx([1, 1 / 2, 1 / 3])
    (band,) = [shape for shape in above.collections if len(shape.get_paths())]
    extent = band.get_paths()[0].get_extents()
    assert (extent.y0, extent.y1) == pytest.approx((40, 80))
    assert "held-out" not in texts(figure)


def test_learning_curves_of_runs_of_unequal_length(make_record: Make) -> None:
    entry = seeds(make_record, "cnn", (0.9, 0.9, 0.9))
    epochs = {record.run_id: of(record, count=1 + record.seed, validation=True) for record in entry.records[:2]}

    figure = plots.learning_curves([entry], epochs, KNOWN, dataset="mnist")

    assert [list(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata())] == [[1, 2], [1, 2]]
    assert "dashed: held-out" in texts(figure)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_epochs_are_whole_numbers(make_record: Make, count: int) -> None:
    entry = seeds(make_record, "cnn", (0.9,))
    epochs = {record.run_id: of(record, count=count) for record in entry.records}

    below = plots.learning_curves([entry], epochs, KNOWN, dataset="mnist").axes[1]

    low, high = below.get_xlim()
    shown = [float(tick) for tick in below.get_xticks() if low <= tick <= high]
    assert shown
    assert all(tick.is_integer() for tick in shown)


def test_intervals_are_drawn_from_three_seeds_on(make_record: Make) -> None:
    def bars(entry: Entry) -> int:
        figure = plots.accuracy_over_seeds([entry], KNOWN, dataset="mnist")
        return len([path for shape in figure.axes[0].collections for path in shape.get_paths() if len(path.vertices)])

    assert bars(seeds(make_record, "cnn", (0.9, 0.91))) == 0
    assert bars(seeds(make_record, "cnn", (0.9, 0.91, 0.92))) == 1


def test_jobs_of_one_model_share_its_colour_and_differ_in_their_marks(make_record: Make) -> None:
    entries = [Entry(f"cnn (lr {lr})", [make_record(recipe=Recipe(lr=lr))]) for lr in (0.1, 0.01)]
    entries.append(Entry("mobilenet", [make_record("mobilenet")]))

    figure = tradeoffs.accuracy_against_parameters(entries, style.with_jobs(KNOWN, entries), dataset="mnist")

    drawn = [
        (line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_marker() in style.MARKERS
    ]
    assert [colour for colour, _ in drawn] == [KNOWN["cnn"].colour] * 2 + [KNOWN["mobilenet"].colour]
    assert drawn[0][1] != drawn[1][1]


def test_contended_timings_are_never_drawn(make_record: Make) -> None:
    cnn, mobilenet = (seeds(make_record, model, (0.9,)) for model in ("cnn", "mobilenet"))
    samples = [
        [
            *(timing(cnn.records[0], value) for value in (1.0, 2.0, 9.0)),
            timing(cnn.records[0], 100.0, contended=True),
            timing(cnn.records[0], 100.0, batch_size=256),
            timing(cnn.records[0], 100.0, kind="training"),
        ],
        [timing(mobilenet.records[0], 5.0, contended=True)],
    ]
    entries = [replace(entry, speeds=summarise([rows])) for entry, rows in zip((cnn, mobilenet), samples, strict=True)]

    figure = tradeoffs.accuracy_against_latency(entries, KNOWN, dataset="mnist")

    marked = [x for x, _, _ in points(figure)]
    assert marked == [[2.0]]
    assert max(max(map(float, line.get_xdata())) for line in figure.axes[0].lines if len(line.get_xdata())) < 10
    assert "mobilenet" not in texts(figure)


def test_a_confusion_matrix_counts_and_shades_by_true_class() -> None:
    labels = np.array([0] * 90 + [0] * 10 + [1] * 5, dtype=np.int16)
    predicted = np.array([0] * 90 + [1] * 10 + [1] * 5, dtype=np.int16)

    figure = plots.confusion_matrix(labels, predicted, ("nought", "one"), title="a title")

    cells = {tuple(map(round, text.get_position())): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(0, 0): "90", (1, 0): "10", (1, 1): "5"}
    shown = figure.axes[0].collections[0].get_array()
    assert shown is not None
    assert shown.filled(-1).ravel().tolist() == pytest.approx([0.9, 0.1, -1, 1.0])
    assert {"nought", "one", "a title"} <= set(texts(figure).splitlines())


def test_many_classes_have_no_numbers_but_names_and_a_scale() -> None:
    labels = np.arange(30, dtype=np.int16)

    figure = plots.confusion_matrix(labels, labels, [f"class {i}" for i in range(30)], title="a title")

    assert {f"class {i}" for i in range(30)} <= set(texts(figure).splitlines())
    assert not figure.axes[0].texts
    assert "share of the true class" in texts(figure)
    assert len(svg(figure)) < 100_000


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["cat", "a long-haired cat"], ["cat", "a long-h..."]),
        (["bird of prey 01", "bird of prey 02", "cat"], ["... prey 01", "... prey 02", "cat"]),
        (["cat", "cat"], ["cat", "cat"]),
    ],
)
def test_names_are_cut_so_that_they_stay_apart(names: list[str], short: list[str]) -> None:
    assert style.shortened(names, 11) == short


@pytest.mark.parametrize("size", [96, 224])
def test_photos_keep_their_colours_and_are_drawn_small_and_smooth(size: int) -> None:
    photos = np.zeros((2, 3, size, size), dtype=np.uint8)
    photos[0, 0] = 255  # red
    photos[1, 2, :, ::2] = 255  # blue and black stripes

    figure = plots.wrong_answers(photos, ["red", "blue"], ["blue", "red"], title="a title", note="two")

    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert sheet.shape[1] < 6 * 96 + 6 * 10
    shown = sheet[:96, :96], sheet[:96, 105 : 105 + 96]
    assert (shown[0] == [255, 0, 0, 255]).all()
    assert (shown[1][..., :2] == 0).all()
    if size > 96:  # neither all blue nor all black
        assert 60 < shown[1][4:-4, 4:-4, 2].mean() < 195
    else:
        assert np.array_equal(shown[1][..., :3], photos[1].transpose(1, 2, 0))
    assert len(style.png(figure)) < 100_000


@given(st.integers(0, 10_000))
def test_what_only_one_gets_wrong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, one, other = rng.integers(0, 3, (3, 50)).astype(np.int16)
    sure = rng.random((2, 50)).astype(np.float32)

    found = plots.only_wrong(Predictions(labels, one, sure[0]), Predictions(labels, other, sure[1]))

    assert set(found) == {i for i in range(50) if one[i] != labels[i] and other[i] == labels[i]}
    assert all(np.diff(sure[0][found]) <= 0)


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (7, 3, 32, 48), (2, 1, 224, 224)])
def test_the_images_themselves_are_shown(shape: tuple[int, ...]) -> None:
    pictures = np.full(shape, 200, dtype=np.uint8)

    figure = plots.wrong_answers(
        pictures, ["boot"] * shape[0], ["a very long class name"] * shape[0], title="t", note="n"
    )

    assert svg(figure).count("<image ") == 1
    sheet = figure.axes[0].images[0].get_array()
    assert sheet is not None
    opaque = sheet[..., 3] == 255
    assert (sheet[opaque][:, :3] == 200).all()
    assert texts(figure).count("true boot") == shape[0]
    assert len(svg(figure)) < 60_000


def test_training_set_sizes_lie_where_they_belong(make_record: Make) -> None:
    records = [
        make_record(seed=seed, recipe=Recipe(train_size=size), test_accuracy=0.5 + seed / 10, images_per_epoch=None)
        for size in (100, None, 1000)
        for seed in range(3)
    ]

    figure = plots.accuracy_against_train_size([Entry("cnn", records)], KNOWN, dataset="mnist")

    curve = figure.axes[0].lines[0]
    assert list(curve.get_xdata()) == [100, 1000, 4000]
    assert [float(y) for y in curve.get_ydata()] == pytest.approx([60, 60, 60])
    assert figure.axes[0].get_xscale() == "log"
    assert {"100", "1k", "4k"} <= set(texts(figure).splitlines())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.001, "0.001"),
        (1e-5, "1e-05"),
        (250, "250"),
        (1000, "1k"),
        (225_034, "225k"),
        (2_389_130, "2.39M"),
        (3e9, "3G"),
    ],
)
def test_ticks_show_short_numbers(value: float, shown: str) -> None:
    assert style.short_number(value) == shown


def test_looks_are_plain_data() -> None:
    assert looks(["b", "a"]) == {"a": Look(style.PALETTE[0], "o"), "b": Look(style.PALETTE[1], "s")}
