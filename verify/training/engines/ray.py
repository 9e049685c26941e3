"""The cluster engine: slices of training run as Ray tasks on any machine; the store is on the driver's.

    claim ──▶ task: train for some time from this state ──▶ results or a new state ──▶ driver writes it, next slice

Only this process opens the store, because SQLite's locks are unreliable over a network. It owns every claim and renews
its lease, so that its end frees them all. A slice lost with its machine is trained again on another one, from the state
before it. Every machine needs this project in the same versions, and the data under the same path; differences are
rejected. A processor of another type may give different last bits.

``RAY_ADDRESS`` names the cluster, as usual with Ray; without it a cluster on this machine is joined or started. Ray
transfers arguments and results with pickle; this engine sends only strings and bytes, but the cluster must be trusted.
A slice that does not return within its time plus a lease is abandoned, and its trial is trained elsewhere. Not
supported: saving the state of running slices when the sweep is stopped; they are trained again.
"""

from __future__ import annotations

import json
import logging
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from verify.threads import one_thread
from verify.training.checkpoint import (
    SUFFIX,
    DamagedCheckpoint,
    content_of,
    load_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from verify.training.config import TrialConfig
from verify.training.resource_errors import disk_full, failure, is_disk_full
from verify.training.store import Claim, LeaseLost, Store
from verify.training.worker import HEARTBEAT_SECONDS, Job, TimeOver, demand_time, results_of, run_of, stored

START_SECONDS = 120.0  # allowed for a machine to start a process, import torch and read the data
_WRONG_USAGE = "usage"


@dataclass(frozen=True)
class _Sent:
    """A submitted slice: its claim, and the time of submission."""

    claim: Claim
    at: float


class RayEngine:
    """Slices of training on the machines of a Ray cluster.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError(
                "--engine ray: Ray is not installed; `pip install 'affine-divergence[cluster]'`, or use --engine local"
            ) from None
        self._ray = ray
        self._started = False
        self._job: Job | None = None
        self._store: Store | None = None
        self._workers = 0
        self._tasks: dict[Any, _Sent] = {}
        self._beaten = 0.0
        self.lost = 0

    def capacity(self) -> int:
        """Return the number of CPU cores of the cluster, which is joined or started."""
        if not self._ray.is_initialized():
            try:
                self._ray.init(logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as problem:
                raise UsageError(
                    f"--engine ray: no cluster could be joined or started: {problem}; check RAY_ADDRESS"
                ) from None
            self._started = True
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, job: Job, workers: int) -> None:
        """Claim trials and keep ``workers`` slices submitted at a time."""
        self.capacity()
        self._job, self._workers = job, workers
        self._store = Store(Path(job.store), lease=job.lease)

    def tend(self) -> bool:
        """Collect finished slices and submit the next ones; return whether any is running.

        Raises:
            UsageError: a machine reported that the job is unusable there.
        """
        if self._store is None:
            return False
        ready, _ = (
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if self._tasks else ([], 0)
        )
        for task in ready:
            sent = self._tasks.pop(task)
            with suppress(LeaseLost):
                self._take(self._store, sent, task)
        if time.monotonic() - self._beaten >= HEARTBEAT_SECONDS:
            self._beat(self._store)
        while len(self._tasks) < self._workers and (claimed := self._next(self._store)) is not None:
            self._send(self._store, claimed)
        return bool(self._tasks) or self._others_are_at_work(self._store)

    def stop(self) -> None:
        """Release every trial in its last saved state, and leave the cluster if this engine joined it."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        if self._store is not None:
            for sent in self._tasks.values():
                with suppress(LeaseLost):
                    self._store.release(sent.claim.id)
            self._store.close()
        self._tasks, self._store = {}, None
        if self._started:
            self._ray.shutdown()
            self._started = False

    def _next(self, store: Store) -> Claim | None:
        assert self._job is not None
        return store.claim(self._job.experiment)

    def _others_are_at_work(self, store: Store) -> bool:
        assert self._job is not None
        counts, *_ = store.progress(self._job.experiment)
        return bool(counts["pending"] + counts["running"] + counts["failed"])

    def _send(self, store: Store, claim: Claim) -> None:
        """Submit the next slice of a claim, from the last saved state."""
        assert self._job is not None
        path = _path(store, claim)
        state = path.read_bytes() if path.exists() else b""
        trials = json.dumps([[identity, asdict(config)] for identity, config in claim.trials])
        remote = self._ray.remote(num_cpus=1, num_gpus=self._gpus(claim), max_retries=0)(train_slice)
        task = remote.remote(claim.id, trials, self._job.data, state, self._slice_seconds())
        self._tasks[task] = _Sent(claim, time.monotonic())

    def _slice_seconds(self) -> float:
        assert self._job is not None
        return max(self._job.checkpoint_seconds, HEARTBEAT_SECONDS)

    def _gpus(self, claim: Claim) -> float:
        """Return the share of a GPU per slice that lets all workers' slices run at once."""
        if claim.config.device == "cpu":
            return 0.0
        there = float(self._ray.cluster_resources().get("GPU", 0))
        if not there:
            raise UsageError("--device cuda: no machine of the Ray cluster offers a GPU; use --device cpu")
        return min(1.0, int(there / self._workers * 1e4) / 1e4)  # Ray's resolution is 1/10000

    def _take(self, store: Store, sent: _Sent, task: Any) -> None:
        """Write the result of a slice into the store."""
        claim = sent.claim
        try:
            text, state = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as problem:
            store.fail(claim.id, failure(problem.cause, [config for _, config in claim.trials]))
            return
        except self._ray.exceptions.RayError:
            self.lost += 1
            store.lose(claim.id)
            return
        found = json.loads(text)
        if _WRONG_USAGE in found:
            store.release(claim.id)
            raise UsageError(f"on machine {found['machine']}: {found[_WRONG_USAGE]}")
        if "results" in found:
            store.complete(claim.id, *found["results"])
            remove_checkpoints(store.checkpoints, claim.id)
            return
        try:
            write_checkpoint(state, _path(store, claim))
        except OSError as problem:
            store.release(claim.id)
            raise disk_full(store.checkpoints) if is_disk_full(problem) else problem from None
        store.heartbeat(claim.id, found["step"], time.monotonic() - sent.at)
        self._go_on(store, replace(claim, seconds=claim.seconds + time.monotonic() - sent.at))

    def _go_on(self, store: Store, claim: Claim) -> None:
        """Submit the next slice, unless the trial has reached its time limit."""
        assert self._job is not None
        try:
            demand_time(self._job.trial_seconds, claim.seconds)
        except TimeOver as problem:
            store.give_up(claim.id, str(problem))
            return
        self._send(store, claim)

    def _beat(self, store: Store) -> None:
        """Renew every lease; abandon a slice that hangs or whose trial no longer belongs to this process."""
        assert self._job is not None
        self._beaten = time.monotonic()
        longest = self._slice_seconds() + self._job.lease + START_SECONDS
        for task, sent in list(self._tasks.items()):
            hangs = self._beaten - sent.at > longest
            try:
                store.lose(sent.claim.id) if hangs else store.heartbeat(sent.claim.id, 0)
            except LeaseLost:
                hangs = True
            if hangs:
                self._ray.cancel(task, force=True)
                del self._tasks[task]


def train_slice(identity: str, trials: str, data: str, state: bytes, seconds: float) -> tuple[str, bytes]:
    """Train a stack for some seconds, from a checkpoint's content if there is one; runs on any machine.

    Returns:
        JSON and a checkpoint's content: ``{"results": [...]}`` for a finished stack, ``{"step": k}`` with the state of
        an unfinished one, or ``{"usage": message, "machine": name}`` if it cannot be trained on this machine.
    """
    claim = Claim(identity, tuple((name, TrialConfig(**config)) for name, config in json.loads(trials)))
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        try:
            run = run_of(claim, data)
        except UsageError as problem:
            return json.dumps({_WRONG_USAGE: str(problem), "machine": socket.gethostname()}), b""
        path = Path(folder) / f"state{SUFFIX}"
        if state:
            path.write_bytes(state)
            with suppress(DamagedCheckpoint):  # then the trial starts from the beginning
                load_checkpoint(run, path)
        end = time.monotonic() + seconds
        while run.advance():
            if time.monotonic() >= end:
                return json.dumps({"step": run.step}), content_of(run)
        return json.dumps({"results": [stored(result) for result in results_of(run)]}), b""


def _path(store: Store, claim: Claim) -> Path:
    return store.checkpoints / f"{claim.id}{SUFFIX}"
