"""The record of a run: what was asked for, what was measured, and with which version of this program."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.reporting.scores import scores_of
from bench.spec import Outcome, Record, Result, Run, Scores


def assemble(
    run: Run, outcome: Outcome, *, attempts: int = 1, contended: bool | None = None, git_commit: str | None = None
) -> Result:
    """Return a run's record, with all else that the store keeps of the run.

    Args:
        run: what was asked for.
        outcome: what its worker measured.
        attempts: how often it was started, in this command and earlier ones.
        contended: whether other runs shared the machine meanwhile; None is unknown.
        git_commit: the commit of this program, from :func:`git_commit`.
    """
    predictions = outcome.predictions
    scores = outcome.scores or Scores()
    if predictions is not None:
        scores = scores_of(predictions, run.dataset.classes)
    has_model = outcome.checkpoint is not None or outcome.model_stored
    record = Record(
        run_id=run.id,
        job_id=run.job_id,
        dataset=run.dataset.name,
        dataset_sha256=run.dataset.sha256,
        **run.dataset.model_dump(exclude={"name", "sha256"}),
        **run.model_dump(exclude={"dataset", "recipe", "input"}),
        **run.recipe.model_dump(),
        **run.input.columns(),
        **outcome.measured.model_dump(),
        **scores.model_dump(),
        attempts=attempts,
        contended=contended,
        checkpoint=f"checkpoints/{run.id}.safetensors" if has_model else None,
        git_commit=git_commit,
    )
    return Result(record, outcome.epochs, predictions, outcome.checkpoint)


def git_commit() -> str | None:
    """Return the commit of this program, with '+' if files were changed since; None outside a git checkout."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", __file__):  # installed into an environment inside somebody's checkout
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return None
