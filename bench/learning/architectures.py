"""The networks themselves. They import torch, so only a builder that is called imports this file."""

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

    Its first convolution has stride 3: one of stride 1 and the pooling after it would be memory traffic more than
    arithmetic, and take as long as all the rest.
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


class MobileNetTransfer(nn.Module):
    """torchvision's MobileNetV2 with a small head for a new task; 2,389,130 parameters with ten classes.

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
    """

    def __init__(self, classes: int) -> None:
        from torchvision.models import mobilenet_v2  # seconds that the other networks need not wait for

        super().__init__()
        self.features = mobilenet_v2().features
        self.classifier = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(1280, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),
        )

    def embed(self, images: Tensor) -> Tensor:
        """Map float [batch, 3, height, width] to the backbone's features [batch, 1280]."""
        maps: Tensor = self.features(images)
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, 3, height, width] to logits [batch, classes]."""
        logits: Tensor = self.classifier(self.embed(images))
        return logits
