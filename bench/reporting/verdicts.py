"""Better, worse, or not distinguishable: the comparison of two models, one sentence for each metric.

Two questions about accuracy are kept apart. *These two checkpoints*: which of two trained models is better on images
like the test images? Both classified the same ones, so the images that only one classified right decide. *These two
recipes*: which way of training is better on average? There the seeds are the sample, and then the test images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

import numpy as np

from bench.reporting import stats, timing_stats
from bench.reporting.entries import Comparison, Entry
from bench.reporting.formats import count, megabytes, milliseconds, p_value, per_second, percent, points
from bench.reporting.speed import Speed, Speeds
from bench.reporting.stats import Difference
from bench.reporting.store import Store
from bench.reporting.timing_stats import Session
from bench.spec import Predictions, Record

MOST_SEEDS = 50
"""The most seeds of a job whose predictions are read; with more, none are."""
MOST_RIVALS = 4
"""The most jobs that a summary compares with the most accurate one."""
FEWEST_FOR_P95 = 20
"""The fewest samples of which a 95th percentile is compared."""


class Word(StrEnum):
    """The finding: what the second of two is, compared with the first."""

    BETTER = "better"
    WORSE = "worse"
    MORE = "more"
    FEWER = "fewer"
    SAME = "the same"
    NOT_DISTINGUISHABLE = "not distinguishable"
    UNKNOWN = "not enough data to decide"


@dataclass(frozen=True)
class Metric:
    """A quantity that two models are compared by."""

    key: str
    """The name that --fail takes and JSON shows."""
    name: str
    higher_is_better: bool
    show: Callable[[float], str]
    in_points: bool = False
    """Whether differences are percentage points; otherwise they are relative to the first's value."""


RECIPES = Metric("accuracy", "recipe", True, percent, in_points=True)
CHECKPOINTS = Metric("checkpoint-accuracy", "checkpoint", True, percent, in_points=True)
TRAINING = Metric("training-throughput", "training throughput", True, per_second)
INFERENCE = Metric("inference-throughput", "inference throughput", True, per_second)
LATENCY_P50 = Metric("latency-p50", "latency p50 of one image", False, milliseconds)
LATENCY_P95 = Metric("latency-p95", "latency p95 of one image", False, milliseconds)
PARAMETERS = Metric("parameters", "parameters", False, count)
MEMORY = Metric("memory", "peak memory of a worker", False, megabytes)


class Side:
    """One of the two jobs that are compared, with the results folder that holds its files."""

    def __init__(self, name: str, entry: Entry, store: Store) -> None:
        self.name = name
        self.entry = entry
        self._store = store
        self._answers: dict[str, Predictions | None] = {}

    def answers(self, record: Record) -> Predictions | None:
        """Return a run's predictions for the test images, read once; None if they are not stored."""
        if record.run_id not in self._answers:
            self._answers[record.run_id] = self._store.predictions(record)
        return self._answers[record.run_id]

    @functools.cached_property
    def seeds(self) -> stats.Seeds:
        """Return the results of the seeds, with the images that each classified right if all predictions are stored."""
        scored = [record for record in self.entry.records if record.test_accuracy is not None]
        accuracies = self.entry.accuracies
        predictions = [self.answers(record) for record in scored] if len(scored) <= MOST_SEEDS else []
        there = [prediction for prediction in predictions if prediction is not None]
        if not there or len(there) < len(accuracies) or len({len(prediction.labels) for prediction in there}) > 1:
            return stats.Seeds(accuracies)
        return stats.Seeds(accuracies, np.stack([prediction.labels == prediction.predicted for prediction in there]))


@dataclass(frozen=True)
class Verdict:
    """The finding about two jobs by one metric."""

    metric: Metric
    first: str
    second: str
    first_value: float | None
    """The first job's value in the metric's unit; None if it is not known."""
    second_value: float | None
    difference: Difference | None
    """The second minus the first, in shares or relative to the first; None if it is not known."""
    why_unknown: str = ""
    """The reason why the difference is not known, and how to change that."""
    there: str = ""
    """How much data there is, where more is needed."""
    family: int = 1
    """The number of comparisons that p is adjusted for by Holm's method."""

    @property
    def word(self) -> Word:
        """Return the finding."""
        difference = self.difference
        if difference is None:
            return Word.UNKNOWN
        if difference.p is None:  # counted, not measured
            return Word.SAME if difference.value == 0 else Word.MORE if difference.value > 0 else Word.FEWER
        if not difference.distinguishable:
            return Word.NOT_DISTINGUISHABLE
        return Word.BETTER if (difference.value > 0) == self.metric.higher_is_better else Word.WORSE

    @property
    def change(self) -> str:
        """Return the difference: '+0.12 points' or '-5.2 %'; '' if it is not known."""
        return "" if self.difference is None else self._amount(self.difference.value)

    @property
    def interval(self) -> str:
        """Return the 95 % interval: '[-0.05, +0.29]' in points or '[-7.1 %, -3.3 %]'; '' if it is not known."""
        if self.difference is None or self.difference.interval is None:
            return ""
        ends = (self.difference.interval.low, self.difference.interval.high)
        return f"[{', '.join(self._amount(end).removesuffix(' points') for end in ends)}]"

    @property
    def p(self) -> str:
        """Return the two-sided p: '0.0569' or '< 0.0001'; '' if it is not known."""
        if self.difference is None or self.difference.p is None:
            return ""
        return p_value(self.difference.p).removeprefix("p ").removeprefix("= ")

    def _amount(self, value: float) -> str:
        return points(value) if self.metric.in_points else f"{100 * value:+.1f} %"

    @property
    def sentence(self) -> str:
        """Return the finding in one sentence; if the two are not distinguishable, with how much data it would take."""
        what = f"{self.first} vs {self.second} ({self.metric.name})"
        difference = self.difference
        if difference is None:
            return f"{what}: {Word.UNKNOWN}; {', '.join(filter(None, (self.why_unknown, self.there)))}."
        if self.word is Word.SAME:
            return f"{what}: {Word.SAME}."
        if difference.p is None:
            times = f"{1 + difference.value:.1f} times as many" if abs(difference.value) >= 0.5 else ""
            some = f"{abs(100 * difference.value):.1f} % {'more' if difference.value > 0 else 'fewer'}"
            return f"{what}: {self.second} has {times or some}."
        test = f"{p_value(difference.p)}, {difference.method}"
        if self.family > 1:
            test += f", Holm for {self.family} comparisons"
        if self.word is Word.NOT_DISTINGUISHABLE:
            takes = self._it_takes(difference)
            return f"{what}: {Word.NOT_DISTINGUISHABLE}, {self.change} {self.interval} ({test}); {takes}."
        return f"{what}: different, {self.second} is {self.word}, {self.change} {self.interval} ({test})."

    @staticmethod
    def _it_takes(difference: Difference) -> str:
        if difference.value == 0:
            return "there is no difference to tell"
        if difference.needed is None:
            return "for so small a difference no number that one could reach would tell"
        return f"about {count(difference.needed.number)} {difference.needed.of} would tell a difference of this size"


# --- two jobs ------------------------------------------------------------------------------------------------------


def compare(first: Side, second: Side) -> list[Verdict]:
    """Compare two jobs, metric by metric; differences are the second's minus the first's."""
    return [
        recipes(first, second),
        checkpoints(first, second),
        *(speed(metric, first, second) for metric in (TRAINING, INFERENCE, LATENCY_P50, LATENCY_P95)),
        parameters(first, second),
        memory(first, second),
    ]


def recipes(first: Side, second: Side) -> Verdict:
    """Compare two recipes by their accuracy over the seeds, then over the test images."""
    sides = (first, second)
    means = [fmean(values) if (values := side.entry.accuracies.values()) else None for side in sides]
    difference = stats.recipes_difference(first.seeds, second.seeds)
    there = _seeds_there(*(len(side.entry.accuracies) for side in sides))
    return Verdict(RECIPES, first.name, second.name, means[0], means[1], difference, _MORE_SEEDS, there)


_MORE_SEEDS = f"run at least {stats.FEWEST_SEEDS} seeds of each (--seeds {stats.FEWEST_SEEDS})"


def _seeds_there(first: int, second: int) -> str:
    """Return how many seeds two jobs have: 'there are 2 of each', 'there are 1 and 5'."""
    have = f"{first} of each" if first == second else f"{first} and {second}"
    return f"there {'is' if first == second == 1 else 'are'} {have}"


def checkpoints(first: Side, second: Side) -> Verdict:
    """Compare two checkpoints by their accuracy on the same images: those of the first shared seed, if any."""
    sides = (first, second)
    by_seed = [{record.seed: record for record in side.entry.records} for side in sides]
    both = sorted(by_seed[0].keys() & by_seed[1].keys())
    chosen = [records[both[0]] if both else records[min(records)] for records in by_seed]
    first_answers, second_answers = (side.answers(record) for side, record in zip(sides, chosen, strict=True))
    difference, why = None, "what the models said of each test image is not stored, or cannot be used"
    if first_answers is not None and second_answers is not None:
        if np.array_equal(first_answers.labels, second_answers.labels):
            apart = stats.discordant(first_answers.labels, first_answers.predicted, second_answers.predicted)
            difference = stats.checkpoints_difference(*apart, len(first_answers.labels))
        else:
            why = "they answered different images"
    names = [f"{side.name} seed {record.seed}" for side, record in zip(sides, chosen, strict=True)]
    values = [record.test_accuracy for record in chosen]
    return Verdict(CHECKPOINTS, names[0], names[1], values[0], values[1], difference, why)


_SPEEDS: dict[str, Callable[[Speeds], Speed | None]] = {
    TRAINING.key: lambda speeds: speeds.training,
    INFERENCE.key: lambda speeds: speeds.batches,
    LATENCY_P50.key: lambda speeds: speeds.single,
    LATENCY_P95.key: lambda speeds: speeds.single,
}


def speed_of(metric: Metric, entry: Entry) -> Speed | None:
    """Return the timing of a job that a speed metric compares; None if it was not timed."""
    return _SPEEDS[metric.key](entry.speeds)


def speed(metric: Metric, first: Side, second: Side) -> Verdict:
    """Compare throughput or latency, timed after the training, one model at a time."""
    timed = [speed_of(metric, side.entry) for side in (first, second)]
    values = [None if timing is None else speed_value(metric, timing) for timing in timed]
    first_speed, second_speed = timed
    difference, why = None, ""
    if first_speed is None or second_speed is None:
        missing = " and ".join(side.name for side, speed in zip((first, second), timed, strict=True) if speed is None)
        why = f"{missing} {'were' if first_speed is second_speed else 'was'} not timed"
    elif first_speed.contended or second_speed.contended:
        why = "other jobs used the machine meanwhile, so the figures are not for ranking"
    elif (first_machine := first.entry.machine_of(first_speed)) != (
        second_machine := second.entry.machine_of(second_speed)
    ):
        why = f"timed on different machines ({first_machine}; {second_machine})"
    elif first_speed.backend != second_speed.backend:
        why = f"timed with different back ends ({first_speed.backend}; {second_speed.backend})"
    elif first_speed.precision != second_speed.precision:
        why = f"timed in different precision ({first_speed.precision}; {second_speed.precision})"
    elif metric is LATENCY_P95 and min(len(first_speed.seconds), len(second_speed.seconds)) < FEWEST_FOR_P95:
        why = f"a 95th percentile takes {FEWEST_FOR_P95} samples at least"
    else:
        versions = {side.entry.records[0].torch_version for side in (first, second)}
        difference = speeds_difference(metric, first_speed, second_speed, same_reference=len(versions) == 1)
    return Verdict(metric, first.name, second.name, values[0], values[1], difference, why)


def speeds_difference(metric: Metric, first: Speed, second: Speed, *, same_reference: bool) -> Difference | None:
    """Compare two timings, each in units of the reference step beside it, so that the machine's pace does not count.

    Args:
        metric: the metric to compare by.
        first: the first timing.
        second: the second timing.
        same_reference: whether the reference step is the same for both, as with one version of torch; if not, or if it
            was not timed, seconds are compared.
    """
    percentile = 95 if metric is LATENCY_P95 else 50
    sides = [speed.in_reference_steps() for speed in (first, second)] if same_reference else [None, None]
    if sides[0] is None or sides[1] is None:
        rates = [_rates(metric, speed.batch_size, speed.sessions) for speed in (first, second)]
        return timing_stats.timings_difference(*rates, percentile=percentile)
    difference = timing_stats.timings_difference(
        _rates(metric, first.batch_size, sides[0]),
        _rates(metric, second.batch_size, sides[1]),
        percentile=percentile,
        session_to_session=timing_stats.RELATIVE_SESSION_TO_SESSION,
    )
    if difference is None:
        return None
    steps = " and ".join(milliseconds(speed.reference_seconds or 0.0) for speed in (first, second))
    return replace(difference, method=f"{difference.method}, normalised by a reference step of {steps}")


def _rates(metric: Metric, batch_size: int, sessions: Sequence[Session]) -> list[Session]:
    if not metric.higher_is_better:
        return list(sessions)
    return [[batch_size / block for block in session] for session in sessions]


def speed_value(metric: Metric, speed: Speed) -> float | None:
    """Return the value of a speed metric: images per second, or seconds."""
    if metric.higher_is_better:
        return speed.images_per_second
    return speed.latency["p50" if metric is LATENCY_P50 else "p95"]


def parameters(first: Side, second: Side) -> Verdict:
    """Compare the numbers of parameters, which are exact: there is neither interval nor p."""
    before, after = (side.entry.records[0].total_parameters for side in (first, second))
    difference = None
    if before and after is not None:
        difference = Difference((after - before) / before, None, None, "counted")
    return Verdict(PARAMETERS, first.name, second.name, before, after, difference, "the number is not stored")


def memory(first: Side, second: Side) -> Verdict:
    """Compare the peak memory of a worker in training, over the seeds."""
    sides = (first, second)
    used = [[r.peak_memory_mb for r in side.entry.records if r.peak_memory_mb is not None] for side in sides]
    kinds = {record.memory_kind for side in sides for record in side.entry.records if record.memory_kind is not None}
    means = [fmean(values) if values else None for values in used]
    difference, why, there = None, _MORE_SEEDS, _seeds_there(*map(len, used))
    if len(kinds) > 1:
        why, there = f"it was counted in different ways ({'; '.join(sorted(kinds))})", ""
    elif not all(used):
        why, there = "it was not measured", ""
    elif min(map(len, used)) >= stats.FEWEST_SEEDS:
        difference = stats.means_difference(used[0], used[1])
    return Verdict(MEMORY, first.name, second.name, means[0], means[1], difference, why, there)


def with_holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts with each p adjusted by Holm's method, as one family of comparisons."""
    differences = [verdict.difference for verdict in verdicts if verdict.difference is not None]
    measured = [difference.p for difference in differences if difference.p is not None]
    adjusted = iter(stats.holm(measured))
    return [
        verdict
        if verdict.difference is None or verdict.difference.p is None
        else replace(verdict, difference=replace(verdict.difference, p=next(adjusted)), family=len(measured))
        for verdict in verdicts
    ]


# --- a summary -----------------------------------------------------------------------------------------------------


def findings(store: Store, comparison: Comparison) -> list[Verdict]:
    """Return the verdicts of a summary on the jobs on one data set; none if there is only one job.

    The most accurate job is compared with the next most accurate ones, as recipes and as checkpoints. Then, for each
    kind of timing, the fastest is compared with the next; jobs that were not timed alone, or were timed on another
    machine, are left out.
    """
    sides = [Side(entry.label, entry, store) for entry in comparison.entries if entry.accuracies]
    if len(sides) < 2:
        return []
    best, *rivals = sorted(sides, key=lambda side: (-fmean(side.entry.accuracies.values()), side.name))
    del rivals[MOST_RIVALS:]
    verdicts = []
    for question in (recipes, checkpoints):
        verdicts += with_holm([question(rival, best) for rival in rivals])
    for metric in (TRAINING, INFERENCE, LATENCY_P50):
        ranked = _ranked(metric, sides)
        if len(ranked) > 1:
            verdicts.append(speed(metric, ranked[1], ranked[0]))
    return verdicts


def _ranked(metric: Metric, sides: Iterable[Side]) -> list[Side]:
    """Return the largest group timed on one machine, with one back end, in one precision; best first."""
    by_conditions: dict[tuple[str, str, str], list[tuple[float, str, Side]]] = {}
    for side in sides:
        timed = speed_of(metric, side.entry)
        value = None if timed is None or timed.contended else speed_value(metric, timed)
        if timed is not None and value is not None:
            rank = -value if metric.higher_is_better else value
            alike = side.entry.machine_of(timed), timed.backend, timed.precision
            by_conditions.setdefault(alike, []).append((rank, side.name, side))
    most = max(by_conditions.values(), key=len, default=[])
    return [side for _, _, side in sorted(most, key=lambda row: row[:2])]


def sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the findings in sentences; findings that are unknown for the same reason share one."""
    unique: dict[str, None] = {}
    for verdict in verdicts:
        same = [other for other in verdicts if other.difference is None and other.why_unknown == verdict.why_unknown]
        if verdict.difference is not None or len(same) == 1:
            unique[verdict.sentence] = None
            continue
        pairs = {(other.first, other.second) for other in same}
        names = ", ".join(dict.fromkeys(other.metric.name for other in same))
        whose = f"{verdict.first} vs {verdict.second}" if len(pairs) == 1 else "all pairs"
        there = verdict.there if len({other.there for other in same}) == 1 else ""
        unique[f"{whose} ({names}): {Word.UNKNOWN}; {', '.join(filter(None, (verdict.why_unknown, there)))}."] = None
    return list(unique)
