"""What products are computed in: python -m pytest tests/learning/test_precision.py"""

from __future__ import annotations

import pytest
import torch

from bench.learning import precision


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(("native", "chosen"), [(False, "fp32"), (True, "bf16")])
def test_auto_is_what_the_hardware_has(device: str, native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda _: native)

    assert precision.precision_on(device, "auto") == chosen
    assert [precision.precision_on(device, asked_for) for asked_for in ("fp32", "bf16")] == ["fp32", "bf16"]


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


def test_this_processor_answers() -> None:
    assert precision.native_bf16("cpu") in (False, True)
