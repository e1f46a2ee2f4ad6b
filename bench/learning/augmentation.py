"""Augmentation: training images are changed anew in each epoch, as their seed, the epoch and their place determine."""

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
    """The changes that a recipe makes to training images. A change depends on nothing but the seed and the place."""

    recipe: Recipe
    seed: int
    images: int
    """The number of images in the data set."""
    classes: int
    _epoch: int = 0
    _shifts: Tensor = field(default_factory=lambda: torch.empty(0))
    _flips: Tensor = field(default_factory=lambda: torch.empty(0))

    def begin(self, epoch: int) -> None:
        """Draw what changes in this epoch, from 1."""
        self._epoch = epoch
        generator = torch.Generator().manual_seed((self.seed << 21) + (1 << 20) + epoch)
        self._shifts = torch.rand(self.images, 2, generator=generator)
        self._flips = torch.rand(self.images, generator=generator) < 0.5

    def change(self, images: Tensor, places: Tensor) -> Tensor:
        """Return changed images, uint8 [batch, channels, height, width] as before.

        Args:
            images: uint8 [batch, channels, height, width].
            places: positions of the images in the data set, int64 [batch].
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
                torch.manual_seed(int(np.random.SeedSequence((self.seed, self._epoch, place)).generate_state(1)[0]))
                changed.append(transform(image))
        return torch.stack(changed)

    def _crop_flip(self, images: Tensor, places: Tensor) -> Tensor:
        """Shift by up to an eighth in each direction, black coming in, and mirror half of the images.

        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: 4 of 32 pixels.
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
        """Return whether images of a batch are mixed with each other."""
        return self.recipe.mixup > 0 or self.recipe.cutmix > 0

    def mix(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mixed inputs, the share of each class, float [batch, classes]); drawn from the global generator.

        Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019. With both, each batch gets one of the two.

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
    """Return the recipe's augmentation of a data set; None if nothing is changed."""
    augmentation = Augmentation(recipe, seed, images, classes)
    return augmentation if recipe.augment != "none" or augmentation.mixes else None


def _transform(kind: str, height: int, width: int) -> v2.Transform:
    if kind == "trivial":  # Müller and Hutter, TrivialAugment, ICCV 2021
        return v2.TrivialAugmentWide()
    if kind == "randaugment":  # Cubuk et al., RandAugment, NeurIPS 2020
        return v2.RandAugment()
    return v2.RandomResizedCrop((height, width), antialias=True)  # Szegedy et al., CVPR 2015
