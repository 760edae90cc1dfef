"""What a picture costs: counted as the plan says, and put together from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from elbo_core.experiments.cost import Cost, Question, measure_cost, read_costs, write_costs
from elbo_core.experiments.full_size import ARCHITECTURES, build
from elbo_core.reports.cost import alone, memory_headroom, share_in_network, table_of, whole_sets

COST = Cost("sd15", 860, "a GPU", "cuda", "float16", 1, 512, 10, 20, 210, 32, 0.015, 4.0, 2 * 10**9, 6 * 10**9, 6.3e9)


def test_a_small_picture_costs_what_its_plan_says(tiny):
    question = Question(classes=2, timesteps=5, attention=2, batch=4)
    cost = measure_cost(tiny, question, repeats=1)
    assert cost.evaluations == 2 * 5 + 2
    assert (cost.batch, cost.side, cost.device) == (4, tiny.image_size, "cpu")
    assert 0 < cost.seconds_pass < cost.seconds
    assert cost.bytes_weights < cost.bytes_pass <= cost.bytes_peak
    assert cost.parameters == sum(weight.numel() for weight in tiny.network.parameters())


@pytest.mark.parametrize("count", [1, 5, 10, 20])
def test_questions_ask_as_many_timesteps_as_they_say(count):
    question = Question(timesteps=count)
    assert question.plan.evaluations(10) == 10 * count + 10
    assert len(question.scene(64).classes) == 10


def test_costs_are_kept_by_machine(tmp_path):
    write_costs([COST, replace(COST, classes=5)], tmp_path / "cost" / "here.json")
    assert read_costs(tmp_path / "cost") == [COST, replace(COST, classes=5)]
    assert read_costs(tmp_path / "nowhere") == []


def test_reports_put_costs_together():
    assert share_in_network(COST) == pytest.approx(210 * 0.015 / 4)
    assert memory_headroom([COST], "sd15") == pytest.approx(5)
    assert memory_headroom([], "sd15") != memory_headroom([], "sd15"), "not a number"
    assert alone(COST, "ablations") > 5 > alone(COST, "off and on") > 1
    hours = whole_sets(COST, classes=10)
    assert hours["1 GPU"] == pytest.approx(13553 * 4 / 3600)
    assert hours["8 GPUs"] == pytest.approx(hours["1 GPU"] / 8)
    assert list(table_of([COST, replace(COST, classes=2)])["over one pass, %"]) == [pytest.approx(5)]
    assert list(whole_sets(replace(COST, device="cpu"))) == pytest.approx(list(whole_sets(COST)))
    assert list(whole_sets(replace(COST, device="cpu")).index) == ["1 core", "8 cores", "64 cores"]
    one_timestep = replace(COST, timesteps=1, evaluations=20, seconds=4 * 20 / 210)
    assert whole_sets(one_timestep, classes=3)["1 GPU"] == pytest.approx(whole_sets(COST, classes=3)["1 GPU"])
    assert list(table_of([one_timestep, COST])["evaluations"]) == [210]
    assert list(table_of([COST, replace(one_timestep, batch=1)])["batch"]) == [32, 1]


def test_full_size_models_have_the_originals_sizes():
    """On shapes alone; parameters of the denoising network as their authors give them."""
    millions = {"sd15": 860, "sd21": 866, "sdxl": 2567, "sd35": 2243}
    with torch.device("meta"):
        for name, expected in millions.items():
            pipeline = ARCHITECTURES[name]()
            network = getattr(pipeline, "unet", None) or pipeline.transformer
            assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(expected, rel=0.02)
    with pytest.raises(ValueError, match="unknown architecture 'sd9'; known: sd14"):
        build("sd9", "cpu", torch.float32)
