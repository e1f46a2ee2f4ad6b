"""MobileNetV2 with a small head. Its builder imports this file, and with it torch, when it is called."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import mobilenet_v2


class MobileNetTransfer(nn.Module):
    """torchvision's MobileNetV2 with a small head for a new task; 2,389,130 parameters with ten classes.

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = mobilenet_v2().features
        self.classifier = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(1280, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, 3, height, width] to logits [batch, classes]."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
