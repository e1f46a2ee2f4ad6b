"""A search from start to end: draw the trials, train those missing, retrain the winners, report."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.cluster.placement import Need, Node, groups_that_fit, place
from bench.cluster.session import Session
from bench.config.space import Space, Values, describe_values
from bench.config.tune import TuneOptions
from bench.errors import UserError
from bench.learning.inputs import inputs_of
from bench.learning.models.registry import find
from bench.reporting.formats import counted, seed_list
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
from bench.spec import Job, Recipe, Status
from bench.workflows.direct import direct_store
from bench.workflows.plan import Plan, check_sizes
from bench.workflows.report import write_pages
from bench.workflows.run import Benchmark, connect_as, exit_code_of_training, prepare, read_stored
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
                "give a number with --validation-size"
            )
        self.sweeps: dict[str, StoredSweep] = {}
        for job in plan.jobs:
            recipe = Recipe.model_validate({**job.recipe.model_dump(), **fixed, **held_out})
            self.sweeps[job.model] = self._sweep_of(job.with_recipe(recipe))
        for stored in self.sweeps.values():
            self._check(stored)
        self._load()

    def _sweep_of(self, job: Job) -> StoredSweep:
        options = self.options
        defaults = {name: Recipe.model_fields[name].default for name in self.space.names}
        changes = {
            "recipe": job.recipe.model_copy(update=defaults),
            "judged_on": "validation",
            "workers": 1,
            "seeds": options.chosen_seeds,
        }
        base = job.model_copy(update=changes)
        names = ("search_seed", "scheduler", "grace_period", "reduction_factor")
        asked = {
            "search": "grid" if self.space.is_grid and options.search == "random" else options.search,
            **{name: getattr(options, name) for name in names},
        }
        # without the number of trials, so that more of them go on with the same sweep, and without the weights' label
        about = {
            "job": base.model_dump(mode="json", exclude={"weights"}, exclude_defaults=True),
            **asked,
            "space": self.space.model_dump(mode="json"),
        }
        sweep_id = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
        state = {"trials": self.wanted, "gpus_per_trial": 0.0, "started_at": datetime.now(UTC), "finished_at": None}
        sweep = Sweep.model_validate({**vars(base), **asked, **state, "sweep_id": sweep_id, "space": self.space})
        return StoredSweep(sweep, base.model_copy(update={"sweep_id": sweep_id}))

    def _check(self, stored: StoredSweep) -> None:
        """Refuse a space with values that the data set or the model does not allow."""
        architecture = find(stored.base.model, inputs_of(stored.base.runs()[0], self.plan.inputs).code)
        check_sizes(stored.base, architecture)
        for values in self.space.extremes():
            check_sizes(stored.job_of(values), architecture)
        longest = _longest(stored)
        if self.options.scheduler == "asha" and self.options.grace_period > longest:
            raise UserError(
                f"--grace-period {self.options.grace_period} is longer than the {longest} epochs of a trial"
            )

    def _load(self) -> None:
        """Read the stored trials of the sweeps; with --fresh, delete them instead."""
        records = read_stored(self.store).values()
        earlier = {sweep.sweep_id: sweep for sweep in read_sweeps(self.store.root)}
        for stored in self.sweeps.values():
            sweep_id = stored.sweep.sweep_id
            of_sweep = {record.run_id: record for record in records if record.sweep_id == sweep_id}
            if self.options.fresh:
                if not self.options.dry_run:
                    self.store.forget(of_sweep)
                continue
            stored.records = of_sweep
            self.store.read_ahead("epochs", of_sweep)
            stored.epochs = {run_id: self.store.epochs(run_id) for run_id in of_sweep}
            if sweep_id in earlier:
                kept = ("started_at", "finished_at", "gpus_per_trial")
                state = {name: getattr(earlier[sweep_id], name) for name in kept}
                stored.sweep = stored.sweep.model_copy(update=state)

    # --- what is to be trained ---------------------------------------------------------------------------------------

    def _drawn(self, stored: StoredSweep) -> list[Job]:
        """Return the trials that are asked for: all that were drawn or, with Optuna, those from earlier."""
        if stored.sweep.search == "optuna":
            return [stored.job_of(trial.values) for trial in stored.trials()][: self.wanted]
        drawn = itertools.islice(self.space.draw(stored.sweep.search_seed), self.wanted)
        return [stored.job_of(values) for values in drawn]

    def _waiting(self, stored: StoredSweep) -> list[Job]:
        """Return the trials that are asked for and not done: first those begun, since they were drawn first."""
        unfinished = [stored.remaining(job, retry_failed=self.options.retry_failed) for job in self._drawn(stored)]
        waiting = [job for job in unfinished if job is not None]
        return sorted(waiting, key=lambda job: not any(run.id in stored.records for run in job.runs()))

    def _to_propose(self, stored: StoredSweep) -> int:
        return max(0, self.wanted - len(stored.trials())) if stored.sweep.search == "optuna" else 0

    def run(self) -> int:
        """Search, retrain and report; return the exit code."""
        self._tell_of_failed()
        if not self.left() and not self.options.dry_run:
            print("every trial that is asked for is already there; --fresh trains them again", flush=True)
            return self._finish(None)
        with connect_as(self.options) as session:
            if self.options.dry_run:
                need = self._need(session)
                print(f"{self._describe(need, session.nodes)}\n\n{self._dry()}\n\ndry run: nothing was trained")
                return 0
            code = exit_code_of_training(lambda: self.search(session), "trials")
            self.store.ensure_sent()
            if code:
                write_pages(self.store, show=False)
                return code
            return self._finish(session)

    def left(self) -> int:
        """Return the number of trials that are still to be trained."""
        return sum(len(self._waiting(stored)) + self._to_propose(stored) for stored in self.sweeps.values())

    def _tell_of_failed(self) -> None:
        failed = [trial for stored in self.sweeps.values() for trial in stored.trials() if trial.status in FAILED]
        if failed and not self.options.retry_failed:
            print(f"{counted(len(failed), 'trial')} failed in an earlier command; --retry-failed tries again")

    def _need(self, session: Session) -> Need:
        """Return what each trial reserves."""
        (group,) = place(
            [next(iter(self.sweeps.values())).base.model_copy(update={"seeds": (0,)})],
            session.nodes,
            cpus_per_worker=self.options.cpus_per_worker,
            gpus_per_worker=self.options.gpus_per_worker,
            remedy=session.remedy,
        )
        return group.need

    def _describe(self, need: Need, nodes: Sequence[Node]) -> str:
        info, count = self.plan.dataset.info, self.left()
        base = next(iter(self.sweeps.values())).base
        there = sum(len(stored.trials()) for stored in self.sweeps.values())
        share = f"{counted(need.cpus, 'CPU')}" + (f" and {need.gpus:g} GPU" if need.gpus else "")
        kept = f"; {there} are there already" if there else ""
        return (
            f"searching {self.space.describe()} for {', '.join(self.sweeps)} on {info.name} "
            f"({base.runs()[0].images_per_epoch:,} images to train on, {base.recipe.validation_size:,} held out): "
            f"{counted(count, 'trial')}, {min(groups_that_fit(need, nodes), count)} at a time, each with {share}{kept}"
        )

    def _dry(self) -> str:
        rows = [
            [model, stored.sweep.sweep_id, describe_values(stored.values_of(job)), seed_list(job.seeds)]
            for model, stored in self.sweeps.items()
            for job in self._waiting(stored)
        ]
        rows += [
            [model, stored.sweep.sweep_id, f"{number} that Optuna proposes", seed_list(stored.sweep.seeds)]
            for model, stored in self.sweeps.items()
            if (number := self._to_propose(stored))
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
        for stored in self.sweeps.values():
            stored.sweep = stored.sweep.model_copy(update={"gpus_per_trial": need.gpus, "finished_at": None})
            write_sweep(store, stored.sweep)
        done = {model: [trial for trial in stored.trials() if _is_done(trial)] for model, stored in self.sweeps.items()}
        with SweepView(dict.fromkeys(self.sweeps, self.wanted), done) as view:
            notes = SweepNotes(self.sweeps, store, view)
            direct = direct_store(store)
            runner = SweepRunner(
                session,
                inputs=plan.inputs,
                states={} if direct else store.states([key for each in self.sweeps.values() for key in each.records]),
                limits=Limits(options.max_failures, options.timeout, options.oom_backoff),
                need=need,
                handle=notes.take,
                storage=direct,
                verbose=options.verbose,
            )
            sweeps = [self._as_model_sweep(stored) for stored in self.sweeps.values()]
            if runner.search(sweeps, seconds=options.time_budget):
                view.say(f"the {options.time_budget:g} s of --time-budget are over; the best so far is taken")

    def _as_model_sweep(self, stored: StoredSweep) -> ModelSweep:
        from bench.cluster.proposals import OptunaProposals
        from bench.cluster.tune import Halving, ModelSweep

        sweep, trials = stored.sweep, stored.trials()
        proposals = None
        if number := self._to_propose(stored):
            proposals = OptunaProposals(
                self.space,
                stored.job_of,
                scores=[(trial.values, trial.score) for trial in trials if _is_done(trial) and trial.score is not None],
                taken=[trial.job_id for trial in trials],
                count=number,
                seed=sweep.search_seed,
            )
        judged = sweep.seeds[0]
        history = {
            trial.job_id: stored.accuracies(record.run_id)
            for trial in trials
            for record in trial.records
            if record.seed == judged
        }
        early = Halving(_longest(stored), sweep.grace_period, sweep.reduction_factor)
        halving = early if sweep.scheduler == "asha" else None
        return ModelSweep(stored.base.model, self._waiting(stored), judged, halving, proposals, history)

    # --- the winners -------------------------------------------------------------------------------------------------

    def _finish(self, session: Session | None) -> int:
        """Print and store the winners, retrain them and report; return the exit code."""
        store, options = self.store, self.options
        winners = self.winners()
        ids = {stored.sweep.sweep_id for stored in self.sweeps.values()}
        swept = [result for result in read_swept(store) if result.sweep.sweep_id in ids]
        print(f"\n{as_text(found_table(swept))}\n", flush=True)
        if not winners:
            write_pages(self.store, show=False)
            return 1
        if not options.fresh:
            note_sources(store, winners)
        code = Benchmark(options, replace(self.plan, jobs=winners), store).run(session)
        return code if code or len(winners) == len(self.sweeps) else 1

    def winners(self) -> list[Job]:
        """Return each model's job on all training images at the best values, and store that its sweep is done."""
        winners = []
        for model, stored in self.sweeps.items():
            trials = stored.trials()
            best = choose(trials)
            if best is None:
                print(f"{model}: no trial gave a score; {_why(trials, self.options)}")
                continue
            if stored.sweep.finished_at is None:
                stored.sweep = stored.sweep.model_copy(update={"finished_at": datetime.now(UTC)})
            write_sweep(self.store, stored.sweep)
            for warning in at_the_edge(stored.sweep, trials, best):
                print(f"warning: {model}: {warning}")
            planned = next(job for job in self.plan.jobs if job.model == model)
            changes = {
                "recipe": Recipe.model_validate(vars(stored.base.recipe) | best.values | {"validation_size": 0}),
                "lr_source": Swept(stored.sweep, trials, best, []).source,
                "seeds": self.options.final_seeds,
            }
            winners.append(planned.model_copy(update=changes))
        return winners


def _is_done(trial: Trial) -> bool:
    return trial.status is not Status.INTERRUPTED


def _longest(stored: StoredSweep) -> int:
    """Return the epochs of the longest trial."""
    space = stored.sweep.space
    if "epochs" in space.ranges:
        return round(space.ranges["epochs"].high)
    listed = [value for value in space.lists.get("epochs", ()) if isinstance(value, int)]
    return max(listed, default=stored.base.recipe.epochs)


def _why(trials: Sequence[Trial], options: TuneOptions) -> str:
    if options.time_budget is not None and not any(_is_done(trial) for trial in trials):
        return f"none was done within --time-budget {options.time_budget:g}; the same command goes on from here"
    reasons: Iterator[str] = (record.reason for trial in trials for record in trial.records if record.reason)
    return next(reasons, "try lower learning rates (--lr)")
