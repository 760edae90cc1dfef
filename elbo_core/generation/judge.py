"""A small network that says what a picture of the embedded world shows: which things, and of which colour.

It is the measure of generated pictures. Trained on rendered scenes (`elbo_core.training.train_judge`), it knows the
exact truth of what it learnt from, and it is asked a harder question than a class name: is *this* thing *that* colour?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from elbo_core.paths import MODELS

JUDGE = MODELS / "toy-judge"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CELL = 8
"""The network looks at a picture in cells of so many pixels a side."""
Wanted = Sequence[tuple[str | None, str]]
"""(colour, thing) pairs that a picture is to show; without a colour, any will do."""


@dataclass(frozen=True)
class JudgeConfig:
    """Names of things and colours in the order of the outputs, and the widths of the network's three sides."""

    things: tuple[str, ...]
    colors: tuple[str, ...]
    widths: tuple[int, int, int] = (32, 64, 128)


class Reading(NamedTuple):
    """Logits. cells [B, 1 + things, h, w], nothing first; present [B, things]; colors [B, things, colors];
    cell_colors [B, colors, h, w]."""

    cells: Tensor
    present: Tensor
    colors: Tensor
    cell_colors: Tensor


class JudgeNetwork(nn.Module):
    """A convolutional network that tells for every cell what lies there, and gathers for every class the features of
    the cells where it seems to be. From those come its presence and its colour, so that a colour belongs to a thing.
    """

    def __init__(self, config: JudgeConfig):
        super().__init__()
        fine, middle, coarse = config.widths
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), _down(12, fine), Residual(fine))
        self.middle = nn.Sequential(_down(fine, middle), Residual(middle), Residual(middle))
        self.coarse = nn.Sequential(_down(middle, coarse), Residual(coarse), Residual(coarse))
        self.join = _convolution(middle + coarse, coarse, 1)
        self.cells = nn.Conv2d(coarse, 1 + len(config.things), 1)
        self.color = nn.Linear(coarse, len(config.colors))
        self.presence = nn.Parameter(torch.zeros(len(config.things), coarse))
        self.bias = nn.Parameter(torch.zeros(len(config.things)))

    def forward(self, images: Tensor) -> Reading:
        """Read images [B, 3, H, W] in [0, 1]; H and W are multiples of 16."""
        middle = self.middle(self.fine(2 * images - 1))
        wide = F.interpolate(self.coarse(middle), scale_factor=2)
        features = self.join(torch.cat([middle, wide], dim=1))
        cells = self.cells(features)
        places = cells[:, 1:].flatten(2).softmax(dim=-1)
        gathered = places @ features.flatten(2).transpose(1, 2)
        present = (gathered * self.presence).sum(dim=-1) + self.bias
        cell_colors = self.color(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return Reading(cells, present, self.color(gathered), cell_colors)


class Residual(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.ReLU())


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return _convolution(inputs, outputs, stride=2)


@dataclass(frozen=True)
class Verdict:
    """What B pictures show.

    present: probabilities [B, things] that a thing is there at all. colors: probabilities [B, things, colors], which
    sum to one for every thing and mean something where it is there. names: of the things and of the colours.
    """

    present: Tensor
    colors: Tensor
    things: tuple[str, ...]
    color_names: tuple[str, ...]

    def there(self, wanted: Sequence[Wanted], threshold: float = 0.5) -> Tensor:
        """For each picture whether all its wanted things are there, whatever their colours; bool [B].

        Raises:
            ValueError: an unknown thing, or not one list of wanted things for each picture.
        """
        return self._all(wanted, lambda row, color, thing: self._is_there(row, thing, threshold))

    def right(self, wanted: Sequence[Wanted], threshold: float = 0.5) -> Tensor:
        """For each picture whether all its wanted things are there, each in its colour; bool [B].

        Raises:
            ValueError: an unknown thing or colour, or not one list of wanted things for each picture.
        """
        return self._all(
            wanted,
            lambda row, color, thing: self._is_there(row, thing, threshold) and self._has_color(row, color, thing),
        )

    def counts(self, wanted: Sequence[Wanted], threshold: float = 0.5) -> Tensor:
        """For each picture how many of its wanted things are there, and how many of them in their colour; int [B, 2].

        Raises:
            ValueError: as `right`.
        """
        self._check(wanted)
        found = [
            [(self._is_there(row, thing, threshold), self._has_color(row, color, thing)) for color, thing in pairs]
            for row, pairs in enumerate(wanted)
        ]
        sums = [[sum(there for there, _ in own), sum(there and right for there, right in own)] for own in found]
        return torch.tensor(sums, dtype=torch.long).reshape(-1, 2)

    def _check(self, wanted: Sequence[Wanted]) -> None:
        if len(wanted) != len(self.present):
            raise ValueError(f"{len(wanted)} lists of wanted things for {len(self.present)} pictures")

    def _all(self, wanted: Sequence[Wanted], holds) -> Tensor:
        self._check(wanted)
        return torch.tensor([all(holds(row, *pair) for pair in pairs) for row, pairs in enumerate(wanted)])

    def _is_there(self, row: int, thing: str, threshold: float) -> bool:
        return self.present[row, _index(self.things, thing)].item() > threshold

    def _has_color(self, row: int, color: str | None, thing: str) -> bool:
        if color is None:
            return True
        seen = self.colors[row, _index(self.things, thing)].argmax().item()
        return seen == _index(self.color_names, color)


def _index(names: tuple[str, ...], name: str) -> int:
    if name not in names:
        raise ValueError(f"the judge does not know {name!r}; it knows: {', '.join(names)}")
    return names.index(name)


class Judge:
    """A trained network and the names of what it knows."""

    def __init__(self, network: JudgeNetwork, config: JudgeConfig):
        self.network = network.eval()
        self.config = config

    @classmethod
    def load(cls, folder: Path = JUDGE) -> Judge:
        """The committed judge, or another from its folder, in single precision.

        Raises:
            FileNotFoundError: there is none; `make models` trains it.
        """
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{folder} holds no judge; `make models` trains it")
        content = json.loads((folder / CONFIG).read_text())
        config = JudgeConfig(**{key: tuple(value) for key, value in content.items()})
        network = JudgeNetwork(config)
        network.load_state_dict({key: value.float() for key, value in load_file(folder / WEIGHTS).items()})
        return cls(network, config)

    def save(self, folder: Path) -> None:
        """Half precision on disk."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file({key: value.half() for key, value in self.network.state_dict().items()}, folder / WEIGHTS)

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 64) -> Verdict:
        """Judge images [B, 3, H, W] in [0, 1]; H and W are multiples of 16."""
        readings = [self.network(part) for part in images.float().split(batch)]
        present = torch.cat([reading.present for reading in readings]).sigmoid()
        colors = torch.cat([reading.colors for reading in readings]).softmax(dim=-1)
        return Verdict(present, colors, self.config.things, self.config.colors)
