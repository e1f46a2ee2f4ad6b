"""The tables of the comparison, of every run, and of the environment; each is one list of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from bench.reporting import stats
from bench.reporting.entries import Comparison, Confused, Entry, natural
from bench.reporting.formats import (
    MISSING,
    brackets,
    count,
    counted,
    duration,
    file_size,
    joules,
    mean_and_range,
    megabytes,
    milliseconds,
    per_second,
    percent,
)
from bench.reporting.scores import UNEVEN, Pair
from bench.reporting.speed import EAGER, Answers, Speed, Speeds
from bench.reporting.table import Cell, Column, Table, cell_of, number_column, table_of, text_column
from bench.spec import Deployment, Record, Scores

MOST_COLUMNS = 6
"""The most jobs that are columns of the comparison; with more, jobs are its rows and metrics its columns."""
MOST_JOBS = 100
"""The most jobs in the comparison; the most accurate are shown."""


def accuracy(values: Sequence[float]) -> str:
    """Return the mean of shares, from three on with 95 % t-interval and number: '98.50 % [97.26, 99.74], n = 3'."""
    mean = percent(fmean(values))
    interval = stats.mean_interval(values)
    return mean if interval is None else f"{mean} {brackets(interval)}, n = {len(values)}"


# --- the comparison: metrics as rows, models as columns ----------------------------------------------------------

METRICS: list[tuple[str, str, Callable[[float], str]]] = [
    ("Test accuracy", "test_accuracy", percent),
    ("Top-5 accuracy", "test_top5_accuracy", percent),
    ("Balanced accuracy", "test_balanced_accuracy", percent),
    ("Macro-F1", "test_macro_f1", percent),
    ("Calibration error (ECE)", "test_calibration_error", percent),
    ("Trainable parameters", "trainable_parameters", count),
    ("Total parameters", "total_parameters", count),
    ("Training time", "train_seconds", duration),
    ("Training throughput", "train_images_per_second", per_second),
    ("Test throughput", "test_images_per_second", per_second),
    ("Peak memory of a worker", "peak_memory_mb", megabytes),
    ("MACs per image", "macs", count),
]
OF_UNEVEN_CLASSES = ("test_balanced_accuracy", "test_macro_f1")
"""Metrics that say little more than the accuracy, unless some classes have many more test images than others."""
SHARED_MACHINE = ("train_seconds", "train_images_per_second", "test_images_per_second")
"""Metrics that other runs on the same machine disturb."""
ACCURACIES = ("test_accuracy", "test_top5_accuracy", "test_balanced_accuracy", "test_macro_f1")
"""Metrics that are shown with an interval over the seeds."""
THROUGHPUT = ("train_images_per_second", "test_images_per_second")
"""Metrics that are left out if they were also timed after the training, one model at a time."""
TRAINING_TIME = ("train_seconds", "train_images_per_second")
"""Metrics that look better if the frozen backbone's features came from an earlier run."""


ENERGY = "Energy for 1,000 images"


def _both(speed: Speed) -> Cell:
    p50, p95 = (speed.latency[name] for name in ("p50", "p95"))
    return Cell(MISSING) if p50 is None or p95 is None else Cell(f"{milliseconds(p50)} / {milliseconds(p95)}", p50)


def _p99(speed: Speed) -> Cell:
    return cell_of(speed.latency["p99"], milliseconds)


def _rate(speed: Speed) -> Cell:
    return cell_of(speed.images_per_second, per_second)


def _energy(speed: Speed) -> Cell:
    """Return the energy for 1,000 images."""
    each = speed.joules_per_image
    return cell_of(None if each is None else 1000 * each, joules)


def _with_energy(speeds: Speeds) -> Speed | None:
    return speeds.batches if speeds.batches is not None and speeds.batches.joules_per_image is not None else None


def _with_p99(speeds: Speeds) -> Speed | None:
    return speeds.single if speeds.single is not None and speeds.single.latency["p99"] is not None else None


SPEED_METRICS: list[tuple[str, Callable[[Speeds], Speed | None], Callable[[Speed], Cell]]] = [
    ("Training throughput, exclusive", lambda speeds: speeds.training, _rate),
    ("Head's steps on features, exclusive", lambda speeds: speeds.head, _rate),
    ("Inference throughput, exclusive", lambda speeds: speeds.batches, _rate),
    ("Latency of one image, p50 / p95", lambda speeds: speeds.single, _both),
    ("Latency of one image, p99", _with_p99, _p99),
    (ENERGY, _with_energy, _energy),
]
"""Metrics that are timed after the training, one model at a time."""


def comparison_table(comparison: Comparison) -> Table:
    """Return a table with a row for each job and a column for each metric that any job has.

    Accuracy over several seeds is shown as its mean with an interval, all else as mean and range.
    """
    columns = [text_column("Model", lambda entry: entry.label), *_metrics(comparison)]
    return table_of(columns, _most_accurate(comparison.entries))


FIRST_TO_READ = (
    "Test accuracy",
    "Latency of one image, p50 / p95",
    "Inference throughput, exclusive",
    "Total parameters",
    "Training time",
    "Seeds",
)
"""The metrics that most readers look for; a page shows the others behind them."""
_MOST_TOGETHER = 7
"""The most metrics in one table of a page, so that it is no wider than a screen."""


def comparison_parts(comparison: Comparison) -> tuple[Table, list[Table], list[tuple[str, str]]]:
    """Return the comparison for a page: (what to read first, the rest, what is the same for all jobs).

    Each table is narrow enough for a screen, and has a row for each job.
    """
    table, same = comparison_table(comparison).differing()
    first = [place for place, header in enumerate(table.headers) if header in FIRST_TO_READ]
    rest = [place for place in range(1, len(table.headers)) if place not in first]
    first.sort(key=lambda place: FIRST_TO_READ.index(table.headers[place]))
    pages = -(-len(rest) // _MOST_TOGETHER)
    parts = [rest[page::pages] for page in range(pages)] if pages else []
    return table.only([0, *first]), [table.only([0, *part]) for part in parts], same


def comparison_to_read(comparison: Comparison) -> Table:
    """Return the comparison for reading: metrics as rows, unless there are many jobs."""
    table = comparison_table(comparison)
    return table if len(table.rows) > MOST_COLUMNS else table.transposed("Metric")


def backends_table(comparison: Comparison) -> Table | None:
    """Return a row for each job and back end; None if no job was prepared for another back end than eager."""
    rows = [
        (entry, row)
        for entry in comparison.entries
        if len(entry.deployments) > 1
        for row in sorted(entry.deployments.values(), key=lambda row: (row.backend != EAGER, row.backend))
    ]
    if any(_energy_of(row).value is not None for row in rows):
        return table_of([*BACKEND_COLUMNS, Column(ENERGY, _energy_of)], rows)
    return table_of(BACKEND_COLUMNS, rows) if rows else None


def _energy_of(row: tuple[Entry, Deployment]) -> Cell:
    return _timed(_answers(row).batches, _energy)


def _timed(speed: Speed | None, show: Callable[[Speed], Cell]) -> Cell:
    if speed is None:
        return Cell(MISSING)
    cell = show(speed)
    return Cell(cell.text + " *", cell.value) if speed.contended else cell


def _answers(row: tuple[Entry, Deployment]) -> Answers:
    entry, deployment = row
    return entry.speeds.by_backend.get(deployment.backend, Answers())


def _accuracy_of(row: tuple[Entry, Deployment]) -> Cell:
    return Cell("failed") if row[1].status == "failed" else cell_of(row[1].accuracy, percent)


BACKEND_COLUMNS: list[Column[tuple[Entry, Deployment]]] = [
    text_column("Model", lambda row: row[0].label),
    text_column("Back end", lambda row: row[1].backend),
    Column("Test accuracy", _accuracy_of),
    number_column("Agreement with eager", lambda row: row[1].agreement, percent),
    Column("Latency of one image, p50 / p95", lambda row: _timed(_answers(row).single, _both)),
    Column("Throughput", lambda row: _timed(_answers(row).batches, _rate)),
    number_column("Deployed", lambda row: row[1].deployed_bytes, file_size),
    number_column("Prepared in", lambda row: row[1].prepare_seconds, duration),
    text_column("Precision", lambda row: row[1].precision or MISSING),
]


def _most_accurate(entries: Sequence[Entry]) -> Sequence[Entry]:
    if len(entries) <= MOST_JOBS:
        return entries
    best = sorted(entries, key=lambda entry: -fmean(entry.accuracies.values() or [0.0]))[:MOST_JOBS]
    return sorted(best, key=lambda entry: natural(entry.label))


def _metrics(comparison: Comparison) -> list[Column[Entry]]:
    """Return the columns of the comparison, without those that do not apply to any job."""
    records = [record for entry in comparison.entries for record in entry.records]
    speeds = [entry.speeds for entry in comparison.entries]
    all_timed = all(speed.training is not None and speed.batches is not None for speed in speeds)
    columns = [
        Column(header, _metric_cell(key, show))
        for header, key, show in METRICS
        if not (all_timed and key in THROUGHPUT)  # the exclusive timings measure it better
        and not (key in Scores.model_fields and all(getattr(record, key) is None for record in records))
        and not (key in OF_UNEVEN_CLASSES and not is_uneven(records))
    ]
    columns += [
        Column(header, _speed_cell(which, show))
        for header, which, show in SPEED_METRICS
        if any(which(speed) is not None for speed in speeds)
    ]
    targets = {record.target_accuracy for record in records if record.target_accuracy is not None}
    if targets:
        wanted = f"{100 * targets.pop():g} %" if len(targets) == 1 else "the target"
        columns.append(Column(f"Training until {wanted} on validation", _time_to_target))
    columns.append(number_column("Seeds", lambda entry: len(entry.records), count))
    columns.append(Column("Epochs", _epochs))
    columns.append(text_column("Initial weights", lambda entry: _weights(entry.records[0])))
    return columns


def is_uneven(records: Sequence[Record]) -> bool:
    """Return whether some class has many more test images than another."""
    return any(record.test_imbalance is not None and record.test_imbalance > UNEVEN for record in records)


def _metric_cell(key: str, show: Callable[[float], str]) -> Callable[[Entry], Cell]:
    def read(entry: Entry) -> Cell:
        values = [value for record in entry.records if (value := getattr(record, key)) is not None]
        if not values:
            return Cell(MISSING)
        text = accuracy(values) if key in ACCURACIES else mean_and_range(values, show)
        if key in SHARED_MACHINE and any(record.contended for record in entry.records):
            text += " *"
        if key in TRAINING_TIME and any(record.features_cached for record in entry.records):
            text += " +"
        return Cell(text, fmean(values))

    return read


def _speed_cell(which: Callable[[Speeds], Speed | None], show: Callable[[Speed], Cell]) -> Callable[[Entry], Cell]:
    return lambda entry: _timed(which(entry.speeds), show)


def _time_to_target(entry: Entry) -> Cell:
    asked = [record for record in entry.records if record.target_accuracy is not None]
    reached = [record.target_seconds for record in asked if record.target_seconds is not None]
    if not reached:
        return Cell("not reached" if asked else MISSING)
    some = "" if len(reached) == len(asked) else f", {len(reached)} of {len(asked)} seeds"
    return Cell(mean_and_range(reached, duration) + some, fmean(reached))


def _epochs(entry: Entry) -> Cell:
    """Return the epochs trained, and with early stopping which one's weights were kept: '12, kept 9'."""
    done = [record.epochs_done or record.epochs for record in entry.records]
    best = [record.best_epoch for record in entry.records if record.best_epoch is not None]
    kept = f", kept {mean_and_range(best, count)}" if best else ""
    return Cell(mean_and_range(done, count) + kept, fmean(done))


def _weights(record: Record) -> str:
    return "random" if record.weights == "none" else record.weights.split(" (")[0]


# --- the classes most often confused --------------------------------------------------------------------------------


CONFUSED_COLUMNS: list[Column[tuple[Confused, Pair]]] = [
    text_column("Model", lambda row: row[0].label),
    text_column("True class", lambda row: row[0].class_names[row[1].true]),
    text_column("Predicted class", lambda row: row[0].class_names[row[1].predicted]),
    number_column("Count", lambda row: row[1].count, count),
    number_column("Share of the true class", lambda row: row[1].share, percent),
]


def confused_table(comparison: Comparison) -> Table | None:
    """Return a row for each pair of classes that a job often confuses; None if there are none to list."""
    rows = [(job, pair) for job in comparison.confused for pair in job.pairs]
    return table_of(CONFUSED_COLUMNS, rows) if rows else None


def confused_notes(comparison: Comparison) -> list[str]:
    """Return whose predictions the table of confused classes counts, as Markdown."""
    return [f"Confused classes, {job.label}: {job.whose}" for job in comparison.confused if job.pairs]


# --- one row per run -----------------------------------------------------------------------------------------------


def _time_of_day(record: Record) -> str:
    return f"{record.started_at:%Y-%m-%d %H:%M:%S} to {record.ended_at:%H:%M:%S}"


def _placement(record: Record) -> str:
    return f"{record.workers} x {MISSING if record.threads is None else counted(record.threads, 'thread')}"


def _checkpoint(record: Record) -> Cell:
    """Return a checkpoint's accuracy with its 95 % Wilson interval: '99.15 % [98.95, 99.31]'."""
    if record.test_accuracy is None:
        return Cell(MISSING)
    right = round(record.test_accuracy * record.test_images)
    interval = brackets(stats.wilson(right, record.test_images))
    return Cell(f"{percent(record.test_accuracy)} {interval}", record.test_accuracy)


RUN_COLUMNS: list[Column[Record]] = [
    text_column("Run", lambda record: record.run_id),
    text_column("Status", lambda record: record.status),
    Column("Test accuracy", _checkpoint),
    number_column("Epochs", lambda record: record.epochs_done or record.epochs, count),
    number_column("Batch", lambda record: record.batch_size, count),
    number_column("LR", lambda record: record.lr, "{:g}".format),
    text_column("Batch norm", lambda record: record.bn_mode),
    text_column("Workers", _placement),
    number_column("Training", lambda record: record.train_seconds, duration),
    text_column("From, to (UTC)", _time_of_day),
    number_column("Attempts", lambda record: record.attempts, count),
]


def runs_table(records: Sequence[Record]) -> Table:
    """Return a row for each run, whatever its status."""
    return table_of(RUN_COLUMNS, records)


# --- where it was measured -----------------------------------------------------------------------------------------


ENVIRONMENT: list[tuple[str, Callable[[Record], object]]] = [
    ("Node", lambda record: record.node),
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


_NOT_ALWAYS_STORED = ("Node",)
"""Rows that are left out where no record has a value, as those of earlier versions."""


def environment_table(records: Sequence[Record]) -> Table:
    """Return a table of where the finished runs ran; values that differ are side by side."""
    rows = []
    for header, read in ENVIRONMENT:
        values = dict.fromkeys(str(value) for record in records if (value := read(record)) is not None)
        if values or header not in _NOT_ALWAYS_STORED:
            rows.append([header, "; ".join(values) or MISSING])
    for model in sorted({record.model for record in records}):
        labels = {
            f"{record.weights} (SHA-256 {record.weights_sha256[:16]}...)"
            for record in records
            if record.model == model and record.weights_sha256
        }
        rows.append([f"Weights of {model}", "; ".join(sorted(labels)) or "random"])
    return Table(["What", "Value"], [False, False], [[Cell(name), Cell(value)] for name, value in rows])
