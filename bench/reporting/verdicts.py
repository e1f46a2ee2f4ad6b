"""Better, worse, or not distinguishable: what can be told of two models, in one sentence for each question.

Two questions about accuracy are kept apart. *These two checkpoints*: which of two trained models is better on images
like the test images? Both answered the same ones, so those that only one classified right decide. *These two recipes*:
which way of training is better on average? There the seeds are the trials, and the test images come second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

import numpy as np

from bench.reporting import stats
from bench.reporting.speed import EAGER, Speed, Speeds
from bench.reporting.stats import Difference
from bench.reporting.store import Store
from bench.reporting.tables import (
    Comparison,
    Entry,
    count,
    deployed,
    megabytes,
    milliseconds,
    per_second,
    percent,
)
from bench.spec import Deployment, Predictions, Record

MOST_SEEDS = 50
"""With more seeds than this the answers to each image are not looked at."""
MOST_RIVALS = 4
"""A summary compares the most accurate job with so many others."""
FEWEST_FOR_P95 = 20
"""Samples from which a 95th percentile is compared."""


class Word(StrEnum):
    """What is found of the second of two."""

    BETTER = "better"
    WORSE = "worse"
    MORE = "more"
    FEWER = "fewer"
    SAME = "the same"
    NOT_DISTINGUISHABLE = "not distinguishable"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True)
class Metric:
    """Something that two models are compared by."""

    key: str
    """As --fail names it."""
    name: str
    higher_is_better: bool
    show: Callable[[float], str]
    in_points: bool = False
    """Differences are percentage points; else they are relative to the first's figure."""


RECIPES = Metric("accuracy", "these two recipes", True, percent, in_points=True)
CHECKPOINTS = Metric("checkpoint-accuracy", "these two checkpoints", True, percent, in_points=True)
TRAINING = Metric("training-throughput", "training throughput", True, per_second)
INFERENCE = Metric("inference-throughput", "inference throughput", True, per_second)
LATENCY_P50 = Metric("latency-p50", "latency p50 of one image", False, milliseconds)
LATENCY_P95 = Metric("latency-p95", "latency p95 of one image", False, milliseconds)
PARAMETERS = Metric("parameters", "parameters", False, count)
MEMORY = Metric("memory", "peak memory of a worker", False, megabytes)


class Side:
    """One of two that are compared: a job, and the folder that its files are in."""

    def __init__(self, name: str, entry: Entry, store: Store) -> None:
        self.name = name
        self.entry = entry
        self._store = store
        self._answers: dict[str, Predictions | None] = {}

    def answers(self, record: Record) -> Predictions | None:
        """What a run's model said of each test image; read once."""
        if record.run_id not in self._answers:
            self._answers[record.run_id] = self._store.predictions(record.run_id)
        return self._answers[record.run_id]

    @functools.cached_property
    def seeds(self) -> stats.Seeds:
        """What the seeds reached, with what they classified right where all of that is stored."""
        known = [record for record in self.entry.records if record.test_accuracy is not None]
        accuracies = self.entry.accuracies
        said = [self.answers(record) for record in known] if len(known) <= MOST_SEEDS else []
        there = [one for one in said if one is not None]
        if not there or len(there) < len(accuracies) or len({len(one.labels) for one in there}) > 1:
            return stats.Seeds(accuracies)
        return stats.Seeds(accuracies, np.stack([one.labels == one.predicted for one in there]))


@dataclass(frozen=True)
class Verdict:
    """What is found of two by one metric."""

    metric: Metric
    first: str
    second: str
    first_value: float | None
    """In the metric's unit; None where it is not known."""
    second_value: float | None
    difference: Difference | None
    """Second minus first, in shares or relative to the first; None where nothing can be said of it."""
    why_unknown: str = ""
    """What is missing if nothing can be said, and how to get it."""
    family: int = 1
    """Of so many comparisons p is Holm's, so that all of them together seldom give a false alarm."""

    @property
    def word(self) -> Word:
        """The finding."""
        found = self.difference
        if found is None:
            return Word.UNKNOWN
        if found.p is None:  # counted, not measured
            return Word.SAME if found.value == 0 else Word.MORE if found.value > 0 else Word.FEWER
        if not found.distinguishable:
            return Word.NOT_DISTINGUISHABLE
        return Word.BETTER if (found.value > 0) == self.metric.higher_is_better else Word.WORSE

    @property
    def change(self) -> str:
        """The difference: '+0.12 points' or '-5.2 %', or nothing."""
        return "" if self.difference is None else self._amount(self.difference.value)

    @property
    def interval(self) -> str:
        """Its 95 % interval: '[-0.05, +0.29]' in points or '[-7.1 %, -3.3 %]', or nothing."""
        if self.difference is None or self.difference.interval is None:
            return ""
        ends = (self.difference.interval.low, self.difference.interval.high)
        return f"[{', '.join(self._amount(end).removesuffix(' points') for end in ends)}]"

    @property
    def p(self) -> str:
        """Two-sided: '0.0569' or '< 0.0001', or nothing."""
        if self.difference is None or self.difference.p is None:
            return ""
        return "< 0.0001" if self.difference.p < 1e-4 else f"{self.difference.p:.4f}"

    def _amount(self, value: float) -> str:
        return f"{100 * value:+.2f} points" if self.metric.in_points else f"{100 * value:+.1f} %"

    @property
    def sentence(self) -> str:
        """The finding in one sentence, with what it would take to tell where nothing can be told."""
        what = f"{_upper(self.metric.name)}, {self.first} and {self.second}"
        found = self.difference
        if found is None:
            return f"{what}: {Word.UNKNOWN}; {self.why_unknown}."
        if self.word is Word.SAME:
            return f"{what}: {Word.SAME}."
        if found.p is None:
            times = f"{1 + found.value:.1f} times as many" if abs(found.value) >= 0.5 else ""
            some = f"{abs(100 * found.value):.1f} % {'more' if found.value > 0 else 'fewer'}"
            return f"{what}: {self.second} has {times or some}."
        sign = "=" if found.p >= 1e-4 else ""
        test = " ".join(f"p {sign} {self.p}, {found.method}".split())
        if self.family > 1:
            test += f", Holm for {self.family} comparisons"
        if self.word is Word.NOT_DISTINGUISHABLE:
            return (
                f"{what}: {Word.NOT_DISTINGUISHABLE}, {self.change} {self.interval} ({test}); {self._it_takes(found)}."
            )
        return f"{what}: different, {self.second} is {self.word}, {self.change} {self.interval} ({test})."

    @staticmethod
    def _it_takes(found: Difference) -> str:
        if found.value == 0:
            return "there is no difference to tell"
        if found.needed is None:
            return "for so small a difference no number that one could reach would tell"
        return f"about {count(found.needed.number)} {found.needed.of} would tell a difference of this size"


# --- two jobs ------------------------------------------------------------------------------------------------------


def compare(first: Side, second: Side) -> list[Verdict]:
    """What is found of two jobs, metric by metric: differences are the second's minus the first's."""
    return [
        recipes(first, second),
        checkpoints(first, second),
        *(speed(metric, first, second) for metric in (TRAINING, INFERENCE, LATENCY_P50, LATENCY_P95)),
        parameters(first, second),
        memory(first, second),
    ]


def recipes(first: Side, second: Side) -> Verdict:
    """These two recipes: accuracy over seeds, then over images."""
    means = [fmean(values) if (values := side.entry.accuracies.values()) else None for side in (first, second)]
    found = stats.recipes_difference(first.seeds, second.seeds)
    why = "one seed says nothing about a recipe's spread: it takes three seeds of each at least (--seeds 3)"
    return Verdict(RECIPES, first.name, second.name, means[0], means[1], found, why)


def checkpoints(first: Side, second: Side) -> Verdict:
    """These two checkpoints: accuracy on the same images, of the first seed that both have."""
    sides = (first, second)
    by_seed = [{record.seed: record for record in side.entry.records} for side in sides]
    both = sorted(by_seed[0].keys() & by_seed[1].keys())
    chosen = [records[both[0]] if both else records[min(records)] for records in by_seed]
    said = [side.answers(record) for side, record in zip(sides, chosen, strict=True)]
    found, why = None, "what the models said of each test image is not stored"
    one, other = said
    if one is not None and other is not None:
        if np.array_equal(one.labels, other.labels):
            apart = stats.discordant(one.labels, one.predicted, other.predicted)
            found = stats.checkpoints_difference(*apart, len(one.labels))
        else:
            why = "they answered different images"
    names = [f"{side.name} seed {record.seed}" for side, record in zip(sides, chosen, strict=True)]
    values = [record.test_accuracy for record in chosen]
    return Verdict(CHECKPOINTS, names[0], names[1], values[0], values[1], found, why)


_WHICH: dict[str, Callable[[Speeds], Speed | None]] = {
    TRAINING.key: lambda of: of.training,
    INFERENCE.key: lambda of: of.batches,
    LATENCY_P50.key: lambda of: of.single,
    LATENCY_P95.key: lambda of: of.single,
}


def speed(metric: Metric, first: Side, second: Side) -> Verdict:
    """Throughput or latency, as it was timed after the training with the machine to itself."""
    timed = [_WHICH[metric.key](side.entry.speeds) for side in (first, second)]
    values = [None if one is None else speed_value(metric, one) for one in timed]
    one, other = timed
    found, why = None, ""
    if one is None or other is None:
        missing = " and ".join(side.name for side, speed in zip((first, second), timed, strict=True) if speed is None)
        why = f"{missing} {'were' if one is other else 'was'} not timed alone"
    elif one.contended or other.contended:
        why = "other jobs used the machine meanwhile, so the figures are not for ranking"
    elif _machine(first, one) != _machine(second, other):
        why = f"timed on different machines ({_machine(first, one)}; {_machine(second, other)})"
    elif one.backend != other.backend:
        why = f"timed with different back ends ({one.backend}; {other.backend})"
    elif one.precision != other.precision:
        why = f"timed in different precision ({one.precision}; {other.precision})"
    elif metric is LATENCY_P95 and min(len(one.seconds), len(other.seconds)) < FEWEST_FOR_P95:
        why = f"a 95th percentile takes {FEWEST_FOR_P95} samples at least"
    else:
        versions = {side.entry.records[0].torch_version for side in (first, second)}
        found = _speeds_difference(metric, one, other, same_reference=len(versions) == 1)
    return Verdict(metric, first.name, second.name, values[0], values[1], found, why)


def _speeds_difference(metric: Metric, one: Speed, other: Speed, *, same_reference: bool) -> Difference | None:
    """Compare two timings, each normalised by the reference step beside it: so the machine's pace does not count.

    Only with one version of torch for both is that the same step; else seconds are compared.
    """
    first, second = one.in_reference_steps(), other.in_reference_steps()
    percentile = 95 if metric is LATENCY_P95 else 50
    if first is None or second is None or not same_reference:
        rates = [_rates(metric, speed.batch_size, speed.sessions) for speed in (one, other)]
        return stats.timings_difference(*rates, percentile=percentile)
    difference = stats.timings_difference(
        _rates(metric, one.batch_size, first),
        _rates(metric, other.batch_size, second),
        percentile=percentile,
        session_to_session=stats.RELATIVE_SESSION_TO_SESSION,
    )
    if difference is None:
        return None
    took = [speed.reference_seconds or 0.0 for speed in (one, other)]
    units = f"normalised by a reference step of {milliseconds(took[0])} and {milliseconds(took[1])}"
    return replace(difference, method=f"{difference.method}, {units}")


def _rates(metric: Metric, batch_size: int, sessions: Sequence[stats.Session]) -> list[stats.Session]:
    if not metric.higher_is_better:
        return list(sessions)
    return [[batch_size / block for block in session] for session in sessions]


def speed_value(metric: Metric, speed: Speed) -> float | None:
    """The figure of a speed metric: images per second, or seconds."""
    if metric.higher_is_better:
        return speed.images_per_second
    return speed.latency["p50" if metric is LATENCY_P50 else "p95"]


def _machine(side: Side, speed: Speed) -> str:
    cpu = side.entry.records[0].cpu if speed.device == "cpu" else None
    return f"{cpu}, {speed.machine}" if cpu else speed.machine


def parameters(first: Side, second: Side) -> Verdict:
    """How many parameters; counted, so there is no doubt about the difference."""
    values = [side.entry.records[0].total_parameters for side in (first, second)]
    one, other = values
    found = Difference((other - one) / one, None, None, "counted") if one and other is not None else None
    return Verdict(PARAMETERS, first.name, second.name, one, other, found, "the number is not stored")


def memory(first: Side, second: Side) -> Verdict:
    """Peak memory of a worker while it trained, over the seeds."""
    sides = (first, second)
    used = [[r.peak_memory_mb for r in side.entry.records if r.peak_memory_mb is not None] for side in sides]
    kinds = {record.memory_kind for side in sides for record in side.entry.records if record.memory_kind is not None}
    means = [fmean(values) if values else None for values in used]
    found, why = None, f"memory varies from run to run: it takes {stats.FEWEST_SEEDS} seeds of each at least"
    if len(kinds) > 1:
        why = f"it was counted in different ways ({'; '.join(sorted(kinds))})"
    elif not all(used):
        why = "it was not measured"
    elif min(map(len, used)) >= stats.FEWEST_SEEDS:
        found = stats.means_difference(used[0], used[1])
    return Verdict(MEMORY, first.name, second.name, means[0], means[1], found, why)


def with_holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The same verdicts, each p as Holm has it for all of them that have one."""
    known = [verdict.difference for verdict in verdicts if verdict.difference is not None]
    measured = [difference.p for difference in known if difference.p is not None]
    if len(measured) < 2:
        return list(verdicts)
    adjusted = iter(stats.holm(measured))
    return [
        verdict
        if verdict.difference is None or verdict.difference.p is None
        else replace(verdict, difference=replace(verdict.difference, p=next(adjusted)), family=len(measured))
        for verdict in verdicts
    ]


# --- a summary -----------------------------------------------------------------------------------------------------


def findings(store: Store, comparison: Comparison) -> list[Verdict]:
    """What is worth saying of the jobs on one data set; nothing where there is one.

    The most accurate job against the next most accurate ones, with both questions about accuracy. Then, of each way
    of using a model, the fastest against the next; what was not timed alone, or elsewhere, is left out.
    """
    sides = [Side(entry.label, entry, store) for entry in comparison.entries if entry.accuracies]
    if len(sides) < 2:
        return []
    best, *rivals = sorted(sides, key=lambda side: (-fmean(side.entry.accuracies.values()), side.name))
    del rivals[MOST_RIVALS:]
    found = []
    for question in (recipes, checkpoints):
        found += with_holm([question(rival, best) for rival in rivals])
    for metric in (TRAINING, INFERENCE, LATENCY_P50):
        ranked = _ranked(metric, sides)
        if len(ranked) > 1:
            found.append(speed(metric, ranked[1], ranked[0]))
    return found


def _ranked(metric: Metric, sides: Iterable[Side]) -> list[Side]:
    """Those that were timed like most: on one machine, with one back end, in one precision; best first."""
    by_conditions: dict[tuple[str, str, str], list[tuple[float, str, Side]]] = {}
    for side in sides:
        timed = _WHICH[metric.key](side.entry.speeds)
        value = None if timed is None or timed.contended else speed_value(metric, timed)
        if timed is not None and value is not None:
            rank = -value if metric.higher_is_better else value
            alike = _machine(side, timed), timed.backend, timed.precision
            by_conditions.setdefault(alike, []).append((rank, side.name, side))
    most = max(by_conditions.values(), key=len, default=[])
    return [side for _, _, side in sorted(most, key=lambda one: one[:2])]


# --- back ends of one model ------------------------------------------------------------------------------------------


def backend_sentences(comparison: Comparison) -> list[str]:
    """Say of each job with several back ends which answers batches fastest, and what that costs."""
    return [sentence for entry in comparison.entries if (sentence := fastest_backend(entry)) is not None]


def fastest_backend(entry: Entry) -> str | None:
    """Say which back end of one job is the fastest, what it costs in accuracy, and what is deployed.

    None where fewer than two were timed on one machine with nothing else on it.
    """
    timed = {name: answers.batches for name, answers in entry.speeds.by_backend.items()}
    eager = timed.get(EAGER)
    rivals = {
        name: speed
        for name, speed in timed.items()
        if eager is not None
        and speed is not None
        and name != EAGER
        and speed.machine == eager.machine
        and not (speed.contended or eager.contended)
    }
    if eager is None or not rivals:
        return None
    name, best = max(rivals.items(), key=lambda rival: rival[1].images_per_second)
    difference = _speeds_difference(INFERENCE, eager, best, same_reference=True)
    if difference is None:
        return None
    if not difference.distinguishable:
        slower = f"none of {', '.join(rivals)} is" if len(rivals) > 1 else f"{name} is not"
        return f"Back ends of {entry.label}: {slower} distinguishably faster than {EAGER} in batches."
    if difference.value < 0:
        return f"Back ends of {entry.label}: {EAGER} is the fastest in batches; next is {name}."
    rates = f"{count(best.images_per_second)} against {per_second(eager.images_per_second)}"
    sentence = (
        f"Back ends of {entry.label}: {name} is the fastest in batches, {1 + difference.value:.2f} times {EAGER} "
        f"({rates}; {_p_value(difference.p or 0.0)})"
    )
    row, plain = entry.deployments.get(name), entry.deployments.get(EAGER)
    if row is None or plain is None or row.images is None:
        return f"{sentence}."
    size = f"{deployed(row.deployed_bytes)} are deployed, {deployed(plain.deployed_bytes)} with {EAGER}"
    return f"{sentence}; {_accuracy_cost(row)}; {size}."


def _accuracy_cost(row: Deployment) -> str:
    """What a back end's accuracy differs from eager's by; both answered the same images, so the test is paired."""
    lost, gained, images = row.only_eager_right or 0, row.only_this_right or 0, row.images or 0
    if not lost + gained:
        return f"its accuracy is the same, {percent(row.accuracy or 0.0)}"
    difference = stats.checkpoints_difference(lost, gained, images)
    p = f"{100 * difference.value:+.2f} points, {_p_value(difference.p or 0.0)}, {difference.method}"
    if not difference.distinguishable:
        return f"its accuracy is not distinguishable from that of {EAGER} ({p})"
    return f"its accuracy is {'higher' if difference.value > 0 else 'lower'} ({p})"


def _p_value(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """The findings in words. What cannot be told for the same reason, of several metrics or pairs, is said once."""
    said: dict[str, None] = {}
    for verdict in verdicts:
        if verdict.difference is not None:
            said[verdict.sentence] = None
            continue
        same = [other for other in verdicts if other.difference is None and other.why_unknown == verdict.why_unknown]
        if len(same) == 1:
            said[verdict.sentence] = None
            continue
        pairs = {(other.first, other.second) for other in same}
        names = ", ".join(dict.fromkeys(other.metric.name for other in same))
        if len(pairs) > 1:
            names = names.replace("these two", "these")
        whose = f", {verdict.first} and {verdict.second}" if len(pairs) == 1 else ""
        said[f"{_upper(names)}{whose}: {Word.UNKNOWN}; {verdict.why_unknown}."] = None
    return list(said)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
