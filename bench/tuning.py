"""A whole search: draw the trials, train those that are missing, store each as it ends, retrain the winners, report."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.benchmark import Benchmark, git_commit, prepare, read_stored
from bench.cluster.placement import Need, Node, groups_that_fit, place
from bench.cluster.session import ClusterLostError, Session, connect
from bench.errors import UserError
from bench.interrupts import INTERRUPTED, interruptible
from bench.learning.models import MODELS
from bench.pages import write_pages
from bench.plan import Plan, check_sizes
from bench.reporting.store import Store
from bench.reporting.tuning import (
    Sweep,
    Swept,
    Trial,
    at_the_edge,
    choose,
    counted,
    found_table,
    read_sweeps,
    read_swept,
    trials_of,
    write_sweep,
)
from bench.space import Space, Values, describe_values
from bench.spec import Begun, EpochRecord, Event, Job, Outcome, Progress, Recipe, Record, Run, Saved, Status
from bench.sweep_view import SweepView
from bench.tuned import note_source
from bench.tuning_options import TuneOptions

if TYPE_CHECKING:
    from bench.cluster.sweep import ModelSweep

_FAILED = (Status.FAILED, Status.OOM, Status.TIMEOUT)


def run_tuning(options: TuneOptions) -> int:
    """Do what ``options`` ask for; returns the exit code.

    Raises:
        UserError: wrong usage, before anything is trained; or results that cannot be written.
    """
    if options.search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError("--search optuna needs Optuna, which is not installed; pip install -e '.[tune]' installs it")
    space, fixed = options.searched()
    store, plan = prepare(options)
    return Search(options, plan, store, space, fixed).run()


@dataclass
class _Own:
    """One model's sweep, and what the store knows of it."""

    sweep: Sweep
    base: Job
    """A trial without the values of the swept fields."""
    records: dict[str, Record] = field(default_factory=dict)
    """By run id."""
    epochs: dict[str, list[EpochRecord]] = field(default_factory=dict)
    """By run id."""

    def job_of(self, values: Values) -> Job:
        """A point of the space as a trial."""
        recipe = Recipe.model_validate({**self.base.recipe.model_dump(), **values})
        return self.base.model_copy(update={"recipe": recipe})

    def trials(self) -> list[Trial]:
        """Those that have records."""
        return trials_of(self.sweep, self.records.values(), self.epochs)

    def trial(self, job_id: str) -> Trial:
        """One of them."""
        return next(trial for trial in self.trials() if trial.job_id == job_id)

    def accuracies(self, run_id: str) -> list[float]:
        """Validation accuracy after each epoch of a run."""
        found = [epoch.validation_accuracy for epoch in self.epochs.get(run_id, ())]
        return [accuracy for accuracy in found if accuracy is not None]

    def left_of(self, job: Job, *, retry_failed: bool) -> Job | None:
        """The trial with the seeds that it still lacks; None if it is done."""
        seeds = []
        for run in job.runs():
            status = self.records[run.id].status if run.id in self.records else Status.INTERRUPTED
            if status is Status.INTERRUPTED or (retry_failed and status in _FAILED):
                seeds.append(run.seed)
            elif status is not Status.OK:
                return None
        return job.model_copy(update={"seeds": tuple(seeds)}) if seeds else None


class Search:
    """One command: what was asked for, what the results folder has, what is being added to it."""

    def __init__(self, options: TuneOptions, plan: Plan, store: Store, space: Space, fixed: Values) -> None:
        self.options, self.plan, self.store, self.space = options, plan, store, space
        self.wanted = options.trials_of(space)
        info = plan.dataset.info
        held_out = {"validation_size": options.validation_images(info.train_images)}
        if held_out["validation_size"] == 0:
            raise UserError(
                f"{info.name} has {info.train_images} training images, too few to hold a tenth out; "
                "--validation-size says how many"
            )
        self.owns: dict[str, _Own] = {}
        for job in plan.jobs:
            recipe = Recipe.model_validate({**job.recipe.model_dump(), **fixed, **held_out})
            self.owns[job.model] = self._own(job.model_copy(update={"recipe": recipe}))
        for own in self.owns.values():
            self._check(own)
        self._load()

    def _own(self, job: Job) -> _Own:
        options = self.options
        defaults = {name: Recipe.model_fields[name].default for name in self.space.names}
        base = job.model_copy(
            update={
                "recipe": job.recipe.model_copy(update=defaults),
                "judged_on": "validation",
                "workers": 1,
                "seeds": options.seeds,
            }
        )
        asked = {
            "search": "grid" if self.space.is_grid and options.search == "random" else options.search,
            "search_seed": options.search_seed,
            "scheduler": options.scheduler,
            "grace_period": options.grace_period,
            "reduction_factor": options.reduction_factor,
            "space": self.space,
        }
        # Not the number of trials: more of them go on with the same sweep. And not the words for the weights.
        about = {
            "job": base.model_dump(mode="json", exclude={"weights"}, exclude_defaults=True),
            **asked,
            "space": self.space.model_dump(mode="json"),
        }
        sweep_id = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
        sweep = Sweep.model_validate(
            {
                "sweep_id": sweep_id,
                **{name: getattr(base, name) for name in ("model", "dataset", "weights", "weights_sha256")},
                "plugin_sha256": base.plugin_sha256,
                "recipe": base.recipe,
                "seeds": base.seeds,
                **asked,
                "trials": self.wanted,
                "gpus_per_trial": 0.0,
                "started_at": datetime.now(UTC),
                "finished_at": None,
            }
        )
        return _Own(sweep, base.model_copy(update={"sweep_id": sweep_id}))

    def _check(self, own: _Own) -> None:
        """Refuse a space with values that the data set or the model does not have."""
        spec = MODELS.find(own.base.model)
        check_sizes(own.base, spec)
        for values in self.space.extremes():
            check_sizes(own.job_of(values), spec)
        longest = _longest(own)
        if self.options.scheduler == "asha" and self.options.grace_period > longest:
            raise UserError(
                f"--grace-period {self.options.grace_period} is longer than the {longest} epochs of a trial"
            )

    def _load(self) -> None:
        """What the store knows of the sweeps; with --fresh it is forgotten."""
        stored = read_stored(self.store)
        earlier = {sweep.sweep_id: sweep for sweep in read_sweeps(self.store.root)}
        for own in self.owns.values():
            sweep_id = own.sweep.sweep_id
            records = {record.run_id: record for record in stored.values() if record.sweep_id == sweep_id}
            if self.options.fresh:
                if not self.options.dry_run:
                    _forget(self.store, records)
                continue
            own.records = records
            own.epochs = {run_id: self.store.epochs(run_id) for run_id in records}
            if sweep_id in earlier:
                kept = ("started_at", "finished_at", "gpus_per_trial")
                known = {name: getattr(earlier[sweep_id], name) for name in kept}
                own.sweep = own.sweep.model_copy(update=known)

    # --- what is to be trained ---------------------------------------------------------------------------------------

    def _drawn(self, own: _Own) -> list[Job]:
        """The trials that are asked for and known: all that were drawn or, with Optuna, those from earlier."""
        if own.sweep.search == "optuna":
            return [own.job_of(trial.values) for trial in own.trials()][: self.wanted]
        return [own.job_of(values) for values in itertools.islice(self.space.draw(own.sweep.search_seed), self.wanted)]

    def _waiting(self, own: _Own) -> list[Job]:
        """Of those, the ones that are not done: first what was begun, since that was drawn first."""
        left = [own.left_of(job, retry_failed=self.options.retry_failed) for job in self._drawn(own)]
        waiting = [job for job in left if job is not None]
        return sorted(waiting, key=lambda job: not any(run.id in own.records for run in job.runs()))

    def _to_propose(self, own: _Own) -> int:
        return max(0, self.wanted - len(own.trials())) if own.sweep.search == "optuna" else 0

    def run(self) -> int:
        """Search, retrain, report; returns the exit code."""
        self._tell_of_failed()
        if not self.left() and not self.options.dry_run:
            print("every trial that is asked for is already there; --fresh trains them again", flush=True)
            return self._finish(None)
        with connect(self.options.address, verbose=self.options.verbose) as session:
            if self.options.dry_run:
                need = self._need(session)
                print(f"{self._describe(need, session.nodes)}\n\n{self._dry()}\n\ndry run: nothing was trained")
                return 0
            try:
                with interruptible():
                    self.search(session)
            except KeyboardInterrupt:
                write_pages(self.store, show=False)
                print("interrupted; finished trials are kept, and the same command goes on from here")
                return INTERRUPTED
            except ClusterLostError as error:
                write_pages(self.store, show=False)
                lost = f"Ray was lost ({error}); finished trials are kept, and the same command goes on from here"
                print(f"error: {lost}", file=sys.stderr)
                return 1
            return self._finish(session)

    def left(self) -> int:
        """How many trials are to be trained."""
        return sum(len(self._waiting(own)) + self._to_propose(own) for own in self.owns.values())

    def _tell_of_failed(self) -> None:
        failed = [trial for own in self.owns.values() for trial in own.trials() if trial.status in _FAILED]
        if failed and not self.options.retry_failed:
            print(f"{counted(len(failed), 'trial')} failed in an earlier command; --retry-failed tries again")

    def _need(self, session: Session) -> Need:
        """Return what each trial reserves."""
        (group,) = place(
            [next(iter(self.owns.values())).base.model_copy(update={"seeds": (0,)})],
            session.nodes,
            cpus_per_worker=self.options.cpus_per_worker,
            gpus_per_worker=self.options.gpus_per_worker,
        )
        return group.need

    def _describe(self, need: Need, nodes: Sequence[Node]) -> str:
        info, left = self.plan.dataset.info, self.left()
        base = next(iter(self.owns.values())).base
        there = sum(len(own.trials()) for own in self.owns.values())
        share = f"{counted(need.cpus, 'CPU')}" + (f" and {need.gpus:g} GPU" if need.gpus else "")
        kept = f"; {there} are there already" if there else ""
        return (
            f"searching {self.space.describe()} for {', '.join(self.owns)} on {info.name} "
            f"({base.runs()[0].images_per_epoch:,} images to train on, {base.recipe.validation_size:,} held out): "
            f"{counted(left, 'trial')}, {min(groups_that_fit(need, nodes), left)} at a time, each with {share}{kept}"
        )

    def _dry(self) -> str:
        rows = [
            [model, own.sweep.sweep_id, describe_values(_values(self.space, job)), _numbers(job.seeds)]
            for model, own in self.owns.items()
            for job in self._waiting(own)
        ]
        rows += [
            [model, own.sweep.sweep_id, f"{number} that Optuna proposes", _numbers(own.sweep.seeds)]
            for model, own in self.owns.items()
            if (number := self._to_propose(own))
        ]
        return tabulate(rows, ["model", "sweep", "trial", "seeds"], disable_numparse=True)

    # --- the search --------------------------------------------------------------------------------------------------

    def search(self, session: Session) -> None:
        """Train the trials that are missing; what comes of it is in the store.

        Raises:
            KeyboardInterrupt: passed on, after the trials that were being trained were stored as interrupted.
        """
        from bench.cluster.schedule import Limits
        from bench.cluster.sweep import SweepRunner

        options, plan, store = self.options, self.plan, self.store
        need = self._need(session)
        print(self._describe(need, session.nodes), flush=True)
        for own in self.owns.values():
            own.sweep = own.sweep.model_copy(update={"gpus_per_trial": need.gpus, "finished_at": None})
            write_sweep(store, own.sweep)
        done = {model: [one for one in own.trials() if _is_done(one)] for model, own in self.owns.items()}
        with SweepView(dict.fromkeys(self.owns, self.wanted), done) as view:
            notes = _Notes(self.owns, store, view, self.space)
            runner = SweepRunner(
                session,
                dataset=plan.dataset,
                weights=plan.weights,
                plugin=plan.plugin,
                states=store.states([run_id for own in self.owns.values() for run_id in own.records]),
                limits=Limits(options.max_failures, options.timeout, options.oom_backoff),
                need=need,
                handle=notes.take,
                verbose=options.verbose,
            )
            sweeps = [self._as_model_sweep(own) for own in self.owns.values()]
            if runner.search(sweeps, seconds=options.time_budget):
                view.say(f"the {options.time_budget:g} s of --time-budget are over; the best so far is taken")

    def _as_model_sweep(self, own: _Own) -> ModelSweep:
        from bench.cluster.sweep import Halving, ModelSweep, OptunaProposals

        sweep, trials = own.sweep, own.trials()
        proposals = None
        if number := self._to_propose(own):
            proposals = OptunaProposals(
                self.space,
                own.job_of,
                known=[(trial.values, trial.score) for trial in trials if _is_done(trial) and trial.score is not None],
                taken=[trial.job_id for trial in trials],
                left=number,
                seed=sweep.search_seed,
            )
        judged = sweep.seeds[0]
        history = {
            trial.job_id: trial.accuracies(record)
            for trial in trials
            for record in trial.records
            if record.seed == judged
        }
        halving = None
        if sweep.scheduler == "asha":
            halving = Halving(_longest(own), sweep.grace_period, sweep.reduction_factor)
        return ModelSweep(own.base.model, self._waiting(own), judged, halving, proposals, history)

    # --- the winners -------------------------------------------------------------------------------------------------

    def _finish(self, session: Session | None) -> int:
        """Note what was found, retrain the winners and report; returns the exit code."""
        store, options = self.store, self.options
        winners = self.winners()
        swept = [one for one in read_swept(store) if one.sweep.sweep_id in self._ids()]
        print(f"\n{found_table(swept, 'simple')}\n", flush=True)
        if not winners:
            write_pages(self.store, show=False)
            return 1
        self._say_where_from(winners)
        code = Benchmark(options, replace(self.plan, jobs=winners), store).run(session)
        return code if code or len(winners) == len(self.owns) else 1

    def winners(self) -> list[Job]:
        """Of each model the job that trains on all training images at the best values; notes that a sweep is done."""
        winners = []
        for model, own in self.owns.items():
            trials = own.trials()
            best = choose(trials)
            if best is None:
                print(f"{model}: no trial gave a score; {_why(trials, self.options)}")
                continue
            if own.sweep.finished_at is None:
                own.sweep = own.sweep.model_copy(update={"finished_at": datetime.now(UTC)})
            write_sweep(self.store, own.sweep)
            for warning in at_the_edge(own.sweep, trials, best):
                print(f"warning: {model}: {warning}")
            winners.append(self._winner(own, best, Swept(own.sweep, trials, best, []).source))
        return winners

    def _ids(self) -> set[str]:
        return {own.sweep.sweep_id for own in self.owns.values()}

    def _winner(self, own: _Own, best: Trial, source: str) -> Job:
        planned = next(job for job in self.plan.jobs if job.model == own.base.model)
        recipe = own.base.recipe.model_dump() | best.values | {"validation_size": 0}
        return planned.model_copy(
            update={
                "recipe": Recipe.model_validate(recipe),
                "lr_source": source,
                "seeds": self.options.final_seeds,
            }
        )

    def _say_where_from(self, winners: Sequence[Job]) -> None:
        """Runs that are there already have the same id wherever their learning rate came from: note it in them."""
        if self.options.fresh:
            return
        stored = read_stored(self.store)
        for job in winners:
            note_source(self.store, stored, job)


class _Notes:
    """Takes what happens in the search: stores it, and shows it."""

    def __init__(self, owns: Mapping[str, _Own], store: Store, view: SweepView, space: Space) -> None:
        self._owns, self._store, self._view, self._space = owns, store, view, space
        self._runs: dict[str, Run] = {}
        self._before = {run_id: record.attempts for own in owns.values() for run_id, record in own.records.items()}
        self._begun: dict[str, Begun] = {}
        self._commit = git_commit()

    def take(self, event: Event | EpochRecord | Job) -> None:
        """Whatever it is."""
        if isinstance(event, Job):
            self._runs.update({run.id: run for run in event.runs()})
        elif isinstance(event, Begun):
            self._begun[event.run_id] = event
            own, run = self._own(event.run_id)
            values = {name: getattr(run.recipe, name) for name in self._space.names}
            self._view.begun(run, values, own.accuracies(run.id), event.attempt)
            self._keep(run.id)
        elif isinstance(event, EpochRecord):
            own, _ = self._own(event.run_id)
            earlier = [epoch for epoch in own.epochs.get(event.run_id, []) if epoch.epoch < event.epoch]
            own.epochs[event.run_id] = [*earlier, event]
            self._view.epoch(event.run_id, own.accuracies(event.run_id))
            self._keep(event.run_id)
        elif isinstance(event, Saved):
            self._store.save_state(event.run_id, event.state)
        elif isinstance(event, Progress):
            self._view.update(event)
        else:
            self._finished(event)

    def _own(self, run_id: str) -> tuple[_Own, Run]:
        run = self._runs[run_id]
        return self._owns[run.model], run

    def _keep(self, run_id: str) -> None:
        """What there would be if this process were killed now: a trial that is not finished, with its epochs."""
        own, run = self._own(run_id)
        begun = self._begun.get(run_id)
        if begun is None:
            return
        record = Record.of(
            run,
            status=Status.INTERRUPTED,
            reason="not finished",
            started_at=begun.at,
            ended_at=datetime.now(UTC),
            epochs_done=len(own.epochs.get(run_id, ())) or None,
        )
        self._write(own, Outcome(record, own.epochs.get(run_id, [])), begun.attempt)

    def _finished(self, outcome: Outcome) -> None:
        record = outcome.record
        own, _ = self._own(record.run_id)
        epochs = outcome.epochs or own.epochs.get(record.run_id, [])
        own.epochs[record.run_id] = list(epochs)
        if record.epochs_done is None and epochs:
            record = record.model_copy(update={"epochs_done": len(epochs)})
        stored = self._write(own, Outcome(record, list(epochs)), record.attempts)
        self._view.finished(stored, own.trial(stored.job_id))

    def _write(self, own: _Own, outcome: Outcome, attempts: int) -> Record:
        run_id = outcome.record.run_id
        known = {"git_commit": self._commit, "attempts": attempts + self._before.get(run_id, 0)}
        record = self._store.write(replace(outcome, record=outcome.record.model_copy(update=known)))
        own.records[run_id] = record
        return record


def _forget(store: Store, run_ids: Iterable[str]) -> None:
    """Delete trials from the store."""
    for run_id in run_ids:
        for kind, ending in (("runs", "parquet"), ("epochs", "parquet"), ("unfinished", "state")):
            (store.root / kind / f"{run_id}.{ending}").unlink(missing_ok=True)


def _is_done(trial: Trial) -> bool:
    return trial.status is not Status.INTERRUPTED


def _longest(own: _Own) -> int:
    """Epochs of the longest trial."""
    space = own.sweep.space
    if "epochs" in space.ranges:
        return round(space.ranges["epochs"].high)
    listed = [value for value in space.lists.get("epochs", ()) if isinstance(value, int)]
    return max(listed, default=own.base.recipe.epochs)


def _values(space: Space, job: Job) -> Values:
    return {name: getattr(job.recipe, name) for name in space.names}


def _numbers(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _why(trials: Sequence[Trial], options: TuneOptions) -> str:
    if options.time_budget is not None and not any(_is_done(trial) for trial in trials):
        return f"none was done within --time-budget {options.time_budget:g}; the same command goes on from here"
    reasons: Iterator[str] = (record.reason for trial in trials for record in trial.records if record.reason)
    return next(reasons, "try lower learning rates (--lr)")
