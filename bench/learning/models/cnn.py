"""Two small networks. Their builders import this file, and with it torch, when they are called."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_CELLS = 8
"""Larger maps than 8 x 8 are averaged down to 8 x 8, so that the linear layers do not grow with the pictures."""


class CNN(nn.Module):
    """Two convolutions and two linear layers; 225,034 parameters for ten classes of 28 x 28 grey images.

    The names conv1, conv2, fc1 and fc2 are those of checkpoints published for this network.
    """

    def __init__(self, classes: int, *, channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.cells = min(MOST_CELLS, ((image_size - 2) // 2 - 2) // 2)
        self.fc1 = nn.Linear(64 * self.cells**2, 128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, channels, image_size, image_size] to logits [batch, classes]."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = _at_most(self.cells, F.max_pool2d(F.relu(self.conv2(x)), 2))
        x = self.dropout(F.relu(self.fc1(torch.flatten(x, 1))))
        logits: Tensor = self.fc2(x)
        return logits


class StridedCNN(nn.Module):
    """A smaller CNN that reaches 99 % on MNIST after one epoch; 160,362 parameters with ten classes.

    Its first convolution has stride 3: with stride 1 and pooling, it would take as long as the rest of the network,
    for memory traffic more than for arithmetic.
    """

    def __init__(self, classes: int, *, channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 7, stride=3)
        self.conv2 = nn.Conv2d(16, 64, 3)
        self.cells = min(MOST_CELLS, (((image_size - 7) // 3 + 1) - 2) // 2)
        self.fc1 = nn.Linear(64 * self.cells**2, 256)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, channels, image_size, image_size] to logits [batch, classes]."""
        x = F.relu(self.conv1(images))
        x = _at_most(self.cells, F.max_pool2d(F.relu(self.conv2(x)), 2))
        logits: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))
        return logits


def _at_most(cells: int, maps: Tensor) -> Tensor:
    return maps if maps.shape[-1] == cells else F.adaptive_avg_pool2d(maps, cells)
