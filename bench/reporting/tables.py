"""Records as tables. Each table is one list of columns or rows: (header, how to read it from the records)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.reporting import circumstances, stats
from bench.reporting.speed import BEFORE_BACKENDS, EAGER, Answers, Speed, Speeds, speeds_of
from bench.spec import Deployment, Record, Status

if TYPE_CHECKING:  # who draws plots needs no pyarrow
    from bench.reporting.store import Store

MISSING = "-"
DISTINGUISHING = (
    "epochs",
    "batch_size",
    "lr",
    "optimizer",
    "weight_decay",
    "momentum",
    "beta2",
    "schedule",
    "label_smoothing",
    "precision",
    "bn_mode",
    "trainable",
    "image_size",
    "train_size",
    "validation_size",
    "target_accuracy",
    "stop_at_target",
    "workers",
    "weights",
    "weights_sha256",
    "plugin_sha256",
)
"""What may tell two jobs of the same model apart, in the order in which a label names it."""
MOST_COLUMNS = 6
"""With more jobs than this, jobs are rows of the comparison and metrics its columns."""
MOST_JOBS = 100
"""Jobs in the comparison: the most accurate."""
MOST_RUNS = 200
"""Runs in the table of runs: the last ones."""


@dataclass(frozen=True)
class Entry:
    """The runs of one job: one column of the comparison."""

    label: str
    records: list[Record]
    """Finished runs, by seed."""
    speeds: Speeds = field(default_factory=Speeds)
    """What was timed after the training."""
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    """By back end: how one trained model answered all test images."""

    @property
    def accuracies(self) -> dict[int, float]:
        """Share of test images classified right, by seed."""
        return {record.seed: record.test_accuracy for record in self.records if record.test_accuracy is not None}


@dataclass(frozen=True)
class Comparison:
    """Jobs on the same data set, which may be compared."""

    title: str
    entries: list[Entry]


def tested(records: Iterable[Record]) -> list[Record]:
    """The runs that are judged on the test images: all but the trials of sweeps."""
    return [record for record in records if record.judged_on == "test"]


def comparisons(records: Iterable[Record], store: Store | None = None) -> list[Comparison]:
    """Finished runs by data set and, within one, by job; sorted by name. Trials of sweeps are left out.

    Args:
        records: all records.
        store: where their timings are; None leaves the timings out.
    """
    by_data: dict[tuple[str, str, int, int], list[Record]] = {}
    for record in tested(records):
        if record.status is Status.OK:
            key = (record.dataset, record.dataset_sha256, record.train_images, record.test_images)
            by_data.setdefault(key, []).append(record)
    timed = store.timed() if store is not None else set()
    found = []
    for (dataset, _, train_images, test_images), group in sorted(by_data.items()):
        title = f"{dataset}: {train_images:,} training and {test_images:,} test images"
        entries = _entries(group)
        if store is not None and timed:
            entries = [
                replace(
                    entry,
                    speeds=speeds_of(store, entry.records, timed),
                    deployments=_deployments(store, entry.records, timed),
                )
                for entry in entries
            ]
        found.append(Comparison(title, entries))
    return found


def _deployments(store: Store, records: Sequence[Record], timed: set[str]) -> dict[str, Deployment]:
    """Return how the first run that was prepared for back ends answered, by back end."""
    for record in records:
        if record.run_id in timed and (rows := store.deployments(record.run_id)):
            return {row.backend: row for row in rows}
    return {}


def natural(label: str) -> list[tuple[str, float]]:
    """A key that sorts labels as people do: 'epochs 5' before 'epochs 10', '300 images' before '1,000 images'."""
    parts = re.split(r"(\d[\d,]*(?:\.\d+)?)", label)
    return [
        (text, float(number.replace(",", "") or 0))
        for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]


def _entries(records: Sequence[Record]) -> list[Entry]:
    jobs: dict[str, list[Record]] = {}
    for record in records:
        jobs.setdefault(record.job_id, []).append(record)
    by_model: dict[str, list[Record]] = {}
    for runs in jobs.values():
        by_model.setdefault(runs[0].model, []).append(runs[0])
    differing = {model: _differing(siblings) for model, siblings in by_model.items()}
    labels = {job: _label(runs[0], differing[runs[0].model]) for job, runs in jobs.items()}
    counts = Counter(labels.values())
    entries = [
        Entry(labels[job] if counts[labels[job]] == 1 else f"{labels[job]} [{job}]", sorted(runs, key=_seed))
        for job, runs in jobs.items()
    ]
    return sorted(entries, key=lambda entry: natural(entry.label))


def _seed(record: Record) -> int:
    return record.seed


def _differing(siblings: Sequence[Record]) -> list[str]:
    """What differs between the jobs of one model."""
    names = [name for name in DISTINGUISHING if len({getattr(other, name) for other in siblings}) > 1]
    # the digest only tells apart what the words do not
    return [name for name in names if name != "weights_sha256" or "weights" not in names]


def _label(record: Record, differing: Sequence[str]) -> str:
    details = ", ".join(_detail(name, getattr(record, name)) for name in differing)
    return f"{record.model} ({details})" if details else record.model


def _detail(name: str, value: object) -> str:
    if name == "train_size":
        return "all images" if value is None else f"{value:,} images"
    if name == "image_size":
        return "own size" if value is None else f"{value} px"
    text = str(value)
    words = name.removesuffix("_sha256").replace("_", " ")
    return f"{words} {text[:8] if len(text) == 64 else text}"


# --- formats ---------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """0.98764 as '98.76 %'."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as '12.3 s' or '4 min 05 s'."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: float) -> str:
    """Whole, with thousands separated."""
    return f"{number:,.0f}"


def megabytes(number: float) -> str:
    """10^6 bytes as '1,079 MB'."""
    return f"{number:,.0f} MB"


def deployed(size: int | None) -> str:
    """Bytes as '0.91 MB', '19.3 MB' or '345 MB'."""
    if size is None:
        return MISSING
    number = size / 1e6
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f} MB"


def per_second(number: float) -> str:
    """Throughput as '1,600 images/s'."""
    return f"{number:,.0f} images/s"


def milliseconds(seconds: float) -> str:
    """Three digits at least: '0.512 ms', '12.3 ms', '1,234 ms'."""
    number = 1000 * seconds
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3}f} ms"


def accuracy(values: Sequence[float]) -> str:
    """The mean of shares; from three on with its 95 % t-interval and their number: '98.50 % [97.26, 99.74], n = 3'."""
    mean = percent(fmean(values))
    interval = stats.mean_interval(values)
    return mean if interval is None else f"{mean} {_brackets(interval)}, n = {len(values)}"


def checkpoint_accuracy(record: Record) -> str:
    """A checkpoint's accuracy with its 95 % Wilson interval over the test images: '99.15 % [98.95, 99.31]'."""
    if record.test_accuracy is None:
        return MISSING
    right = round(record.test_accuracy * record.test_images)
    return f"{percent(record.test_accuracy)} {_brackets(stats.wilson(right, record.test_images))}"


def _brackets(interval: stats.Interval) -> str:
    # an interval that is symmetric about the mean may reach beyond what an accuracy can be
    return f"[{100 * max(interval.low, 0):.2f}, {100 * min(interval.high, 1):.2f}]"


def _mean_and_range(values: Sequence[float], show: Callable[[float], str]) -> str:
    mean = show(sum(values) / len(values))
    if len(values) == 1 or show(min(values)) == show(max(values)):
        return mean
    return f"{mean} ({show(min(values))} to {show(max(values))})"


def one_line(text: str) -> str:
    """Line breaks and runs of blanks as single blanks, so that no text breaks out of its cell or item."""
    return " ".join(text.split())


def _table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], *, style: str = "github", align: Sequence[str] | None = None
) -> str:
    def cell(text: str) -> str:
        return one_line(text).replace("|", "\\|") if style == "github" else one_line(text)

    cells = [[cell(text) for text in row] for row in rows]
    names = [cell(header) for header in headers]
    return tabulate(cells, names, tablefmt=style, colalign=align, disable_numparse=True)


# --- the comparison: metrics as rows, models as columns ----------------------------------------------------------

METRICS: list[tuple[str, str, Callable[[float], str]]] = [
    ("Test accuracy", "test_accuracy", percent),
    ("Trainable parameters", "trainable_parameters", count),
    ("Total parameters", "total_parameters", count),
    ("Training time", "train_seconds", duration),
    ("Training throughput", "train_images_per_second", per_second),
    ("Test throughput", "test_images_per_second", per_second),
    ("Peak memory of a worker", "peak_memory_mb", megabytes),
    ("MACs per image", "macs", count),
]
SHARED_MACHINE = ("train_seconds", "train_images_per_second", "test_images_per_second")
"""Metrics that other runs on the same machine disturb."""
THROUGHPUT = ("train_images_per_second", "test_images_per_second")
"""Metrics that are measured better alone, after the training."""
TRAINING_TIME = ("train_seconds", "train_images_per_second")
"""Metrics that are better where an earlier run has left the frozen backbone's features."""


def _both(speed: Speed) -> str:
    p50, p95 = (speed.latency[name] for name in ("p50", "p95"))
    return MISSING if p50 is None or p95 is None else f"{milliseconds(p50)} / {milliseconds(p95)}"


def _p99(speed: Speed) -> str:
    p99 = speed.latency["p99"]
    return MISSING if p99 is None else milliseconds(p99)


SPEED_METRICS: list[tuple[str, Callable[[Speeds], Speed | None], Callable[[Speed], str]]] = [
    ("Training throughput, alone", lambda of: of.training, lambda speed: per_second(speed.images_per_second)),
    ("Head's steps on features, alone", lambda of: of.head, lambda speed: per_second(speed.images_per_second)),
    ("Inference throughput, alone", lambda of: of.batches, lambda speed: per_second(speed.images_per_second)),
    ("Latency of one image, p50 / p95", lambda of: of.single, _both),
    (
        "Latency of one image, p99",
        lambda of: of.single if of.single is not None and of.single.latency["p99"] is not None else None,
        _p99,
    ),
]
"""What was timed after the training, one model at a time."""


def comparison_table(comparison: Comparison, style: str = "github") -> str:
    """Metrics as rows and models as columns, or the other way round where there are many models.

    Accuracy over several seeds is shown as its mean with an interval, all else as mean and range.

    Args:
        comparison: what to show.
        style: tabulate's name of the format.
    """
    shown = _most_accurate(comparison.entries)
    columns = [(header, [read(entry) for entry in shown]) for header, read in _metrics(comparison)]
    if len(shown) <= MOST_COLUMNS:
        headers = ["Metric", *[entry.label for entry in shown]]
        rows = [[header, *cells] for header, cells in columns]
    else:
        headers = ["Model", *[header for header, _ in columns]]
        rows = [[entry.label, *[cells[number] for _, cells in columns]] for number, entry in enumerate(shown)]
    return _table(rows, headers, style=style, align=["left", *["right"] * (len(headers) - 1)])


def backends_table(comparison: Comparison, style: str = "github") -> str | None:
    """One row per job and back end; None where no job was prepared for more than eager.

    Args:
        comparison: what to show.
        style: tabulate's name of the format.
    """
    entries = [entry for entry in comparison.entries if len(entry.deployments) > 1]
    if not entries:
        return None
    rows = [
        [entry.label, *(read(row, entry.speeds.by_backend.get(row.backend, Answers())) for _, read in BACKEND_COLUMNS)]
        for entry in entries
        for row in sorted(entry.deployments.values(), key=lambda row: (row.backend != EAGER, row.backend))
    ]
    headers = ["Model", *[header for header, _ in BACKEND_COLUMNS]]
    return _table(rows, headers, style=style, align=["left", "left", *["right"] * (len(headers) - 2)])


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return MISSING if value is None else show(value)


def _timed(speed: Speed | None, show: Callable[[Speed], str]) -> str:
    return MISSING if speed is None else show(speed) + (" *" if speed.contended else "")


BACKEND_COLUMNS: list[tuple[str, Callable[[Deployment, Answers], str]]] = [
    ("Back end", lambda row, _: row.backend),
    ("Test accuracy", lambda row, _: "failed" if row.status == "failed" else _shown(row.accuracy, percent)),
    ("Agreement with eager", lambda row, _: _shown(row.agreement, percent)),
    ("Latency of one image, p50 / p95", lambda _, answers: _timed(answers.single, _both)),
    ("Throughput", lambda _, answers: _timed(answers.batches, lambda speed: per_second(speed.images_per_second))),
    ("Deployed", lambda row, _: deployed(row.deployed_bytes)),
    ("Prepared in", lambda row, _: _shown(row.prepare_seconds, duration)),
    ("Precision", lambda row, _: row.precision or MISSING),
]


def backend_notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table of back ends right, as Markdown."""
    entries = [entry for entry in comparison.entries if len(entry.deployments) > 1]
    notes = []
    if entries:
        notes.append(
            "Back ends: each answered all test images with one trained model before it was timed. Deployed is the size "
            "of its files; prepared in, the time from the trained model to its first answers, export included."
        )
    for entry in entries:
        failed = [row for row in entry.deployments.values() if row.status == "failed"]
        notes += [f"{entry.label} by {row.backend} failed: {one_line(row.reason or '')}." for row in failed]
    return notes


def _most_accurate(entries: Sequence[Entry]) -> Sequence[Entry]:
    if len(entries) <= MOST_JOBS:
        return entries
    best = sorted(entries, key=lambda entry: -fmean(entry.accuracies.values() or [0.0]))[:MOST_JOBS]
    return sorted(best, key=lambda entry: natural(entry.label))


def _metrics(comparison: Comparison) -> list[tuple[str, Callable[[Entry], str]]]:
    """(header, what an entry's cell says) of each metric of which something is known."""
    records = [record for entry in comparison.entries for record in entry.records]
    speeds = [entry.speeds for entry in comparison.entries]
    all_timed = all(speed.training is not None and speed.batches is not None for speed in speeds)
    columns: list[tuple[str, Callable[[Entry], str]]] = [
        (header, _cell(key, show))
        for header, key, show in METRICS
        if not (all_timed and key in THROUGHPUT)  # those taken alone say it better
    ]
    if any(speed.known for speed in speeds):
        columns += [
            (header, _speed_cell(which, show))
            for header, which, show in SPEED_METRICS
            if any(which(speed) is not None for speed in speeds)
        ]
    targets = {record.target_accuracy for record in records if record.target_accuracy is not None}
    if targets:
        wanted = f"{100 * targets.pop():g} %" if len(targets) == 1 else "the target"
        columns.append((f"Training until {wanted} on validation", _time_to_target))
    columns.append(("Seeds", lambda entry: str(len(entry.records))))
    columns.append(("Epochs", lambda entry: str(entry.records[0].epochs)))
    columns.append(("Initial weights", lambda entry: _weights(entry.records[0])))
    return columns


def _cell(key: str, show: Callable[[float], str]) -> Callable[[Entry], str]:
    def read(entry: Entry) -> str:
        values = [value for record in entry.records if (value := getattr(record, key)) is not None]
        if not values:
            return MISSING
        cell = accuracy(values) if key == "test_accuracy" else _mean_and_range(values, show)
        if key in SHARED_MACHINE and any(record.contended for record in entry.records):
            cell += " *"
        if key in TRAINING_TIME and any(record.features_cached for record in entry.records):
            cell += " +"
        return cell

    return read


def _speed_cell(which: Callable[[Speeds], Speed | None], show: Callable[[Speed], str]) -> Callable[[Entry], str]:
    return lambda entry: _timed(which(entry.speeds), show)


def _time_to_target(entry: Entry) -> str:
    asked = [record for record in entry.records if record.target_accuracy is not None]
    reached = [record.target_seconds for record in asked if record.target_seconds is not None]
    if not reached:
        return "not reached" if asked else MISSING
    some = "" if len(reached) == len(asked) else f", {len(reached)} of {len(asked)} seeds"
    return _mean_and_range(reached, duration) + some


def _weights(record: Record) -> str:
    return "random" if record.weights == "none" else record.weights.split(" (")[0]


def footnotes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table right, as Markdown."""
    entries = comparison.entries
    records = [record for entry in entries for record in entry.records]
    notes = []
    if any(record.contended for record in records) or any(entry.speeds.contended for entry in entries):
        notes.append("\\* Measured while other jobs used the same machine: not for ranking.")
    if any(record.features_cached for record in records):
        notes.append("\\+ The frozen backbone's features were there from an earlier run; without them it takes longer.")
    if any(entry.speeds.known for entry in entries):
        machines = {speed.machine for entry in entries for speed in entry.speeds.all()}
        notes.append(f"Timed alone: after the training, one model at a time, medians ({'; '.join(sorted(machines))}).")
    if any(entry.speeds.head is not None and entry.speeds.training is not None for entry in entries):
        notes.append(
            "Training throughput: images of all epochs per second; of a frozen backbone, extracting its features once "
            "and training the head on them in every epoch, as if nothing was cached."
        )
    if any(speed.backend == BEFORE_BACKENDS for entry in entries for speed in entry.speeds.all()):
        notes.append(
            f"Some timings are of an earlier version, which ran {BEFORE_BACKENDS}; the same command times them again."
        )
    seeds = [len(entry.records) for entry in entries]
    if any(number >= stats.FEWEST_SEEDS for number in seeds):
        notes.append("Accuracy: mean over the seeds, in brackets its 95 % t-interval; n is the number of seeds.")
    if 1 in seeds:
        notes.append(
            "One seed says nothing about a recipe's spread, how much the accuracy varies from seed to seed; "
            "--seeds 5 shows it."
        )
    if 2 in seeds:
        notes.append("Two seeds give no interval; three are the fewest that do.")
    for entry in entries:
        sources = {record.lr_source for record in entry.records if record.lr_source is not None}
        notes += [f"{entry.label}: its learning rate came from {one_line(source)}." for source in sorted(sources)]
    unlike = circumstances.among([(entry.label, entry.records) for entry in entries])
    notes += [one_line(unlike)] if unlike else []
    if len(entries) > MOST_JOBS:
        notes.append(f"The {MOST_JOBS} most accurate of {len(entries):,} jobs.")
    return notes


# --- one row per run -----------------------------------------------------------------------------------------------


def _time_of_day(record: Record) -> str:
    return f"{record.started_at:%Y-%m-%d %H:%M:%S} to {record.ended_at:%H:%M:%S}"


def _placement(record: Record) -> str:
    if record.threads is None:
        return f"{record.workers} x {MISSING}"
    return f"{record.workers} x {record.threads} thread{'s' if record.threads != 1 else ''}"


RUN_COLUMNS: list[tuple[str, Callable[[Record], str]]] = [
    ("Run", lambda record: record.run_id),
    ("Status", lambda record: record.status),
    ("Test accuracy", checkpoint_accuracy),
    ("Epochs", lambda record: str(record.epochs)),
    ("Batch", lambda record: str(record.batch_size)),
    ("LR", lambda record: f"{record.lr:g}"),
    ("Batch norm", lambda record: record.bn_mode),
    ("Workers", _placement),
    ("Training", lambda record: MISSING if record.train_seconds is None else duration(record.train_seconds)),
    ("From, to (UTC)", _time_of_day),
    ("Attempts", lambda record: str(record.attempts)),
]


def runs_table(records: Sequence[Record]) -> str:
    """Runs, whatever their status: the last :data:`MOST_RUNS`."""
    rows = [[read(record) for _, read in RUN_COLUMNS] for record in records[-MOST_RUNS:]]
    return _table(rows, [header for header, _ in RUN_COLUMNS])


# --- where it was measured -----------------------------------------------------------------------------------------


ENVIRONMENT: list[tuple[str, Callable[[Record], object]]] = [
    ("Device", lambda record: record.device),
    ("CPU", lambda record: record.cpu),
    ("CPU cores", lambda record: record.cpu_cores),
    ("Memory", lambda record: record.memory_gb and f"{record.memory_gb:g} GB"),
    ("Threads per worker", lambda record: record.threads),
    ("System", lambda record: record.platform),
    ("Python", lambda record: record.python_version),
    ("PyTorch", lambda record: record.torch_version),
    ("torchvision", lambda record: record.torchvision_version),
    ("Ray", lambda record: record.ray_version),
    ("This harness", lambda record: record.bench_version),
    ("Git commit", lambda record: record.git_commit),
    ("Data set", lambda record: f"{record.dataset} (SHA-256 {record.dataset_sha256[:16]}...)"),
    ("Memory counts", lambda record: record.memory_kind),
]


_WHERE = attrgetter(
    *("device", "cpu", "cpu_cores", "memory_gb", "threads", "platform", "python_version", "torch_version"),
    *("torchvision_version", "ray_version", "bench_version", "git_commit", "dataset", "dataset_sha256"),
    *("memory_kind", "model", "weights", "weights_sha256"),
)
"""All that the table of the environment is about."""


def environments(records: Iterable[Record]) -> list[Record]:
    """One record of each environment: of ten thousand runs, most were measured in the same one."""
    return list({_WHERE(record): record for record in records}.values())


def environment_table(records: Sequence[Record]) -> str:
    """Everything that the finished runs say of where they ran; several values side by side where runs differ."""
    rows = []
    records = environments(records)
    for header, read in ENVIRONMENT:
        values = dict.fromkeys(str(value) for record in records if (value := read(record)) is not None)
        rows.append([header, "; ".join(values) or MISSING])
    for model in sorted({record.model for record in records}):
        labels = {
            f"{record.weights} (SHA-256 {record.weights_sha256[:16]}...)"
            for record in records
            if record.model == model and record.weights_sha256
        }
        rows.append([f"Weights of {model}", "; ".join(sorted(labels)) or "random"])
    return _table(rows, ["What", "Value"])
