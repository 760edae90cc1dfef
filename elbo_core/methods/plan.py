"""What to ask a model about one picture, as data, so that the questions of many methods can be united."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from elbo_core.captions import TEMPLATE, check_template
from elbo_core.checks import check_whole
from elbo_core.methods.timesteps import Timesteps

CAPTION = "the caption"
"""The text of the whole picture: the user's own caption, or "a photo of c1, c2, ..."."""
WITHOUT_EACH = "the caption without each class"
"""One text per class: the caption that mentions it, with the class left out (`captions.without`)."""
EMPTY = "the empty caption"
"""The text of no words."""
WORDINGS = (CAPTION, WITHOUT_EACH, EMPTY)
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


@dataclass(frozen=True)
class Ask:
    """One question: the network is told `texts`, at `timesteps`.

    texts: a template, one text per class, with the class in the place of "{}" or its noun phrase in that of
        "{phrase}"; or one of `WORDINGS`: `CAPTION`, `WITHOUT_EACH`, `EMPTY`.
    timesteps: distinct integers.

    Raises:
        ValueError: see `check_texts`, `check_timesteps`.
    """

    texts: str
    timesteps: tuple[int, ...]

    def __post_init__(self) -> None:
        check_texts(self.texts)
        object.__setattr__(self, "timesteps", check_timesteps(self.timesteps))


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

    def __post_init__(self) -> None:
        for kind in ("losses", "attention", "error_maps"):
            object.__setattr__(self, kind, _questions(getattr(self, kind), kind))
        if not self.losses and not self.attention and not self.error_maps:
            raise ValueError("a plan needs at least one question, for losses, attention or error maps")
        for ask in self.attention:
            if ask.texts in (WITHOUT_EACH, EMPTY):
                raise ValueError(f"{ask.texts!r} does not name the classes whose attention is asked")
        for asks in (self.losses, self.attention, self.error_maps):
            wordings = [ask.texts for ask in asks]
            if len(set(wordings)) < len(wordings):
                raise ValueError(f"a plan asks each wording once, got {wordings}; `Plan.union` merges questions")
        check_whole(self.seed, "seed", least=0)
        check_whole(self.batch_size, "batch_size")

    @classmethod
    def of(
        cls,
        elbo_timesteps: Sequence[int] = ELBO_TIMESTEPS,
        attention_timesteps: Sequence[int] = ATTENTION_TIMESTEPS,
        elbo_template: str = TEMPLATE,
        **others: int,
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
        asks = self.estimates + self.attention
        return sum(len(ask.timesteps) * (classes if is_of_each(ask.texts) else 1) for ask in asks)


def _questions(asks: Iterable[Ask], kind: str) -> tuple[Ask, ...]:
    asks = tuple(asks)
    if not all(isinstance(ask, Ask) for ask in asks):
        raise TypeError(f"the questions for {kind} must be of the class Ask, got {asks}")
    return asks


def _union(asks: Iterable[Ask]) -> tuple[Ask, ...]:
    timesteps: dict[str, set[int]] = {}
    for ask in asks:
        timesteps.setdefault(ask.texts, set()).update(ask.timesteps)
    return tuple(Ask(texts, tuple(sorted(times))) for texts, times in timesteps.items())
