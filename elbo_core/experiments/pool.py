"""Measure what is missing of some works, here or with many processes, item by item; whatever is killed, what is stored
stays.

Processes of one thread each take a few items at a time, so that all are busy to the end. A process stays with a model
as long as there is work for it, and keeps the models that it has loaded. Several may share one GPU: the passes of small
networks leave it idle most of the time.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tqdm.auto import tqdm

from elbo_core.errors import MeasurementError
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import Work, lacking, title
from elbo_core.paths import RUNS

log = logging.getLogger(__name__)
WORTH_PROCESSES = 8
"""From so many items a core on, processes of their own are worth their start of a few seconds."""
CHUNKS = 16
"""So many chunks a process, at least: the fewer items in one, the less is a process alone at the end."""
LARGEST_CHUNK = 8
GRACE = 10.0
"""Seconds that a process has to end its item when time is up; then it is killed. What it has stored stays."""
PRELOADED = ["elbo_core.diffusion.models", "elbo_core.experiments.run", "elbo_core.experiments.forecast"]
"""Imported once, in the process that all others are forked from."""


@dataclass(frozen=True)
class Failure:
    """An item that could not be measured, and why."""

    work: Work
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{title(self.work)}, item {self.index}: {self.reason}"


@dataclass
class Outcome:
    """What became of the items: how many are measured now and how many were left when time was up; those that
    failed."""

    measured: int = 0
    left: int = 0
    failures: list[Failure] = field(default_factory=list)


def shard(text: str) -> tuple[int, int]:
    """Which of how many processes, as a command line says it: "0/4".

    Raises:
        argparse.ArgumentTypeError: it is no such share.
    """
    rank, _, size = text.partition("/")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise argparse.ArgumentTypeError(f"a shard I/N needs whole numbers, 0 <= I < N, got {text!r}")
    return int(rank), int(size)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def todo_of(works: Iterable[Work], root: Path = RUNS) -> dict[Work, list[int]]:
    """By work, the items that its store lacks; finished works are absent."""
    found = {work: lacking(work, work.store(root)) for work in works}
    return {work: indices for work, indices in found.items() if indices}


def measure_here(works: Sequence[Work], root: Path = RUNS) -> None:
    """Measure all that is missing: with a process a core if that is worth it and there is no GPU, else in this one.

    Raises:
        MeasurementError: an item could not be measured; all others are stored.
        StoreError: a store cannot be written.
    """
    todo = todo_of(works, root)
    count = sum(map(len, todo.values()))
    if not count:
        return
    if cores() > 1 and count >= WORTH_PROCESSES * cores() and not _has_gpu():
        raise_first(measure_all(todo, cores(), root))
    else:
        for work, indices in todo.items():
            work.measure(work.store(root), indices)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def raise_first(outcome: Outcome) -> None:
    """
    Raises:
        MeasurementError: something failed.
    """
    if outcome.failures:
        total = len(outcome.failures) + outcome.measured
        raise MeasurementError(f"{len(outcome.failures)} of {total} items failed; the first: {outcome.failures[0]}")


def measure_all(
    todo: dict[Work, list[int]], processes: int, root: Path = RUNS, time_limit: float = float("inf")
) -> Outcome:
    """Measure the items of some works with so many processes, for at most `time_limit` seconds.

    A failure names its item, and the others go on. If this process ends, all others end.
    """
    pool = _Pool(todo, processes, root, time.monotonic() + time_limit)
    try:
        return pool.run()
    finally:
        pool.close()


@dataclass(frozen=True)
class _Chunk:
    """Some items of a work."""

    work: Work
    indices: list[int]


class _Queue:
    """The chunks that nobody has taken, by model."""

    def __init__(self, todo: dict[Work, list[int]], processes: int):
        count = sum(map(len, todo.values()))
        size = min(LARGEST_CHUNK, max(1, count // (processes * CHUNKS)))
        self._chunks: dict[str, deque[_Chunk]] = {}
        for work, indices in todo.items():
            chunks = [_Chunk(work, indices[k : k + size]) for k in range(0, len(indices), size)]
            self._chunks.setdefault(work.model, deque()).extend(chunks)

    def take(self, model: str, served: Sequence[str]) -> _Chunk | None:
        """The next chunk of `model` or, if it has none, of that with the most left for each process at it."""
        if not self._chunks.get(model):
            left = {name: len(chunks) / (1 + served.count(name)) for name, chunks in self._chunks.items() if chunks}
            if not left:
                return None
            model = max(left, key=left.__getitem__)
        return self._chunks[model].popleft()

    def __len__(self) -> int:
        return sum(len(chunk.indices) for chunks in self._chunks.values() for chunk in chunks)


class _Worker:
    """A process, what it is measuring, and the items of that of which it has not yet told."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, root: Path):
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, root), daemon=True)
        self.process.start()
        other.close()
        self.chunk: _Chunk | None = None
        self.waiting: deque[int] = deque()

    @property
    def model(self) -> str:
        return self.chunk.work.model if self.chunk else ""

    def give(self, chunk: _Chunk) -> None:
        self.chunk, self.waiting = chunk, deque(chunk.indices)
        self.pipe.send((chunk.work, chunk.indices))

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


class _Pool:
    def __init__(self, todo: dict[Work, list[int]], processes: int, root: Path, until: float):
        self.root, self.until = root, until
        self.queue, self.outcome = _Queue(todo, processes), Outcome()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which outlives it
        self.bar = tqdm(total=len(self.queue), unit="item", smoothing=0.05, mininterval=1, disable=None)
        with one_thread():
            self.workers = [_Worker(self.context, root) for _ in range(min(processes, len(self.queue)))]

    def run(self) -> Outcome:
        idle = [worker for worker in self.workers if not self._occupy(worker)]
        busy = [worker for worker in self.workers if worker not in idle]
        while busy and time.monotonic() < self.until:
            ready = wait([worker.pipe for worker in busy], timeout=min(1.0, self.until - time.monotonic()))
            for worker in [worker for worker in busy if worker.pipe in ready]:
                self._hear(worker, busy)
        self._drain(busy)
        self.outcome.left = len(self.queue) + sum(len(worker.waiting) for worker in busy)
        return self.outcome

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.bar.close()

    def _occupy(self, worker: _Worker) -> bool:
        """Give a process its next chunk; whether there was one."""
        chunk = self.queue.take(worker.model, [other.model for other in self.workers])
        if chunk:
            worker.give(chunk)
        return chunk is not None

    def _hear(self, worker: _Worker, busy: list[_Worker]) -> None:
        """What a process tells of its items; one that has told of all gets others, one that has died is replaced."""
        try:
            index, reason = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker, busy)
            return
        worker.waiting.popleft()
        self._note(worker, index, reason)
        if not worker.waiting and not self._occupy(worker):
            busy.remove(worker)

    def _note(self, worker: _Worker, index: int, reason: str) -> None:
        assert worker.chunk is not None
        if reason:
            failure = Failure(worker.chunk.work, index, reason)
            self.outcome.failures.append(failure)
            tqdm.write(f"failed: {failure}")
        else:
            self.outcome.measured += 1
        self.bar.set_postfix_str(title(worker.chunk.work), refresh=False)
        self.bar.update()

    def _bury(self, dead: _Worker, busy: list[_Worker]) -> None:
        """Count the item at which a process died as failed, and let a new one go on with the rest."""
        dead.process.join()
        self._note(dead, dead.waiting.popleft(), f"its process ended with status {dead.process.exitcode}")
        assert dead.chunk is not None
        rest = list(dead.waiting)
        busy.remove(dead)
        dead.waiting.clear()
        with one_thread():
            heir = _Worker(self.context, self.root)
        self.workers[self.workers.index(dead)] = heir
        if rest:
            heir.give(_Chunk(dead.chunk.work, rest))
        if rest or self._occupy(heir):
            busy.append(heir)

    def _drain(self, busy: list[_Worker]) -> None:
        """When time is up: hear of the items that are just being measured."""
        for worker in busy:
            worker.process.terminate()  # after its item
        until = time.monotonic() + GRACE
        left = list(busy)
        while left and time.monotonic() < until:
            for pipe in wait([worker.pipe for worker in left], timeout=until - time.monotonic()):
                worker = next(worker for worker in left if worker.pipe is pipe)
                try:
                    index, reason = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    left.remove(worker)
                else:
                    worker.waiting.popleft()
                    self._note(worker, index, reason)


class one_thread:
    """While processes start: their libraries read the number of threads from the environment."""

    NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.NAMES}
        os.environ.update(dict.fromkeys(self.NAMES, "1"))

    def __exit__(self, *exception) -> None:
        for name, value in self.before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _serve(pipe: Connection, root: Path) -> None:
    """What a process does: measure the items that it is given, tell of each, and end when it is told or its parent
    ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and that this process
    stores: dict[Work, Store] = {}
    while not stopping.is_set():
        if not pipe.poll(0.2):
            continue
        try:
            work, indices = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        for some in _groups(indices, getattr(work, "at_once", 1)):
            for index, reason in _measured(work, some, stores, root).items():
                pipe.send((index, reason))
            if stopping.is_set():
                return


def _groups(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _measured(work: Work, indices: list[int], stores: dict[Work, Store], root: Path) -> dict[int, str]:
    """Measure some items, in one call; for each, why it failed, or an empty text."""
    try:
        if work not in stores:
            stores[work] = work.store(root)
        work.measure(stores[work], indices)
    except Exception as error:
        if len(indices) > 1:  # which of them it was, and the others
            return {index: _measured(work, [index], stores, root)[index] for index in indices}
        log.exception("%s, item %d", title(work), indices[0])
        return {indices[0]: f"{type(error).__name__}: {error}"}
    return dict.fromkeys(indices, "")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
