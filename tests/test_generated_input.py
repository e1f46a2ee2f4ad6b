"""Hundreds of generated bad inputs: each ends in one clear message and exit code 2 or 3, soon, without a traceback."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import report, run
from bench.config.command_line import flag
from bench.config.run import Options
from bench.reporting.store import Store
from bench.spec import Record, Result

generated = settings(
    max_examples=40,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
NUMBERS = [name for name in Options.model_fields if name in {"epochs", "batch_size", "lr", "seeds", "timeout"}]


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run bench.run in this process; it must refuse before it starts Ray."""
    start = time.monotonic()
    code = run.main(arguments)
    out, err = capfd.readouterr()
    assert code in (2, 3), (arguments, out, err)
    assert err.startswith("error: "), (arguments, err)
    assert "Traceback" not in err
    assert time.monotonic() - start < 20
    return err


@generated
@given(name=st.sampled_from(NUMBERS), value=st.sampled_from(["0.5x", "-1", "nan", "", " ", "1e999", "--", "١x", "0x"]))
def test_a_number_that_is_none_is_refused_naming_its_flag(
    name: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert flag(name) in refused([f"{flag(name)}={value}", "--dataset=synthetic"], capfd)


@generated
@given(word=WORDS.filter(lambda word: word not in {"cnn", "mobilenet"}), where=st.sampled_from(["models", "dataset"]))
def test_a_name_of_no_model_or_data_set_is_refused(word: str, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    if word in ("auto", "mnist", "mnist-5k", "fashion-mnist", "synthetic"):
        return
    refused([f"{flag(where)}={word}", *(["--dataset=synthetic"] if where == "models" else [])], capfd)


@generated
@given(
    content=st.one_of(
        st.binary(min_size=1, max_size=60),
        st.dictionaries(WORDS, st.integers(), min_size=1, max_size=3).map(lambda value: yaml.safe_dump(value).encode()),
        st.sampled_from(list(Options.model_fields)).map(lambda name: f"{name}: {{a: [1]}}".encode()),
        st.lists(st.integers(), max_size=3).map(lambda value: yaml.safe_dump(value).encode()),
    )
)
def test_a_preset_of_any_content_is_refused_in_one_message(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "preset.yaml").write_bytes(content)
    refused(["--experiment", str(tmp_path / "preset.yaml"), "--models=cnn", "--dataset=synthetic", "--lr=-1"], capfd)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@generated
@given(cut=st.integers(0, 200), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=3))
def test_damaged_idx_files_are_refused_naming_the_file(
    cut: int, flips: list[tuple[int, int]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    (tmp_path / "data").mkdir()
    for name, images in (("train", 5), ("t10k", 5)):
        for kind, array in (("images-idx3", np.zeros((images, 28, 28))), ("labels-idx1", np.zeros(images))):
            content = bytearray(gzip.compress(idx(array), mtime=0))
            for place, bits in flips:
                content[place % len(content)] ^= bits
            (tmp_path / "data" / f"{name}-{kind}-ubyte.gz").write_bytes(content[: len(content) - cut])
    err = refused(["--models=cnn", "--dataset=mnist", "--data-dir", str(tmp_path / "data")], capfd)
    assert "train-images-idx3-ubyte.gz" in err


@generated
@given(
    ending=st.sampled_from([".pth", ".pt", ".safetensors"]),
    noise=st.binary(max_size=300),
    cut=st.floats(0, 0.99),
    whole=st.booleans(),
)
def test_damaged_weights_are_refused_naming_the_file(
    ending: str, noise: bytes, cut: float, whole: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"weights{ending}"
    if whole:  # a real file of the wrong shapes, cut off somewhere
        if ending == ".safetensors":
            safetensors.numpy.save_file({"conv1.weight": np.zeros((4, 4), np.float32)}, file)
        else:
            torch.save({"conv1.weight": torch.zeros(4, 4)}, file)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * cut)] + noise[:8])
    else:
        file.write_bytes(noise)
    assert file.name in refused(["--models=cnn", "--dataset=synthetic", "--weights", str(file)], capfd)


@pytest.mark.heavy
@settings(generated, max_examples=8)
@given(
    foreign=st.dictionaries(
        st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True), st.binary(max_size=400), min_size=5, max_size=10
    )
)
def test_a_report_names_the_files_that_are_no_records_and_shows_the_others(
    foreign: dict[str, bytes],
    tmp_path: Path,
    make_record: Callable[..., Record],
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(tmp_path / "results", ignore_errors=True)
    store = Store(tmp_path / "results")
    store.prepare()
    store.write(Result(make_record()))
    for name, noise in foreign.items():
        (store.root / "runs" / f"x{name}.parquet").write_bytes(noise)
    assert report.main(["--results", str(store.root)]) == 0
    out, err = capfd.readouterr()
    for name in foreign:
        assert f"x{name}.parquet" in err
    assert "Traceback" not in err
    assert "98.76 %" in out, "the good record is reported"
