"""The progress of a benchmark: live lines on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from bench.spec import Job, Progress, Record, Run, Status


class View(contextlib.ExitStack):
    """What a command shows while it trains; a context manager to use around the training."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(highlight=False)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, markup=False, soft_wrap=True)


class ProgressView(View):
    """A view with a line for each job, and one for all of them."""

    def __init__(self, jobs: Sequence[Job], labels: Mapping[str, str]) -> None:
        super().__init__()
        self._live = self._console.is_terminal
        self._runs: dict[str, Run] = {run.id: run for job in jobs for run in job.runs()}
        self._latest: dict[str, Progress] = {}
        self._finished: dict[str, Record] = {}
        self._epochs_printed: dict[str, int] = {}
        self._start = time.monotonic()
        self._labels = labels
        width = max((len(self._labels[run.job_id]) for run in self._runs.values()), default=3)
        bar = [BarColumn(bar_width=12)] if self._console.width >= width + 90 else []
        self._bars = RichProgress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=width)),
            *bar,
            TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True, min_width=5)),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._jobs: dict[str, list[Run]] = {}
        for run in self._runs.values():
            self._jobs.setdefault(run.job_id, []).append(run)
        for job_id, runs in self._jobs.items():
            total = sum(_images(run) for run in runs)
            self._tasks[job_id] = self._bars.add_task(
                f"{self._labels[job_id]:<{width}}",
                total=total,
                status="waiting for its workers",
                visible=len(self._jobs) <= 8,
            )
        self._whole = self._bars.add_task(f"{'all':<{width}}", total=1.0, status=self._whole_status())
        self.enter_context(self._bars)

    def begun(self, run_id: str, attempt: int) -> None:
        """Show that a worker begins a run, for the ``attempt``-th time."""
        run = self._runs[run_id]
        if attempt > 1:
            self.say(f"{self._name(run)}: a worker was lost; attempt {attempt}")
        self._bars.update(self._tasks[run.job_id], status="starting", visible=True)

    def update(self, progress: Progress) -> None:
        """Show how far a run is."""
        run = self._runs[progress.run_id]
        self._latest[run.id] = progress
        if progress.phase == "features":
            self._bars.update(
                self._tasks[run.job_id], status=f"extracting features {100 * progress.phase_share:.0f} %", visible=True
            )
            return
        remaining = _clock(self._job_seconds_left(run.job_id))
        if self._live:
            status = (
                f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f} "
                f"acc {100 * progress.accuracy:.1f} % {progress.images_per_second:,.0f} img/s {remaining} left"
            )
            seed = f"seed {run.seed} " if len(self._jobs[run.job_id]) > 1 else ""
            done = sum(self._images_done(sibling) for sibling in self._jobs[run.job_id])
            self._bars.update(self._tasks[run.job_id], completed=done, status=seed + status, visible=True)
            self._bars.update(self._whole, completed=self._share_done(), status=self._whole_status())
        else:
            finished_epochs = progress.images_done // run.images_per_epoch
            if finished_epochs > self._epochs_printed.get(run.id, 0):
                self._epochs_printed[run.id] = finished_epochs
                speed = f"{progress.images_per_second:,.0f} images/s"
                self.say(
                    f"{self._name(run)}: epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}  "
                    f"train acc {100 * progress.accuracy:.2f} %  {speed}  {remaining} left"
                )

    def finished(self, record: Record) -> None:
        """Show how a run ended."""
        run = self._runs[record.run_id]
        self._finished[run.id] = record
        siblings = self._jobs[run.job_id]
        if record.status is Status.OK and record.test_accuracy is not None and record.train_seconds is not None:
            result = f"test accuracy {100 * record.test_accuracy:.2f} %, trained in {record.train_seconds:.1f} s"
            if record.best_epoch is not None:
                result += f", epoch {record.best_epoch} of {record.epochs_done} kept"
        else:
            reason = str(record.reason)
            result = reason if reason.startswith(record.status) else f"{record.status}: {reason}"
        self.say(f"{self._name(run)}: {result}  [{self._whole_status()}]")
        task = self._tasks[run.job_id]
        self._bars.update(task, completed=sum(self._images_done(sibling) for sibling in siblings))
        if all(sibling.id in self._finished for sibling in siblings):
            self._bars.update(task, visible=False)
        self._bars.update(self._whole, completed=self._share_done(), status=self._whole_status())

    def _name(self, run: Run) -> str:
        return f"{self._labels[run.job_id]} seed {run.seed}"

    def _images_done(self, run: Run) -> int:
        if run.id in self._finished:
            return _images(run)
        latest = self._latest.get(run.id)
        return latest.images_done if latest else 0

    def _job_seconds_left(self, job_id: str) -> float | None:
        runs = self._jobs[job_id]
        active = [self._latest[run.id] for run in runs if run.id in self._latest and run.id not in self._finished]
        speed = sum(progress.images_per_second for progress in active)
        remaining = sum(_images(run) - self._images_done(run) for run in runs)
        return remaining / speed if speed else None

    def _share_done(self) -> float:
        total = sum(_images(run) for run in self._runs.values())
        return sum(self._images_done(run) for run in self._runs.values()) / total if total else 1.0

    def _whole_status(self) -> str:
        status = f"{len(self._finished)} of {len(self._runs)} runs done"
        share, elapsed = self._share_done(), time.monotonic() - self._start
        if 0 < share < 1:
            status += f", {_clock(elapsed * (1 - share) / share)} left"
        return status


def _images(run: Run) -> int:
    return run.recipe.epochs * run.images_per_epoch


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    whole = round(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole % 3600 // 60:02d}:{whole % 60:02d}"
