"""Data sets in files: folders of pictures, .npz and .csv files; their splits, classes and digests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import UserError
from bench.learning.data import datasets
from bench.learning.data.datasets import Dataset, Reading
from bench.learning.data.pixels import PictureError
from bench.learning.data.streaming import Streamed


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BENCH_CACHE", str(folder))
    return folder


def picture(file: Path, seed: int, *, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": ()}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of each of two classes, all of one size."""
    for number, name in enumerate(("cat", "dog")):
        for index in range(20):
            picture(tmp_path / "photos" / name / f"{index}.png", 100 * number + index)
    return tmp_path / "photos"


def load(folder: Path, **reading: object) -> Dataset:
    return datasets.load(f"folder:{folder}", reading=Reading(**reading))  # type: ignore[arg-type]


def refused(name: str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        datasets.load(name)
    for word in words:
        assert word in str(caught.value)


def test_sub_folders_are_classes_and_a_fifth_of_each_is_tested_on(photos: Path) -> None:
    data = load(photos)

    assert (data.name, data.class_names) == ("folder:photos", ("cat", "dog"))
    assert np.bincount(data.train.labels).tolist() == [16, 16]
    assert np.bincount(data.test.labels).tolist() == [4, 4]
    assert data.train.images.shape == (32, 3, 10, 12)
    assert "8 pictures were drawn as the test split" in str(data.note)
    assert np.bincount(load(photos, test_fraction=0.5).test.labels).tolist() == [10, 10]


def test_the_pixels_are_those_of_the_files(photos: Path) -> None:
    data = load(photos)

    given = {np.moveaxis(np.asarray(Image.open(file)), -1, 0).tobytes() for file in photos.rglob("*.png")}
    read = {image.tobytes() for split in (data.train, data.test) for image in split.images}
    assert read == given


def test_the_split_depends_on_the_contents_not_on_names_or_order(photos: Path) -> None:
    before = load(photos)
    for index, file in enumerate(sorted((photos / "cat").iterdir(), reverse=True)):
        file.rename(file.with_name(f"renamed-{index}.png"))

    after = load(photos)

    assert {image.tobytes() for image in after.test.images} == {image.tobytes() for image in before.test.images}


def test_a_changed_picture_changes_the_digest(photos: Path) -> None:
    before = load(photos).sha256
    assert load(photos).sha256 == before

    picture(photos / "cat" / "3.png", 999)

    assert load(photos).sha256 != before


@pytest.mark.parametrize("spelling", [("train", "test"), ("Training", "Val"), ("train", "valid"), ("trn", "tst")])
def test_splits_are_never_classes(spelling: tuple[str, str], tmp_path: Path) -> None:
    for split in spelling:
        for name in ("a", "b"):
            for index in range(3):
                picture(tmp_path / split / name / f"{index}.png", hash((split, name, index)) % 1000)

    data = load(tmp_path)

    assert data.class_names == ("a", "b")
    assert (len(data.train.labels), len(data.test.labels)) == (6, 6)


def test_a_split_without_the_other_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "0.png", 0)
    refused(f"folder:{tmp_path}", "train/", "not the other split")


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    for name in ("train", "tram", "bus"):
        for index in range(3):
            picture(tmp_path / name / f"{index}.png", len(name) * 10 + index)

    assert load(tmp_path).class_names == ("bus", "train", "tram")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train/0.png", "test/0.png"], ["test/ and train/ with pictures but no sub-folders"]),
        (["train/0.png", "test/0.png", "cat/0.png"], ["test/ and train/ with pictures but no sub-folders"]),
        (["train/0.png"], ["train/ with pictures but no sub-folders"]),
        (["train/a/0.png", "train/b/0.png", "test/0.png"], ["train/ and test/ with pictures but no sub-folders"]),
        (["train/a/0.png", "cat/0.png", "dog/0.png"], ["train/ but not the other split", "a folder for each class"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_folders_that_may_be_splits_or_classes_are_refused(files: list[str], words: list[str], tmp_path: Path) -> None:
    for number, file in enumerate(files):
        picture(tmp_path / file, number)
    refused(f"folder:{tmp_path}", *words)


def test_pictures_in_formats_that_are_not_read_are_counted_and_named(photos: Path) -> None:
    (photos / "cat" / "IMG_1.HEIC").write_bytes(b"of a phone")
    data = load(photos)
    assert len(data.train.labels) + len(data.test.labels) == 40
    assert "1 picture is passed over, as the format is not read (IMG_1.HEIC)" in str(data.note)


@pytest.mark.parametrize("room", [True, False])
def test_dark_and_light_pictures_of_16_bits_are_scaled_alike(
    room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not room:
        monkeypatch.setenv("BENCH_DECODED_GB", "0")
        monkeypatch.setenv("BENCH_MEMORY_GB", "0")
    for number, top in enumerate((300, 60000)):
        for index in range(5):
            pixels = np.full((6, 6), top - index, np.uint16)
            pixels[0, 0] = 257
            (tmp_path / str(number)).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / str(number) / f"{index}.png")

    data = load(tmp_path)

    assert (data.train.storage == "mapped") == room
    images = np.concatenate([data.train.array, data.test.array])
    assert (images[:, 0, 0, 0] == 1).all()  # 257 of 65,535
    assert set(images[:, 0, 5, 5]) == {1, round(60000 / 257)}


def test_class_names_match_exactly_before_they_match_in_a_simplified_form(tmp_path: Path) -> None:
    for name in ("Cat", "cat", "sea lion"):
        picture(tmp_path / "train" / name / "0.png", len(name))
    for name in ("cat", "Sea_Lion"):
        picture(tmp_path / "test" / name / "0.png", 50 + len(name))
    data = load(tmp_path)
    assert [data.class_names[label] for label in data.test.labels] == ["sea lion", "cat"]

    picture(tmp_path / "test" / "CAT" / "0.png", 99)  # Cat or cat?
    refused(f"folder:{tmp_path}", "'CAT'")


def test_pictures_of_different_sizes_are_read_at_the_size_that_is_needed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(5):
            picture(tmp_path / name / f"{index}.jpg", index, size=(40 + 10 * index, 60))
    data = load(tmp_path)

    large = data.at(224)

    assert large.train.images.shape == (8, 3, 224, 224)
    assert data.at(32).test.images.shape == (2, 3, 32, 32)
    assert large.sha256 == data.sha256


def test_grey_pictures_stay_grey_and_one_in_colour_makes_all_of_them_colour(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(3):
            picture(tmp_path / name / f"{index}.png", index, mode="L")
    assert load(tmp_path).channels == 1

    picture(tmp_path / "a" / "3.png", 3)

    assert load(tmp_path).channels == 3


def test_unreadable_pictures_are_named_counted_and_left_out_only_when_allowed(photos: Path) -> None:
    (photos / "cat" / "torn.png").write_bytes((photos / "cat" / "0.png").read_bytes()[:40])
    (photos / "dog" / "words.png").write_text("no picture")

    refused(f"folder:{photos}", "2 of 42 pictures cannot be read", "torn.png", "--skip-unreadable 2")

    data = load(photos, skip_unreadable=2)
    assert len(data.train.labels) + len(data.test.labels) == 40
    assert "2 of 42 pictures cannot be read" in str(data.note)


@pytest.mark.parametrize("width", [12, 300])
def test_a_torn_photo_is_named_whatever_the_sizes_of_the_others(width: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(4):
            picture(tmp_path / name / f"{index}.jpg", index, size=(width + index * (width > 100), 60))
    whole = (tmp_path / "a" / "0.jpg").read_bytes()
    (tmp_path / "a" / "0.jpg").write_bytes(whole[: len(whole) // 2])

    refused(f"folder:{tmp_path}", "1 of 8 pictures", "0.jpg", "--skip-unreadable 1")

    (tmp_path / "a" / "0.jpg").write_bytes(whole)
    assert len(load(tmp_path).train.labels) == 6


def test_a_picture_that_changed_while_it_was_read_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(4):
            picture(tmp_path / name / f"{index}.png", index, size=(200 + index, 150))
    data = load(tmp_path)
    picture(tmp_path / "a" / "1.png", 77, size=(201, 150))

    with pytest.raises(UserError, match=r"1\.png: its contents have changed"):
        data.at(50)


def test_a_folder_without_two_pictures_of_a_class_has_nothing_to_test_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / name / "0.png", 0)
    refused(f"folder:{tmp_path}", "no pictures to test on")


def test_the_second_time_pictures_come_from_the_cache(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(photos)
    monkeypatch.setattr("bench.learning.data.decoding._read", lambda chunk: pytest.fail("decoded again"))

    second = load(photos)

    assert np.array_equal(first.train.images, second.train.images)


def test_pictures_are_read_without_a_cache_too(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = load(photos)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv("BENCH_DECODED_GB", "0")

    data = load(photos)

    assert not isinstance(data.train.images, np.memmap)
    assert np.array_equal(data.train.images, cached.train.images)


@pytest.mark.parametrize("size", [None, 8])
def test_pictures_without_room_are_decoded_whenever_they_are_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    if size is not None:
        picture(photos / "cat" / "larger.png", 7, size=(30, 40))
    kept = load(photos).at(size or 10)
    monkeypatch.setenv("BENCH_CACHE", str(photos.parent / "another"))
    monkeypatch.setenv("BENCH_DECODED_GB", "0")
    monkeypatch.setenv("BENCH_MEMORY_GB", "0")

    streamed = load(photos).at(size or 10)

    assert (kept.train.storage, streamed.train.storage) == ("mapped", "streamed")
    assert streamed.sha256 == kept.sha256
    assert streamed.train.images.shape == kept.train.images.shape
    assert np.array_equal(streamed.test.array, kept.test.array)
    assert np.array_equal(streamed.train.images[np.array([3, 1, 3])], kept.train.images[np.array([3, 1, 3])])
    sent = pickle.loads(pickle.dumps(streamed.train))  # noqa: S301 - written here
    assert np.array_equal(sent.images[2:5], kept.train.images[2:5])
    assert "decoding alone reaches" in str(streamed.storage_note)


def test_a_picture_that_changes_while_it_is_streamed_is_an_error(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DECODED_GB", "0")
    monkeypatch.setenv("BENCH_MEMORY_GB", "0")
    streamed = load(photos).train.images
    assert isinstance(streamed, Streamed)
    picture(Path(streamed.files[2]), 9999)

    with pytest.raises(PictureError, match="contents have changed"):
        streamed[0:5]


def test_nothing_of_mixed_sizes_is_decoded_before_a_model_says_at_which_size(photos: Path, empty_cache: Path) -> None:
    picture(photos / "cat" / "larger.png", 7, size=(30, 40))

    data = load(photos)

    assert (data.size, data.channels) == (10, 3)
    assert not list(empty_cache.rglob("*.npy"))


def test_a_worker_gets_the_file_that_pictures_are_mapped_from(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            for index in range(20):
                picture(tmp_path / split / name / f"{index}.png", index, size=(64, 64))
    data = load(tmp_path)

    sent = pickle.dumps(data.train)

    assert len(sent) < data.train.images.nbytes / 10
    assert np.array_equal(pickle.loads(sent).images, data.train.images)  # noqa: S301 - written above
    alone = pickle.loads(pickle.dumps(data.in_memory().train))  # noqa: S301 - written here
    assert not isinstance(alone.images, np.memmap)


def test_many_pictures_are_decoded_by_several_processes_as_by_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(310):
            picture(tmp_path / name / f"{index}.png", index, size=(8, 8))
    data = load(tmp_path)
    given = {np.moveaxis(np.asarray(Image.open(file)), -1, 0).tobytes() for file in tmp_path.rglob("*.png")}
    assert {image.tobytes() for split in (data.train, data.test) for image in split.images} == given


# --- arrays in files ----------------------------------------------------------------------------------------------


def arrays() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, size=(40, 6, 6), dtype=np.uint8), np.arange(40) % 4


@pytest.mark.parametrize("keys", [("x_train", "y_train", "x_test", "y_test"),
                                  ("train_images", "train_labels", "test_images", "test_labels")])  # fmt: skip
def test_npz_files_of_keras_and_of_medmnist(keys: tuple[str, ...], tmp_path: Path) -> None:
    images, labels = arrays()
    values = images, labels[:, None], images[:8], labels[:8, None]
    np.savez(tmp_path / "mine.npz", **dict(zip(keys, values, strict=True)))

    data = datasets.load(f"npz:{tmp_path / 'mine.npz'}")

    assert np.array_equal(data.train.images[:, 0], images)
    assert data.test.labels.tolist() == labels[:8].tolist()


def test_an_npz_file_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", weights=np.zeros(3))
    refused(f"npz:{tmp_path / 'mine.npz'}", "holds the arrays weights", "x_train")
    (tmp_path / "broken.npz").write_text("no archive")
    refused(f"npz:{tmp_path / 'broken.npz'}", "broken.npz")


def with_header(table: list[list[int]]) -> str:
    names = ",".join(["p0", "label", *(f"p{number}" for number in range(1, 36))])
    return names + "\n" + "\n".join(",".join(map(str, [row[1], row[0], *row[2:]])) for row in table)


def with_other_names(table: list[list[int]]) -> str:
    names = ",".join(["digit", *(f"p{number}" for number in range(36))])
    return names + "\n" + without_header(table)


def without_header(table: list[list[int]]) -> str:
    return "\n".join(",".join(map(str, row)) for row in table)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (with_header, None),
        (without_header, "it has no header, so its first column is taken as the label"),
        (with_other_names, "so the first (digit) is taken as the label"),
    ],
)
def test_csv_files_with_the_label_first_or_named(
    written: Callable[[list[list[int]]], str], said: str | None, tmp_path: Path
) -> None:
    images, labels = arrays()
    table = [[int(label), *map(int, image.reshape(-1))] for image, label in zip(images, labels, strict=True)]
    (tmp_path / "mine.csv").write_text(written(table))

    data = datasets.load(f"csv:{tmp_path / 'mine.csv'}")

    pairs = {(image.tobytes(), int(label)) for split in (data.train, data.test)
             for image, label in zip(split.images, split.labels, strict=True)}  # fmt: skip
    assert pairs == {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert (len(data.train.labels), len(data.test.labels)) == (32, 8)
    assert (said or "images were drawn") in str(data.note)
    assert (said is None) == ("taken as the label" not in str(data.note))


def test_a_csv_file_that_is_no_table_of_square_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("label,a,b,c\n0,1,2,3\n1,2,3,4\n")
    refused(f"csv:{tmp_path / 'mine.csv'}", "3 columns beside the label", "784")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder:nowhere", ["no folder nowhere"]),
        ("npz:nowhere.npz", ["no file nowhere.npz"]),
        ("folder:", ["name the folder"]),
        ("mnits", ["'mnits'", "mnist", "folder:DIR", "did you mean 'mnist'"]),
        ("torchvision/CIFAR11", ["torchvision/CIFAR11", "did you mean 'torchvision/CIFAR10'"]),
    ],
)
def test_names_of_nothing_are_refused(name: str, words: list[str]) -> None:
    refused(name, *words)
