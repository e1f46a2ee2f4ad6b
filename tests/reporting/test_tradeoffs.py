"""Plots of what accuracy costs: what is drawn, and that no label overlaps another, of two candidates and of forty."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from candidates import candidates
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from bench.reporting import stats, style, tradeoffs
from bench.reporting.entries import Entry, comparisons
from bench.reporting.placing import LABEL
from bench.reporting.store import Store


def entries_of(store: Store) -> list[Entry]:
    records, _ = store.records()
    (comparison,) = comparisons(records, store)
    return comparison.entries


def drawn(entries: list[Entry]) -> list[Figure]:
    looks = style.with_jobs(style.looks(entry.records[0].model for entry in entries), entries)
    return [
        draw(entries, looks, dataset="folder:photos")
        for draw in (
            tradeoffs.accuracy_against_latency,
            tradeoffs.accuracy_against_size,
            tradeoffs.accuracy_against_parameters,
        )
    ]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_gid() == LABEL and text.get_visible()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Entry]]:
    made = {count: tmp_path_factory.mktemp(f"with-{count}") for count in (2, 12, 40)}
    return {count: entries_of(candidates(folder, count)) for count, folder in made.items()}


def visible(figure: Figure) -> list[tuple[str, Bbox]]:
    """All that is written on a figure, with its box in pixels; ticks beyond the axes are not drawn."""
    figure.canvas.draw()  # gives the legend its place
    beyond = [
        label
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis)
        for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        if not axis.get_view_interval()[0] <= place <= axis.get_view_interval()[1]
    ]
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text not in beyond]


@pytest.mark.parametrize("count", [2, 12, 40])
def test_no_label_overlaps_another(folders: dict[int, list[Entry]], count: int) -> None:
    for figure in drawn(folders[count]):
        width, height = figure.get_size_inches() * figure.dpi
        boxes = visible(figure)
        assert len(boxes) > 10
        for (text, box), (other, another) in itertools.combinations(boxes, 2):
            assert not box.shrunk(0.98, 0.9).overlaps(another.shrunk(0.98, 0.9)), (text, other)
        for text, box in boxes:
            assert box.x0 >= 0 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text


def test_every_model_and_back_end_is_a_point(folders: dict[int, list[Entry]]) -> None:
    for count in (2, 40):
        against_latency, against_size, against_parameters = drawn(folders[count])
        for figure, points in ((against_latency, 2 * count), (against_size, 2 * count), (against_parameters, count)):
            marked = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "|", "_")]
            assert len(marked) == points


def test_of_few_all_are_in_the_legend_and_of_many_those_on_the_front(folders: dict[int, list[Entry]]) -> None:
    few = drawn(folders[2])[0]
    assert [text.get_text() for text in few.legends[0].get_texts()] == [entry.label for entry in folders[2]]
    assert set(labels(few)) == {"onnxruntime"}

    for figure in drawn(folders[40]):
        marked = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "|", "_")]
        points = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marked]
        coloured = [point for point, line in zip(points, marked, strict=True) if line.get_color() != tradeoffs.GREY]
        front = stats.pareto_front(points)
        assert sorted(coloured) == front
        assert len(figure.legends[0].get_texts()) == len(front)
        steps = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
        assert list(map(tuple, steps.get_xydata())) == front
        assert len(labels(figure)) >= 5  # where there is room


def test_a_back_end_has_its_own_accuracy(tmp_path: Path) -> None:
    store = candidates(tmp_path, 2)
    (first, *_) = entries_of(store)
    worse = first.deployments["onnxruntime"].model_copy(update={"accuracy": 0.123})
    store.write_deployments(first.records[0].run_id, [first.deployments["eager"], worse])

    for figure in drawn(entries_of(store))[:2]:
        heights = [float(line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_fillstyle() == "full"]
        assert 12.3 in [round(height, 6) for height in heights]


def test_where_nothing_was_deployed_the_size_is_not_drawn(tmp_path: Path) -> None:
    entries = entries_of(candidates(tmp_path, 2))
    assert tradeoffs.has_sizes(entries)
    assert not tradeoffs.has_sizes([Entry(entries[0].label, entries[0].records), entries[1]])
    assert not tradeoffs.has_sizes([])
