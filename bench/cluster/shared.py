"""Values that many processes read: Ray's object store holds them once per machine, and each process maps them."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle, ActorMethod

ASK_AGAIN_SECONDS = 30.0
"""Seconds until a call is made again; each time twice as long."""
_BREAK_SECONDS = 1.0


def answer_of(reference: ray.ObjectRef, seconds: float | None = None) -> Any:
    """Return the value of a reference. A task that waits keeps its CPUs; in ray.get it would lend them to other tasks.

    An actor, such as a trial of Ray Tune or a worker of Ray Train, keeps them in both.

    Raises:
        TimeoutError: there was no answer within ``seconds``.
    """
    return reference.future().result(timeout=seconds)


def asked(method: ActorMethod, *arguments: Any) -> Any:
    """Call a method of the coordinator and return its answer; ask again if it does not come.

    A network that was cut for a while may have swallowed the call or the answer, and Ray then waits for ever. So two
    calls of the method must do no more than one.
    """
    seconds = ASK_AGAIN_SECONDS
    while True:
        try:
            return answer_of(method.remote(*arguments), seconds)
        except TimeoutError:
            seconds *= 2
        except ray.exceptions.ActorUnavailableError:  # Ray's word for a connection that broke: the actor lives
            time.sleep(_BREAK_SECONDS)


@dataclass(frozen=True)
class Shared:
    """A value that the coordinator owns.

    If the driver owned it, Ray would end the driver as soon as the node that holds the value is lost: a tenth of a
    second after a raylet was killed, and before the driver has written its results.
    """

    _reference: ray.ObjectRef
    """The reference to a list with the value's reference: small, so that Ray passes it on without its store."""

    @staticmethod
    def put(value: Any, coordinator: ActorHandle) -> Shared:
        """Share a value. Readers do not copy its arrays, and may not write to them."""
        buffers: list[pickle.PickleBuffer] = []
        content = ray.cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        # as plain arrays, so that the coordinator need not import the types in the value
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        return Shared(coordinator.keep.remote(content, arrays))

    def get(self) -> Any:
        """Return the value."""
        (reference,) = answer_of(self._reference)
        content, arrays = answer_of(reference)
        return ray.cloudpickle.loads(content, buffers=arrays)
