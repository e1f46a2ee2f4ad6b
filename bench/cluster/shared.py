"""Values that many processes read: in Ray's object store, held once per machine and mapped by each."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle


def answer_of(reference: ray.ObjectRef) -> Any:
    """Return the value of a reference. In a task that waits in ray.get Ray gives its CPUs to another task meanwhile."""
    return reference.future().result()


@dataclass(frozen=True)
class Shared:
    """A value, owned by the coordinator.

    Were it the driver's, Ray would end the driver as soon as the node is lost that holds the value: a tenth of a second
    after a raylet was killed, and before the driver has written what it knows.
    """

    _reference: ray.ObjectRef
    """Of a list with the reference: small, so that Ray hands it on without its store."""

    @staticmethod
    def put(value: Any, coordinator: ActorHandle) -> Shared:
        """Share a value. Its arrays are not copied by those who read it, which may not write to them."""
        buffers: list[pickle.PickleBuffer] = []
        content = ray.cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        # as plain arrays, so that the coordinator imports nothing that the value is made of
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        return Shared(coordinator.keep.remote(content, arrays))

    def get(self) -> Any:
        """The value."""
        (reference,) = answer_of(self._reference)
        content, arrays = answer_of(reference)
        return ray.cloudpickle.loads(content, buffers=arrays)
