"""Records as tables. Each table is one list of columns or rows: (header, how to read it from the records)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from bench.spec import Record, Status

MISSING = "-"
DISTINGUISHING = (
    "epochs",
    "batch_size",
    "lr",
    "optimizer",
    "bn_mode",
    "workers",
    "weights",
    "weights_sha256",
    "plugin_sha256",
)
"""What may tell two jobs of the same model apart, in the order in which a label names it."""


@dataclass(frozen=True)
class Entry:
    """The runs of one job: one column of the comparison."""

    label: str
    records: list[Record]
    """Finished runs, by seed."""


@dataclass(frozen=True)
class Comparison:
    """Jobs on the same data set, which may be compared."""

    title: str
    entries: list[Entry]


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """Finished runs by data set and, within one, by job; sorted by name."""
    by_data: dict[tuple[str, str, int, int], list[Record]] = {}
    for record in records:
        if record.status is Status.OK:
            key = (record.dataset, record.dataset_sha256, record.train_images, record.test_images)
            by_data.setdefault(key, []).append(record)
    found = []
    for (dataset, _, train_images, test_images), group in sorted(by_data.items()):
        title = f"{dataset}: {train_images:,} training and {test_images:,} test images"
        found.append(Comparison(title, _entries(group)))
    return found


def _entries(records: Sequence[Record]) -> list[Entry]:
    jobs: dict[str, list[Record]] = {}
    for record in records:
        jobs.setdefault(record.job_id, []).append(record)
    entries = []
    for runs in jobs.values():
        first = runs[0]
        siblings = [other[0] for other in jobs.values() if other[0].model == first.model]
        differing = [name for name in DISTINGUISHING if len({getattr(other, name) for other in siblings}) > 1]
        if "weights" in differing:  # the digest only tells apart what the words do not
            differing = [name for name in differing if name != "weights_sha256"]
        details = ", ".join(f"{name.removesuffix('_sha256')} {_brief(getattr(first, name))}" for name in differing)
        label = f"{first.model} ({details})" if details else first.model
        entries.append(Entry(label, sorted(runs, key=lambda run: run.seed)))
    labels = [entry.label for entry in entries]
    told_apart = [
        entry if labels.count(entry.label) == 1 else Entry(f"{entry.label} [{entry.records[0].job_id}]", entry.records)
        for entry in entries
    ]
    return sorted(told_apart, key=lambda entry: entry.label)


def _brief(value: object) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text


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


def _megabytes(number: float) -> str:
    return f"{number:,.0f} MB"


def _per_second(number: float) -> str:
    return f"{number:,.0f} images/s"


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
    ("Training throughput", "train_images_per_second", _per_second),
    ("Test throughput", "test_images_per_second", _per_second),
    ("Peak memory of a worker", "peak_memory_mb", _megabytes),
    ("MACs per image", "macs", count),
]
SHARED_MACHINE = ("train_seconds", "train_images_per_second", "test_images_per_second")
"""Metrics that other runs on the same machine disturb."""
TRAINING_TIME = ("train_seconds", "train_images_per_second")
"""Metrics that are better where an earlier run has left the frozen backbone's features."""


def comparison_table(comparison: Comparison, style: str = "github") -> str:
    """Metrics as rows and models as columns; several seeds as their mean and range."""
    rows = []
    for header, key, show in METRICS:
        cells = []
        for entry in comparison.entries:
            values = [value for record in entry.records if (value := getattr(record, key)) is not None]
            cell = _mean_and_range(values, show) if values else MISSING
            if key in SHARED_MACHINE and values and any(record.contended for record in entry.records):
                cell += " *"
            if key in TRAINING_TIME and any(record.features_cached for record in entry.records):
                cell += " +"
            cells.append(cell)
        rows.append([header, *cells])
    rows.append(["Seeds", *[str(len(entry.records)) for entry in comparison.entries]])
    rows.append(["Epochs", *[str(entry.records[0].epochs) for entry in comparison.entries]])
    rows.append(["Initial weights", *[_weights(entry.records[0]) for entry in comparison.entries]])
    headers = ["Metric", *[entry.label for entry in comparison.entries]]
    align = ["left", *["right"] * len(comparison.entries)]
    return _table(rows, headers, style=style, align=align)


def _weights(record: Record) -> str:
    return "random" if record.weights == "none" else record.weights.split(" (")[0]


def footnotes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table right."""
    records = [record for entry in comparison.entries for record in entry.records]
    notes = []
    if any(record.contended for record in records):
        notes.append("\\* Measured while other runs trained on the same machine: not for ranking.")
    if any(record.features_cached for record in records):
        notes.append("\\+ The frozen backbone's features were there from an earlier run; without them it takes longer.")
    if any(len(entry.records) == 1 for entry in comparison.entries):
        notes.append("One seed says nothing about how much the accuracy varies from seed to seed; --seeds 5 shows it.")
    else:
        notes.append("Accuracy: mean over the seeds, with the lowest and the highest in brackets.")
    return notes


# --- one row per run -----------------------------------------------------------------------------------------------


def _time_of_day(record: Record) -> str:
    return f"{record.started_at:%Y-%m-%d %H:%M:%S} to {record.ended_at:%H:%M:%S}"


def _placement(record: Record) -> str:
    threads = MISSING if record.threads is None else f"{record.threads} thread{'s' if record.threads != 1 else ''}"
    return f"{record.workers} x {threads}"


RUN_COLUMNS: list[tuple[str, Callable[[Record], str]]] = [
    ("Run", lambda record: record.run_id),
    ("Status", lambda record: record.status),
    ("Test accuracy", lambda record: MISSING if record.test_accuracy is None else percent(record.test_accuracy)),
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
    """All runs, whatever their status."""
    rows = [[read(record) for _, read in RUN_COLUMNS] for record in records]
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


def environment_table(records: Sequence[Record]) -> str:
    """Everything that the finished runs say of where they ran; several values side by side where runs differ."""
    rows = []
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
