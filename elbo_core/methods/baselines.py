"""The five methods of Table II and what is put before the network for them, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from elbo_core.methods.baseline import COMMON, Baseline
from elbo_core.methods.daam import Daam
from elbo_core.methods.diffpng import DiffPng
from elbo_core.methods.diffseg import SemanticDiffSeg
from elbo_core.methods.diffsegmenter import DiffSegmenter
from elbo_core.methods.ovam import Ovam
from elbo_core.methods.plan import CAPTION, CLEAN, EMPTY, INVERSION_TIMESTEPS, INVERTED, Ask, Plan
from elbo_core.methods.proposals import FELZENSZWALB

BASELINES: dict[str, Baseline] = {
    "DAAM": Daam(),
    "OVAM": Ovam(),
    "DiffPNG": DiffPng(),
    "DiffPNG, proposals": DiffPng(proposals=FELZENSZWALB),
    "DiffSegmenter": DiffSegmenter(),
    "Semantic DiffSeg": SemanticDiffSeg(),
    "Semantic DiffSeg, tuned": SemanticDiffSeg(threshold=0.05),
}
"""By the paper's names; it does not say whether its DiffPNG had mask proposals.

DiffSeg's own threshold makes one segment of everything in our small UNets. The tuned one cuts a picture into about ten,
as the original does; it was chosen for toy-sd15 on ten scenes of toy-voc's development split."""


@dataclass(frozen=True)
class Protocol:
    """What is put before the network: for every method what it `sees`, unless it has a plan of its own in `plans`.

    methods: those that read what they see in another way under this protocol.
    """

    plans: Mapping[str, Plan] = field(default_factory=dict)
    methods: Mapping[str, Baseline] = field(default_factory=dict)


def _attention(*asks: Ask, **others) -> Plan:
    return Plan((), asks, **others)


THIRTY = tuple(range(1, 1000, 33))[:30]
"""The steps of a sampler of thirty, DAAM's default."""
PROTOCOLS: dict[str, Protocol] = {
    "the paper's": Protocol(),
    "its own": Protocol(
        plans={
            "DAAM": _attention(Ask(CAPTION, THIRTY)),
            "OVAM": _attention(*(Ask(texts, COMMON.attention[0].timesteps) for texts in (CAPTION, EMPTY))),
            "DiffPNG": _attention(Ask(CAPTION, INVERSION_TIMESTEPS, INVERTED), token_features=True),
            "DiffSegmenter": _attention(Ask("a photograph of {}", (100,), emphasis=1.21)),
            "Semantic DiffSeg": _attention(Ask(CAPTION, (300,), CLEAN)),
            "Semantic DiffSeg, tuned": _attention(Ask(CAPTION, (300,), CLEAN)),
        },
        methods={"OVAM": Ovam(queries=EMPTY)},
    ),
}
"""The same prompt and the same noised latents for all, or what a method's authors do: DAAM over thirty steps; OVAM with
the queries of the empty prompt; DiffPNG along an inversion of twenty; DiffSegmenter with a prompt for each class whose
word is emphasised (compel's "++", 1.1 squared) at t = 100; DiffSeg with clean latents at t = 300."""


def under(name: str, protocol: str) -> tuple[Baseline, Plan]:
    """A baseline and its plan under a protocol.

    Raises:
        ValueError: the baseline or the protocol is unknown.
    """
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; known: {', '.join(BASELINES)}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[protocol]
    method = chosen.methods.get(name, BASELINES[name])
    return method, chosen.plans.get(name, method.sees)
