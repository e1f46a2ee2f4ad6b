"""What matrix products are computed in."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from bench.learning.compiled import kernels


def native_bf16(device: str | torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16 itself, rather than by way of float32."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision_on(device: str | torch.device, asked_for: str) -> str:
    """'fp32' or 'bf16': what ``asked_for`` (fp32, bf16 or auto) means on a device.

    Auto is bf16 where it is native, unless a CPU has the loops of kernels.c. These compute in float32, and train the
    CNN at 1.2 to 1.4 times the rate of a processor's float32 matrix products; PyTorch's bf16 trained it at 0.7 to 1.0
    times that rate on an EPYC that has it natively.
    """
    if asked_for != "auto":
        return asked_for
    looped = torch.device(device).type == "cpu" and kernels() is not None
    return "bf16" if native_bf16(device) and not looped else "fp32"


def arithmetic(device: str | torch.device, precision: str) -> AbstractContextManager[object]:
    """A context manager that computes in ``precision``: 'fp32' or 'bf16'. Weights stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
