"""Fit and evaluate."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.learning.context import Context
from bench.learning.features import fold
from bench.learning.models import ModelSpec
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor
from bench.spec import Predictions, Progress, Recipe

REPORT_SECONDS = 0.5
"""Time between two progress reports: reading the loss waits for the device, so not after every step."""


class DivergedError(Exception):
    """The loss is no longer a finite number."""


@dataclass
class EpochResult:
    """One epoch's training figures, over all workers."""

    train_loss: float
    """Mean cross-entropy, nats."""
    train_accuracy: float
    seconds: float
    images_per_second: float


@dataclass
class FitState:
    """Where a fit stands, to go on from."""

    epochs: list[EpochResult] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclass(frozen=True)
class Trainee:
    """What :func:`fit` trains: a whole model on images, or a head on the features of a frozen backbone."""

    module: nn.Module
    """``prepare(inputs[batch])`` to logits [batch, classes]."""
    inputs: Tensor
    """[images, ...], on the device."""
    labels: Tensor
    """int64 [images], on the device."""
    prepare: Callable[[Tensor], Tensor]
    """A batch of ``inputs`` as the module wants it."""
    stays_evaluating: nn.Module | None = None
    """A frozen part whose batch-norm layers stay in evaluation mode."""

    def training_mode(self) -> None:
        """Training mode for all that learns."""
        self.module.train()
        if self.stays_evaluating is not None:
            self.stays_evaluating.eval()


def on_images(model: nn.Module, spec: ModelSpec, data: DeviceSplit, bn_mode: str) -> Trainee:
    """Train through the whole model. A frozen backbone stays in evaluation mode unless ``bn_mode`` is 'train'."""
    frozen = None
    if spec.backbone is not None and bn_mode == "eval":
        backbone = model.get_submodule(spec.backbone)
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            frozen = backbone
    return Trainee(model, data.images, data.labels, Preprocessor(spec, data.images.device), frozen)


def on_features(model: nn.Module, spec: ModelSpec, data: DeviceSplit, features: Tensor) -> Trainee:
    """Train the head alone, on ``features``: float32 [images, features]."""
    head = model.get_submodule(spec.head or "")
    return Trainee(head, features.to(data.labels.device), data.labels, prepare=lambda batch: batch)


def fit(trainee: Trainee, recipe: Recipe, *, seed: int, run_id: str, context: Context) -> FitState:
    """Train in place; after each epoch, hand the context what it takes to go on from there.

    With several workers each batch is shared out among them and gradients are averaged over the batch, so that
    every image counts once an epoch whatever the number of workers.

    Raises:
        DivergedError: the loss is not finite.
    """
    device = torch.device(context.device)
    model, images = trainee.module, len(trainee.labels)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=recipe.lr, fused=True)
    state = FitState()
    # Apart from the seed's use for the weights, so that the workers of one run drop out different units.
    torch.manual_seed(seed * 1_000_003 + context.rank)
    saved = context.load(run_id)
    if saved is not None:
        state = _restore(saved, model, optimizer, context)
    trained: nn.Module = model
    if context.world_size > 1:
        trained = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    for epoch in range(len(state.epochs) + 1, recipe.epochs + 1):
        trainee.training_mode()

        def report(done: int, loss: float, accuracy: float, seconds: float, epoch: int = epoch) -> None:
            progress = Progress(
                run_id=run_id,
                epoch=epoch,
                epochs=recipe.epochs,
                images_done=(epoch - 1) * images + done,
                images_total=images * recipe.epochs,
                loss=loss,
                accuracy=accuracy,
                images_per_second=done / seconds if seconds else 0.0,
            )
            context.report(progress)

        order = epoch_order(images, seed, epoch).to(device)
        result = _train_epoch(trained, optimizer, trainee, order, recipe.batch_size, context, report)
        if not math.isfinite(result.train_loss):
            raise DivergedError(f"the training loss is {result.train_loss} in epoch {epoch} of {recipe.epochs}")
        state.epochs.append(result)
        if context.rank == 0:
            report(images, result.train_loss, result.train_accuracy, result.seconds)
        if epoch < recipe.epochs:
            _save(state, model, optimizer, run_id, context)
    return state


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: int64 [images], each index once. It depends on nothing but the arguments."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(images, generator=generator)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trainee: Trainee,
    order: Tensor,
    batch_size: int,
    context: Context,
    report: Callable[[int, float, float, float], None],
) -> EpochResult:
    rank, world = context.rank, context.world_size
    loss_sum = torch.zeros((), device=order.device)
    correct = torch.zeros((), dtype=torch.int64, device=order.device)
    done = own_done = 0
    _synchronise(order.device)
    start = time.perf_counter()
    next_report = start + REPORT_SECONDS
    for batch in torch.split(order, batch_size):
        own = batch[rank::world]
        empty = len(own) == 0  # a last batch smaller than the number of workers: take part with weight 0
        if empty:
            own = batch[:1]
        logits = model(trainee.prepare(trainee.inputs[own]))
        labels = trainee.labels[own]
        summed = F.cross_entropy(logits, labels, reduction="sum")
        if empty:
            summed = summed * 0.0
        # DistributedDataParallel averages over workers: scaled so that the result is the mean over the batch.
        loss = summed * (world / len(batch))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        loss_sum += summed.detach()
        if not empty:
            correct += (logits.detach().argmax(1) == labels).sum()
            own_done += len(own)
        done += len(batch)
        if rank == 0 and (now := time.perf_counter()) >= next_report:
            next_report = now + REPORT_SECONDS
            report(done, float(loss_sum) / own_done, int(correct) / own_done, now - start)
    if world > 1:
        totals = torch.stack([loss_sum.double(), correct.double()])
        torch.distributed.all_reduce(totals)
        loss_sum, correct = totals[0], totals[1]
    _synchronise(order.device)
    seconds = time.perf_counter() - start
    images = len(order)
    return EpochResult(float(loss_sum) / images, float(correct) / images, seconds, images / seconds)


@dataclass(frozen=True)
class Evaluation:
    """What evaluating a split gave."""

    predictions: Predictions
    loss: float
    """Mean cross-entropy, nats."""
    seconds: float

    @property
    def correct(self) -> int:
        """Images classified right."""
        return int((self.predictions.labels == self.predictions.predicted).sum())

    @property
    def accuracy(self) -> float:
        """Share of images classified right."""
        return self.correct / len(self.predictions.labels)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    spec: ModelSpec,
    data: DeviceSplit,
    *,
    features: Tensor | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Evaluation:
    """Predict every image of ``data`` exactly once, shared out among the workers; all get the whole result.

    Images are always batched alike, whatever the number of workers, so that it does not change the predictions.

    Args:
        model: in whose backbone, if it has one, batch-norm layers are folded into the convolutions.
        spec: of the model.
        data: images and labels, on the device.
        features: what the folded backbone makes of the images, if that is known: float32 [images, features].
        rank: of this worker.
        world_size: number of workers.
    """
    if features is None:
        answer, inputs, prepare = fold(model, spec), data.images, Preprocessor(spec, data.images.device)
    else:
        model.eval()
        answer, inputs = model.get_submodule(spec.head or ""), features.to(data.labels.device)
        prepare = None
    images, device = len(data.labels), data.labels.device
    losses = torch.zeros(images, device=device)
    predicted = torch.zeros(images, dtype=torch.int64, device=device)
    probability = torch.zeros(images, device=device)
    _synchronise(device)
    start = time.perf_counter()
    for first in range(rank * BATCH, images, world_size * BATCH):
        part = slice(first, first + BATCH)
        batch = inputs[part]
        logits = answer(prepare(batch) if prepare else batch).float()
        losses[part] = F.cross_entropy(logits, data.labels[part], reduction="none")
        probability[part], predicted[part] = logits.softmax(1).max(1)
    if world_size > 1:  # each image is non-zero on one worker only, so that a sum gathers them
        for values in (losses, predicted, probability):
            torch.distributed.all_reduce(values)
    _synchronise(device)
    seconds = time.perf_counter() - start
    predictions = Predictions(
        labels=data.labels.cpu().numpy().astype(np.int16),
        predicted=predicted.cpu().numpy().astype(np.int16),
        probability=probability.cpu().numpy(),
    )
    return Evaluation(predictions, float(losses.double().mean()), seconds)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _save(state: FitState, model: nn.Module, optimizer: torch.optim.Optimizer, run_id: str, context: Context) -> None:
    random: list[Any] = [_random_state(context)]
    if context.world_size > 1:
        random = [None] * context.world_size
        torch.distributed.all_gather_object(random, _random_state(context))
    if context.rank == 0:
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        kept = {name: value for name, value in model.state_dict().items() if name not in frozen}
        content = {
            "epochs": [asdict(epoch) for epoch in state.epochs],
            "model": kept,
            "optimizer": optimizer.state_dict(),
            "random": random,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        context.save(run_id, buffer.getvalue())


def _restore(saved: bytes, model: nn.Module, optimizer: torch.optim.Optimizer, context: Context) -> FitState:
    content = torch.load(io.BytesIO(saved), map_location=context.device, weights_only=True)
    differing = model.load_state_dict(content["model"], strict=False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if differing.unexpected_keys or set(differing.missing_keys) - frozen:  # build() has filled the frozen ones
        raise ValueError(f"the saved state is of another model: {differing}")
    optimizer.load_state_dict(content["optimizer"])
    random = content["random"][context.rank]
    torch.set_rng_state(random["cpu"].cpu())
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"].cpu(), context.device)
    return FitState([EpochResult(**epoch) for epoch in content["epochs"]])


def _random_state(context: Context) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if context.device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(context.device)
    return state
