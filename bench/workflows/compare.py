"""The comparison of two models, or of two versions of the results, and the limits that the second must keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.errors import UserError, unknown
from bench.reporting import circumstances, verdicts
from bench.reporting.comparison import Checked, Pair, Result, metric_name
from bench.reporting.entries import Comparison, Entry, comparisons, data_key
from bench.reporting.store import Store
from bench.reporting.verdicts import Metric, Side, Verdict, Word, with_holm
from bench.spec import Recipe
from bench.storage import Place
from bench.workflows.versions import model_names, store_of

_EACH = (
    verdicts.TRAINING,
    verdicts.INFERENCE,
    verdicts.LATENCY_P50,
    verdicts.LATENCY_P95,
    verdicts.MEMORY,
    verdicts.PARAMETERS,
)
_LIMITS: dict[str, tuple[Metric, ...]] = {
    "accuracy": (verdicts.RECIPES,),
    "throughput": (verdicts.TRAINING, verdicts.INFERENCE),
    "latency": (verdicts.LATENCY_P50, verdicts.LATENCY_P95),
    **{metric.key: (metric,) for metric in _EACH},
}
"""The metrics by their name in --fail; limits of the accuracy are percentage points, all others are relative."""


@dataclass(frozen=True)
class Limit:
    """A limit on how much worse the second may be."""

    name: str
    """The metric and the amount, as the user wrote them."""
    metrics: tuple[Metric, ...]
    allowed: float
    """The largest difference allowed, as a share: of test images for the accuracy, else of the first's figure.

    Negative where more is better."""

    def is_worse(self, verdict: Verdict) -> bool:
        """Return whether the difference is worse than allowed, and more than noise."""
        difference = verdict.difference
        if difference is None or (difference.p is not None and not difference.distinguishable):
            return False
        return difference.value < self.allowed if verdict.metric.higher_is_better else difference.value > self.allowed


# --- limits --------------------------------------------------------------------------------------------------------


def read_limits(text: str) -> list[Limit]:
    """Return ``accuracy:-0.2pp,throughput:-5%`` as limits.

    Raises:
        UserError: ``text`` is not of this form.
    """
    limits = []
    for part in text.split(","):
        name, _, amount = (piece.strip() for piece in part.partition(":"))
        if name not in _LIMITS:
            raise unknown("metric in --fail:", name, _LIMITS)
        metrics, in_points = _LIMITS[name], name == "accuracy"
        more_is_better = metrics[0].higher_is_better
        unit, sign = "pp" if in_points else "%", "-" if more_is_better else "+"
        match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)\s*(pp|%)", amount)
        example = f"{name}:{sign}{'0.2' if in_points else '5'}{unit}"
        if match is None or match[2] != unit:
            raise UserError(f"--fail {part.strip()!r}: give how much worse NEW may be, as in {example!r}")
        allowed = float(match[1]) / 100
        if (allowed > 0) == more_is_better and allowed != 0:
            worse = "falls" if more_is_better else "rises"
            raise UserError(f"--fail {part.strip()!r}: {name} gets worse when it {worse}; write {example!r}")
        limits.append(Limit(f"{name}:{amount}", metrics, allowed))
    return limits


def check(pairs: Sequence[Pair], limits: Sequence[Limit]) -> Checked:
    """Check which limits the second of each pair keeps.

    All checks are one family: if nothing differs, none of Holm's p values is below 0.05 in at least 95 % of cases.
    """
    asked = [(limit, pair, _judged(pair, metric)) for limit in limits for pair in pairs for metric in limit.metrics]
    judged = with_holm([verdict for _, _, verdict in asked])
    checked = Checked()
    reasons: dict[str, dict[str, None]] = {}
    decided = set()
    for (limit, pair, _), verdict in zip(asked, judged, strict=True):
        what = f"{pair.name}, {metric_name(verdict.metric)}"
        if verdict.word is Word.UNKNOWN:
            checked.not_checked.append(f"{what}, limit {limit.name}: {verdict.why_unknown}")
            reasons.setdefault(limit.name, {})[verdict.why_unknown] = None
            continue
        decided.add(limit.name)
        show = verdict.metric.show
        values = f"{show(verdict.first_value or 0)} to {show(verdict.second_value or 0)}"
        p = f" (p {verdict.p if verdict.p.startswith('<') else f'= {verdict.p}'})" if verdict.p else ""
        line = f"{what}: {verdict.change}, from {values}, limit {limit.name}{p}"
        (checked.broken if limit.is_worse(verdict) else checked.kept).append(line)
    for name, why in reasons.items():
        if name not in decided:
            checked.useless.append(f"{name} cannot be checked, {'; '.join(why)}")
    return checked


def _judged(pair: Pair, metric: Metric) -> Verdict:
    """Return the verdict on a metric; that on recipes needs several seeds, else the one on checkpoints stands in."""
    by_metric = {verdict.metric: verdict for verdict in pair.verdicts}
    if metric is verdicts.RECIPES and by_metric[metric].difference is None:
        return by_metric[verdicts.CHECKPOINTS]
    return by_metric[metric]


# --- what to compare -----------------------------------------------------------------------------------------------


def compare(first: str, second: str, results: Place, limits: Sequence[Limit] = ()) -> Result:
    """Compare two models of ``results``, or two versions: results folders, or the reference results of git revisions.

    Raises:
        UserError: one of the two is neither a model nor a version, or there is nothing to compare.
    """
    with ExitStack() as stack:
        result = _models(first, second, results)
        if result is None:
            models = model_names(results)
            ordered = sorted((first, second), key=lambda name: name in models)  # what is no model is refused first
            stores = {name: store_of(name, results, stack) for name in ordered}
            result = _versions(first, second, [stores[first], stores[second]])
    checked = check(result.pairs, limits)
    if limits:  # a model that no longer finishes is no success
        checked.useless.extend(f"nothing can be checked for {name}, which only OLD has" for name in result.lost)
    return replace(result, limits=checked)


def _models(first: str, second: str, results: Place) -> Result | None:
    """Compare the two as models of one folder; return None if they are not both there."""
    store = Store(results)
    if not store.holds_runs():
        return None
    records, problems = store.records()
    compared = comparisons(records, store)
    there = [[_called(name, comparison) for name in (first, second)] for comparison in compared]
    if not all(any(entries[number] for entries in there) for number in (0, 1)):
        return None
    pairs = []
    for comparison, entries in zip(compared, there, strict=True):
        if not all(entries):
            continue
        for name, several in zip((first, second), entries, strict=True):
            if len(several) > 1:
                labels = ", ".join(repr(entry.label) for entry in several)
                raise UserError(f"{name} was trained in several ways on {comparison.title}: name one of {labels}")
        first_entry, second_entry = (several[0] for several in entries)
        if first_entry is second_entry:
            raise UserError(f"{first} and {second} are the same; name two models")
        sides = [Side(entry.label, entry, store) for entry in (first_entry, second_entry)]
        name = f"{first_entry.label} and {second_entry.label}"
        pairs.append(_pair(name, comparison.title, *sides))
    if not pairs:
        raise UserError(f"{first} and {second} were not trained on the same data set: nothing to compare")
    return Result(first, second, problems, pairs)


def _pair(name: str, data: str, first: Side, second: Side) -> Pair:
    notes = circumstances.between(first.name, first.entry.records, second.name, second.entry.records)
    return Pair(name, f"{name} on {data}", verdicts.compare(first, second), notes)


def _called(name: str, comparison: Comparison) -> list[Entry]:
    """Return the jobs that a name means: by label or job id, else all of the model of that name."""
    exactly = [entry for entry in comparison.entries if name in (entry.label, entry.records[0].job_id)]
    return exactly or [entry for entry in comparison.entries if entry.records[0].model == name]


def _versions(first: str, second: str, stores: Sequence[Store]) -> Result:
    """Compare the two as versions of the same results, job by job."""
    meaning = [f"OLD is {first}", f"NEW is {second}"]
    both, lost = [], []
    for store in stores:
        records, problems = store.records()
        compared = comparisons(records, store)
        both.append({data_key(comparison.entries[0].records[0]): comparison for comparison in compared})
        meaning += problems
    pairs = []
    for data in sorted(both[0].keys() | both[1].keys()):
        there = [side[data] for side in both if data in side]
        title = there[0].title
        if len(there) < 2:
            meaning.append(f"{title}: only in {'OLD' if data in both[0] else 'NEW'}")
            lost += [f"{entry.label} on {title}" for entry in there[0].entries if data in both[0]]
            continue
        matched, unmatched = _matched(there[0].entries, there[1].entries)
        for old, new in matched:
            name = old.label if old.label == new.label else f"{old.label} in OLD, {new.label} in NEW"
            sides = [
                Side(name, entry, store) for name, entry, store in zip(("OLD", "NEW"), (old, new), stores, strict=True)
            ]
            pairs.append(_pair(name, title, *sides))
        meaning += [f"{entry.label} on {title}: only in {where}" for where, entry in unmatched]
        lost += [f"{entry.label} on {title}" for where, entry in unmatched if where == "OLD"]
    if not pairs:
        raise UserError(f"{first} and {second} have no model on the same data set in common: nothing to compare")
    return Result("OLD", "NEW", meaning, pairs, lost=lost)


def _matched(old: Iterable[Entry], new: Iterable[Entry]) -> tuple[list[tuple[Entry, Entry]], list[tuple[str, Entry]]]:
    """Return (pairs of jobs, jobs without a partner), paired by job id, else by model and recipe, else by model."""
    ways: list[Callable[[Entry], object]] = [
        lambda entry: entry.records[0].job_id,
        lambda entry: (_model(entry), *(getattr(entry.records[0], name) for name in Recipe.model_fields)),
        _model,
    ]
    remaining = [list(old), list(new)]
    pairs = []
    for way in ways:
        keys = [[way(entry) for entry in side] for side in remaining]
        for old_entry in list(remaining[0]):
            key = way(old_entry)
            if keys[0].count(key) == keys[1].count(key) == 1:
                new_entry = remaining[1][[way(entry) for entry in remaining[1]].index(key)]
                pairs.append((old_entry, new_entry))
                remaining[0].remove(old_entry)
                remaining[1].remove(new_entry)
    return sorted(pairs, key=lambda pair: pair[0].label), [
        (where, entry) for where, side in zip(("OLD", "NEW"), remaining, strict=True) for entry in side
    ]


def _model(entry: Entry) -> str:
    return entry.records[0].model
