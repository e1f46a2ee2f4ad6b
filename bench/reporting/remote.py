"""A results folder in object storage, from which nothing is lost while the storage cannot be written.

What cannot be written is kept in a folder on this machine that has the same form, and is brought over as soon as the
storage can be written again: at the end of the command, or by the next one into the same results folder.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import UserError
from bench.learning import cache
from bench.reporting import files
from bench.reporting.formats import counted
from bench.reporting.store import Store
from bench.spec import Deployment, Result, Timing, slug
from bench.storage import Place, StorageError, url_of


def open_store(root: Place) -> Store:
    """Return the results folder at ``root``, to write to."""
    return Store(root) if isinstance(root, Path) else RemoteStore(root)


class RemoteStore(Store):
    """A results folder in object storage, to read and to write."""

    def __init__(self, root: Place) -> None:
        super().__init__(root)
        digest = hashlib.sha256(url_of(root).encode()).hexdigest()[:12]
        self._folder = cache.cache_dir() / "unsent" / f"{slug(root.name)}-{digest}"
        self.kept = Store(self._folder)
        """The results folder on this machine."""
        self._unreachable: StorageError | None = None
        """Why the storage could not be written last; None if it could."""

    def prepare(self) -> None:
        """Check that the folder can be written, and bring over what an earlier command had to keep.

        Raises:
            UserError: it cannot be written.
        """
        super().prepare()
        self.ensure_sent()

    def write(self, result: Result) -> None:
        """Store a run's result, as :meth:`Store.write` does, or keep it."""
        self._do(lambda: Store.write(self, result), lambda: self.kept.write(result))

    def save_state(self, run_id: str, state: bytes) -> None:
        """Store a training state, or keep it."""
        self._do(lambda: Store.save_state(self, run_id, state), lambda: self.kept.save_state(run_id, state))

    def write_timings(self, run_id: str, timings: Sequence[Timing]) -> None:
        """Store the timed samples of a run, as :meth:`Store.write_timings` does, or keep them."""
        self._do(lambda: Store.write_timings(self, run_id, timings), lambda: self.kept.write_timings(run_id, timings))

    def write_deployments(self, run_id: str, deployments: Sequence[Deployment]) -> None:
        """Store the results with each back end, as :meth:`Store.write_deployments` does, or keep them."""
        self._do(
            lambda: Store.write_deployments(self, run_id, deployments),
            lambda: self.kept.write_deployments(run_id, deployments),
        )

    def _do(self, write: Callable[[], None], keep: Callable[[], None]) -> None:
        """Call ``write``; if it fails, or has failed since the storage was last known to work, call ``keep``."""
        if self._unreachable is None:
            try:
                return write()
            except StorageError as error:
                self.kept.prepare()
                self._unreachable = error
                print(
                    f"warning: {error}; results are kept in {self.kept.root} until they can be written", file=sys.stderr
                )
        return keep()

    def ensure_sent(self) -> None:
        """Bring over what is kept on this machine, and delete it there.

        Raises:
            StorageError: the storage still cannot be written; the message says how nothing is lost.
        """
        if not self._folder.is_dir():
            self._unreachable = None
            return
        try:
            with cache.locked(self._folder.parent, self._folder.name):
                cache.check_trusted(self._folder)
                sent = self._send()
        except PermissionError as error:
            raise UserError(f"what is kept in {self._folder} cannot be used ({error}); move it away") from None
        except StorageError as error:
            raise StorageError(
                f"{error}; what was computed is kept in {self.kept.root}: the same command brings it over and goes on, "
                "once the storage can be written"
            ) from None
        self._unreachable = None
        if sent:
            print(f"note: brought over {counted(sent, 'result')} from {self.kept.root} to {url_of(self.root)}")

    def _send(self) -> int:
        """Write all that is kept into the storage, delete it here, and return the number of results."""
        kept, sent = self.kept, 0
        checkpoints = kept.checkpoints()
        for record in kept.records()[0]:
            run_id, checkpoint = record.run_id, checkpoints.get(record.run_id)
            content = None if checkpoint is None else files.read(checkpoint)
            Store.write(self, Result(record, kept.epochs(run_id), kept.predictions(record), content))
            # one by one: another command may be keeping results there
            kept.forget([run_id], ("runs", "epochs", "predictions", "checkpoints"))
            sent += 1
        for run_id in kept.ids("timings"):
            Store.write_timings(self, run_id, kept.timings(run_id))
            kept.forget([run_id], ("timings",))
        for run_id in kept.ids("deployments"):
            Store.write_deployments(self, run_id, kept.deployments(run_id))
            kept.forget([run_id], ("deployments",))
        for run_id, state in kept.states(kept.ids("unfinished")).items():
            Store.save_state(self, run_id, state)
            kept.forget([run_id], ("unfinished",))
        return sent


def worker_url(root: Place) -> str | None:
    """Return the URL by which workers write to a results folder themselves; None if they cannot reach it.

    They reach object storage, but neither a folder of this machine nor the memory of this process.
    """
    return None if isinstance(root, Path) or root.protocol == "memory" else url_of(root)
