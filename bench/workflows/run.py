"""A benchmark from start to end: plan it, train what is missing, store each run as it ends, time, report."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from bench.cluster.placement import Group, Node, at_once, place
from bench.cluster.session import ClusterLostError, Session, connect
from bench.config.run import Options
from bench.learning.backends import BACKENDS, check_installed
from bench.reporting import images, stats
from bench.reporting.entries import labels_of
from bench.reporting.files import read
from bench.reporting.formats import counted
from bench.reporting.remote import open_store
from bench.reporting.store import Store
from bench.spec import Begun, Ended, Event, Job, Notice, Record, Run, Saved, Status
from bench.storage import reach
from bench.workflows.announce import announced, placement
from bench.workflows.direct import direct_store
from bench.workflows.forecast import Forecast
from bench.workflows.interrupts import INTERRUPTED, interruptible
from bench.workflows.paces import Part
from bench.workflows.phases import Phases
from bench.workflows.plan import Plan, make_plan
from bench.workflows.progress import ProgressView
from bench.workflows.record import assemble, git_commit
from bench.workflows.report import choice_of, write_pages
from bench.workflows.timing_seconds import TimingSeconds, timing_seconds
from bench.workflows.tuned import note_sources

RUNS = "runs"
"""The phase from the beginning of the first run to the end of the last."""


def run_benchmark(options: Options, phases: Phases | None = None) -> int:
    """Do what ``options`` ask for, note the time of each phase in ``phases``, and return the exit code.

    Raises:
        UserError: wrong usage, before anything is trained; or results that cannot be written.
    """
    phases = phases or Phases("starting Python, reading options")
    phases.enter("finding data and weights")
    store, plan = prepare(options)
    if options.lr_from_tune and not options.dry_run:
        note_sources(store, plan.jobs)
    return Benchmark(options, plan, store, phases).run()


def prepare(options: Options) -> tuple[Store, Plan]:
    """Return the results folder, made unless this is a dry run, and the plan; print what the user should know.

    Raises:
        UserError: wrong usage, or results that cannot be written.
    """
    check_installed(() if options.no_timing else options.backends)
    choice_of(options)
    store = open_store(options.results)
    if options.dry_run:
        reach(store.root)
    else:
        store.prepare()
    plan = make_plan(options)
    if plan.dataset.note:
        print(f"note: {plan.dataset.note}", flush=True)
    for note in plan.notes:
        print(f"note: {note}", flush=True)
    if options.question:
        print(f"question: {options.question}")
    if not options.dry_run:  # the test images, so that a report can show what a model got wrong
        data = plan.dataset
        images.save(store.root, data.sha256, data.test.images, data.test.labels, data.class_names, dataset=data.name)
    return store, plan


class Benchmark:
    """A benchmark: the jobs asked for, the runs in the results folder, and those being added to it."""

    def __init__(self, options: Options, plan: Plan, store: Store, phases: Phases | None = None) -> None:
        self.options = options
        self.plan = plan
        self.store = store
        self.phases = phases or Phases("before")
        self.stored = {} if options.fresh else read_stored(store)
        self.ended: dict[str, Record] = {}
        """The record of each run that this command ended, by run id."""
        self.jobs = list(plan.jobs)
        """The jobs asked for, with the seeds that --until-ci adds."""
        self.labels = labels_of({job.job_id: vars(job) | vars(job.recipe) for job in plan.jobs})
        """A name for each job, by its id."""
        self.more_cpus = 1.0
        """How many times as many CPUs time a model as train it."""

    def run(self, session: Session | None = None) -> int:
        """Train what is missing, time it, report, and return the exit code; without a ``session``, start Ray."""
        options, code = self.options, 0
        # called once: it adds seeds to the jobs
        missing = _missing(self.jobs, self.stored, retry_failed=options.retry_failed) or self._too_wide()
        if missing or options.dry_run or self._to_time():
            code = self._with_ray(missing, session)
        else:
            print("every run that is asked for is already there; --fresh trains them again")
        if options.dry_run:
            return 0
        self.phases.enter("reporting")
        self.store.ensure_sent()
        told = [key for key, run in self.ended.items() if run.status is Status.INTERRUPTED]
        write_pages(self.store, told=told, choice=choice_of(self.options))
        self.phases.enter("ending")
        if code == INTERRUPTED:
            return code
        records = self._records()
        return 0 if all(run_id in records and records[run_id].status is Status.OK for run_id in self._runs()) else 1

    def _records(self) -> dict[str, Record]:
        return self.stored | self.ended

    def _records_of(self, job: Job) -> list[Record]:
        records = self._records()
        return [records[run.id] for run in job.runs() if run.id in records]

    def _runs(self) -> dict[str, Run]:
        return {run.id: run for job in self.jobs for run in job.runs()}

    def _with_ray(self, missing: Sequence[Job], connected: Session | None) -> int:
        """Train and time with Ray; return 0, or the exit code if that ended early."""
        options = self.options
        self.phases.enter("starting Ray")
        with contextlib.ExitStack() as until_the_end:
            view = None if options.dry_run else until_the_end.enter_context(self._view(missing))
            opened = contextlib.nullcontext(connected) if connected else connect_as(options)
            session = until_the_end.enter_context(opened)
            groups = self._place(missing, session)
            if groups or view is None:
                print(self._describe(groups, session.nodes), flush=True)
            if view is None:
                return 0
            if groups and (watch := session.watch()):  # it takes a while until the training can tell
                for line in watch.lines(groups[0].need, len(groups)):
                    print(line, flush=True)

            def train() -> None:
                if groups:
                    self._train(session, missing, groups, view)
                while more := self._too_wide():
                    self._train(session, more, self._place(more, session), view)
                self.store.ensure_sent()
                self._time(session, view)

            try:
                return exit_code_of_training(train, "runs")
            finally:
                self.phases.enter("ending Ray")

    def _view(self, missing: Sequence[Job]) -> ProgressView:
        """Return what shows the progress, with the forecast of this command's length."""
        timed = {record.job_id for record in self._to_time()}
        if not self.options.no_timing:
            timed |= {job.job_id for job in missing if self.options.fresh or not self._was_timed(job)}
        runs = [job.runs()[0] for job in self.jobs if job.job_id in timed]

        def timing(pace: Callable[[Run, Part], float | None]) -> TimingSeconds:
            return timing_seconds(runs, self._backends(), pace, more_cpus=self.more_cpus)

        forecast = Forecast(timing=timing, earlier=self.stored.values())
        view = ProgressView(self.labels, forecast)
        view.stage("starting Ray, which distributes the training")
        return view

    def _describe(self, groups: Sequence[Group], nodes: Sequence[Node]) -> str:
        """Return the plan in words; for a dry run also a table of the placement."""
        asked_for = self._runs()
        there = sum(run_id in self.stored and self.stored[run_id].status is Status.OK for run_id in asked_for)
        lines = announced(self.plan, groups, nodes, asked_for=len(asked_for), there=there)
        if self.options.dry_run:
            lines += placement(self.plan, groups, nodes, self.labels)
        return "\n".join(lines)

    def _place(self, jobs: Sequence[Job], session: Session) -> list[Group]:
        return place(
            jobs,
            session.nodes,
            cpus_per_worker=self.options.cpus_per_worker,
            gpus_per_worker=self.options.gpus_per_worker,
            remedy=session.remedy,
        )

    def _train(self, session: Session, jobs: Sequence[Job], groups: Sequence[Group], view: ProgressView) -> None:
        from bench.cluster.schedule import Limits, Scheduler  # imports ray, which reads settings that connect() made

        options, plan, store = self.options, self.plan, self.store
        self.phases.enter("starting workers")
        runs, commit = {run.id: run for job in jobs for run in job.runs()}, git_commit()
        direct = direct_store(store)
        if options.fresh:
            store.forget(runs.keys() & set(store.ids("unfinished")), ("unfinished",))
        on_cpus = groups[0].need.gpus == 0
        self.more_cpus = max(node.cpus for node in session.nodes) / groups[0].need.cpus if on_cpus else 1.0
        wait_for = "CPUs" if on_cpus else "GPUs"
        view.plan([group.runs for group in groups], at_once(groups, session.nodes), waiting_for=wait_for)

        def handle(event: Event) -> None:
            if isinstance(event, Begun):
                self.phases.enter(RUNS)
                view.begun(event.run_id, event.attempt)
            elif isinstance(event, Notice):
                view.say(event.text)
            elif isinstance(event, Saved):
                store.save_state(event.run_id, event.state)
            elif isinstance(event, Ended):
                run = runs[event.outcome.run_id]
                before = self.stored.get(run.id)
                attempts = event.attempts + (before.attempts if before else 0)
                result = assemble(run, event.outcome, attempts=attempts, contended=event.contended, git_commit=commit)
                store.write(result)
                self.ended[run.id] = result.record
                view.finished(result.record)
            else:
                view.update(event)

        scheduler = Scheduler(
            session,
            inputs=plan.inputs,
            states=store.states(list(runs)) if direct is None else {},
            limits=Limits(options.max_failures, options.timeout, options.oom_backoff),
            handle=handle,
            storage=direct,
        )
        scheduler.train(groups)

    def _too_wide(self) -> list[Job]:
        """Add seeds where --until-ci finds the interval too wide, and return them as jobs; print where it adds none."""
        width = self.options.until_ci
        if width is None or self.options.dry_run:
            return []
        more = []
        for number, job in enumerate(self.jobs):
            accuracies = [record.test_accuracy for record in self._records_of(job) if record.test_accuracy is not None]
            label, seeds = self.labels[job.job_id], len(job.seeds)
            if len(accuracies) < seeds:
                continue  # a run failed: another seed would likely fail too
            interval = stats.mean_interval(accuracies)
            # below three seeds there is no interval
            points = 100 * (interval.high - interval.low) if interval is not None else math.inf
            if points <= width:
                print(f"{label}: {seeds} seeds, accuracy known to {points:.2f} points (95 % interval): enough")
                continue
            if seeds >= self.options.max_seeds:
                print(f"{label}: {seeds} seeds, the most allowed (--max-seeds); accuracy known to {points:.2f} points")
                continue
            # the width shrinks with the root of the number of seeds
            wanted = 3 - seeds if interval is None else min(math.ceil(seeds * ((points / width) ** 2 - 1)), seeds)
            wanted = max(1, min(wanted, self.options.max_seeds - seeds))
            new = tuple(itertools.islice((seed for seed in itertools.count() if seed not in job.seeds), wanted))
            self.jobs[number] = job.model_copy(update={"seeds": (*job.seeds, *new)})
            more.append(job.model_copy(update={"seeds": new}))
        return _missing(more, self.stored, retry_failed=False) if more else []

    def _was_timed(self, job: Job) -> bool:
        return any(set(self._backends()) <= self._timed_with(record.run_id) for record in self._records_of(job))

    def _to_time(self) -> list[Record]:
        """Return a finished run of each job for which some back end asked for was not timed and has not failed."""
        if self.options.no_timing or self.options.dry_run:
            return []
        asked, timed = [], self.store.timed()
        checkpoints = self.store.checkpoints()
        for job in self.jobs:
            records = self._records_of(job)
            done = [record for record in records if record.status is Status.OK and record.run_id in checkpoints]
            # first a run that was timed before, so that all timings of a job are of one run
            done.sort(key=lambda record: record.run_id not in timed)
            if done and (self.options.fresh or not self._was_timed(job)):
                asked.append(done[0])
        return asked

    def _backends(self) -> list[str]:
        """Return the back ends that are asked for, and eager, with which all are compared, in the order of timing."""
        return [name for name in BACKENDS if name == "eager" or name in self.options.backends]

    def _timed_with(self, run_id: str) -> set[str]:
        """Return the back ends that a run was timed with, or that failed and are not to be tried again."""
        if not self.store.timings(run_id):
            return set()
        rows = self.store.deployments(run_id)
        return {row.backend for row in rows if row.status == "ok" or not self.options.retry_failed}

    def _time(self, session: Session, view: ProgressView) -> None:
        """Time the trained models, one at a time with the machine to itself, and store the timings."""
        records = self._to_time()
        if not records:
            return
        from bench.cluster.timing import NotTimedError, time_alone

        backends = self._backends()
        how = "" if backends == ["eager"] else f", by {', '.join(backends)}"
        what = f"timing {', '.join(self.labels[record.job_id] for record in records)}, one at a time{how}"
        print(what, flush=True)
        self.phases.enter("timing")
        view.timing(f"timing {counted(len(records), 'model')}, one at a time, with nothing else running")
        runs = self._runs()
        checkpoints = self.store.checkpoints()
        trained = [(runs[record.run_id], read(checkpoints[record.run_id])) for record in records]
        try:
            measured = time_alone(
                session,
                trained,
                inputs=self.plan.inputs,
                backends=backends,
                waiting=view.timing_goes_on,
                report=view.timing_update,
                failed=lambda reason: print(f"warning: not timed {reason}", file=sys.stderr),
            )
        except NotTimedError as error:
            print(f"warning: not timed: {error}", file=sys.stderr)
            return
        for record in records:
            answered = [row for row in measured.deployments if row.run_id == record.run_id]
            for row in answered:
                if row.status == "failed":
                    print(f"warning: {self.labels[record.job_id]} by {row.backend}: {row.reason}", file=sys.stderr)
            self.store.write_timings(record.run_id, [row for row in measured.timings if row.run_id == record.run_id])
            self.store.write_deployments(record.run_id, answered)


def connect_as(options: Options) -> contextlib.AbstractContextManager[Session]:
    """Return the connection to Ray that a command asks for; print a note if it may have meant another."""
    if options.address is None and (cluster := os.environ.get("RAY_ADDRESS")):  # as in a job of `ray job submit`
        print(f"note: this starts a Ray of its own, on this machine; --address auto uses the cluster at {cluster}")
    may_add = [Node(cpus, gpus) for cpus, gpus in options.nodes_to_add()]
    return connect(options.address, may_add=may_add, verbose=options.verbose)


def exit_code_of_training(train: Callable[[], None], what: str) -> int:
    """Call ``train`` and return 0; if Ctrl-C or the loss of Ray ends it, tell the user and return the exit code.

    Args:
        train: stores what it trains as it goes, so that the same command can go on from there.
        what: what it trains, in the plural.
    """
    kept = f"finished {what} are kept, and the same command goes on from here"
    try:
        with interruptible():
            train()
    except KeyboardInterrupt:
        print(f"interrupted; {kept}")
        return INTERRUPTED
    except ClusterLostError as error:
        print(f"error: Ray was lost ({error}); {kept}", file=sys.stderr)
        return 1
    return 0


def read_stored(store: Store) -> dict[str, Record]:
    """Return the records of the results folder by run id; warn of files that are no records."""
    records, problems = store.records(set_aside=True)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return {record.run_id: record for record in records}


def _missing(jobs: Sequence[Job], stored: Mapping[str, Record], *, retry_failed: bool) -> list[Job]:
    """Return the jobs with only the seeds to train: new ones, interrupted ones, and failed ones if asked."""
    remaining, failed = [], 0
    for job in jobs:
        seeds = []
        for run in job.runs():
            status = stored[run.id].status if run.id in stored else None
            if status in (None, Status.INTERRUPTED) or (retry_failed and status is not Status.OK):
                seeds.append(run.seed)
            elif status is not Status.OK:
                failed += 1
        if seeds:
            remaining.append(job.model_copy(update={"seeds": tuple(seeds)}))
    if failed:
        print(f"{counted(failed, 'run')} failed in an earlier command; --retry-failed tries again")
    return remaining
