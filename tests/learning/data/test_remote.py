"""A data set in object storage is fetched once, and is the one that the same files on a disk are."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from factories import mnist_5k_file
from object_storage import EXPIRED, ObjectStorage
from PIL import Image

from bench.errors import UserError
from bench.learning.data import datasets
from bench.learning.data.remote import UNUSED_SECONDS, local_path
from bench.storage import place_of


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def fill(url: str) -> None:
    fs = fsspec.filesystem(url.partition(":")[0])
    pictures = {f"{url}/{kind}/{number}.png": png(number) for kind in ("cat", "dog") for number in range(5)}
    fs.pipe(pictures)
    fs.pipe_file(f"{url}-other/cat/9.png", b"of another data set")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_fetched_once_and_again_when_an_object_changes(s3: ObjectStorage, s3_url: str) -> None:
    fill(f"{s3_url}/pets")
    first = datasets.load(f"folder:{s3_url}/pets")
    fetched = [line for line in s3.asked if line.startswith("GET") and ".png" in line]
    assert len(fetched) == 10
    s3.asked.clear()
    assert datasets.load(f"folder:{s3_url}/pets").sha256 == first.sha256
    assert not [line for line in s3.asked if ".png" in line]

    fsspec.filesystem("s3").pipe_file(f"{s3_url}/pets/cat/0.png", png(99))
    assert datasets.load(f"folder:{s3_url}/pets").sha256 != first.sha256


def test_a_copy_of_before_goes_when_a_newer_one_is_fetched_and_nobody_has_used_it_for_a_day(
    memory_url: str, cache: Path
) -> None:
    fill(f"{memory_url}/pets")
    copies = []
    for number in range(3):
        fsspec.filesystem("memory").pipe_file(f"{memory_url}/pets/cat/0.png", png(100 + number))
        copies.append(local_path(f"{memory_url}/pets", "--dataset"))
        if number == 0:
            fill(f"{memory_url}/pets-other")
            other = local_path(f"{memory_url}/pets-other", "--dataset")
            for folder in (copies[0].parent, other.parent):
                os.utime(folder, (0, time.time() - UNUSED_SECONDS - 60))

    assert [copy.exists() for copy in copies] == [False, True, True]
    assert other.exists()


def test_it_is_the_data_set_that_the_same_files_on_a_disk_are(memory_url: str, tmp_path: Path) -> None:
    fill(f"{memory_url}/pets")
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "pets" / kind / f"{number}.png").write_bytes(png(number))
    remote, local = (datasets.load(f"folder:{root}/pets") for root in (memory_url, tmp_path))
    assert remote.info == local.info
    assert remote.class_names == ("cat", "dog")


def test_a_file_is_fetched_too(memory_url: str) -> None:
    content = io.BytesIO()
    arrays = {"images": np.zeros((20, 8, 8), np.uint8), "labels": np.arange(20) % 2}
    np.savez(content, **arrays)
    fsspec.filesystem("memory").pipe_file(f"{memory_url}/pets.npz", content.getvalue())
    data = datasets.load(f"npz:{memory_url}/pets.npz")
    assert (data.name, len(data.train.labels) + len(data.test.labels)) == ("npz:pets", 20)


def test_a_fetch_that_fails_leaves_nothing_that_is_taken_for_the_data(
    s3: ObjectStorage, s3_url: str, cache: Path
) -> None:
    fill(f"{s3_url}/pets")
    with (
        s3.failing(lambda method, path: EXPIRED if "dog/3.png" in path and method == "GET" else None),
        pytest.raises(UserError, match="expired"),
    ):
        datasets.load(f"folder:{s3_url}/pets")
    assert not list(cache.rglob("*.png"))
    assert len(datasets.load(f"folder:{s3_url}/pets").train.labels) == 8


@pytest.mark.parametrize("name", ["../up.png", "cat/../../up.png", "cat\\..\\up.png"])
def test_names_that_lead_out_of_the_folder_are_refused(
    name: str, memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(f"{memory_url}/pets")
    fs = fsspec.filesystem("memory")
    listed = fs.find(f"{memory_url}/pets", detail=True)
    hostile = {f"{fs._strip_protocol(memory_url)}/pets/{name}": {"size": 1, "type": "file"}}
    with monkeypatch.context() as patch, pytest.raises(UserError, match="rename it"):
        patch.setattr(type(fs), "find", lambda *about, **more: {**listed, **hostile})
        datasets.load(f"folder:{memory_url}/pets")
    assert not list(tmp_path.rglob("up.png"))


def test_a_place_with_nothing_is_refused(memory_url: str) -> None:
    with pytest.raises(UserError, match="there is nothing at memory://"):
        datasets.load(f"folder:{memory_url}/none")


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    assert local_path(str(tmp_path), "--dataset") == tmp_path


def test_the_folder_of_a_known_data_sets_files_may_be_a_url(memory_url: str) -> None:
    file = mnist_5k_file()
    fsspec.filesystem("memory").put(str(file), f"{memory_url}/digits/{file.name}")

    data = datasets.load("mnist-5k", place_of(f"{memory_url}/digits"))
    assert data.info == datasets.load("mnist-5k").info
    with pytest.raises(UserError, match=r"^--data-dir memory://\S+csv.gz is not a folder$"):
        datasets.load("mnist-5k", place_of(f"{memory_url}/digits/{file.name}"))
