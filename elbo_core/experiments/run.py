"""Measure rows of tables on a data set: every image is observed once and read by every row.

    python -m elbo_core.experiments.run --dataset toy-voc --table table_3
    accelerate launch --num_processes 8 -m elbo_core.experiments.run --model sd15 --dataset toy-voc

Images are shared out among the processes. Each finished image is in the run store; start again to do what is missing.
Counts are the same to the bit however the work is cut, on one kind of device and with one number of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from elbo_core.datasets import Dataset, open_dataset
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.errors import StoreError
from elbo_core.experiments.rows import TABLES, Row, plan_of, rows_of
from elbo_core.experiments.store import RUNS, RunKey, RunStore, to_counts, to_records
from elbo_core.methods.align import Heatmaps, Recipe, read
from elbo_core.methods.observe import Observation, Plan, observe
from elbo_core.metrics import Stack, count
from elbo_core.scene import Scene

log = logging.getLogger(__name__)
ROWS_TOGETHER = 16
"""So many rows' heatmaps are in memory at once."""
WORTH_PROCESSES = 8
"""From so many images a core on, processes of their own are worth their start of a few seconds."""


@dataclass(frozen=True)
class Evaluation:
    """What a run yields.

    counts: per row the pixel counts, stacked over images.
    scores: one line per image and candidate class: index and scene, label and class, area (share of the labelled
        pixels), visible, and the alignment score of every row in a column of its name.
    """

    counts: dict[str, Stack]
    scores: pd.DataFrame

    @property
    def n_images(self) -> int:
        return next(iter(self.counts.values())).n_images


def evaluate(denoiser: Denoiser, dataset: Dataset, rows: Sequence[Row], root: Path = RUNS) -> Evaluation:
    """Measure what is missing in the run store, then read it.

    Raises:
        ValueError: there is no row, or a scene has no label map.
        StoreError: the store cannot be written.
    """
    store = open_store(denoiser, dataset, plan_of(rows), root)
    measure(denoiser, dataset, rows, store, range(len(dataset)))
    frame = store.read(rows, len(dataset))
    return Evaluation(to_counts(frame, len(dataset.classes)), _scores(frame))


def evaluate_all(
    model: str, datasets: Sequence[str], table: str, images: int | None, split: str = "test", root: Path = RUNS
) -> dict[str, Evaluation]:
    """`evaluate` the rows of a table on the first `images` images of several data sets, None for all.

    On a CPU, much work is shared out among processes of one thread each, one per core: on two cores that is half as
    fast again as one process with two threads. What such a process leaves undone is done here.
    """
    denoiser, rows = load(model), rows_of(table)
    opened = {name: open_dataset(name, split, images) for name in datasets}
    stores = [(open_store(denoiser, dataset, plan_of(rows), root), len(dataset)) for dataset in opened.values()]
    missing = sum(bool(store.missing(index, rows)) for store, count in stores for index in range(count))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if denoiser.device.type == "cpu" and cores > 1 and missing >= WORTH_PROCESSES * cores:
        options = [
            "--model",
            model,
            "--table",
            table,
            "--split",
            split,
            "--images",
            str(images or "all"),
            "--store",
            str(root),
        ]
        _run_shards(cores, [*options, "--device", "cpu", "--dataset", *datasets])
    return {name: evaluate(denoiser, dataset, rows, root) for name, dataset in opened.items()}


def _run_shards(count: int, options: Sequence[str]) -> None:
    """This module's command, in `count` processes of one thread each."""
    command = [sys.executable, "-m", "elbo_core.experiments.run", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    shards = [subprocess.Popen([*command, "--shard", f"{k}/{count}"], env=environment) for k in range(count)]
    for k, shard in enumerate(shards):
        if shard.wait():
            log.warning("process %d of %d ended with status %d", k, count, shard.returncode)


def open_store(denoiser: Denoiser, dataset: Dataset, plan: Plan, root: Path = RUNS) -> RunStore:
    """The store of a model's run over a data set."""
    weights = fingerprint(denoiser)
    return RunStore(RunKey(denoiser.name, weights, dataset.name, dataset.split, dataset.content, plan), root)


def fingerprint(denoiser: Denoiser) -> str:
    """A hash of all weights and of their precision, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, part in sorted(denoiser.pipeline.components.items()):
        if hasattr(part, "state_dict"):
            digest.update(f"{name} {part.dtype}".encode())
            for weight in part.state_dict().values():
                digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def measure(
    denoiser: Denoiser, dataset: Dataset, rows: Sequence[Row], store: RunStore, indices: Iterable[int]
) -> list[int]:
    """Observe and read the images of `indices` that the store lacks; returns those that failed, after the rest.

    Raises:
        StoreError: the store cannot be written any more; all images so far are in it.
    """
    failed = []
    todo = [(index, missing) for index in indices if (missing := store.missing(index, rows))]
    for index, missing in tqdm(todo, desc=f"{dataset.name} {dataset.split}", leave=False, disable=None):
        try:
            store.add(index, _measure_image(denoiser, dataset, index, missing, store.key.plan))
        except StoreError:
            raise
        except Exception:
            log.exception("image %d of %s failed; going on with the others", index, dataset.name)
            failed.append(index)
    return failed


def _measure_image(denoiser: Denoiser, dataset: Dataset, index: int, rows: Sequence[Row], plan: Plan) -> list[dict]:
    scene = dataset.read(index)
    if scene.label_map is None:
        raise ValueError(f"scene {scene.id!r} has no label map to compare with")
    started = time.perf_counter()
    observation = observe(denoiser, scene, plan) if scene.classes else None
    observed = time.perf_counter()
    heatmaps = read_all(observation, rows) if observation else {row.definition: _nothing(scene) for row in rows}
    seconds = {"seconds_observed": observed - started, "seconds_read": time.perf_counter() - observed}
    records = []
    for row in rows:
        own = heatmaps[row.definition]
        counts = count(own, scene.labels, scene.label_map, len(dataset.classes))
        candidates = _candidates(scene, own, observation.at_elbo(row.elbo_timesteps)) if observation else {}
        found = to_records(counts, scene.id, index, row.definition, candidates, dataset.classes)
        records += [record | seconds for record in found]
    return records


def _nothing(scene: Scene) -> Heatmaps:
    """What is found where nothing is looked for: a picture without candidates is background alone."""
    return Heatmaps((), torch.zeros(0, *scene.label_map.shape), torch.zeros(0))


def read_all(observation: Observation, rows: Iterable[Row]) -> dict[str, Heatmaps]:
    """The heatmaps of every row by its definition. Rows that differ in the score alone are read together."""
    alike: dict[tuple[tuple[int, ...], Recipe], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.attention_timesteps, row.recipe.off()), []).append(row)
    heatmaps = {}
    for (times, recipe), group in alike.items():
        seen = observation.at_attention(times)
        for start in range(0, len(group), ROWS_TOGETHER):
            some = group[start : start + ROWS_TOGETHER]
            scores = torch.stack([row.recipe.score(seen.at_elbo(row.elbo_timesteps)) for row in some])
            values = read(seen, recipe, scores)
            for row, value, score in zip(some, values, scores, strict=True):
                heatmaps[row.definition] = Heatmaps(seen.classes, value, score)
    return heatmaps


def _candidates(scene: Scene, heatmaps: Heatmaps, observation: Observation) -> dict[int, dict]:
    visible = scene.visible or (math.nan,) * len(scene.classes)
    facts = zip(scene.labels, heatmaps.scores.tolist(), visible, observation.losses.tolist(), strict=True)
    return {label: {"score": score, "visible": seen, "losses": losses} for label, score, seen, losses in facts}


def _scores(frame: pd.DataFrame) -> pd.DataFrame:
    labelled = frame.groupby(["row", "image"]).area.transform("sum")
    asked = frame.assign(area=frame.area / labelled).dropna(subset="score")
    order = ["index", "image", "label", "class", "area", "visible"]
    wide = asked.assign(visible=asked.visible.fillna(-1)).pivot_table(index=order, columns="row", values="score")
    wide = wide.reset_index().rename(columns={"image": "scene"})
    return wide.assign(visible=wide.visible.where(wide.visible >= 0)).rename_axis(columns=None)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rank, size, device = _share(options)
    rows = rows_of(options.table)
    denoiser = load(options.model, device)
    failures = 0
    for name in options.dataset:
        dataset = open_dataset(name, options.split, options.images)
        store = open_store(denoiser, dataset, plan_of(rows), options.store)
        failures += len(measure(denoiser, dataset, rows, store, range(rank, len(dataset), size)))
    return 1 if failures else 0


def _share(options: argparse.Namespace) -> tuple[int, int, str | None]:
    """(rank, number of processes, device) of this process: its shard, or what accelerate tells."""
    if options.shard:
        return *options.shard, options.device
    state = PartialState()
    return state.process_index, state.num_processes, options.device or str(state.device)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy-sd15")
    parser.add_argument("--dataset", nargs="+", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=_number, default=48, help='of each set, or "all"')
    parser.add_argument("--table", default="table_3", help=f"rows to measure: {', '.join(TABLES)}")
    parser.add_argument("--store", type=Path, default=RUNS)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--shard", type=_shard, help="I/N: every N-th image from the I-th, without accelerate")
    return parser.parse_args(arguments)


def _number(text: str) -> int | None:
    return None if text == "all" else int(text)


def _shard(text: str) -> tuple[int, int]:
    rank, size = map(int, text.split("/"))
    if not 0 <= rank < size:
        raise argparse.ArgumentTypeError(f"a shard I/N needs 0 <= I < N, got {text}")
    return rank, size


if __name__ == "__main__":
    sys.exit(main())
