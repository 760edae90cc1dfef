"""`python -m elbo_core.training.train`: train the models of the embedded world and write their cards.

Each reads what it needs of the earlier ones from the output folder. Killed and started again, it continues from its
last checkpoint in the scratch folder. On several devices or cores, `torchrun --nproc_per_node 2 -m
elbo_core.training.train` (on a CPU with OMP_NUM_THREADS=1) multiplies the batch. `--onward 5000 --models toy-sd35` goes
on with a finished model; `--onward 5000 --models toy-sd14 --start FOLDER` makes it from the pipeline in another folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.families import StableDiffusion, StableDiffusion3, wrap
from elbo_core.paths import MODELS, ROOT
from elbo_core.training import card, siblings, train_clip, train_judge, train_vae, twins
from elbo_core.training.bank import train_from_bank
from elbo_core.training.corpus import (
    COMPOSED_SCENES,
    COMPOSED_SEED,
    COMPOSED_STYLE,
    SHAPE_SCENES,
    SHAPE_SEED,
    SHAPE_STYLE,
    TRAINING_SCENES,
    RenderedScenes,
    TrainingSet,
)
from elbo_core.training.fit import History, TrainingPlan, pick_device
from elbo_core.training.share import part_from, share_parts
from elbo_core.training.train_diffusion import (
    BINDING,
    COMPOSED_PLAN,
    COMPOSING,
    FIRST_PLAN,
    LAST_PLAN,
    NEXT_PLAN,
    Course,
    Reader,
    encode_corpus,
    read_cropped,
    read_unpadded,
    train_diffusion,
)

SEED = 4307
COLOR_SCENES = 8000
Histories = dict[str, History]


@dataclass(frozen=True)
class Workshop:
    """Where the models are made.

    models: the folder of the finished ones. scratch: of checkpoints and caches. steps: train everything for so few.
    scenes: the size of the training set. samples: generated images per class, for the cards. compiled: compile the
    networks before they are trained. start: where a model that goes on starts from, if not from its own folder.
    """

    models: Path
    scratch: Path
    scenes: int
    steps: int | None
    samples: int
    compiled: bool = False
    start: Path | None = None

    @property
    def cache(self) -> Path:
        return self.scratch / "cache"

    def corpus(self) -> TrainingSet:
        with PartialState().main_process_first():
            return TrainingSet(self.cache, self.scenes)

    def shapes(self, count: int = SHAPE_SCENES) -> TrainingSet:
        with PartialState().main_process_first():
            return TrainingSet(self.cache, min(count, self.scenes), SHAPE_STYLE, SHAPE_SEED)

    def composed(self) -> TrainingSet:
        with PartialState().main_process_first():
            return TrainingSet(self.cache, min(COMPOSED_SCENES, self.scenes), COMPOSED_STYLE, COMPOSED_SEED)

    def shown_to(self, name: str) -> RenderedScenes:
        """The scenes that a model learns from."""
        if name == "toy-sd15":
            return self.composed()
        if name not in twins.TWINS:
            return self.corpus()
        with PartialState().main_process_first():
            return twins.twin_set(name, self.cache, min(twins.TWIN_SCENES, self.scenes))

    def checkpoints(self, name: str) -> Path:
        return self.scratch / "checkpoints" / name

    def plan(self, plan: TrainingPlan) -> TrainingPlan:
        return plan if self.steps is None else replace(plan, steps=self.steps)


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    state = PartialState(cpu=not torch.cuda.is_available())
    shop = Workshop(
        options.output, options.scratch, options.scenes, options.steps, options.samples, options.compile, options.start
    )
    histories = {}
    for name in options.models:
        torch.manual_seed(SEED)
        histories[name] = train_on(shop, name, options.onward) if options.onward else TRAINERS[name](shop, name)
    shown = {name: shop.shown_to(name) for name in histories}
    if state.is_main_process:
        share_parts(shop.models)
        for name, history in histories.items():
            card.write_card(shop.models, name, history, shown[name], shop.samples)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=MODELS, help="folder of the finished models")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "training", help="checkpoints and caches")
    parser.add_argument("--models", nargs="+", choices=TRAINERS, default=list(TRAINERS), help="which to train")
    parser.add_argument("--scenes", type=int, default=TRAINING_SCENES, help="size of the training set")
    parser.add_argument("--steps", type=int, help="train every model for so few steps, to try things out")
    parser.add_argument("--onward", type=int, metavar="STEPS", help="go on with the finished models for so many steps")
    parser.add_argument("--start", type=Path, help="with --onward: the pipeline that one model starts from")
    parser.add_argument(
        "--compile", action="store_true", help="compile networks: faster after minutes; asks for a C++ compiler"
    )
    parser.add_argument("--samples", type=int, default=20, help="generated images per class, for the model card")
    options = parser.parse_args(arguments)
    if options.onward and not set(options.models) <= set(LEARNERS):
        parser.error(f"--onward goes with --models and these names: {', '.join(LEARNERS)}")
    if options.start and not (options.onward and len(options.models) == 1):
        parser.error("--start goes with --onward and one model")
    return options


def train_first(shop: Workshop, name: str) -> Histories:
    """The first diffusion model, from nothing: the VAE, then the UNet with its text encoder, which learn to bind words
    to shapes."""
    vae, histories = learn_vae(shop, name, train_vae.build_vae())
    denoiser = wrap(siblings.sd14(vae), name)
    unet = learn(
        shop, denoiser, FIRST_PLAN, "unet", partial(read_cropped, cast(StableDiffusion, denoiser)), ["text_encoder"]
    )
    _save(shop, denoiser)
    return histories | {"unet": unet}


def train_painter(shop: Workshop, name: str) -> Histories:
    """The first that paints what it is told: VAE, UNet and text encoder go on from toy-sd14, all three on scenes in
    which a thing may have any colour.

    Those of toy-sd14 know the usual colours too well: its VAE brings a gray ball back purple, and its text encoder
    hardly tells the second thing of a caption its colour.
    """
    denoiser = wrap(siblings.sd15(shop.models), name)
    histories = learn_colors(shop, name, denoiser.pipeline.vae.to(pick_device()))
    return histories | learn_to_compose(shop, denoiser, COMPOSED_PLAN, ["text_encoder"])


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


def train_judge_model(shop: Workshop, name: str) -> Histories:
    """The network that says what a picture shows; it learns on rendered scenes, some of them through the VAE."""
    vae = AutoencoderKL.from_pretrained(shop.models / "toy-sd14" / "vae")
    with PartialState().main_process_first():
        drawn = train_judge.lessons(shop.cache, min(train_judge.JUDGE_SCENES, shop.scenes))
        decoded = train_judge.decoded_lessons(vae, drawn, shop.cache)
    judge, teach = train_judge.build_judge(), partial(train_judge.train_judge, checkpoints=shop.checkpoints(name))
    histories = {
        stage: teach(judge, drawn, decoded, stage=stage, plan=shop.plan(plan))
        for stage, plan in train_judge.PLANS.items()
    }
    if PartialState().is_main_process:
        judge.save(shop.models / name)
    PartialState().wait_for_everyone()
    return histories


def train_next(build: Callable[[Path], DiffusionPipeline]) -> Trainer:
    """The trainer of a model that starts from an earlier one."""

    def train(shop: Workshop, name: str) -> Histories:
        learner, plan = LEARNERS[name]
        return learner(shop, wrap(build(shop.models), name), plan)

    return train


def train_transformer(shop: Workshop, name: str) -> Histories:
    """The model with a VAE and a network of its own."""
    vae = train_vae.build_shifted_vae()
    siblings.inherit(vae, AutoencoderKL.from_pretrained(shop.models / "toy-sd14" / "vae"))
    vae, histories = learn_vae(shop, name, vae)
    denoiser = wrap(siblings.sd35(shop.models, vae), name)
    return histories | learn_transformer(shop, denoiser, FIRST_PLAN)


def train_twin(shop: Workshop, name: str) -> Histories:
    """A model for the causal test: its UNet from nothing, all else from toy-sd14, on scenes of its own frequencies."""
    denoiser = wrap(twins.start_twin(shop.models, name), name)
    plan, course = twins.twin_plan(name), twins.twin_course(name)
    history = learn_from_bank(shop, denoiser, plan, "unet", course, shop.shown_to(name))
    _save(shop, denoiser)
    return {"unet": history}


def train_on(shop: Workshop, name: str, steps: int) -> Histories:
    """Go on with a finished model, its VAE and the text encoders that it got from earlier ones as they are.

    Scenes, captions and noise are drawn anew, from a seed that nothing earlier had.
    """
    start = shop.start or shop.models / name
    earlier = card.read_histories(start)
    learner, plan = LEARNERS[name]
    seed = SEED + sum(len(history.losses) for history in earlier.values())
    denoiser = wrap(DiffusionPipeline.from_pretrained(start), name)
    added = learner(shop, denoiser, replace(plan, steps=steps, seed=seed))
    return earlier | {f"{stage}-{seed}": history for stage, history in added.items()}


Trainer = Callable[[Workshop, str], Histories]
TRAINERS: dict[str, Trainer] = {
    "toy-sd14": train_first,
    "toy-judge": train_judge_model,
    "toy-clip": train_clip_model,
    "toy-sd15": train_painter,
    "toy-sd2": train_next(siblings.sd2),
    "toy-sd21": train_next(siblings.sd21),
    "toy-sdxl": train_next(siblings.sdxl),
    "toy-sd35": train_transformer,
    **dict.fromkeys(twins.TWINS, train_twin),
}
"""In this order, each needs only earlier ones."""


def learn_unet(shop: Workshop, denoiser: Denoiser, plan: TrainingPlan, text_encoders: Sequence[str] = ()) -> Histories:
    history = learn(shop, denoiser, plan, "unet", denoiser.condition, text_encoders)
    _save(shop, denoiser)
    return {"unet": history}


def learn_to_compose(
    shop: Workshop, denoiser: Denoiser, plan: TrainingPlan, text_encoders: Sequence[str] = ()
) -> Histories:
    """On scenes of several things, in the colours that the caption tells."""
    composed = learn_from_bank(shop, denoiser, plan, "composed", COMPOSING, shop.composed(), text_encoders)
    _save(shop, denoiser)
    return {"composed": composed}


def learn_transformer(shop: Workshop, denoiser: Denoiser, plan: TrainingPlan) -> Histories:
    """First with as few tokens of text as there are, then with the 77 of CLIP and 256 of T5 that the pipeline gives it,
    nearly all of them padding."""
    unpadded, last = (
        partial(read_unpadded, cast(StableDiffusion3, denoiser)),
        replace(LAST_PLAN, seed=plan.seed),
    )
    short = learn(shop, denoiser, plan, "short", unpadded, ["text_encoder_3"])
    padded = learn(shop, denoiser, last, "padded", denoiser.condition, ["text_encoder_3"])
    _save(shop, denoiser)
    return {"short": short, "padded": padded}


Learner = Callable[[Workshop, Denoiser, TrainingPlan], Histories]
LEARNERS: dict[str, tuple[Learner, TrainingPlan]] = {
    "toy-sd14": (partial(learn_unet, text_encoders=["text_encoder"]), NEXT_PLAN),
    "toy-sd15": (partial(learn_to_compose, text_encoders=["text_encoder"]), COMPOSED_PLAN),
    "toy-sd2": (learn_unet, NEXT_PLAN),
    "toy-sd21": (learn_unet, NEXT_PLAN),
    "toy-sdxl": (partial(learn_unet, text_encoders=["text_encoder_2"]), NEXT_PLAN),
    "toy-sd35": (learn_transformer, FIRST_PLAN),
}
"""How a diffusion model learns that has a start, and by which plan."""


def learn_vae(shop: Workshop, name: str, vae: AutoencoderKL) -> tuple[AutoencoderKL, Histories]:
    vae, checkpoints = vae.to(pick_device()), shop.checkpoints(name)
    first = train_vae.train_vae(vae, shop.corpus(), checkpoints, shop.plan(train_vae.PLAN))
    decoder = train_vae.train_decoder(vae, shop.shapes(), checkpoints, shop.plan(train_vae.DECODER_PLAN))
    return vae, {"vae": first, "decoder": decoder}


def learn_colors(shop: Workshop, name: str, vae: AutoencoderKL) -> Histories:
    """A VAE goes on where any thing has any colour."""
    checkpoints, shapes = shop.checkpoints(name), shop.shapes(COLOR_SCENES)
    colors = train_vae.train_vae(vae, shapes, checkpoints, shop.plan(train_vae.COLOR_PLAN), "colors")
    decoder = train_vae.train_decoder(vae, shapes, checkpoints, shop.plan(train_vae.COLOR_DECODER_PLAN))
    return {"colors": colors, "decoder": decoder}


def learn(
    shop: Workshop,
    denoiser: Denoiser,
    plan: TrainingPlan,
    stage: str,
    read: Reader,
    text_encoders: Sequence[str],
    course: Course = BINDING,
    corpus: RenderedScenes | None = None,
) -> History:
    """Train a denoiser's network on captions as `read` reads them, and with it these text encoders of its pipeline."""
    pipeline, corpus = denoiser.pipeline.to(pick_device()), corpus or shop.corpus()
    with PartialState().main_process_first():
        latents = encode_corpus(pipeline.vae, corpus, shop.cache)
    if shop.compiled:
        denoiser.network.compile(dynamic=False)
    encoders = [getattr(pipeline, encoder) for encoder in text_encoders]
    checkpoints = shop.checkpoints(denoiser.name) / f"{stage}-{plan.seed}"
    return train_diffusion(denoiser, latents, corpus.specs, checkpoints, shop.plan(plan), read, encoders, course)


def learn_from_bank(
    shop: Workshop, denoiser: Denoiser, plan: TrainingPlan, stage: str, course: Course, corpus: RenderedScenes,
    text_encoders: Sequence[str] = (),
) -> History:  # fmt: skip
    """As `learn`, for a UNet with one CLIP, from captions that are drawn beforehand."""
    pipeline = denoiser.pipeline.to(pick_device())
    with PartialState().main_process_first():
        latents = encode_corpus(pipeline.vae, corpus, shop.cache)
    encoders = [getattr(pipeline, encoder) for encoder in text_encoders]
    checkpoints = shop.checkpoints(denoiser.name) / f"{stage}-{plan.seed}"
    return train_from_bank(
        cast(StableDiffusion, denoiser), latents, corpus.specs, checkpoints, shop.plan(plan), course, encoders
    )


def _save(shop: Workshop, denoiser: Denoiser) -> None:
    if PartialState().is_main_process:
        save_pipeline(denoiser.pipeline, shop.models / denoiser.name)
    PartialState().wait_for_everyone()


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    clip.half().save_pretrained(folder)
    clip.float()
    tokenizer.save_pretrained(folder)
    train_clip.build_image_processor().save_pretrained(folder)
    _load_in_single_precision(folder / "config.json")


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Half precision on disk, single precision once loaded with plain `from_pretrained`. No other model changes."""
    part_from(folder)
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
    clean = {key: value for key, value in content.items() if key not in TRACES}
    if config.name == "tokenizer.json":
        clean |= {"padding": None, "truncation": None}  # of the last call, too
    if clean != content:
        config.write_text(json.dumps(clean, indent=2, ensure_ascii=False) + "\n")


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
