"""The methods that a user may call by name."""

from __future__ import annotations

from elbo_core.methods.align import Recipe
from elbo_core.methods.baselines import BASELINES
from elbo_core.methods.evidence import Evidence, EvidenceTimesAttention
from elbo_core.methods.method import Method

METHODS: dict[str, Method] = {
    "reference": Recipe.reference(),
    "best": Recipe.best(),
    "evidence": Evidence(),
    "evidence x attention": EvidenceTimesAttention(),
    **BASELINES,
}
"""Algorithm 1 as released and with the score that we recommend, our own methods, and those of Table II."""


def method_of(method: str | Method) -> Method:
    """The method of a name in `METHODS`, or the method itself.

    Raises:
        TypeError: it is neither.
        ValueError: the name is unknown.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"a method must be a name or a Method, got {method!r}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    return METHODS[method]
