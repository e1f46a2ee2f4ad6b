"""A whole benchmark: plan, train what is missing, store each run as it ends, report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from bench.cluster.placement import Admission, Group, Node, place
from bench.cluster.session import connect
from bench.interrupts import INTERRUPTED, interruptible
from bench.options import Options
from bench.plan import Plan, make_plan
from bench.progress import ProgressView
from bench.reporting.store import Store
from bench.reporting.summary import write_summary
from bench.reporting.terminal import print_results
from bench.spec import Begun, Event, Job, Outcome, Recipe, Record, Saved, Status


def run_benchmark(options: Options) -> int:
    """Do what ``options`` ask for; returns the exit code.

    Raises:
        UserError: wrong usage, before anything is trained; or results that cannot be written.
    """
    store = Store(options.results)
    if not options.dry_run:
        store.prepare()
    plan = make_plan(options)
    if plan.dataset.note:
        print(f"note: {plan.dataset.note}", flush=True)
    if options.question:
        print(f"question: {options.question}")
    stored = {} if options.fresh else _stored(store)
    jobs = _missing(plan.jobs, stored, retry_failed=options.retry_failed)
    ended: dict[str, Status] = {}
    interrupted = False
    if jobs or options.dry_run:
        interrupted = _train(options, plan, jobs, store, stored, ended)
    else:
        print("every run that is asked for is already there; --fresh trains them again")
    if options.dry_run:
        return 0
    print_results(store, write_summary(store))
    if interrupted:
        return INTERRUPTED
    status = {record.run_id: record.status for record in stored.values()} | ended
    asked_for = [run.id for job in plan.jobs for run in job.runs()]
    return 0 if all(status.get(run_id) is Status.OK for run_id in asked_for) else 1


def _stored(store: Store) -> dict[str, Record]:
    records, problems = store.records(set_aside=True)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return {record.run_id: record for record in records}


def _missing(jobs: Sequence[Job], stored: Mapping[str, Record], *, retry_failed: bool) -> list[Job]:
    """The jobs with only those seeds that are to be trained: new ones, interrupted ones, and failed ones if asked."""
    left, failed = [], 0
    for job in jobs:
        seeds = []
        for run in job.runs():
            status = stored[run.id].status if run.id in stored else None
            if status in (None, Status.INTERRUPTED) or (retry_failed and status is not Status.OK):
                seeds.append(run.seed)
            elif status is not Status.OK:
                failed += 1
        if seeds:
            left.append(job.model_copy(update={"seeds": tuple(seeds)}))
    if failed:
        runs = "1 run" if failed == 1 else f"{failed} runs"
        print(f"{runs} failed in an earlier command, left as it was; --retry-failed tries again")
    return left


def _train(
    options: Options,
    plan: Plan,
    jobs: Sequence[Job],
    store: Store,
    stored: Mapping[str, Record],
    ended: dict[str, Status],
) -> bool:
    """Train ``jobs`` and note in ``ended`` how each run ended; returns whether it was interrupted."""
    with connect(options.address, verbose=options.verbose) as session:
        groups = place(
            jobs,
            session.nodes,
            cpus_per_worker=options.cpus_per_worker,
            gpus_per_worker=options.gpus_per_worker,
        )
        print(_describe(plan, groups, session.nodes, in_full=options.dry_run), flush=True)
        if options.dry_run:
            return False
        from bench.cluster.schedule import Limits, Scheduler  # imports ray, which reads settings that connect() made

        commit = git_commit()
        with ProgressView(jobs) as view, interruptible():

            def handle(event: Event) -> None:
                if isinstance(event, Begun):
                    view.begun(event.run_id, event.attempt)
                elif isinstance(event, Saved):
                    store.save_state(event.run_id, event.state)
                elif isinstance(event, Outcome):
                    record = event.record
                    before = stored.get(record.run_id)
                    attempts = record.attempts + (before.attempts if before else 0)
                    known = record.model_copy(update={"git_commit": commit, "attempts": attempts})
                    ended[record.run_id] = record.status
                    view.finished(store.write(replace(event, record=known)))
                else:
                    view.update(event)

            try:
                scheduler = Scheduler(
                    session,
                    dataset=plan.dataset,
                    weights=plan.weights,
                    plugin=plan.plugin,
                    states={} if options.fresh else store.states([run.id for job in jobs for run in job.runs()]),
                    limits=Limits(options.max_failures, options.timeout, options.oom_backoff),
                    handle=handle,
                )
                scheduler.train(groups)
            except KeyboardInterrupt:
                view.say("interrupted; finished runs are kept, and the same command goes on from here")
                return True
    return False


def _describe(plan: Plan, groups: Sequence[Group], nodes: Sequence[Node], *, in_full: bool) -> str:
    """The plan in words; with ``in_full`` also a table of the placement."""
    info = plan.dataset.info
    runs = sum(len(group.runs) for group in groups)
    room = Admission(nodes)
    at_once = [room.admit(group.need) for group in groups]
    cpus, gpus = (sum(getattr(node, kind) for node in nodes) for kind in ("cpus", "gpus"))
    models = ", ".join(dict.fromkeys(group.runs[0].model for group in groups)) or "nothing that is not there already"
    lines = [
        f"training {models} on {info.name} ({info.train_images:,} training and {info.test_images:,} test images): "
        f"{runs} run{'s' if runs != 1 else ''}, {sum(at_once)} at a time, on {cpus:g} CPUs and {gpus:g} GPUs"
    ]
    if in_full:
        rows = [
            [
                group.runs[0].model,
                " ".join(str(run.seed) for run in group.runs),
                group.need.workers,
                group.need.cpus,
                f"{group.need.gpus:g}",
                "at once" if now else "when there is room",
                group.runs[0].weights,
            ]
            for group, now in zip(groups, at_once, strict=True)
        ]
        headers = ["model", "seeds", "workers", "CPUs each", "GPUs each", "starts", "initial weights"]
        lines += [
            "",
            tabulate(rows, headers, disable_numparse=True),
            "",
            f"recipe: {_recipe(plan)}",
            "dry run: nothing was trained",
        ]
    return "\n".join(lines)


def _recipe(plan: Plan) -> str:
    """What all jobs share in full; of the rest, what differs from the default."""
    recipes = [job.recipe.model_dump() for job in plan.jobs]
    shown = ("epochs", "batch_size", "lr", "optimizer", "bn_mode")
    named = [
        name
        for name, field in Recipe.model_fields.items()
        if name in shown or any(recipe[name] != field.default for recipe in recipes)
    ]
    return ", ".join(f"{name} {' or '.join(dict.fromkeys(str(one[name]) for one in recipes))}" for name in named)


def git_commit() -> str | None:
    """The commit of this harness, '+' behind it if files were changed; None outside a git checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", __file__):  # installed into an environment inside somebody's checkout
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return None
