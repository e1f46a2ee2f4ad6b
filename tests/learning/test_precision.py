"""What products are computed in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.learning import precision

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.exists(), reason="this system does not list what its processor can do")
def test_auto_is_what_this_processor_has() -> None:
    flags = set(CPUINFO.read_text().split())
    native = bool(flags & {"avx512_bf16", "amx_bf16"})

    assert precision.precision_on("cpu", "auto") == ("bf16" if native else "fp32")


@pytest.mark.parametrize("asked_for", ["fp32", "bf16"])
def test_what_is_asked_for_by_name_is_taken(asked_for: str) -> None:
    assert precision.precision_on("cpu", asked_for) == asked_for


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True}, False),
    ],
)
def test_a_processor_says_whether_it_has_bfloat16(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert precision.native_bf16("cpu") is native
