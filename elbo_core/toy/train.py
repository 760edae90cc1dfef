"""`python -m elbo_core.toy.train`: train every model of the embedded world from scratch and write its card.

Killed and started again, it continues from its last checkpoint in the scratch folder. On several devices or cores,
`torchrun --nproc_per_node 2 -m elbo_core.toy.train` (on a CPU with OMP_NUM_THREADS=1) multiplies the batch.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import StableDiffusionPipeline
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from elbo_core.families import wrap
from elbo_core.paths import MODELS, ROOT
from elbo_core.toy import card, train_clip, train_sd, train_vae
from elbo_core.toy.corpus import SHAPE_SCENES, SHAPE_SEED, SHAPE_STYLE, TRAINING_SCENES, TrainingSet
from elbo_core.toy.fit import Plan, pick_device

SEED = 4307
PARTS = ("vae", "unet", "toy-clip")


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    state = PartialState(cpu=not torch.cuda.is_available())
    checkpoints, cache = options.scratch / "checkpoints", options.scratch / "cache"
    plan = functools.partial(_shorten, steps=options.steps)
    with state.main_process_first():
        corpus = TrainingSet(cache, options.scenes)
        shapes = TrainingSet(cache, min(SHAPE_SCENES, options.scenes), SHAPE_STYLE, SHAPE_SEED)

    vae = start(train_vae.build_vae, _known(options, "toy-sd15", "vae"))
    histories = {"vae": train_vae.train_vae(vae, corpus, checkpoints, plan(train_vae.PLAN))}
    with state.main_process_first():
        latents = train_sd.encode_corpus(vae, corpus, cache)
    histories["decoder"] = train_vae.train_decoder(vae, corpus, checkpoints, plan(train_vae.DECODER_PLAN))

    tokenizer = train_clip.build_tokenizer()
    clip = start(lambda: train_clip.build_clip(tokenizer), _known(options, "toy-clip"))
    width = clip.config.text_config.hidden_size
    unet = start(lambda: train_sd.build_unet(width), _known(options, "toy-sd15", "unet"))
    denoiser = wrap(train_sd.build_pipeline(vae, clip.text_model, tokenizer, unet), "toy-sd15")
    learn = functools.partial(train_sd.train_diffusion, denoiser, latents, corpus.specs)
    histories["first"] = learn(checkpoints / "first", plan(train_sd.FIRST_PLAN), [clip.text_model])
    clip.text_model.requires_grad_(False)
    histories["unet"] = learn(checkpoints, plan(train_sd.NEXT_PLAN))

    with state.main_process_first():
        decoded = train_vae.reconstruct(vae, shapes, cache)
    vision = train_clip.train_clip(clip, tokenizer, corpus, shapes, decoded, checkpoints, plan(train_clip.PLAN))
    if state.is_main_process:
        save_pipeline(denoiser.pipeline, options.output / "toy-sd15")
        save_clip(clip, tokenizer, options.output / "toy-clip")
        card.write_clip_card(options.output, {"vision": vision}, corpus)
        card.write_diffusion_card(options.output, "toy-sd15", histories, corpus, options.samples)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=MODELS, help="folder of the finished models")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "training", help="checkpoints and caches")
    parser.add_argument("--warm-start", type=Path, help="start from the models in this folder, not from random weights")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which models start from there")
    parser.add_argument("--scenes", type=int, default=TRAINING_SCENES, help="size of the training set")
    parser.add_argument("--steps", type=int, help="train every model for so few steps, to try things out")
    parser.add_argument("--samples", type=int, default=20, help="generated images per class, for the model card")
    return parser.parse_args(arguments)


def _known(options: argparse.Namespace, *place: str) -> Path | None:
    """The folder that a model starts from, or None for random weights."""
    wanted = options.warm_start and place[-1] in options.parts
    return options.warm_start.joinpath(*place) if wanted else None


def start(build: Callable[[], nn.Module], known: Path | None) -> nn.Module:
    """A new model from seed 4307, or with the weights of an earlier one in the folder `known`."""
    torch.manual_seed(SEED)
    model = build()
    if known:
        model.load_state_dict(type(model).from_pretrained(known).state_dict())
    return model.to(pick_device())


def _shorten(plan: Plan, steps: int | None) -> Plan:
    return plan if steps is None else replace(plan, steps=steps)


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    clip.half().save_pretrained(folder)
    clip.float()
    tokenizer.save_pretrained(folder)
    train_clip.build_image_processor().save_pretrained(folder)
    _load_in_single_precision(folder / "config.json")


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Half precision on disk, single precision once loaded with plain `from_pretrained`."""
    pipeline.to(torch.float16).save_pretrained(folder)
    pipeline.to(torch.float32)
    _load_in_single_precision(folder / "text_encoder" / "config.json")
    for config in folder.rglob("*.json"):
        content = json.loads(config.read_text())
        if content.pop("_name_or_path", None):
            config.write_text(json.dumps(content, indent=2) + "\n")


def _load_in_single_precision(config: Path) -> None:
    """transformers loads a model in the dtype that its config names, diffusers in float32; make them agree."""
    content = json.loads(config.read_text())
    content["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        if "dtype" in content.get(part, {}):
            content[part]["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
