"""Sweeps as they are stored, and as they grow while trials are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bench.config.space import Values
from bench.reporting.store import Store
from bench.reporting.sweeps import Sweep, Trial, trials_of
from bench.spec import (
    Begun,
    Ended,
    EpochRecord,
    Event,
    Job,
    Measured,
    Notice,
    Outcome,
    Progress,
    Recipe,
    Record,
    Run,
    Saved,
    Status,
)
from bench.workflows.record import assemble, git_commit
from bench.workflows.sweep_progress import SweepView

FAILED = (Status.FAILED, Status.OOM, Status.TIMEOUT)
"""Statuses of trials that --retry-failed trains again."""


@dataclass
class StoredSweep:
    """The sweep of one model, with its stored records and epochs."""

    sweep: Sweep
    base: Job
    """A trial whose swept fields have their defaults."""
    records: dict[str, Record] = field(default_factory=dict)
    """The stored records, by run id."""
    epochs: dict[str, list[EpochRecord]] = field(default_factory=dict)
    """The epochs, by run id."""

    def job_of(self, values: Values) -> Job:
        """Return the trial at a point of the space."""
        return self.base.with_recipe(Recipe.model_validate(vars(self.base.recipe) | values))

    def values_of(self, job: Job | Run) -> Values:
        """Return the point of the space that a trial is at."""
        return {name: getattr(job.recipe, name) for name in self.sweep.space.names}

    def trials(self) -> list[Trial]:
        """Return the trials that have records."""
        return trials_of(self.sweep, self.records.values(), self.epochs)

    def accuracies(self, run_id: str) -> list[float]:
        """Return the validation accuracy after each epoch of a run."""
        measured = [epoch.validation_accuracy for epoch in self.epochs.get(run_id, ())]
        return [accuracy for accuracy in measured if accuracy is not None]

    def remaining(self, job: Job, *, retry_failed: bool) -> Job | None:
        """Return the trial with the seeds that it still lacks; None if it is done."""
        seeds = []
        for run in job.runs():
            status = self.records[run.id].status if run.id in self.records else Status.INTERRUPTED
            if status is Status.INTERRUPTED or (retry_failed and status in FAILED):
                seeds.append(run.seed)
            elif status is not Status.OK:
                return None
        return job.model_copy(update={"seeds": tuple(seeds)}) if seeds else None


class SweepNotes:
    """A receiver of the events of a search, which stores and shows them."""

    def __init__(self, sweeps: Mapping[str, StoredSweep], store: Store, view: SweepView) -> None:
        self._sweeps, self._store, self._view = sweeps, store, view
        self._runs: dict[str, Run] = {}
        records = [record for stored in sweeps.values() for record in stored.records.values()]
        self._before = {record.run_id: record.attempts for record in records}
        self._begun: dict[str, Begun] = {}
        self._commit = git_commit()

    def take(self, event: Event | EpochRecord | Job) -> None:
        """Store and show an event; a job is a trial about to be trained, whose runs are noted."""
        if isinstance(event, Job):
            self._runs.update({run.id: run for run in event.runs()})
        elif isinstance(event, Begun):
            self._begun[event.run_id] = event
            stored, run = self._find(event.run_id)
            self._view.begun(run, stored.values_of(run), stored.accuracies(run.id), event.attempt)
            self._keep(run.id)
        elif isinstance(event, EpochRecord):
            stored, _ = self._find(event.run_id)
            earlier = [epoch for epoch in stored.epochs.get(event.run_id, []) if epoch.epoch < event.epoch]
            stored.epochs[event.run_id] = [*earlier, event]
            self._view.epoch(event.run_id, stored.accuracies(event.run_id))
            self._keep(event.run_id)
        elif isinstance(event, Saved):
            self._store.save_state(event.run_id, event.state)
        elif isinstance(event, Progress):
            self._view.update(event)
        elif isinstance(event, Notice):
            self._view.say(event.text)
        else:
            self._finished(event)

    def _find(self, run_id: str) -> tuple[StoredSweep, Run]:
        run = self._runs[run_id]
        return self._sweeps[run.model], run

    def _keep(self, run_id: str) -> None:
        """Store an unfinished run with its epochs, so that they are kept if this process is killed."""
        stored, run = self._find(run_id)
        begun = self._begun.get(run_id)
        if begun is None:
            return
        epochs = stored.epochs.get(run_id, [])
        measured = Measured(
            status=Status.INTERRUPTED,
            reason="not finished",
            started_at=begun.at,
            ended_at=datetime.now(UTC),
            epochs_done=len(epochs) or None,
        )
        self._write(stored, run, Outcome(run_id, measured, epochs), begun.attempt)

    def _finished(self, ended: Ended) -> None:
        outcome = ended.outcome
        stored, run = self._find(outcome.run_id)
        epochs = outcome.epochs or stored.epochs.get(run.id, [])
        stored.epochs[run.id] = list(epochs)
        measured = outcome.measured
        if measured.epochs_done is None and epochs:
            measured = measured.model_copy(update={"epochs_done": len(epochs)})
        record = self._write(stored, run, Outcome(run.id, measured, list(epochs)), ended.attempts, ended.contended)
        self._view.finished(record, next(trial for trial in stored.trials() if trial.job_id == record.job_id))

    def _write(
        self, stored: StoredSweep, run: Run, outcome: Outcome, attempts: int, contended: bool | None = None
    ) -> Record:
        attempts += self._before.get(run.id, 0)
        result = assemble(run, outcome, attempts=attempts, contended=contended, git_commit=self._commit)
        self._store.write(result)
        stored.records[run.id] = result.record
        return result.record
