"""`make bench`: milliseconds per image, split into encode, losses, attention and readout, the network's share of them,
and the peak of memory beside that of a plain forward pass of the same batch size."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager

import torch

from elbo_core import Plan, align, load, observe
from elbo_core.datasets.toy import toy_dataset
from elbo_core.diffusion.live import LiveTensors
from elbo_core.methods.elbo import class_losses
from elbo_core.methods.observe import Attention, Losses, Observation, attend_caption, captions_of, conditions, keyed


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
    (asked_losses,), (asked_attention,) = plan.losses, plan.attention
    with watch("encode"):
        latents = denoiser.encode_image(scene.image)
        texts = denoiser.encode_text([told.text for told in conditions(scene, asked_losses.texts, denoiser)])
    with watch("losses"):
        times = torch.tensor(asked_losses.timesteps)
        noise = keyed(latents, scene, plan)
        losses = class_losses(denoiser, latents, texts, noise["elbo"], times, plan.batch_size)
        losses = Losses(asked_losses, losses)
    with watch("attention"):
        captions = captions_of(scene, asked_attention.texts, denoiser)
        seen = (attend_caption(denoiser, c, latents, asked_attention, noise["collect"]) for c in captions)
        attention = Attention(asked_attention, tuple(seen))
    with watch("readout"):
        size = tuple(scene.image.shape[1:])
        align(Observation(scene.classes, size, denoiser.schedule, (losses,), (attention,)))


@torch.no_grad()
def peaks(model: str, classes: int) -> tuple[float, float]:
    """GiB in use at most, weights included: by a forward pass of a whole batch, by a segmentation of `classes`."""
    denoiser, plan = load(model), Plan()
    scene = next(s for s in toy_dataset("toy-ade", "dev", 400) if len(s.classes) == classes)
    latents = denoiser.encode_image(scene.image).expand(plan.batch_size, -1, -1, -1)
    text = denoiser.encode_text([""])[torch.zeros(plan.batch_size, dtype=torch.long)]
    timesteps = torch.full((plan.batch_size,), 500)
    plain = peak(denoiser, lambda: denoiser.predict(latents, timesteps, text))
    return plain, peak(denoiser, lambda: align(observe(denoiser, scene, plan)))


def peak(denoiser, work: Callable[[], object]) -> float:
    """GiB: what CUDA allocated, or on a CPU the sum of all live tensors."""
    if denoiser.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(denoiser.device)
        work()
        return torch.cuda.max_memory_allocated(denoiser.device) / 2**30
    with LiveTensors(*(part for part in denoiser.pipeline.components.values() if hasattr(part, "buffers"))) as live:
        work()
    return live.peak / 2**30


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
    plain, whole = peaks(options.model, 8)
    print(f"memory     {whole:8.3f} GiB with 8 classes, {whole / plain:.2f} x a forward pass of {Plan().batch_size}")


if __name__ == "__main__":
    main()
