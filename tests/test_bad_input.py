"""What a user can do wrong: one message that names it and says what would be right, exit code 2, soon, no traceback.

Most tests call the command's ``main()`` in this process; a few start the command itself.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from running import Ran, command

from bench import report, run
from bench.learning.data import mnist

SYNTHETIC = ("--dataset", "synthetic")

Call = Callable[..., Ran]

pytestmark = pytest.mark.usefixtures("registries")


@pytest.fixture
def bench_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """``python -m bench.run`` with these arguments in an empty folder, without a process of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        return Ran(run.main([str(argument) for argument in arguments]), *capfd.readouterr())

    return call


def refused(ran: Ran, *words: str) -> None:
    """The form that every such message has."""
    assert ran.code == 2, ran
    assert "Traceback" not in ran.out + ran.err, ran
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran
    assert lines[0].startswith("error: "), ran
    for word in words:
        assert word in lines[0], ran


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "cnm"], ["model 'cnm'", "cnn, mobilenet", "did you mean 'cnn'"]),
        (["--models", "cnn", "cnn"], ["--models", "cnn is named twice"]),
        (["--models"], ["--models", "expected at least one argument"]),
        (["--dataset", "minst"], ["data set 'minst'", "mnist-5k", "did you mean 'mnist'"]),
        (["--epoch", "3"], ["unknown option '--epoch'", "did you mean '--epochs'"]),
        (["stray"], ["'stray'"]),
        (["--epochs", "0"], ["--epochs", "'0'", "greater than or equal to 1"]),
        (["--epochs", "two"], ["--epochs", "'two'", "integer"]),
        (["--lr", "-1"], ["--lr", "'-1'", "greater than 0"]),
        (["--lr", "nan"], ["--lr", "nan"]),
        (["--lr", "inf"], ["--lr", "inf"]),
        (["--batch-size", "0"], ["--batch-size"]),
        ([*SYNTHETIC, "--batch-size", "1001"], ["--batch-size", "1001", "1,000 training images of synthetic"]),
        (["--seeds", "-3"], ["--seeds"]),
        (["--momentum", "1"], ["--momentum", "'1'", "less than 1"]),
        (["--schedule", "linear"], ["--schedule", "'linear'", "one-cycle"]),
        (["--precision", "fp16"], ["--precision", "'fp16'", "bf16"]),
        (["--target-accuracy", "99"], ["--target-accuracy", "'99'", "less than or equal to 1"]),
        (["--stop-at-target"], ["--stop-at-target", "--target-accuracy"]),
        (["--target-accuracy", "0.9", "--validation-size", "0"], ["--target-accuracy", "--validation-size"]),
        (["--early-stopping", "3"], ["--early-stopping", "held-out training images", "give --validation-size N"]),
        (["--early-stopping", "0", "--validation-size", "9"], ["--early-stopping", "greater than or equal to 1"]),
        (["--max-seeds", "2"], ["--max-seeds", "'2'", "greater than or equal to 3"]),
        ([*SYNTHETIC, "--train-size", "1001"], ["--train-size", "1,001", "1,000 training images of synthetic"]),
        ([*SYNTHETIC, "--validation-size", "1000"], ["--validation-size", "leave none"]),
        ([*SYNTHETIC, "--validation-size", "990"], ["--batch-size", "64", "10", "990 are held out"]),
        ([*SYNTHETIC, "--train-size", "32"], ["--batch-size", "64", "32"]),
        ([*SYNTHETIC, "--image-size", "9"], ["--image-size", "cnn", "at least 10 pixels"]),
        (["--seeds", "1", "1"], ["--seeds", "1 is named twice"]),
        (["--bn-mode", "off"], ["--bn-mode", "'off'", "'eval' or 'train'"]),
        (["--workers-per-job", "0"], ["--workers-per-job"]),
        (["--workers-per-job", "2", "--gpus-per-worker", "0.5"], ["--gpus-per-worker", "--workers-per-job"]),
        (["--weights", "imagnet"], ["--weights", "did you mean 'imagenet'"]),
        ([*SYNTHETIC, "--weights", "nowhere.pth"], ["--weights", "nowhere.pth", "No such file"]),
        (["--weights", "mobilnet=none"], ["--weights", "'mobilnet'", "did you mean 'mobilenet'"]),
        (["--data-dir", "nowhere"], ["--data-dir", "nowhere", "not a folder"]),
        (["--models", "nowhere.py:net"], ["--models", "nowhere.py"]),
        (["--experiment", "nowhere.yaml"], ["--experiment", "nowhere.yaml"]),
        ([*SYNTHETIC, "--address", "localhost"], ["--address", "HOST:PORT"]),
        ([*SYNTHETIC, "--address", "127.0.0.1:9"], ["--address", "127.0.0.1:9", "nothing answers"]),
        (["--autoscaler", "8"], ["--autoscaler", "'8'", "4x8"]),
        (["--autoscaler", "4x8"], ["--autoscaler", "give --address"]),
        ([*SYNTHETIC, "--results", "/dev/null/results"], ["--results", "/dev/null/results"]),
        (["--results", "/proc/results"], ["--results", "/proc/results"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_argument_is_one_message(arguments: list[str], words: list[str], bench_run: Call) -> None:
    start = time.monotonic()
    refused(bench_run(*arguments), *words)
    assert time.monotonic() - start < 15


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "cnm"], ["model 'cnm'", "did you mean 'cnn'"]),
        ([*SYNTHETIC, "--batch-size", "1001"], ["--batch-size", "1001", "1,000 training images of synthetic"]),
        ([*SYNTHETIC, "--address", "127.0.0.1:9"], ["--address", "127.0.0.1:9", "nothing answers"]),
    ],
    ids=["before the data is read", "after the data is read", "before Ray is started"],
)
def test_the_command_itself_prints_that_message_and_nothing_else(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    start = time.monotonic()
    refused(command("bench.run", *arguments, cwd=tmp_path), *words)
    assert time.monotonic() - start < 15  # 5 s on an idle machine; most take below one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", ["unknown key 'epoch'", "batch_size", "did you mean 'epochs'"]),
        ("epochs: 0", ["epochs in mine.yaml", "greater than or equal to 1"]),
        ("lr: [1, 2]", ["lr in mine.yaml"]),
        ("- epochs", ["mine.yaml", "'epochs: 5'"]),
        ("a: [", ["mine.yaml", "not valid YAML"]),
        ("!!python/object/apply:os.system ['touch owned']", ["mine.yaml", "not valid YAML"]),
    ],
)
def test_a_wrong_preset_is_one_message(text: str, words: list[str], tmp_path: Path, bench_run: Call) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    refused(bench_run("--experiment", "mine.yaml"), *words)
    assert not (tmp_path / "owned").exists()


def test_a_file_of_the_users_that_raises_an_exception_is_named_with_it(tmp_path: Path, bench_run: Call) -> None:
    (tmp_path / "mine.py").write_text("import a_package_that_nobody_has\n")
    ran = bench_run("--models", "mine.py:net", "--dataset", "synthetic")
    refused(ran, "mine.py", "a_package_that_nobody_has")


def test_a_data_folder_without_data_is_named_with_the_file_that_is_missing(tmp_path: Path, bench_run: Call) -> None:
    refused(bench_run("--dataset", "mnist", "--data-dir", tmp_path), str(tmp_path), "train-images-idx3-ubyte")


@pytest.mark.heavy
def test_without_mnist_and_without_network_the_message_names_data_dir(tmp_path: Path) -> None:
    ran = command("bench.run", "--dataset", "mnist", cwd=tmp_path, BENCH_CACHE=str(tmp_path / "cache"))
    refused(ran, "mnist is not on disk", "--data-dir")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, images in (("train", 20), ("t10k", 10)):
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((images, 28, 28)))))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(images))))
    return folder


def test_idx_files_with_other_contents_are_refused(idx_folder: Path, bench_run: Call) -> None:
    ran = bench_run("--dataset", "mnist", "--data-dir", idx_folder)
    refused(ran, "train-images-idx3-ubyte.gz", "SHA-256", "ba891046")


def test_a_truncated_idx_file_is_called_damaged(idx_folder: Path, bench_run: Call) -> None:
    file = idx_folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    refused(bench_run("--dataset", "mnist", "--data-dir", idx_folder), "train-images-idx3-ubyte.gz", "damaged")


def test_a_whole_idx_file_is_called_what_it_is_and_not_to_be_deleted(
    idx_folder: Path, bench_run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, kmnist = idx_folder / "train-images-idx3-ubyte.gz", gzip.compress(idx(np.ones((20, 28, 28))), mtime=1)
    integers = bytes([0, 0, 0x0C, 3]) + np.array([5, 28, 28], ">u4").tobytes() + bytes(4 * 5 * 28 * 28)
    fashion = dataclasses.replace(mnist.FASHION_MNIST, sha256=(hashlib.sha256(idx(np.ones(7))).hexdigest(),) * 4)
    monkeypatch.setattr(mnist, "FASHION_MNIST", fashion)
    monkeypatch.setattr(mnist, "_KMNIST_MD5", [hashlib.md5(kmnist, usedforsecurity=False).hexdigest()])
    for content, words in (
        (integers, "is not mnist's file or is damaged; it is a whole IDX file of int32 numbers, 5 x 28 x 28 ("),
        (
            idx(np.zeros((3, 28, 28))),
            "is not mnist's file or is damaged; it is a whole IDX file of uint8 numbers, 3 x 28 x 28 (",
        ),
        (idx(np.ones(7)), "is fashion-mnist's file, not mnist's; --dataset fashion-mnist reads it"),
        (kmnist, "is torchvision/KMNIST's file, not mnist's; --dataset torchvision/KMNIST reads it"),
        (integers[:-1], "is not mnist's file or is damaged; get it again"),
        (b"\x00\x00\x0c", "is not mnist's file or is damaged; get it again"),
    ):
        file.write_bytes(content)
        ran = bench_run("--dataset", "mnist", "--data-dir", idx_folder)
        refused(ran, f"{file} {words}", "SHA-256")
        assert "delete" not in ran.err


def test_a_missing_idx_file_is_named(idx_folder: Path, bench_run: Call) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(bench_run("--data-dir", idx_folder), "t10k-labels-idx1-ubyte", str(idx_folder))


@pytest.mark.mnist
def test_mnist_with_one_flipped_byte_or_a_missing_end_is_called_damaged(
    tmp_path: Path, mnist_dir: Path, bench_run: Call
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(mnist_dir, folder)
    file = folder / "train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[12_345_678] ^= 1
    file.unlink()
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    start = time.monotonic()
    refused(bench_run("--dataset", "mnist", "--data-dir", folder), "train-images-idx3-ubyte", "damaged")
    assert time.monotonic() - start < 15
    (folder / "train-images-idx3-ubyte").write_bytes(content[:-1000])
    refused(bench_run("--dataset", "mnist", "--data-dir", folder), "train-images-idx3-ubyte")


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("model", ["cnn", "mobilenet"])
def test_weights_of_other_shapes_are_refused_with_the_shapes_expected(
    model: str, tmp_path: Path, bench_run: Call
) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 1, 5, 5)}, tmp_path / "other.pth")
    start = time.monotonic()
    ran = bench_run("--models", model, "--weights", "other.pth", *SYNTHETIC)
    refused(ran, "other.pth", f"do not fit {model}", "expected")
    assert time.monotonic() - start < 100  # 5 s on an idle machine


def test_weights_of_another_model_are_refused_with_the_name_that_is_missing(tmp_path: Path, bench_run: Call) -> None:
    safetensors.numpy.save_file({"fc.weight": np.zeros((10, 784), np.float32)}, tmp_path / "other.safetensors")
    ran = bench_run("--models", "cnn", "--weights", "other.safetensors", *SYNTHETIC)
    refused(ran, "other.safetensors", "do not fit cnn", "conv1.weight is missing")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(name: str, tmp_path: Path, bench_run: Call) -> None:
    (tmp_path / name).write_bytes(b"no weights at all" * 20)
    refused(bench_run("--models", "cnn", "--weights", name, *SYNTHETIC), name)


@pytest.mark.heavy
def test_weights_that_would_execute_code_are_refused_and_execute_nothing(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump(Malicious(owned), file)
    ran = command("bench.run", "--models", "cnn", "--weights", "evil.pth", *SYNTHETIC, cwd=tmp_path)
    refused(ran, "evil.pth")
    assert not owned.exists()


def test_a_report_without_results_names_the_command_that_makes_some(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(report.main(["--results", str(tmp_path)]), *capfd.readouterr())
    refused(ran, str(tmp_path), "bench.run")
