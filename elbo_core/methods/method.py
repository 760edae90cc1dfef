"""What a row of a table can hold: anything that turns an observation into heatmaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.observe import Observation
from elbo_core.methods.plan import Plan


class Method(ABC):
    """A function from an observation to heatmaps, and what it must see, as data.

    Write one as a frozen dataclass: its fields are what distinguishes it from others in the run store
    (`experiments.keys`). It never runs the network.

    amplifies_rounding: whether an input that is rounded otherwise may give quite other heatmaps, as where something is
        merged or chosen below a threshold; results then agree between machines on most pictures only.
    """

    amplifies_rounding: ClassVar[bool] = False

    @property
    @abstractmethod
    def needs(self) -> Plan:
        """The least that it must see, with its default timesteps."""

    @abstractmethod
    def __call__(self, observation: Observation) -> Heatmaps:
        """Heatmaps [N, H, W] from an observation that answers one question of each kind that is needed.

        Raises:
            ValueError: it answers others.
        """

    def undefined(self, observation: Observation) -> str:
        """Why the method is not defined for the network that was asked; empty where it is. Such a row has no number.

        The observation may answer more questions than the method needs.
        """
        return ""

    @classmethod
    def read_all(cls, observation: Observation, asked: Sequence[tuple[Self, Plan]]) -> list[Heatmaps]:
        """The heatmaps of several methods of this class, each from what its own plan would have seen. Classes whose
        methods share work do it once."""
        return [method(observation.under(plan)) for method, plan in asked]
