"""What a diffusion model is trained on: the timesteps of a batch."""

from __future__ import annotations

import pytest
import torch

from elbo_core.toy.train_sd import EMPHASIS, stratified_timesteps


def test_timesteps_are_spread_evenly():
    timesteps = stratified_timesteps(32, 1000, torch.Generator().manual_seed(0)).sort().values
    assert timesteps[0] < 32
    assert timesteps[-1] in range(968, 1000)
    assert set(timesteps.diff().tolist()) <= {31, 32}


@pytest.mark.parametrize(("limit", "share"), [(100, 0.1), (350, 0.45), (600, 0.8), (1000, 1.0)])
def test_those_of_a_flow_are_drawn_where_shapes_are_decided(limit, share):
    timesteps = stratified_timesteps(4000, 1000, torch.Generator().manual_seed(1), EMPHASIS["flow_prediction"])
    assert (timesteps < limit).float().mean().item() == pytest.approx(share, abs=0.001)
