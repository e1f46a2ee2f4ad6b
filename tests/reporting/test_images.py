"""Test images kept beside the results: python -m pytest tests/reporting/test_images.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.errors import UserError
from bench.reporting import images
from bench.reporting.images import load, save

SHA = "a1" * 32
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
LABELS = np.arange(20) % 10
NAMES = tuple("0123456789")


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    file = save(tmp_path, SHA, PIXELS, LABELS, NAMES, dataset="mnist 5k/x")

    assert file == tmp_path / "images" / f"mnist_5k_x-{SHA[:12]}.npz"
    kept = load(tmp_path, SHA)
    assert kept is not None
    assert np.array_equal(kept.images, PIXELS)
    assert np.array_equal(kept.labels, LABELS)
    assert kept.class_names == NAMES


def test_it_is_written_once_and_always_the_same(tmp_path: Path) -> None:
    file = save(tmp_path, SHA, PIXELS, LABELS, NAMES)
    assert file is not None
    before = file.stat().st_mtime_ns

    assert save(tmp_path, SHA, PIXELS, LABELS, NAMES) == file
    assert file.stat().st_mtime_ns == before
    (tmp_path / "other").mkdir()
    again = save(tmp_path / "other", SHA, PIXELS, LABELS, NAMES)
    assert again is not None
    assert again.read_bytes() == file.read_bytes()


def test_absent_and_damaged_files_are_none_and_are_written_again(tmp_path: Path) -> None:
    assert load(tmp_path, SHA) is None
    file = save(tmp_path, SHA, PIXELS, LABELS, NAMES)
    assert file is not None
    whole = file.read_bytes()
    for damaged in (whole[:-30], whole[:2000] + b"x" * 100 + whole[2100:], b"", b"no archive"):
        file.write_bytes(damaged)
        assert load(tmp_path, SHA) is None
        save(tmp_path, SHA, PIXELS, LABELS, NAMES)
        assert file.read_bytes() == whole


def test_another_data_set_with_the_same_beginning_is_not_taken_for_it(tmp_path: Path) -> None:
    save(tmp_path, SHA, PIXELS, LABELS, NAMES)

    assert load(tmp_path, SHA[:12] + "0" * 52) is None


def test_large_images_are_shrunk_smoothly_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_MB", 0.02)
    large = np.zeros((5, 3, 64, 64), dtype=np.uint8)  # 0.06 MB
    large[:, :, ::2] = 200  # stripes: taking single rows would make all of it white or black

    save(tmp_path, SHA, large, np.zeros(5, np.int64), NAMES)

    kept = load(tmp_path, SHA)
    assert kept is not None
    assert kept.images.shape == (5, 3, 36, 36)
    assert kept.images.nbytes <= 20_000
    assert abs(kept.images[:, :, 4:-4, 4:-4].astype(float) - 100).max() < 30


@pytest.mark.parametrize(("height", "width", "small"), [(200, 100, (50, 25)), (30, 120, (12, 50)), (50, 50, (50, 50))])
def test_images_are_shrunk_in_proportion(height: int, width: int, small: tuple[int, int]) -> None:
    picture = np.linspace(0, 255, width, dtype=np.uint8)
    large = np.broadcast_to(picture, (2, 3, height, width))

    found = images.shrunk(large, 50)

    assert found.shape == (2, 3, *small)
    assert (np.diff(found.astype(int), axis=3) >= 0).all()


def test_the_names_of_the_classes_are_read_alone(tmp_path: Path) -> None:
    file = save(tmp_path, SHA, PIXELS, LABELS, NAMES)
    assert file is not None

    assert images.class_names(tmp_path, SHA) == NAMES
    assert images.class_names(tmp_path, "b" * 64) is None
    file.write_bytes(b"no archive")
    assert images.class_names(tmp_path, SHA) is None


def test_large_images_of_few_pixels_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_MB", 0.01)

    assert save(tmp_path, SHA, PIXELS, LABELS, NAMES) is None
    assert not (tmp_path / "images").exists()


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("in the way")

    with pytest.raises(UserError, match="cannot write to"):
        save(tmp_path, SHA, PIXELS, LABELS, NAMES)
