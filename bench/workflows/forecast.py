"""How long a benchmark still takes, worked out from the events of its runs. It has no clock: each call says the time.

1. The rest of a part that is under way goes on at the pace of the latter half of the time that it took so far.
2. A part not begun takes for each image what it took in other runs: :mod:`bench.workflows.paces`.
3. Features are extracted once for a model and image size; other runs wait for them, and later ones find them.
4. Runs begin in their order, each as soon as one of the places is free.
5. After the runs come the timing and the pages. The timing's length follows from its rules, until it tells it itself.
6. Starting the timing, preparing models and writing pages is work of one processor: a machine that took longer to start
   the first worker takes as much longer for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.spec import Progress, Record, Run, Status, TimingProgress
from bench.workflows.paces import PARTS, Network, Paces, Part, Total, images_of, network_of, on_features, parts_of
from bench.workflows.timing_seconds import TimingSeconds

START_SECONDS = 5.0
"""Seconds from the plan until the first worker has started, PyTorch included, on the machine of the other constants."""
SLOWNESS = (0.5, 2.0)
"""The least and most times as slow that a machine counts by its first worker; that may have waited for a node."""
BEGIN_SECONDS = 1.0
"""Seconds to build a model and to store a run, until some have ended."""
PAGES_SECONDS = 3.7
"""Seconds to write the pages and to end Ray, if nothing was timed."""
SURE_SECONDS = 30.0
"""As many seconds of preparing models count as going as expected: the first few say little about the others."""
OVERRUN = 0.25
"""The share of its time so far that preparing a model still takes at least: large networks take longer."""
_MOST_POINTS = 200

Timing = Callable[[Callable[[Run, Part], float | None]], TimingSeconds]
"""The seconds that the timing takes, from what an image takes in a part of a run."""


@dataclass
class _Watched:
    """A run as its events tell of it."""

    run: Run
    part: Part | None = None
    """The part under way; None before the run begins, and after it ended."""
    since: float = 0.0
    points: list[tuple[float, float]] = field(default_factory=list)
    """(time, images done) of the part under way."""
    ended: bool = False
    job_id: str = ""
    """That of the run, which takes a while to work out."""

    def __post_init__(self) -> None:
        self.job_id = self.run.job_id

    def enter(self, part: Part, now: float) -> None:
        self.part, self.since, self.points = part, now, []

    def note(self, now: float, images: float) -> None:
        """Keep a point; of many, every other one."""
        self.points.append((now, images))
        if len(self.points) > _MOST_POINTS:
            self.points = [*self.points[:-1:2], self.points[-1]]

    def so_far(self) -> tuple[float, float]:
        """Return (seconds, images) between the first and the last point of this part."""
        (first, before), (last, done) = self.points[0], self.points[-1]
        return last - first, done - before

    def pace(self) -> float | None:
        """Return the seconds for each image in the latter half of the time of this part; None if none were done."""
        if len(self.points) < 2:
            return None
        last, done = self.points[-1]
        middle = (self.points[0][0] + last) / 2
        start, before = max(point for point in self.points[:-1] if point[0] <= middle)
        return (last - start) / (done - before) if done > before and last > start else None


class Forecast:
    """The time that the runs, the timing and the pages of a command still take."""

    def __init__(self, *, timing: Timing = lambda pace: TimingSeconds(), earlier: Iterable[Record] = ()) -> None:
        """Begin without runs.

        Args:
            timing: returns the seconds that the timing takes after the runs, from what images take.
            earlier: records of the same results folder, whose paces hold until this command has its own.
        """
        self._timing = timing
        self._timing_since: float | None = None
        self._timing_seconds = TimingSeconds()
        self._timing_seen: tuple[float, TimingProgress] | None = None
        self._planned: float | None = None
        self._slowness = 1.0
        self._at_once = 1
        self._groups: list[list[_Watched]] = []
        self._runs: dict[str, _Watched] = {}
        self._under_way: dict[str, _Watched] = {}
        self._begun = False
        self._paces = Paces()
        self._begins: dict[str, list[float]] = {}
        self._extracted: set[Network] = set()
        self._epochs: dict[str, Total] = {}
        for record in earlier:
            self._paces.learn(record, earlier=True)

    def plan(self, groups: Iterable[Sequence[Run]], at_once: int, now: float) -> None:
        """Add runs to train.

        Args:
            groups: runs that are trained one after the other, in the order in which they are to begin.
            at_once: the number of groups that are trained at the same time.
            now: the time.
        """
        self._planned = now if self._planned is None else self._planned
        self._at_once = max(1, at_once)
        for group in groups:
            self._groups.append([_Watched(run) for run in group])
            self._runs |= {watched.run.id: watched for watched in self._groups[-1]}

    # --- events ------------------------------------------------------------------------------------------------------

    def begun(self, run_id: str, now: float) -> None:
        """Note that a run begins, for the first time or again."""
        if not self._begun and self._planned is not None:
            least, most = SLOWNESS
            self._slowness = min(most, max(least, (now - self._planned) / START_SECONDS))
        self._begun = True
        self._under_way[run_id] = self._runs[run_id]
        self._runs[run_id].enter("begin", now)

    def update(self, progress: Progress, now: float) -> None:
        """Note how far a run is."""
        watched, part = self._runs[progress.run_id], progress.phase
        if watched.part != part:
            watched.enter(part, now)
            if part != "features":  # it has them, or needs none; whoever needs the same ones finds them in the cache
                self._extracted.add(network_of(watched.run))
        share = progress.images_done / max(1, progress.images_total) if part == "training" else progress.phase_share
        watched.note(now, share * images_of(watched.run, part))

    def ended(self, record: Record) -> None:
        """Note that a run has its outcome."""
        watched = self._runs[record.run_id]
        watched.ended, watched.part = True, None
        self._under_way.pop(record.run_id, None)
        self._groups = [
            group for group in self._groups if watched not in group or not all(each.ended for each in group)
        ]
        if record.status is Status.OK:
            self._paces.learn(record)
            self._extracted.add(network_of(watched.run))
            self._epochs.setdefault(record.job_id, Total()).add(record.epochs_done or record.epochs, record.epochs)
            whole = (record.ended_at - record.started_at).total_seconds()
            begin = max(0.0, whole - sum(seconds for _, seconds, _ in parts_of(record)))
            self._begins.setdefault(record.job_id, []).append(begin)

    def timing_begun(self, now: float) -> None:
        """Note that the runs have ended, and that their models are now timed."""
        self._timing_since, self._timing_seconds = now, self._timing_expected()
        self._timing_seen = None

    def timing_update(self, progress: TimingProgress, now: float) -> None:
        """Note how far the timing is."""
        self._timing_seen = now, progress

    # --- the answer --------------------------------------------------------------------------------------------------

    def left(self, now: float) -> float | None:
        """Return the seconds until the command ends; None while nothing is known of any run."""
        if self._timing_since is not None:
            timing, before_pages = self._timing_seconds, self._timing_left(self._timing_since, now)
        else:
            runs = self.runs_left(now)
            if runs is None:
                return None
            timing = self._timing_expected()
            before_pages = runs + timing.total
        return max(1.0, before_pages + timing.pages + self._slowness * PAGES_SECONDS)

    def _timing_expected(self) -> TimingSeconds:
        return self._timing(self._paces_now().of).on_a_slower_machine(self._slowness)

    def _timing_left(self, start: float, now: float) -> float:
        """Return the seconds until the timing that began at ``start`` ends; below 0 when it should have ended."""
        expected = self._timing_seconds
        if self._timing_seen is None:
            return max(start + expected.total - now, OVERRUN * (now - start))
        since, seen = self._timing_seen
        if seen.rounds_left is not None:
            return seen.rounds_left - (now - since)
        slower = (since - start + SURE_SECONDS) / (sum(expected.prepare[: seen.prepared]) + SURE_SECONDS)
        left = expected.rounds + slower * sum(expected.prepare[seen.prepared + 1 :])
        if seen.prepared < len(expected.prepare):
            left += max(slower * expected.prepare[seen.prepared] - (now - since), OVERRUN * (now - since))
        return left

    def runs_left(self, now: float) -> float | None:
        """Return the seconds until the last run ends; None while nothing is known of any run."""
        paces, coming, usual = self._paces_now(), dict[Network, float](), dict[str, float | None]()
        busy: list[float] = []
        waiting: list[float] = []
        groups = ([watched for watched in group if not watched.ended] for group in self._groups)
        # those that extract features come first: others wait for what they extract
        for group in sorted(filter(None, groups), key=lambda group: group[0].part != "features"):
            lefts = [self._rest_of(watched, now, paces, coming, usual) for watched in group]
            known = [left for left in lefts if left is not None]
            if len(known) < len(lefts):
                return None
            (busy if group[0].part else waiting).append(sum(known))
        places = busy + [0.0 if self._begun else START_SECONDS] * (self._at_once - len(busy))
        heapq.heapify(places)
        for seconds in waiting:
            heapq.heapreplace(places, places[0] + seconds)
        return max(places) if busy or waiting else 0.0

    def run_left(self, run_id: str, now: float) -> float | None:
        """Return the seconds that a run still takes once it has begun; None if nothing is known yet."""
        return self.each_left([run_id], now)[run_id]

    def each_left(self, run_ids: Iterable[str], now: float) -> dict[str, float | None]:
        """Return the seconds that each of some runs still takes once it has begun; None if nothing is known yet."""
        paces, coming = self._paces_now(), dict[Network, float]()
        for other in self._under_way.values():
            if other.part == "features":
                self._rest(other, now, paces, coming)
        return {run_id: self._rest(self._runs[run_id], now, paces, coming) for run_id in run_ids}

    def part_of(self, run_id: str) -> tuple[Part | None, bool]:
        """Return (the part that a run is in, whether it waits for features that another run extracts)."""
        watched = self._runs[run_id]
        network = network_of(watched.run)
        others = (other for other in self._under_way.values() if other.part == "features")
        waits = watched.part == "begin" and any(network_of(other.run) == network for other in others)
        return watched.part, waits

    def _paces_now(self) -> Paces:
        """Return what is known of runs that ended and of those under way."""
        paces = self._paces.copy()
        for watched in self._under_way.values():
            if watched.part is not None and len(watched.points) > 1:
                seconds, images = watched.so_far()
                if images > 0:
                    paces.add(watched.run, watched.part, seconds, images)
        return paces

    def _rest_of(
        self,
        watched: _Watched,
        now: float,
        paces: Paces,
        coming: dict[Network, float],
        usual: dict[str, float | None],
    ) -> float | None:
        """Return the rest of a run; ``usual`` keeps that of runs not begun, the same for all seeds of a job."""
        if watched.part is not None or self._extracts(watched, coming):
            return self._rest(watched, now, paces, coming)
        job_id = watched.job_id
        if job_id not in usual:
            usual[job_id] = self._rest(watched, now, paces, coming)
        return usual[job_id]

    def _rest(self, watched: _Watched, now: float, paces: Paces, coming: dict[Network, float]) -> float | None:
        """Return the rest of a run; add to ``coming`` when the features that it extracts will be there."""
        network, total = network_of(watched.run), 0.0
        for part in PARTS[PARTS.index(watched.part or "begin") :]:
            if part == "features" and watched.part != part and not self._extracts(watched, coming):
                total += coming.get(network, 0.0) if watched.part else 0.0
                continue
            left = self._rest_of_part(watched, part, now, paces)
            if left is None:
                return None
            total += left
            if part == "features":
                coming.setdefault(network, total)
        return total

    def _extracts(self, watched: _Watched, coming: dict[Network, float]) -> bool:
        """Return whether a run has features to extract that no other run extracts."""
        network = network_of(watched.run)
        return on_features(watched.run) and network not in self._extracted and network not in coming

    def _rest_of_part(self, watched: _Watched, part: Part, now: float, paces: Paces) -> float | None:
        run, under_way = watched.run, watched.part == part
        if part == "begin":
            seen = self._begins.get(watched.job_id) or [each for begins in self._begins.values() for each in begins]
            usual = median(seen or [BEGIN_SECONDS])
            return max(0.0, usual - (now - watched.since)) if under_way else usual
        share = self._epochs[watched.job_id].each if part == "training" and watched.job_id in self._epochs else 1.0
        last, done = watched.points[-1] if under_way and watched.points else (now, 0.0)
        each = (watched.pace() if under_way else None) or paces.of(run, part)
        return None if each is None else max(0.0, max(0.0, images_of(run, part) * share - done) * each - (now - last))
