"""What products are computed in: python -m pytest tests/learning/test_precision.py"""

from __future__ import annotations

import pytest

from bench.learning import precision


@pytest.mark.parametrize(
    ("device", "native", "looped", "found"),
    [
        ("cpu", False, False, "fp32"),
        ("cpu", False, True, "fp32"),
        ("cpu", True, False, "bf16"),
        ("cpu", True, True, "fp32"),
        ("cuda:0", True, True, "bf16"),
        ("cuda:0", False, True, "fp32"),
    ],
)
def test_auto_is_what_is_faster(
    device: str, native: bool, looped: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda _: native)
    monkeypatch.setattr(precision, "kernels", lambda: object() if looped else None)

    assert precision.precision_on(device, "auto") == found
    assert [precision.precision_on(device, asked_for) for asked_for in ("fp32", "bf16")] == ["fp32", "bf16"]
