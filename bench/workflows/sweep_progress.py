"""The progress of sweeps: a live table on a terminal, and anywhere a line for each run that ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.live import Live
from rich.table import Table

from bench.config.space import Values, describe_values
from bench.reporting.formats import counted, duration, percent
from bench.reporting.sweeps import Trial, choose
from bench.spec import Progress, Record, Run, Status
from bench.workflows.progress import View


@dataclass
class _UnderWay:
    """A run that is being trained."""

    run: Run
    values: Values
    progress: Progress | None = None
    accuracies: list[float] = field(default_factory=list)


class SweepView(View):
    """A view of a search: a table of the trials under way."""

    def __init__(self, wanted: Mapping[str, int], done: Mapping[str, Sequence[Trial]]) -> None:
        """Begin with the trials that are done.

        Args:
            wanted: the number of trials of each model.
            done: the trials that an earlier command has finished, by model.
        """
        super().__init__()
        self._wanted = dict(wanted)
        self._trials = {model: {trial.job_id: trial for trial in done.get(model, ())} for model in wanted}
        self._under_way: dict[str, _UnderWay] = {}
        self._start = time.monotonic()
        if self._console.is_terminal:
            self.enter_context(Live(get_renderable=self._table, console=self._console, transient=True))

    def begun(self, run: Run, values: Values, accuracies: Sequence[float], attempt: int) -> None:
        """Show that a trial begins or, with the accuracies of its earlier epochs, goes on."""
        self._under_way[run.id] = _UnderWay(run, values, accuracies=list(accuracies))
        if attempt > 1:
            self.say(f"{_name(run, values)}: its process was lost; attempt {attempt}")
        elif accuracies:
            self.say(f"{_name(run, values)}: goes on after epoch {len(accuracies)}")

    def update(self, progress: Progress) -> None:
        """Show how far a trial is."""
        if progress.run_id in self._under_way:
            self._under_way[progress.run_id].progress = progress

    def epoch(self, run_id: str, accuracies: Sequence[float]) -> None:
        """Show a trial's validation accuracies so far, after an epoch."""
        if run_id in self._under_way:
            self._under_way[run_id].accuracies = list(accuracies)

    def finished(self, record: Record, trial: Trial) -> None:
        """Show how a run of a trial ended, and the trial as it is now."""
        self._under_way.pop(record.run_id, None)
        trials = self._trials.setdefault(record.model, {})
        trials[trial.job_id] = trial
        seed = f" seed {record.seed}" if trial.seeds > 1 else ""
        epochs = counted(record.epochs_done or 0, "epoch")
        if record.status is Status.OK and record.validation_accuracy is not None:
            result = f"{percent(record.validation_accuracy)} validation accuracy after {epochs}"
        elif record.status is Status.STOPPED and record.validation_accuracy is not None:
            result = f"{percent(record.validation_accuracy)} after {epochs}, stopped early"
        else:
            result = f"{record.status}: {record.reason}"
        self.say(f"{record.model} {describe_values(trial.values)}{seed}: {result}  [{self._state(record.model)}]")

    def _state(self, model: str) -> str:
        trials = list(self._trials.get(model, {}).values())
        ended = [trial for trial in trials if trial.status is not Status.INTERRUPTED]
        state = f"{len(ended)} of {max(self._wanted.get(model, 0), len(trials))} trials"
        best = choose(trial for trial in trials if trial.status is Status.OK)
        if best is not None and best.score is not None:
            state += f", best {percent(best.score)} at {describe_values(best.values)}"
        return state

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for model in self._wanted:
            table.add_row(model, self._state(model))
            for under_way in self._under_way.values():
                if under_way.run.model == model:
                    table.add_row("", f"{describe_values(under_way.values)}: {_progress(under_way)}")
        table.add_row("", f"{duration(time.monotonic() - self._start)} so far")
        return table


def _progress(under_way: _UnderWay) -> str:
    progress = under_way.progress
    if progress is None:
        return "starting"
    if progress.phase == "features":
        return f"extracting features {100 * progress.phase_share:.0f} %"
    shown = f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
    shown += f"{progress.images_per_second:,.0f} images/s"
    return shown + (f"  validation {percent(under_way.accuracies[-1])}" if under_way.accuracies else "")


def _name(run: Run, values: Values) -> str:
    return f"{run.model} {describe_values(values)}"
