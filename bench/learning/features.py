"""Features of images from a frozen backbone: extracted once, and kept for other runs.

Training the head on features computes the same as training it behind the frozen backbone, without running the backbone
again in every epoch.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import __version__ as torch_version
from torch.fx.experimental.optimization import fuse

from bench.learning import cache
from bench.learning.data.preprocessing import DeviceSplit, Preprocessor, as_tensor, batch_of, in_turn, parts_of
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.heads import is_last, without_head
from bench.learning.precision import arithmetic

VERSION = 10
"""The version of the extraction. Raise it when the features change, so that cached ones are not used again."""

DEFAULT_LIMIT_GB = 8.0
"""The limit of all features in the cache together, in 10^9 bytes, unless BENCH_FEATURES_GB sets another."""


@dataclass(frozen=True)
class Features:
    """The features of a split."""

    values: Tensor
    """Float32 [images, features], on the CPU."""
    seconds: float
    """Time that the extraction took; 0 if the features were in the cache."""
    cached: bool


def embedding_of(model: nn.Module, spec: ModelSpec, bn_mode: str) -> nn.Module | None:
    """Return the frozen backbone, which maps a batch of the model's input to features, in evaluation mode.

    None if the head cannot be trained on features: if anything else is trained too, or batch-norm layers see batches,
    or the model computes something behind its head, for two random images.
    """
    if spec.head is None or bn_mode != "eval":
        return None
    inside = set(model.get_submodule(spec.head).parameters())
    if any(parameter.requires_grad and parameter not in inside for parameter in model.parameters()):
        return None
    if all(parameter in inside for parameter in model.parameters()):
        return None
    embedding = without_head(model, spec.head)
    return embedding if is_last(model, embedding, spec.head, _random_images(model, spec)) else None


def fold(embedding: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return the embedding with its batch-norm layers folded into its convolutions.

    It is the same function up to rounding, with fewer passes over memory (Jacob et al., CVPR 2018, section 3.2). If it
    cannot be traced, or gives other features when folded, ``embedding`` itself is returned.
    """
    try:
        folded = fuse(embedding).to(memory_format=torch.channels_last)
        return folded if _agree(embedding, folded, spec) else embedding
    except Exception:  # tracing a user's backbone can raise anything
        return embedding


def _random_images(model: nn.Module, spec: ModelSpec) -> Tensor:
    shape = 2, spec.input.channels, spec.input.image_size, spec.input.image_size
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return images.to(next(model.parameters()).device).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _agree(plain: nn.Module, folded: nn.Module, spec: ModelSpec) -> bool:
    """Return whether both give the same features for two random images, up to rounding, which is coarse in TF32."""
    images = _random_images(plain, spec)
    with torch.autocast(images.device.type, enabled=False):
        expected, given = plain(images), folded(images)
    return torch.allclose(given, expected, rtol=0.0, atol=1e-2 * float(expected.abs().max()))


def features_of(
    split: DeviceSplit,
    embedding: nn.Module,
    spec: ModelSpec,
    *,
    data_key: str,
    precision: str = "fp32",
    report: Callable[[float], None] = lambda share: None,
) -> Features:
    """Return the features of a split, read from the cache, or extracted and stored there.

    Args:
        split: images on the device to compute on.
        embedding: what :func:`embedding_of` returned.
        spec: the model's spec.
        data_key: identifies the split's contents; part of the cache key, as is all else that the features depend on.
        precision: 'fp32' or 'bf16', to compute in.
        report: called after each batch with the share of the images that is done.
    """
    folder = cache.cache_dir() / "features"
    key = _key(embedding, spec, data_key, precision, split.device)
    file = folder / f"{key}.npy"
    images = len(split.labels)
    try:
        cache.check_trusted(folder, file)
        with cache.locked(folder, name=file.stem):  # a second process waits and then reads the file
            kept = _read(file)
            if kept is not None:
                return Features(as_tensor(kept), 0.0, cached=True)
            start = time.perf_counter()
            parts = _extract(split, embedding, spec, precision, report)
            first = next(parts)
            shape = (images, first.shape[1])
            limit = cache.limit_bytes("BENCH_FEATURES_GB", DEFAULT_LIMIT_GB)
            if cache.make_room(folder, "*.npy", first.element_size() * math.prod(shape), limit):
                # Written to the file batch by batch and then mapped, so that processes share the memory.
                _write(file, shape, itertools.chain([first], parts))
                kept = _read(file)
                if kept is not None:
                    return Features(as_tensor(kept), time.perf_counter() - start, cached=False)
    except (OSError, filelock.Timeout):  # without a cache, features are kept in memory
        pass
    start = time.perf_counter()
    values = torch.empty(0)
    done = 0
    for part in _extract(split, embedding, spec, precision, report):
        if done == 0:  # allocated once: concatenating the parts would take twice the memory
            values = torch.empty(images, part.shape[1])
        values[done : done + len(part)] = part
        done += len(part)
    return Features(values, time.perf_counter() - start, cached=False)


def _extract(
    split: DeviceSplit, embedding: nn.Module, spec: ModelSpec, precision: str, report: Callable[[float], None]
) -> Iterator[Tensor]:
    """Yield the features batch by batch, float32 on the CPU."""
    preprocess = Preprocessor(spec.input, split.device)
    folded = fold(embedding, spec)
    parts = parts_of(len(split.labels), batch_of(spec.input, split.device))
    for number, images in enumerate(in_turn(split.images, parts, split.device), start=1):
        # not inference_mode: autograd refuses its tensors
        with torch.no_grad(), arithmetic(split.device, precision):
            part: Tensor = folded(preprocess(images))
        report(number / len(parts))
        yield part.float().cpu()


def _key(embedding: nn.Module, spec: ModelSpec, data_key: str, precision: str, device: torch.device) -> str:
    """Return a digest of everything that the features, to the last bit, depend on."""
    on_cpu = device.type == "cpu"
    processor = sorted(torch.cpu.get_capabilities().items()) if on_cpu else torch.cuda.get_device_name(device)
    threads = torch.get_num_threads() if on_cpu else None  # oneDNN may split a sum among them
    about = VERSION, torch_version, device.type, processor, threads, precision, data_key, spec.name, spec.input
    digest = hashlib.sha256(repr(about).encode())
    for name, value in embedding.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path) -> NDArray[np.float32] | None:
    try:
        values: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    os.utime(file)  # for make_room(), which removes the least recently used
    return values


def _write(file: Path, shape: tuple[int, int], parts: Iterable[Tensor]) -> None:
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            about = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(out, {**about, "shape": shape})
            for part in parts:
                out.write(part.numpy().tobytes())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
