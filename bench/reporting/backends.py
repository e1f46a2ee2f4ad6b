"""The fastest back end of a model, and what it costs in accuracy, in one sentence."""

from __future__ import annotations

from bench.reporting import stats
from bench.reporting.entries import Comparison, Entry
from bench.reporting.formats import MISSING, count, file_size, p_value, per_second, percent, points
from bench.reporting.speed import EAGER
from bench.reporting.verdicts import INFERENCE, speeds_difference
from bench.spec import Deployment


def backend_sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each job with several back ends, as :func:`fastest_backend` does."""
    return [sentence for entry in comparison.entries if (sentence := fastest_backend(entry)) is not None]


def fastest_backend(entry: Entry) -> str | None:
    """Return a sentence on the back end of one job with the highest throughput, its accuracy and its size.

    None unless eager and another back end were timed on one machine with nothing else running on it.
    """
    timed = {name: answers.batches for name, answers in entry.speeds.by_backend.items()}
    alone = {name: speed for name, speed in timed.items() if speed is not None and not speed.contended}
    eager = alone.pop(EAGER, None)
    rivals = {name: speed for name, speed in alone.items() if eager is not None and speed.machine == eager.machine}
    if eager is None or not rivals:
        return None
    name, best = max(rivals.items(), key=lambda rival: rival[1].images_per_second)
    difference = speeds_difference(INFERENCE, eager, best, same_reference=True)
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
        f"({rates}; {p_value(difference.p or 0.0)})"
    )
    row, plain = entry.deployments.get(name), entry.deployments.get(EAGER)
    if row is None or plain is None or row.images is None:
        return f"{sentence}."
    size = f"{_size(row)} are deployed, {_size(plain)} with {EAGER}"
    return f"{sentence}; {_accuracy_cost(row)}; {size}."


def _size(row: Deployment) -> str:
    return MISSING if row.deployed_bytes is None else file_size(row.deployed_bytes)


def _accuracy_cost(row: Deployment) -> str:
    """Return how a back end's accuracy differs from eager's; both classified the same images, so the test is paired."""
    lost, gained, images = row.only_eager_right or 0, row.only_this_right or 0, row.images or 0
    if not lost + gained:
        return f"its accuracy is the same, {percent(row.accuracy or 0.0)}"
    difference = stats.checkpoints_difference(lost, gained, images)
    figures = f"{points(difference.value)}, {p_value(difference.p or 0.0)}, {difference.method}"
    if not difference.distinguishable:
        return f"its accuracy is not distinguishable from that of {EAGER} ({figures})"
    return f"its accuracy is {'higher' if difference.value > 0 else 'lower'} ({figures})"
