"""`make bench`: milliseconds per image, split into encode, losses, attention and readout, and the UNet's share."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import contextmanager

import torch

from elbo_core import Plan, align, load
from elbo_core.captions import list_captions
from elbo_core.datasets.toy import toy_dataset
from elbo_core.elbo import class_losses
from elbo_core.observe import attend_caption, keyed


class Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, name: str):
        start = time.perf_counter()
        yield
        self.laps[name].append(1000 * (time.perf_counter() - start))


def timed_network(network: torch.nn.Module, watch: Stopwatch) -> None:
    """Add up the time that the network itself takes."""
    forward = network.forward

    def measured(*args, **kwargs):
        with watch("network"):
            return forward(*args, **kwargs)

    network.forward = measured


def bench(model: str, images: int) -> Stopwatch:
    denoiser, watch, plan = load(model), Stopwatch(), Plan()
    timed_network(denoiser.network, watch)
    scenes = [scene for scene in toy_dataset("toy-coco", "dev", 4 * images) if len(scene.classes) == 4][:images]
    for repeat, scene in enumerate([scenes[0], *scenes]):
        if repeat == 1:
            watch.laps.clear()  # the first image warms up
        with watch("whole"):
            observe_and_read(denoiser, scene, plan, watch)
    return watch


def observe_and_read(denoiser, scene, plan: Plan, watch: Stopwatch) -> None:
    """`observe` and `align`, step by step."""
    from elbo_core.observe import Observation

    with watch("encode"):
        latents = denoiser.encode_image(scene.image)
        texts = denoiser.encode_text([plan.elbo_template.format(name) for name in scene.classes])
    with watch("losses"):
        times = torch.tensor(plan.elbo_timesteps)
        noise = keyed(latents, scene, plan)
        losses = class_losses(denoiser, latents, texts, noise["elbo"], times, plan.batch_size)
    with watch("attention"):
        captions = list_captions(scene.classes, denoiser.fits)
        attention = tuple(attend_caption(denoiser, caption, latents, plan, noise["collect"]) for caption in captions)
    with watch("readout"):
        size = tuple(scene.image.shape[1:])
        asked = torch.tensor(plan.attention_timesteps)
        align(Observation(scene.classes, size, denoiser.schedule, times, losses, attention, asked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy-sd15")
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    watch = bench(options.model, options.images)
    print(f"{options.model}, 4 classes, {torch.get_num_threads()} threads, median of {options.images} images")
    for name in ("encode", "losses", "attention", "readout", "whole"):
        print(f"{name:10s} {statistics.median(watch.laps[name]):8.1f} ms")
    print(f"network    {sum(watch.laps['network']) / sum(watch.laps['whole']):8.0%} of the time")


if __name__ == "__main__":
    main()
