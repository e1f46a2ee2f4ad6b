"""Execution of one run: ``execute(run, inputs, context)`` trains and evaluates a model and returns the outcome."""

from __future__ import annotations

import functools
import gc
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import torch
import torch.distributed
from torch import Tensor, nn

from bench.learning import cost
from bench.learning.augmentation import augmentation_of
from bench.learning.checkpoint import to_safetensors
from bench.learning.context import Context
from bench.learning.data.preprocessing import DeviceSplit, as_tensor
from bench.learning.data.splits import train_and_validation
from bench.learning.evaluation import Evaluation, evaluate
from bench.learning.features import Features, embedding_of, features_of
from bench.learning.fit_state import FitState
from bench.learning.inputs import Inputs
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.learning.models.heads import head_of
from bench.learning.models.registry import find
from bench.learning.precision import precision_on
from bench.learning.process import flush_denormals, prepare_process
from bench.learning.training import DivergedError, fit, on_features, on_images
from bench.spec import EpochRecord, Measured, Outcome, Progress, Recipe, Run, Status


def execute(run: Run, inputs: Inputs, context: Context, *, oom_backoff: bool = False) -> Outcome:
    """Train and evaluate a model, and return what was measured; the outcome of a run that fails has the reason.

    With several workers an exception is raised instead, unless the run diverged: the other workers wait for this one,
    so the caller has to end them and to write the record.

    Args:
        run: the run to execute.
        inputs: its data set, initial weights and user's code.
        context: where it runs.
        oom_backoff: when memory runs out, start again with half the batch size instead of failing; one worker only.
    """
    prepare_process(context.threads)
    started_at = datetime.now(UTC)
    batch_size = run.recipe.batch_size
    try:
        while True:
            try:
                return _execute(run, inputs, context, started_at, batch_size)
            except Exception as error:
                if not (oom_backoff and context.world_size == 1 and status_of(error) is Status.OOM and batch_size > 1):
                    raise
                batch_size //= 2
            gc.collect()  # frees what the failed attempt held, now that its traceback is gone
            if context.device.startswith("cuda"):
                torch.cuda.empty_cache()
    except Exception as error:
        status = status_of(error)
        if context.world_size > 1 and status is not Status.DIVERGED:  # all workers see the same loss, so all end
            raise
        reason = str(error) if status is Status.DIVERGED else f"{type(error).__name__}: {error}"
        ended_at = datetime.now(UTC)
        where = cost.machine(context.device, context.threads)
        measured = Measured(status=status, started_at=started_at, ended_at=ended_at, reason=reason, **where)
        return Outcome(run.id, measured)


def status_of(error: BaseException) -> Status:
    """Return the status of a run that ended with ``error``."""
    if isinstance(error, DivergedError):
        return Status.DIVERGED
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return Status.OOM  # PyTorch's CPU allocator raises a RuntimeError with this text
    return Status.FAILED


@flush_denormals()
def _execute(run: Run, inputs: Inputs, context: Context, started_at: datetime, batch_size: int) -> Outcome:
    recipe = run.recipe.model_copy(update={"batch_size": batch_size})
    memory = cost.PeakMemory(context.device)
    setup_start = time.perf_counter()
    model, spec = built(run, inputs)
    initial_sha256 = weights_digest(model)
    trainable_parameters, total_parameters = cost.parameters(model)
    model = model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    macs = cost.macs(model, spec)
    train = DeviceSplit.of(inputs.dataset.train, context.device)
    positions, held_out = train_and_validation(
        inputs.dataset.train.labels,
        validation_size=recipe.validation_size,
        train_size=recipe.train_size,
        seed=run.seed,
    )
    precision = precision_on(context.device, recipe.precision)
    setup_seconds = time.perf_counter() - setup_start

    features = None
    augmentation = augmentation_of(recipe, run.seed, images=len(train.labels), classes=run.dataset.classes)
    embedding = None if augmentation is not None else embedding_of(model, spec, recipe.bn_mode)
    if embedding is not None:
        features = _features(run, train, embedding, spec, precision, context)
        trainee = on_features(model, spec, train, features.values, as_tensor(positions))
    else:
        trainee = on_images(model, spec, train, recipe.bn_mode, as_tensor(positions), augmentation)

    def evaluate_on(
        data: DeviceSplit, known: Tensor | None = None, report: Callable[[float], None] = lambda share: None
    ) -> Evaluation:
        workers = {"rank": context.rank, "world_size": context.world_size}
        return evaluate(model, spec, data, features=known, precision=precision, report=report, **workers)

    validate = None
    if len(held_out):
        held = as_tensor(held_out)
        held_split = train.only(held)
        held_features = features.values[held] if features else None
        validate = functools.partial(evaluate_on, held_split, held_features)
    fitted = fit(trainee, recipe, seed=run.seed, run_id=run.id, context=context, validate=validate)
    train_seconds = fitted.seconds + (features.seconds if features else 0.0)
    if context.world_size > 1:
        _agree(model)
    tested, tested_figures = None, {}
    if run.judged_on == "test":
        test = DeviceSplit.of(inputs.dataset.test, context.device)
        tested = evaluate_on(test, report=_reporter(run, "testing", context, len(fitted.epochs)))
        if not math.isfinite(tested.loss):
            raise DivergedError(f"the loss over the test images is {tested.loss}")
        tested_figures = {
            "test_accuracy": tested.accuracy,
            "test_correct": tested.correct,
            "test_loss": tested.loss,
            "test_seconds": tested.seconds,
            "test_images_per_second": len(tested.predictions.labels) / tested.seconds,
            "predictions_sha256": hashlib.sha256(tested.predictions.predicted.tobytes()).hexdigest(),
        }

    last = fitted.epochs[-1]
    best_epoch = (fitted.best or None) if recipe.early_stopping is not None else None
    kept = last if best_epoch is None else fitted.epochs[best_epoch - 1]
    if tested is None and last.validation_loss is not None and not math.isfinite(last.validation_loss):
        raise DivergedError(f"the loss over the held-out images is {last.validation_loss}")
    epochs = _epoch_records(run, fitted)
    measured = Measured(
        status=Status.OK,
        batch_size_used=batch_size,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        **tested_figures,
        precision_used=precision,
        image_storage=inputs.dataset.train.storage,
        epochs_done=len(fitted.epochs),
        best_epoch=best_epoch,
        images_per_epoch=len(positions),
        **_target_figures(fitted, recipe, features),
        validation_accuracy=kept.validation_accuracy,
        validation_seconds=sum(epoch.validation_seconds for epoch in fitted.epochs) if validate else None,
        train_accuracy=last.train_accuracy,
        train_loss=last.train_loss,
        initial_sha256=initial_sha256,
        model_sha256=weights_digest(model),
        trainable_parameters=trainable_parameters,
        total_parameters=total_parameters,
        macs=macs,
        setup_seconds=setup_seconds,
        feature_seconds=features.seconds if features else None,
        features_cached=features.cached if features else None,
        train_seconds=train_seconds,
        train_images_per_second=len(positions) * len(fitted.epochs) / train_seconds,
        peak_memory_mb=memory.megabytes(),
        memory_kind=memory.kind,
        **cost.machine(context.device, context.threads),
    )
    if tested is None:  # of a tuning trial only the score is needed, not the model
        return Outcome(run.id, measured, epochs)
    about = {"run_id": run.id, "dataset": run.dataset.name, "test_accuracy": repr(tested.accuracy)}
    checkpoint = to_safetensors(model, spec, inputs.dataset.class_names, **about)
    return Outcome(run.id, measured, epochs, tested.predictions, checkpoint)


def _target_figures(fitted: FitState, recipe: Recipe, features: Features | None) -> dict[str, float | None]:
    """Return when the target was reached; the seconds include extracting features, but not evaluation."""
    reached = fitted.reached(recipe.target_accuracy)
    if reached is None:
        return {}
    seconds = sum(epoch.seconds for epoch in fitted.epochs[:reached])
    return {"target_epoch": reached, "target_seconds": seconds + (features.seconds if features else 0.0)}


def _epoch_records(run: Run, fitted: FitState) -> list[EpochRecord]:
    return [
        EpochRecord(run_id=run.id, epoch=number, **{name: getattr(epoch, name) for name in _EPOCH_FIGURES})
        for number, epoch in enumerate(fitted.epochs, start=1)
    ]


_EPOCH_FIGURES = [name for name in EpochRecord.model_fields if name not in ("run_id", "epoch")]


def built(run: Run, inputs: Inputs) -> tuple[nn.Module, ModelSpec]:
    """Return (the run's model as training begins with it, its spec with the name of its head)."""
    spec = find(run.model, inputs.code).spec(run.input)
    model = build(spec, run.dataset.classes, inputs.weights, run.seed, trainable=run.recipe.trainable)
    return model, replace(spec, head=head_of(model, spec.head, run.dataset.classes))


def _features(
    run: Run, data: DeviceSplit, embedding: nn.Module, spec: ModelSpec, precision: str, context: Context
) -> Features:
    """Return the training images' features, and report progress while they are extracted."""
    report = _reporter(run, "features", context)
    key = f"{run.dataset.sha256} train {run.plugin_sha256}"  # equal tensors may be used by other code
    if context.rank > 0:  # the first worker extracts and times it, the others read the cache
        torch.distributed.barrier()
    features = features_of(data, embedding, spec, data_key=key, precision=precision, report=report)
    if context.world_size > 1 and context.rank == 0:
        torch.distributed.barrier()
    return features


def _reporter(
    run: Run, phase: Literal["features", "testing"], context: Context, epoch: int = 1
) -> Callable[[float], None]:
    """Return a function that reports, a few times a second, which share of a phase is done."""
    total = run.images_per_epoch * run.recipe.epochs
    done = 0 if phase == "features" else total
    progress = Progress(run.id, epoch, run.recipe.epochs, images_done=done, images_total=total, phase=phase)
    next_report = 0.0

    def report(share: float) -> None:
        nonlocal next_report
        if context.rank == 0 and ((now := time.perf_counter()) >= next_report or share == 1):
            next_report = now + context.report_seconds
            context.report(replace(progress, phase_share=share))

    return report


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _agree(model: nn.Module) -> None:
    """Give all workers the same batch-norm statistics, and check that their parameters are bit-identical.

    Raises:
        RuntimeError: the parameters differ, so gradients were not averaged.
    """
    # Each worker's batch-norm layers saw different images; the first worker's statistics are kept.
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)
    digests: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(digests, weights_digest(model))
    if len(set(digests)) != 1:
        raise RuntimeError(f"the workers' weights differ after training: {digests}")
