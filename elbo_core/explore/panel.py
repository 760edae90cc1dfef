"""The explorer as widgets: pick a picture, tick classes, move a slider, click on a pixel."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.experiments.rows import READINGS
from elbo_core.explore.picture import GAP, PANEL, TITLE, alt_text, frame
from elbo_core.explore.view import TIMESTEPS, Settings, Subject, look, look_at
from elbo_core.scene import IGNORED, Scene

CLICK = (
    "const box = this.getBoundingClientRect(), scale = this.naturalWidth / box.width;"
    "const place = [event.clientX - box.left, event.clientY - box.top].map(at => Math.round(at * scale)).join(', ');"
    "const field = this.closest('.elbo-explorer').querySelector('.elbo-clicked input');"
    "field.value = place; field.dispatchEvent(new Event('input', {bubbles: true}));"
    "field.dispatchEvent(new Event('change', {bubbles: true}));"
)
"""ipywidgets has no event for a click on a picture: this writes its place in the PNG into a hidden text field."""


ALL = "all"
"""The value of a control that picks no single timestep or layer."""
SETTINGS = ("reading", "gamma", "threshold", "timestep", "layer", "wipe")
"""The controls whose change asks for another reading only."""


@dataclass
class _Now:
    """What is shown."""

    subject: Subject
    settings: Settings


def explorer(models: list[str], scenes: Mapping[str, Scene], classes: list[str]) -> widgets.Widget:
    """The explorer of some models and pictures by name. classes: that can be ticked; those of a picture are at first.

    Each change asks for one new reading of what was observed; a new picture, model or set of classes asks the model.

    Raises:
        ValueError: there is no model or no picture.
    """
    if not models or not scenes:
        raise ValueError("the explorer needs at least one model and one picture")
    return _Explorer(models, scenes, classes).box


class _Explorer:
    def __init__(self, models: list[str], scenes: Mapping[str, Scene], classes: list[str]) -> None:
        self._scenes, self._classes = dict(scenes), classes
        self._denoisers: dict[str, Denoiser] = {}
        self._controls = _controls(models, list(scenes), classes)
        self._picture = widgets.HTML()
        self._clicked = _hidden_field()
        self._status = widgets.HTML()
        first = self._scenes[next(iter(scenes))]
        self._controls["classes"].value = tuple(name for name in first.classes if name in classes)
        self._now = _Now(self._ask(first), self._settings(_middle(first)))
        self._connect()
        self._show()
        self.box = _layout(self._controls, self._picture, self._clicked, self._status)

    def _connect(self) -> None:
        for name in SETTINGS:
            self._controls[name].observe(self._reread, "value")
        for name in ("picture", "model", "upload"):
            self._controls[name].observe(self._change_picture, "value")
        self._controls["ask"].on_click(self._ask_again)
        self._controls["pixel"].observe(self._type_pixel, "value")
        self._clicked.observe(self._click, "value")

    def _settings(self, pixel: tuple[int, int]) -> Settings:
        value = {name: self._controls[name].value for name in SETTINGS}
        one = {name: None if value[name] == ALL else value[name] for name in ("timestep", "layer")}
        gamma = 1 / value["gamma"]
        return Settings(value["reading"], gamma, value["threshold"], **one, pixel=pixel, wipe=value["wipe"])

    def _ask(self, scene: Scene) -> Subject:
        name = self._controls["model"].value
        self._status.value = f"asking {html.escape(name)} …"
        if name not in self._denoisers:
            self._denoisers[name] = load(name)
        subject = look_at(self._denoisers[name], scene)
        self._controls["layer"].options = [("those of the reading", ALL), *_named(subject)]
        self._status.value = f"{html.escape(name)} has been asked about {html.escape(', '.join(scene.classes))}"
        return subject

    def _change_picture(self, change: dict) -> None:
        """Another picture or model. One of the list brings its own classes, an uploaded one takes those ticked."""
        if change["owner"] is self._controls["picture"]:
            with self._controls["upload"].hold_trait_notifications():
                self._controls["upload"].value = ()
            scene = self._scenes[change["new"]]
            self._controls["classes"].value = tuple(name for name in scene.classes if name in self._classes)
        self._ask_about(())

    def _ask_again(self, _: object) -> None:
        """Other classes: the picture keeps its truth of those that it has."""
        self._ask_about(self._controls["classes"].value)

    def _chosen(self, classes: tuple[str, ...]) -> Scene:
        """The picture with these classes, with its own if there are none.

        Raises:
            OSError, ValueError: the uploaded file is no picture, or no class is ticked for it.
        """
        uploaded = self._controls["upload"].value
        if uploaded:
            picture = Image.open(io.BytesIO(bytes(uploaded[0].content)))
            return Scene.of(picture, classes or self._controls["classes"].value)
        scene = self._scenes[self._controls["picture"].value]
        return with_classes(scene, classes) if classes else scene

    def _ask_about(self, classes: tuple[str, ...]) -> None:
        try:
            scene = self._chosen(classes)
            subject = self._ask(scene)
        except (ValueError, OSError) as error:
            self._status.value = html.escape(str(error))
            return
        self._now = _Now(subject, self._settings(_middle(scene)))
        self._show()

    def _reread(self, _: dict) -> None:
        self._now.settings = self._settings(self._now.settings.pixel)
        self._show()

    def _type_pixel(self, change: dict) -> None:
        self._look_at_pixel(change["new"])

    def _look_at_pixel(self, text: str) -> None:
        height, width = self._now.subject.observation.image_size
        numbers = [part.strip() for part in text.split(",")]
        if len(numbers) != 2 or not all(part.isdecimal() for part in numbers):
            self._status.value = f"a pixel is two whole numbers, as in 40, 60; got {html.escape(text)}"
            return
        x, y = min(int(numbers[0]), width - 1), min(int(numbers[1]), height - 1)
        self._now.settings = replace(self._now.settings, pixel=(x, y))
        self._show()

    def _click(self, change: dict) -> None:
        """A click into any panel stands for the pixel of the picture there."""
        pixel = pixel_at(change["new"], self._now.subject)
        if pixel is not None:
            self._controls["pixel"].value = f"{pixel[0]}, {pixel[1]}"

    def _show(self) -> None:
        subject, settings = self._now.subject, self._now.settings
        seen = look(subject, settings)
        png = base64.b64encode(frame(subject, seen, settings)).decode()
        words = html.escape(alt_text(subject, seen, settings), quote=True)
        self._picture.value = (
            f'<img class="elbo-frame" style="max-width: 100%; cursor: crosshair" alt="{words}" '
            f'src="data:image/png;base64,{png}" onclick="{html.escape(CLICK, quote=True)}">'
        )


def with_classes(scene: Scene, classes: tuple[str, ...]) -> Scene:
    """A scene with other candidate classes; one that is not in the truth gets a label that occurs nowhere."""
    if scene.label_map is None:
        return replace(scene, classes=tuple(classes), caption=None, phrases=())
    known = dict(zip(scene.classes, scene.labels, strict=True))
    free = iter(sorted(set(range(1, IGNORED)) - {int(label) for label in np.unique(scene.label_map)}))
    labels = tuple(known[name] if name in known else next(free) for name in classes)
    return replace(scene, classes=tuple(classes), labels=labels, caption=None, visible=(), phrases=())


def pixel_at(place: str, subject: Subject) -> tuple[int, int] | None:
    """The pixel (x, y) of the picture under a place "x, y" of the PNG, None between the panels."""
    left, top = (int(part) for part in place.split(","))
    height, width = subject.observation.image_size
    across, down = left % (PANEL + GAP), top % (TITLE + PANEL + GAP) - TITLE
    if not (0 <= across < PANEL and 0 <= down < PANEL):
        return None
    return across * width // PANEL, down * height // PANEL


def _middle(scene: Scene) -> tuple[int, int]:
    return scene.image.shape[2] // 2, scene.image.shape[1] // 2


def _named(subject: Subject) -> list[tuple[str, int]]:
    return [(f"{k + 1}: {layer.side} × {layer.side}", k) for k, layer in enumerate(subject.layers)]


def _controls(models: list[str], pictures: list[str], classes: list[str]) -> dict[str, Any]:
    """All controls by name. A slider tells its value when it is let go: a picture for each step between would queue."""
    wide, slow = {"description_width": "84px"}, {"continuous_update": False}
    times = [("mean of 20 to 200", ALL), *((str(time), time) for time in TIMESTEPS)]
    return {
        "picture": widgets.Dropdown(options=pictures, description="picture", style=wide),
        "upload": widgets.FileUpload(accept="image/*", description="or upload one"),
        "model": widgets.Dropdown(options=models, description="model", style=wide),
        "classes": widgets.SelectMultiple(options=classes, rows=9, description="classes", style=wide),
        "ask": widgets.Button(description="ask about these classes", button_style="primary"),
        "reading": widgets.Dropdown(
            options=list(READINGS), value="late layers", description="reading", style=wide
        ),
        "gamma": widgets.FloatSlider(3, min=1, max=8, step=0.5, description="1 / γ", style=wide, **slow),
        "threshold": widgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="threshold", style=wide, **slow),
        "timestep": widgets.SelectionSlider(options=times, description="timestep", style=wide, **slow),
        "layer": widgets.Dropdown(options=[("those of the reading", ALL)], description="layer", style=wide),
        "wipe": widgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="wipe", style=wide, **slow),
        "pixel": widgets.Text(description="pixel x, y", placeholder="40, 60", style=wide, **slow),
    }  # fmt: skip


def _hidden_field() -> widgets.Text:
    """Where a click writes its place."""
    field = widgets.Text(layout=widgets.Layout(display="none"))
    field.add_class("elbo-clicked")
    return field


def _layout(controls: dict, picture: widgets.HTML, clicked: widgets.Text, status: widgets.HTML) -> widgets.VBox:
    columns = [
        widgets.VBox([controls[name] for name in names])
        for names in (
            ("picture", "upload", "model", "reading"),
            ("classes", "ask"),
            ("gamma", "threshold", "timestep", "layer", "wipe", "pixel"),
        )
    ]
    box = widgets.VBox([widgets.HBox(columns, layout=widgets.Layout(flex_flow="row wrap")), status, picture, clicked])
    box.add_class("elbo-explorer")
    return box
