"""ELBO-T2IAlign's generation: in every step, the phrases that the picture fits least weigh more in the prompt.

The released code (`run_generation.py:92-161`) asks at each step how far the prediction for each phrase alone is from
that for the whole prompt. The paper says "we follow (4) and (5)", the prediction for the whole prompt being the noise.
At a single timestep both are the same: a weight that all phrases share falls out of the normalisation, and so does the
unit of the prediction. They differ in the expectation over timesteps, which the code leaves out (`over`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbo_core.checks import check_least
from elbo_core.diffusion.denoiser import Conditioning, Denoiser
from elbo_core.diffusion.sampling import Moment, join
from elbo_core.generation.method import Described, GenerationHook, GenerationMethod, Pieces
from elbo_core.generation.weights import token_weights, weigh
from elbo_core.heatmaps import ROUNDING

STRENGTH = 1.2
"""1/gamma of the released code (`configs/run_generation.yaml:4`)."""


@dataclass(frozen=True)
class ScoreReweighting(GenerationMethod):
    """Each phrase weighs strength^e, where e is its distance from the whole prompt, scaled to [0, 1] over the prompt's
    phrases. A prompt with fewer than two phrases, or with phrases that are all as far, is left alone.

    strength: 1/gamma, from 1 on. over: the timesteps of the expectation in eq. (4), weighted by -lambda'; none for the
    current timestep alone, as released. decimals: of the weights, as the released code rounds them.

    Raises:
        TypeError, ValueError: the strength is below 1 or no number.
    """

    strength: float = STRENGTH
    over: tuple[int, ...] = ()
    decimals: int = 2

    def __post_init__(self) -> None:
        check_least(self.strength, "the strength", 1)

    def hook(self, denoiser: Denoiser, prompts: Sequence[Described]) -> Reweighting:
        return Reweighting(self, denoiser, prompts)


@dataclass(frozen=True)
class ConstantWeights(GenerationMethod):
    """Every phrase weighs the same, whatever its score: what the weights do without the score."""

    weight: float

    def __post_init__(self) -> None:
        check_least(self.weight, "the weight", 1)

    def hook(self, denoiser: Denoiser, prompts: Sequence[Described]) -> _Weighing:
        return _Weighing(denoiser, prompts, self.weight)


class _Weighing(GenerationHook):
    """Weighs the phrases of B prompts, each by a constant."""

    def __init__(self, denoiser: Denoiser, prompts: Sequence[Described], constant: float = 1.0, least: int = 1):
        weighted = [prompt.mentions if len(prompt.mentions) >= least else () for prompt in prompts]
        super().__init__([bool(mentions) for mentions in weighted])
        self.text = denoiser.encode_text([prompt.text for prompt in prompts])
        self.empty = denoiser.encode_text([""])
        spans = [[mention.phrase for mention in mentions] for mentions in weighted]
        length = self.text.embeddings.shape[1]
        self.pieces = Pieces.of(denoiser, [prompt.text for prompt in prompts], spans, length)
        self.constant = constant

    def before(self, moment: Moment) -> Moment:
        if not len(self.pieces.picture):
            return moment
        weights = token_weights(self.weights(moment), self.pieces.picture, self.pieces.mask, len(moment.latents))
        return replace(moment, text=weigh(moment.text, self.empty, weights))

    def weights(self, moment: Moment) -> Tensor:
        """Of each of the M phrases."""
        return torch.full((len(self.pieces.picture),), self.constant, dtype=torch.float64)


class Reweighting(_Weighing):
    """The hook of `ScoreReweighting`. history: for each step the weights of the M phrases, for who wants to look."""

    def __init__(self, method: ScoreReweighting, denoiser: Denoiser, prompts: Sequence[Described]):
        super().__init__(denoiser, prompts, least=2)
        self.method = method
        self.history: list[Tensor] = []
        phrases = [phrase for prompt in prompts if len(prompt.mentions) > 1 for phrase in prompt.phrases()]
        self.phrases = denoiser.encode_text(phrases) if phrases else None

    def weights(self, moment: Moment) -> Tensor:
        distances = self._over_time(moment) if self.method.over else self._now(moment)
        exponents = scaled(distances.double().cpu(), self.pieces.picture, len(moment.latents))
        weights = torch.round(self.method.strength**exponents, decimals=self.method.decimals)
        self.history.append(weights)
        return weights

    @torch.no_grad()
    def _now(self, moment: Moment) -> Tensor:
        """Mean squared differences [M] of predictions, in the network's own units, at the current latents."""
        picture = self.pieces.picture
        some = picture.unique()
        rows = torch.cat([some, picture])
        text = join([moment.text[some], self._phrases])
        latents = moment.latents[rows.to(moment.latents.device)]
        whole, alone = moment.denoiser.respond(latents, moment.timesteps[rows], text).split([len(some), len(picture)])
        self._count(rows)
        return _mse(whole[torch.searchsorted(some, picture).to(whole.device)], alone)

    @torch.no_grad()
    def _over_time(self, moment: Moment) -> Tensor:
        """Eq. (4) for each phrase [M]: the picture and the noise that the whole prompt implies now, at all times."""
        denoiser, picture = moment.denoiser, self.pieces.picture
        some = picture.unique()
        latents, now = moment.latents[some.to(moment.latents.device)], moment.timesteps[some]
        clean = denoiser.to_clean(denoiser.respond(latents, now, moment.text[some]), latents, now)
        here = denoiser.schedule.at(now).like(clean)
        epsilon = (latents - here.alpha * clean) / here.sigma
        rows = torch.searchsorted(some, picture).to(clean.device)
        total = torch.zeros(len(picture), dtype=torch.float64)
        for timestep in self.method.over:
            times = torch.full((len(picture),), timestep)
            noisy = denoiser.noise(clean[rows], epsilon[rows], times)
            error = _mse(denoiser.predict(noisy, times, self._phrases), epsilon[rows]).double().cpu()
            total -= 0.5 * denoiser.schedule.at(times).log_snr_slope * error
        self._count(torch.cat([some, picture.repeat(len(self.method.over))]))
        return total / len(self.method.over)

    @property
    def _phrases(self) -> Conditioning:
        if self.phrases is None:
            raise RuntimeError("no prompt has two phrases")
        return self.phrases

    def _count(self, picture: Tensor) -> None:
        self.evaluations += torch.bincount(picture, minlength=len(self.evaluations))


def _mse(one: Tensor, other: Tensor) -> Tensor:
    """The mean squared difference of each sample: [M]."""
    return (one - other).square().flatten(1).mean(dim=1)


def scaled(distances: Tensor, picture: Tensor, count: int) -> Tensor:
    """Distances [M] scaled to [0, 1] over the phrases of each of `count` pictures; where they are all alike, up to
    rounding, 0: the released code would divide zero by zero."""
    low = torch.zeros(count, dtype=distances.dtype).scatter_reduce(0, picture, distances, "amin", include_self=False)
    high = torch.zeros(count, dtype=distances.dtype).scatter_reduce(0, picture, distances, "amax", include_self=False)
    spread = (high - low)[picture]
    varies = spread > ROUNDING * high[picture]
    return torch.where(varies, (distances - low[picture]) / torch.where(varies, spread, 1.0), 0.0)
