"""The training loop: it learns, resumes without a trace, and stops at the first bad number."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from elbo_core.training.fit import History, SplitLoss, TrainingPlan, fit

PLAN = TrainingPlan(steps=60, learning_rate=0.05, warmup=5, ema_decay=0.9, checkpoint_every=20)


def build() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def regression(model):
    def loss(step, rng, generator):
        x = torch.randn(16, 3, generator=generator)
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

    return loss


def test_it_learns(tmp_path):
    model = build()
    history = fit("line", model, regression(model), PLAN, tmp_path)
    assert len(history.losses) == PLAN.steps
    assert history.losses[-1] < 0.05 * history.losses[0]
    assert len(history.windowed(20)) == 3


def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path):
    whole = build()
    expected = fit("line", whole, regression(whole), PLAN, tmp_path / "whole")
    killed = build()
    loss = regression(killed)

    def stops(step, rng, generator):
        if step == 50:
            raise KeyboardInterrupt
        return loss(step, rng, generator)

    with pytest.raises(KeyboardInterrupt):
        fit("line", killed, stops, PLAN, tmp_path / "killed")
    again = build()
    history = fit("line", again, regression(again), PLAN, tmp_path / "killed")
    assert history.losses == expected.losses
    assert torch.equal(again.weight, whole.weight)


def test_a_finished_run_is_only_loaded(tmp_path):
    first, second = build(), build()
    fit("line", first, regression(first), PLAN, tmp_path)
    fit("line", second, lambda *_: pytest.fail("trained again"), PLAN, tmp_path)
    assert torch.equal(first.weight, second.weight)


def test_a_saved_history_keeps_all_but_the_single_losses(tmp_path):
    history = History([4.0, 2.0, 3.0, 1.0, 0.5], seconds=61.0, seed=7)
    history.save(tmp_path / "new" / "losses.json", window=2)
    loaded = History.load(tmp_path / "new" / "losses.json")
    assert loaded == History([3.0, 3.0, 2.0, 2.0, 0.5], seconds=61.0, seed=7)
    assert loaded.windowed(2) == history.windowed(2)


def test_nan_stops_the_training(tmp_path):
    model = build()
    with pytest.raises(FloatingPointError, match="step 0"):
        fit("line", model, lambda *_: model.weight.sum() * torch.nan, replace(PLAN, steps=1), tmp_path)


def test_the_rate_warms_up_and_falls_to_zero():
    plan = TrainingPlan(steps=100, learning_rate=1.0, warmup=10)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(10) == pytest.approx(1.0)
    assert plan.rate(100) == pytest.approx(0.0)


def test_a_plan_may_end_after_some_seconds(tmp_path):
    model = build()
    plan = replace(PLAN, steps=10**9, seconds=0.3)
    history = fit("line", model, regression(model), plan, tmp_path)
    assert 0 < len(history.losses) < 10**6
    assert plan.rate(100, elapsed=0.15) == pytest.approx(0.5)
    assert plan.rate(100, elapsed=0.3) == pytest.approx(0.0)


def split_regression(model):
    def draw(step, rng, generator):
        return (torch.randn(16, 3, generator=generator),)

    def loss(x):
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

    return SplitLoss(draw, loss, next(model.parameters()).device)


def test_a_loss_may_have_its_batch_drawn_apart(tmp_path):
    """Oracle: the same loss in one piece."""
    whole, split = build(), build()
    expected = fit("line", whole, regression(whole), PLAN, tmp_path / "whole")
    history = fit("line", split, split_regression(split), PLAN, tmp_path / "split")
    assert history.losses == expected.losses
    assert torch.equal(whole.weight, split.weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_replayed_step_is_the_step_itself(tmp_path):
    one_by_one, replayed = build().cuda(), build().cuda()
    loss = split_regression(one_by_one)
    expected = fit("line", one_by_one, lambda *numbers: loss(*numbers), PLAN, tmp_path / "one by one")
    history = fit("line", replayed, split_regression(replayed), PLAN, tmp_path / "replayed")
    assert history.losses == pytest.approx(expected.losses, rel=1e-3)
    torch.testing.assert_close(one_by_one.weight, replayed.weight, rtol=1e-3, atol=1e-4)


SHARED = """
import sys, torch
from pathlib import Path
from torch import distributed, nn
from elbo_core.training.fit import TrainingPlan, fit

distributed.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Linear(3, 1)
seen = []

def loss(step, rng, generator):
    x = torch.randn(16, 3, generator=generator)
    seen.append(x)
    return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

plan = TrainingPlan(steps=3, learning_rate=0.05, warmup=1, ema_decay=0.0)
fit("line", model, loss, plan, Path(sys.argv[1]))
torch.save({"weight": model.weight.data, "seen": torch.stack(seen)}, f"{sys.argv[1]}/{distributed.get_rank()}.pt")
"""


def test_several_processes_take_one_step_together(tmp_path):
    """Oracle: one process on both shares of every batch."""
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    command = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29611",
        str(script),
        str(tmp_path),
    ]
    subprocess.run([sys.executable, *command], check=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weight"], second["weight"])
    assert not torch.equal(first["seen"], second["seen"]), "each draws its own examples"
    model = build()

    def loss(step, rng, generator):
        x = torch.cat([first["seen"][step], second["seen"][step]])
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

    fit("line", model, loss, TrainingPlan(steps=3, learning_rate=0.05, warmup=1, ema_decay=0.0), tmp_path / "alone")
    torch.testing.assert_close(model.weight.data, first["weight"], atol=1e-5, rtol=1e-5)
