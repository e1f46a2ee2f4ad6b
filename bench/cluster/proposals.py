"""Trials that Optuna proposes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.config.space import Space, Values
from bench.spec import Job


class OptunaProposals:
    """Trials that Optuna proposes from the scores so far (tree-structured Parzen estimator)."""

    def __init__(
        self,
        space: Space,
        job_of: Callable[[Values], Job],
        *,
        scores: Sequence[tuple[Values, float]],
        taken: Iterable[str],
        count: int,
        seed: int,
    ) -> None:
        """Give Optuna the space and the scores of an earlier command.

        Args:
            space: the space to search.
            job_of: returns the trial at a point.
            scores: points with their scores, from an earlier command.
            taken: job ids of trials that exist already.
            count: the number of trials to propose.
            seed: the seed of the sampler.
        """
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        whole = {name: isinstance(space.fitting(name, limits.high), int) for name, limits in space.ranges.items()}
        distributions: dict[str, Any] = {
            name: (
                optuna.distributions.IntDistribution(round(limits.low), round(limits.high), log=limits.log)
                if whole[name]
                else optuna.distributions.FloatDistribution(limits.low, limits.high, log=limits.log)
            )
            for name, limits in space.ranges.items()
        }
        for name, listed in space.lists.items():
            distributions[name] = optuna.distributions.CategoricalDistribution(listed)
        startup = min(10, max(3, (len(scores) + count) // 3))
        sampler = optuna.samplers.TPESampler(seed=seed + len(scores), n_startup_trials=startup, constant_liar=True)
        self._search = OptunaSearch(distributions, metric="score", mode="max", sampler=sampler)
        for values, score in scores:
            self._search.add_evaluated_point(values, score)
        self._space, self._job_of = space, job_of
        self._taken = set(taken)
        self.remaining = count
        self._names = map(str, itertools.count())
        self._asked: dict[str, str] = {}
        """The name that Optuna knows a proposed trial by, by job id."""

    def propose(self) -> Job | None:
        """Return a trial that does not exist yet; None when there are no more."""
        if self.remaining <= 0:
            return None
        for _ in range(100):
            name = next(self._names)
            suggestion = self._search.suggest(name)
            point: Values = {
                key: self._space.fitting(key, suggestion[key]) if key in self._space.ranges else suggestion[key]
                for key in self._space.names
            }
            job = self._job_of(point)
            if job.job_id not in self._taken:
                self._taken.add(job.job_id)
                self._asked[job.job_id] = name
                self.remaining -= 1
                return job
            self._search.on_trial_complete(name, error=True)
        self.remaining = 0
        return None

    def told(self, job_id: str, score: float | None) -> None:
        """Tell Optuna the score of a proposed trial; None if it has none."""
        if job_id in self._asked:
            valid = score is not None and math.isfinite(score)
            self._search.on_trial_complete(self._asked[job_id], {"score": score} if valid else None, error=not valid)
