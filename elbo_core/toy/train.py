"""`python -m elbo_core.toy.train`: train the models of the embedded world and write their cards.

Each reads what it needs of the earlier ones from the output folder. Killed and started again, it continues from its
last checkpoint in the scratch folder. On several devices or cores, `torchrun --nproc_per_node 2 -m elbo_core.toy.train`
(on a CPU with OMP_NUM_THREADS=1) multiplies the batch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from elbo_core.denoiser import Denoiser
from elbo_core.families import wrap
from elbo_core.paths import MODELS, ROOT
from elbo_core.toy import card, siblings, train_clip, train_sd, train_vae
from elbo_core.toy.corpus import SHAPE_SCENES, SHAPE_SEED, SHAPE_STYLE, TRAINING_SCENES, TrainingSet
from elbo_core.toy.fit import History, Plan, pick_device
from elbo_core.toy.share import share_parts

SEED = 4307
SHORT = 32
"""Tokens, of CLIP as of T5, that hold every caption."""
Histories = dict[str, History]


@dataclass(frozen=True)
class Workshop:
    """Where the models are made.

    models: the folder of the finished ones. scratch: of checkpoints and caches. steps: train everything for so few.
    scenes: the size of the training set. samples: generated images per class, for the cards.
    """

    models: Path
    scratch: Path
    scenes: int
    steps: int | None
    samples: int

    @property
    def cache(self) -> Path:
        return self.scratch / "cache"

    def corpus(self) -> TrainingSet:
        with PartialState().main_process_first():
            return TrainingSet(self.cache, self.scenes)

    def shapes(self) -> TrainingSet:
        with PartialState().main_process_first():
            return TrainingSet(self.cache, min(SHAPE_SCENES, self.scenes), SHAPE_STYLE, SHAPE_SEED)

    def checkpoints(self, name: str) -> Path:
        return self.scratch / "checkpoints" / name

    def plan(self, plan: Plan) -> Plan:
        return plan if self.steps is None else replace(plan, steps=self.steps)


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    state = PartialState(cpu=not torch.cuda.is_available())
    shop = Workshop(options.output, options.scratch, options.scenes, options.steps, options.samples)
    histories = {}
    for name in options.models:
        torch.manual_seed(SEED)
        histories[name] = TRAINERS[name](shop, name)
    corpus = shop.corpus()
    if state.is_main_process:
        share_parts(shop.models)
        for name, history in histories.items():
            card.write_card(shop.models, name, history, corpus, shop.samples)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=MODELS, help="folder of the finished models")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "training", help="checkpoints and caches")
    parser.add_argument("--models", nargs="+", choices=TRAINERS, default=list(TRAINERS), help="which to train")
    parser.add_argument("--scenes", type=int, default=TRAINING_SCENES, help="size of the training set")
    parser.add_argument("--steps", type=int, help="train every model for so few steps, to try things out")
    parser.add_argument("--samples", type=int, default=20, help="generated images per class, for the model card")
    return parser.parse_args(arguments)


def train_first(shop: Workshop, name: str) -> Histories:
    """The first diffusion model, from nothing: the VAE, then the UNet with its text encoder."""
    vae, histories = learn_vae(shop, name, train_vae.build_vae())
    denoiser = wrap(siblings.sd14(vae), name)
    histories["unet"] = learn(shop, denoiser, train_sd.FIRST_PLAN, ["text_encoder"])
    return histories


def train_clip_model(shop: Workshop, name: str) -> Histories:
    """The vision tower that belongs to the text encoder of the diffusion models."""
    pipeline = StableDiffusionPipeline.from_pretrained(shop.models / "toy-sd14").to(pick_device())
    clip = train_clip.build_clip(pipeline.tokenizer).to(pick_device())
    clip.text_model.load_state_dict(pipeline.text_encoder.state_dict())
    corpus, shapes = shop.corpus(), shop.shapes()
    with PartialState().main_process_first():
        decoded = train_vae.reconstruct(pipeline.vae, shapes, shop.cache)
    history = train_clip.train_clip(
        clip, pipeline.tokenizer, corpus, shapes, decoded, shop.checkpoints(name), shop.plan(train_clip.PLAN)
    )
    if PartialState().is_main_process:
        save_clip(clip, pipeline.tokenizer, shop.models / name)
    PartialState().wait_for_everyone()
    return {"vision": history}


def train_next(build: Callable[[Path], DiffusionPipeline], *learned: str) -> Trainer:
    """The trainer of a model that starts from an earlier one; the text encoders `learned` learn with its network."""

    def train(shop: Workshop, name: str) -> Histories:
        return {"unet": learn(shop, wrap(build(shop.models), name), train_sd.NEXT_PLAN, learned)}

    return train


def train_transformer(shop: Workshop, name: str) -> Histories:
    """The model with a VAE and a network of its own, first with few tokens of text, then with the 77 of CLIP and 256 of
    T5 that the pipeline gives it, nearly all of them padding."""
    vae = train_vae.build_shifted_vae()
    siblings.inherit(vae, AutoencoderKL.from_pretrained(shop.models / "toy-sd15" / "vae"))
    vae, histories = learn_vae(shop, name, vae)
    pipeline = siblings.sd35(shop.models, vae)
    denoiser = wrap(pipeline, name)
    pipeline.tokenizer_max_length = denoiser.t5_limit = SHORT
    histories["short"] = learn(shop, denoiser, train_sd.FIRST_PLAN, ["text_encoder_3"], "short")
    pipeline.tokenizer_max_length, denoiser.t5_limit = pipeline.tokenizer.model_max_length, type(denoiser).t5_limit
    histories["padded"] = learn(shop, denoiser, train_sd.LAST_PLAN, ["text_encoder_3"])
    return histories


Trainer = Callable[[Workshop, str], Histories]
TRAINERS: dict[str, Trainer] = {
    "toy-sd14": train_first,
    "toy-clip": train_clip_model,
    "toy-sd15": train_next(siblings.sd15),
    "toy-sd2": train_next(siblings.sd2),
    "toy-sd21": train_next(siblings.sd21),
    "toy-sdxl": train_next(siblings.sdxl, "text_encoder_2"),
    "toy-sd35": train_transformer,
}
"""In this order, each needs only earlier ones."""


def learn_vae(shop: Workshop, name: str, vae: AutoencoderKL) -> tuple[AutoencoderKL, Histories]:
    vae, corpus, checkpoints = vae.to(pick_device()), shop.corpus(), shop.checkpoints(name)
    first = train_vae.train_vae(vae, corpus, checkpoints, shop.plan(train_vae.PLAN))
    decoder = train_vae.train_decoder(vae, corpus, checkpoints, shop.plan(train_vae.DECODER_PLAN))
    return vae, {"vae": first, "decoder": decoder}


def learn(
    shop: Workshop, denoiser: Denoiser, plan: Plan, learned: Sequence[str] = (), stage: str = "network"
) -> History:
    """Train a denoiser's network, and with it the text encoders of its pipeline that are `learned`, and save all."""
    pipeline, corpus = denoiser.pipeline.to(pick_device()), shop.corpus()
    with PartialState().main_process_first():
        latents = train_sd.encode_corpus(pipeline.vae, corpus, shop.cache)
    encoders = [getattr(pipeline, encoder) for encoder in learned]
    checkpoints = shop.checkpoints(denoiser.name) / stage
    history = train_sd.train_diffusion(denoiser, latents, corpus.specs, checkpoints, shop.plan(plan), encoders)
    if PartialState().is_main_process:
        save_pipeline(pipeline, shop.models / denoiser.name)
    PartialState().wait_for_everyone()
    return history


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    clip.half().save_pretrained(folder)
    clip.float()
    tokenizer.save_pretrained(folder)
    train_clip.build_image_processor().save_pretrained(folder)
    _load_in_single_precision(folder / "config.json")


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Half precision on disk, single precision once loaded with plain `from_pretrained`."""
    for part in folder.glob("*"):
        if part.is_symlink():
            part.unlink()  # else its target, another model's part, would be written
    pipeline.to(torch.float16).save_pretrained(folder)
    pipeline.to(torch.float32)
    for config in folder.glob("text_encoder*/config.json"):
        _load_in_single_precision(config)
    for config in folder.rglob("*.json"):
        _drop_traces(config)


TRACES = {
    *("_name_or_path", "is_local", "local_files_only"),
    *("max_length", "pad_to_multiple_of", "pad_token_type_id", "padding_side", "stride", "truncation_side"),
    *("truncation_strategy",),
}
"""What the libraries write about where a part was loaded from and how it was last called."""


def _drop_traces(config: Path) -> None:
    content = json.loads(config.read_text())
    if TRACES & set(content):
        config.write_text(json.dumps({k: v for k, v in content.items() if k not in TRACES}, indent=2) + "\n")


def _load_in_single_precision(config: Path) -> None:
    """transformers loads a model in the dtype that its config names, diffusers in float32; make them agree."""
    content = json.loads(config.read_text())
    content["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        if part in content:
            content[part]["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
