"""The run engine on a real, tiny pipeline: nothing twice, nothing lost, the same bits however the work is cut."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import stable_diffusion

from elbo_core import Plan, Recipe, observe, paths
from elbo_core.datasets import open_dataset
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.fingerprint import pipeline_fingerprint
from elbo_core.errors import MeasurementError, StoreError
from elbo_core.experiments import run
from elbo_core.experiments.records import Evaluation, read_evaluation
from elbo_core.experiments.rows import Row
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import ConstantScore, LeaveOneOutScore
from elbo_core.methods.evidence import Evidence
from elbo_core.methods.method import Method
from elbo_core.methods.plan import CAPTION, WITHOUT_EACH, Ask
from elbo_core.metrics import count, pool, stack


@dataclass(frozen=True)
class Nowhere(Method):
    """A method that is defined for no network."""

    @property
    def needs(self) -> Plan:
        return Plan(losses=())

    def undefined(self, observation) -> str:
        return "it is for another kind of network"

    def __call__(self, observation) -> Heatmaps:
        raise AssertionError("it is not asked")


OFF = Recipe(ConstantScore(1.0))
ROWS = [
    Row("off", method=OFF, plan=Plan.of((), (20, 100))),
    Row("on", method=Recipe(), plan=Plan.of((1, 500, 900), (20, 100))),
    Row("elsewhere", method=Recipe(), plan=Plan.of((500, 900), (600,), elbo_template="{}")),
    Row("off", "late layers", replace(OFF, layer_weights="late", refinements=()), Plan.of((), (20, 100))),
]
ON = ("released", "on")
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


def open_store(denoiser, dataset, root):
    return run.open_store(denoiser.name, pipeline_fingerprint(denoiser.pipeline), dataset, root)


def close(first: Evaluation, second: Evaluation) -> bool:
    """But for a pixel here and there that falls into the next bin."""
    each = np.eye(IMAGES)
    moved = [np.abs(pool(first.counts[row], each).predicted - pool(counts, each).predicted).sum()
             for row, counts in second.counts.items()]  # fmt: skip
    return max(moved) <= 0.001 * IMAGES * 128 * 128 * 99


def equal(first: Evaluation, second: Evaluation) -> bool:
    """Bit for bit."""
    parts = ("image", "label", "won", "right", "true")
    same = [np.array_equal(getattr(first.counts[name], part), getattr(counts, part))
            for name, counts in second.counts.items() for part in parts]  # fmt: skip
    return all(same) and first.scores.equals(second.scores)


def test_counts_equal_one_run_per_row(tiny, dataset, evaluation):
    """Oracle: what the released code does, the network anew for every row."""
    for row in ROWS:
        images = []
        for scene in dataset:
            heatmaps = row.method(observe(tiny, scene, row.plan))
            images.append(count(heatmaps, scene.labels, scene.label_map, len(dataset.classes)))
        each = np.eye(len(dataset))
        expected, ours = pool(stack(images), each), pool(evaluation.counts[row.id], each)
        assert np.array_equal(ours.true, expected.true)
        for part in ("predicted", "right"):  # batches differ, so a pixel may fall into the next bin
            moved = np.abs(getattr(ours, part) - getattr(expected, part)).sum()
            assert moved <= 0.001 * expected.predicted.sum()


def test_scores_name_every_candidate(evaluation, dataset):
    scenes, on = list(dataset), evaluation.scores_of("on")
    assert list(on["class"]) == [name for scene in scenes for name in scene.classes]
    assert list(on.scene.unique()) == [scene.id for scene in scenes]
    assert (evaluation.scores_of("off", "late layers").score == 1).all()
    assert on.score.between(1 / 3 - 1e-6, 1).all()
    area = [float(np.mean(scene.label_map == label)) for scene in scenes for label in scene.labels]
    np.testing.assert_allclose(on["area"], area)
    visible = [share for scene in scenes for share in scene.visible]
    np.testing.assert_allclose(on["visible"], visible, rtol=1e-6)


def test_nothing_is_measured_twice(tiny, dataset, tmp_path, monkeypatch):
    first = run.evaluate(tiny, dataset, ROWS, tmp_path)
    monkeypatch.setattr(run, "observe", None)  # a second look at any image would fail
    assert equal(run.evaluate(tiny, dataset, ROWS, tmp_path), first)
    fewer = run.evaluate(tiny, dataset, ROWS[1:3], tmp_path)
    assert np.array_equal(fewer.counts[ON].won, first.counts[ON].won)


def test_new_rows_and_images_are_added(tiny, dataset, evaluation, tmp_path):
    stored = open_store(tiny, dataset, tmp_path)
    assert run.measure(tiny, dataset, ROWS[:2], stored, range(3)) == []
    with pytest.raises(StoreError, match=r"row 'on' \(released\) is measured on 3 of 6 images only"):
        read_evaluation(stored, ROWS[1:2], dataset)
    todo = run.missing_rows(stored, ROWS, dataset, range(IMAGES))
    assert [row.id for row in todo[0]] == [ROWS[2].id, ROWS[3].id]
    assert len(todo[3]) == 4
    assert close(run.evaluate(tiny, dataset, ROWS, tmp_path), evaluation), "measured in two batches"


def test_rows_of_one_definition_are_measured_once(tiny, dataset, tmp_path):
    stored = open_store(tiny, dataset, tmp_path)
    twice = [*ROWS[:2], replace(ROWS[1], name="the same")]
    assert len(run.missing_rows(stored, twice, dataset, [0])[0]) == 2
    run.measure(tiny, dataset, twice, stored, range(1))
    counts = read_evaluation(stored, twice, replace(dataset, count=1, fingerprints=lambda: dataset.contents[:1])).counts
    assert list(counts) == [ROWS[0].id, ON, ("released", "the same")]
    assert np.array_equal(counts[ON].won, counts["released", "the same"].won)


def test_other_weights_configs_or_data_are_other_runs(tiny, dataset, tmp_path):
    folders = {open_store(tiny, dataset, tmp_path).folder}
    folders.add(open_store(tiny, open_dataset("toy-voc", "test", IMAGES), tmp_path).folder)
    other = wrap(stable_diffusion(), "tiny")
    assert open_store(other, dataset, tmp_path).folder in folders, "the same weights, loaded again"
    other.network.conv_out.weight.data[0, 0, 0, 0] += 1
    folders.add(open_store(other, dataset, tmp_path).folder)
    other.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    folders.add(open_store(other, dataset, tmp_path).folder)
    other.pipeline.tokenizer.add_tokens(["zebra"])
    folders.add(open_store(other, dataset, tmp_path).folder)
    assert len(folders) == 5


def test_a_broken_image_does_not_stop_the_others(tiny, dataset, evaluation, tmp_path):
    def read(index: int):
        return dataset.read(index) if index != 2 else replace(dataset.read(index), label_map=None)

    stored = open_store(tiny, dataset, tmp_path)
    (failure,) = run.measure(tiny, replace(dataset, read=read), ROWS, stored, range(IMAGES))
    assert (failure.index, str(failure.error)) == (2, "scene 'toy-voc/dev/2' has no label map to compare with")
    assert equal(run.evaluate(tiny, dataset, ROWS, tmp_path), evaluation), "the next start picks it up"


def test_a_run_that_cannot_be_finished_says_why(tiny, dataset, tmp_path):
    def read(index: int):
        return replace(dataset.read(index), label_map=None)

    with pytest.raises(MeasurementError, match="6 of 6 images of toy-voc could not be measured; the first, image 0: "
                       "ValueError: scene 'toy-voc/dev/0' has no label map") as raised:  # fmt: skip
        run.evaluate(tiny, replace(dataset, read=read), ROWS, tmp_path)
    assert isinstance(raised.value.__cause__, ValueError)


@dataclass(frozen=True)
class Flat(Method):
    """A method of another kind: looks at the attention of a caption per class, and finds everything everywhere."""

    level: float = 1.0

    @property
    def needs(self) -> Plan:
        return Plan(losses=(), attention=(Ask("a photo of {}", (20,)),))

    def __call__(self, observation) -> Heatmaps:
        assert len(observation.attention.captions) == len(observation.classes)
        size = (len(observation.classes), *observation.image_size)
        return Heatmaps(observation.classes, torch.full(size, self.level), torch.full(size[:1], torch.nan))


def test_a_row_holds_any_method(tiny, dataset, evaluation, tmp_path):
    rows = [*ROWS, Row("flat", method=Flat()), Row("half", method=Flat(0.5))]
    both = run.evaluate(tiny, dataset, rows, tmp_path)
    assert np.array_equal(both.counts[ON].true, evaluation.counts[ON].true)
    flat, half = both.counts["released", "flat"], both.counts["released", "half"]
    assert flat.won[:, 99].sum() == half.won[:, 50].sum() == sum(scene.label_map.size for scene in dataset)
    assert both.scores_of("flat").score.isna().all()
    assert list(both.scores_of("flat")["class"]) == list(both.scores_of("on")["class"])


def test_evidence_is_measured_like_any_row(tiny, dataset, tmp_path):
    """Alone, beside a score that asks the same texts, and beside rows that ask others."""
    asks = tuple(Ask(texts, (500, 900)) for texts in (CAPTION, WITHOUT_EACH))
    evidence = Row("evidence", method=Evidence(), plan=Plan((), (), error_maps=asks))
    left_out = Row("left out", method=Recipe(LeaveOneOutScore()), plan=Plan(asks, ROWS[0].plan.attention))
    together = run.evaluate(tiny, dataset, [evidence, left_out, *ROWS[:2]], tmp_path / "together")
    assert together.scores_of("evidence").score.isna().all()
    assert together.scores_of("left out").score.between(1 / 3 - 1e-6, 1).all()
    for row in (evidence, left_out):
        assert close(run.evaluate(tiny, dataset, [row], tmp_path / row.name), replace(together, counts={
            row.id: together.counts[row.id]
        }))  # fmt: skip


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
    return ["-m", "elbo_core.experiments.run", *options, "--batch", "models", "--store", str(root), "--device", "cpu"]


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


def test_a_folder_that_cannot_be_written_is_an_error_before_the_first_image(tiny, dataset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run, "observe", None)
    with pytest.raises(StoreError, match="cannot be written"):
        run.evaluate(tiny, dataset, ROWS, tmp_path / "file")


def test_a_full_disk_leaves_a_usable_store(tiny, dataset, evaluation, tmp_path, monkeypatch):
    stored = open_store(tiny, dataset, tmp_path)
    run.measure(tiny, dataset, ROWS, stored, range(2))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(StoreError, match=r"item 2 could not be stored .* No space left"):
        run.measure(tiny, dataset, ROWS, stored, range(IMAGES))
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    assert equal(run.evaluate(tiny, dataset, ROWS, tmp_path), evaluation)


@pytest.mark.parametrize(("option", "value"), [
    ("--images", "0"), ("--images", "-3"), ("--images", "few"), ("--images", "1.5"),
    ("--shard", "1"), ("--shard", "2/2"), ("--shard", "a/b"), ("--shard", "-1/2"),
])  # fmt: skip
def test_bad_numbers_stop_the_command(option, value, capsys):
    with pytest.raises(SystemExit):
        run.main(["--dataset", "toy-voc", f"{option}={value}"])
    assert repr(value) in capsys.readouterr().err


def test_processes_end_with_the_one_that_started_them(saved, tmp_path, one_thread):
    """Even if it was killed, so that it could not tell them."""
    script = (
        "from pathlib import Path; from elbo_core.experiments.run import evaluate_all; "
        f"evaluate_all({str(saved)!r}, ['toy-voc'], 'attention', 400, 'dev', Path({str(tmp_path)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    time.sleep(4)
    before = len(list(tmp_path.rglob("*.parquet")))
    time.sleep(3)
    assert 0 < before == len(list(tmp_path.rglob("*.parquet"))), "they went on"


@pytest.mark.parametrize(("options", "message"), [
    (["--dataset", "pascal"], "unknown data set 'pascal'; known: toy-voc"),
    (["--dataset", "toy-voc", "--batch", "b"], "unknown batch 'b'; known: models"),
    (["--dataset", "toy-voc", "--split", "val"], "unknown split 'val'; known: dev, test"),
])  # fmt: skip
def test_unknown_names_list_the_known(saved, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run.main(["--model", str(saved), "--store", str(tmp_path), *options])


def test_no_model_is_loaded_where_nothing_is_missing(saved, tmp_path, one_thread, monkeypatch):
    name, few = str(saved), 2
    first = run.evaluate_all(name, ["toy-voc"], "attention", few, "dev", tmp_path)
    monkeypatch.setattr(run, "_load", None)
    again = run.evaluate_all(name, ["toy-voc"], "attention", few, "dev", tmp_path)
    assert equal(first["toy-voc"], again["toy-voc"])


def test_a_picture_without_candidates_is_background_alone(tiny, dataset, tmp_path):
    def read(index: int):
        scene = dataset.read(index)
        return replace(scene, classes=(), labels=(), visible=()) if index == 1 else scene

    evaluation = run.evaluate(tiny, replace(dataset, read=read, count=3), ROWS, tmp_path)
    counts, truth = evaluation.counts[ON], dataset.read(1).label_map
    background = (counts.image == 1) & (counts.label == 0)
    assert counts.won[counts.image == 1].sum() == counts.won[background][0, 0] == truth.size
    assert counts.true[background] == (truth == 0).sum()
    assert dataset.read(1).id not in set(evaluation.scores.scene)


def test_a_method_that_is_not_defined_has_a_reason_and_no_number(tiny, dataset, tmp_path, caplog):
    """It is said once, stored like a measurement, and not measured again."""
    rows = [ROWS[0], Row("nowhere", method=Nowhere(), plan=Plan.of((), (20, 100)))]
    run._say_once.cache_clear()
    first = run.evaluate(tiny, dataset, rows, tmp_path)
    assert list(first.counts) == [("released", "off")]
    assert first.undefined == {("released", "nowhere"): "it is for another kind of network"}
    assert set(first.scores.row) == {"off"}
    assert caplog.text.count("nowhere is not defined here and has no number") == 1
    store = open_store(tiny, dataset, tmp_path)
    assert run.missing_rows(store, rows, dataset, range(IMAGES)) == {}
    alone = read_evaluation(store, rows[1:], dataset)
    assert (alone.counts, list(alone.undefined)) == ({}, [("released", "nowhere")])
