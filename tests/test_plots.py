"""What no number shows: that texts are drawn as they are written."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from elbo_core.plots import contact_sheet, show_heatmap, show_picture


@pytest.mark.parametrize("name", ["$5 or $6", r"$\frac{$", r"\$", "a$b$", "$"])
def test_a_dollar_in_a_name_begins_no_formula(name, picture):
    figure, axes = plt.subplots(1, 2)
    show_picture(axes[0], picture, name)
    show_heatmap(axes[1], torch.zeros(2, 2), f"{name}  S = 0.50")
    sheet = contact_sheet([np.zeros((2, 2, 3))], 1, [name])
    for drawn in (figure, sheet):
        drawn.canvas.draw()
        for axis in drawn.axes:
            assert name in axis.get_title()
            assert not axis.title.get_parse_math()
        plt.close(drawn)
