"""A small studio: type a prompt, see it painted without and with a method, and what the judge says of both."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from elbo_core.datasets.phrases import noun_phrases
from elbo_core.datasets.prompts import Prompt
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.generation import Item, describe, generate_items, wanted_of
from elbo_core.generation.attend_excite import AttendAndExcite
from elbo_core.generation.judge import Judge
from elbo_core.generation.method import Baseline, GenerationMethod
from elbo_core.generation.reweight import ScoreReweighting
from elbo_core.generation.syngen import SynGen
from elbo_core.plots import describe as tell
from elbo_core.plots import show_picture

if TYPE_CHECKING:
    import ipywidgets

METHODS = ("reweighting by the score", "Attend-and-Excite", "SynGen")


def method_of(name: str, strength: float) -> GenerationMethod:
    """One of `METHODS`; the strength is that of the reweighting."""
    return {
        METHODS[0]: ScoreReweighting(strength),
        METHODS[1]: AttendAndExcite(),
        METHODS[2]: SynGen(),
    }[name]


def item_of(text: str, seed: int) -> Item:
    """A prompt that somebody typed, with its phrases.

    Raises:
        ValueError: it is blank.
    """
    if not text.strip():
        raise ValueError("the prompt is blank; type what the picture is to show")
    prompt = Prompt(text, tuple(noun_phrases(text)))
    return Item(describe(prompt), wanted_of(prompt), seed)


def before_and_after(
    denoiser: Denoiser, text: str, method: GenerationMethod, seed: int = 0, steps: int = 50, judge: Judge | None = None
) -> Figure:
    """The picture of a prompt without and with a method, from the same noise, each with the judge's verdict.

    Raises:
        ValueError: the prompt is blank, or longer than the text encoder reads.
    """
    item = item_of(text, seed)
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.9))
    told = []
    for axis, own, name in zip(axes, (Baseline(), method), ("without", "with"), strict=True):
        made = generate_items(denoiser, own, [item], steps)
        says = verdict(judge, made.pictures, item) if judge else ""
        changed = "" if made.acts[0] else " (it does nothing for this prompt)"
        show_picture(axis, made.pictures[0], f"{name} the method{changed}\n{says}")
        told.append(f"{name}: {says}")
    figure.suptitle(text, fontsize=11, parse_math=False)
    figure.tight_layout()
    return tell(figure, f"Two pictures of {text!r}. " + "; ".join(told))


def verdict(judge: Judge, pictures, item: Item) -> str:
    """What the judge sees of the wanted things in one picture [1, H, W, 3]."""
    import torch

    if not item.wanted:
        return "nothing that the judge knows"
    seen = judge(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    parts = []
    for color, thing in item.wanted:
        there, right = seen.counts([[(color, thing)]])[0].tolist()
        parts.append(f"{thing} {'✓' if there else '✗'}" + (f" {color} {'✓' if right else '✗'}" if color else ""))
    return ", ".join(parts)


def studio(denoiser: Denoiser, text: str, steps: int = 50) -> ipywidgets.Widget:
    """The studio as a widget; a pair is painted when the button is pressed."""
    import ipywidgets as widgets

    judge = Judge.load()
    prompt = widgets.Text(text, description="prompt", layout={"width": "520px"})
    method = widgets.Dropdown(options=METHODS, description="method")
    strength = widgets.FloatSlider(value=1.2, min=1, max=2, step=0.1, description="strength", continuous_update=False)
    seed = widgets.BoundedIntText(value=0, min=0, max=9999, description="seed")
    button, message, picture = widgets.Button(description="paint"), widgets.Label(), widgets.Image(format="png")

    def paint(_) -> None:
        button.disabled, message.value = True, "painting ..."
        try:
            chosen = method_of(method.value, strength.value)
            picture.value = _png(before_and_after(denoiser, prompt.value, chosen, seed.value, steps, judge))
            message.value = ""
        except ValueError as error:
            message.value = str(error)
        finally:
            button.disabled = False

    button.on_click(paint)
    return widgets.VBox([prompt, widgets.HBox([method, strength]), widgets.HBox([seed, button, message]), picture])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=96)
    plt.close(figure)
    return buffer.getvalue()
