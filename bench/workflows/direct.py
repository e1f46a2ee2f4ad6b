"""The results folder as workers write to it themselves: models and predictions do not pass through the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from bench.errors import UserError
from bench.reporting.remote import worker_url
from bench.reporting.scores import scores_of
from bench.reporting.store import Store
from bench.spec import Outcome, Run
from bench.storage import place_of

T = TypeVar("T")


@dataclass
class DirectStore:
    """Object storage that a worker writes to. After a failure all else goes through the driver, which can keep it."""

    url: str
    """The results folder: a worker opens it with the credentials of its own machine."""
    _store: Store | None = None
    _failed: bool = False

    def load(self, run_id: str) -> bytes | None:
        """Return the state that a run goes on from; None if there is none, or the storage cannot be read."""
        return self._try(lambda store: store.state(run_id), None)

    def save(self, run_id: str, state: bytes) -> bool:
        """Store the state that a run goes on from; return whether that succeeded."""

        def save(store: Store) -> bool:
            store.save_state(run_id, state)
            return True

        return self._try(save, False)

    def keep(self, run: Run, outcome: Outcome) -> Outcome:
        """Store a run's predictions and model, and return its outcome without them; if that fails, with them."""
        predictions = outcome.predictions
        if predictions is None:
            return outcome

        def keep(store: Store) -> Outcome:
            store.write_files(run.id, predictions, outcome.checkpoint)
            scores = scores_of(predictions, run.dataset.classes)
            model_stored = outcome.checkpoint is not None
            return replace(outcome, predictions=None, checkpoint=None, scores=scores, model_stored=model_stored)

        return self._try(keep, outcome)

    def _try(self, act: Callable[[Store], T], otherwise: T) -> T:
        if self._failed:
            return otherwise
        try:
            self._store = self._store or Store(place_of(self.url))
            return act(self._store)
        except UserError:  # no package, no credentials, no connection: the driver may have all of them
            self._failed = True
            return otherwise


def direct_store(store: Store) -> DirectStore | None:
    """Return what workers can write to themselves; None if they cannot reach the results folder."""
    url = worker_url(store.root)
    return None if url is None else DirectStore(url)
