"""Data augmentation: random changes to the training images, different in each epoch and reproducible from the seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from bench.spec import Recipe


@dataclass
class Augmentation:
    """A recipe's data augmentation.

    The change to one image (:meth:`change`) depends only on the seed, the epoch and the image's index in the data set,
    not on the batch it is in. Mixing images (:meth:`mix`) depends on torch's global generator.
    """

    recipe: Recipe
    seed: int
    images: int
    """The number of images in the data set."""
    classes: int
    _epoch: int = 0
    _shifts: Tensor = field(default_factory=lambda: torch.empty(0))
    """Vertical and horizontal shift of each image in this epoch, float [images, 2] from 0 to 1 (:meth:`_crop_flip`)."""
    _flips: Tensor = field(default_factory=lambda: torch.empty(0))
    """Whether each image is mirrored in this epoch, bool [images]."""

    def begin(self, epoch: int) -> None:
        """Draw the random numbers of an epoch, counted from 1. Call it before :meth:`change`."""
        self._epoch = epoch
        generator = torch.Generator().manual_seed((self.seed << 21) + (1 << 20) + epoch)
        self._shifts = torch.rand(self.images, 2, generator=generator)
        self._flips = torch.rand(self.images, generator=generator) < 0.5

    def change(self, images: Tensor, places: Tensor) -> Tensor:
        """Return augmented images of the same shape and dtype; the images themselves if the recipe has no augmentation.

        Args:
            images: uint8 [batch, channels, height, width].
            places: indices of the images in the data set, int64 [batch].
        """
        kind = self.recipe.augment
        if kind == "none":
            return images
        if kind == "crop-flip":
            return self._crop_flip(images, places.cpu())
        transform = _transform(kind, images.shape[2], images.shape[3])
        changed = []
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms draw from the global generator
            for image, place in zip(images, places.tolist(), strict=True):
                torch.default_generator.manual_seed(
                    int(np.random.SeedSequence((self.seed, self._epoch, place)).generate_state(1)[0])
                )
                changed.append(transform(image))
        return torch.stack(changed)

    def _crop_flip(self, images: Tensor, places: Tensor) -> Tensor:
        """Pad with black by 1/8 of the shorter side, crop at random to the old size, and mirror with probability 1/2.

        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: 32 x 32 images, 4 pixels.
        """
        count, channels, height, width = images.shape
        pad = max(1, round(min(height, width) / 8))
        padded = F.pad(images, (pad, pad, pad, pad))
        first = (self._shifts[places] * (2 * pad + 1)).long()
        rows = first[:, :1] + torch.arange(height)
        columns = first[:, 1:] + torch.arange(width)
        columns = torch.where(self._flips[places][:, None], columns.flip(1), columns)
        index = (
            torch.arange(count)[:, None, None, None],
            torch.arange(channels)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        )
        return padded[tuple(part.to(images.device) for part in index)]

    @property
    def mixes(self) -> bool:
        """Return whether the recipe mixes the images of a batch (mixup or CutMix)."""
        return self.recipe.mixup > 0 or self.recipe.cutmix > 0

    def mix(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch by mixup or CutMix, and their labels alike; call it only if :attr:`mixes`.

        Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019. If the recipe has both, one of the two is chosen
        at random for each batch. The random numbers come from torch's global generator.

        Returns:
            The mixed inputs, of the same shape, and soft labels, float [batch, classes], whose rows sum to 1.

        Args:
            inputs: float [batch, channels, height, width].
            labels: int64 [batch].
        """
        ways = []
        if self.recipe.mixup > 0:
            ways.append(v2.MixUp(alpha=self.recipe.mixup, num_classes=self.classes))
        if self.recipe.cutmix > 0:
            ways.append(v2.CutMix(alpha=self.recipe.cutmix, num_classes=self.classes))
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(ways)(inputs, labels)
        return mixed


def augmentation_of(recipe: Recipe, seed: int, *, images: int, classes: int) -> Augmentation | None:
    """Return the recipe's augmentation for a data set of so many images and classes; None if the recipe has none."""
    augmentation = Augmentation(recipe, seed, images, classes)
    return augmentation if recipe.augment != "none" or augmentation.mixes else None


def _transform(kind: str, height: int, width: int) -> v2.Transform:
    if kind == "trivial":  # Müller and Hutter, TrivialAugment, ICCV 2021
        return v2.TrivialAugmentWide()
    if kind == "randaugment":  # Cubuk et al., RandAugment, NeurIPS 2020
        return v2.RandAugment()
    return v2.RandomResizedCrop((height, width), antialias=True)  # Szegedy et al., CVPR 2015
