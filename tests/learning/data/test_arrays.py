"""Data sets that come as arrays: what is accepted as it is meant, and what is refused with what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.learning.data.arrays import dataset_of
from bench.learning.data.dataset import Dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 6, 6), dtype=np.uint8)
LABELS = np.array([0, 1, 2] * 4)


def data(
    images: Any = IMAGES,
    labels: Any = LABELS,
    *,
    test_images: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set whose test images are the training images, unless others are given."""
    test = images if test_images is None else test_images, labels if test_labels is None else test_labels
    return dataset_of("mine", (images, labels), test, class_names)


def refused(*words: str, **arrays: Any) -> None:
    with pytest.raises(UserError) as caught:
        data(**arrays)
    message = str(caught.value)
    assert message.startswith("mine")
    assert "\n" not in message
    for word in words:
        assert word in message


# --- images --------------------------------------------------------------------------------------------------------


def test_bytes_are_taken_as_they_are() -> None:
    found = data()

    assert found.train.images.dtype == np.uint8
    assert np.array_equal(found.train.images, IMAGES)
    assert np.array_equal(found.train.labels, LABELS)
    assert (found.train.labels.dtype, found.note, found.class_names) == (np.int64, None, ("0", "1", "2"))
    assert found.info.model_dump(exclude={"name", "sha256"}) == {"train_images": 12, "test_images": 12, "classes": 3}


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_become_the_bytes_that_they_were(kind: type) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(12, 1, 8, 8)

    found = data(every.astype(kind) / kind(255))

    assert np.array_equal(found.train.images, every)
    assert found.note is not None
    assert "numbers from 0 to 1" in found.note


def test_steps_of_1_in_255_are_taken_from_float16_however_they_were_computed() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(12, 1, 8, 8)
    step = np.float16(1) / np.float16(255)

    for halves in ((every / 255).astype(np.float16), every.astype(np.float16) * step):
        assert np.array_equal(data(halves).train.images, every)


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.float32, np.float64, np.uint16])
def test_whole_numbers_from_0_to_255_of_any_type_become_bytes(kind: type) -> None:
    found = data(IMAGES.astype(kind))

    assert np.array_equal(found.train.images, IMAGES)
    assert found.train.images.dtype == np.uint8
    assert found.note is None


def test_black_and_white_is_0_and_255() -> None:
    found = data(IMAGES > 127)

    assert np.array_equal(found.train.images, np.where(IMAGES > 127, 255, 0))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            (IMAGES / 255 - 0.5) / 0.25,
            ["training images are float64 from -2", "0 to 255", "leave the normalisation out"],
        ),
        (IMAGES / 100.0, ["float64", "leave the normalisation out"]),
        (np.random.default_rng(0).random((12, 1, 6, 6)), ["float64", "0 to 255"]),
        (np.random.default_rng(0).random((12, 1, 6, 6)).astype(np.float16), ["float16", "0 to 255"]),
        (IMAGES.astype(np.uint16) * 257, ["uint16 from 0 to 65535", "scale them to 8 bits"]),
        (IMAGES.astype(np.int32) - 1, ["int32 from -1", "scale them to 8 bits"]),
        (np.where(IMAGES.max() == IMAGES, np.nan, IMAGES / 255), ["not finite"]),
        (IMAGES.astype(np.complex64), ["complex64", "uint8"]),
        (IMAGES.astype(str), ["<U", "uint8"]),
    ],
    ids=["normalised", "rescaled", "not of bytes", "of float16", "16 bits", "negative", "nan", "complex", "text"],
)
def test_other_values_are_refused_with_what_they_are(images: np.ndarray, words: list[str]) -> None:
    refused("training images", *words, images=images)


def test_a_channel_axis_is_added_where_there_is_none() -> None:
    found = data(IMAGES[:, 0])

    assert np.array_equal(found.train.images, IMAGES[:, :1])


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_at_the_end_are_brought_to_the_front(channels: int) -> None:
    found = data(np.moveaxis(IMAGES[:, :channels], 1, 3))

    assert np.array_equal(found.train.images, IMAGES[:, :channels])
    assert found.train.images.flags.c_contiguous
    assert found.sha256 == data(IMAGES[:, :channels]).sha256


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES.reshape(12, -1), ["[12, 108]", "[images, channels, height, width]"]),
        (IMAGES[0, 0, 0], ["[6]", "[images, channels, height, width]"]),
        (np.zeros((12, 2, 6, 6), np.uint8), ["2 channels", "1 (grey) or 3 (colour)"]),
        (np.zeros((12, 6, 6, 4), np.uint8), ["channels", "1 (grey) or 3 (colour)"]),
        ([np.zeros((6, 6)), np.zeros((6, 7))], ["different sizes", "folder of pictures"]),
        ([np.zeros((6, 6)), np.zeros((7, 6))], ["different sizes", "folder of pictures"]),
    ],
    ids=["flat", "one row", "two channels", "transparent", "other widths", "other heights"],
)
def test_other_shapes_are_refused_with_the_one_that_is_needed(images: Any, words: list[str]) -> None:
    refused("training images", *words, images=images)


def test_training_and_test_images_have_one_shape() -> None:
    refused("[3, 6, 6]", "[3, 6, 5]", "one shape", test_images=IMAGES[..., :5])
    refused("[3, 6, 6]", "[1, 6, 6]", "one shape", test_images=IMAGES[:, :1])


def test_tensors_and_lists_are_taken_like_arrays() -> None:
    expected = data().sha256

    assert data(torch.from_numpy(IMAGES), torch.from_numpy(LABELS)).sha256 == expected
    assert data(IMAGES.tolist(), LABELS.tolist()).sha256 == expected


# --- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.uint8),
        LABELS.astype(np.float32),
        LABELS[:, None],
        np.eye(3)[LABELS],
        np.eye(3, dtype=np.uint8)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
    ],
    ids=["uint8", "float32", "n by 1", "one-hot", "one-hot bytes", "one-hot bools"],
)
def test_labels_of_any_form_are_whole_numbers(labels: np.ndarray) -> None:
    found = data(labels=labels)

    assert found.train.labels.dtype == np.int64
    assert np.array_equal(found.train.labels, LABELS)
    assert found.sha256 == data().sha256


def test_labels_that_begin_with_one_are_counted_from_zero() -> None:
    found = data(labels=LABELS + 1)

    assert np.array_equal(found.train.labels, LABELS)
    assert np.array_equal(found.test.labels, LABELS)
    assert found.class_names == ("1", "2", "3"), "they keep their names"
    assert found.note is not None
    assert "begin with 1" in found.note


def test_test_images_may_lack_the_first_class_where_labels_begin_with_one() -> None:
    found = data(labels=LABELS + 1, test_images=IMAGES[1:2], test_labels=[2])

    assert found.test.labels.tolist() == [1]


def test_labels_that_begin_with_one_are_refused_where_classes_have_names() -> None:
    names = ["cat", "dog", "bird"]

    assert data(class_names=names).class_names == tuple(names)
    refused("training label is 3", "3 classes end at 2", "begin with 1?", labels=LABELS + 1, class_names=names)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            np.where(LABELS == 2, -1, LABELS),
            ["label -1 of image 2", "4 of this kind", "leave images without a class out"],
        ),
        (LABELS + 0.5, ["not whole numbers"]),
        (np.where(LABELS == 2, np.nan, LABELS), ["not whole numbers"]),
        (np.array(["cat", "dog", "bird"] * 4), ["labels are <U4", "whole numbers from 0"]),
        (np.eye(3)[LABELS] + 1, ["labels have the shape [12, 3]", "one number for each image"]),
        (np.ones((12, 3)), ["labels have the shape [12, 3]"]),
        (np.full((12, 3), 1 / 3), ["labels have the shape [12, 3]"]),
    ],
    ids=["minus one", "halves", "nan", "text", "two numbers", "several classes", "shares"],
)
def test_other_labels_are_refused_with_what_they_are(labels: np.ndarray, words: list[str]) -> None:
    refused("training label", *words, labels=labels)


def test_each_image_has_one_label() -> None:
    refused("12 training images have 11 labels", labels=LABELS[:11], test_labels=LABELS)
    refused("12 test images have 13 labels", test_labels=np.zeros(13, int))


@pytest.mark.parametrize(("part", "empty"), [("training", {}), ("test", {"test_images": IMAGES[:0]})])
def test_a_split_without_images_is_refused(part: str, empty: dict[str, Any]) -> None:
    if part == "training":
        refused("no training images", images=IMAGES[:0], labels=[], test_images=IMAGES, test_labels=LABELS)
    else:
        refused("no test images", test_labels=np.zeros(0, int), **empty)


# --- classes -------------------------------------------------------------------------------------------------------


def test_two_classes_are_needed() -> None:
    refused("one class only", labels=np.zeros(12, int))
    refused("one class only", labels=np.ones(12, int))
    assert data(labels=LABELS % 2).info.classes == 2


def test_every_class_has_training_images() -> None:
    refused("no training image has the class '1'", labels=np.where(LABELS == 1, 0, LABELS))
    refused("no training image has the class 'bird'", class_names=["cat", "dog", "fish", "bird"])


def test_a_class_without_test_images_is_noted() -> None:
    found = data(test_images=IMAGES[:2], test_labels=[0, 2])

    assert found.note is not None
    assert "no test image has the class '1'" in found.note
    assert found.info.classes == 3


def test_a_test_label_that_is_no_class_is_refused() -> None:
    refused("a test label is 3, but its 3 classes end at 2", test_labels=LABELS + 1)


# --- the digest ----------------------------------------------------------------------------------------------------


@given(
    place=st.tuples(st.integers(0, 11), st.integers(0, 2), st.integers(0, 5), st.integers(0, 5)),
    more=st.integers(1, 255),
    of_test=st.booleans(),
)
def test_equal_contents_have_equal_digests_and_a_changed_pixel_another(
    place: tuple[int, int, int, int], more: int, of_test: bool
) -> None:
    changed = IMAGES.copy()
    changed[place] = (int(changed[place]) + more) % 256

    found = data(test_images=changed) if of_test else data(changed, test_images=IMAGES)

    assert data(IMAGES.copy(), LABELS.tolist()).sha256 == data().sha256
    assert found.sha256 != data().sha256


def test_labels_shapes_names_and_the_split_are_part_of_the_digest() -> None:
    swapped = LABELS.copy()
    swapped[:2] = swapped[1::-1]
    found = [
        data(),
        data(labels=swapped, test_labels=LABELS),
        data(test_labels=swapped),
        data(IMAGES.reshape(12, 3, 4, 9)),
        data(class_names=["a", "b", "c"]),
        data(IMAGES[:9], LABELS[:9], test_images=IMAGES, test_labels=LABELS),
    ]

    assert len({each.sha256 for each in found}) == len(found)
    assert dataset_of("another name", (IMAGES, LABELS), (IMAGES, LABELS)).sha256 == data().sha256
