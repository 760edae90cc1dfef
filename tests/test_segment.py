import pytest

from elbo_core.segmentation import segment


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"threshold": 1.5}, ValueError, r"threshold must lie in \[0, 1\], got 1.5"),
    ({"threshold": float("nan")}, ValueError, "threshold must lie"),
    ({"threshold": "0.5"}, TypeError, "threshold must be a number"),
    ({"classes": {"star"}}, TypeError, "must have an order"),
    ({"classes": ["star", "STAR"]}, ValueError, "named twice"),
    ({"caption": "a moon"}, ValueError, "'star' does not occur"),
    ({"method": "evidnce"}, ValueError, "unknown method 'evidnce'; known: reference, best, evidence"),
    ({"method": len}, TypeError, "a method must be a name or a Method"),
    ({"image": "missing.png"}, OSError, r"missing\.png"),
])  # fmt: skip
def test_bad_input_is_refused_before_a_model_is_loaded(change, error, message, picture):
    good = {"model": "no such model", "image": picture, "classes": ["star"]}
    with pytest.raises(error, match=message):
        segment(**good | change)
