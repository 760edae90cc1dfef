"""What a sibling takes from its parent, and what it does not."""

from __future__ import annotations

import torch
from torch import nn

from elbo_core.paths import MODELS
from elbo_core.training.siblings import build_unet, inherit, sdxl


def test_weights_of_one_name_and_shape_are_taken():
    parent, child = build_unet(8), build_unet(8)
    inherit(child, parent)
    for name, weight in child.state_dict().items():
        assert torch.equal(weight, parent.state_dict()[name]), name


def test_inputs_that_the_parent_did_not_know_have_no_influence():
    parent, child = nn.Linear(3, 2), nn.Linear(5, 2)
    inherit(child, parent)
    x = torch.randn(4, 5)
    torch.testing.assert_close(child(x), parent(x[:, :3]))


def test_other_shapes_stay_as_they_are():
    parent, child = nn.Linear(3, 2), nn.Linear(3, 4)
    before = {name: weight.clone() for name, weight in child.state_dict().items()}
    inherit(child, parent)
    for name, weight in child.state_dict().items():
        assert torch.equal(weight, before[name])


def test_the_new_unet_starts_from_the_old_one_where_they_agree():
    pipeline = sdxl(MODELS)
    parent = build_unet(128)
    parent.load_state_dict(type(parent).from_pretrained(MODELS / "toy-sd14" / "unet").state_dict())
    known = parent.state_dict()
    for name, weight in pipeline.unet.state_dict().items():
        if name in known and known[name].shape == weight.shape:
            assert torch.equal(weight, known[name]), name
    key = pipeline.unet.state_dict()["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert key.shape[1] == 256
    assert (key[:, 128:] == 0).all()
