"""The answer to "which should I use?": one or two plain sentences from the findings about the jobs on one data set.

The rules, in order:

1. Candidates are the finished jobs; of jobs that differ in the number of training images, those with the most.
2. A budget leaves out what exceeds it, or what was not measured.
3. The most accurate is compared with each of the others: over the seeds if both have three, else as trained models on
   the same images (p by Holm's method), else by whether the Wilson intervals of the accuracies overlap. Those that
   cannot be told from it count as just as accurate.
4. Speed is images per second in batches, size the number of parameters. Within 10 % they count as equal.
5. One candidate dominates another if it is not worse in accuracy, speed and size, and better in one of them. What
   nothing dominates is the Pareto front.
6. The choice is the most accurate of the front; among equally accurate ones the fastest, then the smallest.
   ``--prefer`` takes the one with the least latency or size of the front instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from bench.errors import UserError
from bench.reporting import stats
from bench.reporting.entries import Comparison, Entry, labels_of, trained_on
from bench.reporting.formats import count, milliseconds, one_line
from bench.reporting.stats import FEWEST_SEEDS
from bench.reporting.store import Store
from bench.reporting.verdicts import Side, Verdict, Word, checkpoints, recipes, with_holm
from bench.spec import Record

Preference = Literal["accuracy", "latency", "size"]
MOST_CANDIDATES = 12
"""The most candidates that are compared with the most accurate one; the next most accurate."""
ENOUGH_SEEDS = 5
"""The number of seeds of each that is proposed where there are fewer than three."""
MOST_SEEDS = 30
"""The most seeds that are proposed to tell two candidates apart."""
EQUAL = 0.1
"""The relative difference of speeds or sizes that does not count."""
BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Candidate:
    """A job, by what one chooses a model for."""

    label: str
    accuracy: float
    """Mean test accuracy over the seeds, a share."""
    seeds: int
    images_per_second: float | None
    """Inference in batches, timed alone; None if it was not, or was timed on another machine than most."""
    latency: float | None
    """Median seconds of one image, timed alone."""
    parameters: int | None

    @property
    def size(self) -> float | None:
        """Return the bytes of the parameters, in 32-bit floats."""
        return None if self.parameters is None else self.parameters * BYTES_PER_PARAMETER


@dataclass(frozen=True)
class Answer:
    """The answer for one data set."""

    sentences: list[str]
    use: str | None = None
    """The label of the candidate to use; None if that is not decided."""
    front: list[str] = field(default_factory=list)
    """The candidates that none dominates, the most accurate first."""
    dominated: dict[str, str] = field(default_factory=dict)
    """The candidates that another one dominates, by label, with that one's label."""
    candidates: list[Candidate] = field(default_factory=list)


@dataclass(frozen=True)
class Limit:
    """A limit of a budget."""

    text: str
    quantity: str
    keeps: Callable[[float], bool]
    """Whether a value in the candidate's unit keeps the limit."""


@dataclass(frozen=True)
class Choice:
    """What chooses among the candidates of the Pareto front."""

    prefer: Preference = "accuracy"
    budget: tuple[Limit, ...] = ()
    """Limits that a candidate has to keep."""


_BUDGET: Mapping[str, tuple[Callable[[Candidate], float | None], Mapping[str, float]]] = {
    "accuracy": (lambda candidate: candidate.accuracy, {"%": 0.01}),
    "latency": (lambda candidate: candidate.latency, {"ms": 1e-3, "s": 1.0, "us": 1e-6}),
    "throughput": (lambda candidate: candidate.images_per_second, {"images/s": 1.0, "/s": 1.0, "": 1.0}),
    "size": (lambda candidate: candidate.size, {"MB": 1e6, "kB": 1e3, "GB": 1e9}),
    "parameters": (lambda candidate: candidate.parameters, {"": 1.0, "k": 1e3, "M": 1e6}),
}
"""What a budget can limit: its value, and the factor of each unit."""


def parse_budget(text: str) -> tuple[Limit, ...]:
    """Return the limits of a text such as 'latency<2ms,size<5MB'.

    Raises:
        UserError: a part is no limit.
    """
    return tuple(_limit(part.strip()) for part in text.split(",") if part.strip())


def _limit(text: str) -> Limit:
    matched = re.fullmatch(r"([a-z]+)\s*([<>])=?\s*([\d.]+)\s*(\S*)", text)
    quantity, sign, number, unit = matched.groups() if matched else ("", "", "", "")
    _, units = _BUDGET.get(quantity, (None, {}))
    if unit not in units or not re.fullmatch(r"\d+\.?\d*|\.\d+", number):
        units_of = "; ".join(
            f"{name} ({' or '.join(filter(None, known)) or 'a number'})" for name, (_, known) in _BUDGET.items()
        )
        raise UserError(f"--budget: {text!r} is no limit like latency<2ms or size<5MB; possible are {units_of}")
    bound = float(number) * units[unit]
    return Limit(text, quantity, (lambda value: value <= bound) if sign == "<" else (lambda value: value >= bound))


# --- the answer ----------------------------------------------------------------------------------------------------


def answer_of(
    store: Store,
    comparison: Comparison,
    failed: Sequence[Record] = (),
    choice: Choice = Choice(),
) -> Answer:
    """Return which of the jobs on one data set to use, by the rules above.

    Args:
        store: the results folder, whose predictions decide between trained models.
        comparison: the finished jobs.
        failed: runs on this data set that did not finish.
        choice: what chooses among the Pareto front.
    """
    entries = _comparable(comparison.entries)
    all_candidates = _candidates(entries)
    candidates, misses = _within(all_candidates, choice.budget)
    lost = _lost(failed, entries)
    if not candidates:
        return Answer([*misses, *lost], candidates=all_candidates)
    ranked = sorted(candidates, key=lambda each: (-each.accuracy, each.label))[:MOST_CANDIDATES]
    by_label = {entry.label: Side(entry.label, entry, store) for entry in entries}
    verdicts = _against_the_best(ranked, by_label)
    level = {each.label for each in ranked if not _is_worse(each, ranked[0], verdicts, entries)}
    dominated = _dominated(ranked, level)
    front = [each for each in ranked if each.label not in dominated]
    chosen = _choose(front, level, choice.prefer)
    sentences = [_use(chosen, front, ranked, level)]
    sentences += _others(dominated, chosen) + misses + lost
    certainty = _certainty(ranked, verdicts, entries)
    return Answer([*sentences, *certainty], chosen.label, [each.label for each in front], dominated, all_candidates)


def _comparable(entries: Sequence[Entry]) -> list[Entry]:
    """Return the jobs with a test accuracy that were trained on the most images."""
    scored = [entry for entry in entries if entry.accuracies]
    most = max((trained_on(entry.records[0]) for entry in scored), default=0)
    chosen = [entry for entry in scored if trained_on(entry.records[0]) == most]
    labels = labels_of({entry.records[0].job_id: vars(entry.records[0]) for entry in chosen})  # shorter, if fewer
    return [replace(entry, label=labels[entry.records[0].job_id]) for entry in chosen]


def _candidates(entries: Sequence[Entry]) -> list[Candidate]:
    """Return the candidates; speeds only of those timed alone, on the machine that most were timed on."""
    machines = [
        entry.machine_of(entry.speeds.batches)
        for entry in entries
        if entry.speeds.batches is not None and not entry.speeds.batches.contended
    ]
    usual = max(machines, key=machines.count, default=None)
    made = []
    for entry in entries:
        batches, single = entry.speeds.batches, entry.speeds.single
        timed = batches is not None and not batches.contended and entry.machine_of(batches) == usual
        made.append(
            Candidate(
                label=entry.label,
                accuracy=fmean(entry.accuracies.values()),
                seeds=len(entry.accuracies),
                images_per_second=batches.images_per_second if timed and batches is not None else None,
                latency=single.latency["p50"] if timed and single is not None else None,
                parameters=entry.records[0].total_parameters,
            )
        )
    return made


def _within(candidates: Sequence[Candidate], budget: Sequence[Limit]) -> tuple[list[Candidate], list[str]]:
    """Return (the candidates that keep the budget, a sentence on those that do not)."""
    kept, over, unknown = [], [], []
    for candidate in candidates:
        values = [(_BUDGET[limit.quantity][0](candidate), limit) for limit in budget]
        if any(value is None for value, _ in values):
            unknown.append(candidate.label)
        elif all(limit.keeps(value) for value, limit in values if value is not None):
            kept.append(candidate)
        else:
            over.append(candidate.label)
    limits = ", ".join(limit.text for limit in budget)
    sentences = []
    if budget and not kept:
        sentences.append(f"No candidate keeps {limits}.")
    elif over:
        sentences.append(f"Left out, as beyond {limits}: {_list(over)}.")
    if unknown:
        sentences.append(f"Left out, as not measured for {limits}: {_list(unknown)}.")
    return kept, sentences


def _against_the_best(ranked: Sequence[Candidate], sides: Mapping[str, Side]) -> dict[str, Verdict]:
    """Return what the most accurate is compared with each of the others, by the other's label."""
    best, *rivals = ranked
    verdicts = []
    for rival in rivals:
        verdict = recipes(sides[rival.label], sides[best.label])
        verdicts.append(verdict if verdict.difference else checkpoints(sides[rival.label], sides[best.label]))
    return dict(zip((rival.label for rival in rivals), with_holm(verdicts), strict=True))


def _is_worse(candidate: Candidate, best: Candidate, verdicts: Mapping[str, Verdict], entries: Sequence[Entry]) -> bool:
    """Return whether a candidate is distinguishably less accurate than the most accurate one."""
    if candidate is best:
        return False
    verdict = verdicts[candidate.label]
    if verdict.difference is not None:
        return verdict.word is Word.BETTER
    images = entries[0].records[0].test_images
    lower, upper = (stats.wilson(round(each.accuracy * images), images) for each in (candidate, best))
    return lower.high < upper.low


def _dominated(ranked: Sequence[Candidate], level: set[str]) -> dict[str, str]:
    """Return the label of a candidate that dominates it, for each that one does; the first by accuracy."""
    found: dict[str, str] = {}
    for worse in ranked:
        by = next((better.label for better in ranked if _dominates(better, worse, level)), None)
        if by is not None:
            found[worse.label] = by
    return found


def _dominates(first: Candidate, second: Candidate, level: set[str]) -> bool:
    both_level = first.label in level and second.label in level
    accuracy = 0 if first is second or both_level else 1 if first.accuracy > second.accuracy else -1
    speed = _compared(first.images_per_second, second.images_per_second)
    size = -_compared(first.parameters, second.parameters)
    return min(accuracy, speed, size) >= 0 and max(accuracy, speed, size) > 0


def _compared(first: float | None, second: float | None) -> int:
    """Return 1 if the first is larger, -1 if it is smaller, 0 if both are equal within EQUAL or one is not known."""
    if not first or not second or abs(first - second) <= EQUAL * max(first, second):
        return 0
    return 1 if first > second else -1


def _choose(front: Sequence[Candidate], level: set[str], prefer: Preference) -> Candidate:
    if prefer == "latency":
        return min(front, key=lambda each: (each.latency is None, each.latency, -each.accuracy))
    if prefer == "size":
        return min(front, key=lambda each: (each.size is None, each.size, -each.accuracy))
    equals = [each for each in front if each.label in level] or list(front[:1])
    return max(equals, key=lambda each: (each.images_per_second or 0.0, -(each.parameters or 0)))


# --- in words ------------------------------------------------------------------------------------------------------


def _use(
    chosen: Candidate,
    front: Sequence[Candidate],
    ranked: Sequence[Candidate],
    level: set[str],
) -> str:
    """Return what to use, and why, beside the one that is the closest choice."""
    if len(ranked) == 1:
        return f"{chosen.label} is the only one to choose: {_percent(chosen.accuracy)} right{_costs(chosen)}."
    others = [each for each in front if each is not chosen]
    equals = [each for each in ranked if each is not chosen and each.label in level and chosen.label in level]
    if equals and not (others and others[0].label not in level):
        other = equals[0]
        gains = _gains(chosen, other)
        told = f"{_percent(chosen.accuracy, other.accuracy)} and {_percent(other.accuracy, chosen.accuracy)} right"
        if not gains:
            return f"{chosen.label} or {other.label}, there is no difference to see: {told}, equally fast and large."
        return f"Use {chosen.label}: as good as {other.label} as far as can be told ({told}), {_and(gains)}."
    other = others[0] if others else next(each for each in ranked if each is not chosen)
    right = f"{_percent(chosen.accuracy, other.accuracy)} right against {_percent(other.accuracy, chosen.accuracy)}"
    right += f" with {other.label}" if not others else ""
    gains, losses = _gains(chosen, other), _gains(other, chosen)
    if not others:
        return f"Use {chosen.label}: {_and([right, *gains])}."
    better = chosen if chosen.accuracy >= other.accuracy else other
    unless = _unless(chosen, other, better)
    then = f"{other.label} has {_and(losses)}" if losses else f"then {other.label}"
    return f"Use {chosen.label} ({_and([right, *gains])}) unless {unless}: {then}."


def _unless(chosen: Candidate, other: Candidate, better: Candidate) -> str:
    """Return when to take the other candidate of a trade-off."""
    if better is not chosen:
        return f"those {100 * (other.accuracy - chosen.accuracy):.1f} points count more"
    if _compared(other.images_per_second, chosen.images_per_second) > 0 and chosen.images_per_second:
        return f"you need more than {_rate(chosen.images_per_second)} images/s on such a machine"
    return "size counts more"


def _gains(first: Candidate, second: Candidate) -> list[str]:
    """Return how the first is faster and smaller than the second, in words."""
    words = []
    if _compared(first.images_per_second, second.images_per_second) > 0:
        words.append(f"{_times((first.images_per_second or 0) / (second.images_per_second or 1))} as many images/s")
    if _compared(first.parameters, second.parameters) < 0:
        words.append(f"{_share((first.parameters or 0) / (second.parameters or 1))} of the size")
    return words


def _others(dominated: Mapping[str, str], chosen: Candidate) -> list[str]:
    """Return a sentence on what no one should use, if there is more than one other candidate."""
    worse = [label for label, by in dominated.items() if label != chosen.label]
    if len(dominated) < 2 or not worse:
        return []
    good = "as accurate, fast and small" if chosen.images_per_second else "as accurate and small"
    return [f"No reason to choose {_list(worse)}: another is at least {good}."]


def _lost(failed: Sequence[Record], entries: Sequence[Entry]) -> list[str]:
    """Return a sentence for each model of which no run finished."""
    finished = {record.model for entry in entries for record in entry.records}
    reasons = {record.model: record for record in failed if record.model not in finished}
    return [
        f"{model} did not finish ({record.status}: {one_line(record.reason or 'no reason')[:120]}), so it is left out."
        for model, record in sorted(reasons.items())
    ]


def _certainty(ranked: Sequence[Candidate], verdicts: Mapping[str, Verdict], entries: Sequence[Entry]) -> list[str]:
    """Return how sure this is: what would decide it, in seeds and in minutes."""
    if len(ranked) == 1:
        return []
    fewest = min(each.seeds for each in ranked)
    if fewest < FEWEST_SEEDS:
        more = sum(max(0, ENOUGH_SEEDS - each.seeds) for each in ranked)
        few = [each.label for each in ranked if each.seeds == fewest]
        have = "one seed" if fewest == 1 else f"{fewest} seeds"
        have = f"{have.capitalize()} each" if len(few) == len(ranked) else f"{_list(few)} with {have} only"
        return [
            f"{have}: run again with --seeds {ENOUGH_SEEDS} to be sure that it is the model and not the luck of one "
            f"training{_takes(entries, more)}."
        ]
    open_ones = [verdict for verdict in verdicts.values() if verdict.word is Word.NOT_DISTINGUISHABLE]
    needed = [verdict.difference.needed for verdict in open_ones if verdict.difference and verdict.difference.needed]
    seeds = [each.number for each in needed if each.of == "seeds of each"]
    if not seeds or min(seeds) > MOST_SEEDS:
        return []
    more = sum(max(0, min(seeds) - each.seeds) for each in ranked[:2])
    return [f"About {count(min(seeds))} seeds of each would tell the closest two apart{_takes(entries, more)}."]


def _takes(entries: Iterable[Entry], runs: int) -> str:
    """Return ' (about 4 minutes)': how long so many runs take, by the time that the finished ones took."""
    done = [record for entry in entries for record in entry.records]
    seconds = _busy_seconds(done) / max(1, len(done)) * runs
    if seconds <= 0:
        return ""
    minutes = seconds / 60
    if minutes < 1:
        return " (less than a minute)"
    if minutes < 90:
        return f" (about {minutes:.0f} {'minute' if round(minutes) == 1 else 'minutes'})"
    return f" (about {minutes / 60:.0f} hours)" if minutes < 60 * 48 else f" (about {minutes / 1440:.0f} days)"


def _busy_seconds(records: Sequence[Record]) -> float:
    """Return the time during which at least one of the runs was under way."""
    total, until = 0.0, None
    for record in sorted(records, key=lambda record: record.started_at):
        start = record.started_at if until is None or record.started_at > until else until
        if record.ended_at > start:
            total += (record.ended_at - start).total_seconds()
            until = record.ended_at
    return total


def _percent(share: float, other: float | None = None) -> str:
    """Return '99.1 %', with so many decimals that it differs from the other."""
    decimals = next((n for n in (1, 2) if other is None or f"{100 * share:.{n}f}" != f"{100 * other:.{n}f}"), 2)
    return f"{100 * share:.{decimals}f} %"


def _costs(candidate: Candidate) -> str:
    parts = [] if candidate.latency is None else [f"{milliseconds(candidate.latency)} for one image"]
    parts += [] if candidate.parameters is None else [f"{count(candidate.parameters)} parameters"]
    return "".join(f", {part}" for part in parts)


def _rate(number: float) -> str:
    """Return a rate with two significant digits."""
    return count(float(f"{number:.2g}"))


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 9.5 else f"{ratio:.1f} times".replace(".0 ", " ")


_SHARES = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth", 20: "a twentieth", 100: "a hundredth"}


def _share(share: float) -> str:
    """Return a share in words: 'a tenth' within a tenth of it, else '37 %'."""
    word = next((name for number, name in _SHARES.items() if abs(share * number - 1) <= EQUAL), None)
    return word or (f"{100 * share:.0f} %" if share >= 0.015 else f"{100 * share:.1f} %")


def _and(parts: Sequence[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _list(labels: Sequence[str]) -> str:
    most = 5
    more = [f"{len(labels) - most} more"] if len(labels) > most else []
    return _and([*labels[:most], *more])
