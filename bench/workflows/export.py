"""The export of stored runs to each place that the user named; MLflow first, as its server may not answer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from bench.config.export import LOCAL, ExportOptions
from bench.errors import UserError
from bench.reporting.exports.csv import export_csv
from bench.reporting.files import local_copy
from bench.reporting.formats import counted
from bench.reporting.store import Store
from bench.spec import Record, Status
from bench.storage import Place


def export(options: ExportOptions) -> None:
    """Export the stored runs to each place that ``options`` name, and print a line for each.

    Raises:
        UserError: no runs, a place that cannot be written, a server that does not answer, a package that is missing.
    """
    store = Store(options.results)
    records, problems = store.records() if store.holds_runs() else ([], [])
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    if not records:
        raise UserError(f"--results {store.root} holds no runs; python -m bench.run makes some")
    if options.mlflow is not None and _needs("mlflow", "--mlflow"):
        from bench.reporting.exports.mlflow import export_mlflow, uri_of

        uri = options.mlflow
        if uri == LOCAL:
            if not isinstance(store.root, Path):
                raise UserError(f"--mlflow needs a URI here: {store.root} cannot hold its SQLite file")
            uri = uri_of(store.root / "mlflow.db")
        print(export_mlflow(store, records, uri))
    if options.tensorboard is not None and _needs("tensorboardX", "--tensorboard"):
        from bench.reporting.exports.tensorboard import export_tensorboard

        print(export_tensorboard(store, records, options.tensorboard))
    if options.csv is not None:
        print(export_csv(records, options.csv))
    if options.onnx is not None and _needs("onnx", "--onnx") and _needs("onnxruntime", "--onnx"):
        _export_onnx(store, records, options.onnx, options.data_dir)


def _needs(module: str, flag: str) -> bool:
    """Return True; raise a UserError if a package that an option needs is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{flag} needs the package {module}: pip install 'image-classifier-bench[export]'")
    return True


def _export_onnx(store: Store, records: list[Record], folder: Path, data_dir: Place | None) -> None:
    from bench.learning.checkpoint import load_trained
    from bench.learning.models import weights
    from bench.learning.onnx import export_onnx, images_to_check

    finished = [record for record in records if record.status is Status.OK and record.checkpoint is not None]
    if not finished:
        raise UserError(f"--onnx: {store.root} holds no trained model of a finished run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--onnx: cannot write to {folder}: {error.strerror or error}") from None
    problems: list[str] = []
    checkpoints, written = store.checkpoints(), 0
    for record in finished:
        checkpoint = checkpoints.get(record.run_id)
        if checkpoint is None:
            print(f"left out: {store.root / str(record.checkpoint)} is not there any more")
            continue
        try:
            with local_copy(checkpoint) as file:
                trained = load_trained(weights.read(file, f"file {file.name}"))
            images, source = images_to_check(record.dataset, record.dataset_sha256, data_dir)
            result = export_onnx(trained, images, folder / f"{record.run_id}.onnx")
        except UserError as error:  # of this model only
            problems.append(str(error))
            continue
        written += 1
        ties = f" ({result.ties} ties within 1e-4)" if result.ties else ""
        print(
            f"{result.file}: agrees with PyTorch on {result.images:,} {source}{ties}, "
            f"probabilities within {result.difference:.1e}"
        )
    if problems:
        rest = f"; {counted(written, 'other model')} written" if written else ""
        raise UserError(f"--onnx: {'; '.join(problems)}{rest}")
