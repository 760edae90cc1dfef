"""Pixel-wise evidence: the evaluations behind the paper's score, read in every latent pixel instead of summed.

The score compares losses, means over all pixels. Yet each pixel has a likelihood of its own. For a caption c let
z_t = alpha x + sigma eps and e(c) = eps_hat(z_t, t, c) - eps, the error of the noise estimate, [C, h, w]. The I-MMSE
relation (Guo, Shamai and Verdu 2005; `diffusion.exact`) says, up to terms at both ends of the path that do not depend
on the caption once the ends are far enough,

    -log p(x | c) = 1/2 E_t,eps[-lambda'(t) |e(c)|^2] + const,

and |e(c)|^2 is a sum over pixels k. With and without a class i the integrands differ by

    E_i(k) = E_t,eps[w(t) (|e(c without i)_k|^2 - |e(c)_k|^2)]        mean over the C channels, [N, h, w],

the pixel's share of the log likelihood ratio of the caption with and without the class: positive where the picture is
explained better with it. With w = -lambda'/2 (the estimator "elbo") C * E_i(k) is in nats; where pixels are
independent it is exactly log p(x_k | c) - log p(x_k | c without i), otherwise the shares still sum to the ratio of the
whole picture. The mean of E_i over pixels is the difference of the two losses of which `elbo` makes the score, with the
same noise. Like there, other weights rank better: the literal one sits on the first instants. Both are tested: the sum
against the losses to 1e-6, the shares against a picture of independent pixels whose likelihood is known, within the
estimate's own error.

Words. A class is left out by its spans (`captions.without`), so a caption of one's own keeps its grammar as far as can
be, and all mentions of a class go together. One class alone is compared with "a photo". A caption that is too long is
asked in pieces, each class against its own piece. A class cannot be named twice (`captions.check_classes`).

Prior work. Kong et al. (Interpretable Diffusion via Information Decomposition, ICLR 2024, arXiv 2310.07972; code:
kxh001/Info-Decomp) compare a caption with and without a word in every pixel, and localise objects by
|eps_hat(c) - eps_hat(c')|^2: the conditional mutual information of word and pixel, which the orthogonality of a perfect
denoiser's error makes the expectation over pictures of the same difference of errors. It is never negative, and does
not look at the noise that was drawn. Their code also has -log p of each caption in every pixel, of which E_i is the
difference, and they combine information with attention too. Dewan et al. (DiffusionPID, NeurIPS 2024) split the
information into unique, redundant and synergistic parts. What we add is how it is read: the difference of errors
itself, for this one picture and with its sign, clamped at zero (what speaks against a class is noise when classes
compete for a pixel), for all classes of a picture side by side, and against the paper's score at the same cost.

Cost: (N + 1) T passes for N classes and T timesteps, against N T + 10 of Algorithm 1. No attention is needed, so it is
the same for every architecture; the resolution is that of the latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbo_core.captions import TEMPLATE
from elbo_core.checks import check_least
from elbo_core.heatmaps import Heatmaps, min_max, resize, to_maximum
from elbo_core.methods.align import Recipe
from elbo_core.methods.elbo import check_estimator, mean_square, weights
from elbo_core.methods.method import Method
from elbo_core.methods.observe import Observation
from elbo_core.methods.plan import CAPTION, ELBO_TIMESTEPS, EMPTY, WITHOUT_EACH, Ask, Plan, check_texts

DIFFERENCES = ("errors", "estimates")


@dataclass(frozen=True)
class Evidence(Method):
    """Heatmaps of what a class explains in each latent pixel; the default leaves it out of the caption.

    given, against: the two wordings that are compared (`plan.Ask`), with the class and without it.
    difference: "errors" for that of squared errors, with its sign, or "estimates" for the squared difference of the
        noise estimates (Kong et al.).
    weight: of the timesteps, by the name of an estimator in `elbo.ESTIMATORS`. "relative" divides each by its mean
        error (chosen on the development split, notebook `92_evidence`), "epsilon" weighs all alike, "velocity" is
        1/alpha^2 where variance is preserved.
    blur: the standard deviation of a Gaussian, in latent pixels; 0 for none.
    clamp: what speaks against the class becomes 0 and the highest value 1; else the range becomes [0, 1].

    Raises:
        TypeError, ValueError: a wording, name or number makes no sense, or both wordings are the same.
    """

    given: str = CAPTION
    against: str = WITHOUT_EACH
    difference: str = "errors"
    weight: str = "relative"
    blur: float = 1.0
    clamp: bool = True

    def __post_init__(self) -> None:
        if check_texts(self.given) == check_texts(self.against):
            raise ValueError(f"evidence compares two wordings, got {self.given!r} twice")
        if self.difference not in DIFFERENCES:
            raise ValueError(f"unknown difference {self.difference!r}; known: {', '.join(DIFFERENCES)}")
        check_estimator(self.weight)
        check_least(self.blur, "blur", 0)

    @classmethod
    def of_class(cls) -> Evidence:
        """The class alone against no words."""
        return cls(TEMPLATE, EMPTY)

    @classmethod
    def kong(cls) -> Evidence:
        """The conditional mutual information of Kong et al. for the class, given the rest of the caption; on our
        timesteps and with our blur, so that nothing but the difference is another."""
        return cls(difference="estimates")

    @property
    def needs(self) -> Plan:
        asks = tuple(Ask(texts, ELBO_TIMESTEPS) for texts in (self.given, self.against))
        return Plan(losses=(), attention=(), error_maps=asks)

    def __call__(self, observation: Observation) -> Heatmaps:
        """Heatmaps [N, H, W] with scores of NaN.

        Raises:
            ValueError: the observation lacks a wording, or has other timesteps for one than for the other.
            ScheduleError: the weight is infinite at a timestep.
        """
        maps = blurred(self.maps(observation), self.blur)
        if self.clamp:
            values = to_maximum(resize(maps.clamp(min=0), observation.image_size))
        else:
            values = min_max(resize(maps, observation.image_size), [-2, -1])
        names = observation.classes
        return Heatmaps(names, values.float(), torch.full((len(names),), torch.nan))

    def maps(self, observation: Observation) -> Tensor:
        """The evidence itself, float64 [N, h, w]: the weighted mean over timesteps and the mean over channels.

        Raises:
            ValueError, ScheduleError: as above.
        """
        given, against = (observation.error_maps_of(texts) for texts in (self.given, self.against))
        if given.ask.timesteps != against.ask.timesteps:
            raise ValueError(f"{self.given!r} and {self.against!r} were asked at different timesteps")
        with_class, without = (maps.of_each(observation.classes) for maps in (given, against))
        weight = weights(self.weight, observation.schedule, given.timesteps, _losses(with_class, without))
        return (weight[:, None, None] * self._differences(with_class, without)).mean(dim=1)

    def _differences(self, with_class: Tensor, without: Tensor) -> Tensor:
        """[N, T, h, w] in float64: what is left is small beside what is subtracted."""
        with_class, without = with_class.double(), without.double()
        if self.difference == "estimates":
            return (without - with_class).square().mean(dim=2)  # the noise is the same
        return (without.square() - with_class.square()).mean(dim=2)


def _losses(*errors: Tensor) -> Tensor:
    return torch.cat([mean_square(each) for each in errors])


def blurred(maps: Tensor, width: float) -> Tensor:
    """Maps [..., h, w] under a Gaussian of standard deviation `width` in pixels, cut and made whole at the edges."""
    if not width:
        return maps
    rows, columns = (_gaussian(side, width).to(maps) for side in maps.shape[-2:])
    return rows @ maps @ columns.mT


def _gaussian(side: int, width: float) -> Tensor:
    """The matrix [side, side] that blurs a line."""
    place = torch.arange(side, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return kernel / kernel.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class EvidenceTimesAttention(Method):
    """The product of evidence and attention, highest value 1: evidence knows the class, attention the shape.

    reading: how the attention is read; by default as the released code does, without calibration.

    The defaults are a choice of their own (`experiments.rows.evidence_choices`), so they are spelled out.
    """

    evidence: Evidence = Evidence(weight="epsilon", blur=1.0, clamp=True)
    reading: Recipe = Recipe.reference().off()

    @property
    def needs(self) -> Plan:
        return Plan.union([self.evidence.needs, self.reading.needs])

    def __call__(self, observation: Observation) -> Heatmaps:
        """Heatmaps [N, H, W] with scores of NaN.

        Raises:
            ValueError, ScheduleError: see `Evidence`; or the observation lacks the attention of the caption.
        """
        evidence, attention = self.evidence(observation), self.reading(observation)
        return replace(evidence, values=to_maximum(evidence.values * attention.values))
