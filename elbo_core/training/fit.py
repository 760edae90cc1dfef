"""One training loop for all toy models: resumable, with an exponential moving average and a recorded loss curve.

Started by torchrun in several processes, each draws its own examples and all step along the mean gradient.
"""

from __future__ import annotations

import copy
import json
import math
import platform
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
"""Of a step, from numbers that are its own."""
LOOK_EVERY = 50
"""After so many steps the losses are looked at."""


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train. The learning rate warms up linearly and then falls along a cosine to zero.

    seconds: the plan ends after so many, if not after its steps, and the rate falls with the time.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    checkpoint_every: int = 500
    seed: int = 4307
    seconds: float = math.inf

    def rate(self, step: int, elapsed: float = 0.0) -> float:
        """The share of the learning rate at a step, after so many seconds."""
        progress = max((step - self.warmup) / max(1, self.steps - self.warmup), min(elapsed / self.seconds, 1.0))
        return min((step + 1) / self.warmup, 0.5 * (1 + math.cos(math.pi * max(progress, 0.0))))


@dataclass(frozen=True)
class History:
    """What a finished training leaves behind: the loss of every step, its seconds, its seed, and where it ran."""

    losses: list[float]
    seconds: float
    seed: int
    machine: str = ""

    def windowed(self, window: int) -> list[float]:
        """The mean loss of every `window` steps."""
        return [float(np.mean(self.losses[i : i + window])) for i in range(0, len(self.losses), window)]

    def save(self, path: Path, window: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        means = [round(loss, 5) for loss in self.windowed(window)]
        content: dict[str, object] = {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "steps": len(self.losses),
            "window": window,
        }
        if self.machine:
            content["machine"] = self.machine
        path.write_text(json.dumps(content | {"losses": means}))

    @classmethod
    def load(cls, path: Path) -> History:
        """A saved one; of the losses of a window only the mean is left."""
        content = json.loads(path.read_text())
        losses = np.repeat(content["losses"], content["window"])[: content["steps"]]
        return cls(losses.tolist(), content["seconds"], content["seed"], content.get("machine", ""))


def this_machine() -> str:
    """What trains here, for cards."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = (distributed.get_world_size() if distributed.is_initialized() else 1) * torch.get_num_threads()
    return f"{cores} CPU cores ({platform.machine()})"


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class SplitLoss:
    """A loss whose batch is drawn apart from it, so that a GPU can replay a whole step as one CUDA graph.

    draw: the batch of a step, tensors on the CPU whose shapes never change. loss: of these tensors on the device.
    """

    draw: Callable[[int, np.random.Generator, torch.Generator], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]
    device: torch.device

    def __call__(self, step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        return self.loss(*(part.to(self.device) for part in self.draw(step, rng, generator)))


def fit(name: str, model: nn.Module, loss_function: LossFunction, plan: TrainingPlan, folder: Path) -> History:
    """Train `model` in place; on return it holds the averaged weights.

    Every step draws from generators seeded by (seed, step, process) alone, so a run that is killed and started again
    with the same `folder` continues as if nothing had happened.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    learner = _learner(loss_function, trained, plan)
    average = copy.deepcopy(model)
    averaged = [
        mean for mean, weight in zip(average.parameters(), model.parameters(), strict=True) if weight.requires_grad
    ]
    state = {"model": model, "optimizer": learner.optimizer, "average": average}
    checkpoint = folder / f"{name}.pt"
    losses, seconds = _restore(checkpoint, state)
    started = time.monotonic() - seconds
    model.train()
    recent: list[Tensor] = []  # not looked at one by one: each look waits for the device
    bar = tqdm(range(len(losses), plan.steps), initial=len(losses), total=plan.steps, desc=name, mininterval=10)
    for step in bar:
        elapsed = time.monotonic() - started
        recent.append(learner.take(step, plan.learning_rate * plan.rate(step, elapsed)))
        _follow(averaged, trained, step, plan.ema_decay)
        finished, due = step + 1 == plan.steps or elapsed > plan.seconds, (step + 1) % plan.checkpoint_every == 0
        if finished or due or len(recent) == LOOK_EVERY:
            losses += _finite(recent, len(losses))
            recent.clear()
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
        if _rank() == 0 and (due or finished):
            _store(checkpoint, state, losses, time.monotonic() - started)
        if finished:
            break
    model.load_state_dict(average.state_dict())
    model.eval()
    return History(losses, time.monotonic() - started, plan.seed, this_machine())


def random_numbers(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """Those that a step draws from in this process, whatever was drawn before."""
    numbers = np.random.default_rng([seed, step, _rank()])
    return numbers, torch.Generator().manual_seed(int(numbers.integers(2**62)))


def pick(rng: np.random.Generator, offered: np.ndarray, count: int) -> np.ndarray:
    """So many of what is offered, each once as long as there are enough."""
    return rng.choice(offered, count, replace=len(offered) < count)


def _learner(loss_function: LossFunction, trained: list[nn.Parameter], plan: TrainingPlan) -> Learner:
    if isinstance(loss_function, SplitLoss) and loss_function.device.type == "cuda":
        return GraphLearner(loss_function, trained, plan)
    return Learner(loss_function, trained, plan)


class Learner:
    """Takes one step after another."""

    def __init__(self, loss_function: LossFunction, trained: list[nn.Parameter], plan: TrainingPlan):
        self.loss_function, self.trained, self.plan = loss_function, trained, plan
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.trained, lr=self.plan.learning_rate, weight_decay=self.plan.weight_decay, fused=True
        )

    def take(self, step: int, rate: float) -> Tensor:
        """Take a step with this learning rate; returns its loss, as it was before."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss_function(step, *random_numbers(self.plan.seed, step))
        self._descend(loss)
        return loss.detach()

    def _descend(self, loss: Tensor) -> None:
        loss.backward()
        _share_gradients(self.trained)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class GraphLearner(Learner):
    """Replays the whole step as a CUDA graph: a small network waits for its kernels' launches most of the time.

    The first steps are taken one kernel after another, as capturing asks for.
    """

    loss_function: SplitLoss
    warming = 3

    def __init__(self, loss_function: SplitLoss, trained: list[nn.Parameter], plan: TrainingPlan):
        super().__init__(loss_function, trained, plan)
        self.batch: list[Tensor] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self.taken = 0

    def _optimizer(self) -> torch.optim.Optimizer:
        self.rate = torch.tensor(self.plan.learning_rate, device=self.loss_function.device)
        return torch.optim.AdamW(
            self.trained, lr=self.rate, weight_decay=self.plan.weight_decay, fused=True, capturable=True
        )

    def take(self, step: int, rate: float) -> Tensor:
        self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate  # not what a checkpoint brought
        drawn = self.loss_function.draw(step, *random_numbers(self.plan.seed, step))
        self.batch = self.batch or [torch.empty_like(part, device=self.loss_function.device) for part in drawn]
        for place, part in zip(self.batch, drawn, strict=True):
            place.copy_(part)
        self.taken += 1
        if self.taken <= self.warming:
            return self._warm()
        self.graph = self.graph or self._capture()
        self.graph.replay()
        return self.loss.clone()

    def _warm(self) -> Tensor:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self.loss_function.loss(*self.batch)
            self._descend(loss)
        torch.cuda.current_stream().wait_stream(stream)
        return loss.detach()

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.loss_function.loss(*self.batch)
            self._descend(loss)
        self.loss = loss.detach()
        return graph


def _follow(averaged: list[Tensor], current: list[Tensor], count: int, decay: float) -> None:
    """Move an exponential moving average whose decay grows from 0, so that the random start is forgotten quickly."""
    weight = min(decay, (1 + count) / (10 + count)) if count else 0.0
    with torch.no_grad():
        torch._foreach_lerp_(averaged, current, 1 - weight)


def _finite(losses: list[Tensor], before: int) -> list[float]:
    """The numbers of the losses that come after so many others.

    Raises:
        FloatingPointError: one is NaN or infinite.
    """
    numbers = torch.stack(losses).tolist()
    for step, loss in enumerate(numbers, before):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss} at step {step}; lower the learning rate")
    return numbers


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
    if not supported:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type != "cuda")  # CUDA graphs forbid it
