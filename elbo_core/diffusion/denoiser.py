"""One diffusers pipeline behind four verbs: `encode_image`, `encode_text`, `noise`, `predict`.

Here is what all pipelines share; `families.py` adds what each does in its own way. Nothing above these two modules asks
which family a model belongs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elbo_core.captions import Caption, token_columns
from elbo_core.diffusion.attention import AttentionTap, Call, Operators
from elbo_core.diffusion.objectives import conversion
from elbo_core.diffusion.schedule import NoiseSchedule
from elbo_core.errors import ModelOutputError
from elbo_core.images import to_network_range

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Conditioning:
    """What a network is told about N texts: embeddings [N, L, d]; where a family has them, a pooled vector [N, p] and a
    mask [N, L] of the tokens that count."""

    embeddings: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, index: Tensor) -> Conditioning:
        """The texts at the positions `index` [B], each as often as it is named."""
        parts = (self.embeddings, self.pooled, self.mask)
        return Conditioning(*(None if part is None else part[index.to(part.device)] for part in parts))


@dataclass(frozen=True)
class TextPart:
    """A run of text columns in the attention: from column `first`, what `tokenizer` makes of the text, `limit` tokens
    at most."""

    tokenizer: PreTrainedTokenizerBase
    first: int
    limit: int

    def fits(self, text: str) -> bool:
        return len(self.tokenizer(text, verbose=False).input_ids) <= self.limit

    def columns(self, caption: Caption) -> tuple[tuple[int, ...], ...]:
        """For each class of a caption, its columns.

        Raises:
            ValueError: see `token_columns`.
        """
        found = token_columns(caption, self.tokenizer)
        return tuple(tuple(self.first + position for position in found[name]) for name in caption.classes)


class Denoiser(ABC):
    """A text-to-image pipeline, ready to be asked.

    Attributes:
        image_size: the side R of the square images that the model works on, in pixels.
        schedule: its noise schedule.
        prediction_type: what the network predicts, in diffusers' terms (`objectives.TO_EPSILON`).
        network: the network that predicts, for `AttentionTap`.
        parts: by name, the text columns of its attention; the first is the one that the released code reads.
    """

    network: nn.Module
    parts: dict[str, TextPart]

    def __init__(self, pipeline: DiffusionPipeline, name: str):
        self.name = name
        self.pipeline = pipeline
        self.network = self._network().eval()
        self.image_size = self._image_size()
        self.schedule = NoiseSchedule.of(pipeline.scheduler, self._image_tokens())
        self.prediction_type = self._prediction_type()
        self.to_epsilon = conversion(self.prediction_type)
        self.parts = self._parts()
        if pipeline.vae.eval().dtype != torch.float32:
            pipeline.vae.to(torch.float32)  # half precision overflows in the decoder

    @abstractmethod
    def _network(self) -> nn.Module: ...

    @abstractmethod
    def _parts(self) -> dict[str, TextPart]: ...

    @abstractmethod
    def condition(self, texts: list[str]) -> Conditioning:
        """What the network is told of texts that fit, with gradients."""

    @abstractmethod
    def output(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The network's own output [B, C, h, w], with gradients, for `noisy` in its dtype at integer timesteps [B]."""

    @abstractmethod
    def _operators(self, calls: Sequence[Call]) -> Operators: ...

    def _prediction_type(self) -> str:
        return self.pipeline.scheduler.config.prediction_type

    def _image_size(self) -> int:
        return self.pipeline.vae.config.sample_size

    def _image_tokens(self) -> int | None:
        """The number of image tokens, where the noise schedule depends on it."""
        return None

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """An image [3, H, W] in [0, 1] of any size -> its latents [C, R/8, R/8] in float32, the posterior mean.

        The image is squashed to R x R, as the released code does (`utils/diffusion.py:112-124`).
        """
        vae = self.pipeline.vae
        pixels = to_network_range(image, self.image_size).to(self.device)
        mean = vae.encode(pixels[None]).latent_dist.mean[0]
        return (mean - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor

    def fits(self, text: str) -> bool:
        """Whether every text encoder can read all of `text`."""
        return all(part.fits(text) for part in self._readers())

    def _readers(self) -> Sequence[TextPart]:
        """All that read the text, also those whose columns the attention does not see."""
        return tuple(self.parts.values())

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        """Texts -> what the network is told of them.

        Raises:
            ValueError: a text is longer than an encoder can read; it is never truncated silently.
        """
        for text in texts:
            if not self.fits(text):
                limit = min(part.limit for part in self._readers() if not part.fits(text))
                raise ValueError(f"the text encoder reads {limit} tokens; shorten or split {text!r}")
        return self.condition(list(texts))

    def columns(self, caption: Caption) -> dict[str, tuple[tuple[int, ...], ...]]:
        """By text part, the columns of each class of a caption that fits."""
        return {name: part.columns(caption) for name, part in self.parts.items()}

    def noise(self, latents: Tensor, epsilon: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = alpha x + sigma epsilon for latents and noise [B, C, h, w] at integer timesteps [B]."""
        path = self.schedule.at(timesteps).like(latents)
        return path.alpha * latents + path.sigma * epsilon

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The noise estimate, float32 [B, C, h, w], without guidance, whatever the network was trained to predict.

        Raises:
            ModelOutputError: the network returned NaN or infinity.
        """
        output = self.output(noisy.to(self.dtype), timesteps.to(self.device), text).float()
        if not output.isfinite().all():
            broken = timesteps[~output.isfinite().flatten(1).all(dim=1).cpu()]
            raise ModelOutputError(f"{self.name} returned NaN or infinity at timesteps {broken.unique().tolist()}")
        return self.to_epsilon(output, noisy, self.schedule.at(timesteps).like(noisy))

    def attend(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Operators:
        """The attention operators of one forward pass, one entry per sample of the batch."""
        with AttentionTap(self.network) as tap:
            self.predict(noisy, timesteps, text)
        return self._operators(tap.calls)
