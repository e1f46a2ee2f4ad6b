"""A frozen backbone is run once: fold its batch-norm layers, extract the features, keep them for other runs.

Training the head on features is the same function as training it through the frozen backbone, only without running
the backbone again in every epoch.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, cast

import filelock
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.learning import cache
from bench.learning.compiled import call, kernels, recorded, suit
from bench.learning.models import ModelSpec
from bench.learning.precision import arithmetic
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor, as_tensor

VERSION = 5
"""Raise it when extraction gives other features, so that those in caches are not used again."""

SMALL_MAP = 16
"""Pixels of a feature map up to which a 1 x 1 convolution is faster as a matrix product, on the CPU."""

DEFAULT_LIMIT_GB = 8.0
"""How large the features in the cache may be together, unless BENCH_FEATURES_GB says otherwise."""


@dataclass(frozen=True)
class Features:
    """What a frozen backbone makes of a split."""

    values: Tensor
    """Float32 [images, features], on the CPU."""
    seconds: float
    """Time it took to extract them now; 0 when they were in the cache."""
    cached: bool


def usable(model: nn.Module, spec: ModelSpec, bn_mode: str) -> bool:
    """Whether the head can be trained on features: only where that is exactly the same function."""
    if spec.backbone is None or spec.head is None or bn_mode != "eval":
        return False
    return not any(parameter.requires_grad for parameter in model.get_submodule(spec.backbone).parameters())


def fold(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """A copy of ``model`` in evaluation mode whose backbone has its batch-norm layers folded into the convolutions.

    The same function up to rounding (Jacob et al., CVPR 2018, section 3.2), in less than half of the time, as on a CPU
    its 1 x 1 convolutions of small maps become matrix products too, and its depthwise convolutions one with the ReLU6
    before and after them and the 1 x 1 convolution before that. A model without a backbone is returned as it is.
    """
    model.eval()
    if spec.backbone is None:
        return model
    folded = copy.deepcopy(model)
    backbone = folded.get_submodule(spec.backbone)
    _fold_inside(backbone)
    for module in backbone.modules():
        if _is_plain(module):
            module.__class__ = _Brief
    return folded.to(memory_format=torch.channels_last)


def _fold_inside(module: nn.Module) -> None:
    for child in module.children():
        _fold_inside(child)
    if isinstance(module, nn.Sequential):
        for position in range(len(module) - 1):
            first, second = module[position], module[position + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[position] = fuse_conv_bn_eval(first, second)
                module[position + 1] = nn.Identity()
        for layer in module:
            if type(layer) is nn.Conv2d and _is_pointwise(layer):
                layer.__class__ = _Pointwise
        _take_relu6_along(module)


def _take_relu6_along(module: nn.Sequential) -> None:
    """Make a depthwise convolution with a ReLU6 behind it one layer, and then take in what is before it as well.

    That is a ReLU6, and before that a 1 x 1 convolution, if nothing else sees what they give.
    """
    layers = list(module) if _is_plain(module) else []
    for position, (layer, norm, after) in enumerate(zip(layers, layers[1:], layers[2:], strict=False)):
        folded = isinstance(norm, nn.Identity) and isinstance(after, nn.ReLU6)
        if folded and type(layer) is nn.Conv2d and _is_depthwise(layer):
            layer.__class__ = _Depthwise
            cast(_Depthwise, layer).expand = None
            module[position + 2] = nn.Identity()
    for one, other in itertools.pairwise(layers):
        if not (_is_plain(one) and _is_plain(other)):
            continue
        last, first = one[-1], other[0]
        if isinstance(last, nn.ReLU6) and isinstance(first, _Depthwise):
            one[-1] = nn.Identity()
            first.relu6_before = True
            expand, *norms = one
            if type(expand) is _Pointwise and all(isinstance(norm, nn.Identity) for norm in norms):
                one[0] = nn.Identity()
                first.expand = expand


def _is_plain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it does nothing but call its layers, of which there are some, one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


class _Brief(nn.Sequential):
    """Does not call what does nothing: a third of a folded backbone's layers, which stay as others keep their names."""

    def forward(self, images: Tensor) -> Tensor:
        for layer in self._modules.values():
            if type(layer) is not nn.Identity:
                images = layer(images)
        return images


def _is_pointwise(layer: nn.Conv2d) -> bool:
    plain = layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return layer.kernel_size == (1, 1) and plain and layer.weight.device.type == "cpu"


def _is_depthwise(layer: nn.Conv2d) -> bool:
    square = layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.dilation == (1, 1)
    each_alone = layer.groups == layer.in_channels == layer.out_channels and layer.in_channels % 16 == 0
    known = layer.stride in {(1, 1), (2, 2)} and layer.padding_mode == "zeros" and layer.bias is not None
    return square and each_alone and known and layer.weight.device.type == "cpu"


class _Depthwise(nn.Conv2d):
    """``relu6(conv(maps))`` in one pass over memory, and what comes before if that is a ReLU6 too. It has a bias."""

    relu6_before = False
    expand: _Pointwise | None
    """A 1 x 1 convolution before that; set with the class."""
    _in_order: tuple[Tensor, ...] | None = None

    def forward(self, images: Tensor) -> Tensor:
        expand = self.expand
        if expand is not None and not self._suits(images, expand):
            images, expand = expand(images), None
        if not self._suits(images, expand or self):
            return F.relu6(super().forward(F.relu6(images) if self.relu6_before else images))
        if self._in_order is None:
            self._in_order = self._arranged()
        maps = images.permute(0, 2, 3, 1).contiguous()  # in channels-last order: nothing moves
        count, height, width, inputs = maps.shape
        channels, stride = self.out_channels, self.stride[0]
        answers = torch.empty(count, (height - 1) // stride + 1, (width - 1) // stride + 1, channels)
        if expand is not None:
            room = torch.empty(torch.get_num_threads(), 48 * max(128, height * width))
            sizes = count, height, width, inputs, channels, stride
            call("expanded_depthwise", maps, *self._in_order, room, answers, *sizes)
        else:
            sizes = count, height, width, channels, stride, int(self.relu6_before)
            call("depthwise", maps, *self._in_order[-2:], answers, *sizes)
        return answers.permute(0, 3, 1, 2)

    def _suits(self, images: Tensor, first: nn.Conv2d) -> bool:
        fits = images.shape[1] == first.in_channels and not torch.is_grad_enabled()
        return fits and suit(images, first.weight, first.bias, self.weight)

    def _arranged(self) -> tuple[Tensor, ...]:
        """Weights and biases in the order in which the loops read them; they stay, as a folded copy does not learn."""
        taps = self.weight[:, 0].permute(1, 2, 0).contiguous(), cast(Tensor, self.bias)
        if self.expand is None:
            return taps
        weight = self.expand.weight.flatten(1).contiguous()
        packed = torch.empty_like(weight)
        call("pack_expansion", weight, packed, *weight.shape)
        return packed, cast(Tensor, self.expand.bias), *taps


class _Pointwise(nn.Conv2d):
    """A 1 x 1 convolution; of small maps as a matrix product.

    oneDNN's convolution reaches a tenth of the machine's rate on maps of 1 x 1 pixels, the product half or more.
    """

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height * width > SMALL_MAP or recorded():  # there it stays what it is
            return super().forward(images)
        pixels = images.permute(0, 2, 3, 1)  # in channels-last order: nothing moves
        return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def features_of(
    split: DeviceSplit,
    folded: nn.Module,
    spec: ModelSpec,
    *,
    data_key: str,
    precision: str = "fp32",
    report: Callable[[float], None] = lambda share: None,
) -> Features:
    """The features of a split: from the cache, or extracted and put there.

    Args:
        split: images on the device to compute on.
        folded: what :func:`fold` returned.
        spec: of the model.
        data_key: names the split's contents; with the backbone's weights it addresses the features.
        precision: 'fp32' or 'bf16', what to compute in.
        report: called now and then with the share that is done.
    """
    folder = cache.cache_dir() / "features"
    key = _key(folded, spec, f"{data_key} {precision}", split.images.device)
    file = folder / f"{key}.npy"
    images = len(split.labels)
    try:
        with cache.locked(folder, name=file.stem):  # a second process waits and then finds them there
            kept = _read(file)
            if kept is not None:
                return Features(as_tensor(kept), 0.0, cached=True)
            start = time.perf_counter()
            parts = _extract(split, folded, spec, precision, report)
            first = next(parts)
            shape = (images, first.shape[1])
            if _make_room(folder, first.element_size() * math.prod(shape)):
                # Straight into the file and then mapped: processes share that memory, and none holds it alone.
                _write(file, shape, itertools.chain([first], parts))
                kept = _read(file)
                if kept is not None:
                    return Features(as_tensor(kept), time.perf_counter() - start, cached=False)
    except (OSError, filelock.Timeout):  # a cache that cannot be written is no reason not to train
        pass
    start = time.perf_counter()
    values = torch.empty(0)
    done = 0
    for part in _extract(split, folded, spec, precision, report):
        if done == 0:  # room for all at once: joining parts in the end would take twice the memory
            values = torch.empty(images, part.shape[1])
        values[done : done + len(part)] = part
        done += len(part)
    return Features(values, time.perf_counter() - start, cached=False)


def _extract(
    split: DeviceSplit, folded: nn.Module, spec: ModelSpec, precision: str, report: Callable[[float], None]
) -> Iterator[Tensor]:
    """The features of one batch after the other, float32 on the CPU."""
    preprocess = Preprocessor(spec, split.images.device)
    embed = folded.embed
    images = len(split.labels)
    for first in range(0, images, BATCH):
        # not inference_mode: autograd refuses its tensors
        with torch.no_grad(), arithmetic(split.images.device, precision):
            found: Tensor = embed(preprocess(split.images[first : first + BATCH])).float().cpu()  # type: ignore[operator]
        report(min(1.0, (first + BATCH) / images))
        yield found


def _key(folded: nn.Module, spec: ModelSpec, data_key: str, device: torch.device) -> str:
    digest = hashlib.sha256()
    by = "kernels" if device.type == "cpu" and kernels() is not None else "PyTorch"  # they round differently
    about = (VERSION, torch.__version__, device.type, by, data_key, spec.name, spec.input_size, spec.mean, spec.std)
    digest.update(repr(about).encode())
    for name, value in folded.get_submodule(spec.backbone or "").state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path) -> NDArray[np.float32] | None:
    try:
        found: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    os.utime(file)  # most recently used
    return found


def _limit_bytes() -> float:
    try:
        return float(os.environ.get("BENCH_FEATURES_GB", DEFAULT_LIMIT_GB)) * 1e9
    except ValueError:
        return DEFAULT_LIMIT_GB * 1e9


def _make_room(folder: Path, size: int) -> bool:
    """Remove the features that were not used for longest; False if so many bytes are more than the limit."""
    for torn in folder.glob("*.tmp"):  # of a process that was killed
        if time.time() - torn.stat().st_mtime > 3600:
            torn.unlink(missing_ok=True)
    limit = _limit_bytes()
    if size > limit:
        return False
    others = sorted(folder.glob("*.npy"), key=lambda other: other.stat().st_mtime)
    used = sum(other.stat().st_size for other in others)
    for oldest in others:
        if used + size <= limit:
            break
        used -= oldest.stat().st_size
        oldest.unlink(missing_ok=True)  # whoever has it mapped keeps it until the mapping ends
    return True


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
