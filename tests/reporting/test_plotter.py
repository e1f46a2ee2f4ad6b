"""Plots drawn in a second process: python -m pytest tests/reporting/test_plotter.py"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from bench.reporting import plots
from bench.reporting.plotter import Plotter
from bench.reporting.store import Store
from bench.spec import Outcome, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

LABELS = np.arange(40, dtype=np.int16) % 4


def matrix(title: str) -> Callable[[], Figure]:
    return partial(plots.confusion_matrix, LABELS, LABELS[::-1].copy(), "abcd", title=title, note="A note.")


FIGURES = [matrix(f"number {number}") for number in range(5)]
# of the last, a class is not among the names
NOT_A_TEXT = partial(plots.confusion_matrix, LABELS, LABELS, "abcd", title="this one", note=b"not a text")
NOT_A_CLASS = partial(plots.confusion_matrix, LABELS, LABELS + 2, "abcd", title="this one", note="A note.")


def process_of(plotter: Plotter) -> psutil.Process:
    assert plotter._process is not None
    return psutil.Process(plotter._process.pid)


def test_the_process_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plotter, "_draw_last", lambda self: time.sleep(0.01))
    plotter = Plotter()
    plotter.begin(FIGURES)
    assert plotter.finish() == [plots.drawn(make) for make in FIGURES]


def test_the_files_are_those_that_one_process_draws_in_the_same_order() -> None:
    plotter = Plotter()
    plotter.begin(FIGURES)
    found = plotter.finish()
    assert found == [plots.drawn(make) for make in FIGURES]
    assert [figure.title for figure in found] == [f"number {number}" for number in range(5)]


def test_nothing_to_draw() -> None:
    plotter = Plotter()
    process = process_of(plotter)
    plotter.begin([])
    assert plotter.finish() == []
    assert not process.is_running()


@pytest.mark.parametrize("drawn", [0, 1, 3])
def test_a_process_that_is_killed_costs_no_plot(drawn: int) -> None:
    plotter = Plotter()
    process = process_of(plotter)
    plotter.begin(FIGURES)
    while len(plotter._drawn) < drawn:  # by the process: the other begins when it is waited for
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert [figure.title for figure in plotter.finish()] == [f"number {number}" for number in range(5)]


@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("broken", [NOT_A_TEXT, NOT_A_CLASS])
def test_what_cannot_be_drawn_fails_here_where_it_is_seen(broken: Callable[[], Figure], place: int) -> None:
    with pytest.raises(Exception) as directly:
        broken()
    plotter = Plotter()
    plotter.begin([*FIGURES[:place], broken, *FIGURES[place:]])
    with pytest.raises(directly.type, match=re.escape(str(directly.value))):
        plotter.finish()


def test_without_a_process_all_is_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    plotter = Plotter()
    plotter.begin(FIGURES[:2])
    assert [figure.title for figure in plotter.finish()] == ["number 0", "number 1"]


def test_what_cannot_be_sent_is_drawn_here() -> None:
    plotter = Plotter()
    plotter.begin([FIGURES[0], lambda: FIGURES[1](), FIGURES[2]])  # noqa: PLW0108 - cannot be pickled
    assert [figure.title for figure in plotter.finish()] == ["number 0", "number 1", "number 2"]


@pytest.mark.parametrize("end", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_process_ends_with_its_owner(end: str) -> None:
    owner = f"from bench.reporting.plotter import plotter; print(plotter()._process.pid, flush=True); {end}"
    nowhere = {**os.environ, "HOME": "/proc", "MPLCONFIGDIR": ""}  # matplotlib says so if its cache cannot be written
    said = subprocess.run([sys.executable, "-c", owner], capture_output=True, text=True, check=False, env=nowhere)
    assert said.stderr == ""
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(int(said.stdout)).wait(10)
        psutil.Process(int(said.stdout))


def test_a_script_without_a_guard_is_run_once(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    store = Store(tmp_path / "results")
    store.prepare()
    for seed in range(2):
        store.write(Outcome(make_record(seed=seed)))
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from bench.pages import write_pages\n"
        "from bench.reporting.store import Store\n"
        "print('run')\n"
        f"write_pages(Store(Path({str(store.root)!r})), show=False)\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (said.stdout, said.stderr) == ("run\n", "")
    assert len(list((store.root / "plots").glob("*.svg"))) >= 1
