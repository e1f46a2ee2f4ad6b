"""A convolution, max-pooling and ReLU at once: on a CPU in fewer passes over memory, and no gradients that are zero."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from bench.learning.compiled import PARTS, call, suit


def conv_pool_relu(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """``relu(max_pool2d(conv(images), 2))``: that function, and its gradients.

    Of four values pooling keeps one, and ReLU about half of those: seven eighths of the gradient at the convolution are
    zero. On a CPU, for 3 x 3 kernels in float32, they are left out (kernels.c). What pooling throws away is not written
    down either, for grey images or a multiple of 16 output channels, which with a multiple of 16 input channels take
    Winograd's fewer multiplications; otherwise PyTorch convolves. In bfloat16 all of it is PyTorch's.

    Args:
        conv: any convolution.
        images: float [batch, channels, height, width].

    Returns:
        Float [batch, output channels, rows, columns], with half of the rows and columns that the convolution has.
    """
    if _suits(conv, images):
        function = _GreyConvPool if images.shape[1] == 1 else _ConvPool
        return cast(Tensor, function.apply(images, conv.weight, conv.bias))
    # pooling before ReLU is the same function (both keep order) on a quarter of the values
    return F.relu(F.max_pool2d(conv(images), 2))


def _suits(conv: nn.Conv2d, images: Tensor) -> bool:
    weight, bias = conv.weight, conv.bias
    return (
        type(conv).forward is nn.Conv2d.forward
        and images.dim() == 4
        and images.shape[1] == conv.in_channels
        and (images.shape[1] > 1 or not images.requires_grad)
        and min(images.shape[2:]) > 3
        and bias is not None
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.out_channels < 2**16  # the loops count them in 16 bits
        and suit(images, weight, bias)
    )


class _GreyConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        images = images.contiguous()
        pooled, position = torch.ops.bench.pooled_grey.default(images, weight, bias)
        ctx.save_for_backward(images, position)
        return _channels_second(pooled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        by_weight, by_bias = torch.ops.bench.pooled_grey_gradients.default(*ctx.saved_tensors, _channels_last(gradient))
        return None, by_weight, by_bias


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        inputs, kernel = _channels_last(images), _channels_last(weight)
        if len(weight) % 16 == 0:
            pooled, position = torch.ops.bench.pooled_convolution.default(inputs, kernel, bias)
        else:
            maps = _channels_last(F.conv2d(images, weight, bias))
            count, height, width, channels = maps.shape
            pooled, position = _room_for_pooled(count, height // 2, width // 2, channels)
            call("pool", maps, pooled, position, count, height, width, channels)
        ctx.save_for_backward(inputs, kernel, position)
        return _channels_second(pooled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_map, by_weight, by_bias = torch.ops.bench.pooled_gradients.default(
            *ctx.saved_tensors, _channels_last(gradient)
        )
        return _channels_second(by_map), _channels_second(by_weight), by_bias


def _pooled_grey(images: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(pooled, position), both [batch, rows, columns, channels]."""
    count, _, height, width = images.shape
    channels = len(weight)
    pooled, position = _room_for_pooled(count, (height - 2) // 2, (width - 2) // 2, channels)
    by_tap = weight.permute(2, 3, 1, 0).contiguous()
    call("pooled_grey", images, by_tap, bias.contiguous(), pooled, position, count, height, width, channels)
    return pooled, position


def _pooled_convolution(maps: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(pooled, position), both [batch, rows, columns, outputs], of maps [batch, height, width, channels].

    The weight has its channels last, too.
    """
    count, height, width, channels = maps.shape
    outputs = len(weight)
    pooled, position = _room_for_pooled(count, (height - 2) // 2, (width - 2) // 2, outputs)
    by_tap = torch.empty(16, channels, outputs)
    pixels = pooled.shape[1] * pooled.shape[2]
    values = torch.empty(torch.get_num_threads(), 16 * max(72, pixels) * (channels + 32))
    tensors = maps, weight, bias.contiguous(), by_tap, values, pooled, position
    call("pooled_convolution", *tensors, count, height, width, channels, outputs)
    return pooled, position


def _pooled_grey_gradients(images: Tensor, position: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the weight and of the bias, in their shapes."""
    count, _, height, width = images.shape
    channels = gradient.shape[3]
    parts, sums = torch.empty(PARTS, 10 * channels), torch.empty(10 * channels)
    call("pooled_grey_gradients", images, gradient, position, parts, sums, count, height, width, channels)
    return sums[: 9 * channels].view(3, 3, 1, channels).permute(3, 2, 0, 1), sums[9 * channels :].clone()


def _pooled_gradients(
    maps: Tensor, weight: Tensor, position: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of the maps, of the weight and of the bias; channels come last in all but the bias."""
    count, height, width, channels = maps.shape
    _, rows, columns, outputs = gradient.shape
    by_map, sums = torch.empty_like(maps), torch.empty(weight.numel() + outputs)
    pixels = rows * columns
    entries = torch.empty(PARTS, (outputs + 4) * (pixels + 4), 2, dtype=torch.int32)
    found, parts = torch.empty(PARTS, outputs + 4 * pixels, dtype=torch.int32), torch.empty(PARTS, len(sums))
    tensors = maps, weight, gradient, position, parts, entries, found, by_map, sums
    call("pooled_gradients", *tensors, count, height, width, channels, outputs)
    return by_map, sums[: weight.numel()].view_as(weight), sums[weight.numel() :].clone()


# Operators of their own, so that what counts floating-point operations sees them; the gradients need none of theirs.
_OPERATORS = torch.library.Library("bench", "DEF")  # type: ignore[no-untyped-call]
for _operator in (_pooled_grey, _pooled_grey_gradients, _pooled_convolution, _pooled_gradients):
    _name = _operator.__name__.removeprefix("_")
    _schema = torch.library.infer_schema(_operator, mutates_args=(), op_name=_name)
    _OPERATORS.define(_schema)  # type: ignore[no-untyped-call]
    _OPERATORS.impl(_name, _operator, "CPU")  # type: ignore[no-untyped-call]


@register_flop_formula(torch.ops.bench.pooled_grey)
def _grey_flops(images: Any, weight: Any, bias: Any, **shape_of: Any) -> int:
    """As the plain convolution."""
    count, _, height, width = images
    return int(2 * 9 * count * (height - 2) * (width - 2) * weight[0])


@register_flop_formula(torch.ops.bench.pooled_convolution)
def _convolution_flops(maps: Any, weight: Any, bias: Any, **shape_of: Any) -> int:
    """As the plain convolution: operations are a property of the network, not of how it is computed."""
    count, height, width, channels = maps
    return int(2 * 9 * count * (height - 2) * (width - 2) * channels * weight[0])


@register_flop_formula(torch.ops.bench.pooled_grey_gradients)
def _grey_gradient_flops(images: Any, position: Any, gradient: Any, **shape_of: Any) -> int:
    """All four places of each pooled value, three of them times zero."""
    count, rows, columns, channels = gradient
    return int(2 * 9 * 4 * count * rows * columns * channels)


@register_flop_formula(torch.ops.bench.pooled_gradients)
def _gradient_flops(maps: Any, weight: Any, position: Any, gradient: Any, **shape_of: Any) -> int:
    """Two products for each value that ReLU lets through, of which half are expected."""
    count, rows, columns, outputs = gradient
    return int(2 * 2 * 9 * count * rows * columns * outputs * maps[3]) // 2


def _room_for_pooled(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.empty(shape), torch.empty(shape, dtype=torch.uint8)


def _channels_last(tensor: Tensor) -> Tensor:
    """[batch, channels, height, width] to contiguous [batch, height, width, channels]."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def _channels_second(tensor: Tensor) -> Tensor:
    """[batch, height, width, channels] to [batch, channels, height, width], on the same memory."""
    return tensor.permute(0, 3, 1, 2)
