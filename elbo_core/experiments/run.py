"""Measure batches of rows on a data set: every image is observed once and read by every row.

    python -m elbo_core.experiments.run --dataset toy-voc --batch models
    accelerate launch --num_processes 8 -m elbo_core.experiments.run --model sd15 --dataset toy-voc

Images are shared out among the processes. Each finished image is in the run store; start again to do what is missing.
Counts of a batch are the same to the bit however the work is cut, on one kind of device and with one number of threads;
a row that another batch has measured before differs by rounding at most.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from elbo_core.datasets import Dataset, open_dataset
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.fingerprint import model_fingerprint, pipeline_fingerprint
from elbo_core.errors import MeasurementError, ModelAccessError, StoreError
from elbo_core.experiments.records import COLUMNS, Evaluation, read_evaluation, to_records, undefined_record
from elbo_core.experiments.rows import BATCHES, Row, plan_of, rows_of
from elbo_core.experiments.store import Store
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.method import Method
from elbo_core.methods.observe import Observation, observe
from elbo_core.methods.plan import Plan
from elbo_core.metrics import count
from elbo_core.paths import RUNS
from elbo_core.scene import Scene

log = logging.getLogger(__name__)
WORTH_PROCESSES = 8
"""From so many images a core on, processes of their own are worth their start of a few seconds."""


def evaluate(denoiser: Denoiser, dataset: Dataset, rows: Sequence[Row], root: Path = RUNS) -> Evaluation:
    """Measure what is missing in the run store, then read it.

    Raises:
        ValueError: there is no row.
        MeasurementError: an image could not be measured; the others are stored.
        StoreError: the store cannot be written.
    """
    if not rows:
        raise ValueError("there is no row to measure")
    store = open_store(denoiser.name, pipeline_fingerprint(denoiser.pipeline), dataset, root)
    raise_first(measure(denoiser, dataset, rows, store, range(len(dataset))), dataset)
    return read_evaluation(store, rows, dataset)


def evaluate_all(
    model: str, datasets: Sequence[str], batch: str, images: int | None, split: str = "test", root: Path = RUNS
) -> dict[str, Evaluation]:
    """`evaluate` a batch of rows on the first `images` images of several data sets, None for all.

    The model is loaded only if something is missing. On a CPU, much work is shared out among processes of one thread
    each, one per core: on two cores that is half as fast again as one process with two threads. What such a process
    leaves undone is done here.
    """
    rows, weights = rows_of(batch), _fingerprint(model)
    opened = {name: open_dataset(name, split, images) for name in datasets}
    stores = {name: open_store(model, weights, dataset, root) for name, dataset in opened.items()}
    if work := _unfinished(opened, stores, rows):
        options = ["--batch", batch, "--split", split, "--images", str(images or "all"), "--store", str(root)]
        _share_out(sum(work.values()), ["--model", model, *options, "--device", "cpu", "--dataset", *datasets])
    if left := _unfinished(opened, stores, rows):
        denoiser = _load(model)
        for name in left:
            raise_first(measure(denoiser, opened[name], rows, stores[name], range(len(opened[name]))), opened[name])
    return {name: read_evaluation(stores[name], rows, dataset) for name, dataset in opened.items()}


def _unfinished(opened: Mapping[str, Dataset], stores: Mapping[str, Store], rows: Sequence[Row]) -> dict[str, int]:
    """How many images of each data set lack a row; finished sets are absent."""
    lacking = {name: len(missing_rows(stores[name], rows, data, range(len(data)))) for name, data in opened.items()}
    return {name: count for name, count in lacking.items() if count}


def _fingerprint(model: str) -> str:
    """Of its files; a model that is not on this machine is loaded first, which downloads it or says what to do."""
    try:
        return model_fingerprint(model)
    except ModelAccessError:
        _load(model)
        return model_fingerprint(model)


def _load(model: str, device: str | None = None) -> Denoiser:
    from elbo_core.diffusion.models import load  # diffusers takes seconds to import: not where results are only read

    return load(model, device)


def _share_out(work: int, options: Sequence[str]) -> None:
    """Measure with one process of one thread per core, where that is worth it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available() or cores < 2 or work < WORTH_PROCESSES * cores:
        return
    command = [sys.executable, "-m", "elbo_core.experiments.run", "--leashed", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ExitStack() as shards:
        started = []
        for k in range(cores):
            shard = subprocess.Popen([*command, "--shard", f"{k}/{cores}"], env=environment, stdin=subprocess.PIPE)
            shards.callback(shard.kill)  # whatever ends this process: an error, Ctrl-C
            started.append(shard)
        for k, shard in enumerate(started):
            if shard.wait():
                log.warning("process %d of %d ended with status %d", k, cores, shard.returncode)


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that was killed: then the pipe from it breaks."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def open_store(model: str, weights: str, dataset: Dataset, root: Path = RUNS) -> Store:
    """The store of a model's run over a data set. weights: a hash of all of the model (`model_fingerprint`)."""
    key = {"model": model, "weights": weights, "dataset": dataset.name, "split": dataset.split}
    return Store({**key, "classes": dataset.classes}, COLUMNS, root)


@dataclass(frozen=True)
class Failure:
    """An image that could not be measured, by its index, and why."""

    index: int
    error: Exception


def missing_rows(store: Store, rows: Iterable[Row], dataset: Dataset, indices: Iterable[int]) -> dict[int, list[Row]]:
    """By image, the rows that have not been measured on it, those of one definition once; done images are absent."""
    distinct, measured = {row.definition: row for row in rows}, store.measured(dataset.contents)
    todo = {index: [distinct[d] for d in distinct if d not in measured.get(index, ())] for index in indices}
    return {index: rows for index, rows in todo.items() if rows}


def measure(
    denoiser: Denoiser, dataset: Dataset, rows: Sequence[Row], store: Store, indices: Iterable[int]
) -> list[Failure]:
    """Observe and read the images of `indices` that the store lacks; returns those that failed, after the rest.

    Raises:
        StoreError: the store cannot be written any more; all images so far are in it.
    """
    failures, todo, plan = [], missing_rows(store, rows, dataset, indices), plan_of(rows)
    if todo:
        store.check_writable()
    for index, missing in tqdm(todo.items(), desc=f"{dataset.name} {dataset.split}", leave=False, disable=None):
        try:
            store.add(index, measure_image(denoiser, dataset, index, missing, plan))
        except StoreError:
            raise
        except Exception as error:
            log.exception("image %d of %s failed; going on with the others", index, dataset.name)
            failures.append(Failure(index, error))
    return failures


def raise_first(failures: Sequence[Failure], dataset: Dataset) -> None:
    """
    Raises:
        MeasurementError: there are failures; its cause is that of the first.
    """
    if failures:
        first = failures[0]
        raise MeasurementError(
            f"{len(failures)} of {len(dataset)} images of {dataset.name} could not be measured; the first, image "
            f"{first.index}: {type(first.error).__name__}: {first.error}"
        ) from first.error


def measure_image(denoiser: Denoiser, dataset: Dataset, index: int, rows: Sequence[Row], plan: Plan) -> list[dict]:
    """The records of `rows` on one image that is observed under `plan`, which may ask more than they need: the same
    questions give the same bits, however many rows were measured before.

    Raises:
        ValueError: the scene has no label map.
    """
    scene = dataset.read(index)
    if scene.label_map is None:
        raise ValueError(f"scene {scene.id!r} has no label map to compare with")
    started = time.perf_counter()
    observation = observe(denoiser, scene, plan) if scene.classes else None
    observed = time.perf_counter()
    nothing = Heatmaps((), torch.zeros(0, *scene.label_map.shape), torch.zeros(0))  # without candidates: all background
    undefined = _undefined(observation, rows) if observation else {}
    defined = [row for row in rows if row.definition not in undefined]
    heatmaps = read_rows(observation, defined) if observation else {row.definition: nothing for row in rows}
    common = {"image": scene.id, "index": index, "content": dataset.contents[index]}
    common |= {"seconds_observed": observed - started, "seconds_read": time.perf_counter() - observed}
    records = [
        common | {"method": definition} | undefined_record(reason) for definition, reason in undefined.items()
    ]
    for row in defined:
        counts = count(heatmaps[row.definition], scene.labels, scene.label_map, len(dataset.classes))
        candidates = _candidates(scene, heatmaps[row.definition], observation, row)
        records += [
            common | {"method": row.definition} | record for record in to_records(counts, candidates, dataset.classes)
        ]
    return records


def _undefined(observation: Observation, rows: Iterable[Row]) -> dict[str, str]:
    """By definition, why a row has no number for the model that was observed; it is logged once."""
    reasons = {row.definition: row.method.undefined(observation) for row in rows}
    for row in rows:
        _say_once(row.name, reasons[row.definition])
    return {definition: reason for definition, reason in reasons.items() if reason}


@functools.cache
def _say_once(name: str, reason: str) -> None:
    if reason:
        log.warning("%s is not defined here and has no number: %s", name, reason)


def read_rows(observation: Observation, rows: Iterable[Row]) -> dict[str, Heatmaps]:
    """The heatmaps of every row by its definition; methods of one class may share work."""
    by_class: dict[type[Method], list[Row]] = {}
    for row in rows:
        by_class.setdefault(type(row.method), []).append(row)
    heatmaps: dict[str, Heatmaps] = {}
    for method_class, members in by_class.items():
        results = method_class.read_all(observation, [(row.method, row.plan) for row in members])
        heatmaps |= zip((row.definition for row in members), results, strict=True)
    return heatmaps


def _candidates(scene: Scene, heatmaps: Heatmaps, observation: Observation | None, row: Row) -> Mapping[int, dict]:
    """By label, what is known of each candidate class."""
    unknown = [math.nan] * len(scene.classes)
    losses: list[list[float]] = [[]] * len(scene.classes)
    if observation and len(row.plan.losses) == 1:
        losses = observation.under(row.plan).losses.of_each(scene.classes).tolist()
    facts = zip(scene.labels, heatmaps.scores.tolist(), scene.visible or unknown, losses, strict=True)
    return {label: {"score": score, "visible": seen, "losses": own} for label, score, seen, own in facts}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.leashed:
        _end_with_parent()
    rank, size, device = _share(options)
    rows, weights = rows_of(options.batch), _fingerprint(options.model)
    datasets = [open_dataset(name, options.split, options.images) for name in options.dataset]
    denoiser = _load(options.model, device)
    failures = 0
    for dataset in datasets:
        store = open_store(options.model, weights, dataset, options.store)
        failures += len(measure(denoiser, dataset, rows, store, range(rank, len(dataset), size)))
    return 1 if failures else 0


def _share(options: argparse.Namespace) -> tuple[int, int, str | None]:
    """(rank, number of processes, device) of this process: its shard, or what accelerate tells."""
    if options.shard:
        return *options.shard, options.device
    from accelerate import PartialState  # only where processes are counted: it takes a second to import

    state = PartialState()
    return state.process_index, state.num_processes, options.device or str(state.device)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy-sd15")
    parser.add_argument("--dataset", nargs="+", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=_number, default=48, help='of each set, or "all"')
    parser.add_argument("--batch", default="models", help=f"rows to measure: {', '.join(BATCHES)}")
    parser.add_argument("--store", type=Path, default=RUNS)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--shard", type=_shard, help="I/N: every N-th image from the I-th, without accelerate")
    parser.add_argument("--leashed", action="store_true", help="end when the process at the other end of stdin ends")
    return parser.parse_args(arguments)


def _number(text: str) -> int | None:
    if text != "all" and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f'a number of images must be 1 or more, or "all", got {text!r}')
    return None if text == "all" else int(text)


def _shard(text: str) -> tuple[int, int]:
    rank, _, size = text.partition("/")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise argparse.ArgumentTypeError(f"a shard I/N needs whole numbers, 0 <= I < N, got {text!r}")
    return int(rank), int(size)


if __name__ == "__main__":
    sys.exit(main())
