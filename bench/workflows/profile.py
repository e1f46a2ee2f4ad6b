"""A benchmark, and where its time went."""

from __future__ import annotations

from tabulate import tabulate

from bench.config.run import Options
from bench.reporting.store import Store
from bench.storage import Place
from bench.workflows.phases import Phases, within_runs
from bench.workflows.run import RUNS, run_benchmark


def profile_benchmark(options: Options, phases: Phases) -> int:
    """Do what ``bench.run`` does, then print the seconds of each phase; return the exit code.

    Raises:
        UserError: as :func:`bench.workflows.run.run_benchmark`.
    """
    code = run_benchmark(options, phases)
    rows = profile_table(phases, options.results)
    print(f"\nwhere the time went\n\n{tabulate(rows, ['Phase', 'Seconds', 'Share'], disable_numparse=True)}")
    return code


def profile_table(phases: Phases, results: Place) -> list[list[str]]:
    """Return rows of (phase, seconds, share), ended by their sum and the time on the clock."""
    seconds: dict[str, float] = {}
    records, _ = Store(results).records()
    for name, start, end in phases.spans:
        parts = within_runs(records, start, end) if name == RUNS else {name: end - start}
        for part, length in parts.items():
            seconds[part] = seconds.get(part, 0.0) + length
    rows = [[name, f"{length:.2f}", f"{100 * length / phases.total:.1f} %"] for name, length in seconds.items()]
    return [*rows, ["sum", f"{sum(seconds.values()):.2f}", ""], ["on the clock", f"{phases.total:.2f}", ""]]
