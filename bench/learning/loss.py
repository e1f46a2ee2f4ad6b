"""Cross-entropy and what follows from it in a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.learning.compiled import call, suit

FEW_LOGITS = 2**14
"""Of a batch, up to which one thread and one loop are faster than PyTorch's operators on a CPU."""


def backpropagate(logits: Tensor, labels: Tensor, *, scale: float, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Add the gradients of the batch's loss to the parameters that made the logits.

    Args:
        logits: float32 [images, classes].
        labels: int64 [images], from 0 to less than the number of classes.
        scale: what the summed cross-entropy is multiplied by before its gradient is taken.
        label_smoothing: share of each label that is spread evenly over all classes.

    Raises:
        IndexError: a label is none of the classes.

    Returns:
        Summed cross-entropy in nats, float32 [], and how many images were classified right, int64 []; on the device.
    """
    if _suits(logits, labels):
        answers = logits.detach().contiguous()
        gradient, summed, right = torch.empty_like(answers), torch.empty(()), torch.empty((), dtype=torch.int64)
        tensors = answers, labels.contiguous(), gradient, summed, right
        call("cross_entropy", *tensors, scale, label_smoothing, *answers.shape)
        if int(right) < 0:
            raise IndexError(f"a label is none of the {answers.shape[1]} classes of the logits")
        torch.autograd.backward(logits, gradient)
        return summed, right
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    torch.autograd.backward(loss * scale)
    return loss.detach(), (logits.detach().argmax(1) == labels).sum()


def _suits(logits: Tensor, labels: Tensor) -> bool:
    shapes = logits.dim() == 2 and labels.shape == logits.shape[:1]
    return shapes and labels.dtype == torch.int64 and logits.numel() <= FEW_LOGITS and suit(logits)
