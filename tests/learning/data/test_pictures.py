"""A folder of pictures: which are found, what their labels are, how they become arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.demo.drawing import to_mnist
from bench.errors import UserError
from bench.learning.data.pictures import (
    Pictures,
    find_pictures,
    labels_of,
    read_pictures,
    redraw_files,
    see_pictures,
)


def picture(file: Path, size: tuple[int, int] = (28, 28), mode: str = "L", colour: object = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)  # type: ignore[arg-type]
    return file


def read(files: list[Path], *, resized: int = 28) -> np.ndarray:
    return read_pictures(see_pictures(Pictures(files[0].parent, tuple(files), None)), resized=resized)


def redrawn(files: list[Path]) -> tuple[np.ndarray, int]:
    return redraw_files(see_pictures(Pictures(files[0].parent, tuple(files), None)), to_mnist, input_size=28)


def test_pictures_are_labelled_by_their_folders(tmp_path: Path) -> None:
    for name in ("1/b.png", "1/deep/a.JPG", "0/c.png", ".hidden/x.png", "1/.y.png"):
        picture(tmp_path / name)
    (tmp_path / "0" / "notes.txt").write_text("no picture")
    found = find_pictures(tmp_path)
    assert found.names == ["0/c.png", "1/b.png", "1/deep/a.JPG"]
    assert labels_of(found, ("0", "1", "2")).tolist() == [0, 1, 1]


def test_folders_are_classes_by_their_names_never_by_their_order(tmp_path: Path) -> None:
    for name in ("t-shirt_top", "Ankle boot"):
        picture(tmp_path / name / "a.png")
    found = find_pictures(tmp_path)
    assert labels_of(found, ("T-shirt/top", "Trouser", "Ankle boot")).tolist() == [2, 0]
    with pytest.raises(UserError, match="sub-folders 'Ankle boot', 't-shirt_top' are no classes of this model"):
        labels_of(found, ("x", "y"))
    with pytest.raises(UserError, match="'Ankle boot' is no class of this model; the classes are T-shirt/top, y"):
        labels_of(found, ("T-shirt/top", "y"))


def test_splits_are_never_taken_for_the_classes_of_a_model(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/a.png", "val/cat/a.png", "val/dog/a.png"):
        picture(tmp_path / name)
    with pytest.raises(UserError, match=rf"'train', 'val' are no classes.*give --images {tmp_path}/train"):
        labels_of(find_pictures(tmp_path), ("0", "1"))
    assert labels_of(find_pictures(tmp_path / "val"), ("cat", "dog")).tolist() == [0, 1]


def test_a_folder_without_labelled_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        find_pictures(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no pictures"):
        find_pictures(tmp_path)
    picture(tmp_path / "a.png")
    assert find_pictures(tmp_path).folders is None
    with pytest.raises(UserError, match="have no labels"):
        labels_of(find_pictures(tmp_path), ("0",))
    picture(tmp_path / "1" / "b.png")
    with pytest.raises(UserError, match="some beside them"):
        find_pictures(tmp_path)


def test_pictures_of_one_size_keep_it_and_others_are_resized(tmp_path: Path) -> None:
    same = [picture(tmp_path / f"{k}.png", (20, 10)) for k in range(2)]
    assert read(same).shape == (2, 1, 10, 20)
    different = [*same, picture(tmp_path / "x.png", (50, 60))]
    assert read(different).shape == (3, 1, 28, 28)
    large = [picture(tmp_path / f"large{k}.png", (200, 100)) for k in range(2)]
    assert read(large).shape == (2, 1, 28, 28)


def test_pictures_are_cropped_as_for_training(tmp_path: Path) -> None:
    wide = np.zeros((100, 300), np.uint8)
    wide[:, 100:200] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read([tmp_path / "wide.png"]) == 255).mean() > 0.9


def test_colour_is_kept_where_the_model_sees_it(tmp_path: Path) -> None:
    red = picture(tmp_path / "red.png", mode="RGB", colour=(255, 0, 0))
    grey = picture(tmp_path / "grey.png", colour=100)
    clear = picture(tmp_path / "clear.png", mode="RGBA", colour=(0, 0, 0, 0))
    images = read([red, grey, clear])
    assert images.shape == (3, 3, 28, 28)
    assert images[:, :, 0, 0].tolist() == [[255, 0, 0], [100] * 3, [255] * 3]
    assert read([grey]).shape == (1, 1, 28, 28)


def test_light_ink_on_a_transparent_ground_stays_visible(tmp_path: Path) -> None:
    ink = np.zeros((40, 40, 4), np.uint8)
    ink[10:30, 18:22] = (255, 255, 255, 255)
    dark = ink.copy()
    dark[10:30, 18:22] = (20, 20, 20, 255)
    photo = np.full((40, 40, 4), (250, 250, 250, 255), np.uint8)
    for name, pixels in (("light", ink), ("dark", dark), ("opaque", photo)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    light, dark_ink, opaque = read([tmp_path / f"{name}.png" for name in ("light", "dark", "opaque")], resized=40)

    assert (light[:, 20, 20].min(), light[:, 0, 0].max()) == (255, 0)
    assert (dark_ink[:, 20, 20].max(), dark_ink[:, 0, 0].min()) == (20, 255)
    assert opaque.min() == 250


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.heic", "b.SVG", "c.dng", "d.HEIF", ".e.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UserError, match=r"4 pictures are passed over.*\(a\.heic, b\.SVG, c\.dng, \.\.\.\).*PNG"):
        find_pictures(tmp_path)

    picture(tmp_path / "f.jfif.png").rename(tmp_path / "f.jfif")
    found = find_pictures(tmp_path)
    assert found.names == ["f.jfif"]
    assert [file.name for file in found.passed_over] == ["a.heic", "b.SVG", "c.dng", "d.HEIF"]


def test_pictures_are_redrawn_and_blank_ones_counted(tmp_path: Path) -> None:
    blank = picture(tmp_path / "blank.png", (300, 200), colour=255)
    drawn = tmp_path / "drawn.png"
    paper = np.full((200, 300), 255, np.uint8)
    paper[50:150, 200:204] = 0
    Image.fromarray(paper).save(drawn)
    images, empty = redrawn([blank, drawn])
    assert images.shape == (2, 1, 28, 28)
    assert empty == 1
    assert images[0].max() == 0
    assert images[1].max() == 255


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"x" * 50])
def test_a_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png"):
        read([file])
    with pytest.raises(UserError, match=r"broken\.png"):
        redrawn([file])


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"broken\.png"):
        read([file])
