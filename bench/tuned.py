"""``--lr-from-tune``: what a sweep found, for the runs of a benchmark."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from bench.errors import UserError
from bench.options import Options, flag
from bench.reporting.store import Store
from bench.reporting.tuning import Swept, choose, read_sweeps, trials_of
from bench.space import describe_values
from bench.spec import Job, Outcome, Recipe, Record, Status

_MAY_DIFFER = ("validation_size", "target_accuracy", "stop_at_target")


def with_tuned_values(jobs: Sequence[Job], options: Options) -> tuple[list[Job], list[str]]:
    """(the jobs with what the latest finished sweep of each model on their data set found, notes for the user).

    Runs that are stored already under the same values are told where these came from.

    Raises:
        UserError: a model has no such sweep, or an option says otherwise than the sweep.
    """
    store = Store(options.results)
    found, records = _latest(store, jobs)
    missing = [job for job in jobs if job.model not in found]
    if missing:
        models = list(dict.fromkeys(job.model for job in missing))
        raise UserError(
            f"--lr-from-tune: {options.results} holds no finished sweep of {' and '.join(models)} on "
            f"{missing[0].dataset.name}; this makes one: {_command(models, options)}"
        )
    _refuse_contradictions(found, options)
    tuned, notes = [], []
    for job in jobs:
        swept = found[job.model]
        values = swept.best.values if swept.best else {}
        recipe, source = Recipe.model_validate({**job.recipe.model_dump(), **values}), swept.source
        tuned.append(job.model_copy(update={"recipe": recipe, "lr_source": source}))
        differing = _differences(job, swept)
        but = f"; but that sweep had {', '.join(differing)}" if differing else ""
        notes.append(f"{job.model}: {describe_values(values)}, from {source}{but}")
    if not options.dry_run:
        for job in tuned:
            note_source(store, records, job)
    return tuned, list(dict.fromkeys(notes))


def _latest(store: Store, jobs: Sequence[Job]) -> tuple[dict[str, Swept], dict[str, Record]]:
    """(by model the latest finished sweep with a winner, all records)."""
    if not (store.root / "runs").is_dir():
        return {}, {}
    records, _ = store.records()
    found: dict[str, Swept] = {}
    wanted = {(job.model, job.dataset.sha256) for job in jobs}
    for sweep in read_sweeps(store.root):
        if sweep.finished_at is None or (sweep.model, sweep.dataset.sha256) not in wanted or sweep.model in found:
            continue
        own = [record for record in records if record.sweep_id == sweep.sweep_id]
        trials = trials_of(sweep, own, {record.run_id: store.epochs(record.run_id) for record in own})
        best = choose(trials)
        if best is not None:
            found[sweep.model] = Swept(sweep, trials, best, [])
    return found, {record.run_id: record for record in records}


def _command(models: Iterable[str], options: Options) -> str:
    words = ["python", "-m", "bench.tune", "--models", *models]
    for name in ("dataset", "data_dir", "weights", "plugin", "results"):
        value = getattr(options, name)
        if name in options.model_fields_set and value is not None:
            words += [flag(name), *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


def _refuse_contradictions(found: Mapping[str, Swept], options: Options) -> None:
    named = set(options.model_fields_set).union(*(variant for variant in options.variants))
    for model, swept in found.items():
        for name in ("lr", *swept.sweep.space.names):
            if name in named:
                raise UserError(
                    f"{flag(name)} and --lr-from-tune: sweep {swept.sweep.sweep_id} has chosen {name} for {model}; "
                    "leave one of the two out"
                )


def _differences(job: Job, swept: Swept) -> list[str]:
    """What the sweep had otherwise than the job, in words: its winner may not be the best here."""
    sweep, differing = swept.sweep, []
    for name in Recipe.model_fields:
        theirs = getattr(sweep.recipe, name)
        if name not in (*sweep.space.names, *_MAY_DIFFER) and theirs != getattr(job.recipe, name):
            differing.append(f"{name} {theirs}")
    if sweep.weights_sha256 != job.weights_sha256:
        differing.append(f"weights {sweep.weights}")
    return differing


def note_source(store: Store, stored: Mapping[str, Record], job: Job) -> None:
    """Write into finished runs of a job where its learning rate came from, if they do not say so.

    A run has the same id wherever its learning rate came from, so one that is there is not trained again.
    """
    for run in job.runs():
        record = stored.get(run.id)
        if record is not None and record.status is Status.OK and record.lr_source != job.lr_source:
            store.write(Outcome(record.model_copy(update={"lr_source": job.lr_source})))
