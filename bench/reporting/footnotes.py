"""The notes below the tables of a comparison, as Markdown: what the figures mean, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.reporting import circumstances, stats, tables
from bench.reporting.entries import Comparison, Entry, left_out_of_labels
from bench.reporting.formats import one_line
from bench.reporting.scores import UNEVEN
from bench.reporting.speed import Speed
from bench.reporting.tables import is_uneven
from bench.spec import BEFORE_BACKENDS


def footnotes(comparison: Comparison) -> list[str]:
    """Return the notes below the comparison, as Markdown."""
    entries = comparison.entries
    records = [record for entry in entries for record in entry.records]
    speeds = [speed for entry in entries for speed in entry.speeds.all()]
    notes = []
    if any(record.contended for record in records) or any(speed.contended for speed in speeds):
        notes.append("\\* Measured while other jobs used the same machine: not for ranking.")
    if any(record.features_cached for record in records):
        notes.append("\\+ The frozen backbone's features were there from an earlier run; without them it takes longer.")
    notes += _speed_notes(entries, speeds)
    notes += _choice_notes(entries)
    notes += _seed_notes([len(entry.records) for entry in entries])
    if is_uneven(records):
        notes.append(
            "The classes are uneven: the largest has more than "
            f"{UNEVEN:g} times as many test images as the smallest. Balanced accuracy and macro-F1 are means over the "
            "classes that have test images, each counting the same."
        )
    for entry in entries:
        sources = {record.lr_source for record in entry.records if record.lr_source is not None}
        notes += [f"{entry.label}: its learning rate came from {one_line(source)}." for source in sorted(sources)]
    jobs = [(entry.label, entry.records) for entry in entries]
    notes += [one_line(line) for line in (circumstances.pictures(jobs), circumstances.among(jobs)) if line]
    if len(entries) > tables.MOST_JOBS:
        notes.append(f"The {tables.MOST_JOBS} most accurate of {len(entries):,} jobs.")
    return notes


def _choice_notes(entries: Sequence[Entry]) -> list[str]:
    """Return in a line for each set of choices the jobs that have them, where the labels leave them out."""
    left_out = left_out_of_labels({entry.records[0].job_id: vars(entry.records[0]) for entry in entries})
    choices: dict[str, list[str]] = {}
    for entry in entries:
        if text := left_out.get(entry.records[0].job_id):
            choices.setdefault(text, []).append(entry.label)
    return [one_line(f"{', '.join(labels)}: {text}.") for text, labels in choices.items()]


def _speed_notes(entries: Sequence[Entry], speeds: Sequence[Speed]) -> list[str]:
    """Return the notes on what was timed after the training."""
    notes = []
    if speeds:
        machines = "; ".join(sorted({speed.machine for speed in speeds}))
        sizes = sorted({entry.speeds.batches.batch_size for entry in entries if entry.speeds.batches is not None})
        batches = f"; inference in batches of {' or '.join(map(str, sizes))} images" if sizes else ""
        notes.append(f"Exclusive: timed after the training, one model at a time{batches}; medians ({machines}).")
    if any(entry.speeds.head is not None and entry.speeds.training is not None for entry in entries):
        notes.append(
            "Training throughput: images of all epochs per second; of a frozen backbone, extracting its features once "
            "and training the head on them in every epoch, as if nothing was cached."
        )
    singles = [entry.speeds.single for entry in entries if entry.speeds.single is not None]
    if len({single.latency["p99"] is None for single in singles}) > 1:
        notes.append(
            f"Latency p99 needs {stats.FEWEST_FOR_P99} samples; where it is missing, the model is too slow for so many "
            "in the time that each is timed for."
        )
    if any(speed.joules_per_image is not None for speed in speeds):
        notes.append(
            "Energy: what the processors or the GPU counted while the model answered batches and nothing else ran, "
            "with what they need at rest; where they count none, there is no figure."
        )
    if any(speed.backend == BEFORE_BACKENDS for speed in speeds):
        notes.append(
            f"Some timings are of an earlier version, which ran {BEFORE_BACKENDS}; the same command times them again."
        )
    return notes


def _seed_notes(seeds: Sequence[int]) -> list[str]:
    """Return the notes on the numbers of seeds of the jobs."""
    notes = []
    if any(number >= stats.FEWEST_SEEDS for number in seeds):
        notes.append(
            "Accuracy: mean over the seeds, and in brackets where that of many seeds would lie (95 % t-interval); n is "
            "the number of seeds."
        )
    if 1 in seeds:
        notes.append(
            "With one seed it is not known how much the accuracy varies from seed to seed; --seeds 5 shows it."
        )
    if 2 in seeds:
        notes.append("Two seeds do not show how far the accuracy varies; three are the fewest that do.")
    return notes


def backend_notes(comparison: Comparison) -> list[str]:
    """Return the notes below the table of back ends, as Markdown."""
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
