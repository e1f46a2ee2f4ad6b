"""The training loop: fit, epoch by epoch, and a step of the optimiser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.learning.augmentation import Augmentation
from bench.learning.context import Context
from bench.learning.data.preprocessing import DeviceSplit, Inputs, Preprocessor, in_turn
from bench.learning.evaluation import Evaluation
from bench.learning.fit_state import EpochResult, FitState, changing, restore, save
from bench.learning.models.architecture import ModelSpec
from bench.learning.optimizers import make_optimizer, make_schedule
from bench.learning.precision import arithmetic, precision_on
from bench.learning.process import synchronise
from bench.spec import Progress, Recipe


class DivergedError(Exception):
    """The error of a loss that is no longer a finite number."""


@dataclass(frozen=True)
class Trainee:
    """A module for :func:`fit` and its data: a model on images, or a head on the features of a frozen backbone."""

    module: nn.Module
    """The module, which maps ``prepare(inputs[batch])`` to logits [batch, classes]."""
    inputs: Inputs
    """Images or features, [images, ...]."""
    labels: Tensor
    """Classes, int64 [images], on the device."""
    positions: Tensor
    """Indices in ``inputs`` of the images to train on, int64 [images trained on]."""
    prepare: Callable[[Tensor], Tensor]
    """The function that turns a batch of ``inputs`` into the module's input."""
    augmentation: Augmentation | None = None
    """The changes to images before ``prepare``; None for none."""
    uses_all_parameters: bool = True
    """False if some parameters may get no gradient, as those of outputs that only help in training."""
    trained_part: nn.Module | None = None
    """The part in training mode, the rest of the module being in evaluation mode; None means all of it."""

    def training_mode(self) -> None:
        """Put the module, or the part of it that is trained, into training mode."""
        if self.trained_part is None:
            self.module.train()
        else:
            self.module.eval()
            self.trained_part.train()


def on_images(
    model: nn.Module,
    spec: ModelSpec,
    data: DeviceSplit,
    bn_mode: str,
    positions: Tensor | None = None,
    augmentation: Augmentation | None = None,
) -> Trainee:
    """Return the whole model, to be trained on images at ``positions`` (None: all).

    A frozen backbone stays in evaluation mode unless ``bn_mode`` is 'train'.
    """
    trained_part = None
    if spec.head is not None and bn_mode == "eval" and not all(value.requires_grad for value in model.parameters()):
        trained_part = model.get_submodule(spec.head)
    prepare = Preprocessor(spec.input, data.device)
    return Trainee(
        model,
        data.images,
        data.labels,
        _all_unless(positions, data),
        prepare,
        augmentation,
        uses_all_parameters=spec.built_in,
        trained_part=trained_part,
    )


def on_features(
    model: nn.Module, spec: ModelSpec, data: DeviceSplit, features: Tensor, positions: Tensor | None = None
) -> Trainee:
    """Return the head, to be trained on ``features`` (float32 [images, features]) at ``positions`` (None: all)."""
    head = model.get_submodule(spec.head or "")
    features = features.to(data.labels.device)
    return Trainee(head, features, data.labels, _all_unless(positions, data), prepare=_as_it_is)


def _as_it_is(batch: Tensor) -> Tensor:
    return batch


def _all_unless(positions: Tensor | None, data: DeviceSplit) -> Tensor:
    device = data.labels.device
    return torch.arange(len(data.labels), device=device) if positions is None else positions.to(device)


def fit(
    trainee: Trainee,
    recipe: Recipe,
    *,
    seed: int,
    run_id: str,
    context: Context,
    validate: Callable[[], Evaluation] | None = None,
) -> FitState:
    """Train in place; after each epoch, give the context the state needed to resume from there.

    With several workers each batch is divided among them and gradients are averaged over the whole batch, so that
    every image counts once per epoch whatever the number of workers.

    With early stopping the module ends with the weights of the best epoch, :attr:`FitState.best`. Schedules run over
    all planned epochs nevertheless.

    Args:
        trainee: what to train, and on which images.
        recipe: how to train.
        seed: determines the order of the images, and dropout.
        run_id: names the states that the context keeps.
        context: where this runs; it may end the training after an epoch.
        validate: called after each epoch; its time does not count as training time.

    Raises:
        DivergedError: the loss is not finite.
    """
    device = torch.device(context.device)
    model, images = trainee.module, len(trainee.positions)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parameters, recipe)
    schedule = make_schedule(optimizer, recipe, recipe.epochs * len(batches_of(trainee.positions, recipe.batch_size)))
    state = FitState()
    # Another seed than that of the weights, and one for each worker, so that workers drop out different units.
    torch.manual_seed(seed * 1_000_003 + context.rank)
    saved = context.load(run_id)
    if saved is not None:
        state = restore(saved, model, optimizer, schedule, context)
    trained: nn.Module = model
    if context.world_size > 1:
        trained = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=not trainee.uses_all_parameters,
        )

    precision = precision_on(device, recipe.precision)
    for epoch in range(len(state.epochs) + 1, recipe.epochs + 1):
        trainee.training_mode()
        if trainee.augmentation is not None:
            trainee.augmentation.begin(epoch)

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

        order = trainee.positions[epoch_order(images, seed, epoch).to(device)]
        result = _train_epoch(trained, optimizer, schedule, trainee, order, recipe, precision, context, report)
        if not math.isfinite(result.train_loss):
            raise DivergedError(f"the training loss is {result.train_loss} in epoch {epoch} of {recipe.epochs}")
        if validate is not None:
            evaluation = validate()
            result.validation_accuracy, result.validation_loss = evaluation.accuracy, evaluation.loss
            result.validation_seconds = evaluation.seconds
        state.epochs.append(result)
        if recipe.early_stopping is not None and state.best == epoch:
            state.best_weights = {name: value.clone() for name, value in changing(model).items()}
        if context.rank == 0:
            report(images, result.train_loss, result.train_accuracy, result.seconds)
        at_target = recipe.stop_at_target and state.reached(recipe.target_accuracy) is not None
        # called on every worker, and after the last epoch too: tuning needs the accuracy of every epoch
        goes_on = context.goes_on(run_id, epoch, result.validation_accuracy)
        if not goes_on or at_target or state.has_stalled(recipe.early_stopping):
            break
        if epoch < recipe.epochs:
            save(state, model, optimizer, schedule, run_id, context)
    if state.best_weights is not None:
        model.load_state_dict(state.best_weights, strict=False)
    return state


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the images in an epoch: int64 [images], each index once, determined by the arguments."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(images, generator=generator)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    trainee: Trainee,
    order: Tensor,
    recipe: Recipe,
    precision: str,
    context: Context,
    report: Callable[[int, float, float, float], None],
) -> EpochResult:
    rank, world = context.rank, context.world_size
    loss_sum = torch.zeros((), device=order.device)
    correct = torch.zeros((), dtype=torch.int64, device=order.device)
    done = part_done = 0
    synchronise(order.device)
    start = time.perf_counter()
    next_report = start + context.report_seconds
    batches = batches_of(order, recipe.batch_size)
    # a last batch that is smaller than the number of workers: join with one image, of weight 0
    parts = [batch[rank::world] if rank < len(batch) else batch[:1] for batch in batches]
    inputs = in_turn(trainee.inputs, parts, order.device)
    for batch, part, images_of_part in zip(batches, parts, inputs, strict=True):
        empty = rank >= len(batch)
        # DistributedDataParallel averages over workers; this scale makes it the mean over the batch.
        scale = 0.0 if empty else world / len(batch)
        summed, right = training_step(
            model,
            optimizer,
            trainee,
            part,
            images_of_part,
            precision=precision,
            scale=scale,
            label_smoothing=recipe.label_smoothing,
        )
        if schedule is not None:
            schedule.step()
        if not empty:
            loss_sum += summed
            correct += right
            part_done += len(part)
        done += len(batch)
        if rank == 0 and done < len(order) and (now := time.perf_counter()) >= next_report:
            next_report = now + context.report_seconds
            report(done, float(loss_sum) / part_done, int(correct) / part_done, now - start)
    if world > 1:
        totals = torch.stack([loss_sum.double(), correct.double()])
        torch.distributed.all_reduce(totals)
        loss_sum, correct = totals[0], totals[1]
    synchronise(order.device)
    seconds = time.perf_counter() - start
    images = len(order)
    return EpochResult(float(loss_sum) / images, float(correct) / images, seconds, images / seconds)


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """Return the positions of an epoch, int64 [images], batch by batch.

    A single image at the end joins the batch before it: batch-norm layers refuse one image, which has no variance.
    """
    batches = list(torch.split(order, batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trainee: Trainee,
    batch: Tensor,
    inputs: Tensor,
    *,
    precision: str,
    scale: float | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Take a step of the optimiser; return (summed cross-entropy in nats, images classified right), on the device.

    Args:
        model: the trainee's module, wrapped if there are several workers.
        optimizer: the optimiser of its parameters.
        trainee: has the labels.
        batch: positions in the trainee's inputs, int64 [images].
        inputs: the trainee's inputs at these positions, on the device.
        precision: 'fp32' or 'bf16'.
        scale: factor of the summed loss before its gradient is taken; None gives the mean.
        label_smoothing: share of each label that is spread evenly over all classes.
    """
    labels = trainee.labels.index_select(0, batch)
    targets, augmentation = labels, trainee.augmentation
    if augmentation is not None:
        inputs = augmentation.change(inputs, batch)
    with arithmetic(labels.device, precision):
        prepared = trainee.prepare(inputs)
        if augmentation is not None and augmentation.mixes:
            prepared, targets = augmentation.mix(prepared, labels)
        logits = model(prepared).float()
    loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss * (1 / len(batch) if scale is None else scale))
    optimizer.step()
    return loss.detach(), (logits.detach().argmax(1) == labels).sum()
