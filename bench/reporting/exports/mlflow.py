"""Stored runs in MLflow: an experiment for each data set, an MLflow run for each run, identified by a tag."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from bench.errors import UserError
from bench.reporting.exports.common import digest, facts, figures, parameters, plots
from bench.reporting.store import Store
from bench.spec import Record, Status

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_ID_TAG = "bench.run_id"
"""The tag with a run's id, by which the next export finds it."""
DIGEST_TAG = "bench.digest"
"""The tag that is written last: an MLflow run without it is incomplete and is replaced."""
TIMEOUT_SECONDS = 5
"""The seconds that a server may take to answer a request."""
QUIETLY = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment variables against long waits and messages of MLflow itself."""


def export_mlflow(store: Store, records: Sequence[Record], uri: str) -> str:
    """Write runs to ``uri``, except those that are there unchanged; return a line that says what was done, and one
    for each run whose predictions cannot be used.

    Raises:
        UserError: the URI is malformed or nothing answers there, and nothing was changed; or MLflow failed midway, and
            the same command again completes the export.
    """
    try:
        urlsplit(uri)
    except ValueError as error:
        raise UserError(f"--mlflow {uri} is no address: {error}") from None
    for name, value in QUIETLY.items():
        os.environ.setdefault(name, value)  # read when mlflow is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = _client(uri)
        from mlflow.exceptions import MlflowException

        added = replaced = 0
        problems: list[str] = []
        try:
            for record in records:
                experiment = _experiment(client, record, uri)
                there = client.search_runs([experiment], f"tags.`{RUN_ID_TAG}` = '{record.run_id}'", max_results=100)
                current = digest(record)
                same = [run for run in there if run.data.tags.get(DIGEST_TAG) == current]
                stale = [run for run in there if run not in same[:1]]
                if not same:
                    _write(client, experiment, store, record, problems)
                    added += not stale
                    replaced += bool(stale)
                for run in stale:  # after the new one is whole, so that an interruption loses nothing
                    client.delete_run(run.info.run_id)
        except MlflowException as error:
            raise UserError(
                f"--mlflow {_without_password(uri)}: {_short(error)}; the same command again completes the export"
            ) from None
    unchanged = len(records) - added - replaced
    line = f"{_without_password(uri)}: {added} added, {replaced} replaced, {unchanged} there already"
    return "\n".join([line, *problems])


def uri_of(file: Path) -> str:
    """Return the URI by which MLflow opens a SQLite file; signs that have a meaning in a URI are escaped where needed.

    Raises:
        UserError: this version of SQLAlchemy cannot name the file.
    """
    path = str(file.absolute())
    for uri in (f"sqlite:///{path}", "sqlite:///" + re.sub("[?#%]", lambda sign: quote(sign[0]), path)):
        if "?" not in uri and _database(uri) == file.absolute():
            return uri
    raise UserError(f"--mlflow: {path} cannot be named in an address by this version of SQLAlchemy; rename the folder")


def _database(uri: str) -> Path:
    """Return the file that a SQLite URI names.

    Raises:
        UserError: it names none, or has a ``?`` in its path.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError) as error:
        raise UserError(f"--mlflow {uri} is no address: {error}") from None
    if not url.database or url.database == ":memory:":
        raise UserError(f"--mlflow {uri} names no file; write sqlite:////FOLDER/mlflow.db")
    if "/" in uri.partition("?")[2]:
        raise UserError(f"--mlflow {uri}: what follows ? in an address is no path; write %3F for a ? in a name")
    return Path(url.database).absolute()


def _client(uri: str) -> MlflowClient:
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _knock(uri)
    elif scheme == "sqlite":
        folder = _database(uri).parent
        if not folder.is_dir():
            raise UserError(f"--mlflow {uri}: there is no folder {folder}")
        _check_writable(uri, folder)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    as_written = Path(uri.removeprefix("sqlite:///")).parent
    absent = [folder for folder in (as_written, *as_written.parents) if scheme == "sqlite" and not folder.exists()]
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # fails unless an MLflow server or store answers
    except Exception as error:
        if not isinstance(error, (MlflowException, ImportError, OSError, ValueError)) and not _of_a_database(error):
            raise
        raise UserError(f"--mlflow {_without_password(uri)}: {_short(error)}; nothing was changed") from None
    finally:
        for folder in absent:  # MLflow makes the folder as it is written in the URI, escapes and all
            with suppress(OSError):
                folder.rmdir()
    return client


def _knock(uri: str) -> None:
    """Check that the server answers, since MLflow itself would try again for minutes."""
    import requests

    try:
        requests.get(uri, timeout=TIMEOUT_SECONDS)
    except requests.RequestException as error:
        reason = "no answer in time" if isinstance(error, requests.Timeout) else "nothing answers there"
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.SSLError)):
            reason = _short(error)
        raise UserError(f"--mlflow {_without_password(uri)}: {reason}; nothing was changed") from None


def _check_writable(uri: str, folder: Path) -> None:
    """Check that SQLite can write in its folder, since MLflow itself would try again for minutes."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        file = Path(uri.removeprefix("sqlite:///"))
        if file.exists():
            file.open("r+b").close()
    except OSError as error:
        raise UserError(f"--mlflow {uri}: cannot write there ({error.strerror}); nothing was changed") from None


def _of_a_database(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in ("sqlalchemy", "sqlite3", "alembic", "requests")


def _experiment(client: MlflowClient, record: Record, uri: str) -> str:
    """Return the id of the data set's experiment, made or restored if need be."""
    name = f"image classifiers on {record.dataset}"
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        if existing.lifecycle_stage != "active":
            client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)
    artifacts = None
    if uri.startswith("sqlite:"):  # beside the database, not in the folder that the command runs in
        artifacts = (_database(uri).parent / "mlflow-artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=artifacts))


def _write(client: MlflowClient, experiment: str, store: Store, record: Record, problems: list[str]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    started, ended = (int(time.timestamp() * 1000) for time in (record.started_at, record.ended_at))
    tags = {"mlflow.runName": record.run_id, RUN_ID_TAG: record.run_id}
    run: Any = client.create_run(experiment, start_time=started, tags=tags)
    run_id = run.info.run_id
    metrics = [Metric(name, value, ended, 0) for name, value in figures(record).items()]
    at = started
    for epoch in store.epochs(record.run_id):
        at += int(1000 * epoch.seconds)
        measured = epoch.model_dump(exclude={"run_id", "epoch"}, exclude_none=True)
        metrics += [
            Metric(f"epoch_{name.removeprefix('epoch_')}", value, at, epoch.epoch) for name, value in measured.items()
        ]
    params = [Param(name, str(value)) for name, value in parameters(record).items()]
    described = [RunTag(f"bench.{name}", value) for name, value in facts(record).items() if name != "run_id"]
    client.log_batch(run_id, metrics=metrics[:1000], params=params, tags=described)
    for first in range(1000, len(metrics), 1000):  # MLflow's limit for one request
        client.log_batch(run_id, metrics=metrics[first : first + 1000])
    with tempfile.TemporaryDirectory() as folder:
        for name, png in plots(store, record, problems):
            file = Path(folder, f"{name}.png")
            file.write_bytes(png)
            client.log_artifact(run_id, str(file), "plots")
    client.set_tag(run_id, DIGEST_TAG, digest(record))
    client.set_terminated(run_id, "FINISHED" if record.status is Status.OK else "FAILED", end_time=ended)


def _without_password(uri: str) -> str:
    password = urlsplit(uri).password
    return uri if password is None else uri.replace(f":{password}@", ":***@", 1)


def _short(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
