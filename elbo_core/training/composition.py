"""Does a model paint what it is told? Generated pictures of fixed prompts, as the judge sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline

from elbo_core.captions import TEMPLATE
from elbo_core.generation.judge import Judge, Verdict, Wanted
from elbo_core.toy.textures import COLORS, PATTERNS
from elbo_core.toy.world import THINGS

COMMON, RARE = THINGS[:10], THINGS[10:]
SAMPLER = {"num_inference_steps": 30, "guidance_scale": 5.0}
PROMPT_SEED = 64


@dataclass(frozen=True)
class Task:
    """A prompt and what its picture must show."""

    prompt: str
    wanted: Wanted


def generate(
    pipeline: DiffusionPipeline, prompts: Sequence[str], seed: int = 0, batch: int = 20, **sampler
) -> np.ndarray:
    """One image per prompt, uint8 [N, H, W, 3]; `sampler` replaces settings of `SAMPLER`."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(some))]
        images.append(pipeline(some, generator=generators, output_type="np", **SAMPLER | sampler).images)
    return np.round(np.concatenate(images) * 255).astype(np.uint8)


def singles(names: Sequence[str], per_class: int) -> list[Task]:
    """Each thing by its name alone."""
    return [Task(TEMPLATE.format(name), [(None, name)]) for name in names for _ in range(per_class)]


def attributed(count: int, names: Sequence[str] = COMMON) -> list[Task]:
    """Single things of a random colour and pattern."""
    rng = np.random.default_rng([PROMPT_SEED, 1])
    return [_attributed(rng, names) for _ in range(count)]


def _attributed(rng: np.random.Generator, names: Sequence[str]) -> Task:
    name, color, pattern = (str(rng.choice(words)) for words in (names, tuple(COLORS), PATTERNS))
    words = [color, name] if pattern == "plain" else [pattern, color, name]
    return Task(TEMPLATE.format(" ".join([_article(words[0]), *words])), [(color, name)])


def pairs(count: int, names: Sequence[str] = THINGS) -> list[Task]:
    """Two different things, each with a colour of its own: "a red star and a blue tree"."""
    rng = np.random.default_rng([PROMPT_SEED, len(names)])
    return [_pair(rng, names) for _ in range(count)]


def _pair(rng: np.random.Generator, names: Sequence[str]) -> Task:
    things = [str(name) for name in rng.choice(names, 2, replace=False)]
    colors = [str(color) for color in rng.choice(tuple(COLORS), 2, replace=False)]
    wanted = list(zip(colors, things, strict=True))
    return Task(" and ".join(f"{_article(color)} {color} {thing}" for color, thing in wanted), wanted)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def judged(pipeline: DiffusionPipeline, judge: Judge, tasks: Sequence[Task], seed: int = 0, **sampler) -> Verdict:
    """What the judge sees in one generated picture per task."""
    images = generate(pipeline, [task.prompt for task in tasks], seed, **sampler)
    return judge(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)


def shares(verdict: Verdict, tasks: Sequence[Task]) -> dict[str, float]:
    """The share of tasks whose things are all there, and of those whose things have the right colours too."""
    wanted = [task.wanted for task in tasks]
    return {
        "there": verdict.there(wanted).float().mean().item(),
        "right": verdict.right(wanted).float().mean().item(),
    }


def composition(pipeline: DiffusionPipeline, judge: Judge, scale: int = 10, **sampler) -> dict:
    """Shares of good pictures: single common and rare things (`scale` a class), attributed ones, and pairs of common
    things and of any (5 times `scale` each)."""
    sets = {
        "common": singles(COMMON, scale),
        "rare": singles(RARE, scale),
        "attributes": attributed(5 * scale),
        "common pairs": pairs(5 * scale, COMMON),
        "pairs": pairs(5 * scale),
    }
    verdicts = {name: judged(pipeline, judge, tasks, **sampler) for name, tasks in sets.items()}
    return {name: shares(verdicts[name], tasks) for name, tasks in sets.items()} | {
        "classes": _by_class(verdicts["common"], sets["common"]) | _by_class(verdicts["rare"], sets["rare"])
    }


def _by_class(verdict: Verdict, tasks: Sequence[Task]) -> dict[str, float]:
    there = verdict.there([task.wanted for task in tasks]).tolist()
    names = [task.wanted[0][1] for task in tasks]
    return {
        name: float(np.mean([seen for seen, own in zip(there, names, strict=True) if own == name]))
        for name in dict.fromkeys(names)
    }
