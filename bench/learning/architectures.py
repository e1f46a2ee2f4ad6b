"""The networks themselves. They import torch, so only a builder that is called imports this file."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.learning.compiled import recorded
from bench.learning.dropout import Dropout
from bench.learning.perceptron import perceptron
from bench.learning.pooled import conv_pool_relu


class CNN(nn.Module):
    """Two convolutions and two linear layers for 28 x 28 grey images; 225,034 parameters with ten classes.

    The names conv1, conv2, fc1 and fc2 are those of checkpoints published for this network.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 5 * 5, 128)
        self.dropout = Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Float [batch, 1, 28, 28] to logits [batch, classes]."""
        x = conv_pool_relu(self.conv2, conv_pool_relu(self.conv1, images))
        return perceptron(torch.flatten(x, 1), self.fc1, self.fc2, self.dropout)


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
        """Float [batch, 1, 28, 28] to logits [batch, classes]."""
        x = F.relu(self.conv1(images))
        x = conv_pool_relu(self.conv2, x)
        return perceptron(torch.flatten(x, 1), self.fc1, self.fc2)


class _Head(nn.Sequential):
    """A perceptron with one hidden layer."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        linear, last = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)
        super().__init__(Dropout(0.2), linear, nn.ReLU(inplace=True), Dropout(0.5), last)

    def forward(self, values: Tensor) -> Tensor:
        """Float [batch, inputs] to logits [batch, classes]."""
        layers: tuple[Any, ...] = tuple(self)
        first_dropout, linear, _, dropout, last = layers
        return perceptron(first_dropout(values), linear, last, dropout)


class MobileNetTransfer(nn.Module):
    """torchvision's MobileNetV2 with a small head for a new task; 2,389,130 parameters with ten classes.

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = mobilenet_v2_features()
        self.classifier = _Head(1280, 128, classes)

    def embed(self, images: Tensor) -> Tensor:
        """Float [batch, 3, height, width] to the backbone's features [batch, 1280]."""
        maps: Tensor = self.features(images)
        if not recorded() and maps.shape[2:] == (1, 1):  # of 32 x 32 images one pixel is left
            return maps.flatten(1)
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Float [batch, 3, height, width] to logits [batch, classes]."""
        logits: Tensor = self.classifier(self.embed(images))
        return logits


def mobilenet_v2_features() -> nn.Sequential:
    """The convolutional part of torchvision's MobileNetV2, with random weights."""
    features: nn.Sequential = torchvision_models().mobilenet_v2().features
    return features


def torchvision_models() -> types.ModuleType:
    """torchvision.models, imported without PyTorch's compiler."""
    name = "torch._dynamo.utils"
    if name not in sys.modules:
        # torchvision's detection operators import torch's compiler, 2 s that no model here needs. They ask it
        # only whether it is there, and a stand-in that says no makes them use eager code.
        stand_in = types.ModuleType(name)
        stand_in.__dict__["is_compile_supported"] = lambda device_type: False
        sys.modules[name] = stand_in
        # another version may ask for more than that: then the import below brings the real one
        with contextlib.suppress(ImportError):
            importlib.import_module("torchvision.models")
        del sys.modules[name]
    return importlib.import_module("torchvision.models")
