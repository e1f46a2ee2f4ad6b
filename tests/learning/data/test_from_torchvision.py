"""Data sets of torch's kind, whose pictures are decoded one by one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench.errors import UserError
from bench.learning.data.from_torchvision import dataset_from


class Pairs:
    """Pictures of two classes; what it is printed as does not depend on them."""

    classes = ("dark", "bright")

    def __init__(self, values: list[int], size: tuple[int, int] = (12, 10)) -> None:
        self.targets = [int(value > 100) for value in values]
        self._pictures = [Image.new("RGB", size, (value, value, value)) for value in values]

    def __repr__(self) -> str:
        return "Pairs"

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        return self._pictures[place], self.targets[place]


def test_the_same_names_with_other_pictures_are_other_data() -> None:
    first = dataset_from("mine", Pairs([10, 200]), Pairs([20, 210]))
    second = dataset_from("mine", Pairs([30, 220]), Pairs([20, 210]))

    assert first.train.images[:, 0, 0, 0].tolist() == [10, 200]
    assert second.train.images[:, 0, 0, 0].tolist() == [30, 220]
    assert first.sha256 != second.sha256
    assert first.sha256 == dataset_from("mine", Pairs([10, 200]), Pairs([20, 210])).sha256


def test_large_pictures_are_read_at_the_size_that_is_needed() -> None:
    data = dataset_from("mine", Pairs([10, 200], (300, 200)), Pairs([20, 210], (300, 200)))

    assert data.class_names == ("dark", "bright")
    assert data.at(50).train.images.shape == (2, 3, 50, 50)
    assert np.array_equal(data.at(50).test.images[:, 1, 25, 25], [20, 210])


def test_a_picture_that_cannot_be_read_is_one_sentence() -> None:
    train = Pairs([10, 200] * 65)
    train._pictures[1] = Image.new("RGB", (40, 40))  # no sample of 64 has to hold it

    with pytest.raises(UserError, match="picture 1 "):
        dataset_from("mine", train, Pairs([20, 210]))


def test_pictures_of_16_bits_are_scaled_alike_in_both_splits() -> None:
    train, test = Pairs([10, 200]), Pairs([20, 210])
    for pairs, tops in ((train, (300, 1000)), (test, (300, 60000))):
        pairs._pictures = [Image.fromarray(np.full((10, 12), top, np.uint16)) for top in tops]

    data = dataset_from("mine", train, test)

    assert data.train.images.shape == (2, 1, 10, 12)
    assert data.train.images[:, 0, 0, 0].tolist() == [round(top / 257) for top in (300, 1000)]
    assert data.test.images[:, 0, 0, 0].tolist() == [round(top / 257) for top in (300, 60000)]


def test_labels_of_the_test_split_mean_the_classes_of_the_training_split() -> None:
    class Other(Pairs):
        classes = ("Bright", "dark")

    other = Other([20, 210])
    other.targets = [1, 0]

    data = dataset_from("mine", Pairs([10, 200]), other)

    assert [data.class_names[label] for label in data.test.labels] == ["dark", "bright"]
    Other.classes = ("grey", "dark")
    with pytest.raises(UserError, match="test class 'grey' is no class of the training split"):
        dataset_from("mine", Pairs([10, 200]), other)


def test_a_label_that_numbers_no_class_is_refused() -> None:
    test = Pairs([20, 210])
    test.targets = [-1, -1]  # how hidden test labels are published

    with pytest.raises(UserError, match="-1 is a label, but the 2 classes are numbered 0 to 1"):
        dataset_from("mine", Pairs([10, 200]), test)
