"""Sweeps as pages: results/tuning.md, and a section of the summary."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench.config.space import describe_values
from bench.reporting.files import listed
from bench.reporting.formats import MISSING, count, mean_and_range, percent, without_html
from bench.reporting.store import Store
from bench.reporting.sweeps import Cost, Sweep, Swept, Trial, at_the_edge, expected_best, number_of, scores_of
from bench.reporting.table import Cell, Column, Table, as_markdown, cell_of, number_column, table_of, text_column
from bench.spec import Record, Status, slug
from bench.storage import Place

PAGE = "tuning.md"


def write_tuning(store: Store, swept: Sequence[Swept]) -> Place | None:
    """Write results/tuning.md; return None where there was no sweep.

    Raises:
        UserError: the page cannot be written.
    """
    if not swept:
        return None
    plots = [f"plots/{name}" for name in listed(store.root / "plots", "-accuracy-lr.svg")]
    return store.write_text(PAGE, without_html(render_tuning(swept, plots)))


def sections(swept: Sequence[Swept]) -> list[str]:
    """Return the summary's section on sweeps, in parts of Markdown; empty where there was none."""
    if not swept:
        return []
    parts = ["## Sweeps", as_markdown(found_table(swept)), *warnings_of(swept)]
    expected = expected_table(swept)
    if expected is not None:
        parts += [EXPECTED, as_markdown(expected)]
    return [*parts, f"Every trial is in [{PAGE}]({PAGE})."]


def render_tuning(swept: Sequence[Swept], plots: Sequence[str] = ()) -> str:
    """Return results/tuning.md: the best of each sweep, its cost, every trial.

    Args:
        swept: sweeps with their trials.
        plots: paths of plots, relative to the page.
    """
    parts = ["# Sweeps"]
    parts.append(
        "Each trial was judged on training images that were held out, the same ones for every trial on a data set. "
        "The test images were first looked at by the winners, retrained on all training images."
    )
    parts.append(as_markdown(found_table(swept)))
    expected = expected_table(swept)
    if expected is not None:
        parts += ["## Expected best of k trials", EXPECTED, as_markdown(expected)]
    by_plot: dict[str, Swept] = {}
    for result in swept:
        parts.append(f"## {result.sweep.model} on {result.sweep.dataset.name} (sweep {result.sweep.sweep_id})")
        parts.append("\n".join(f"- {line}" for line in _about(result)))
        beginning = f"plots/{slug(result.sweep.dataset.name)}-"
        shown = [plot for plot in plots if plot.startswith(beginning)]
        if shown and by_plot.setdefault(shown[0], result) is result:  # a plot holds all models of its data set
            parts.append(f"![Validation accuracy against learning rate]({shown[0]})")
        if result.trials:
            parts.append(as_markdown(trials_table(result)))
    return "\n\n".join(parts) + "\n"


EXPECTED = (
    "How good the best of the first k trials is to be expected (validation accuracy): it compares models that were "
    "tuned with different budgets. Dodge et al., Show Your Work, EMNLP 2019, in the unbiased form of Tang et al., "
    "ACL 2020. A trial that diverged counts as a guess."
)


def warnings_of(swept: Sequence[Swept]) -> list[str]:
    """Return warnings about the sweeps, a sentence each."""
    return [f"Warning: {result.sweep.model}: {warning}." for result in swept for warning in _warnings(result)]


def _warnings(swept: Swept) -> list[str]:
    if swept.best is None:
        return ["no trial finished with a score, so there is nothing to choose from"] if swept.trials else []
    warnings = at_the_edge(swept.sweep, swept.trials, swept.best)
    if swept.best.status is Status.STOPPED:
        warnings.append("no trial was trained to the end; the best was stopped early")
    return warnings


def _about(swept: Swept) -> list[str]:
    sweep, best = swept.sweep, swept.best
    lines = []
    if best is not None and best.score is not None:
        over = f", mean of {len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else ""
        held = f"{sweep.recipe.validation_size:,} held-out images"
        lines.append(f"best: {describe_values(best.values)}: validation accuracy {percent(best.score)} on {held}{over}")
    lines.append(f"searched: {sweep.space.describe()}; {_how(sweep)}")
    lines.append(f"spent: {_spent(swept.cost)}")
    if swept.retrained:
        lines.append(f"retrained on all training images: test accuracy {_tested(swept.retrained).text}")
    if sweep.finished_at is None:
        lines.append("not finished: the same command goes on")
    lines += [f"warning: {warning}" for warning in _warnings(swept)]
    return lines


def _how(sweep: Sweep) -> str:
    kinds = {"random": "drawn evenly", "grid": "every combination", "optuna": "proposed by Optuna"}
    stopping = f"ASHA from epoch {sweep.grace_period}, reduction {sweep.reduction_factor:g}"
    how = f"{kinds.get(sweep.search, sweep.search)}; {stopping if sweep.scheduler == 'asha' else 'none stopped early'}"
    if len(sweep.seeds) > 1 and sweep.scheduler == "asha":
        how += f" (judged by seed {sweep.seeds[0]}; what is left is trained with all {len(sweep.seeds)})"
    return how


def _spent(cost: Cost) -> str:
    words = {"stopped early": cost.stopped, "diverged": cost.diverged, "failed or not done": cost.unfinished}
    details = [f"{number} {what}" for what, number in words.items() if number]
    return str(cost) + (f"; {', '.join(details)}" if details else "")


def _tested(records: Sequence[Record]) -> Cell:
    accuracies = [record.test_accuracy for record in records if record.test_accuracy is not None]
    if not accuracies:
        return Cell(MISSING)
    return Cell(mean_and_range(accuracies, percent), statistics.fmean(accuracies))


def found_table(swept: Sequence[Swept]) -> Table:
    """Return a row for each sweep: the best values, their accuracy, the cost; empty columns are left out."""
    shown = [column for column in FOUND_COLUMNS if any(column.read(result).text != MISSING for result in swept)]
    return table_of(shown, swept)


FOUND_COLUMNS: list[Column[Swept]] = [
    text_column("Model", lambda swept: swept.sweep.model),
    text_column("Data set", lambda swept: swept.sweep.dataset.name),
    text_column("Best", lambda swept: describe_values(swept.best.values) if swept.best else MISSING),
    number_column("Validation", lambda swept: swept.best.score if swept.best else None, percent),
    Column("Test, retrained", lambda swept: _tested(swept.retrained)),
    number_column("Trials", lambda swept: swept.cost.trials, count),
    number_column("Stopped early", lambda swept: swept.cost.stopped, count),
    number_column("Diverged", lambda swept: swept.cost.diverged, count),
    number_column("Epochs", lambda swept: swept.cost.epochs, count),
    number_column("CPU s", lambda swept: swept.cost.cpu_seconds or None, count),
    number_column("GPU s", lambda swept: swept.cost.gpu_seconds or None, count),
    text_column("Sweep", lambda swept: swept.sweep.sweep_id),
]


def expected_table(swept: Sequence[Swept]) -> Table | None:
    """Return k against the expected best of k trials, a column for each sweep; None without any score."""
    curves = [(result.sweep, expected_best(scores_of(result.trials))) for result in swept]
    longest = max((len(curve) for _, curve in curves), default=0)
    if not longest:
        return None
    # every k up to 10, then about ten a decade: a table of 200 rows says no more
    ks = [k for k in range(1, longest + 1) if k <= 10 or k % 10 ** (len(str(k)) - 1) == 0 or k == longest]
    models = [sweep.model for sweep, curve in curves if curve]

    def column(sweep: Sweep, curve: Sequence[float]) -> Column[int]:
        header = sweep.model if models.count(sweep.model) == 1 else f"{sweep.model} ({sweep.sweep_id})"
        return number_column(header, lambda k: curve[k - 1] if k <= len(curve) else None, percent)

    return table_of([text_column("k", str), *(column(sweep, curve) for sweep, curve in curves if curve)], ks)


def trials_table(swept: Swept) -> Table:
    """Return a row for each trial, the best marked."""

    def value_of(name: str) -> Callable[[Trial], Cell]:
        return lambda trial: Cell(
            describe_values({name: trial.values[name]}).removeprefix(f"{name} "), number_of(trial.values[name])
        )

    def score(trial: Trial) -> Cell:
        cell = cell_of(trial.score, percent)
        return Cell(f"{cell.text} (best)", cell.value) if trial is swept.best else cell

    columns = [
        *(Column(name, value_of(name)) for name in swept.sweep.space.names),
        Column("Validation", score),
        text_column("Status", lambda trial: str(trial.status)),
        number_column("Epochs", lambda trial: trial.epochs_done, count),
        number_column("Seconds", lambda trial: trial.seconds, "{:.1f}".format),
        text_column("Why", lambda trial: next((record.reason for record in trial.records if record.reason), "")),
    ]
    return table_of(columns, swept.trials)
