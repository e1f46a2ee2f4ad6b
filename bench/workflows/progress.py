"""The progress of a benchmark: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.reporting.formats import duration
from bench.spec import Progress, Record, Run, Status, TimingProgress
from bench.workflows.forecast import Forecast

_MOST_ROWS = 20
"""The most runs that are shown one by one."""
_OTHER_COLUMNS = 60
"""The width of the columns beside the model's name, in letters, without the gaps."""
_BAR = 24
"""The width of the bar of all runs, in letters."""


class View(contextlib.ExitStack):
    """What a command shows while it trains; a context manager to use around the training."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, markup=False, soft_wrap=True)


class ProgressView(View):
    """A view with a line for each run under way, and one for the whole command."""

    def __init__(
        self,
        labels: Mapping[str, str],
        forecast: Forecast,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without runs.

        Args:
            labels: a name for each job, by its id.
            forecast: works out how long it still takes; it is told of every event.
            console: where to show it.
            clock: returns the time in seconds.
        """
        super().__init__(console)
        self.live = self._console.is_terminal
        """True if a table is shown, and not lines."""
        self._labels, self._forecast, self._clock = labels, forecast, clock
        self._start = clock()
        self._lock = threading.RLock()  # the table is drawn in another thread
        self._runs: dict[str, Run] = {}
        self._waiting: dict[str, Run] = {}
        self._left_as_of: tuple[float, float | None] = (0.0, None)
        self._next_forecast = 0.0
        self._under_way: dict[str, Progress | None] = {}
        self._finished: set[str] = set()
        self._epochs_printed: dict[str, int] = {}
        self._waiting_for = ""
        self._stage = ""
        if self.live:
            self.enter_context(Live(get_renderable=self.table, console=self._console, transient=True))

    def stage(self, what: str) -> None:
        """Show what the command does while no run is under way."""
        with self._lock:
            self._stage = what

    def plan(self, groups: Sequence[Sequence[Run]], at_once: int, *, waiting_for: str = "CPUs") -> None:
        """Add runs to train, and say what those wait for that have not begun; see :meth:`.Forecast.plan`."""
        with self._lock:
            self._stage, self._waiting_for = "", waiting_for
            self._forecast.plan(groups, at_once, self._clock())
            for run in (run for group in groups for run in group):
                self._runs[run.id] = self._waiting[run.id] = run

    def begun(self, run_id: str, attempt: int) -> None:
        """Show that a worker begins a run, for the ``attempt``-th time."""
        with self._lock:
            self._waiting.pop(run_id, None)
            self._under_way[run_id] = None
            self._forecast.begun(run_id, self._clock())
        if attempt > 1:
            self.say(f"{self._name(self._runs[run_id])}: a worker was lost; attempt {attempt}")

    def update(self, progress: Progress) -> None:
        """Show how far a run is."""
        run, now = self._runs[progress.run_id], self._clock()
        with self._lock:
            self._under_way[run.id] = progress
            self._forecast.update(progress, now)
        if self.live or not progress.ends_epoch:
            return
        if progress.epoch > self._epochs_printed.get(run.id, 0):
            self._epochs_printed[run.id] = progress.epoch
            self.say(
                f"{self._name(run)}: epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}  "
                f"train acc {100 * progress.accuracy:.2f} %  {progress.images_per_second:,.0f} images/s  "
                f"{clock_time(self._forecast.run_left(run.id, now))} left"
            )

    def finished(self, record: Record) -> None:
        """Show how a run ended."""
        with self._lock:
            self._waiting.pop(record.run_id, None)
            self._under_way.pop(record.run_id, None)
            self._finished.add(record.run_id)
            self._forecast.ended(record)
        if record.status is Status.OK and record.test_accuracy is not None and record.train_seconds is not None:
            result = f"test accuracy {100 * record.test_accuracy:.2f} %, trained in {record.train_seconds:.1f} s"
            if record.best_epoch is not None:
                result += f", epoch {record.best_epoch} of {record.epochs_done} kept"
        else:
            reason = str(record.reason)
            result = reason if reason.startswith(record.status) else f"{record.status}: {reason}"
        state = self._done()
        if (left := self._forecast.left(self._clock())) is not None:
            state += f", about {clock_time(left)} left"
        self.say(f"{self._name(self._runs[record.run_id])}: {result}  [{state}]")

    def timing(self, what: str) -> None:
        """Show that trained models are timed."""
        with self._lock:
            self._forecast.timing_begun(self._clock())
        self.stage(what)

    def timing_update(self, progress: TimingProgress) -> None:
        """Show how far the timing is."""
        with self._lock:
            self._forecast.timing_update(progress, self._clock())

    def timing_goes_on(self, seconds: float) -> None:
        """Print, where there is no table, that the timing takes so long already, and how long it still takes."""
        if not self.live:
            left = self._forecast.left(self._clock())
            self.say(f"timing: {duration(seconds)} so far, about {clock_time(left)} left")

    # --- the table ---------------------------------------------------------------------------------------------------

    def table(self) -> RenderableType:
        """Return what a terminal shows now."""
        with self._lock:
            now = self._clock()
            whole = self._whole(now)
            return whole if self._stage or not self._runs else Group(self._table_of_runs(now), whole)

    def _table_of_runs(self, now: float) -> Table:
        table = Table(box=None, padding=(0, self._gap, 0, 0), header_style="dim")
        table.add_column("model", no_wrap=True)
        table.add_column("seed", justify="right", no_wrap=True)
        table.add_column("", max_width=26)
        for header in ("loss", "accuracy", "images/s", "time left"):
            table.add_column(header, justify="right", no_wrap=True)
        begun = list(self._under_way)
        lefts = self._forecast.each_left(begun[:_MOST_ROWS], now)
        for run_id in begun[:_MOST_ROWS]:
            progress = self._under_way[run_id]
            figures = ["", "", ""]
            if progress is not None and progress.phase == "training":
                accuracy = f"{100 * progress.accuracy:.1f} %"
                figures = [f"{progress.loss:.3f}", accuracy, f"{progress.images_per_second:,.0f}"]
            left = clock_time(lefts[run_id])
            run = self._runs[run_id]
            table.add_row(self._short(run), str(run.seed), self._doing(run_id, progress), *figures, left)
        if len(begun) > _MOST_ROWS:
            table.add_row(f"{len(begun) - _MOST_ROWS} more", "", "under way")
        if self._waiting:
            alone = next(iter(self._waiting.values())) if len(self._waiting) == 1 else None
            name = f"{len(self._waiting):,} more runs" if alone is None else self._short(alone)
            table.add_row(
                name,
                "" if alone is None else str(alone.seed),
                Text(f"waiting for {self._waiting_for}", overflow="fold"),
                style="dim",
            )
        return table

    def _doing(self, run_id: str, progress: Progress | None) -> str:
        """Return in words what a run does."""
        _, waits_for_features = self._forecast.part_of(run_id)
        if waits_for_features:
            return "waiting for features"
        if progress is None:
            return "loading data and model"
        if progress.phase == "features":
            return f"extracting features {100 * progress.phase_share:.0f} %"
        if progress.phase == "testing":
            return f"testing {100 * progress.phase_share:.0f} %"
        return f"training, epoch {progress.epoch}/{progress.epochs}"

    def _short(self, run: Run) -> Text:
        """Return the name of a run's job; of a name too long for its column the end, in which siblings differ."""
        most = max(10, self._console.width - _OTHER_COLUMNS - 7 * self._gap)
        name = self._labels[run.job_id]
        return Text(name if len(name) <= most else f"...{name[3 - most :]}")

    def _whole(self, now: float) -> Table:
        """Return the line on the whole command."""
        left, passed = self._left(now), now - self._start
        share = 0.0 if left is None else passed / (passed + left)
        words = [self._stage] if self._stage else []
        if self._runs:
            words.append(self._done())
        words.append(f"{clock_time(passed)} so far")
        if left is not None and self._runs:
            words.append(f"about {clock_time(left)} left")
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(ProgressBar(total=1.0, completed=share, width=_BAR), Text(", ".join(words), overflow="fold"))
        return line

    def _left(self, now: float) -> float | None:
        """Return the seconds until the command ends; worked out so seldom that it costs a twentieth of the time."""
        if now >= self._next_forecast:
            start = time.perf_counter()
            self._left_as_of = now, self._forecast.left(now)
            self._next_forecast = now + 20 * (time.perf_counter() - start)
        then, left = self._left_as_of
        return None if left is None else max(0.0, left - (now - then))

    @property
    def _gap(self) -> int:
        return 1 if self._console.width < 100 else 2

    def _done(self) -> str:
        return f"{len(self._finished)} of {len(self._runs)} runs done"

    def _name(self, run: Run) -> str:
        return f"{self._labels[run.job_id]} seed {run.seed}"


def clock_time(seconds: float | None) -> str:
    """Return seconds as '01:05' or '2:01:05'."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole % 3600 // 60:02d}:{whole % 60:02d}"
