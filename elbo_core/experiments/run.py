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
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from elbo_core.datasets import Dataset, open_dataset
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.fingerprint import model_fingerprint, pipeline_fingerprint
from elbo_core.errors import MeasurementError, ModelAccessError, StoreError
from elbo_core.experiments.pool import measure_here, shard
from elbo_core.experiments.records import COLUMNS, Evaluation, read_evaluation, to_records, undefined_record
from elbo_core.experiments.rows import BATCHES, Row, plan_of, rows_of
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import loaded
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.method import Method
from elbo_core.methods.observe import Observation, observe
from elbo_core.methods.plan import Plan
from elbo_core.metrics import count
from elbo_core.paths import RUNS
from elbo_core.scene import Scene

log = logging.getLogger(__name__)
LATENT_PIXELS = 2**17
"""So many of a batch together keep a GPU busy."""


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


@dataclass(frozen=True)
class Segmentation:
    """A batch of rows on the first `images` images of a data set (None for all), measured with a model: a `Work`."""

    model: str
    dataset: str
    batch: str
    images: int | None
    split: str = "test"

    def store(self, root: Path = RUNS) -> Store:
        return open_store(self.model, fingerprint(self.model), self.opened, root)

    def contents(self) -> Sequence[str]:
        return self.opened.contents

    def methods(self) -> Sequence[str]:
        return list(dict.fromkeys(row.definition for row in rows_of(self.batch)))

    def measure(self, store: Store, indices: Sequence[int]) -> None:
        raise_first(measure(loaded(self.model), self.opened, rows_of(self.batch), store, indices), self.opened)

    @property
    def opened(self) -> Dataset:
        return opened(self.dataset, self.split, self.images)


@functools.lru_cache(maxsize=64)
def opened(name: str, split: str, images: int | None) -> Dataset:
    """A data set whose items are hashed once a process."""
    return open_dataset(name, split, images)


def evaluate_all(
    model: str, datasets: Sequence[str], batch: str, images: int | None, split: str = "test", root: Path = RUNS
) -> dict[str, Evaluation]:
    """`evaluate` a batch of rows on the first `images` images of several data sets, None for all.

    The model is loaded only if something is missing. On a CPU, much work is shared out among processes of one thread
    each (`pool.measure_here`).
    """
    works = {name: Segmentation(model, name, batch, images, split) for name in datasets}
    measure_here(list(works.values()), root)
    rows = rows_of(batch)
    return {name: read_evaluation(work.store(root), rows, work.opened) for name, work in works.items()}


def fingerprint(model: str) -> str:
    """Of its files; a model that is not on this machine is loaded first, which downloads it or says what to do."""
    try:
        return model_fingerprint(model)
    except ModelAccessError:
        loaded(model)
        return model_fingerprint(model)


def _load(model: str, device: str | None = None) -> Denoiser:
    from elbo_core.diffusion.models import load  # diffusers takes seconds to import: not where results are only read

    return load(model, device)


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
    distinct, indices = {row.definition: row for row in rows}, list(indices)
    measured = store.measured(dataset.contents, indices if len(indices) < len(dataset) else None)
    todo = {index: [distinct[d] for d in distinct if d not in measured.get(index, ())] for index in indices}
    return {index: rows for index, rows in todo.items() if rows}


def measure(
    denoiser: Denoiser, dataset: Dataset, rows: Sequence[Row], store: Store, indices: Iterable[int]
) -> list[Failure]:
    """Observe and read the images of `indices` that the store lacks; returns those that failed, after the rest.

    Raises:
        StoreError: the store cannot be written any more; all images so far are in it.
    """
    failures, todo = [], missing_rows(store, rows, dataset, indices)
    plan = batched(plan_of(rows), denoiser)
    if todo:
        store.check_writable()
    shown = tqdm(
        todo.items(), desc=f"{dataset.name} {dataset.split}", leave=False, disable=True if len(todo) < 2 else None
    )
    for index, missing in shown:
        try:
            store.add(index, measure_image(denoiser, dataset, index, missing, plan))
        except StoreError:
            raise
        except Exception as error:
            log.exception("image %d of %s failed; going on with the others", index, dataset.name)
            failures.append(Failure(index, error))
    return failures


def batched(plan: Plan, denoiser: Denoiser) -> Plan:
    """The plan in batches that keep a GPU busy: its passes of small latents wait for the processor otherwise."""
    if denoiser.device.type != "cuda":
        return plan
    side = denoiser.image_size // denoiser.pipeline.vae_scale_factor
    return replace(plan, batch_size=max(plan.batch_size, LATENT_PIXELS // side**2))


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
    records = [common | {"method": definition} | undefined_record(reason) for definition, reason in undefined.items()]
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
    rank, size, device = _share(options)
    rows, weights = rows_of(options.batch), fingerprint(options.model)
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
    parser.add_argument("--shard", type=shard, help="I/N: every N-th image from the I-th, without accelerate")
    return parser.parse_args(arguments)


def _number(text: str) -> int | None:
    if text != "all" and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f'a number of images must be 1 or more, or "all", got {text!r}')
    return None if text == "all" else int(text)


if __name__ == "__main__":
    sys.exit(main())
