"""Model cards: what a toy model was trained on, how long, and what it can do, all of it measured."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from elbo_core.captions import TEMPLATE
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.diffusion.noise import keyed_noise
from elbo_core.generation.judge import Judge
from elbo_core.methods.elbo import weights
from elbo_core.plots import contact_sheet, save_figure, use_style
from elbo_core.toy.describe import attributed_caption
from elbo_core.toy.render import render
from elbo_core.toy.world import THINGS, SceneSpec, SceneStyle, sample_scene
from elbo_core.training import train_judge
from elbo_core.training.composition import COMMON, RARE, SAMPLER, generate
from elbo_core.training.corpus import TRAINING_STYLE, RenderedScenes
from elbo_core.training.fit import History, this_machine
from elbo_core.training.train_clip import classify
from elbo_core.training.train_vae import to_tensor

HELD_OUT_SEED = 63
WORTH_TIMESTEPS = (50, 200, 400, 600, 800, 950)
OBJECTIVES = {
    "epsilon": "the noise, weighted by min(1/alpha^2, 20)",
    "v_prediction": "the velocity, unweighted",
    "flow_prediction": "the rectified flow, unweighted, at timesteps drawn mostly from 100 to 600",
}


def load_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    return CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)


def recognition(
    pipeline: DiffusionPipeline, clip: CLIPModel, tokenizer: CLIPTokenizer, per_class: int = 20
) -> dict[str, float]:
    """For each class, the share of images generated from "a photo of {class}" that the toy CLIP names rightly."""
    names = [name for name in THINGS for _ in range(per_class)]
    images = generate(pipeline, [TEMPLATE.format(name) for name in names])
    guesses = classify(clip, tokenizer, to_tensor(images), THINGS)
    right = Counter(name for name, guess in zip(names, guesses, strict=True) if name == guess)
    return {name: right[name] / per_class for name in THINGS}


def clip_accuracy(clip: CLIPModel, tokenizer: CLIPTokenizer, count: int = 400) -> float:
    """The share of rendered, held-out single-object scenes that the toy CLIP names rightly."""
    style = SceneStyle((1, 1), (14.0, 38.0), class_exponent=0.0, copies_probability=0.0)
    specs = _held_out(style, count)
    guesses = classify(clip, tokenizer, to_tensor(np.stack([render(spec).image for spec in specs])), THINGS)
    return float(np.mean([spec.things[0].name == guess for spec, guess in zip(specs, guesses, strict=True)]))


def _held_out(style: SceneStyle, count: int) -> list[SceneSpec]:
    return [sample_scene(np.random.default_rng([HELD_OUT_SEED, index]), style) for index in range(count)]


def caption_worth(denoiser: Denoiser, count: int = 96) -> dict[str, list[float]]:
    """The velocity loss at `WORTH_TIMESTEPS` on held-out scenes under the right, a wrong and the empty caption.

    The wrong caption is that of the next scene; noise is the same for all three.
    """
    specs = _held_out(TRAINING_STYLE, count)
    captions = [attributed_caption(spec) for spec in specs]
    latents = torch.stack(
        [denoiser.encode_image(torch.from_numpy(render(s).image).permute(2, 0, 1) / 255) for s in specs]
    )
    texts = {"right": captions, "wrong": captions[1:] + captions[:1], "empty": [""] * count}
    embeddings = {kind: denoiser.encode_text(sentences) for kind, sentences in texts.items()}
    return {
        kind: [_velocity_loss(denoiser, latents, text, timestep) for timestep in WORTH_TIMESTEPS]
        for kind, text in embeddings.items()
    }


def _velocity_loss(denoiser: Denoiser, latents: Tensor, text: Tensor, timestep: int) -> float:
    timesteps = torch.full((len(latents),), timestep)
    ids = range(len(latents))
    noise = torch.cat([keyed_noise(latents.shape[1:], 0, str(i), "worth", [timestep]) for i in ids]).to(latents)
    predicted = denoiser.predict(denoiser.noise(latents, noise, timesteps), timesteps, text)
    loss = (predicted - noise).square().mean().cpu()
    return (loss * weights("velocity", denoiser.schedule, torch.tensor([timestep]), loss.view(1, 1))).item()


def write_clip_card(models: Path, histories: dict[str, History], corpus: RenderedScenes) -> None:
    """Measure the saved model and write its card."""
    folder = models / "toy-clip"
    clip, tokenizer = load_clip(folder)
    accuracy = clip_accuracy(clip, tokenizer)
    _save_metrics(folder, {"held_out_accuracy": round(accuracy, 4)} | _facts(histories, corpus))
    _plot_curves(folder, histories)
    text = f"""# toy-clip

A `CLIPModel` ({_millions(clip)}) with its own `CLIPTokenizer` ({len(tokenizer)} tokens, at most 77), for
rendered scenes and their captions. Its text tower is the text encoder of the toy diffusion models, learnt with the
first of them; the vision tower was trained contrastively to agree with it. As a whole it names what a picture shows.

{_training_facts(folder, histories, corpus)}
- Zero-shot accuracy on 400 held-out rendered single-object scenes, all 20 classes equally often: **{accuracy:.1%}**

![loss](training/curve.png)
"""
    (folder / "README.md").write_text(text)


def write_judge_card(models: Path, histories: dict[str, History], scenes: int = train_judge.HELD_OUT_SCENES) -> None:
    """Measure the saved judge on so many scenes that it never saw and write its card."""
    folder = models / "toy-judge"
    judge = Judge.load(folder)
    vae = AutoencoderKL.from_pretrained(models / "toy-sd14" / "vae")
    accuracy = train_judge.held_out_accuracy(judge, vae, scenes)
    _save_metrics(folder, {"accuracy": accuracy, "scenes": train_judge.JUDGE_SCENES} | _course_of(histories))
    _plot_curves(folder, histories)
    (folder / "README.md").write_text(f"""# toy-judge

A convolutional network ({_millions(judge.network)}) that says which of the twenty things a picture of the embedded
world shows, and which of ten colours each has: `elbo_core.generation.judge.Judge.load()`. It is the measure of
generated pictures and no part of our models.

{_lessons_facts(folder, histories)}

Measured on {scenes} other scenes of the same kind. A thing is there when at least half of it is
seen; of what is seen less, nothing is asked.

| pictures | things found | named things that are there | colours right |
|---|---|---|---|
{_accuracy_rows(accuracy)}

![loss](training/curve.png)
""")


def _lessons_facts(folder: Path, histories: dict[str, History]) -> str:
    data = f"""\
- Data: {train_judge.JUDGE_SCENES} rendered scenes of one to three things, all equally often and of any colour, seed
  {train_judge.JUDGE_SEED}; a quarter of the batches come back from the VAE of `toy-sd14`, and in some scenes lies a
  blob that is none of the things; batches of {train_judge.BATCH}"""
    return "\n".join([data, *map(_stage_fact, histories.items()), *_notes(folder)])


def _stage_fact(stage: tuple[str, History]) -> str:
    name, history = stage
    length = f"{len(history.losses)} steps, seed {history.seed}, {history.seconds / 60:.1f} min"
    return f"- {name}: {length} on {history.machine or this_machine()}"


def _accuracy_rows(accuracy: dict[str, dict[str, float]]) -> str:
    return "\n".join(
        f"| {kind} | **{a['found']:.1%}** | {a['true']:.1%} | **{a['color']:.1%}** |" for kind, a in accuracy.items()
    )


def write_diffusion_card(
    models: Path, name: str, histories: dict[str, History], corpus: RenderedScenes, per_class: int = 20
) -> None:
    """Measure the saved model and write its card."""
    folder = models / name
    clip, tokenizer = load_clip(models / "toy-clip")
    denoiser = load(folder, device="cpu")
    shares = recognition(denoiser.pipeline, clip, tokenizer, per_class)
    common, rare = (float(np.mean([shares[c] for c in group])) for group in (COMMON, RARE))
    worth = caption_worth(denoiser)
    metrics = {"recognition_common": common, "recognition_rare": rare, "recognition": shares, "caption_worth": worth}
    _save_metrics(folder, metrics | _facts(histories, corpus))
    _plot_curves(folder, histories)
    _plot_samples(folder, denoiser.pipeline)
    text = f"""# {name}

A `{type(denoiser.pipeline).__name__}` of the embedded world: {_parts(denoiser)}. It is trained by
`make models` on rendered scenes and knows nothing else.

{_training_facts(folder, histories, corpus)}
- Objective: {OBJECTIVES[denoiser.prediction_type]}, 10 % of the captions dropped
- Recognition by the toy CLIP of images generated from "a photo of X" ({SAMPLER["num_inference_steps"]} steps, guidance
  {SAMPLER["guidance_scale"]:g}, {per_class} images a class, 20 possible answers): **{common:.1%}** for the ten most
  frequent classes, {rare:.1%} for the ten rarest

| class | share of training objects | recognised |
|---|---|---|
{_class_rows(shares, corpus)}

What a caption is worth: the velocity loss on 96 held-out scenes under the right caption, that of another scene, none.

| timestep | right | wrong | empty |
|---|---|---|---|
{_worth_rows(worth)}

![samples](training/samples.png)
![loss](training/curve.png)
"""
    (folder / "README.md").write_text(text)


def read_histories(folder: Path) -> dict[str, History]:
    """By stage, the trainings that a model's card tells of, in their order."""
    stages = json.loads((folder / "metrics.json").read_text())["steps"]
    return {stage: History.load(_losses_file(folder, stage)) for stage in stages}


def _losses_file(folder: Path, stage: str) -> Path:
    return folder / "training" / f"{stage}_losses.json"


def write_card(
    models: Path, name: str, histories: dict[str, History], corpus: RenderedScenes, per_class: int = 20
) -> None:
    """The card of the toy CLIP, of the judge or of a diffusion model."""
    if name == "toy-clip":
        write_clip_card(models, histories, corpus)
    elif name == "toy-judge":
        write_judge_card(models, histories, min(train_judge.HELD_OUT_SCENES, len(corpus.specs)))
    else:
        write_diffusion_card(models, name, histories, corpus, per_class)


def _parts(denoiser: Denoiser) -> str:
    """Its networks and their sizes."""
    networks = {name: part for name, part in denoiser.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return ", ".join(f"`{name}` {_millions(part)}" for name, part in networks.items())


def class_frequencies(corpus: RenderedScenes) -> dict[str, float]:
    """The share of each class among all (scene, class) pairs of the training set."""
    counts = Counter(name for spec in corpus.specs for name in {thing.name for thing in spec.things})
    return {name: counts[name] / counts.total() for name in THINGS}


def _class_rows(shares: dict[str, float], corpus: RenderedScenes) -> str:
    frequency = class_frequencies(corpus)
    return "\n".join(f"| {name} | {frequency[name]:.1%} | {shares[name]:.0%} |" for name in THINGS)


def _worth_rows(worth: dict[str, list[float]]) -> str:
    columns = zip(WORTH_TIMESTEPS, worth["right"], worth["wrong"], worth["empty"], strict=True)
    return "\n".join(f"| {t} | {a:.4f} | {b:.4f} | {c:.4f} |" for t, a, b, c in columns)


def _facts(histories: dict[str, History], corpus: RenderedScenes) -> dict:
    return {
        "training_scenes": len(corpus.specs),
        "training_seed": corpus.seed,
        "class_frequencies": {name: round(share, 5) for name, share in class_frequencies(corpus).items()},
    } | _course_of(histories)


def _course_of(histories: dict[str, History]) -> dict:
    return {
        "steps": {name: len(history.losses) for name, history in histories.items()},
        "seconds": {name: round(history.seconds) for name, history in histories.items()},
    }


def _training_facts(folder: Path, histories: dict[str, History], corpus: RenderedScenes) -> str:
    """The stages, and what `training/notes.md` says was particular about them."""
    lines = [f"- Data: {len(corpus.specs)} rendered scenes, seed {corpus.seed}, {corpus.frequencies} class frequencies"]
    lines += map(_stage_fact, histories.items())
    return "\n".join([*lines, *_notes(folder)])


def _notes(folder: Path) -> list[str]:
    notes = folder / "training" / "notes.md"
    return [notes.read_text().strip()] if notes.exists() else []


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"


def _save_metrics(folder: Path, metrics: dict) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def _plot_curves(folder: Path, histories: dict[str, History], window: int = 50) -> None:
    use_style()
    rows, columns = math.ceil(len(histories) / 4), min(4, len(histories))
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.7 * rows), squeeze=False, layout="constrained")
    for spare in axes.flat[len(histories) :]:
        spare.set_axis_off()
    for axis, (name, history) in zip(axes.flat, histories.items(), strict=False):
        means = history.windowed(window)
        history.save(_losses_file(folder, name), window)
        axis.plot(window * np.arange(1, len(means) + 1), means)
        axis.set(xlabel="step", ylabel="training loss", title=name, yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    save_figure(figure, folder / "training" / "curve", ["png"])
    plt.close(figure)


def _plot_samples(folder: Path, pipeline: DiffusionPipeline) -> None:
    """A sample of every class, then twenty of captions of held-out scenes."""
    prompts = [TEMPLATE.format(name) for name in THINGS]
    scenes = [attributed_caption(spec) for spec in _held_out(SceneStyle((1, 3), (14.0, 38.0)), 20)]
    images = generate(pipeline, prompts + scenes, seed=1000)
    figure = contact_sheet(list(images), columns=8, titles=prompts + scenes)
    save_figure(figure, folder / "training" / "samples", ["png"])
    plt.close(figure)
