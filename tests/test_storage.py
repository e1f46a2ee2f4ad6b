"""Places named by a URL: what is refused, with which sentence and how soon, and what reads results from there."""

from __future__ import annotations

import socket
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import record_of, result_of
from object_storage import BUCKET, DENIED, EXPIRED, ObjectStorage, free_port
from running import ROOT, command

from bench import compare, export, history, load_results, report, storage
from bench.config.history import HistoryOptions
from bench.config.run import Options
from bench.demo.answers import Shelf
from bench.errors import UserError
from bench.reporting import files
from bench.reporting.remote import open_store
from bench.reporting.store import Store
from bench.storage import StorageError, place_of, reach, url_of
from bench.workflows.run import prepare

# --- names -----------------------------------------------------------------------------------------------------------


def test_a_path_is_a_path_and_a_url_a_place_in_object_storage() -> None:
    assert place_of("results") == Path("results")
    assert place_of("file:///tmp/results") == Path("/tmp/results")
    for url in ("s3://bucket/pre/fix/", "memory://pre/fix"):
        place = place_of(url)
        assert not isinstance(place, Path)
        assert str(place) == url.rstrip("/")
        assert str(place / "runs" / "a.parquet") == url.rstrip("/") + "/runs/a.parquet"
    assert isinstance(HistoryOptions(versions=("a", "b"), page="h.html").page, Path)
    assert str(Options(results="memory://pre/fix").results) == "memory://pre/fix"


def test_the_name_of_a_place_says_in_which_account_it_is() -> None:
    for url in ("s3://bucket/pre/fix", "memory://pre/fix", "/tmp/results"):
        assert url_of(place_of(url)) == url
    # as universal_pathlib gives it, whose str() is abfss://box/pre/fix
    about = {"account_name": "acme", "use_listings_cache": False}
    azure: Any = types.SimpleNamespace(protocol="abfss", path="box/pre/fix", storage_options=about)
    assert url_of(azure) == "abfss://box@acme.dfs.core.windows.net/pre/fix"


@pytest.mark.parametrize("url", ["s3://", "s3:///", "nowhere://bucket/prefix"])
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"names no bucket|no file system is known for nowhere://"):
        place_of(url)


@pytest.mark.parametrize(
    ("url", "packages"),
    [
        ("s3://bucket/prefix", "'image-classifier-bench[storage]'"),
        ("gs://bucket/prefix", "'image-classifier-bench[storage]' gcsfs"),
        ("abfss://box@account/prefix", "'image-classifier-bench[storage]' adlfs"),
    ],
)
def test_without_the_packages_it_is_said_what_to_install(url: str, packages: str, tmp_path: Path) -> None:
    for name in ("upath", "s3fs", "gcsfs", "adlfs"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not installed')")
    ran = command("bench.report", "--results", url, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ran.code == 2, ran
    assert ran.err == f"error: {url} is in object storage, which needs more packages: pip install {packages}\n"


def test_a_folder_on_this_machine_needs_none_of_it(tmp_path: Path, modules_after: Callable[[str], set[str]]) -> None:
    store = Store(tmp_path / "results")
    store.prepare()
    store.write(result_of(record_of()))
    loaded = modules_after(f"from bench import report\nassert report.main(['--results', {str(store.root)!r}]) == 0")
    assert not {"fsspec", "upath", "s3fs", "botocore"} & loaded


# --- what cannot be reached ------------------------------------------------------------------------------------------


def refused(*arguments: str, tmp_path: Path, module: str = "bench.report", **env: str) -> str:
    """The one line that a command ends with, at once."""
    start = time.monotonic()
    ran = command(module, *arguments, cwd=tmp_path, **env)
    assert time.monotonic() - start < 15 + 10, "15 s, and the start of Python on a busy machine"
    assert ran.code == 2, ran
    assert ran.err.count("\n") == 1, ran
    assert ran.err.startswith("error: ")
    return ran.err


def test_a_wrong_bucket_is_named(s3: ObjectStorage, tmp_path: Path) -> None:
    for module, doing in (("bench.report", "read"), ("bench.run", "write to")):
        said = refused("--results", "s3://nobody-has-this/prefix", module=module, tmp_path=tmp_path, **s3.env)
        assert said == f"error: cannot {doing} s3://nobody-has-this/prefix: there is no bucket nobody-has-this\n"


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_benchmark_looks_at_the_bucket_before_anything_else(s3: ObjectStorage, dry_run: bool) -> None:
    options = Options(results="s3://nobody-has-this/prefix", dataset="folder:not-looked-for", dry_run=dry_run)
    with pytest.raises(StorageError, match="there is no bucket nobody-has-this"):
        prepare(options)


def test_missing_credentials_are_named(s3: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    said = refused("--results", f"s3://{BUCKET}/prefix", tmp_path=tmp_path)
    assert "no credentials were found" in said


def test_an_endpoint_where_nobody_listens_is_said_not_to_answer(s3: ObjectStorage, tmp_path: Path) -> None:
    env = {**s3.env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    assert "the storage does not answer" in refused("--results", f"s3://{BUCKET}/prefix", tmp_path=tmp_path, **env)


@pytest.mark.slow
def test_an_endpoint_that_says_nothing_is_given_up_in_time(s3: ObjectStorage, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        env = {**s3.env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        said = refused("--results", f"s3://{BUCKET}/prefix", tmp_path=tmp_path, **env)
    assert "no answer within 12 s" in said


def test_reaching_a_place_says_why_it_cannot(s3: ObjectStorage, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(s3_url)
    reach(place)
    reach(place, to_write=True)
    with s3.failing(lambda method, path: DENIED if method == "PUT" else None):
        reach(place)
        with pytest.raises(StorageError, match=f"cannot write to {s3_url}: access is refused"):
            reach(place, to_write=True)
    with s3.failing(lambda method, path: EXPIRED), pytest.raises(StorageError, match="token has expired"):
        reach(place)
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.5)
    with s3.failing(lambda method, path: 3.0), pytest.raises(StorageError, match="no answer within"):
        reach(place)


# --- commands that read from there -----------------------------------------------------------------------------------


@pytest.fixture(params=["memory_url", "gs_url"])
def filled(request: pytest.FixtureRequest) -> str:
    """The URL of a results folder with two models."""
    url: str = request.getfixturevalue(request.param)
    store = open_store(place_of(url))
    store.prepare()
    for seed in range(3):
        store.write(result_of(record_of("cnn", seed=seed, test_accuracy=0.98 + seed / 1000)))
        store.write(result_of(record_of("mobilenet", seed=seed, test_accuracy=0.8 + seed / 1000)))
    return url


def test_reports_and_comparisons_are_made_from_there(
    filled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--results", filled]) == 0
    assert f"written: {filled}/summary.md" in capsys.readouterr().out
    assert b"98.10 %" in files.read(place_of(filled) / "summary.md")
    assert compare.main(["cnn", "mobilenet", "--results", filled]) == 0
    assert "cnn" in capsys.readouterr().out
    assert compare.main([filled, filled]) == 0
    assert history.main([filled, filled, "--page", f"{filled}/h.html"]) == 0
    assert files.read(place_of(filled) / "h.html").startswith(b"<!doctype html>")
    assert export.main(["--results", filled, "--csv", str(tmp_path / "runs.csv")]) == 0
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 7
    capsys.readouterr()
    assert export.main(["--results", filled, "--mlflow"]) == 2
    assert "--mlflow needs a URI here" in capsys.readouterr().err
    assert len(load_results(filled).runs) == 6
    assert len(load_results(filled).epochs) == 30


def test_results_below_a_folder_are_proposed(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(place_of(f"{filled}/inner/a"))
    store.prepare()
    store.write(result_of(record_of()))
    assert compare.main([f"{filled}/inner", filled]) == 0
    assert compare.main([f"{filled}/nothing", filled]) == 2
    assert "holds no runs" in capsys.readouterr().err


def test_where_there_are_no_runs_it_is_said(memory_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for main, more in ((report.main, []), (export.main, ["--csv", "x.csv"])):
        assert main(["--results", memory_url, *more]) == 2
        said = capsys.readouterr().err
        assert said == f"error: --results {memory_url} holds no runs; python -m bench.run makes some\n"


def test_the_drawing_page_loads_checkpoints_from_there_and_again_when_they_change(memory_url: str) -> None:
    store = open_store(place_of(memory_url))
    store.write_files("a run", None, b"no checkpoint")
    shelf = Shelf(store.root)
    assert shelf.models()[0] == {}
    (problem,) = shelf.models()[1]
    assert "a run.safetensors" in problem
    store.write_files("another run", None, b"no checkpoint either")
    assert len(shelf.models()[1]) == 2
