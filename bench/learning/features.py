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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from bench.learning.compiled import call, kernels, lanes, recorded, suit
from bench.learning.models import ModelSpec
from bench.learning.precision import arithmetic
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor, as_tensor

VERSION = 7
"""Raise it when extraction gives other features, so that those in caches are not used again."""

SMALL_MAP = 16
"""Pixels of a feature map up to which a 1 x 1 convolution is faster as a matrix product, on the CPU."""

FEW_CHANNELS = 4
"""Of images, up to which our loop is faster than oneDNN's convolution."""

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
    its inverted residuals (Sandler et al., CVPR 2018) become one layer each, and other 1 x 1 convolutions of small maps
    matrix products. A model without a backbone is returned as it is, and so is one that looks at what is between layers
    that have become one.
    """
    model.eval()
    if spec.backbone is None:
        return model
    folded = _folded(model, spec)
    about = spec.name, spec.input_size, type(model)
    if about not in _agreeing:
        _agreeing[about] = _agree(model, folded, spec)
    return folded if _agreeing[about] else model


_agreeing: dict[tuple[object, ...], bool] = {}
"""Whether a model gives the same folded. That is a matter of its layers, so one of each kind is asked in a process."""


@torch.no_grad()
def _agree(model: nn.Module, folded: nn.Module, spec: ModelSpec) -> bool:
    """Whether both make the same of two random images, but for rounding, which TF32 of a GPU does coarsely."""
    random = torch.randn(2, spec.channels, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(0))
    try:
        device = next(model.parameters()).device
        images = random.to(device).contiguous(memory_format=torch.channels_last)
        for method in ("forward", "embed"):
            if hasattr(model, method):
                with torch.autocast(device.type, enabled=False):
                    plain, found = (getattr(one, method)(images) for one in (model, folded))
                if not torch.allclose(found, plain, rtol=0.0, atol=1e-2 * float(plain.abs().max())):
                    return False
    except Exception:  # of whatever kind: then the model is used as it is
        return False
    return True


def _folded(model: nn.Module, spec: ModelSpec) -> nn.Module:
    folded = copy.deepcopy(model)
    backbone = folded.get_submodule(spec.backbone or "")
    _fold_inside(backbone)
    for module in backbone.modules():
        _take_relu6(module)
        _add_inside(module)
        if _is_plain(module) and type(module).__module__.startswith(("torch.", "torchvision.")):  # no methods are lost
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
        _take_along(module)


def _take_along(module: nn.Sequential) -> None:
    """Make one layer of a convolution and the ReLU6 behind it, if it is depthwise or the first of all.

    A depthwise one takes in more: a ReLU6 before it and before that a 1 x 1 convolution, if nothing else sees what they
    give, and a 1 x 1 convolution behind it.
    """
    layers = list(module) if _is_plain(module) else []
    for position, layer in _before_relu6(layers):
        if type(layer) is not nn.Conv2d:
            continue
        if _is_depthwise(layer):
            layer.__class__ = _Depthwise
            cast(_Depthwise, layer).expand = cast(_Depthwise, layer).project = None
        elif _is_first(layer):
            layer.__class__ = _First
        else:
            continue
        module[position + 2] = nn.Identity()
    for one, other in itertools.pairwise(layers):
        if not (_is_plain(one) and _is_plain(other)):
            continue
        last, first = one[-1], other[0]
        if isinstance(last, nn.ReLU6) and isinstance(first, _Depthwise):
            one[-1] = nn.Identity()
            first.relu6_before = True
            expand, *norms = one
            if _can_be_taken(expand) and all(isinstance(norm, nn.Identity) for norm in norms):
                one[0] = nn.Identity()
                first.expand = expand
    for position, (one, other) in enumerate(itertools.pairwise(layers)):
        depthwise = one[0] if _is_plain(one) else None
        alone = _is_plain(one) and all(isinstance(layer, nn.Identity) for layer in list(one)[1:])
        if alone and isinstance(depthwise, _Depthwise) and _can_be_taken(other):
            module[position + 1] = nn.Identity()
            depthwise.project = other


def _take_relu6(module: nn.Module) -> None:
    """Make one layer of a 1 x 1 convolution that nothing has taken in and the ReLU6 behind it."""
    if not _is_plain(module):
        return
    for position, layer in _before_relu6(list(module)):
        if _can_be_taken(layer):
            layer.__class__ = _PointwiseRelu6
            module[position + 2] = nn.Identity()


def _before_relu6(layers: Sequence[nn.Module]) -> Iterator[tuple[int, nn.Module]]:
    """(position, layer) of each layer with a folded batch-norm and a ReLU6 behind it."""
    for position, (layer, norm, after) in enumerate(zip(layers, layers[1:], layers[2:], strict=False)):
        if isinstance(norm, nn.Identity) and isinstance(after, nn.ReLU6):
            yield position, layer


def _add_inside(module: nn.Module) -> None:
    """Let torchvision's inverted residual add its input in the one layer that is left of it, if that is so."""
    if type(module).__qualname__ != "InvertedResidual" or type(module).__module__ != "torchvision.models.mobilenetv2":
        return
    left = list(_leaves(cast(nn.Sequential, module.conv)))
    if len(left) == 1 and isinstance(left[0], _Depthwise):
        left[0].adds = bool(module.use_res_connect)
        module.__class__ = _Whole


class _Whole(nn.Module):
    """An inverted residual of which one layer is left, ``conv``, which adds what there is to add."""

    conv: nn.Sequential

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.conv(images))


def _leaves(module: nn.Sequential) -> Iterator[nn.Module]:
    """The layers that do something, in the order in which they are called."""
    for layer in module:
        if _is_plain(layer) or type(layer) is _Brief:
            yield from _leaves(layer)
        elif type(layer) is _Whole:
            yield from _leaves(layer.conv)
        elif type(layer) is not nn.Identity:
            yield layer


def _is_plain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it does nothing but call its layers, of which there are some, one after the other."""
    called = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0
    return called and not (module._forward_hooks or module._forward_pre_hooks)


def _can_be_taken(layer: nn.Module) -> TypeGuard[_Pointwise]:
    """Whether it is a 1 x 1 convolution that the loops can do along with a depthwise one."""
    return type(layer) is _Pointwise and layer.bias is not None and layer.out_channels % lanes() == 0


class _Brief(nn.Sequential):
    """Calls what does something and nothing else: a sixth of a folded backbone's modules. All keep their names."""

    _left: tuple[nn.Module, ...] | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self._left is None:
            self._left = tuple(_leaves(self))
        for layer in self._left:
            images = layer(images)
        return images


def _is_pointwise(layer: nn.Conv2d) -> bool:
    plain = layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return layer.kernel_size == (1, 1) and plain and layer.weight.device.type == "cpu"


def _is_depthwise(layer: nn.Conv2d) -> bool:
    each_alone = layer.groups == layer.in_channels == layer.out_channels and layer.in_channels % 16 == 0
    return each_alone and _is_padded(layer)


def _is_first(layer: nn.Conv2d) -> bool:
    few = layer.groups == 1 and layer.in_channels <= FEW_CHANNELS and layer.out_channels % 16 == 0
    return few and _is_padded(layer)


def _is_padded(layer: nn.Conv2d) -> bool:
    square = layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.dilation == (1, 1)
    known = layer.stride in {(1, 1), (2, 2)} and layer.padding_mode == "zeros" and layer.bias is not None
    return square and known and layer.weight.device.type == "cpu"


class _Depthwise(nn.Conv2d):
    """``relu6(conv(maps))`` and the layers around it that it has taken in, in one pass over memory. It has a bias."""

    relu6_before = False
    expand: _Pointwise | None
    """A 1 x 1 convolution before that ReLU6; set with the class."""
    project: _Pointwise | None
    """A 1 x 1 convolution behind all; set with the class."""
    adds = False
    """Whether its input is added to what comes out, of the same shape."""
    _in_order: tuple[Tensor, ...] | None = None

    def forward(self, images: Tensor) -> Tensor:
        if not _suits(self if self.expand is None else self.expand, images):
            maps = images if self.expand is None else self.expand(images)
            maps = F.relu6(super().forward(F.relu6(maps) if self.relu6_before else maps))
            maps = maps if self.project is None else self.project(maps)
            return images + maps if self.adds else maps
        if self._in_order is None:
            self._in_order = self._arranged()
        if self.relu6_before and self.expand is None:
            images = F.relu6(images)
        maps = images.permute(0, 2, 3, 1).contiguous()  # in channels-last order: nothing moves
        count, height, width, _ = maps.shape
        channels, stride = self.out_channels, self.stride[0]
        rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
        inputs = self.expand.in_channels if self.expand is not None else 0
        outputs = self.project.out_channels if self.project is not None else 0
        answers = torch.empty(count, rows, columns, outputs or channels)
        threads, pixels = torch.get_num_threads(), max(128, height * width)
        room = torch.empty(threads, 48 * pixels), torch.empty(threads, channels * pixels if outputs else 0)
        sizes = count, height, width, inputs, channels, outputs, stride, int(self.adds)
        call("inverted_residual", maps, *self._in_order, *room, answers, *sizes)
        return answers.permute(0, 3, 1, 2)

    def _arranged(self) -> tuple[Tensor, ...]:
        """Weights and biases in the order in which the loops read them; they stay, as a folded copy does not learn."""
        taps = self.weight[:, 0].permute(1, 2, 0).contiguous(), cast(Tensor, self.bias)
        return *_packed(self.expand), *taps, *_packed(self.project)


class _First(nn.Conv2d):
    """``relu6(conv(images))`` of few channels, with a padding of 1 and a bias."""

    _in_order: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        if not _suits(self, images):
            return F.relu6(super().forward(images))
        if self._in_order is None:
            self._in_order = _packed(self)
        maps = images.permute(0, 2, 3, 1).contiguous()  # in channels-last order: nothing moves
        count, height, width, inputs = maps.shape
        outputs, stride = self.out_channels, self.stride[0]
        answers = torch.empty(count, (height - 1) // stride + 1, (width - 1) // stride + 1, outputs)
        room = torch.empty(torch.get_num_threads(), (height + 2) * (width + 2) * inputs)
        call("first_convolution", maps, *self._in_order, room, answers, count, height, width, inputs, outputs, stride)
        return answers.permute(0, 3, 1, 2)


def _suits(layer: nn.Conv2d, images: Tensor) -> bool:
    """Whether our loops compute with what ``layer``, the first of those that they do at once, is given."""
    fits = images.shape[1] == layer.in_channels and not torch.is_grad_enabled()
    return fits and suit(images, layer.weight)


def _packed(layer: nn.Conv2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, for the loops; of no layer nothing."""
    if layer is None:
        return torch.empty(0), torch.empty(0)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1).contiguous()
    packed = torch.empty_like(weight)
    call("pack_product", weight, packed, *weight.shape)
    return packed, cast(Tensor, layer.bias)


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


class _PointwiseRelu6(_Pointwise):
    """``relu6(conv(maps))`` of 1 x 1 pixels, with a bias."""

    _in_order: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        if not _suits(self, images):
            return F.relu6(super().forward(images))
        if self._in_order is None:
            self._in_order = _packed(self)
        maps = images.permute(0, 2, 3, 1).contiguous()  # in channels-last order: nothing moves
        pixels = maps.shape[:3]
        answers = torch.empty(*pixels, self.out_channels)
        call("pointwise_relu6", maps, *self._in_order, answers, math.prod(pixels), self.in_channels, self.out_channels)
        return answers.permute(0, 3, 1, 2)


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
