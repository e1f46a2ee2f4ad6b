"""A trained model prepared for a back end, and asked about every test image before anything is timed."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

from bench.learning import measure
from bench.learning.backends import backend
from bench.learning.backends.protocol import Prepared, Request
from bench.learning.datasets import Split
from bench.learning.preprocessing import as_tensor
from bench.spec import Deployment

TIE = 1e-4
"""Where eager's two largest logits are nearer than this, rounding decides which class it is."""

Logits = NDArray[np.float32]


def deploy(
    name: str, request: Request, run_id: str, test: Split, eager: Logits | None
) -> tuple[Deployment, Prepared | None, Logits | None]:
    """Prepare a model for a back end and compare its answers with eager's.

    Args:
        name: of the back end.
        request: the model, and where it is to run.
        run_id: whose model it is.
        test: all test images.
        eager: what the back end 'eager' answered, [images, classes]; None where this is eager.

    Returns:
        The row to store, the model that answers, and its logits; the last two are None where the back end failed.
    """
    now = datetime.now(UTC)
    try:
        prepared, seconds = _prepare(name, request)
        logits = answers(prepared, test.images, max(request.batch_sizes))
        if not np.isfinite(logits).all():
            raise ArithmeticError("it answered with numbers that are not finite")
    except Exception as error:  # whatever a package raises: the other back ends go on
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
        device=str(measure.machine(prepared.device, request.threads)["device"]),
        version=prepared.version,
        prepared_at=now,
    )
    return row, prepared, logits


def _prepare(name: str, request: Request) -> tuple[Prepared, float]:
    """Return (the model that answers, seconds until it first answered each batch size)."""
    chosen = backend(name)
    exporting = request.onnx.seconds if chosen.runs_onnx else 0.0
    start = time.perf_counter()
    prepared = chosen.prepare(request)
    for size in request.batch_sizes:
        answers(prepared, request.example[:1], size)
    return prepared, exporting + time.perf_counter() - start


def answers(prepared: Prepared, images: NDArray[np.uint8], batch_size: int) -> Logits:
    """Return the logits of all images, [images, classes]; the last batch is filled up, so that all have one size."""
    found = []
    for batch in torch.split(as_tensor(images), batch_size):
        full = torch.cat([batch, batch[-1:].expand(batch_size - len(batch), -1, -1, -1)])
        found.append(prepared.answer(full.to(prepared.device)).float().cpu().numpy()[: len(batch)])
    return np.concatenate(found)


def compared(labels: NDArray[np.integer], eager: Logits, logits: Logits) -> dict[str, float]:
    """Return how the answers to all test images differ from eager's, as :class:`bench.spec.Deployment` names it.

    Args:
        labels: true classes, [images].
        eager: what the back end 'eager' answered, [images, classes].
        logits: what this back end answered.
    """
    one, other = eager.argmax(1), logits.argmax(1)
    largest = np.sort(eager, axis=1)[:, -2:]
    tied = largest[:, -1] - largest[:, 0] <= TIE
    eager_right, right = one == labels, other == labels
    return {
        "images": len(labels),
        "correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "agreement": float((one == other).mean()),
        "disagreements": int(((one != other) & ~tied).sum()),
        "largest_difference": float(np.abs(eager - logits).max()),
        "only_eager_right": int((eager_right & ~right).sum()),
        "only_this_right": int((right & ~eager_right).sum()),
    }
