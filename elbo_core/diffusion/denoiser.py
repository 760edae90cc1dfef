"""One diffusers pipeline behind four verbs: `encode_image`, `encode_text`, `noise`, `predict`.

Here is what all pipelines share; `families.py` adds what each does in its own way. Nothing above these two modules asks
which family a model belongs to.
"""

from __future__ import annotations

import functools
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate

import torch
from torch import Tensor, nn

from elbo_core.captions import Caption
from elbo_core.diffusion.attention import AttentionTap, Call, Operators, Replacement
from elbo_core.diffusion.objectives import TO_CLEAN, conversion
from elbo_core.diffusion.precision import Arguments, Result, whole_precision
from elbo_core.diffusion.registry import REGISTRY
from elbo_core.diffusion.schedule import FLOW, NoiseSchedule, PathPoint, RectifiedFlow, VariancePreserving
from elbo_core.diffusion.text import Listener, TextPart
from elbo_core.diffusion.trial import Trial
from elbo_core.errors import ModelOutputError, ScheduleError, UnsupportedModelError
from elbo_core.images import to_network_range

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


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

    def to(self, dtype: torch.dtype) -> Conditioning:
        """The same with embeddings and vector in the precision `dtype`."""
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return Conditioning(self.embeddings.to(dtype), pooled, self.mask)


_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
"""One for each network, however many denoisers share it: hooks and tokenizers serve one thread at a time."""


def _alone(
    verb: Callable[Concatenate[Denoiser, Arguments], Result],
) -> Callable[Concatenate[Denoiser, Arguments], Result]:
    """The verb for one thread at a time, and in the model's own precision whatever autocast surrounds it."""

    @functools.wraps(verb)
    @whole_precision
    def alone(self: Denoiser, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _LOCKS.setdefault(self.network, threading.RLock()):
            return verb(self, *args, **kwargs)

    return alone


@dataclass(frozen=True)
class _Noising:
    """What a scheduler says of the model when it has this `state`. of: what the state names by identity."""

    state: tuple
    of: tuple
    schedule: NoiseSchedule
    prediction_type: str
    to_epsilon: Callable[[Tensor, Tensor, PathPoint], Tensor]
    trial: Trial = field(default_factory=Trial)


class Denoiser(ABC):
    """A text-to-image pipeline, ready to be asked, as it is at present. Threads that share a model take turns.

    Attributes:
        image_size: the side R of the square images that the network works on, in pixels.
        schedule: its noise schedule.
        prediction_type: what the network predicts, in diffusers' terms (`objectives.TO_EPSILON`).
        network: the network that predicts, for `AttentionTap`.
        parts: by name, the text columns of its attention; the first is the one that the released code reads.

    Raises:
        UnsupportedModelError: the pipeline lacks a part, or holds one that is not supported.
        ScheduleError: its scheduler contradicts itself or the network.
        ValueError: it predicts something unknown.
    """

    needs: tuple[str, ...]
    """The parts of the pipeline that must be there."""
    processor: type
    """The attention processor of all its layers: one call each through the fused function."""
    kind: type[NoiseSchedule] = VariancePreserving
    guidance_scale: float = 7.5
    """Of classifier-free guidance where nothing else is said, as in the released code."""

    def __init__(self, pipeline: DiffusionPipeline, name: str):
        self.name = name
        self.pipeline = pipeline
        lacking = [part for part in self.needs if getattr(pipeline, part, None) is None]
        if lacking:
            raise UnsupportedModelError(f"{name} lacks its {', '.join(lacking)}")
        self._noising: _Noising | None = None
        self.network.eval()
        self._refuse_adapters()
        self._whole_vae()
        _ = self.image_size, self.parts, self.schedule  # what does not fit is refused at once

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

    @property
    def network(self) -> nn.Module:
        return self._network()

    @property
    def parts(self) -> dict[str, TextPart]:
        return self._parts()

    @property
    def image_size(self) -> int:
        return self._image_size()

    def _refuse_adapters(self) -> None:
        kinds = {type(processor).__name__ for processor in self.network.attn_processors.values()}
        adapters = sorted(kind for kind in kinds if "IPAdapter" in kind)
        if adapters:
            raise UnsupportedModelError(
                f"{self.name} has an IP-Adapter ({adapters[0]}), which shows the network a picture beside the text; "
                "call pipeline.unload_ip_adapter() first"
            )

    def _image_size(self) -> int:
        """That of the network. A VAE that speaks of another is one exchanged, or its config is wrong."""
        vae, side = self.pipeline.vae, self.network.config.get("sample_size")
        size = vae.config.get("sample_size") if side is None else side
        if not isinstance(size, int):
            raise UnsupportedModelError(
                f"{self.name} works on pictures of the size {size!r}; only squares are supported"
            )
        size = size if side is None else size * self.pipeline.vae_scale_factor
        if vae.config.get("sample_size") not in (None, size) and self.name not in REGISTRY:
            raise UnsupportedModelError(
                f"the network of {self.name} works on pictures of {size} pixels, its VAE's config says "
                f"{vae.config.sample_size}; if it is meant, call pipeline.vae.register_to_config(sample_size={size})"
            )
        return size

    def _whole_vae(self) -> nn.Module:
        """The VAE in full precision, whatever was done to the pipeline: half precision overflows in it."""
        vae = self.pipeline.vae.eval()
        return vae if vae.dtype == torch.float32 else vae.to(torch.float32)

    def _image_tokens(self) -> int | None:
        """The number of image tokens, where the noise schedule depends on it."""
        return None

    def _latent_channels(self) -> int:
        return self.network.config.in_channels

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def schedule(self) -> NoiseSchedule:
        return self._follow_scheduler().schedule

    @property
    def prediction_type(self) -> str:
        return self._follow_scheduler().prediction_type

    def _follow_scheduler(self) -> _Noising:
        """What the present scheduler says; it is read again when it was exchanged or changed."""
        scheduler = self.pipeline.scheduler
        named = (scheduler, getattr(scheduler, "alphas_cumprod", None))
        state = (*map(id, named), getattr(scheduler, "shift", None), getattr(scheduler, "config", None))
        if self._noising is None or self._noising.state != state:
            schedule = NoiseSchedule.of(scheduler, self._image_tokens())
            if not isinstance(schedule, self.kind):
                raise ScheduleError(
                    f"{self.name} is a model of {self.kind.__name__}, but its {type(scheduler).__name__} is for "
                    f"{type(schedule).__name__}"
                )
            prediction = FLOW if self.kind is RectifiedFlow else scheduler.config.prediction_type
            self._noising = _Noising(state, named, schedule, prediction, conversion(prediction))
        return self._noising

    @_alone
    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """An image [3, H, W] in [0, 1] of any size -> its latents [C, R/8, R/8] in float32, the posterior mean.

        The image is squashed to R x R, as the released code does (`utils/diffusion.py:112-124`). The first time, the
        network is tried on it, and a warning given if it seems to predict something else than its scheduler says.

        Raises:
            UnsupportedModelError: the VAE's latents are not those of the network.
            ModelOutputError: the VAE returned NaN or infinity.
        """
        vae = self._whole_vae()
        pixels = to_network_range(image, self.image_size).to(self.device, torch.float32)
        mean = self._checked_latents(vae.encode(pixels[None]))
        latents = (mean - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor
        self._try_prediction(latents)
        return latents

    def _checked_latents(self, encoded: object) -> Tensor:
        """The latents [C, h, w] of what a VAE returned: the posterior mean or, of one without a posterior, its code."""
        vae = self.pipeline.vae
        posterior = getattr(encoded, "latent_dist", None)
        mean = getattr(encoded, "latents", None) if posterior is None else posterior.mean
        wanted = (1, *self.latent_shape)
        if mean is None or mean.shape != wanted:
            found = "none" if mean is None else tuple(mean.shape)
            raise UnsupportedModelError(
                f"the network of {self.name} wants latents {wanted}, {type(vae).__name__} has {found}"
            )
        if vae.config.get("scaling_factor") is None or vae.config.get("latents_mean") is not None:
            raise UnsupportedModelError(f"{type(vae).__name__} of {self.name} does not scale its latents by one factor")
        if not mean.isfinite().all():
            raise ModelOutputError(f"the VAE of {self.name} returned NaN or infinity")
        return mean[0]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture."""
        side = self.image_size // self.pipeline.vae_scale_factor
        return self._latent_channels(), side, side

    @_alone
    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> their pictures [B, 3, R, R] in [0, 1], float32, one at a time as memory is short.

        Raises:
            ModelOutputError: the VAE returned NaN or infinity.
        """
        vae = self._whole_vae()
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scaled = latents.to(self.device, torch.float32) / vae.config.scaling_factor + shift
        pictures = torch.cat([vae.decode(one, return_dict=False)[0] for one in scaled.split(1)])
        if not pictures.isfinite().all():
            raise ModelOutputError(f"the VAE of {self.name} returned NaN or infinity")
        return (pictures / 2 + 0.5).clamp(0, 1)

    def _try_prediction(self, latents: Tensor) -> None:
        noising = self._follow_scheduler()
        if self.kind is not VariancePreserving:
            return

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            text = self.condition([""]).to(self.dtype)
            return self._run(noisy.to(self.dtype), timestep.to(self.device), text).float()

        noising.trial.on(latents, noising.prediction_type, noising.schedule, predict, self.name)

    @_alone
    def fits(self, text: str) -> bool:
        """Whether every text encoder can read all of `text`.

        Raises:
            ValueError: it holds a special token of a text encoder.
        """
        return all(part.fits(text) for part in self._readers())

    def _beside(self) -> Sequence[TextPart]:
        """Readers whose output stands beside that of the first part, column by column."""
        return ()

    def _readers(self) -> Sequence[TextPart]:
        """All that read the text, also those whose columns the attention does not see."""
        return (*self.parts.values(), *self._beside())

    @_alone
    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        """Texts -> what the network is told of them.

        Raises:
            ValueError: a text is longer than an encoder can read (it is never truncated silently), holds a special
                token, or is read otherwise than it is counted.
        """
        for text in texts:
            if not self.fits(text):
                limit = min(part.limit for part in self._readers() if not part.fits(text))
                raise ValueError(f"the text encoder reads {limit} tokens; shorten or split {text!r}")
        with Listener(self._readers()) as listener:
            conditioning = self.condition(list(texts))
        listener.check(texts)
        return conditioning

    @_alone
    def columns(self, caption: Caption) -> dict[str, tuple[tuple[int, ...], ...]]:
        """By text part, the columns of each class of a caption that fits.

        Raises:
            ValueError: a class has no token, no encoder knows it, or encoders side by side cut the text differently.
        """
        columns = {name: part.columns(caption) for name, part in self.parts.items()}
        if any(part.columns(caption) != next(iter(columns.values())) for part in self._beside()):
            raise ValueError(f"the text encoders of {self.name} cut {caption.text!r} differently, side by side")
        unknown = set.intersection(*(part.unknown(caption) for part in self.parts.values()))
        if unknown:
            raise ValueError(f"the text encoder knows no part of {', '.join(map(repr, sorted(unknown)))}")
        return columns

    @_alone
    def extents(self, text: str) -> dict[str, range]:
        """By text part, the columns of all that its tokenizer makes of a text, with what marks its start and end and
        without padding."""
        return {name: range(part.first, part.first + len(part.tokens(text))) for name, part in self.parts.items()}

    @_alone
    @torch.no_grad()
    def token_features(self, caption: Caption) -> dict[str, Tensor]:
        """For each class of several tokens, what the first text encoder makes of each of them alone, pooled: [n, p].

        Classes of one token are left out, and all where the encoder has no pooled output, as T5.
        """
        part = next(iter(self.parts.values()))
        ids, columns = part.tokens(caption.text), self.columns(caption)
        own = zip(caption.classes, next(iter(columns.values())), strict=True)
        several = {name: [ids[column - part.first] for column in places] for name, places in own if len(places) > 1}
        features = {name: part.pooled(tokens) for name, tokens in several.items()}
        return {name: values for name, values in features.items() if values is not None}

    def noise(self, latents: Tensor, epsilon: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = alpha x + sigma epsilon for latents and noise [B, C, h, w] at integer timesteps [B]."""
        path = self.schedule.at(timesteps).like(latents)
        return path.alpha * latents + path.sigma * epsilon

    @_alone
    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The noise estimate, float32 [B, C, h, w], without guidance, whatever the network was trained to predict.

        Raises:
            ModelOutputError: the network returned NaN or infinity.
            UnsupportedModelError: it failed, and some of its attention layers are not its own.
            ScheduleError: the scheduler is not one for this model.
        """
        return self.to_epsilon(self.respond(noisy, timesteps, text), noisy, timesteps)

    def to_epsilon(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The noise estimate that the network's own output [B, C, h, w] amounts to at `timesteps` [B] or [1]."""
        noising = self._follow_scheduler()
        return noising.to_epsilon(output, noisy, noising.schedule.at(timesteps).like(noisy))

    def to_clean(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that the network's own output [B, C, h, w] amounts to at `timesteps` [B] or [1]."""
        noising = self._follow_scheduler()
        return TO_CLEAN[noising.prediction_type](output, noisy, noising.schedule.at(timesteps).like(noisy))

    @_alone
    def respond(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The network's own output in float32 [B, C, h, w], with gradients where they are enabled.

        Raises:
            ModelOutputError, UnsupportedModelError, ScheduleError: as `predict`.
        """
        self._follow_scheduler()  # one that does not fit is refused before the network runs
        output = self._run(noisy.to(self.dtype), timesteps.to(self.device), text.to(self.dtype)).float()
        if not output.isfinite().all():
            broken = timesteps[~output.isfinite().flatten(1).all(dim=1).cpu()]
            raise ModelOutputError(f"{self.name} returned NaN or infinity at timesteps {broken.unique().tolist()}")
        return output

    @_alone
    def respond_and_attend(
        self, noisy: Tensor, timesteps: Tensor, text: Conditioning, replace: Replacement | None = None
    ) -> tuple[Tensor, Operators]:
        """The network's own output as `respond` gives it, and its attention, both with gradients where they are
        enabled. replace: see `AttentionTap`; the attention is that before it is replaced.

        Raises:
            ModelOutputError: the network returned NaN or infinity.
            UnsupportedModelError: some layers do not use the fused function (see `AttentionTap`).
        """
        gradients = torch.is_grad_enabled()
        with AttentionTap(self.network, gradients=gradients, replace=replace, remedy=self._remedy()) as tap:
            output = self.respond(noisy, timesteps, text)
        return output, self._operators(tap.calls)

    def _run(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        try:
            return self.output(noisy, timesteps, text)
        except (TypeError, AttributeError, ValueError, RuntimeError) as error:
            foreign = {
                name.removesuffix(".processor"): type(processor).__name__
                for name, processor in self.network.attn_processors.items()
                if type(processor) is not self.processor
            }
            if not foreign or isinstance(error, torch.OutOfMemoryError | UnsupportedModelError):
                raise
            self._refuse_adapters()
            found = ", ".join(f"{name} ({kind})" for name, kind in foreign.items())
            raise UnsupportedModelError(
                f"the network failed ({error}), and these attention layers are not its own: {found}; call "
                f"{self._remedy()} first"
            ) from error

    def _remedy(self) -> str:
        """What makes every attention layer of the network use the fused function again."""
        return f"denoiser.network.set_attn_processor({self.processor.__module__}.{self.processor.__name__}())"

    @_alone
    @torch.no_grad()
    def attend(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Operators:
        """The attention operators of one forward pass, one entry per sample of the batch.

        Raises:
            UnsupportedModelError: some layers do not use the fused function (see `AttentionTap`).
        """
        return self.respond_and_attend(noisy, timesteps, text)[1]
