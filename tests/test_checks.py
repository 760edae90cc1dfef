import numpy as np
import pytest

from elbo_core.checks import check_share, check_whole


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(2)])
def test_whole_numbers_pass_as_plain_ints(value):
    found = check_whole(value, "the count", 1, 7)
    assert (type(found), found) == (int, value)


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.float32(1), [1], np.bool_(True)])
def test_what_is_no_whole_number_is_a_wrong_type(value):
    with pytest.raises(TypeError, match="the count must be a whole number"):
        check_whole(value, "the count")


@pytest.mark.parametrize(("value", "message"), [(0, "at least 1, got 0"), (-3, "at least 1, got -3")])
def test_too_small(value, message):
    with pytest.raises(ValueError, match=message):
        check_whole(value, "the count")


def test_out_of_a_range():
    with pytest.raises(ValueError, match=r"the count must be in 2\.\.4, got 5"):
        check_whole(5, "the count", 2, 4)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_shares(value):
    assert check_share(value, "the threshold") == value


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), -1, 2, 50])
def test_shares_out_of_range(value):
    with pytest.raises(ValueError, match=r"the threshold must lie in \[0, 1\]"):
        check_share(value, "the threshold")


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 0.5j])
def test_what_is_no_share(value):
    with pytest.raises(TypeError, match="the threshold must be a number"):
        check_share(value, "the threshold")
