"""What a command shows while it runs: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from factories import job_of, record_of
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from recorded import as_it_was, scheduled
from test_forecast import REFERENCE, finished

from bench.spec import Progress, Recipe
from bench.workflows.forecast import Forecast
from bench.workflows.progress import ProgressView


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def view_of(width: int, *, terminal: bool = True) -> tuple[ProgressView, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=terminal, highlight=False, color_system=None)
    runs = job_of(seeds=(0, 1, 2)).runs()
    labels = {runs[0].job_id: "cnn"}
    view = ProgressView(labels, Forecast(), console=console, clock=clock)
    view.plan([[run] for run in runs], 2)
    return view, clock, out


def shown(view: ProgressView, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, highlight=False, color_system=None).print(view.table())
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_says_of_each_run_what_it_does_or_waits_for(width: int) -> None:
    view, clock, _ = view_of(width)
    with view:
        first, second, _ = view._runs
        lines = shown(view, width)
        assert any("3 more runs" in line and "waiting for CPUs" in line for line in lines)

        view.begun(first, 1)
        view.begun(second, 1)
        lines = shown(view, width)
        assert sum("loading data" in line for line in lines) == 2
        assert any(re.match("cnn +2 ", line) and "waiting for CPUs" in line for line in lines)

        for now in (1.0, 2.0, 3.0):
            clock.now = now
            done = int(2000 * now)
            view.update(Progress(first, 1 + done // 4000, 5, done, 20_000, 0.25, 0.9, 1999.6))
        view.update(Progress(second, 5, 5, 20_000, 20_000, phase="testing", phase_share=0.5))
        lines = shown(view, width)
        row = next(line for line in lines if re.match("cnn +0 ", line))
        assert re.search(r"training, epoch 2/5 +0\.250 +90\.0 % +2,000 +00:0\d$", row), row
        assert any(re.match("cnn +1 +testing 50 %", line) for line in lines)
        assert re.search(r"0 of 3 runs done, 00:03 so far, about 00:\d\d left", " ".join(lines))
        assert max(map(len, lines)) <= width

        view.timing("timing 1 model")
        assert "timing 1 model" in " ".join(shown(view, width))


def test_names_as_long_as_people_s_leave_the_figures_in_view() -> None:
    view, _, _ = view_of(80)
    name = "path/to/a/folder/mine.py:MyFavouriteNetworkWithALongName (lr 0.001, all images)"
    view._labels = dict.fromkeys(view._labels, name)
    with view:
        run = next(iter(view._runs))
        view.begun(run, 1)
        view.update(Progress(run, 1, 5, 2000, 20_000, 0.25, 0.9, 1999.6))
        (row,) = (line for line in shown(view, 80) if "epoch 1/5" in line)
        assert "90.0 %" in row
        assert len(row) <= 80


def test_many_runs_are_shown_as_a_number() -> None:
    view, _, _ = view_of(100)
    jobs = job_of(recipe=Recipe(epochs=7), seeds=tuple(range(500)))
    view._labels = view._labels | {jobs.job_id: "other"}
    with view:
        view.plan([[run] for run in jobs.runs()], 100)
        for run in jobs.runs()[:100]:
            view.begun(run.id, 1)
        lines = shown(view, 100)
        assert len(lines) < 30
        assert any("80 more" in line for line in lines)
        assert any("403 more runs" in line for line in lines)


def test_elsewhere_a_line_is_printed_for_each_epoch_and_each_end() -> None:
    view, clock, out = view_of(80, terminal=False)
    with view:
        run = view._runs[next(iter(view._runs))]
        view.begun(run.id, 1)
        for done in (0, 2000, 4000):
            clock.now += 1
            view.update(Progress(run.id, 1, 5, done, 20_000, 0.25, 0.9, 1999.6))
        view.finished(record_of())
    epoch, ended = out.getvalue().splitlines()
    assert epoch == "cnn seed 0: epoch 1/5  loss 0.2500  train acc 90.00 %  2,000 images/s  00:08 left"
    assert ended.startswith("cnn seed 0: test accuracy 98.76 %, trained in 12.5 s  [1 of 3 runs done, about ")


@pytest.mark.parametrize("folder", ["mnist-cpu2", "precision-cpu2"])
def test_a_recorded_command_is_shown_from_start_to_end(folder: str) -> None:
    events = scheduled(finished(folder), 2) if folder != "mnist-cpu2" else as_it_was(REFERENCE / folder)
    clock, out = Clock(), io.StringIO()
    runs = {event.run.id: event.run for event in events}
    labels = {run.job_id: f"{run.model} {run.recipe.precision}" for run in runs.values()}
    console = Console(file=out, width=100, force_terminal=True, highlight=False, color_system=None)
    with ProgressView(labels, Forecast(), console=console, clock=clock) as view:
        view.stage("starting Ray")
        assert "starting Ray" in " ".join(shown(view, 100))
        view.plan([[run] for run in runs.values()], 2)
        for event in events:
            clock.now = event.at
            if event.what is None:
                view.begun(event.run.id, 1)
            elif isinstance(event.what, Progress):
                view.update(event.what)
            else:
                view.finished(event.what)
            assert max(map(len, shown(view, 100))) <= 100
        assert f"{len(runs)} of {len(runs)} runs done" in " ".join(shown(view, 100))
    assert out.getvalue().count("test accuracy") == len(runs)
