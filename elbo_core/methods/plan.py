"""What to ask a model about one picture, as data, so that the questions of many methods can be united."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from elbo_core.captions import TEMPLATE, check_template
from elbo_core.checks import check_least, check_whole
from elbo_core.methods.timesteps import Timesteps

CAPTION = "the caption"
"""The text of the whole picture: the user's own caption, or "a photo of c1, c2, ..."."""
WITHOUT_EACH = "the caption without each class"
"""One text per class: the caption that mentions it, with the class left out (`captions.without`)."""
EMPTY = "the empty caption"
"""The text of no words."""
WORDINGS = (CAPTION, WITHOUT_EACH, EMPTY)
NOISED = "noised"
"""The picture's latents under the noise of the timestep: z_t = alpha z_0 + sigma epsilon."""
CLEAN = "clean"
"""The picture's latents as they are, whatever timestep the network is told."""
INVERTED = "inverted"
"""The picture's latents on the deterministic path that leads from them to noise (DDIM inversion, no guidance)."""
INVERSION_TIMESTEPS = tuple(range(1, 1000, 50))
"""The twenty steps of that path (`nini0919/DiffPNG`), whichever of them are asked about."""
LATENTS = (NOISED, CLEAN, INVERTED)
PLACES = ("{}", "{phrase}")
"""Where the class, or its noun phrase, stands in a template."""


def is_template(texts: str) -> bool:
    """Whether `texts` is a template, with one text per class, rather than the name of a caption."""
    return "{" in texts or "}" in texts


def is_of_each(texts: str) -> bool:
    """Whether `texts` stands for one text per class."""
    return is_template(texts) or texts == WITHOUT_EACH


def check_texts(texts: str) -> str:
    """The wording of a question as it is.

    Raises:
        ValueError: it is neither in `WORDINGS` nor a template that holds a place for the class.
    """
    return texts if texts in WORDINGS else check_template(texts, PLACES)


def check_timesteps(timesteps: Sequence[int]) -> tuple[int, ...]:
    """Timesteps as plain integers. (1.0 would draw other noise than 1.)

    Raises:
        ValueError: there is none, one is no integer or negative, or one is named twice.
    """
    if isinstance(timesteps, str) or not isinstance(timesteps, Iterable):
        raise ValueError(f"timesteps must be a list of integers, got {timesteps!r}")
    try:
        whole = tuple(operator.index(timestep) for timestep in timesteps)
    except TypeError as error:
        raise ValueError(f"timesteps must be integers, got {list(timesteps)}") from error
    if not whole or min(whole) < 0 or any(isinstance(timestep, bool) for timestep in timesteps):
        raise ValueError(f"at least one timestep from 0 on is needed, got {list(timesteps)}")
    if len(set(whole)) < len(whole):
        raise ValueError(f"timesteps must be distinct, got {list(whole)}")
    return whole


Wording = tuple[str, str, float]
"""Texts, latents and emphasis of a question."""


@dataclass(frozen=True)
class Ask:
    """One question: the network is told `texts`, at `timesteps`.

    texts: a template, one text per class, with the class in the place of "{}" or its noun phrase in that of
        "{phrase}"; or one of `WORDINGS`: `CAPTION`, `WITHOUT_EACH`, `EMPTY`.
    timesteps: distinct integers.
    latents: what the network is shown, one of `LATENTS`: `NOISED`, `CLEAN`, `INVERTED`. emphasis: how far the
        embeddings of the classes' tokens are moved away from those of the empty text; 1 leaves them where they are.
        Both for attention only.

    Raises:
        TypeError, ValueError: see `check_texts`, `check_timesteps`; the latents are unknown, are inverted and not on
            `INVERSION_TIMESTEPS`, or the emphasis is not positive.
    """

    texts: str
    timesteps: tuple[int, ...]
    latents: str = field(default=NOISED, metadata={"key": "unless default"})
    emphasis: float = field(default=1.0, metadata={"key": "unless default"})

    def __post_init__(self) -> None:
        check_texts(self.texts)
        object.__setattr__(self, "timesteps", check_timesteps(self.timesteps))
        if self.latents not in LATENTS:
            raise ValueError(f"unknown latents {self.latents!r}; known: {', '.join(LATENTS)}")
        if self.latents == INVERTED and not set(self.timesteps) <= set(INVERSION_TIMESTEPS):
            raise ValueError(f"inverted latents exist at {INVERSION_TIMESTEPS} only, asked at {self.timesteps}")
        object.__setattr__(self, "emphasis", check_least(self.emphasis, "emphasis", 0))
        if not self.emphasis:
            raise ValueError("an emphasis of 0 would leave nothing of the class; 1 leaves it as it is")

    @property
    def wording(self) -> Wording:
        """All of the question but its timesteps."""
        return self.texts, self.latents, self.emphasis

    def evaluations(self, classes: int) -> int:
        """Network evaluations for so many classes whose caption is not too long."""
        path = len(INVERSION_TIMESTEPS) if self.latents == INVERTED else 0
        return (path + len(self.timesteps)) * (classes if is_of_each(self.texts) else 1)


ELBO_TIMESTEPS, ATTENTION_TIMESTEPS = tuple(range(1, 999, 50)), tuple(range(20, 201, 20))
"""Those of the released code (`configs/run_segmentation.yaml`)."""
SEED = 4307


@dataclass(frozen=True)
class Plan:
    """What to ask. The defaults are those of the released code.

    losses: questions for the epsilon-MSE of texts. attention: questions for the attention of texts, of templates or
        of the caption. error_maps: questions for the error of the noise estimate in every latent pixel, of which the
        loss is the mean square; what losses and error maps share is observed once. Any may be empty, and each wording
        is asked once.
    proposals: by what means the picture is to be cut into candidate masks, names in `proposals.PROPOSERS`.
    token_features: whether the text encoder is asked for each token of a class alone, where a class has several.
    seed: of the noise. batch_size: so many passes of the network at once; no result depends on it but for rounding.

    Raises:
        TypeError, ValueError: nothing is asked, a wording twice, the attention of a caption that does not name the
            classes, or a number is not whole or out of range.
    """

    losses: tuple[Ask, ...] = (Ask(TEMPLATE, ELBO_TIMESTEPS),)
    attention: tuple[Ask, ...] = (Ask(CAPTION, ATTENTION_TIMESTEPS),)
    seed: int = SEED
    batch_size: int = field(default=32, metadata={"key": False})
    error_maps: tuple[Ask, ...] = field(default=(), metadata={"key": "unless empty"})
    proposals: tuple[str, ...] = field(default=(), metadata={"key": "unless empty"})
    token_features: bool = field(default=False, metadata={"key": "unless empty"})

    def __post_init__(self) -> None:
        for kind in ("losses", "attention", "error_maps"):
            object.__setattr__(self, kind, _questions(getattr(self, kind), kind))
        if not self.losses and not self.attention and not self.error_maps:
            raise ValueError("a plan needs at least one question, for losses, attention or error maps")
        for ask in self.attention:
            if ask.texts == WITHOUT_EACH:
                raise ValueError(f"{ask.texts!r} does not name the classes whose attention is asked")
        for asks in (self.losses, self.attention, self.error_maps):
            wordings = [ask.wording for ask in asks]
            if len(set(wordings)) < len(wordings):
                raise ValueError(f"a plan asks each wording once, got {wordings}; `Plan.union` merges questions")
        for ask in self.losses + self.error_maps:
            if ask.wording[1:] != (NOISED, 1.0):
                raise ValueError(f"{ask} is for attention only: losses and error maps are of noised latents, as told")
        object.__setattr__(self, "proposals", tuple(self.proposals))
        check_whole(self.seed, "seed", least=0)
        check_whole(self.batch_size, "batch_size")

    @classmethod
    def of(
        cls,
        elbo_timesteps: Sequence[int] = ELBO_TIMESTEPS,
        attention_timesteps: Sequence[int] = ATTENTION_TIMESTEPS,
        elbo_template: str = TEMPLATE,
        **others: Any,
    ) -> Plan:
        """The plan of Algorithm 1 with other timesteps or another prompt for the losses; no timesteps, no question."""
        losses = (Ask(elbo_template, tuple(elbo_timesteps)),) if len(elbo_timesteps) else ()
        attention = (Ask(CAPTION, tuple(attention_timesteps)),) if len(attention_timesteps) else ()
        return cls(losses, attention, error_maps=(), **others)

    @classmethod
    def paper(cls) -> Plan:
        """The paper's text, literally: the bare class as condition, 20 timesteps evenly in [0, 1], 10 in [0, 0.2]."""
        return cls.of(Timesteps("even", 20).of(), Timesteps("small", 10).of(), elbo_template="{}")

    @classmethod
    def union(cls, plans: Iterable[Plan]) -> Plan:
        """The plan that answers all `plans` at once: every wording with the union of its timesteps, in rising order.

        Raises:
            ValueError: there is no plan, or they have different seeds.
        """
        plans = list(plans)
        if not plans:
            raise ValueError("there is no plan to unite")
        if len({plan.seed for plan in plans}) > 1:
            raise ValueError(f"plans to unite need one seed in common, got {sorted({plan.seed for plan in plans})}")
        return cls(
            _union(ask for plan in plans for ask in plan.losses),
            _union(ask for plan in plans for ask in plan.attention),
            plans[0].seed,
            min(plan.batch_size for plan in plans),
            _union(ask for plan in plans for ask in plan.error_maps),
            tuple(dict.fromkeys(name for plan in plans for name in plan.proposals)),
            any(plan.token_features for plan in plans),
        )

    def without_losses(self) -> Plan:
        """The same, asking for no losses."""
        return replace(self, losses=())

    @property
    def estimates(self) -> tuple[Ask, ...]:
        """What the network is asked for losses and error maps together: they share its estimates of the noise."""
        return _union(self.losses + self.error_maps) if self.error_maps else self.losses

    def evaluations(self, classes: int) -> int:
        """Network evaluations for a picture with so many candidate classes whose caption is not too long."""
        return sum(ask.evaluations(classes) for ask in self.estimates + self.attention)


def _questions(asks: Iterable[Ask], kind: str) -> tuple[Ask, ...]:
    asks = tuple(asks)
    if not all(isinstance(ask, Ask) for ask in asks):
        raise TypeError(f"the questions for {kind} must be of the class Ask, got {asks}")
    return asks


def _union(asks: Iterable[Ask]) -> tuple[Ask, ...]:
    timesteps: dict[Wording, set[int]] = {}
    for ask in asks:
        timesteps.setdefault(ask.wording, set()).update(ask.timesteps)
    return tuple(
        Ask(texts, tuple(sorted(times)), latents, emphasis) for (texts, latents, emphasis), times in timesteps.items()
    )
