"""The state of a fit: what its epochs gave, and all that is saved to resume from, bit for bit."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from bench.learning.context import Context


@dataclass
class EpochResult:
    """The training figures of an epoch, over all workers."""

    train_loss: float
    """Mean cross-entropy, with the recipe's label smoothing, nats."""
    train_accuracy: float
    seconds: float
    images_per_second: float
    validation_accuracy: float | None = None
    """Share of the held-out images classified right."""
    validation_loss: float | None = None
    validation_seconds: float = 0.0


@dataclass
class FitState:
    """The progress of a fit: the results of its finished epochs, and the best weights so far."""

    epochs: list[EpochResult] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None
    """With early stopping, the weights after the best epoch, without those that are frozen."""

    @property
    def seconds(self) -> float:
        """Return the training time so far, without validation."""
        return sum(epoch.seconds for epoch in self.epochs)

    def reached(self, target: float | None) -> int | None:
        """Return the first epoch, from 1, whose validation accuracy is at least ``target``; None if there is none."""
        for number, epoch in enumerate(self.epochs, start=1):
            if target is not None and epoch.validation_accuracy is not None and epoch.validation_accuracy >= target:
                return number
        return None

    @property
    def best(self) -> int:
        """Return the epoch, from 1, with the lowest validation loss, the first of equals; 0 if no loss is finite."""
        losses = {number: epoch.validation_loss for number, epoch in enumerate(self.epochs, start=1)}
        finite = {number: loss for number, loss in losses.items() if loss is not None and math.isfinite(loss)}
        return min(finite, key=finite.__getitem__, default=0)

    def has_stalled(self, patience: int | None) -> bool:
        """Return whether the last ``patience`` epochs brought no lower validation loss; False if it is None."""
        return patience is not None and len(self.epochs) - self.best >= patience


def changing(model: nn.Module) -> dict[str, Tensor]:
    """Return all of the model's state but its frozen parameters; the tensors are the model's own."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def save(
    state: FitState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    run_id: str,
    context: Context,
) -> None:
    """Give the context all that is needed to resume from here; called on every worker."""
    random: list[Any] = [_random_state(context)]
    if context.world_size > 1:
        random = [None] * context.world_size
        torch.distributed.all_gather_object(random, _random_state(context))
    if context.rank == 0:
        content = {
            "epochs": [asdict(epoch) for epoch in state.epochs],
            "model": changing(model),
            "best": state.best_weights,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict() if schedule else None,
            "random": random,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        context.save(run_id, buffer.getvalue())


def restore(
    saved: bytes,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    context: Context,
) -> FitState:
    """Return the progress in a saved state, after loading the rest of it into the arguments and the generators.

    Raises:
        ValueError: the state is of another model.
    """
    content = torch.load(io.BytesIO(saved), map_location=context.device, weights_only=True)
    differing = model.load_state_dict(content["model"], strict=False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if differing.unexpected_keys or set(differing.missing_keys) - frozen:  # build() has filled the frozen ones
        raise ValueError(f"the saved state is of another model: {differing}")
    optimizer.load_state_dict(content["optimizer"])
    if schedule is not None:
        schedule.load_state_dict(content["schedule"])
    random = content["random"][context.rank]
    torch.set_rng_state(random["cpu"].cpu())
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"].cpu(), context.device)
    return FitState([EpochResult(**epoch) for epoch in content["epochs"]], content.get("best"))


def _random_state(context: Context) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if context.device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(context.device)
    return state
