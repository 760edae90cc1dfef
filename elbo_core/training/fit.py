"""One training loop for all toy models: resumable, with an exponential moving average and a recorded loss curve.

Started by torchrun in several processes, each draws its own examples and all step along the mean gradient.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from elbo_core.paths import whole_file

LossFunction = Callable[[int, np.random.Generator, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train. The learning rate warms up linearly and then falls along a cosine to zero."""

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    checkpoint_every: int = 500
    seed: int = 4307

    def rate(self, step: int) -> float:
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return min((step + 1) / self.warmup, 0.5 * (1 + math.cos(math.pi * max(progress, 0.0))))


@dataclass(frozen=True)
class History:
    """What a finished training leaves behind: the loss of every step, the seconds it took, and its seed."""

    losses: list[float]
    seconds: float
    seed: int

    def windowed(self, window: int) -> list[float]:
        """The mean loss of every `window` steps."""
        return [float(np.mean(self.losses[i : i + window])) for i in range(0, len(self.losses), window)]

    def save(self, path: Path, window: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        means = [round(loss, 5) for loss in self.windowed(window)]
        content = {"seed": self.seed, "seconds": round(self.seconds), "steps": len(self.losses), "window": window}
        path.write_text(json.dumps(content | {"losses": means}))

    @classmethod
    def load(cls, path: Path) -> History:
        """A saved one; of the losses of a window only the mean is left."""
        content = json.loads(path.read_text())
        losses = np.repeat(content["losses"], content["window"])[: content["steps"]]
        return cls(losses.tolist(), content["seconds"], content["seed"])


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(name: str, model: nn.Module, loss_function: LossFunction, plan: TrainingPlan, folder: Path) -> History:
    """Train `model` in place; on return it holds the averaged weights.

    Every step draws from generators seeded by (seed, step, process) alone, so a run that is killed and started again
    with the same `folder` continues as if nothing had happened.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.rate)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=_warm_average(plan.ema_decay))
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}
    checkpoint = folder / f"{name}.pt"
    losses, seconds = _restore(checkpoint, state)
    started = time.monotonic() - seconds
    model.train()
    bar = tqdm(range(len(losses), plan.steps), initial=len(losses), total=plan.steps, desc=name, mininterval=10)
    for step in bar:
        losses.append(_step(loss_function, optimizer, schedule, plan.seed, step))
        average.update_parameters(model)
        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
        if _rank() == 0 and ((step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps):
            _store(checkpoint, state, losses, time.monotonic() - started)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return History(losses, time.monotonic() - started, plan.seed)


def _step(loss_function: LossFunction, optimizer, schedule, seed: int, step: int) -> float:
    numbers = np.random.default_rng([seed, step, _rank()])
    loss = loss_function(step, numbers, torch.Generator().manual_seed(int(numbers.integers(2**62))))
    loss.backward()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss.item()} at step {step}; lower the learning rate")
    parameters = optimizer.param_groups[0]["params"]
    _share_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _share_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each process's gradients by their mean."""
    if not distributed.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    mean = parameters_to_vector(gradients)
    distributed.all_reduce(mean)
    vector_to_parameters(mean / distributed.get_world_size(), gradients)


def _warm_average(decay: float):
    """EMA whose decay grows from 0 to `decay`, so that the random start is forgotten quickly."""

    def update(averaged, current, count):
        weight = min(decay, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(averaged, current, 1 - weight)

    return update


def _store(path: Path, state: dict, losses: list[float], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value.state_dict() for key, value in state.items()}
    with whole_file(path) as partial:
        torch.save(content | {"losses": losses, "seconds": seconds}, partial)


def _restore(path: Path, state: dict) -> tuple[list[float], float]:
    if not path.exists():
        return [], 0.0
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key, value in state.items():
        value.load_state_dict(content[key])
    return content["losses"], content["seconds"]


def autocast(device: torch.device):
    """bfloat16 mixed precision where it pays (CUDA, and CPUs with native bfloat16), else full precision."""
    supported = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16) if supported else nullcontext()
