"""Two small networks for grey digits. Their builders import this file, and with it torch, when they are called."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CNN(nn.Module):
    """Two convolutions and two linear layers for 28 x 28 grey images; 225,034 parameters with ten classes.

    The names conv1, conv2, fc1 and fc2 are those of checkpoints published for this network.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 5 * 5, 128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, 1, 28, 28] to logits [batch, classes]."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.dropout(F.relu(self.fc1(torch.flatten(x, 1))))
        logits: Tensor = self.fc2(x)
        return logits


class StridedCNN(nn.Module):
    """A smaller CNN that reaches 99 % on MNIST after one epoch; 160,362 parameters with ten classes.

    Its first convolution has stride 3: with stride 1 and pooling, it would take as long as the rest of the network,
    for memory traffic more than for arithmetic.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 7, stride=3)
        self.conv2 = nn.Conv2d(16, 64, 3)
        self.fc1 = nn.Linear(64 * 3 * 3, 256)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, 1, 28, 28] to logits [batch, classes]."""
        x = F.relu(self.conv1(images))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))
        return logits
