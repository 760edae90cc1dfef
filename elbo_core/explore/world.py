"""The model's heatmap in a scene of our own making: an object grows, or another one moves in front of it."""

from __future__ import annotations

import base64
import html
import io

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.rows import LATE_LAYERS
from elbo_core.explore.picture import heat
from elbo_core.methods.align import align
from elbo_core.methods.observe import observe
from elbo_core.methods.plan import Plan
from elbo_core.scene import Scene
from elbo_core.toy.render import Rendering, render
from elbo_core.toy.world import SceneSpec, Thing

PLAN = Plan.of(elbo_timesteps=(), attention_timesteps=(100,))
"""One pass of the network, so that the heatmap follows the slider."""
SIDE = 256


def hidden_fish(radius: float, covered: float, seed: int = 7) -> Rendering:
    """A fish of some radius in pixels; a ball of two thirds its size comes in front of it, from far off (covered 0) to
    its middle (covered 1).

    Raises:
        ValueError: covered is not in [0, 1].
    """
    if not 0 <= covered <= 1:
        raise ValueError(f"covered must lie in [0, 1], got {covered}")
    fish = Thing("fish", "orange", "striped", 52, 64, radius)
    ball = Thing("ball", "red", "striped", round(52 + (1 - covered) * 1.9 * radius), 64, 0.66 * radius)
    return render(SceneSpec((fish, ball), ("sand",), 0.5, seed))


def world_frame(denoiser: Denoiser, radius: float, covered: float) -> bytes:
    """A PNG: the scene, and where the model sees the fish and the ball, calibration off."""
    rendering = hidden_fish(radius, covered)
    scene = Scene.of(rendering.image, ["fish", "ball"])
    heatmaps = align(observe(denoiser, scene, PLAN), LATE_LAYERS.off())
    shown = rendering.visible[0]
    panels = [(f"fish: radius {radius:.0f}, {shown:.0%} visible", rendering.image)]
    panels += [
        (f"heatmap of {name}", heat(values)) for name, values in zip(scene.classes, heatmaps.values, strict=True)
    ]
    return _side_by_side(panels)


def _side_by_side(panels: list[tuple[str, np.ndarray]]) -> bytes:
    whole = Image.new("RGB", (len(panels) * (SIDE + 8), SIDE + 20), "white")
    draw = ImageDraw.Draw(whole)
    for k, (title, picture) in enumerate(panels):
        draw.text((k * (SIDE + 8), 2), title, fill="black", font_size=13)
        whole.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST), (k * (SIDE + 8), 20))
    packed = io.BytesIO()
    whole.save(packed, "PNG")
    return packed.getvalue()


def world_sliders(denoiser: Denoiser) -> widgets.Widget:
    """Two sliders, for size and occlusion, above the frame that they ask for when they are let go."""
    radius = widgets.IntSlider(30, min=8, max=44, description="radius", continuous_update=False)
    covered = widgets.FloatSlider(0, min=0, max=1, step=0.1, description="covered", continuous_update=False)
    picture = widgets.HTML()

    def show(_: object = None) -> None:
        png = base64.b64encode(world_frame(denoiser, radius.value, covered.value)).decode()
        words = html.escape(f"A fish of radius {radius.value} behind a ball, and the model's heatmaps of both")
        picture.value = f'<img alt="{words}" style="max-width: 100%" src="data:image/png;base64,{png}">'

    for slider in (radius, covered):
        slider.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox([radius, covered], layout=widgets.Layout(flex_flow="row wrap")), picture])
