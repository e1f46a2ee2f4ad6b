"""A whole search: draw the trials, train those that are missing, store each as it ends, retrain the winners, report."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.cluster.placement import Need, Node, groups_that_fit, place
from bench.cluster.session import ClusterLostError, Session, connect
from bench.config.space import Space, Values, describe_values
from bench.config.tune import TuneOptions
from bench.errors import UserError
from bench.learning.models.registry import MODELS
from bench.reporting.formats import counted
from bench.reporting.store import Store
from bench.reporting.sweeps import (
    Sweep,
    Swept,
    Trial,
    at_the_edge,
    choose,
    read_sweeps,
    read_swept,
    write_sweep,
)
from bench.reporting.table import as_text
from bench.reporting.tuning import found_table
from bench.spec import (
    Job,
    Recipe,
    Status,
)
from bench.workflows.interrupts import INTERRUPTED, interruptible
from bench.workflows.plan import Plan, check_sizes
from bench.workflows.report import write_pages
from bench.workflows.run import Benchmark, prepare, read_stored
from bench.workflows.sweep import FAILED, StoredSweep, SweepNotes
from bench.workflows.sweep_progress import SweepView
from bench.workflows.tuned import note_sources

if TYPE_CHECKING:
    from bench.cluster.tune import ModelSweep


def run_tuning(options: TuneOptions) -> int:
    """Do what ``options`` ask for and return the exit code.

    Raises:
        UserError: wrong usage, before anything is trained; or results that cannot be written.
    """
    if options.search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError("--search optuna needs Optuna, which is not installed; pip install -e '.[tune]' installs it")
    space, fixed = options.searched()
    store, plan = prepare(options)
    return Search(options, plan, store, space, fixed).run()


class Search:
    """A search: the trials asked for, those in the results folder, and those being added to it."""

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
        self.owns: dict[str, StoredSweep] = {}
        for job in plan.jobs:
            recipe = Recipe.model_validate({**job.recipe.model_dump(), **fixed, **held_out})
            self.owns[job.model] = self._own(job.model_copy(update={"recipe": recipe}))
        for own in self.owns.values():
            self._check(own)
        self._load()

    def _own(self, job: Job) -> StoredSweep:
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
        # without the number of trials, so that more of them go on with the same sweep, and without the weights' label
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
        return StoredSweep(sweep, base.model_copy(update={"sweep_id": sweep_id}))

    def _check(self, own: StoredSweep) -> None:
        """Refuse a space with values that the data set or the model does not allow."""
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
        """Read the stored trials of the sweeps; with --fresh, delete them instead."""
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
                state = {name: getattr(earlier[sweep_id], name) for name in kept}
                own.sweep = own.sweep.model_copy(update=state)

    # --- what is to be trained ---------------------------------------------------------------------------------------

    def _drawn(self, own: StoredSweep) -> list[Job]:
        """Return the trials that are asked for: all that were drawn or, with Optuna, those from earlier."""
        if own.sweep.search == "optuna":
            return [own.job_of(trial.values) for trial in own.trials()][: self.wanted]
        return [own.job_of(values) for values in itertools.islice(self.space.draw(own.sweep.search_seed), self.wanted)]

    def _waiting(self, own: StoredSweep) -> list[Job]:
        """Return the trials that are asked for and not done: first those begun, since they were drawn first."""
        unfinished = [own.left_of(job, retry_failed=self.options.retry_failed) for job in self._drawn(own)]
        waiting = [job for job in unfinished if job is not None]
        return sorted(waiting, key=lambda job: not any(run.id in own.records for run in job.runs()))

    def _to_propose(self, own: StoredSweep) -> int:
        return max(0, self.wanted - len(own.trials())) if own.sweep.search == "optuna" else 0

    def run(self) -> int:
        """Search, retrain and report; return the exit code."""
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
        """Return how many trials are to be trained."""
        return sum(len(self._waiting(own)) + self._to_propose(own) for own in self.owns.values())

    def _tell_of_failed(self) -> None:
        failed = [trial for own in self.owns.values() for trial in own.trials() if trial.status in FAILED]
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
        info, count = self.plan.dataset.info, self.left()
        base = next(iter(self.owns.values())).base
        there = sum(len(own.trials()) for own in self.owns.values())
        share = f"{counted(need.cpus, 'CPU')}" + (f" and {need.gpus:g} GPU" if need.gpus else "")
        kept = f"; {there} are there already" if there else ""
        return (
            f"searching {self.space.describe()} for {', '.join(self.owns)} on {info.name} "
            f"({base.runs()[0].images_per_epoch:,} images to train on, {base.recipe.validation_size:,} held out): "
            f"{counted(count, 'trial')}, {min(groups_that_fit(need, nodes), count)} at a time, each with {share}{kept}"
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
        """Train the trials that are missing, and store their results.

        Raises:
            KeyboardInterrupt: passed on, after the trials that were being trained were stored as interrupted.
        """
        from bench.cluster.schedule import Limits
        from bench.cluster.tune import SweepRunner

        options, plan, store = self.options, self.plan, self.store
        need = self._need(session)
        print(self._describe(need, session.nodes), flush=True)
        for own in self.owns.values():
            own.sweep = own.sweep.model_copy(update={"gpus_per_trial": need.gpus, "finished_at": None})
            write_sweep(store, own.sweep)
        done = {model: [trial for trial in own.trials() if _is_done(trial)] for model, own in self.owns.items()}
        with SweepView(dict.fromkeys(self.owns, self.wanted), done) as view:
            notes = SweepNotes(self.owns, store, view, self.space)
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

    def _as_model_sweep(self, own: StoredSweep) -> ModelSweep:
        from bench.cluster.proposals import OptunaProposals
        from bench.cluster.tune import Halving, ModelSweep

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
        """Print and store the winners, retrain them and report; return the exit code."""
        store, options = self.store, self.options
        winners = self.winners()
        swept = [result for result in read_swept(store) if result.sweep.sweep_id in self._ids()]
        print(f"\n{as_text(found_table(swept))}\n", flush=True)
        if not winners:
            write_pages(self.store, show=False)
            return 1
        if not options.fresh:
            note_sources(store, winners)
        code = Benchmark(options, replace(self.plan, jobs=winners), store).run(session)
        return code if code or len(winners) == len(self.owns) else 1

    def winners(self) -> list[Job]:
        """Return each model's job on all training images at the best values, and store that its sweep is done."""
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

    def _winner(self, own: StoredSweep, best: Trial, source: str) -> Job:
        planned = next(job for job in self.plan.jobs if job.model == own.base.model)
        recipe = own.base.recipe.model_dump() | best.values | {"validation_size": 0}
        return planned.model_copy(
            update={
                "recipe": Recipe.model_validate(recipe),
                "lr_source": source,
                "seeds": self.options.final_seeds,
            }
        )


def _forget(store: Store, run_ids: Iterable[str]) -> None:
    """Delete trials from the store."""
    for run_id in run_ids:
        for kind, ending in (("runs", "parquet"), ("epochs", "parquet"), ("unfinished", "state")):
            (store.root / kind / f"{run_id}.{ending}").unlink(missing_ok=True)


def _is_done(trial: Trial) -> bool:
    return trial.status is not Status.INTERRUPTED


def _longest(own: StoredSweep) -> int:
    """Return the epochs of the longest trial."""
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
