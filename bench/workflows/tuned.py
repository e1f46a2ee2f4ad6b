"""``--lr-from-tune``: a benchmark whose runs take the best values of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from bench.config.command_line import flag
from bench.config.run import Options
from bench.config.space import describe_values
from bench.errors import UserError
from bench.reporting.store import Store
from bench.reporting.sweeps import Swept, read_swept
from bench.spec import Job, Recipe, Result, Status

_MAY_DIFFER = ("validation_size", "target_accuracy", "stop_at_target", "early_stopping")


def with_tuned_values(jobs: Sequence[Job], options: Options) -> tuple[list[Job], list[str]]:
    """Return (the jobs with the best values of their model's latest finished sweep on their data, notes for the user).

    Raises:
        UserError: a model has no such sweep, or an option contradicts the sweep.
    """
    latest = _latest(Store(options.results), jobs)
    missing = [job for job in jobs if job.model not in latest]
    if missing:
        models = list(dict.fromkeys(job.model for job in missing))
        raise UserError(
            f"--lr-from-tune: {options.results} holds no finished sweep of {' and '.join(models)} on "
            f"{missing[0].dataset.name}; this makes one: {_command(models, options)}"
        )
    _refuse_contradictions(latest, options)
    tuned, notes = [], []
    for job in jobs:
        swept = latest[job.model]
        values = swept.best.values if swept.best else {}
        recipe, source = Recipe.model_validate({**job.recipe.model_dump(), **values}), swept.source
        tuned.append(job.with_recipe(recipe).model_copy(update={"lr_source": source}))
        differing = _differences(job, swept)
        but = f"; but that sweep had {', '.join(differing)}" if differing else ""
        notes.append(f"{job.model}: {describe_values(values)}, from {source}{but}")
    return tuned, list(dict.fromkeys(notes))


def _latest(store: Store, jobs: Sequence[Job]) -> dict[str, Swept]:
    """Return the latest finished sweep with a winner, by model."""
    if not store.holds_runs():
        return {}
    wanted = {(job.model, job.dataset.sha256) for job in jobs}
    latest: dict[str, Swept] = {}
    for swept in read_swept(store):
        sweep = swept.sweep
        if sweep.finished_at and swept.best and (sweep.model, sweep.dataset.sha256) in wanted:
            latest.setdefault(sweep.model, swept)
    return latest


def _command(models: Iterable[str], options: Options) -> str:
    words = ["python", "-m", "bench.tune", "--models", *models]
    for name in ("dataset", "data_dir", "weights", "results"):
        value = getattr(options, name)
        if name in options.model_fields_set and value is not None:
            words += [flag(name), *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


def _refuse_contradictions(latest: Mapping[str, Swept], options: Options) -> None:
    named = set(options.model_fields_set).union(*options.variants)
    for model, swept in latest.items():
        for name in ("lr", *swept.sweep.space.names):
            if name in named:
                raise UserError(
                    f"{flag(name)} and --lr-from-tune: sweep {swept.sweep.sweep_id} has chosen {name} for {model}; "
                    "leave one of the two out"
                )


def _differences(job: Job, swept: Swept) -> list[str]:
    """Return in words where the sweep differed from the job: its winner may not be the best for the job."""
    sweep, differing = swept.sweep, []
    for name in Recipe.model_fields:
        theirs = getattr(sweep.recipe, name)
        if name not in (*sweep.space.names, *_MAY_DIFFER) and theirs != getattr(job.recipe, name):
            differing.append(f"{name} {theirs}")
    if sweep.weights_sha256 != job.weights_sha256:
        differing.append(f"weights {sweep.weights}")
    return differing


def note_sources(store: Store, jobs: Sequence[Job]) -> None:
    """Note in the records of these jobs' finished runs where their learning rate came from.

    A run has the same id wherever its learning rate came from, so that one trained before is not trained again.
    """
    stored = {record.run_id: record for record in store.records()[0]}
    for job in jobs:
        for run in job.runs():
            record = stored.get(run.id)
            if record is not None and record.status is Status.OK and record.lr_source != job.lr_source:
                store.write(Result(record.model_copy(update={"lr_source": job.lr_source})))
