"""Deployment of a trained model on a back end: it is prepared, and its answers to all test images are checked."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

from bench.learning import cost
from bench.learning.backends import backend
from bench.learning.backends.protocol import Prepared, Request
from bench.learning.data.datasets import Split
from bench.learning.data.preprocessing import Inputs, as_inputs, as_tensor, in_turn, parts_of
from bench.spec import Deployment

TIE = 1e-4
"""The largest difference between eager's two largest logits at which rounding decides the class."""

Logits = NDArray[np.float32]


def deploy(
    name: str, request: Request, run_id: str, test: Split, eager: Logits | None
) -> tuple[Deployment, Prepared | None, Logits | None]:
    """Prepare a model for a back end and compare its answers with eager's.

    Args:
        name: the back end's name.
        request: the model, and where it is to run.
        run_id: the run that trained the model.
        test: all test images.
        eager: logits of the back end 'eager', [images, classes]; None if this is eager.

    Returns:
        The row to store, the prepared model, and its logits; the last two are None if the back end failed.
    """
    now = datetime.now(UTC)
    try:
        prepared, seconds = _prepare(name, request)
        logits = answers(prepared, as_inputs(test.images), max(request.batch_sizes))
        if not np.isfinite(logits).all():
            raise ArithmeticError("it answered with numbers that are not finite")
    except Exception as error:  # packages can raise anything; the other back ends go on
        reason = " ".join((str(error).splitlines() or [""])[0].split())[:300] or type(error).__name__
        return Deployment(run_id=run_id, backend=name, status="failed", reason=reason, prepared_at=now), None, None
    row = Deployment(
        run_id=run_id,
        backend=name,
        status="ok",
        **compared(test.labels, logits if eager is None else eager, logits),
        prepare_seconds=seconds,
        deployed_bytes=prepared.deployed_bytes,
        threads=request.threads,
        precision=prepared.precision,
        device=str(cost.machine(prepared.device, request.threads)["device"]),
        version=prepared.version,
        prepared_at=now,
    )
    return row, prepared, logits


def _prepare(name: str, request: Request) -> tuple[Prepared, float]:
    """Return (the prepared model, seconds until it first answered each batch size, export included)."""
    chosen = backend(name)
    exporting = request.onnx.seconds if chosen.runs_onnx else 0.0
    start = time.perf_counter()
    prepared = chosen.prepare(request)
    for size in request.batch_sizes:
        answers(prepared, as_tensor(request.example[:1]), size)
    return prepared, exporting + time.perf_counter() - start


def answers(prepared: Prepared, images: Inputs, batch_size: int) -> Logits:
    """Return the logits of all images, [images, classes]; the last batch is padded to ``batch_size``."""
    logits = []
    for batch in in_turn(images, parts_of(len(images), batch_size), torch.device("cpu")):
        full = torch.cat([batch, batch[-1:].expand(batch_size - len(batch), -1, -1, -1)])
        logits.append(prepared.answer(full.to(prepared.device)).float().cpu().numpy()[: len(batch)])
    return np.concatenate(logits)


def compared(labels: NDArray[np.integer], eager: Logits, logits: Logits) -> dict[str, float]:
    """Compare a back end's logits with eager's; return the figures by their names in :class:`bench.spec.Deployment`.

    Args:
        labels: true classes, [images].
        eager: logits of the back end 'eager', [images, classes].
        logits: logits of this back end, [images, classes].
    """
    eager_classes, classes = eager.argmax(1), logits.argmax(1)
    largest = np.sort(eager, axis=1)[:, -2:]
    tied = largest[:, -1] - largest[:, 0] <= TIE
    eager_right, right = eager_classes == labels, classes == labels
    return {
        "images": len(labels),
        "correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "agreement": float((eager_classes == classes).mean()),
        "disagreements": int(((eager_classes != classes) & ~tied).sum()),
        "largest_difference": float(np.abs(eager - logits).max()),
        "only_eager_right": int((eager_right & ~right).sum()),
        "only_this_right": int((right & ~eager_right).sum()),
    }
