"""Load data sets from files: a folder of pictures, an .npz file, a .csv file, or a Hugging Face data set."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning.data import pictures
from bench.learning.data.arrays import dataset_of
from bench.learning.data.class_names import TEST, TRAIN, VALIDATION, class_numbers
from bench.learning.data.dataset import Dataset, Reading, Split, digest
from bench.learning.data.decoding import LARGEST_NATIVE, PictureList, Pool, see
from bench.learning.data.depth import white_of
from bench.learning.data.pixels import PictureError
from bench.learning.data.remote import local_path
from bench.learning.data.streaming import pixels_or_stream, stream

Read = Callable[[Reading], Dataset]


# --- folders of pictures -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Labelled:
    """Picture files with the class name of each."""

    files: list[str]
    """The path of each."""
    classes: list[str]
    passed_over: list[str]
    """The paths of pictures in formats that are not read."""


def folder(path: str) -> Read:
    """Return a function that loads a folder of pictures.

    The folder holds train/ and test/ (or val/) with a sub-folder for each class, or the classes' sub-folders directly;
    then the test split is drawn from them.
    """

    def load(reading: Reading) -> Dataset:
        root = local_path(path, f"--dataset folder:{path}")
        if not root.is_dir():
            raise UserError(f"--dataset folder:{path}: there is no folder {root}")
        where = f"--dataset folder:{path}"
        folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
        splits = {entry.name.lower(): entry for entry in folders if _is_split(entry)}
        train, test, validation = (
            next((splits[name] for name in names if name in splits), None) for names in (TRAIN, TEST, VALIDATION)
        )
        notes = []
        if test is not None and validation is not None:
            notes.append(f"{validation.name}/ is not used (--validation-size holds out training pictures)")
        test = test or validation
        name = f"folder:{root.resolve().name}"
        if train is not None and test is not None:
            return _from_pictures(name, _labelled(train, where), _labelled(test, where), reading, notes)
        _check_classes(where, folders, train or test)
        return _from_pictures(name, _labelled(root, where), None, reading, notes)

    return load


def _is_split(folder: Path) -> bool:
    """Return whether a folder is named like a split and has sub-folders with pictures."""
    return folder.name.lower() in TRAIN + TEST + VALIDATION and any(
        _has_pictures(inside) for inside in folder.iterdir() if inside.is_dir() and not inside.name.startswith(".")
    )


def _has_pictures(folder: Path) -> bool:
    return any(name.lower().endswith(pictures.ENDINGS) for _, _, names in os.walk(folder) for name in names)


def _check_classes(where: str, folders: Sequence[Path], split: Path | None) -> None:
    """Refuse to take folders as classes that may be meant as splits.

    Args:
        where: the option, with its value.
        folders: the folders that would be the classes.
        split: one of them that has sub-folders with pictures and is named like a split, if there is one.

    Raises:
        UserError: there is such a split, or more than one folder, or all of them, are named like splits.
    """
    needed = "it needs train/ and test/ (or val/) with a sub-folder for each class, or only a folder for each class"
    flat = [
        folder.name + "/"
        for folder in folders
        if folder.name.lower() in TRAIN + TEST + VALIDATION and folder != split and _has_pictures(folder)
    ]
    listed = " and ".join(flat)
    without = f"{listed} with pictures but no sub-folders for the classes"
    if split is not None:
        but = f"and {without}" if flat else "but not the other split"
        raise UserError(f"{where} has {split.name}/ {but}; {needed}")
    others = [folder for folder in folders if folder.name + "/" not in flat and _has_pictures(folder)]
    if len(flat) > 1 or (flat and not others):
        raise UserError(f"{where} has {without}; {needed}")


def _labelled(root: Path, where: str) -> _Labelled:
    files: list[str] = []
    classes: list[str] = []
    unread: list[str] = []
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            inside, others = _pictures_in(entry)
            files += inside
            unread += others
            classes += [entry.name] * len(inside)
    if not files:
        raise UserError(f"{where}: {root} has no sub-folders with pictures; it needs one for each class")
    return _Labelled(files, classes, unread)


def _pictures_in(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths of (the picture files, those in formats that are not read) in a folder and all that it holds.

    They are sorted; hidden files are left out.
    """
    both = pictures.ENDINGS + pictures.NOT_READ
    found = [
        f"{inside}{os.sep}{name}"
        for inside, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and name.lower().endswith(both)
    ]
    found.sort(key=lambda path: path.split(os.sep))  # noqa: PTH206 - Paths would take three times as long
    unread = [path for path in found if path.lower().endswith(pictures.NOT_READ)]
    return ([path for path in found if not path.lower().endswith(pictures.NOT_READ)] if unread else found), unread


def _from_pictures(name: str, train: _Labelled, test: _Labelled | None, reading: Reading, notes: list[str]) -> Dataset:
    """Return the data set of labelled pictures; if ``test`` is None, draw a stratified test split from ``train``.

    Raises:
        UserError: too many files cannot be read, there is one class only, or a test class is not a training class.
    """
    with Pool() as pool:
        given = [part for part in (train, test) if part is not None]
        parts = [_readable(name, part, pool, reading, notes, whole=test is not None) for part in given]
    unread = [Path(path).name for part in given for path in part.passed_over]
    if unread:
        notes.append(pictures.describe_passed_over(unread))
    names = tuple(sorted(set(parts[0][1])))
    if len(names) < 2:
        only = f"one class only ({names[0]})" if names else "no picture that can be read"
        raise UserError(f"{name} has {only}; it needs two or more sub-folders, one for each class")
    numbers = {each: number for number, each in enumerate(names)}
    if len(parts) == 2:
        numbers |= class_numbers(parts[1][1], names, f"{name}: the test class", "the training pictures")
    labels = [np.array([numbers[each] for each in classes], dtype=np.int64) for _, classes in parts]
    if len(parts) == 1:
        seen, (all_labels,) = parts[0][0], labels
        is_test = _drawn([each.sha256 for each in seen.seen], all_labels, reading.test_fraction)
        lists = [_picked(seen, np.flatnonzero(~is_test)), _picked(seen, np.flatnonzero(is_test))]
        labels = [all_labels[~is_test], all_labels[is_test]]
        notes.append(f"{len(labels[1]):,} pictures were drawn as the test split, always the same (--test-fraction)")
    else:
        lists = [seen for seen, _ in parts]
    if not len(labels[1]):
        raise UserError(f"{name} has no pictures to test on; each class needs two pictures or more")
    untested = sorted(set(range(len(names))) - set(labels[1].tolist()))
    if untested:
        notes.append(f"no test picture has the class {names[untested[0]]!r}, so its accuracy is not measured")
    white = white_of([largest for each in lists for largest in each.largest])
    lists = [replace(each, data_white=white) for each in lists]
    colour = any(each.colour for each in lists)
    native = lists[0].native if lists[0].native == lists[1].native else None

    def read(size: int | None) -> tuple[Split, Split]:
        try:
            train, test = (pixels_or_stream(each, size, colour=colour) for each in lists)
        except PictureError as error:
            raise UserError(f"{name}: a picture is damaged, or changed after it was checked: {error}") from None
        return Split(train, labels[0]), Split(test, labels[1])

    if native:
        first = read(None)
    else:  # nothing is decoded before a model says at which size
        usual = min(lists[0].usual_size, LARGEST_NATIVE)
        streams = [stream(each, usual, colour=colour) for each in lists]
        first = Split(streams[0], labels[0]), Split(streams[1], labels[1])
    about = [*(each.digest for each in lists), *(_digest(each) for each in labels), *names]
    about += [str(white)] if white else []  # with another version's scaling it would be another data set
    return Dataset(
        name=name,
        sha256=digest(about),
        train=first[0],
        test=first[1],
        class_names=names,
        note=f"{name}: {'; '.join(notes)}" if notes else None,
        resize=None if native else read,
    )


def _digest(labels: NDArray[np.int64]) -> str:
    return digest([str(label) for label in labels])


def _readable(
    name: str, part: _Labelled, pool: Pool, reading: Reading, notes: list[str], *, whole: bool
) -> tuple[PictureList, list[str]]:
    """Return (the pictures that can be read, the class name of each).

    Raises:
        UserError: more pictures than --skip-unreadable allows cannot be read.
    """
    seen = see(part.files, pool, decode=whole)
    broken = [place for place, each in enumerate(seen.seen) if each.problem]
    if broken:
        first = f"{seen.files[broken[0]]}: {seen.seen[broken[0]].problem}"
        count = f"{len(broken):,} of {len(seen.files):,} pictures cannot be read; the first is {first}"
        if len(broken) > reading.skip_unreadable:
            raise UserError(
                f"{name}: {count}; repair or remove them, or skip them with --skip-unreadable {len(broken)}"
            )
        notes.append(f"{count}; they were skipped")
    keep = np.array([place for place, each in enumerate(seen.seen) if not each.problem], dtype=np.int64)
    return _picked(seen, keep), [part.classes[place] for place in keep]


def _picked(seen: PictureList, places: NDArray[np.int64]) -> PictureList:
    if len(places) == len(seen.files):
        return seen
    return PictureList(tuple(seen.files[place] for place in places), tuple(seen.seen[place] for place in places))


def _drawn(contents: Sequence[str], labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Return a stratified test split: bool [images], True for the same fraction of each class's images.

    Images are chosen by the order of their digests, so the split does not depend on file names. A class with two or
    more images has at least one in each split; a class with one image has it in the training split.

    Args:
        contents: the digest of each image.
        labels: class numbers, int64 [images].
        fraction: the fraction of each class to draw, above 0 and below 1.
    """
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label), key=lambda place: (contents[int(place)], place))
        if len(members) > 1:
            is_test[members[: min(len(members) - 1, max(1, round(fraction * len(members))))]] = True
    return is_test


# --- arrays ------------------------------------------------------------------------------------------------------

_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
)


def npz(path: str) -> Read:
    """Return a function that loads an .npz file with the array names of Keras or MedMNIST, or 'images' and 'labels'.

    From 'images' and 'labels', a stratified test split is drawn.
    """

    def load(reading: Reading) -> Dataset:
        file = _file(path, "npz")
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays: dict[str, NDArray[Any]] = {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"--dataset npz:{path}: {file} is not an .npz file of plain arrays: {error}") from None
        for keys in _KEYS:
            if all(key in arrays for key in keys):
                a, b, c, d = (arrays[key] for key in keys)
                return dataset_of(f"npz:{file.stem}", (a, b), (c, d))
        if "images" in arrays and "labels" in arrays:
            return _split(f"npz:{file.stem}", arrays["images"], arrays["labels"], reading)
        wanted = " or ".join(", ".join(keys) for keys in _KEYS)
        raise UserError(
            f"--dataset npz:{path} holds the arrays {', '.join(sorted(arrays))}; it needs {wanted}, or images, labels"
        )

    return load


def csv(path: str) -> Read:
    """Return a function that loads a .csv file of square grey images: in each row, a label and the pixels.

    The label is in the column that the header names 'label', 'class', 'target' or 'y', else in the first column. The
    header is optional. A stratified test split is drawn.
    """

    def load(reading: Reading) -> Dataset:
        import pandas as pd

        file = _file(path, "csv")
        try:
            table = pd.read_csv(file, header=None, low_memory=False)
            header = [str(cell).strip().lower() for cell in table.iloc[0]]
            named = not all(re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", cell) for cell in header)
            if named:
                table = pd.read_csv(file)
        except (OSError, ValueError, UnicodeDecodeError, IndexError) as error:
            raise UserError(f"--dataset csv:{path}: {file} is not a table of numbers: {error}") from None
        labelled = [place for place, cell in enumerate(header) if cell in ("label", "class", "target", "y")]
        column = labelled[0] if named and labelled else 0
        notes = []
        if not named:
            notes.append("it has no header, so its first column is taken as the label")
        elif not labelled:
            first = str(table.columns[0])
            notes.append(f"no column is called label, class, target or y, so the first ({first}) is taken as the label")
        labels = table.iloc[:, column].to_numpy()
        pixels = table.drop(columns=table.columns[column]).to_numpy()
        side = round(pixels.shape[1] ** 0.5)
        if side * side != pixels.shape[1] or side < 2:
            raise UserError(
                f"--dataset csv:{path} has {pixels.shape[1]} columns beside the label; it needs one for each pixel of "
                "a square image, for example 784 for 28 x 28"
            )
        return _split(f"csv:{file.stem}", pixels.reshape(-1, side, side), labels, reading, notes)

    return load


def _file(path: str, kind: str) -> Path:
    file = local_path(path, f"--dataset {kind}:{path}")
    if not file.is_file():
        raise UserError(f"--dataset {kind}:{path}: there is no file {file}")
    return file


def _split(
    name: str, images: NDArray[Any], labels: NDArray[Any], reading: Reading, notes: Sequence[str] = ()
) -> Dataset:
    """Return the data set of images that have no test split, with a stratified one drawn from them.

    ``notes`` are for the user, beside those about the arrays.
    """
    whole = dataset_of(name, (images, labels), (images, labels))
    pixels, numbers = whole.train.array, whole.train.labels
    is_test = _drawn([digest([image.tobytes().hex()]) for image in pixels], numbers, reading.test_fraction)
    parts = ((pixels[~is_test], numbers[~is_test]), (pixels[is_test], numbers[is_test]))
    drawn = f"{int(is_test.sum()):,} images were drawn as the test split, always the same (--test-fraction)"
    arrays = [whole.note.removeprefix(f"{name}: ")] if whole.note else []
    note = f"{name}: {'; '.join([*notes, *arrays, drawn])}"
    return replace(dataset_of(name, *parts, whole.class_names), note=note)


# --- Hugging Face ------------------------------------------------------------------------------------------------


def hugging_face(path: str) -> Read:
    """Return a function that loads a Hugging Face data set from a folder or by name.

    It needs the package of the optional dependency '.[huggingface]'.
    """

    def load(reading: Reading) -> Dataset:
        from bench.learning.data import from_hugging_face

        return from_hugging_face.load(path, reading)

    return load
