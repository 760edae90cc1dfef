"""The run engine on a real, tiny pipeline: nothing twice, nothing lost, the same bits however the work is cut."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import stable_diffusion

from elbo_core import Recipe, align, observe
from elbo_core.datasets import open_dataset
from elbo_core.diffusion.families import wrap
from elbo_core.errors import StoreError
from elbo_core.experiments import run, store
from elbo_core.experiments.rows import Row, plan_of
from elbo_core.methods.align import ConstantScore
from elbo_core.metrics import count, pool, stack

OFF = Recipe(ConstantScore(1.0))
ROWS = [
    Row("off", OFF, (500,), (20, 100)),
    Row("on", Recipe(), (1, 500, 900), (20, 100)),
    Row("elsewhere", Recipe(), (500, 900), (600,)),
    Row("off, tuned", replace(OFF, layer_weights="late", refinements=()), (500,), (20, 100)),
]
IMAGES = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread_here():
    """Bits are equal for equal numbers of threads only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(one_thread_here):
    return open_dataset("toy-voc", "dev", IMAGES)


@pytest.fixture(scope="module")
def evaluation(tiny, dataset, tmp_path_factory):
    return run.evaluate(tiny, dataset, ROWS, tmp_path_factory.mktemp("runs"))


def equal(first: run.Evaluation, second: run.Evaluation) -> bool:
    """Bit for bit."""
    parts = ("image", "label", "won", "right", "true")
    same = [np.array_equal(getattr(first.counts[name], part), getattr(counts, part))
            for name, counts in second.counts.items() for part in parts]  # fmt: skip
    return all(same) and first.scores.equals(second.scores)


def test_counts_equal_one_run_per_row(tiny, dataset, evaluation):
    """Oracle: what the released code does, the network anew for every row."""
    for row in ROWS:
        plan, images = plan_of([row]), []
        for scene in dataset:
            heatmaps = align(observe(tiny, scene, plan), row.recipe)
            images.append(count(heatmaps, scene.labels, scene.label_map, len(dataset.classes)))
        each = np.eye(len(dataset))
        expected, ours = pool(stack(images), each), pool(evaluation.counts[row.name], each)
        assert np.array_equal(ours.true, expected.true)
        for part in ("predicted", "right"):  # batches differ, so a pixel may fall into the next bin
            moved = np.abs(getattr(ours, part) - getattr(expected, part)).sum()
            assert moved <= 0.001 * expected.predicted.sum()


def test_scores_name_every_candidate(evaluation, dataset):
    scenes = list(dataset)
    assert list(evaluation.scores["class"]) == [name for scene in scenes for name in scene.classes]
    assert list(evaluation.scores.scene.unique()) == [scene.id for scene in scenes]
    assert (evaluation.scores["off"] == 1).all()
    assert evaluation.scores["on"].between(1 / 3 - 1e-6, 1).all()
    area = [float(np.mean(scene.label_map == label)) for scene in scenes for label in scene.labels]
    np.testing.assert_allclose(evaluation.scores["area"], area)
    visible = [share for scene in scenes for share in scene.visible]
    np.testing.assert_allclose(evaluation.scores["visible"], visible, rtol=1e-6)


def test_nothing_is_measured_twice(tiny, dataset, tmp_path, monkeypatch):
    first = run.evaluate(tiny, dataset, ROWS, tmp_path)
    monkeypatch.setattr(run, "observe", None)  # a second look at any image would fail
    assert equal(run.evaluate(tiny, dataset, ROWS, tmp_path), first)
    fewer = run.evaluate(tiny, dataset, ROWS[1:3], tmp_path)
    assert np.array_equal(fewer.counts["on"].won, first.counts["on"].won)


def test_new_rows_and_images_are_added(tiny, dataset, evaluation, tmp_path):
    """With one plan, so that all land in one run."""
    plan, rows = plan_of(ROWS), ROWS
    stored = run.open_store(tiny, dataset, plan, tmp_path)
    assert run.measure(tiny, dataset, rows[:2], stored, range(3)) == []
    with pytest.raises(StoreError, match="row 'on' is measured on 3 of 6 images only"):
        stored.read(rows[1:2], IMAGES)
    assert [row.name for row in stored.missing(0, rows)] == ["elsewhere", "off, tuned"]
    assert equal(run.evaluate(tiny, dataset, rows, tmp_path), evaluation)


def test_rows_of_one_definition_are_measured_once(tiny, dataset, tmp_path):
    stored = run.open_store(tiny, dataset, plan_of(ROWS), tmp_path)
    twice = [*ROWS[:2], replace(ROWS[1], name="the same")]
    assert len(stored.missing(0, twice)) == 2
    run.measure(tiny, dataset, twice, stored, range(1))
    frame = stored.read(twice, 1)
    assert frame.groupby("row").size().to_dict() == dict.fromkeys(["off", "on", "the same"], len(frame) // 3)


def test_other_weights_data_or_plans_are_other_runs(tiny, dataset, tmp_path):
    plan = plan_of(ROWS)
    folders = {run.open_store(tiny, dataset, plan, tmp_path).folder}
    folders.add(run.open_store(tiny, open_dataset("toy-voc", "test", IMAGES), plan, tmp_path).folder)
    folders.add(run.open_store(tiny, dataset, replace(plan, seed=1), tmp_path).folder)
    other = wrap(stable_diffusion(), "tiny")
    assert run.open_store(other, dataset, plan, tmp_path).folder in folders, "the same weights, loaded again"
    other.network.conv_out.weight.data[0, 0, 0, 0] += 1
    folders.add(run.open_store(other, dataset, plan, tmp_path).folder)
    assert len(folders) == 4


def test_a_broken_image_does_not_stop_the_others(tiny, dataset, evaluation, tmp_path):
    def read(index: int):
        return dataset.read(index) if index != 2 else replace(dataset.read(index), label_map=None)

    stored = run.open_store(tiny, dataset, plan_of(ROWS), tmp_path)
    assert run.measure(tiny, replace(dataset, read=read), ROWS, stored, range(IMAGES)) == [2]
    assert equal(run.evaluate(tiny, dataset, ROWS, tmp_path), evaluation), "the next start picks it up"


def _measure_in_child(root) -> None:
    torch.set_num_threads(1)
    run.evaluate(wrap(stable_diffusion(), "tiny"), open_dataset("toy-voc", "dev", IMAGES), ROWS, root)


def test_a_run_killed_at_any_moment_loses_nothing_but_time(evaluation, dataset, tiny, tmp_path):
    """Killed at 20 moments; whenever a run gets through in spite of it, the next begins in a new store."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["elbo_core.experiments.run", "tiny"])
    chance, kills, roots = random.Random(0), 0, [tmp_path / "0"]
    while kills < 20:
        child = context.Process(target=_measure_in_child, args=(roots[-1],))
        child.start()
        child.join(chance.uniform(0.2, 1.6))
        child.kill()
        child.join()
        if child.exitcode == 0:
            roots.append(tmp_path / str(len(roots)))
        kills += child.exitcode == -signal.SIGKILL
    for root in roots:
        assert equal(run.evaluate(tiny, dataset, ROWS, root), evaluation)
        assert not [path for path in root.rglob("*.parquet") if pd.read_parquet(path).empty]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny model"
    stable_diffusion().save_pretrained(folder)
    return folder


def command(saved, root) -> list[str]:
    options = ["--model", str(saved), "--dataset", "toy-voc", "--split", "dev", "--images", str(IMAGES)]
    return ["-m", "elbo_core.experiments.run", *options, "--table", "table_3", "--store", str(root), "--device", "cpu"]


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def tables(root) -> pd.DataFrame:
    frames = [pd.read_parquet(path) for path in sorted(root.rglob("*.parquet"))]
    frame = pd.concat(frames).drop(columns=["seconds_observed", "seconds_read"])
    return frame.sort_values(["index", "method", "label"]).reset_index(drop=True)


def test_one_two_and_three_processes_count_the_same(saved, tmp_path, one_thread):
    results = []
    for processes in (1, 2, 3):
        root = tmp_path / str(processes)
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no",
                  "--dynamo_backend", "no", "--num_processes", str(processes)]  # fmt: skip
        subprocess.run([sys.executable, *launch, *command(saved, root)], check=True, timeout=300)
        results.append(tables(root))
    for other in results[1:]:
        pd.testing.assert_frame_equal(results[0], other, check_exact=True)
    assert results[0]["index"].nunique() == IMAGES


def test_a_shard_that_dies_is_picked_up(saved, tmp_path, one_thread):
    arguments = [sys.executable, *command(saved, tmp_path)]
    dying = subprocess.Popen([*arguments, "--shard", "0/2"])
    living = subprocess.Popen([*arguments, "--shard", "1/2"])
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    dying.kill()
    assert living.wait(timeout=120) == 0
    assert set(tables(tmp_path)["index"]) >= {1, 3, 5}
    assert run.main([*arguments[3:]]) == 0
    assert set(tables(tmp_path)["index"]) == set(range(IMAGES))


def test_a_store_of_another_schema_is_refused(tiny, dataset, tmp_path):
    (tmp_path / "schema").write_text("0")
    with pytest.raises(StoreError, match="written by schema 0, this code reads schema 1; move it away or delete it"):
        run.evaluate(tiny, dataset, ROWS, tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_before_the_first_image(tiny, dataset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run, "observe", None)
    with pytest.raises(StoreError, match="cannot be written"):
        run.evaluate(tiny, dataset, ROWS, tmp_path / "file")


def test_a_full_disk_leaves_a_usable_store(tiny, dataset, evaluation, tmp_path, monkeypatch):
    stored = run.open_store(tiny, dataset, plan_of(ROWS), tmp_path)
    run.measure(tiny, dataset, ROWS, stored, range(2))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StoreError, match=r"image 2 could not be stored .* No space left"):
        run.measure(tiny, dataset, ROWS, stored, range(IMAGES))
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    assert equal(run.evaluate(tiny, dataset, ROWS, tmp_path), evaluation)


@pytest.mark.parametrize(("options", "message"), [
    (["--dataset", "pascal"], "unknown data set 'pascal'; known: toy-voc"),
    (["--dataset", "toy-voc", "--table", "t"], "unknown table 't'; known: table_3"),
    (["--dataset", "toy-voc", "--split", "val"], "unknown split 'val'; known: dev, test"),
])  # fmt: skip
def test_unknown_names_list_the_known(saved, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run.main(["--model", str(saved), "--store", str(tmp_path), *options])


def test_a_picture_without_candidates_is_background_alone(tiny, dataset, tmp_path):
    def read(index: int):
        scene = dataset.read(index)
        return replace(scene, classes=(), labels=(), visible=()) if index == 1 else scene

    evaluation = run.evaluate(tiny, replace(dataset, read=read, count=3), ROWS, tmp_path)
    counts, truth = evaluation.counts["on"], dataset.read(1).label_map
    background = (counts.image == 1) & (counts.label == 0)
    assert counts.won[counts.image == 1].sum() == counts.won[background][0, 0] == truth.size
    assert counts.true[background] == (truth == 0).sum()
    assert dataset.read(1).id not in set(evaluation.scores.scene)
