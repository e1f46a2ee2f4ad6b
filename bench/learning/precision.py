"""The precision in which matrix products are computed."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def native_bf16(device: str | torch.device) -> bool:
    """Return whether the hardware multiplies matrices in bfloat16 itself, without going through float32."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def precision_on(device: str | torch.device, asked_for: str) -> str:
    """Return 'fp32' or 'bf16': ``asked_for`` itself, or for 'auto' bf16 where the device computes in it natively."""
    if asked_for != "auto":
        return asked_for
    return "bf16" if native_bf16(device) else "fp32"


def arithmetic(device: str | torch.device, precision: str) -> AbstractContextManager[object]:
    """Return a context manager that computes in ``precision``: 'fp32' or 'bf16'. Weights stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
