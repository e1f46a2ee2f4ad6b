"""Copies of the built-in networks, as a user would write them: fairness.py asks whether they measure the same."""

import torch.nn.functional as F
import torchvision
from torch import nn

from bench.learning.models import model
from bench.learning.models.registry import MODELS


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.fc1 = nn.Linear(1600, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(F.dropout(x, 0.5, self.training))


@model(
    image_size=32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    head="classifier",
    sources=MODELS["mobilenet"].sources,
)
class Transfer(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = torchvision.models.mobilenet_v2().features
        self.classifier = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(1280, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)
        )

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))
