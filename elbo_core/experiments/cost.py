"""What a picture costs: seconds and bytes, beside those of a plain forward pass, of any model on this machine.

    python -m elbo_core.experiments.cost --models toy-sd15 toy-sd35 --out data/measured/cost/here.json
    python -m elbo_core.experiments.cost --full-size sd15 --dtype bfloat16 float32 --out data/measured/cost/gpu.json
    python -m elbo_core.experiments.cost --full-size sd21 sdxl sd35 --dtype bfloat16 --questions 1 --out ...

Each machine has its file in `data/measured/cost`. Times are medians; they belong to the machine and are not compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.live import LiveTensors
from elbo_core.experiments.machine import processor
from elbo_core.methods.align import Recipe
from elbo_core.methods.observe import observe
from elbo_core.methods.plan import ATTENTION_TIMESTEPS, ELBO_TIMESTEPS, Plan
from elbo_core.paths import DATA, replace_file
from elbo_core.scene import Scene
from elbo_core.toy.world import CLASSES

COSTS = DATA / "measured" / "cost"
CLASS_COUNTS = (1, 2, 5, 10, 20)
TIMESTEP_COUNTS = (1, 5, 10, 20)


@dataclass(frozen=True)
class Cost:
    """What one picture takes.

    model, parameters: of its denoising network. machine, device, dtype, threads: where and how. side: of the picture in
    pixels. classes, timesteps: of the losses; evaluations: of the network, in all. batch: passes at once.
    seconds_pass: of one evaluation in a full batch. seconds: of the whole picture, calibration off and on.
    bytes_weights, bytes_pass, bytes_peak: held at most by nothing but the model, by a forward pass of a full batch, and
        by the whole picture.
    """

    model: str
    parameters: int
    machine: str
    device: str
    dtype: str
    threads: int
    side: int
    classes: int
    timesteps: int
    evaluations: int
    batch: int
    seconds_pass: float
    seconds: float
    bytes_weights: int
    bytes_pass: int
    bytes_peak: int

    @property
    def memory_ratio(self) -> float:
        """The peak over that of a forward pass at the same batch."""
        return self.bytes_peak / self.bytes_pass


@dataclass(frozen=True)
class Question:
    """A picture with so many classes, losses at so many timesteps and attention at so many, in batches of `batch`."""

    classes: int = 10
    timesteps: int = len(ELBO_TIMESTEPS)
    attention: int = len(ATTENTION_TIMESTEPS)
    batch: int = Plan().batch_size

    @property
    def plan(self) -> Plan:
        step = len(ELBO_TIMESTEPS) // self.timesteps
        times = ELBO_TIMESTEPS[step // 2 :: step][: self.timesteps]
        return replace(Plan.of(times, ATTENTION_TIMESTEPS[: self.attention]), batch_size=self.batch)

    def scene(self, side: int) -> Scene:
        image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
        return Scene.of(image, _class_names(self.classes))


def _class_names(count: int) -> list[str]:
    """Distinct names that the toy tokenizers read."""
    pairs = [f"{first} {second}" for first in ("red", "blue") for second in CLASSES]
    return [*CLASSES, *pairs][:count]


@torch.no_grad()
def measure_cost(denoiser: Denoiser, question: Question, repeats: int = 3) -> Cost:
    """The cost of one picture with a model that is loaded. Memory is taken first, which warms up."""
    scene, plan = question.scene(denoiser.image_size), question.plan
    batch = min(question.batch, question.classes * question.timesteps)
    of_pass, of_picture = _one_pass(denoiser, scene, batch), lambda: _one_picture(denoiser, scene, plan)
    memory = [peak(denoiser, work) for work in (lambda: None, of_pass, of_picture)]
    return Cost(
        denoiser.name, sum(weight.numel() for weight in denoiser.network.parameters()), machine_of(denoiser),
        denoiser.device.type, str(denoiser.dtype).removeprefix("torch."), torch.get_num_threads(), denoiser.image_size,
        question.classes, question.timesteps, plan.evaluations(question.classes), batch,
        _seconds(of_pass, denoiser, repeats) / batch, _seconds(of_picture, denoiser, repeats), *memory,
    )  # fmt: skip


def _one_pass(denoiser: Denoiser, scene: Scene, batch: int) -> Callable[[], object]:
    latents = denoiser.encode_image(scene.image).expand(batch, -1, -1, -1)
    text = denoiser.encode_text([""])[torch.zeros(batch, dtype=torch.long)]
    return lambda: denoiser.predict(latents, torch.full((batch,), 500), text)


def _one_picture(denoiser: Denoiser, scene: Scene, plan: Plan) -> None:
    observation = observe(denoiser, scene, plan)
    Recipe.read_all(observation, [(Recipe().off(), plan), (Recipe(), plan)])


def _seconds(work: Callable[[], object], denoiser: Denoiser, repeats: int) -> float:
    """The median."""
    laps = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if denoiser.device.type == "cuda":
            torch.cuda.synchronize()
        laps.append(time.perf_counter() - started)
    return statistics.median(laps)


def peak(denoiser: Denoiser, work: Callable[[], object]) -> int:
    """Bytes held at most while something is done, weights included: what CUDA allocated, or of all live tensors."""
    if denoiser.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(denoiser.device)
        work()
        return torch.cuda.max_memory_allocated(denoiser.device)
    parts = [part for part in denoiser.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    with LiveTensors(*parts) as live:
        work()
    return live.peak


def machine_of(denoiser: Denoiser) -> str:
    """The name of the GPU, or of the processor."""
    return torch.cuda.get_device_name(denoiser.device) if denoiser.device.type == "cuda" else processor()


def read_costs(folder: Path = COSTS) -> list[Cost]:
    """All that was measured, on whatever machine."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [Cost(**one) for path in files for one in json.loads(path.read_text(encoding="utf-8"))]


def write_costs(costs: Iterable[Cost], path: Path) -> None:
    """Write costs to a machine's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(asdict(cost)) for cost in costs)
    replace_file(path, f"[\n{text}\n]\n".encode())


def _curves(heavy: bool) -> list[Question]:
    """Ten classes first; then other numbers of classes and timesteps.

    A network of full size takes seconds for one evaluation on a processor. There it is asked for so few timesteps that
    they fill a batch of one, and one of the default size: more of them take more time, and no more memory.
    """
    if heavy:
        return [Question(timesteps=1, batch=1), Question(timesteps=4)]
    others = [Question(classes=count) for count in CLASS_COUNTS if count != 10]
    return [Question(), *others, *(Question(timesteps=count) for count in TIMESTEP_COUNTS if count != 20)]


def _denoisers(options: argparse.Namespace) -> Iterable[Denoiser]:
    """One after another, so that one at a time is in memory."""
    from elbo_core.diffusion.families import wrap
    from elbo_core.diffusion.models import load
    from elbo_core.experiments.full_size import build

    for name in options.models:
        yield load(name, options.device)
    for name in options.full_size:
        for dtype in options.dtype:
            yield wrap(build(name, options.device, getattr(torch, dtype)), name)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    warnings.filterwarnings("ignore", category=UserWarning)  # random weights predict nothing
    costs: list[Cost] = []
    for denoiser in _denoisers(options):
        heavy = options.device == "cpu" and denoiser.name in options.full_size
        for question in _curves(heavy)[: options.questions]:
            try:
                costs.append(measure_cost(denoiser, question, options.repeats))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                print(f"{denoiser.name} {denoiser.dtype}: {question}: {type(error).__name__}: {error}", flush=True)
                continue
            print(_line(costs[-1]), flush=True)
            write_costs(costs, options.out)
        del denoiser
        if options.device == "cuda":
            torch.cuda.empty_cache()
    return 0


def _line(cost: Cost) -> str:
    return (
        f"{cost.model} {cost.dtype} {cost.device}: {cost.classes} classes, {cost.timesteps} timesteps: "
        f"{cost.seconds:.2f} s for {cost.evaluations} evaluations of {1000 * cost.seconds_pass:.1f} ms; "
        f"{cost.bytes_peak / 2**30:.2f} GiB, {cost.memory_ratio:.2f} x a pass of {cost.batch}"
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[], help="that are loaded, such as toy-sd15")
    parser.add_argument("--full-size", nargs="*", default=[], help="with random weights: sd15, sd21, sdxl, sd35")
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="of those of full size")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--questions", type=int, default=None, help="only the first so many of the curves")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
